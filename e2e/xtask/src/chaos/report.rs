//! What came of it, as tables.

use super::{
    faults::Fault,
    group::Scene,
    history::{longest_gap, silence},
    load::PRODUCERS,
};
use anyhow::{Context, Result};
use sluice_history::{Check, Report};
use std::{fmt::Write as _, fs, path::Path, time::Duration};

/// Clients notice a fault within this time: the silence that it brings has begun by then.
const SOON_NANOS: u64 = 1_000_000_000;

/// How long everything took, by fault.
#[derive(Default)]
pub(super) struct Times {
    runs: Vec<Timed>,
}

struct Timed {
    fault: Fault,
    /// From the fault to the end of the longest time without an acknowledgement.
    resumed: Option<Duration>,
    /// The longest time that one client was without one.
    gap: Duration,
    /// What the isolated old master acknowledged after a new epoch was known, if there was one.
    isolated: Option<(usize, bool)>,
    has_new_master: bool,
}

impl Times {
    /// A fault that began at `at` is over and mended.
    pub(super) fn add(&mut self, fault: Fault, scene: &Scene, at: u64, within: Duration, isolated: Option<(usize, bool)>, epoch: u64) {
        let acks = scene.history.acks();
        let until = at.saturating_add(super::history::nanos(within));
        let of_producers: Vec<_> = acks.iter().copied().filter(|acked| PRODUCERS.contains(&acked.process)).collect();
        let resumed = silence(&of_producers, at, until.min(at + SOON_NANOS)).map(|(_, end)| Duration::from_nanos(end.saturating_sub(at)));
        let gap = longest_gap(&acks, PRODUCERS, at, until);
        let has_new_master = scene.watch.newest_epoch() > epoch;
        println!(
            "chaos: {}: writes went on after {:.2} s; a client's longest gap was {:.2} s{}",
            fault.name(),
            resumed.unwrap_or_default().as_secs_f64(),
            gap.as_secs_f64(),
            if has_new_master { "; there is a new master" } else { "" }
        );
        self.runs.push(Timed { fault, resumed, gap, isolated, has_new_master });
    }
}

/// A run's result.
pub(super) struct Row {
    name: String,
    times: Times,
    acked: u64,
    lost: u64,
    reordered: u64,
    second_ackers: u64,
    complaints: Vec<String>,
}

/// Above the rows.
pub(super) const HEAD: &str = "\
| fault | runs | new master | acknowledged | lost | reordered | two ackers | by an isolated old master | longest gap of a client | writes go on after: min | p50 | p99 | max |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

impl Row {
    pub(super) fn new(name: &str, report: &Report, times: Times, complaints: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            times,
            acked: report.counts.sends_ok,
            lost: report.found(Check::C1),
            reordered: report.found(Check::C4) + report.found(Check::C5),
            second_ackers: report.found(Check::C11),
            complaints,
        }
    }

    /// As a line of a table.
    pub(super) fn line(&self) -> String {
        let runs = &self.times.runs;
        let mut resumed: Vec<Duration> = runs.iter().filter_map(|run| run.resumed).collect();
        resumed.sort_unstable();
        let gap = runs.iter().map(|run| run.gap).max().unwrap_or_default();
        let begun: Vec<usize> = runs.iter().filter_map(|run| run.isolated).filter(|(_, is_new)| *is_new).map(|(told, _)| told).collect();
        let isolated = if begun.is_empty() { "-".to_owned() } else { begun.iter().sum::<usize>().to_string() };
        let changed = runs.iter().filter(|run| run.has_new_master).count();
        let [least, middle, most_of, most] = [0.0, 0.5, 0.99, 1.0].map(|part| quantile(&resumed, part).map_or("-".to_owned(), seconds));
        format!(
            "| {} | {} | {changed} | {} | {} | {} | {} | {isolated} | {} | {least} | {middle} | {most_of} | {most} |",
            self.name,
            runs.len(),
            self.acked,
            self.lost,
            self.reordered,
            self.second_ackers,
            seconds(gap)
        )
    }

    /// What must not be, with the run's name.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = self.complaints.iter().map(|text| format!("{}: {text}", self.name)).collect();
        for run in self.times.runs.iter().filter(|run| run.fault.is_replicas_own() && run.has_new_master) {
            complaints.push(format!("{}: the master changed though only a replica was touched", run.fault.name()));
        }
        complaints
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Of sorted times; the smallest one that at least so many are not longer than.
fn quantile(sorted: &[Duration], part: f64) -> Option<Duration> {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Writes the page.
pub(super) fn write(file: &Path, rows: &[Row]) -> Result<()> {
    let mut text = "\
# Failover, measured

Made by `cargo xtask chaos --write-docs`; do not edit. Three brokers with synchronous flush and the default lease of 5 s, etcd and the clients are processes on
one machine, each in a network namespace of its own; the group's address follows the master as a service of Kubernetes does, within 100 ms. docs/testing.md says more.

- *new master*: in how many runs there was one.
- *lost*, *reordered*, *two ackers*: violations of C1, of C4 and C5, and of C11 (docs/history-checks.md); all must be 0.
- *by an isolated old master*: what it acknowledged to a client on its own machine after another one was known to be master; must be 0.
- *longest gap*: the longest time that one client, which tried all the time, was without an acknowledgement.
- *writes go on after*: from the fault to the end of the longest time without any acknowledgement among those that began within a second of the fault.

"
    .to_owned();
    text += HEAD;
    text.push('\n');
    for row in rows {
        writeln!(text, "{}", row.line())?;
    }
    text += "\n| fault | what it is | lasts |\n| --- | --- | --- |\n";
    for fault in rows.iter().filter_map(|row| row.times.runs.first()).map(|run| run.fault) {
        writeln!(text, "| {} | {} | {} s |", fault.name(), fault.about(), fault.lasts(false).as_secs())?;
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=20).map(Duration::from_secs).collect();
        let found = [0.0, 0.5, 0.99, 1.0].map(|part| quantile(&times, part).map_or(0, |time| time.as_secs()));
        assert_eq!(found, [1, 10, 20, 20]);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
