//! The load generator, `sluice bench`, and what it prints.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::{path::Path, process::Command, time::Duration};

/// What it measured, as far as it is used.
#[derive(Deserialize)]
pub(crate) struct Report {
    pub(crate) messages_per_second: f64,
    pub(crate) megabytes_per_second: f64,
    pub(crate) latency_us: Latency,
    error_count: u64,
    errors: serde_json::Value,
}

#[derive(Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Report {
    /// What went wrong, in the generator's words.
    pub(crate) fn errors(&self) -> Option<String> {
        (self.error_count > 0).then(|| self.errors.to_string())
    }
}

/// `sluice bench` with these words, a space between two.
pub(crate) fn command(binary: &Path, namesrv: &str, words: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg("bench").args(words.split(' ')).args(["--namesrv", namesrv, "--output", "json"]);
    command
}

/// Runs it to its end.
pub(crate) fn run(binary: &Path, namesrv: &str, words: &str, deadline: Duration) -> Result<Report> {
    let text = process::output(&mut command(binary, namesrv, words), deadline)?;
    serde_json::from_str(&text).with_context(|| format!("reading what sluice bench printed: {text}"))
}

/// The one in the middle by a figure.
pub(crate) fn median<T: Copy>(runs: &[T], figure: impl Fn(&T) -> f64) -> Option<T> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_run() {
        assert_eq!(median(&[3.0, 1.0, 2.0], |run| *run), Some(2.0));
        assert!(median::<f64>(&[], |run| *run).is_none());
    }
}
