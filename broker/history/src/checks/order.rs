//! C5 for consumers: in orderly consumption each key's messages come in offset order, repeat only from where the consumer was set back to, and are with one
//! consumer at a time.

use super::{Rule, doubts::Doubts};
use crate::{
    Check, Deliver, Kind, Outcome, Report, What,
    values::{Map, id, name},
    world::{Names, Seen, World},
};
use std::collections::BTreeMap;

type Queue = (u32, u32);
/// A queue of a group and a key's number.
type Key = (u32, u32, u32);

/// Where a group's queue is read from, and how often that was set anew.
#[derive(Clone, Copy, Default)]
struct Start {
    times: u64,
    from: u64,
    /// What came before no longer counts: a reset, or a start below what was committed.
    anew: u64,
    committed: u64,
}

/// A key's messages in a queue of a group.
#[derive(Default)]
struct Sequence {
    /// What came and is not committed, with its line and whether it is consumed.
    came: BTreeMap<u64, (u32, bool)>,
    highest: Option<u64>,
    last: Option<u64>,
    /// What of `Start` it has seen.
    times: u64,
    anew: u64,
    /// Messages that consumers are at work on: process, offset, line.
    open: Vec<(u32, u64, u32)>,
}

/// A message in a consumer's hands: group, queue, offset, process.
type Work = (u32, u32, u64, u32);

/// When another one's message came, and the two lines.
type Overlap = (u64, u32, u32);

#[derive(Default)]
pub(super) struct Order {
    keys: Names<Option<String>>,
    starts: Map<Queue, Start>,
    sequences: Map<Key, Sequence>,
    /// The key of each message that somebody is at work on.
    working: Map<(u32, u32, u64), u32>,
    doubts: Doubts<Queue>,
    /// Two consumers at a time, unless the first one turns out to have been through. By the first one's message.
    overlaps: BTreeMap<Work, Vec<Overlap>>,
}

impl Rule for Order {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        let queue = (seen.group, seen.queue);
        match &seen.event.what {
            What::Deliver(deliver) if deliver.kind == Kind::Orderly => self.see_delivery(queue, seen, deliver, world, report),
            What::Consumed(consumed) if consumed.orderly => {
                self.through(queue, seen, consumed.offset.0, consumed.verdict == crate::Verdict::Success, world, report)
            }
            What::Commit(place) if place.outcome != Outcome::Failed => {
                let start = self.starts.entry(queue).or_default();
                start.committed = start.committed.max(place.offset.0);
            }
            What::Assigned(fetched) => self.start(queue, fetched.offset.0, false),
            What::Reset(place) if place.outcome != Outcome::Failed => {
                self.doubts.explain(&queue, seen.event.invoke, None);
                self.start(queue, 0, true);
            }
            What::Stopped => self.stop(seen.event.process),
            _ => {}
        }
    }

    fn finish(&mut self, _world: &World, report: &mut Report) {
        self.doubts.report(report);
    }
}

impl Order {
    fn start(&mut self, queue: Queue, from: u64, reset: bool) {
        let start = self.starts.entry(queue).or_default();
        start.times += 1;
        start.from = from;
        if reset || from < start.committed {
            start.anew += 1;
            start.committed = from;
        }
    }

    fn see_delivery(&mut self, queue: Queue, seen: &Seen<'_>, deliver: &Deliver, world: &World, report: &mut Report) {
        report.judge(Check::C5);
        let key = self.keys.number(&deliver.key);
        let (offset, process) = (deliver.offset.0, seen.event.process);
        let start = self.starts.entry(queue).or_default();
        let sequence = self.sequences.entry((queue.0, queue.1, key)).or_default();
        sequence.catch_up(start);
        if let Some((line, why)) = sequence.wrong(offset, start) {
            let text = format!(
                "{} at offset {offset} of queue {} came to group {} {why}",
                name(id(&deliver.value)),
                world.queue_name(queue.1),
                world.group_name(queue.0)
            );
            self.doubts.push(queue, (seen.event.done, process), Check::C5, &[line, seen.line], text);
        }
        for (other, held, line) in sequence.open.iter().filter(|(other, ..)| *other != process) {
            self.overlaps.entry((queue.0, queue.1, *held, *other)).or_default().push((seen.event.done, *line, seen.line));
        }
        sequence.come(offset, seen.line, start);
        sequence.open.retain(|open| (open.0, open.1) != (process, offset));
        sequence.open.push((process, offset, seen.line));
        self.working.insert((queue.0, queue.1, offset), key);
    }

    /// A consumer is through with a message: what came to another one meanwhile came too early.
    fn through(&mut self, queue: Queue, seen: &Seen<'_>, offset: u64, success: bool, world: &World, report: &mut Report) {
        let Some(key) = self.working.get(&(queue.0, queue.1, offset)).copied() else { return };
        let process = seen.event.process;
        let Some(sequence) = self.sequences.get_mut(&(queue.0, queue.1, key)) else { return };
        sequence.open.retain(|open| (open.0, open.1) != (process, offset));
        if let Some(came) = sequence.came.get_mut(&offset) {
            came.1 |= success;
        }
        if sequence.open.iter().all(|open| open.1 != offset) {
            self.working.remove(&(queue.0, queue.1, offset));
        }
        for (done, first, second) in self.overlaps.remove(&(queue.0, queue.1, offset, process)).unwrap_or_default() {
            if done < seen.event.invoke {
                report.violate(Check::C5, &[first, second, seen.line], || {
                    format!(
                        "queue {} of group {}: consumer {process} was at work on offset {offset} when another one got a message of the same key",
                        world.queue_name(queue.1),
                        world.group_name(queue.0)
                    )
                });
            }
        }
    }

    /// A consumer is no more.
    fn stop(&mut self, process: u32) {
        self.overlaps.retain(|at, _| at.3 != process);
        for sequence in self.sequences.values_mut() {
            sequence.open.retain(|open| open.0 != process);
        }
    }
}

impl Sequence {
    /// Forgets what is committed, everything when the queue was set back for good, and that it was consumed when it is to come again.
    fn catch_up(&mut self, start: &Start) {
        if self.anew != start.anew {
            self.anew = start.anew;
            self.came.clear();
            (self.highest, self.last) = (None, None);
        }
        if self.came.first_key_value().is_some_and(|(offset, _)| *offset < start.committed) {
            self.came = self.came.split_off(&start.committed);
        }
        if self.times != start.times {
            self.came.range_mut(start.from..).for_each(|(_, came)| came.1 = false);
        }
    }

    /// What is wrong with this message coming now, and the line it contradicts.
    fn wrong(&self, offset: u64, start: &Start) -> Option<(u32, &'static str)> {
        let highest = self.highest?;
        let is_restart = self.times != start.times;
        if offset > highest || self.came.contains_key(&offset) {
            let after = if is_restart { start.from } else { self.last? + 1 };
            if after < offset
                && let Some((_, (line, _))) = self.came.range(after..offset).next()
            {
                return Some((*line, "before an earlier one of its key came again"));
            }
        } else if offset >= start.committed {
            let line = self.came.range(offset..).next().map_or(0, |(_, (line, _))| *line);
            return Some((line, "after a later one of its key"));
        }
        let (line, consumed) = *self.came.get(&offset)?;
        consumed.then_some((line, "again although nothing was set back"))
    }

    fn come(&mut self, offset: u64, line: u32, start: &Start) {
        self.times = start.times;
        self.highest = Some(self.highest.map_or(offset, |highest| highest.max(offset)));
        self.last = Some(offset);
        self.came.entry(offset).or_insert((line, false));
    }
}
