//! C11 to C13: who acknowledges, what the nodes hold, and whether the cluster goes on.

use super::{Mutation, at_time, deliver, end, insert, is_acked, pick, places};
use crate::rng::Rng;
use sluice_history::{By, Check, Event, Node, NodeEvent, Outcome, What};
use sluice_types::CommitLogOffset;

const SECOND: u64 = 1_000_000_000;

pub(super) fn mutations() -> Vec<Mutation> {
    vec![
        (Check::C11, "a second node acknowledges a send in an epoch", second_node),
        (Check::C11, "an old epoch acknowledges after a new one", old_epoch),
        (Check::C11, "a node knows of an ack of its own in another one's epoch", own_ack),
        (Check::C11, "an old master acknowledges a consumer's offset", old_commit),
        (Check::C12, "a replica's log differs", |events, rng| digest(events, rng, |digest, _| digest.log ^= 1)),
        (Check::C12, "a stored index differs", |events, rng| digest(events, rng, |digest, _| digest.index_stored ^= 1)),
        (Check::C12, "an index that follows from the log differs", |events, rng| {
            digest(events, rng, |digest, _| (digest.index_stored, digest.index_rebuilt) = (7, 7))
        }),
        (Check::C12, "a replica ends too early", short),
        (Check::C12, "all end below what was confirmed", confirmed),
        (Check::C13, "no write succeeds after the repair", no_write),
        (Check::C13, "the first write succeeds late", late_write),
        (Check::C13, "a backlog takes too long", slow_drain),
        (Check::C13, "a group stops after the repair", stall),
    ]
}

fn acked(events: &[Event], rng: &mut Rng) -> Option<usize> {
    pick(events, rng, |event| is_acked(event) && event.by.is_some())
}

fn second_node(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = acked(events, rng) else { return false };
    let by = events[at].by.as_mut().expect("picked");
    by.node.id = (by.node.id + 1) % 3;
    true
}

/// The first and the last epoch, and a time in the last one after its first acknowledgement.
fn epochs(events: &[Event]) -> Option<(By, u64)> {
    let acks = places(events, |event| is_acked(event) && event.by.is_some());
    let (first, last) = (events[*acks.first()?].by?, events[*acks.last()?].by?);
    let since = acks.iter().map(|at| &events[*at]).find(|event| event.by == Some(last))?.done;
    (first.epoch < last.epoch).then_some((first, since))
}

fn old_epoch(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some((old, since)) = epochs(events) else { return false };
    let Some(at) = pick(events, rng, |event| is_acked(event) && event.by.is_some() && event.invoke > since) else { return false };
    events[at].by = Some(old);
    true
}

fn own_ack(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = acked(events, rng) else { return false };
    let By { node, epoch } = events[at].by.expect("picked");
    let node = Node { id: (node.id + 1) % 3, ..node };
    let event =
        Event { process: 0, by: None, what: What::Node { node, event: NodeEvent::Acked { epoch } }, ..at_time(&events[at], events[at].done, events[at].done) };
    insert(events, event);
    true
}

fn old_commit(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some((old, since)) = epochs(events) else { return false };
    let Some(at) = pick(events, rng, |event| event.invoke > since && matches!(&event.what, What::Commit(place) if place.outcome == Outcome::Ok)) else {
        return false;
    };
    events[at].by = Some(old);
    true
}

fn digest(events: &mut [Event], rng: &mut Rng, how: fn(&mut sluice_history::Digest, &mut Rng)) -> bool {
    let Some(at) = pick(events, rng, |event| matches!(&event.what, What::Digest(_))) else { return false };
    if let What::Digest(digest) = &mut events[at].what {
        how(digest, rng);
    }
    true
}

fn short(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let end = events.iter().filter_map(|event| if let What::Digest(digest) = &event.what { Some(digest.to) } else { None }).max().unwrap_or_default();
    let Some(at) = pick(events, rng, |event| matches!(&event.what, What::Digest(digest) if digest.to == end)) else { return false };
    if let What::Digest(digest) = &mut events[at].what {
        digest.to = CommitLogOffset(end.0 - 1 - rng.below(50));
    }
    true
}

fn confirmed(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, |event| matches!(&event.what, What::Node { event: NodeEvent::Confirmed { .. }, .. })) else { return false };
    if let What::Node { event, .. } = &mut events[at].what {
        *event = NodeEvent::Confirmed { to: CommitLogOffset(u64::MAX / 2 + rng.below(1000)) };
    }
    true
}

