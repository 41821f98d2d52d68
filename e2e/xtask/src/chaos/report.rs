//! What came of it, as tables.

use super::{
    faults::Fault,
    group::Scene,
    history::silence,
    load::PRODUCERS,
    losses::{BOUND, Toll},
    official::{Maker, View},
};
use anyhow::{Context, Result};
use sluice_history::{Check, Report};
use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, time::Duration};

/// Clients notice a fault within this time: the silence that it brings has begun by then.
const SOON_NANOS: u64 = 1_000_000_000;

/// How long everything took, by fault.
#[derive(Default)]
pub(super) struct Times {
    runs: Vec<Timed>,
}

/// What an isolated old master was asked after a new epoch was known, and what it acknowledged.
#[derive(Clone, Copy)]
pub(super) struct Isolated {
    pub(super) tried: usize,
    pub(super) acked: usize,
}

/// A fault that is over and mended.
pub(super) struct Over {
    pub(super) fault: Fault,
    /// When it began.
    pub(super) at: u64,
    /// Silences that begin so long after that are its.
    pub(super) within: Duration,
    /// What the isolated old master did, if that was the fault and there was a new master.
    pub(super) isolated: Option<Isolated>,
    /// The newest epoch when it began.
    pub(super) epoch: u64,
}

struct Timed {
    fault: Fault,
    /// From the fault to the end of the longest time without an acknowledgement.
    resumed: Option<Duration>,
    /// As each kind of client has seen it.
    views: Vec<View>,
    isolated: Option<Isolated>,
    has_new_master: bool,
}

impl Times {
    /// One more.
    pub(super) fn add(&mut self, over: Over, scene: &Scene, official: impl Iterator<Item = Maker>) {
        let Over { fault, at, within, isolated, epoch } = over;
        let until = at.saturating_add(super::history::nanos(within));
        let of_producers: Vec<_> = scene.history.acks().into_iter().filter(|acked| PRODUCERS.contains(&acked.process)).collect();
        let resumed = silence(&of_producers, at, until.min(at + SOON_NANOS)).map(|(_, end)| Duration::from_nanos(end.saturating_sub(at)));
        let views: Vec<View> = std::iter::once(Maker::Ours).chain(official).map(|maker| View::new(maker, &scene.history, at, until)).collect();
        let has_new_master = scene.watch.newest_epoch() > epoch;
        let seen: Vec<String> = views.iter().map(shown).collect();
        let new = if has_new_master { "; there is a new master" } else { "" };
        println!("chaos: {}: writes went on after {:.2} s; without a send {}{new}", fault.name(), resumed.unwrap_or_default().as_secs_f64(), seen.join(", "));
        self.runs.push(Timed { fault, resumed, views, isolated, has_new_master });
    }
}

/// In words.
pub(super) fn shown(view: &View) -> String {
    let errors = if view.errors > 0 { format!(" and {} errors", view.errors) } else { String::new() };
    format!("{} {:.2} s (slowest send {:.2} s){errors}", view.maker.name(), view.gap.as_secs_f64(), view.slowest.as_secs_f64())
}

/// A run's result.
pub(super) struct Row {
    name: String,
    times: Times,
    acked: u64,
    lost: u64,
    reordered: u64,
    second_ackers: u64,
    different: u64,
    /// What asynchronous replication has taken, if that is what it was; by fault.
    tolls: Option<Vec<Toll>>,
    complaints: Vec<String>,
}

/// Behind the name of a run with asynchronous replication.
pub(super) const ASYNC: &str = "-async";

/// Above the rows.
pub(super) const HEAD: &str = "\
| fault | verdict | runs | new master | acknowledged | lost | reordered | two ackers | logs differ | acknowledged by an isolated old master, of sends | writes go on after: min | p50 | p99 | max |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// Above what asynchronous replication has taken.
const LOSSES_HEAD: &str = "\
| fault | verdict | runs | new master | acknowledged | taken by a change of master | by one fault: min | p50 | max | most log taken by a change | bound | counted by the brokers | by one fault: max | most log counted of one fault | lost otherwise | reordered | two ackers | logs differ |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// Above what clients saw.
const CLIENTS_HEAD: &str = "\
| fault | client | runs | without a successful send: min | p50 | p99 | max | slowest send: p99 | max | runs with an error | errors in all | aim |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

