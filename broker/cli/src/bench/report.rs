//! What was measured.

use crate::{error::CliError, output};
use hdrhistogram::Histogram;
use serde::Serialize;
use sluice_protocol::ResponseCode;
use std::{collections::BTreeMap, time::Duration};

/// Longest latency told apart, ns; anything longer counts as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// Counts and times of a part of the load.
pub(crate) struct Recorder {
    pub(crate) requests: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
}

impl Recorder {
    pub(crate) fn new() -> Result<Self, CliError> {
        let latency = Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3).map_err(|e| CliError::Failed(format!("no histogram can be made: {e}")))?;
        Ok(Self { requests: 0, messages: 0, bytes: 0, errors: BTreeMap::new(), latency })
    }

    pub(crate) fn latency(&mut self, ns: u64) {
        self.latency.saturating_record(ns);
    }

    pub(crate) fn error(&mut self, what: &str, count: u64) {
        if count == 0 {
            return;
        }
        // Servers may put numbers into their words: a bounded table of kinds is enough.
        let key = if self.errors.contains_key(what) || self.errors.len() < 32 { what } else { "others" };
        *self.errors.entry(key.to_owned()).or_default() += count;
    }

    pub(crate) fn refusal(&mut self, code: i32) {
        let name = ResponseCode::from_wire(code).map_or("unknown code", ResponseCode::name);
        self.error(&format!("{name} ({code})"), 1);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.messages += other.messages;
        self.bytes += other.bytes;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
        // Both have the same bounds: nothing is refused.
        let _ = self.latency.add(&other.latency);
    }
}

/// Latency in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) what: &'static str,
    pub(crate) setting: BTreeMap<&'static str, serde_json::Value>,
    seconds: f64,
    requests: u64,
    messages: u64,
    body_bytes: u64,
    messages_per_second: f64,
    megabytes_per_second: f64,
    latency_us: Latency,
    error_count: u64,
    errors: BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn new(what: &'static str, setting: BTreeMap<&'static str, serde_json::Value>, recorder: &Recorder, took: Duration) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let h = &recorder.latency;
        let at = |quantile: f64| if h.is_empty() { 0.0 } else { us(h.value_at_quantile(quantile)) };
        let max = if h.is_empty() { 0.0 } else { us(h.max()) };
        let latency_us = Latency { mean: h.mean() / 1000.0, p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max };
        let seconds = took.as_secs_f64();
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Self {
            what,
            setting,
            seconds,
            requests: recorder.requests,
            messages: recorder.messages,
            body_bytes: recorder.bytes,
            messages_per_second: per_second(recorder.messages),
            megabytes_per_second: per_second(recorder.bytes) / 1e6,
            latency_us,
            error_count: recorder.errors.values().sum(),
            errors: recorder.errors.clone(),
        }
    }

    /// Prints it, and fails when nothing went well.
    pub(crate) fn print(&self, format: output::Format) -> Result<(), CliError> {
        output::show(format, self, Self::table)?;
        if self.messages == 0 && self.error_count > 0 {
            return Err(CliError::Failed("no request went well; the errors above say why".to_owned()));
        }
        Ok(())
    }

    fn table(&self) -> Result<(), CliError> {
        let setting: Vec<String> = self.setting.iter().map(|(n, v)| format!("{n}={}", v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect();
        output::line(&format!("{}   {}", self.what, setting.join(" ")))?;
        output::line(&format!("time        {:.2} s", self.seconds))?;
        output::line(&format!("messages    {} in {} requests, {} errors", self.messages, self.requests, self.error_count))?;
        output::line(&format!("throughput  {:.0} messages/s, {:.1} MB/s", self.messages_per_second, self.megabytes_per_second))?;
        let l = &self.latency_us;
        output::line(&format!(
            "latency     mean {}  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            human(l.mean),
            human(l.p50),
            human(l.p90),
            human(l.p99),
            human(l.p99_9),
            human(l.max)
        ))?;
        self.errors.iter().try_for_each(|(what, count)| output::line(&format!("error       {count} x {what}")))
    }
}

fn human(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} us")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_parts_make_one_distribution() {
        let (mut a, mut b) = (Recorder::new().expect("valid"), Recorder::new().expect("valid"));
        (0..99).for_each(|_| a.latency(1_000_000));
        b.latency(80_000_000);
        b.refusal(2);
        b.messages = 100;
        a.merge(&b);
        let report = Report::new("x", BTreeMap::new(), &a, Duration::from_secs(2));
        assert!((report.latency_us.p50 - 1000.0).abs() < 2.0 && report.latency_us.max >= 80_000.0);
        assert_eq!((report.messages_per_second, report.errors["SystemBusy (2)"]), (50.0, 1));
    }
}