/// A repair after which nothing breaks for a while.
fn repair(events: &[Event], rng: &mut Rng, calm: u64) -> Option<u64> {
    let broken: Vec<_> = events.iter().filter(|event| matches!(&event.what, What::FaultBegin { .. })).map(|event| event.done).collect();
    let at = pick(events, rng, |event| {
        matches!(&event.what, What::Heal) && event.done + calm < end(events) && !broken.iter().any(|fault| *fault >= event.done && *fault < event.done + calm)
    })?;
    Some(events[at].done)
}

/// The time allowed is made as short as these histories are; false when that alone is too much for this one.
fn allow(events: &mut [Event], within: u64) -> bool {
    for event in events.iter_mut() {
        if let What::Configure(config) = &mut event.what {
            config.write_within = within;
        }
    }
    crate::judge(events).is_clean()
}

fn no_write(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(healed) = repair(events, rng, SECOND / 2) else { return false };
    if !allow(events, SECOND / 10) {
        return false;
    }
    let broken =
        events.iter().filter(|event| matches!(&event.what, What::FaultBegin { .. }) && event.done > healed).map(|event| event.done).min().unwrap_or(u64::MAX);
    let mut changed = false;
    for event in events {
        if let What::Send(sent) = &mut event.what
            && event.invoke >= healed
            && event.invoke < broken
        {
            changed |= sent.outcome == Outcome::Ok && event.invoke < healed + SECOND / 10;
            (sent.outcome, sent.offset) = (Outcome::Unknown, None);
        }
    }
    changed
}

fn late_write(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(healed) = repair(events, rng, SECOND) else { return false };
    if !allow(events, SECOND / 5) {
        return false;
    }
    let until = healed + SECOND / 5 + rng.below(SECOND / 5);
    let mut changed = false;
    for event in events {
        if let What::Send(sent) = &mut event.what
            && event.invoke >= healed
            && event.done <= until
        {
            changed |= sent.outcome == Outcome::Ok && event.invoke < healed + SECOND / 5;
            (sent.outcome, sent.offset) = (Outcome::Unknown, None);
        }
    }
    changed
}

/// What a group gets after the last repair it gets much later; nothing breaks meanwhile.
fn slow_drain(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    hold_back(events, rng, |event, by| {
        event.done += by;
        event.invoke += by;
        true
    })
}

fn stall(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    hold_back(events, rng, |_, _| false)
}

/// Changes all that a group gets after the last repair, if a backlog was waiting for it.
fn hold_back(events: &mut Vec<Event>, rng: &mut Rng, how: fn(&mut Event, u64) -> bool) -> bool {
    let Some(healed) = events.iter().rev().find(|event| matches!(&event.what, What::Heal)).map(|event| event.done) else { return false };
    let group = *rng.pick(&["g-pull", "g-late", "g-order", "g-tx", "g-pop"]).expect("there are some");
    let waited = |event: &Event| event.done > healed && deliver(event).is_some_and(|deliver| deliver.group.as_str() == group);
    let backlog: Vec<_> = places(events, waited).into_iter().filter(|at| was_waiting(events, *at, healed)).collect();
    if backlog.is_empty() {
        return false;
    }
    let by = 100 * SECOND + backlog.len() as u64 * SECOND;
    events.retain_mut(|event| !waited(event) || how(event, by));
    let last = end(events) + by;
    events.sort_by_key(|event| event.done);
    events.push(Event { invoke: last, done: last, process: 0, by: None, what: What::Stopped });
    events.sort_by_key(|event| event.done);
    true
}

/// Whether this delivery is its group's first of a message that had been acknowledged before.
fn was_waiting(events: &[Event], at: usize, healed: u64) -> bool {
    let Some(mine) = deliver(&events[at]) else { return false };
    let acked = events.iter().any(|event| {
        event.done <= healed
            && is_acked(event)
            && super::sent(event).is_some_and(|sent| sent.value == mine.value && sent.kind == sluice_history::SendKind::Normal)
    });
    let started = events.iter().find(|event| matches!(&event.what, What::Started(started) if started.group == mine.group)).map_or(u64::MAX, |event| event.done);
    let since = events.iter().find(|event| super::sent(event).is_some_and(|sent| sent.value == mine.value)).map_or(0, |event| event.invoke);
    let before = events[..at].iter().any(|event| deliver(event).is_some_and(|deliver| deliver.group == mine.group && deliver.value == mine.value));
    acked && !before && started <= since
}
