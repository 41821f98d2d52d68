//! Metrics made from snapshots at the moment of a scrape.

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use sluice_store::StoreStatus;
use std::collections::{BTreeMap, HashMap};

/// What one source says at one scrape.
#[derive(Default)]
pub struct Samples {
    families: BTreeMap<&'static str, MetricFamily>,
}

impl Samples {
    /// A value that may go either way.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, labels, metric);
    }

    /// A value that only grows while the process lives.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::default();
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, labels, metric);
    }

    fn push(&mut self, name: &'static str, help: &str, kind: MetricType, labels: &[(&str, &str)], mut metric: Metric) {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        metric.set_label(labels.iter().map(pair).collect());
        let family = self.families.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }
}

/// Runs a source whenever the registry is gathered.
pub(super) struct AtScrape<F> {
    source: F,
    /// The registry tells collectors apart by their descriptions; this one describes only that.
    identity: Desc,
}

impl<F: Fn(&mut Samples) + Send + Sync> AtScrape<F> {
    pub(super) fn new(source: F) -> Result<Self, prometheus::Error> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sluice_source_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { source, identity: Desc::new(name, "A source of snapshots.".to_owned(), Vec::new(), HashMap::new())? })
    }
}

impl<F: Fn(&mut Samples) + Send + Sync> Collector for AtScrape<F> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.identity]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Samples::default();
        (self.source)(&mut samples);
        samples.families.into_values().collect()
    }
}

/// The store's numbers.
pub fn store_samples(status: &StoreStatus, samples: &mut Samples) {
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let mut gauge = |name, help: &str, value: f64| samples.gauge(name, help, &[], value);
    gauge("sluice_store_appended_offset_bytes", "End of the commit log.", status.appended.0 as f64);
    gauge("sluice_store_flushed_offset_bytes", "End of the part of the commit log that survives a power cut.", status.flushed.0 as f64);
    gauge("sluice_store_min_offset_bytes", "Begin of the part of the commit log that is still kept.", status.min.0 as f64);
    gauge("sluice_store_log_bytes", "Bytes of commit log kept.", status.log_bytes as f64);
    gauge("sluice_store_segments", "Files of the commit log.", status.segments as f64);
    gauge("sluice_store_queues", "Queues with messages or once used.", status.queues as f64);
    gauge("sluice_store_append_queue_bytes", "Bytes that wait for the log's writer.", status.queued_bytes as f64);
    gauge("sluice_store_disk_free_bytes", "Bytes left on the data directory's file system.", status.disk_free_bytes as f64);
    gauge("sluice_store_disk_size_bytes", "Size of the data directory's file system.", status.disk_total_bytes as f64);
    gauge("sluice_store_writable", "1 while the store takes writes.", flag(status.writable.is_ok()));
    gauge("sluice_store_poisoned", "1 after a failed write or sync: restart to recover.", flag(status.poisoned.is_some()));
    let mut counter = |name, help: &str, value: f64| samples.counter(name, help, &[], value);
    counter("sluice_store_appended_records_total", "Records appended.", status.appended_records as f64);
    counter("sluice_store_appended_bytes_total", "Bytes appended.", status.appended_bytes as f64);
    counter("sluice_store_flushes_total", "Flushes to stable storage.", status.syncs as f64);
    counter("sluice_store_flush_seconds_total", "Time spent in flushes.", status.sync_seconds_sum);
    counter("sluice_store_writer_turns_total", "Turns of the log's writer; records per turn is the batching.", status.turns as f64);
}
