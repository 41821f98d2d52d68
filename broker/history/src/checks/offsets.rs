//! C6: a committed offset never goes down without a reset, and is never put past what its consumer has not consumed.

use super::{Rule, doubts::Doubts};
use crate::{
    Check, Kind, Outcome, Place, Report, Verdict, What,
    rising::{Rising, Step},
    values::Map,
    world::{Seen, World},
};
use std::collections::BTreeMap;

/// A consumer's side of a queue.
#[derive(Default)]
struct Consumer {
    /// It has asked since the last reset, so its commits say something.
    aware: bool,
    /// What it was given and is not through with, with the lines.
    open: BTreeMap<u64, u32>,
    committed: Option<Step>,
}

/// What is known of a group's committed offset in a queue.
#[derive(Default)]
struct Mark {
    known: Rising,
    reset: Option<u64>,
    consumers: BTreeMap<u32, Consumer>,
}

#[derive(Default)]
pub(super) struct Offsets {
    marks: Map<(u32, u32), Mark>,
    doubts: Doubts<(u32, u32)>,
}

impl Rule for Offsets {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        let (key, event) = ((seen.group, seen.queue), seen.event);
        match &event.what {
            What::Deliver(deliver) if deliver.kind != Kind::Pop => {
                let mark = self.marks.entry(key).or_default();
                let aware = mark.reset.is_none_or(|reset| event.invoke >= reset);
                let consumer = mark.consumers.entry(event.process).or_default();
                consumer.aware |= aware;
                consumer.open.insert(deliver.offset.0, seen.line);
            }
            What::Consumed(consumed) => {
                let is_through = consumed.verdict == Verdict::Success || (!consumed.orderly && consumed.outcome == Outcome::Ok);
                if let Some(consumer) = self.marks.get_mut(&key).and_then(|mark| mark.consumers.get_mut(&event.process)).filter(|_| is_through) {
                    consumer.open.remove(&consumed.offset.0);
                }
            }
            What::Assigned(fetched) => {
                let mark = self.marks.entry(key).or_default();
                let aware = mark.reset.is_none_or(|reset| event.invoke >= reset);
                mark.consumers.insert(event.process, Consumer { aware, ..Consumer::default() });
                self.see_read(key, seen, fetched.offset.0, world, report);
            }
            What::Fetched(fetched) => self.see_read(key, seen, fetched.offset.0, world, report),
            What::Revoked(_) => {
                self.marks.entry(key).or_default().consumers.remove(&event.process);
            }
            What::Stopped => self.marks.values_mut().for_each(|mark| {
                mark.consumers.remove(&event.process);
            }),
            What::Commit(place) if place.outcome != Outcome::Failed => self.see_commit(key, seen, place, world, report),
            What::Reset(place) if place.outcome != Outcome::Failed => {
                self.doubts.explain(&key, event.invoke, None);
                let mark = self.marks.entry(key).or_default();
                mark.known.clear();
                mark.reset = Some(event.done);
                mark.consumers.values_mut().for_each(|consumer| *consumer = Consumer::default());
            }
            _ => {}
        }
    }

    fn finish(&mut self, _world: &World, report: &mut Report) {
        self.doubts.report(report);
    }
}

impl Offsets {
    fn see_commit(&mut self, key: (u32, u32), seen: &Seen<'_>, place: &Place, world: &World, report: &mut Report) {
        report.judge(Check::C6);
        let (process, offset) = (seen.event.process, place.offset.0);
        let mark = self.marks.entry(key).or_default();
        let no_reset = mark.reset.is_none();
        let step = Step { done: seen.event.done, offset, line: seen.line };
        let consumer = mark.consumers.get_mut(&process);
        let where_ = || format!("queue {} of group {}", world.queue_name(key.1), world.group_name(key.0));
        if let Some(consumer) = &consumer {
            if let Some((open, line)) = consumer.open.first_key_value().filter(|(open, _)| **open < offset) {
                let text = format!("{}: consumer {process} committed {offset} although it was not through with offset {open}", where_());
                self.doubts.push(key, (seen.event.done, process), Check::C6, &[*line, seen.line], text);
            }
            if let Some(before) = consumer.committed.filter(|before| before.offset > offset) {
                let text = format!("{}: consumer {process} committed {offset} after it had committed {}", where_(), before.offset);
                self.doubts.push(key, (seen.event.done, process), Check::C6, &[before.line, seen.line], text);
            }
        }
        let aware = consumer.as_ref().map_or(no_reset, |consumer| consumer.aware);
        if place.outcome == Outcome::Ok && aware {
            mark.known.push(step);
            if let Some(consumer) = consumer {
                consumer.committed = Some(step);
            }
        }
    }

    /// The broker said what is committed.
    fn see_read(&mut self, key: (u32, u32), seen: &Seen<'_>, offset: u64, world: &World, report: &mut Report) {
        report.judge(Check::C6);
        let mark = self.marks.entry(key).or_default();
        let invoke = seen.event.invoke;
        if mark.known.before(invoke).is_some_and(|floor| floor.offset > offset) {
            match mark.known.before_unless(invoke, |done| world.fault_for(done).is_some()).filter(|kept| kept.offset > offset) {
                Some(kept) => {
                    let text = format!(
                        "queue {} of group {}: the committed offset went from {} back to {offset}",
                        world.queue_name(key.1),
                        world.group_name(key.0),
                        kept.offset
                    );
                    self.doubts.push(key, (seen.event.done, seen.event.process), Check::C6, &[kept.line, seen.line], text);
                }
                None => {
                    report.counts.acks_lost += 1;
                    mark.known.clear();
                }
            }
        }
        // What was read while a reset was under way says nothing about the time after it.
        if mark.reset.is_none_or(|reset| invoke >= reset) {
            mark.known.push(Step { done: seen.event.done, offset, line: seen.line });
        }
    }
}
