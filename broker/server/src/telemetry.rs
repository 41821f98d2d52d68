//! Logs and metrics. What is counted per request is counted here; everything else is taken from snapshots of its owner at the moment of a scrape, so that
//! a number in a metric is the number its owner decides by.
//!
//! Labels are bounded: request and response codes come from the protocol's closed lists, groups and topics from what the broker has, capped.

mod requests;
mod samples;
mod sources;

pub use requests::RequestMetrics;
pub use samples::Samples;
pub use sources::{delivery_samples, member_samples, net_samples, read_samples, store_samples};

use crate::config::{LogConfig, LogFormat};
use prometheus::{Registry, TextEncoder};
use std::{sync::Arc, time::Instant};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Starts logging to standard error. A second call in one process changes nothing.
pub fn start_logging(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    // Err means that a subscriber is there already, as in tests: it stays.
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// The registry and what is counted directly.
pub struct Telemetry {
    registry: Registry,
    /// Per-request numbers, for the connection tasks.
    pub requests: Arc<RequestMetrics>,
}

impl Telemetry {
    /// An empty registry with the request metrics, build information and the process's own numbers in it.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = Arc::new(RequestMetrics::new(&registry)?);
        let telemetry = Self { registry, requests };
        // Only `server` and `env::real` may read a clock; the uptime is of this process, not of a simulated one.
        #[allow(clippy::disallowed_methods)]
        let started = Instant::now();
        telemetry.collect(move |samples| process_samples(samples, started))?;
        Ok(telemetry)
    }

    /// Calls `source` at every scrape.
    pub fn collect(&self, source: impl Fn(&mut Samples) + Send + Sync + 'static) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(samples::AtScrape::new(source)?))
    }

    /// All metrics in the text format.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn process_samples(samples: &mut Samples, started: Instant) {
    samples.gauge("sluice_build_info", "1; the version is in the label.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    samples.gauge("sluice_uptime_seconds", "Seconds since this process started serving.", &[], started.elapsed().as_secs_f64());
    // The second number of statm is the resident set in pages. Absent outside Linux.
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    if let Some(pages) = pages {
        let bytes = pages * rustix::param::page_size() as u64;
        samples.gauge("sluice_process_resident_bytes", "Resident memory of this process, memory-mapped log pages included.", &[], bytes as f64);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        samples.gauge("sluice_process_open_fds", "File descriptors in use.", &[], entries.count() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_protocol::{RequestCode, ResponseCode};
    use std::time::Duration;

    #[test]
    fn a_scrape_shows_requests_by_code_and_snapshots_by_label() {
        let telemetry = Telemetry::new().expect("fresh registry");
        telemetry.requests.answered(RequestCode::SendMessageV2.to_wire(), ResponseCode::Success.to_wire(), Duration::from_micros(300));
        telemetry.requests.answered(-77, -78, Duration::from_millis(1));
        telemetry
            .collect(|samples| {
                samples.gauge("sluice_group_lag_messages", "Lag.", &[("group", "g"), ("topic", "a")], 3.0);
                samples.gauge("sluice_group_lag_messages", "Lag.", &[("group", "g"), ("topic", "b")], 4.0);
            })
            .expect("registers");
        let text = telemetry.encode().expect("encodes");
        for line in [
            "sluice_requests_total{code=\"SendMessageV2\",response=\"Success\"} 1",
            "sluice_requests_total{code=\"unknown\",response=\"unknown\"} 1",
            "sluice_request_seconds_count{code=\"SendMessageV2\"} 1",
            "sluice_group_lag_messages{group=\"g\",topic=\"a\"} 3",
            "sluice_group_lag_messages{group=\"g\",topic=\"b\"} 4",
            "# TYPE sluice_group_lag_messages gauge",
            "sluice_uptime_seconds ",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
