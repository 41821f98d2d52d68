//! Metrics made from snapshots at the moment of a scrape.

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use sluice_store::Latency;
use std::collections::{BTreeMap, HashMap};

/// What one source says at one scrape.
#[derive(Default)]
pub struct Samples {
    families: BTreeMap<String, MetricFamily>,
}

impl Samples {
    /// A value that may go either way.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, labels, metric);
    }

    /// A value that only grows while the process lives.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::default();
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, labels, metric);
    }

    /// How long something takes.
    pub fn histogram(&mut self, name: &str, help: &str, labels: &[(&str, &str)], latency: &Latency) {
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(latency.buckets.iter().map(bucket).collect());
        histogram.set_sample_count(latency.count);
        histogram.set_sample_sum(latency.sum_seconds);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, labels, metric);
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, labels: &[(&str, &str)], mut metric: Metric) {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        metric.set_label(labels.iter().map(pair).collect());
        let family = self.families.entry(name.to_owned()).or_insert_with(|| {
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
