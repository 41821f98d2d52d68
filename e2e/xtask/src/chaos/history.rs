//! What a run writes down for its judge.

use super::{
    load,
    losses::{Change, Gone},
};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use sluice_history::{By, Checker, Event, Node, NodeEvent, Outcome, Queue, Report, Sent, What};
use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// The same moment as the machine's monotonic clock has it, which other programs see too.
    begun_nanos: u64,
    lines: Arc<Mutex<Vec<Line>>>,
    /// When which client began a send that it was refused: not worth a line.
    refused: Arc<Mutex<Vec<(u64, u32)>>>,
}

/// An epoch: where it begins in the log, and who was its master.
pub(super) type Epochs = BTreeMap<u64, (u64, Node)>;

impl History {
    /// An empty one, whose clock begins now.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), begun_nanos: monotonic(), lines: Arc::default(), refused: Arc::default() }
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

    /// What another program was told, by the machine's monotonic clock.
    pub(super) fn told(&self, invoke: u64, done: u64, process: u32, log: Option<u64>, what: What) {
        let (invoke, done) = (invoke.saturating_sub(self.begun_nanos), done.saturating_sub(self.begun_nanos));
        self.lines.lock().push(Line { event: Event { invoke: invoke.min(done), done, process, by: None, what }, log });
    }

    /// Something that takes no time.
    pub(super) fn note(&self, what: What) {
        self.push(self.now(), 0, None, what);
    }

    /// What a node did or suffered.
    pub(super) fn node(&self, index: usize, event: NodeEvent) {
        self.note(What::Node { node: node(index), event });
    }

    /// The time is taken under the lock: but for what other programs tell, lines are in the order of `done`.
    fn push(&self, invoke: u64, process: u32, log: Option<u64>, what: What) {
        let mut lines = self.lines.lock();
        let done = self.now();
        lines.push(Line { event: Event { invoke: invoke.min(done), done, process, by: None, what }, log });
    }

    /// When sends were acknowledged, in order, and whose they were.
    pub(super) fn acks(&self) -> Vec<Acked> {
        self.sends(|outcome| outcome == Outcome::Ok)
    }

    /// The same for those that the client gave up.
    pub(super) fn errors(&self) -> Vec<Acked> {
        self.sends(|outcome| outcome != Outcome::Ok)
    }

    /// A send that the broker refused is over.
    pub(super) fn refused(&self, invoke: u64, process: u32) {
        self.refused.lock().push((invoke, process));
    }

    /// How many sends that client has begun since `from` that are over.
    pub(super) fn tried_since(&self, process: u32, from: u64) -> usize {
        let is_one = |invoke: u64, by: u32| by == process && invoke >= from;
        let told = self.lines.lock().iter().filter(|line| matches!(line.event.what, What::Send(_)) && is_one(line.event.invoke, line.event.process)).count();
        told + self.refused.lock().iter().filter(|(invoke, by)| is_one(*invoke, *by)).count()
    }

    /// Whose sends were acknowledged after `from`.
    pub(super) fn acked_since(&self, from: u64) -> BTreeSet<u32> {
        // Other programs' lines come a little late.
        const LATE: u64 = 5_000_000_000;
        let lines = self.lines.lock();
        let recent = lines.iter().rev().take_while(|line| line.event.done.saturating_add(LATE) > from).filter(|line| line.event.done > from);
        recent.filter(|line| matches!(&line.event.what, What::Send(sent) if sent.outcome == Outcome::Ok)).map(|line| line.event.process).collect()
    }

    fn sends(&self, is_wanted: impl Fn(Outcome) -> bool) -> Vec<Acked> {
        let lines = self.lines.lock();
        let wanted = |line: &Line| match &line.event.what {
            What::Send(sent) if is_wanted(sent.outcome) => Some(Acked { invoke: line.event.invoke, done: line.event.done, process: line.event.process }),
            _ => None,
        };
        let mut found: Vec<_> = lines.iter().filter_map(wanted).collect();
        found.sort_by_key(|acked| acked.done);
        found
    }