impl Row {
    pub(super) fn new(name: &str, report: &Report, times: Times, tolls: Option<Vec<Toll>>, complaints: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            times,
            // The judge knows what was taken as unanswered.
            acked: report.counts.sends_ok + tolls.iter().flatten().map(|toll| toll.records).sum::<u64>(),
            lost: report.found(Check::C1),
            reordered: report.found(Check::C4) + report.found(Check::C5),
            second_ackers: report.found(Check::C11),
            different: report.found(Check::C12),
            tolls,
            complaints,
        }
    }

    /// Of a run that did not come to its end.
    pub(super) fn failed(name: &str, error: &anyhow::Error) -> Self {
        Self {
            name: name.to_owned(),
            times: Times::default(),
            acked: 0,
            lost: 0,
            reordered: 0,
            second_ackers: 0,
            different: 0,
            tolls: None,
            complaints: vec![format!("the run did not come to its end: {error:#}")],
        }
    }

    /// Its lines, while others are still to come.
    pub(super) fn print(&self) {
        self.tolls.iter().flatten().filter_map(Toll::told).for_each(|told| println!("chaos: {told}"));
        println!("{HEAD}\n{}\n", self.line());
        print_losses(std::slice::from_ref(self));
        print_clients(&self.client_lines());
        println!();
    }

    /// As a line of a table.
    fn line(&self) -> String {
        let runs = &self.times.runs;
        let resumed: Vec<Duration> = runs.iter().filter_map(|run| run.resumed).collect();
        let isolated: Vec<Isolated> = runs.iter().filter_map(|run| run.isolated).collect();
        let (acked, tried) = (isolated.iter().map(|told| told.acked).sum::<usize>(), isolated.iter().map(|told| told.tried).sum::<usize>());
        let isolated = if isolated.is_empty() { "-".to_owned() } else { format!("{acked} of {tried}") };
        let changed = runs.iter().filter(|run| run.has_new_master).count();
        format!(
            "| {} | {} | {} | {changed} | {} | {} | {} | {} | {} | {isolated} | {} |",
            self.name,
            self.verdict(),
            runs.len(),
            self.acked,
            self.lost,
            self.reordered,
            self.second_ackers,
            self.different,
            quantiles(resumed, &[0.0, 0.5, 0.99, 1.0])
        )
    }

    /// Whether it was allowed to lose something.
    pub(super) fn may_lose(&self) -> bool {
        self.tolls.is_some()
    }

    fn verdict(&self) -> &'static str {
        if self.complaints().is_empty() { "good" } else { "HARM" }
    }

    /// What asynchronous replication has taken, as a line of a table.
    fn loss_line(&self) -> Option<String> {
        let tolls: Vec<&Toll> = self.tolls.as_ref()?.iter().filter(|toll| toll.fault.is_some()).collect();
        let mut messages: Vec<u64> = tolls.iter().map(|toll| toll.messages).collect();
        messages.sort_unstable();
        let part = |part| nearest(&messages, part).copied().unwrap_or_default();
        let counted = |of: &dyn Fn(&Toll) -> u64| tolls.iter().map(|toll| of(toll)).max().unwrap_or_default();
        let up_to = if tolls.iter().any(|toll| toll.counted.is_at_most) { "up to " } else { "" };
        Some(format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} bytes | {BOUND} | {up_to}{} | {up_to}{} | {up_to}{} bytes | {} | {} | {} | {} |",
            self.name.trim_end_matches(ASYNC),
            self.verdict(),
            self.times.runs.len(),
            self.times.runs.iter().filter(|run| run.has_new_master).count(),
            self.acked,
            messages.iter().sum::<u64>(),
            part(0.0),
            part(0.5),
            part(1.0),
            counted(&|toll| toll.reach),
            tolls.iter().map(|toll| toll.counted.messages).sum::<u64>(),
            counted(&|toll| toll.counted.messages),
            counted(&|toll| toll.counted.bytes),
            self.lost,
            self.reordered,
            self.second_ackers,
            self.different,
        ))
    }

    /// A line for each fault and kind of client.
    fn client_lines(&self) -> Vec<String> {
        let kinds: BTreeSet<(Fault, Maker)> = self.times.runs.iter().flat_map(|run| run.views.iter().map(|view| (run.fault, view.maker))).collect();
        let line = |&(fault, maker): &(Fault, Maker)| {
            let of_fault = self.times.runs.iter().filter(|run| run.fault == fault);
            let views: Vec<View> = of_fault.flat_map(|run| run.views.iter().copied().filter(|view| view.maker == maker)).collect();
            client_line(&fault.name(), maker.name(), &views, Aim::of(fault))
        };
        kinds.iter().map(line).collect()
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

/// How long clients may be without a successful send.
#[derive(Clone, Copy)]
pub(super) struct Aim {
    p50: Option<Duration>,
    p99: Duration,
    has_no_error: bool,
}

impl Aim {
    fn of(fault: Fault) -> Option<Self> {
        let seconds = Duration::from_secs;
        match fault {
            Fault::KillMaster => Some(Self { p50: None, p99: seconds(3), has_no_error: false }),
            Fault::PauseMaster | Fault::IsolateMaster | Fault::PowerCut => Some(Self { p50: Some(seconds(6)), p99: seconds(8), has_no_error: false }),
            Fault::Switchover => Some(Self { p50: None, p99: seconds(1), has_no_error: true }),
            _ => None,
        }
    }

    fn judge(self, gaps: &[Duration], errors: usize) -> String {
        let within = |part, most: Duration| quantile(gaps, part).is_some_and(|found| found <= most);
        let is_met = self.p50.is_none_or(|most| within(0.5, most)) && within(0.99, self.p99) && !(self.has_no_error && errors > 0);
        let middle = self.p50.map(|most| format!("p50 {} s, ", most.as_secs())).unwrap_or_default();
        let none = if self.has_no_error { ", no error" } else { "" };
        format!("{middle}p99 {} s{none}: {}", self.p99.as_secs(), if is_met { "met" } else { "missed" })
    }
}

/// What clients of a kind saw of a fault.
pub(super) fn client_line(fault: &str, client: &str, views: &[View], aim: Option<Aim>) -> String {
    let mut gaps: Vec<Duration> = views.iter().map(|view| view.gap).collect();
    gaps.sort_unstable();
    let (hit, errors) = (views.iter().filter(|view| view.errors > 0).count(), views.iter().map(|view| view.errors).sum());
    let aim = aim.map_or("-".to_owned(), |aim| aim.judge(&gaps, errors));
    let slowest = quantiles(views.iter().map(|view| view.slowest).collect(), &[0.99, 1.0]);
    format!("| {fault} | {client} | {} | {} | {slowest} | {hit} | {errors} | {aim} |", views.len(), quantiles(gaps, &[0.0, 0.5, 0.99, 1.0]))
}

/// All results at the end.
pub(super) fn print_all(rows: &[Row]) {
    println!("{HEAD}");
    rows.iter().for_each(|row| println!("{}", row.line()));
    println!();
    print_losses(rows);
    print_clients(&rows.iter().flat_map(Row::client_lines).collect::<Vec<_>>());
}

/// What asynchronous replication has taken.
fn print_losses(rows: &[Row]) {
    let lines: Vec<String> = rows.iter().filter_map(Row::loss_line).collect();
    if !lines.is_empty() {
        println!("{LOSSES_HEAD}\n{}\n", lines.join("\n"));
    }
}

/// What clients saw.
pub(super) fn print_clients(lines: &[String]) {
    println!("{CLIENTS_HEAD}");
    lines.iter().for_each(|line| println!("{line}"));
}

/// As cells of a table.
fn quantiles(mut times: Vec<Duration>, parts: &[f64]) -> String {
    times.sort_unstable();
    let cells: Vec<String> = parts.iter().map(|part| quantile(&times, *part).map_or("-".to_owned(), seconds)).collect();
    cells.join(" | ")
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Of sorted times; the smallest one that at least so many are not longer than.
fn quantile(sorted: &[Duration], part: f64) -> Option<Duration> {
    nearest(sorted, part).copied()
}

fn nearest<T>(sorted: &[T], part: f64) -> Option<&T> {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1)
}

/// Writes the page. Of what was not measured now, the page's old lines stay.
pub(super) fn write(file: &Path, rows: &[Row]) -> Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    let about = rows.iter().filter_map(|row| row.times.runs.first()).map(|run| run.fault);
    let about: Vec<String> = about.map(|fault| format!("| {} | {} | {} s |", fault.name(), fault.about(), fault.lasts(false).as_secs())).collect();
    let (losing, keeping): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.may_lose());
    let losses = losing.iter().filter_map(|row| row.loss_line()).collect();
    write_page(file, &old, [keeping.iter().map(|row| row.line()).collect(), keeping.iter().flat_map(|row| row.client_lines()).collect(), about, losses])
}

