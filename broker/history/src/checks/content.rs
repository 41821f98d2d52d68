//! C2, C4 and the stored half of C3: what comes was sent, each queue offset has one value, and each value as many offsets as its sender's tries explain.

use super::Rule;
use crate::{
    Check, NodeEvent, Outcome, Report, SendKind, Sent, What,
    values::{Id, Map, id, name},
    world::{Delivery, Match, Seen, World},
};
use std::collections::BTreeMap;

const PAGE: u64 = 256;
/// Times are kept in units of about a millisecond, in 31 bits: for 26 days.
const TIME_SHIFT: u32 = 20;
const COUNTED: u32 = 1 << 31;

/// What a queue offset holds.
#[derive(Clone, Copy)]
struct Place {
    id: Id,
    line: u32,
    /// When that was known, and whether it counts as a copy of its value already.
    time: u32,
}

const EMPTY: Place = Place { id: Id::MAX, line: 0, time: 0 };

/// What is known of a queue as a whole.
#[derive(Clone, Copy)]
struct Extent {
    first: u64,
    last: u64,
    last_line: u32,
    places: u64,
}

#[derive(Default)]
pub(super) struct Content {
    pages: Map<(u32, u64), Box<[Place]>>,
    extents: BTreeMap<u32, Extent>,
    /// Per queue: requests that may have left a hole, and when the first send was begun.
    sends: BTreeMap<u32, (u64, u64)>,
    /// Per topic: messages that the broker itself puts into queues.
    inner: Map<u32, u64>,
    /// Values with more than one copy, and the line that showed it.
    copied: BTreeMap<Id, u32>,
    given_again: Map<usize, u64>,
    broken: bool,
}

impl Rule for Content {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        match &seen.event.what {
            What::Send(sent) => self.see_send(seen, sent, world, report),
            What::Deliver(deliver) => {
                report.judge(Check::C2);
                self.place(seen, deliver.offset.0, id(&deliver.value), world, report);
            }
            What::Node { event: NodeEvent::Cut { .. } | NodeEvent::Crash | NodeEvent::PowerCut | NodeEvent::Wiped, .. } | What::FaultBegin { .. } => {
                self.broken = true
            }
            _ => {}
        }
    }

    fn matched(&mut self, found: &Match<'_>, world: &mut World, report: &mut Report) {
        let Delivery { id, body, properties, line, queue, offset, .. } = *found.delivery;
        if !found.entry.is_like(body, properties) {
            report.violate(Check::C2, &[found.entry.line, line], || format!("{} came with another body or other properties than it was sent with", name(id)));
        }
        self.count_copy(queue, offset, id, line, world);
    }

    fn finish(&mut self, world: &World, report: &mut Report) {
        for delivery in world.never_sent() {
            let Delivery { id, line, .. } = delivery;
            match world.values.get(id) {
                Some(entry) => report
                    .violate(Check::C2, &[entry.line, line], || format!("{} came although no send of it had been begun or all had been refused", name(id))),
                None => report.violate(Check::C2, &[line], || format!("{} came and was never sent", name(id))),
            }
        }
        self.finish_copies(world, report);
        for (queue, extent) in std::mem::take(&mut self.extents) {
            self.finish_holes(queue, extent, world, report);
        }
    }
}

impl Content {
    fn see_send(&mut self, seen: &Seen<'_>, sent: &Sent, world: &mut World, report: &mut Report) {
        let (holes, _) = self.sends.entry(seen.queue).or_insert((0, seen.event.invoke));
        *holes += u64::from(sent.attempts.saturating_sub(1)) + u64::from(sent.outcome == Outcome::Unknown);
        if sent.kind != SendKind::Normal {
            *self.inner.entry(world.topic_of(seen.queue)).or_default() += 1;
        } else if let (Outcome::Ok, Some(offset)) = (sent.outcome, sent.offset) {
            let id = id(&sent.value);
            self.place(seen, offset.0, id, world, report);
            self.count_copy(seen.queue, offset.0, id, seen.line, world);
        }
    }

    /// Notes what an offset holds.
    fn place(&mut self, seen: &Seen<'_>, offset: u64, id: Id, world: &World, report: &mut Report) {
        report.judge(Check::C4);
        let page = self.pages.entry((seen.queue, offset / PAGE)).or_insert_with(|| vec![EMPTY; PAGE as usize].into());
        let place = &mut page[(offset % PAGE) as usize];
        let before = *place;
        if before.id == id {
            return;
        }
        *place = Place { id, line: seen.line, time: (seen.event.done >> TIME_SHIFT) as u32 & !COUNTED };
        if before.id == EMPTY.id {
            let extent = self.extents.entry(seen.queue).or_insert(Extent { first: offset, last: offset, last_line: seen.line, places: 0 });
            extent.places += 1;
            extent.first = extent.first.min(offset);
            if offset > extent.last {
                (extent.last, extent.last_line) = (offset, seen.line);
            }
            return;
        }
        if let Some(fault) = world.fault_for(u64::from(before.time & !COUNTED) << TIME_SHIFT) {
            let given = self.given_again.entry(fault).or_default();
            *given += 1;
            if *given <= world.config.loss_count_max {
                report.counts.offsets_given_again += 1;
                return;
            }
        }
        report.violate(Check::C4, &[before.line, seen.line], || {
            format!("offset {offset} of queue {} held {} and then {}", world.queue_name(seen.queue), name(before.id), name(id))
        });
    }

    /// Counts a place as a copy of its value, once.
    fn count_copy(&mut self, queue: u32, offset: u64, id: Id, line: u32, world: &mut World) {
        let Some(page) = self.pages.get_mut(&(queue, offset / PAGE)) else { return };
        let place = &mut page[(offset % PAGE) as usize];
        if place.id != id || place.time & COUNTED != 0 {
            return;
        }
        place.time |= COUNTED;
        if world.found_copy(id, queue).is_some_and(|entry| entry.copies > 1) {
            self.copied.insert(id, line);
        }
    }

    fn finish_copies(&mut self, world: &World, report: &mut Report) {
        for (id, line) in &self.copied {
            let Some(entry) = world.values.get(*id) else { continue };
            if entry.copies <= entry.copies_max() {
                report.counts.stored_again += 1;
                continue;
            }
            // "At most once" is what a transaction promises, so there it is C7.
            let check = if world.is_half(*id) { Check::C7 } else { Check::C3 };
            report.violate(check, &[entry.line, *line], || {
                format!("{} lies at {} offsets of its topic, but only {} requests can have stored it", name(*id), entry.copies, entry.copies_max())
            });
        }
    }

    /// A hole in what a drained group has read is a message that was cut; nobody had an answer for it, and something must have broken.
    fn finish_holes(&self, queue: u32, extent: Extent, world: &World, report: &mut Report) {
        let Some((unanswered, begun)) = self.sends.get(&queue) else { return };
        let topic = world.topic_of(queue);
        let is_read_whole = world.members_of(topic).iter().any(|member| member.started <= *begun && member.drained.is_some());
        let holes = extent.last - extent.first + 1 - extent.places;
        let inner = self.inner.get(&topic).copied().unwrap_or(0);
        let allowed = if self.broken { unanswered + inner } else { 0 };
        if is_read_whole && holes > allowed {
            report.violate(Check::C4, &[extent.last_line], || {
                format!("queue {} has {holes} holes below offset {}, of which {allowed} can be cut messages", world.queue_name(queue), extent.last)
            });
        }
    }
}
