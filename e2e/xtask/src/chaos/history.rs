//! What a run writes down for its judge.

use anyhow::{Context, Result};
use parking_lot::Mutex;
use sluice_history::{By, Checker, Event, Node, NodeEvent, Outcome, Report, Sent, What};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// A line, and for an acknowledged send where its record lies in the commit log.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) event: Event,
    log: Option<u64>,
}

/// The lines of a run. Clones are one history.
#[derive(Clone)]
pub(super) struct History {
    begun: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
}

/// An epoch: where it begins in the log, and who was its master.
pub(super) type Epochs = BTreeMap<u64, (u64, Node)>;

impl History {
    /// An empty one, whose clock begins now.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), lines: Arc::default() }
    }

    /// Now, in nanoseconds of the run.
    pub(super) fn now(&self) -> u64 {
        nanos(self.begun.elapsed())
    }

    /// Something that was asked for at `invoke` and is over now.
    pub(super) fn op(&self, invoke: u64, process: u32, what: What) {
        self.push(invoke, process, None, what);
    }

    /// A send that is over now, with its record's place in the log.
    pub(super) fn sent(&self, invoke: u64, process: u32, log: Option<u64>, sent: Sent) {
        self.push(invoke, process, log, What::Send(sent));
    }

    /// Something that takes no time.
    pub(super) fn note(&self, what: What) {
        self.push(self.now(), 0, None, what);
    }

    /// What a node did or suffered.
    pub(super) fn node(&self, index: usize, event: NodeEvent) {
        self.note(What::Node { node: node(index), event });
    }

    /// The time is taken under the lock: lines are in the order of `done`.
    fn push(&self, invoke: u64, process: u32, log: Option<u64>, what: What) {
        let mut lines = self.lines.lock();
        let done = self.now();
        lines.push(Line { event: Event { invoke: invoke.min(done), done, process, by: None, what }, log });
    }

    /// When sends were acknowledged, in order: time, the client's number, and when that send was begun.
    pub(super) fn acks(&self) -> Vec<Acked> {
        let lines = self.lines.lock();
        let acked = |line: &Line| match &line.event.what {
            What::Send(sent) if sent.outcome == Outcome::Ok => Some(Acked { done: line.event.done, process: line.event.process }),
            _ => None,
        };
        lines.iter().filter_map(acked).collect()
    }

    /// Writes all down, with the epoch that each record lies in, and judges it.
    ///
    /// No answer of a broker names its epoch. A record's place in the log does: what the last master's log has there was acknowledged under that epoch or is
    /// another record, which the judge sees as a loss.
    pub(super) fn judge(&self, epochs: &Epochs, file: &Path) -> Result<Report> {
        let mut to = BufWriter::new(File::create(file).with_context(|| format!("making {}", file.display()))?);
        let mut checker = Checker::default();
        for line in self.lines.lock().iter() {
            let by = line.log.and_then(|at| epochs.iter().rev().find(|(_, (start, _))| *start <= at));
            let event = Event { by: by.map(|(epoch, (_, node))| By { node: *node, epoch: *epoch }), ..line.event.clone() };
            sluice_history::write(&mut to, &event)?;
            checker.push(&event)?;
        }
        to.flush().with_context(|| format!("writing {}", file.display()))?;
        Ok(checker.finish())
    }
}

/// An acknowledgement.
#[derive(Clone, Copy)]
pub(super) struct Acked {
    pub(super) done: u64,
    pub(super) process: u32,
}

/// A broker as histories call it.
pub(super) fn node(index: usize) -> Node {
    Node { shard: 0, id: index as u32 + 1 }
}

/// As histories count time.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The longest time without an acknowledgement that began between `from` and `until`, and when it ended. What has not ended by then does not count.
pub(super) fn silence(acks: &[Acked], from: u64, until: u64) -> Option<(Duration, u64)> {
    let pairs = acks.windows(2).filter(|pair| pair[1].done > from && pair[0].done < until);
    pairs.map(|pair| (Duration::from_nanos(pair[1].done - pair[0].done), pair[1].done)).max()
}

/// The longest time that one client was without an acknowledgement, though it tried all the time.
pub(super) fn longest_gap(acks: &[Acked], processes: std::ops::RangeInclusive<u32>, from: u64, until: u64) -> Duration {
    let of = |process| acks.iter().copied().filter(|acked| acked.process == process).collect::<Vec<_>>();
    processes.filter_map(|process| silence(&of(process), from, until)).map(|(gap, _)| gap).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(times: &[(u64, u32)]) -> Vec<Acked> {
        times.iter().map(|&(done, process)| Acked { done, process }).collect()
    }

    #[test]
    fn the_silence_after_a_fault_is_the_longest_one_that_ends_after_it() {
        let acks = acks(&[(0, 1), (90, 1), (100, 1), (160, 2), (165, 1), (400, 1)]);
        assert_eq!(silence(&acks, 100, 200), Some((Duration::from_nanos(235), 400)));
        assert_eq!(silence(&acks, 100, 165), Some((Duration::from_nanos(60), 160)));
        assert_eq!(silence(&acks, 400, 500), None);
    }

    #[test]
    fn a_clients_gap_is_not_filled_by_another_one() {
        let acks = acks(&[(0, 1), (10, 2), (20, 2), (30, 2), (40, 1)]);
        assert_eq!(longest_gap(&acks, 1..=2, 0, 40), Duration::from_nanos(40));
    }
}
