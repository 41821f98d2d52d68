//! C9: of one group's leases on one message, one is alive at a time.

use super::{Rule, doubts::Doubts};
use crate::{
    Check, Deliver, Kind, Lease, Node, Outcome, Report, What,
    values::{Map, id, name},
    world::{Seen, World},
};

/// Leases are forgotten so long after their end, by the brokers' clocks: an answer may be on its way for a while.
const FORGET_AFTER: u64 = 120_000_000_000;
const HELD_MIN: usize = 4096;

type Message = (u32, u32, u64);

/// A lease as its holder knows it.
#[derive(Clone, Copy)]
struct Held {
    lease: Lease,
    node: Option<Node>,
    process: u32,
    invoke: u64,
    done: u64,
    line: u32,
}

#[derive(Default)]
pub(super) struct Pop {
    held: Map<Message, Held>,
    /// The highest clock seen, and the size at which leases are forgotten next.
    clock: u64,
    forget_at: usize,
    /// Overlaps with a lease that may have ended before, if its holder's word comes still. Times are the brokers' clocks.
    doubts: Doubts<Message>,
}

impl Rule for Pop {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        match &seen.event.what {
            What::Deliver(deliver) if deliver.kind == Kind::Pop => {
                report.judge(Check::C9);
                self.take(seen, deliver, world);
            }
            What::Ack(ack) if ack.outcome != Outcome::Failed => {
                let clock = if ack.outcome == Outcome::Ok { ack.clock } else { 0 };
                self.end((seen.group, seen.queue, ack.offset.0), seen, clock);
            }
            What::Change(change) if change.outcome != Outcome::Failed => {
                let message = (seen.group, seen.queue, change.offset.0);
                self.change(message, seen, change.lease, change.outcome, world);
            }
            _ => {}
        }
    }

    fn finish(&mut self, _world: &World, report: &mut Report) {
        self.doubts.report(report);
    }
}

impl Pop {
    fn take(&mut self, seen: &Seen<'_>, deliver: &Deliver, world: &World) {
        let Some(lease) = deliver.lease else { return };
        let event = seen.event;
        let message = (seen.group, seen.queue, deliver.offset.0);
        let new = Held { lease, node: event.by.map(|by| by.node), process: event.process, invoke: event.invoke, done: event.done, line: seen.line };
        self.clock = self.clock.max(lease.from);
        if let Some(old) = self.held.get(&message).copied() {
            let (first, second) = if old.lease.from <= lease.from { (old, new) } else { (new, old) };
            if overlap(&first, &second, world.config.skew_max) {
                let what = name(id(&deliver.value));
                self.doubt(message, &first, &second, &what, world);
            }
            self.held.insert(message, second);
        } else {
            self.held.insert(message, new);
        }
        self.forget();
    }

    fn doubt(&mut self, message: Message, first: &Held, second: &Held, what: &str, world: &World) {
        let text = format!(
            "{what} at offset {} of queue {} was given to consumer {} while consumer {} of group {} had a lease on it",
            message.2,
            world.queue_name(message.1),
            second.process,
            first.process,
            world.group_name(message.0)
        );
        self.doubts.push(message, (second.lease.from, first.process), Check::C9, &[first.line, second.line], text);
    }

    /// The holder's lease ended then; at an unknown time when that is 0.
    fn end(&mut self, message: Message, seen: &Seen<'_>, clock: u64) {
        self.doubts.explain(&message, clock, Some(seen.event.process));
        if self.held.get(&message).is_some_and(|held| held.process == seen.event.process) {
            self.held.remove(&message);
        }
    }

    fn change(&mut self, message: Message, seen: &Seen<'_>, lease: Lease, outcome: Outcome, world: &World) {
        self.doubts.explain(&message, lease.until, Some(seen.event.process));
        let Some(held) = self.held.get_mut(&message) else { return };
        if held.process == seen.event.process {
            held.lease.until = if outcome == Outcome::Ok { lease.until } else { held.lease.until.min(lease.until) };
            return;
        }
        // Another one has it by now: since before the changed lease ended?
        let second = *held;
        let same_clock = second.node == seen.event.by.map(|by| by.node);
        if outcome == Outcome::Ok && same_clock && lease.from <= second.lease.from && second.lease.from < lease.until {
            let first = Held { lease, node: second.node, process: seen.event.process, invoke: seen.event.invoke, done: seen.event.done, line: seen.line };
            self.doubt(message, &first, &second, "a message", world);
        }
    }

    fn forget(&mut self) {
        if self.held.len() < self.forget_at.max(HELD_MIN) {
            return;
        }
        let before = self.clock.saturating_sub(FORGET_AFTER);
        self.held.retain(|_, held| held.lease.until >= before);
        self.forget_at = self.held.len() * 2;
    }
}

/// By one broker's clock exactly; by the run's clock when two brokers gave the leases, and then only what overlaps whatever the messages' ways took.
fn overlap(first: &Held, second: &Held, skew: u64) -> bool {
    if first.node == second.node {
        return second.lease.from < first.lease.until;
    }
    let length = first.lease.until.saturating_sub(first.lease.from);
    second.invoke > first.done && second.done.saturating_add(skew) < first.invoke.saturating_add(length)
}