/// The same with nothing but what clients see.
pub(super) fn write_clients(file: &Path, lines: Vec<String>) -> Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    write_page(file, &old, [Vec::new(), lines, Vec::new(), Vec::new()])
}

fn write_page(file: &Path, old: &str, [results, clients, about, losses]: [Vec<String>; 4]) -> Result<()> {
    let tables = [("", HEAD, results), ("", CLIENTS_HEAD, clients), ("", FAULTS_HEAD, about), (LOSSES_PAGE, LOSSES_HEAD, losses)];
    let mut text = PAGE.to_owned();
    for (before, head, lines) in tables {
        let lines = merged(old, head, &lines);
        if !lines.is_empty() {
            writeln!(text, "{before}\n{head}\n{}", lines.join("\n"))?;
        }
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// The lines of the table with that head, in the order of the old page; new ones take the place of old ones with the same names in front.
fn merged(old: &str, head: &str, new: &[String]) -> Vec<String> {
    let names = if head == CLIENTS_HEAD { 2 } else { 1 };
    let key = |line: &str| line.split('|').skip(1).take(names).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let before = old.split_once(head).map(|(_, rest)| rest.lines().skip(1).take_while(|line| line.starts_with('|'))).into_iter().flatten();
    let mut lines: Vec<String> = before.map(str::to_owned).collect();
    for line in new {
        match lines.iter_mut().find(|old| key(old) == key(line)) {
            Some(old) => old.clone_from(line),
            None => lines.push(line.clone()),
        }
    }
    lines
}

const FAULTS_HEAD: &str = "\
| fault | what it is | lasts |
| --- | --- | --- |";

const PAGE: &str = "\
# Failover, measured

Made by `cargo xtask chaos --write-docs`; do not edit. Three brokers with synchronous flush and the default lease of 5 s, etcd and the clients are processes on
one machine, each in a network namespace of its own; the group's address follows the master as a service of Kubernetes does, within 100 ms. docs/testing.md says more.

- *new master*: in how many runs there was one.
- *lost*, *reordered*, *two ackers*, *logs differ*: violations of C1, of C4 and C5, of C11 and of C12 (docs/history-checks.md); all must be 0.
- *acknowledged by an isolated old master*: what it acknowledged to a client on its own machine, which has its connection open all the time, after another one was
  known to be master, and how many sends it was asked to; the first number must be 0.
- *writes go on after*: from the fault to the end of the longest time without any acknowledgement to our own clients among those that began within a second of the fault.

What clients see: *java* and *go* are the official clients (rocketmq-client 5.5.0 and rocketmq-client-go v2), unmodified and with their default settings, so
their routes are up to 30 s old; each begins a send each 15 ms, whether those before it have ended or not. *Without a successful send*: the longest time in which none succeeded. *Slowest send*:
the longest that one took, with its retries, successful or not: a request that is on its way when a connection breaks hangs for the Go client's 3 s. *Errors*: sends that failed past the client's own retries (ours has none: it tries again until it succeeds).
*with RocketMQ*: Apache RocketMQ 5.5.0 in controller mode in our place, a name server with a controller and three brokers with synchronous flush that acknowledge
when all of the in-sync set have a message, as its defaults are otherwise; the fault lasts until its clients send again.
";

const LOSSES_PAGE: &str = "
## With asynchronous replication
The same brokers with `replication.acknowledge: async` and the least `replication.unconfirmed_size`, so that the load reaches it while a master is cut off.

- *taken by a change of master*: messages that were acknowledged and came to no consumer, since the next master did not have them; *most log*: from where its part of the log
  begins to the end of the last one of them, which the bound is for.
- *counted by the brokers*: `sluice_replication_lost_messages_total` and `sluice_replication_lost_bytes_total`, over all processes. For each fault it must be at least what was taken,
  and by a process that lived on at most the bound for each change; an answer that did not reach its client is counted too, and so is, as 'up to', all that a killed master had written last.
- *lost otherwise*, *reordered*, *two ackers*, *logs differ*: as above; all must be 0.
";

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

    #[test]
    fn an_aim_is_missed_by_one_time_in_fifty_or_by_an_error_where_none_is_allowed() {
        let (aim, soon) = (Aim::of(Fault::Switchover).unwrap(), vec![Duration::from_millis(300); 50]);
        assert!(aim.judge(&soon, 0).ends_with("met"));
        assert!(aim.judge(&soon, 1).ends_with("missed"));
        let late = [soon, vec![Duration::from_millis(1001)]].concat();
        assert!(aim.judge(&late[1..], 0).ends_with("missed"));
        assert!(aim.judge(&[], 0).ends_with("missed"));
    }

    #[test]
    fn what_was_not_measured_anew_stays_on_the_page() {
        let old = format!("{PAGE}\n{CLIENTS_HEAD}\n| a | java | 1 |\n| a | go | 2 |\n\n{FAULTS_HEAD}\n| a | it | 1 s |\n");
        let new = ["| a | go | 3 |", "| b | go | 4 |"].map(str::to_owned);
        assert_eq!(merged(&old, CLIENTS_HEAD, &new), ["| a | java | 1 |", "| a | go | 3 |", "| b | go | 4 |"]);
        assert_eq!(merged(&old, FAULTS_HEAD, &[]), ["| a | it | 1 s |"]);
        assert_eq!(merged("", HEAD, &new), new);
    }
}
