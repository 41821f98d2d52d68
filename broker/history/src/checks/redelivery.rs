//! C10 and the delivered half of C3: a message comes again only for a reason, and never once its consumer's word for it has reached the broker.

use super::{Rule, doubts::Doubts};
use crate::{
    Ack, Check, Kind, Node, Outcome, Place, Report, What,
    rising::{Rising, Step},
    spans::Spans,
    values::{Map, name},
    world::{Delivery, Seen, World},
};
use std::collections::BTreeMap;

/// So many POP acks of a queue are remembered one by one; of older ones only the latest time is.
const ACKS_MAX: usize = 4096;

/// A consumer that reads a queue.
#[derive(Default)]
struct Reader {
    /// When it asked where to begin.
    asked: u64,
    /// It has asked since the last reset, so its commits say something.
    aware: bool,
    next: u64,
    success: Spans,
    committed: Option<Step>,
}

/// An acknowledged POP delivery.
#[derive(Clone, Copy)]
struct Noted {
    done: u64,
    clock: u64,
    node: Option<Node>,
    line: u32,
}

/// A group's way through a queue.
#[derive(Default)]
struct Track {
    commits: Rising,
    readers: BTreeMap<u32, Reader>,
    delivered: Spans,
    reset: Option<u64>,
    acked: Spans,
    acks: BTreeMap<u64, Noted>,
    /// Of the acks that are not remembered one by one, the latest time.
    acks_before: u64,
}

#[derive(Default)]
pub(super) struct Redelivery {
    tracks: Map<(u32, u32), Track>,
    doubts: Doubts<(u32, u32)>,
}

impl Rule for Redelivery {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        let (key, event, line) = ((seen.group, seen.queue), seen.event, seen.line);
        match &event.what {
            What::Deliver(deliver) => self.see_delivery(key, &Delivery::new(seen, deliver), world, report),
            What::Consumed(consumed) => {
                if consumed.verdict == crate::Verdict::Success
                    && let Some(reader) = self.tracks.entry(key).or_default().readers.get_mut(&event.process)
                {
                    // What it still had in hand from before a reset says nothing about what comes after.
                    if consumed.offset.0 < reader.next {
                        reader.success.insert(consumed.offset.0);
                    }
                }
            }
            What::Assigned(fetched) => {
                let track = self.tracks.entry(key).or_default();
                let aware = track.reset.is_none_or(|reset| event.invoke >= reset);
                track.readers.insert(event.process, Reader { asked: event.invoke, aware, next: fetched.offset.0, ..Reader::default() });
            }
            What::Revoked(_) => {
                self.tracks.entry(key).or_default().readers.remove(&event.process);
            }
            What::Stopped => self.tracks.values_mut().for_each(|track| {
                track.readers.remove(&event.process);
            }),
            What::Commit(place) => self.see_commit(key, seen, place, report),
            What::Reset(place) if place.outcome != Outcome::Failed => self.see_reset(key, seen),
            What::Ack(ack) if ack.outcome == Outcome::Ok => {
                report.judge(Check::C10);
                let note = Noted { done: event.done, clock: ack.clock, node: event.by.map(|by| by.node), line };
                self.tracks.entry(key).or_default().see_ack(ack, note);
            }
            _ => {}
        }
    }

    fn finish(&mut self, _world: &World, report: &mut Report) {
        self.doubts.report(report);
    }
}

impl Redelivery {
    fn see_delivery(&mut self, key: (u32, u32), delivery: &Delivery, world: &World, report: &mut Report) {
        report.judge(Check::C3);
        let track = self.tracks.entry(key).or_default();
        if !track.delivered.insert(delivery.offset) {
            report.counts.redelivered += 1;
        }
        let wrong = match delivery.kind {
            Kind::Pop => track.wrong_pop(delivery, world),
            Kind::Pull | Kind::Orderly => track.wrong_pull(delivery, world),
        };
        match wrong {
            Wrong::No => {}
            Wrong::Forgiven => report.counts.acks_lost += 1,
            Wrong::Yes(check, line, why) => {
                let text = format!(
                    "{} at offset {} of queue {} came to group {} again {why}",
                    name(delivery.id),
                    delivery.offset,
                    world.queue_name(key.1),
                    world.group_name(key.0)
                );
                self.doubts.push(key, (delivery.done, delivery.process), check, &[line, delivery.line], text);
            }
        }
    }