    /// What was acknowledged and is not there any more: a consumer got another message from its offset, or consumers have drained its topic and got it nowhere.
    pub(super) fn gone(&self) -> Vec<Gone> {
        let lines = self.lines.lock();
        let (mut drained, mut came, mut places) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::<(&Queue, u64), (u32, u32)>::new());
        for line in lines.iter() {
            match &line.event.what {
                What::Drained(whole) => drop(drained.insert(&whole.topic)),
                What::Deliver(deliver) => {
                    let value = (deliver.value.process, deliver.value.number);
                    came.insert(value);
                    places.insert((&deliver.queue, deliver.offset.0), value);
                }
                _ => {}
            }
        }
        let gone = |line: &Line| {
            let What::Send(sent) = &line.event.what else { return None };
            let (Outcome::Ok, Some(offset), Some(at)) = (sent.outcome, sent.offset, line.log) else { return None };
            let value = (sent.value.process, sent.value.number);
            let is_lost = !came.contains(&value);
            let is_other = places.get(&(&sent.queue, offset.0)).is_some_and(|there| *there != value);
            let is_gone = is_other || is_lost && drained.contains(&sent.queue.topic);
            is_gone.then(|| Gone { value, invoke: line.event.invoke, at, bytes: load::body_bytes(value.0, value.1), is_lost })
        };
        lines.iter().filter_map(gone).collect()
    }

    /// Writes all down, with the epoch that each record lies in, and judges it. An acknowledgement that a change of master has `taken`, as asynchronous replication allows,
    /// counts like no answer; all else is held to what synchronous replication promises: what somebody has read stays at its place, and each loss has its change.
    ///
    /// No answer of a broker names its epoch. A record's place in the log does: what the last master's log has there was acknowledged under that epoch or is
    /// another record, which the judge sees as a loss.
    pub(super) fn judge(&self, epochs: &Epochs, taken: &BTreeSet<(u32, u32)>, file: &Path) -> Result<Report> {
        let mut to = BufWriter::new(File::create(file).with_context(|| format!("making {}", file.display()))?);
        let mut checker = Checker::default();
        let mut lines = self.lines.lock();
        // Other programs' lines come a little late.
        lines.sort_by_key(|line| line.event.done);
        for line in lines.iter() {
            let by = line.log.and_then(|at| epochs.iter().rev().find(|(_, (start, _))| *start <= at));
            let mut event = Event { by: by.map(|(epoch, (_, node))| By { node: *node, epoch: *epoch }), ..line.event.clone() };
            if let What::Send(sent) = &mut event.what
                && taken.contains(&(sent.value.process, sent.value.number))
            {
                (sent.outcome, sent.offset) = (Outcome::Unknown, None);
            }
            sluice_history::write(&mut to, &event)?;
            checker.push(&event)?;
        }
        to.flush().with_context(|| format!("writing {}", file.display()))?;
        Ok(checker.finish())
    }
}

/// The changes of master, by the newest master's epochs and when each was known. One that nobody saw while it lasted was over when the next one was known.
pub(super) fn changes(epochs: &Epochs, owners: &BTreeMap<u64, (usize, u64)>) -> Vec<Change> {
    let known = |epoch: u64| owners.range(epoch..).next().map_or(u64::MAX, |(_, (_, known))| *known);
    // The first one has founded the group.
    epochs.iter().skip(1).map(|(epoch, (start, _))| Change { known: known(*epoch), start: *start }).collect()
}

fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // It begins with the machine's start.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The end of a send.
#[derive(Clone, Copy)]
pub(super) struct Acked {
    pub(super) invoke: u64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_history::{Check, Deliver, Drained, Kind, SendKind, Started};
    use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};

    fn acks(times: &[(u64, u32)]) -> Vec<Acked> {
        times.iter().map(|&(done, process)| Acked { invoke: done, done, process }).collect()
    }

    #[test]
    fn the_silence_after_a_fault_is_the_longest_one_that_ends_after_it() {
        let acks = acks(&[(0, 1), (90, 1), (100, 1), (160, 2), (165, 1), (400, 1)]);
        assert_eq!(silence(&acks, 100, 200), Some((Duration::from_nanos(235), 400)));
        assert_eq!(silence(&acks, 100, 165), Some((Duration::from_nanos(60), 160)));
        assert_eq!(silence(&acks, 400, 500), None);
    }

    fn history(offsets: &[(u32, u64)], came: &[(u32, u64)], is_drained: bool) -> History {
        let history = History::new();
        let topic = Topic::new("t").unwrap();
        let queue = Queue { shard: 0, topic: topic.clone(), id: QueueId(0) };
        history.note(What::Started(Started { group: Group::new("g").unwrap(), topic: topic.clone() }));
        for &(number, offset) in offsets {
            let (value, offset) = (load::value_made(1, number), Some(QueueOffset(offset)));
            let sent = Sent { queue: queue.clone(), value, kind: SendKind::Normal, key: None, message_id: None, offset, attempts: 1, outcome: Outcome::Ok };
            history.sent(history.now(), 1, offset.map(|offset| 1000 * offset.0), sent);
        }
        for &(number, offset) in came {
            let (group, value) = (Group::new("g").unwrap(), load::value_made(1, number));
            let (record, offset) = (CommitLogOffset(1000 * offset), QueueOffset(offset));
            let deliver = Deliver { group, queue: queue.clone(), offset, record, value, kind: Kind::Pull, key: None, attempt: 0, lease: None, clock: 0 };
            history.note(What::Deliver(deliver));
        }
        if is_drained {
            history.note(What::Drained(Drained { group: Group::new("g").unwrap(), topic }));
        }
        history
    }

    fn judged(history: &History, taken: &[u32]) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let taken = taken.iter().map(|number| (1, *number)).collect();
        history.judge(&Epochs::from([(1, (0, node(0)))]), &taken, &folder.path().join("history.jsonl")).unwrap()
    }

    #[test]
    fn a_record_is_gone_when_another_message_has_its_offset_or_nobody_got_it_to_the_end() {
        let numbers = |history: &History| history.gone().iter().map(|gone| (gone.value.1, gone.at, gone.is_lost)).collect::<Vec<_>>();
        assert_eq!(numbers(&history(&[(1, 0), (2, 1), (3, 1)], &[(1, 0), (3, 1)], false)), [(2, 1000, true)]);
        assert_eq!(numbers(&history(&[(1, 0), (2, 1)], &[(1, 0)], false)), []);
        assert_eq!(numbers(&history(&[(1, 0), (2, 1)], &[(1, 0)], true)), [(2, 1000, true)]);
        // Another copy of it is there.
        assert_eq!(numbers(&history(&[(1, 0), (2, 2)], &[(1, 0), (2, 1), (3, 2)], true)), [(2, 2000, false)]);
    }

    #[test]
    fn an_acknowledgement_that_was_taken_is_forgiven_and_no_other_one_is() {
        let cut = history(&[(1, 0), (2, 1), (3, 1)], &[(1, 0), (3, 1)], true);
        assert!(judged(&cut, &[2]).is_clean());
        assert_eq!((judged(&cut, &[2]).counts.sends_ok, judged(&cut, &[]).counts.sends_ok), (2, 3));
        let report = judged(&cut, &[]);
        assert_eq!((report.found(Check::C1), report.found(Check::C4)), (1, 1));
        // What a consumer has read stays, whatever its sender was told.
        let moved = history(&[(1, 0), (2, 1), (3, 1)], &[(1, 0), (2, 1), (3, 1)], true);
        assert_eq!(judged(&moved, &[2, 3]).found(Check::C4), 1);
    }

    #[test]
    fn a_change_that_nobody_saw_was_over_when_the_next_one_was_known_and_a_groups_first_master_is_no_change() {
        let epochs = Epochs::from([(1, (0, node(0))), (2, (50, node(1))), (3, (60, node(2))), (4, (70, node(2)))]);
        let known: Vec<_> = changes(&epochs, &BTreeMap::from([(1, (0, 5)), (3, (2, 90))])).iter().map(|change| (change.known, change.start)).collect();
        assert_eq!(known, [(90, 50), (90, 60), (u64::MAX, 70)]);
    }
}
