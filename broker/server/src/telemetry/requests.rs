//! What is counted for every request, on the connection's task.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use sluice_protocol::{RequestCode, ResponseCode};
use std::{sync::OnceLock, time::Duration};

/// From 50 µs (an append to the page cache) to 30 s (a pull held open).
const LATENCY_BUCKETS_SECONDS: &[f64] = &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

const UNKNOWN: &str = "unknown";

/// The series of one request code, made at its first request so that a scrape shows only what is used.
struct CodeSeries {
    seconds: Histogram,
    success: IntCounter,
}

/// Requests by code and answer, latency by code.
pub struct RequestMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    by_code: Vec<OnceLock<CodeSeries>>,
}

impl RequestMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("sluice_requests_total", "Requests answered, by request code and response code; one-way requests count as Success."),
            &["code", "response"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("sluice_request_seconds", "Time from a request's last byte to its answer; a held pull counts its holding.")
                .buckets(LATENCY_BUCKETS_SECONDS.to_vec()),
            &["code"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        // One slot a known code and one for all others.
        let by_code = (0..=RequestCode::ALL.len()).map(|_| OnceLock::new()).collect();
        Ok(Self { requests, seconds, by_code })
    }

    /// A request with that code was answered with that code after that time.
    pub fn answered(&self, request: i32, response: i32, elapsed: Duration) {
        let known = RequestCode::from_wire(request);
        let slot = known.and_then(|code| RequestCode::ALL.binary_search(&code).ok()).unwrap_or(RequestCode::ALL.len());
        let name = known.map_or(UNKNOWN, RequestCode::name);
        let series = self.by_code[slot].get_or_init(|| CodeSeries {
            seconds: self.seconds.with_label_values(&[name]),
            success: self.requests.with_label_values(&[name, ResponseCode::Success.name()]),
        });
        series.seconds.observe(elapsed.as_secs_f64());
        match ResponseCode::from_wire(response) {
            Some(ResponseCode::Success) => series.success.inc(),
            other => self.requests.with_label_values(&[name, other.map_or(UNKNOWN, ResponseCode::name)]).inc(),
        }
    }
}