    fn see_commit(&mut self, key: (u32, u32), seen: &Seen<'_>, place: &Place, report: &mut Report) {
        if place.outcome != Outcome::Ok {
            return;
        }
        report.judge(Check::C10);
        let track = self.tracks.entry(key).or_default();
        let step = Step { done: seen.event.done, offset: place.offset.0, line: seen.line };
        let reader = track.readers.get_mut(&seen.event.process);
        let aware = reader.as_ref().map_or(track.reset.is_none(), |reader| reader.aware);
        if aware {
            track.commits.push(step);
            if let Some(reader) = reader {
                reader.success.forget_below(place.offset.0);
                reader.committed = Some(step);
            }
        }
    }

    fn see_reset(&mut self, key: (u32, u32), seen: &Seen<'_>) {
        self.doubts.explain(&key, seen.event.invoke, None);
        let track = self.tracks.entry(key).or_default();
        track.reset = Some(seen.event.done);
        track.commits.clear();
        track.acked.clear();
        track.acks.clear();
        for reader in track.readers.values_mut() {
            reader.aware = false;
            reader.success.clear();
            reader.committed = None;
            reader.next = 0;
        }
    }
}

/// Whether a delivery may be.
enum Wrong {
    No,
    /// The acknowledgement was lost as an asynchronous mode allows.
    Forgiven,
    Yes(Check, u32, &'static str),
}

impl Track {
    fn see_ack(&mut self, ack: &Ack, note: Noted) {
        self.acked.insert(ack.offset.0);
        self.acks.insert(ack.offset.0, note);
        if self.acks.len() > ACKS_MAX {
            let keep = self.acks.split_off(&ack.offset.0.saturating_sub(ACKS_MAX as u64 / 2));
            let old = std::mem::replace(&mut self.acks, keep);
            self.acks_before = old.values().map(|note| note.done).fold(self.acks_before, u64::max);
        }
    }

    fn wrong_pop(&self, delivery: &Delivery, world: &World) -> Wrong {
        if !self.acked.contains(delivery.offset) {
            return Wrong::No;
        }
        let unknown = Noted { done: self.acks_before, clock: u64::MAX, node: None, line: delivery.line };
        let note = self.acks.get(&delivery.offset).copied().unwrap_or(unknown);
        let by_clock = note.node == delivery.node && delivery.lease.is_some_and(|lease| lease.from > note.clock);
        if !by_clock && delivery.invoke < note.done {
            // The POP may have been before the ack.
            return Wrong::No;
        }
        match world.fault_for(note.done) {
            Some(_) => Wrong::Forgiven,
            None => Wrong::Yes(Check::C10, note.line, "after it had been acknowledged"),
        }
    }

    fn wrong_pull(&mut self, delivery: &Delivery, world: &World) -> Wrong {
        let aware = self.reset.is_none_or(|reset| delivery.invoke >= reset);
        let fresh = || Reader { asked: delivery.invoke, aware, ..Reader::default() };
        let reader = self.readers.entry(delivery.process).or_insert_with(fresh);
        reader.aware |= aware;
        let is_again = delivery.offset < reader.next;
        if aware {
            reader.next = reader.next.max(delivery.offset + 1);
        }
        let is_below = |step: &Step| delivery.offset < step.offset;
        if further(self.commits.before(reader.asked), reader.committed).is_some_and(|floor| is_below(&floor)) {
            let forgiven = |done| world.fault_for(done).is_some();
            let own = reader.committed.filter(|step| !forgiven(step.done));
            return match further(own, self.commits.before_unless(reader.asked, forgiven)).filter(is_below) {
                Some(kept) => Wrong::Yes(Check::C10, kept.line, "after a higher offset had been committed"),
                None => Wrong::Forgiven,
            };
        }
        if is_again && reader.success.contains(delivery.offset) {
            return Wrong::Yes(Check::C3, delivery.line, "although the same consumer had consumed it and nothing was assigned anew");
        }
        Wrong::No
    }
}

/// The further of two steps.
fn further(one: Option<Step>, two: Option<Step>) -> Option<Step> {
    [one, two].into_iter().flatten().max_by_key(|step| step.offset)
}
