//! C5, C6, C9, C10 and C14: in which order and how often messages come, and what consumers' words are worth.

use super::{Mutation, at_time, deliver, deliver_mut, end, insert, pick, places, sent, sent_mut, topic};
use crate::rng::Rng;
use sluice_history::{Check, Consumed, Event, Fetched, Kind, Lease, LockResult, Outcome, Place, Verdict, What};
use sluice_types::{QueueId, QueueOffset};

pub(super) fn mutations() -> Vec<Mutation> {
    vec![
        (Check::C5, "two sends of a producer change offsets", swap_offsets),
        (Check::C5, "two messages of a key change places", swap_deliveries),
        (Check::C5, "another consumer gets a message of the key meanwhile", two_at_a_time),
        (Check::C5, "a lock is given to a second consumer", lock_twice),
        (Check::C5, "a consumed message of a key comes again", repeat_orderly),
        (Check::C6, "a read tells of less than was committed", read_less),
        (Check::C6, "a read tells of less than the one before", read_twice),
        (Check::C6, "a commit past what is not consumed", |events, rng| commit_odd(events, rng, true)),
        (Check::C6, "a consumer's commit goes back", |events, rng| commit_odd(events, rng, false)),
        (Check::C9, "a second lease begins before the first ends", overlap),
        (Check::C9, "a second lease at the same moment", overlap_at_once),
        (Check::C9, "another broker gives a second lease", overlap_elsewhere),
        (Check::C9, "a second lease within the time that was added", overlap_change),
        (Check::C10, "a POP acknowledgement is forgotten", |events, rng| forget_ack(events, rng, 0)),
        (Check::C10, "a POP acknowledgement is forgotten much later", |events, rng| forget_ack(events, rng, 30_000_000_000)),
        (Check::C10, "what is committed comes to a consumer that was assigned the queue", |events, rng| forget_commit(events, rng, true)),
        (Check::C10, "what is committed comes again to the same consumer", |events, rng| forget_commit(events, rng, false)),
        (Check::C14, "a retry level is left out", skip_level),
        (Check::C14, "no retry of a failed message", no_retry),
        (Check::C14, "no dead letter", no_dead_letter),
        (Check::C14, "two dead letters", two_dead_letters),
        (Check::C14, "a dead letter of what did not fail", unfounded_dead_letter),
        (Check::C14, "one retry too many", retry_too_often),
    ]
}

fn swap_offsets(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let given = |event: &Event| sent(event).is_some_and(|sent| sent.offset.is_some());
    let Some(one) = pick(events, rng, given) else { return false };
    let (process, queue, done) = (events[one].process, sent(&events[one]).expect("one").queue.clone(), events[one].done);
    let Some(two) =
        pick(events, rng, |event| event.process == process && event.invoke > done && given(event) && sent(event).is_some_and(|sent| sent.queue == queue))
    else {
        return false;
    };
    let (first, second) = (sent(&events[one]).expect("one").offset, sent(&events[two]).expect("one").offset);
    sent_mut(&mut events[one]).offset = second;
    sent_mut(&mut events[two]).offset = first;
    true
}

fn is_orderly(event: &Event) -> bool {
    deliver(event).is_some_and(|deliver| deliver.kind == Kind::Orderly)
}

/// Two neighbours of a key, each delivered for the first time, change their messages.
fn swap_deliveries(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let first_time = |events: &[Event], at: usize| {
        let mine = deliver(&events[at]).expect("one");
        !events[..at]
            .iter()
            .any(|event| deliver(event).is_some_and(|deliver| deliver.group == mine.group && deliver.queue == mine.queue && deliver.offset == mine.offset))
    };
    let Some(one) = pick(events, rng, |event| is_orderly(event) && event.done > 4_000_000_000) else { return false };
    let mine = deliver(&events[one]).expect("one").clone();
    let next = (one + 1..events.len()).find(|at| {
        deliver(&events[*at])
            .is_some_and(|deliver| deliver.group == mine.group && deliver.queue == mine.queue && deliver.key == mine.key && deliver.offset > mine.offset)
    });
    let Some(two) = next.filter(|two| first_time(events, one) && first_time(events, *two)) else { return false };
    let other = deliver(&events[two]).expect("one").clone();
    // Nothing was committed in between, as when one answer holds both.
    let between = places(&events[one..two], |event| matches!(&event.what, What::Commit(place) if place.queue == mine.queue));
    for at in between.into_iter().rev() {
        events.remove(one + at);
    }
    let two = (one + 1..events.len()).find(|at| deliver(&events[*at]).is_some_and(|deliver| *deliver == other)).expect("is there still");
    for (at, value) in [(one, &other), (two, &mine)] {
        let deliver = deliver_mut(&mut events[at]);
        (deliver.offset, deliver.value, deliver.attempt) = (value.offset, value.value, value.attempt);
    }
    true
}

fn two_at_a_time(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, is_orderly) else { return false };
    let (mine, process) = (deliver(&events[at]).expect("one").clone(), events[at].process);
    let through = events[at..].iter().find(|event| {
        event.process == process && matches!(&event.what, What::Consumed(consumed) if consumed.queue == mine.queue && consumed.offset == mine.offset)
    });
    let Some(until) = through.map(|event| event.invoke).filter(|until| *until > events[at].done + 2) else { return false };
    if events[at..].iter().take_while(|event| event.done < until).any(|event| event.process == process && matches!(event.what, What::Stopped)) {
        return false;
    }
    let mut other = at_time(&events[at], events[at].done, events[at].done + 1);
    other.process = if process == 21 { 22 } else { 21 };
    insert(events, other);
    true
}

fn lock_twice(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, |event| matches!(&event.what, What::Lock(lock) if matches!(lock.result, LockResult::Granted { .. }))) else {
        return false;
    };
    let mut other = at_time(&events[at], events[at].done + 1, events[at].done + 2);
    other.process = if other.process == 21 { 22 } else { 21 };
    let free = !events[at..]
        .iter()
        .take_while(|event| event.done < other.done + 1_000_000)
        .any(|event| event.process == events[at].process && matches!(&event.what, What::Stopped | What::Lock(_)) && event.invoke > events[at].done);
    insert(events, other);
    free
}

fn repeat_orderly(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, |event| matches!(&event.what, What::Consumed(consumed) if consumed.orderly && consumed.verdict == Verdict::Success))
    else {
        return false;
    };
    let What::Consumed(Consumed { queue, offset, .. }) = &events[at].what else { return false };
    let Some(first) =
        events[..at].iter().rev().find(|event| is_orderly(event) && deliver(event).is_some_and(|deliver| deliver.queue == *queue && deliver.offset == *offset))
    else {
        return false;
    };
    let again = at_time(first, events[at].done, events[at].done);
    events.insert(at + 1, again);
    true
}

/// A committed offset of which nothing was reset later, and the time of the commit.
fn kept_commit(events: &[Event], rng: &mut Rng) -> Option<(usize, Place)> {
    let reset = |place: &Place| {
        events
            .iter()
            .filter(|event| matches!(&event.what, What::Reset(reset) if reset.group == place.group && reset.queue == place.queue))
            .map(|event| event.done)
            .max()
            .unwrap_or(0)
    };
    let at = pick(events, rng, |event| matches!(&event.what, What::Commit(place) if place.outcome == Outcome::Ok && place.offset.0 > 3 && reset(place) == 0))?;
    if let What::Commit(place) = &events[at].what { Some((at, place.clone())) } else { None }
}

fn read_less(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some((at, place)) = kept_commit(events, rng) else { return false };
    let offset = QueueOffset(rng.below(place.offset.0));
    let late = events[at].done + 1 + rng.below(20_000_000_000);
    let read = Event { process: 91, what: What::Fetched(Fetched { group: place.group, queue: place.queue, offset }), ..at_time(&events[at], late, late) };
    insert(events, read);
    true
}

fn read_twice(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some((at, place)) = kept_commit(events, rng) else { return false };
    let read = |offset, at_: u64| Event {
        process: 91,
        what: What::Fetched(Fetched { group: place.group.clone(), queue: place.queue.clone(), offset }),
        ..at_time(&events[at], at_, at_)
    };
    let now = end(events);
    let (high, low) = (read(QueueOffset(1_000_000), now), read(QueueOffset(999_999), now + 1));
    events.extend([high, low]);
    true
}

fn commit_odd(events: &mut Vec<Event>, rng: &mut Rng, ahead: bool) -> bool {
    let Some((at, place)) = kept_commit(events, rng) else { return false };
    let (mut event, process) = (events[at].clone(), events[at].process);
    let place_of = |event: &mut Event, offset| {
        event.what = What::Commit(Place { offset: QueueOffset(offset), ..place.clone() });
    };
    if !ahead {
        place_of(&mut event, place.offset.0 - 1);
        let after = at_time(&event, events[at].done, events[at].done);
        events.insert(at + 1, after);
        return true;
    }
    // Right after the next message came to it.
    let next = (at..events.len()).find(|at| {
        events[*at].process == process && deliver(&events[*at]).is_some_and(|deliver| deliver.queue == place.queue && deliver.offset >= place.offset)
    });
    let Some(next) = next.filter(|_| !place.queue.topic.as_str().starts_with('%')) else { return false };
    place_of(&mut event, deliver(&events[next]).expect("one").offset.0 + 1);
    let after = at_time(&event, events[next].done, events[next].done);
    events.insert(next + 1, after);
    true
}

fn is_pop(event: &Event) -> bool {
    deliver(event).is_some_and(|deliver| deliver.kind == Kind::Pop)
}

fn same(event: &Event, offset: QueueOffset) -> bool {
    matches!(&event.what, What::Ack(ack) if ack.offset == offset) || matches!(&event.what, What::Change(change) if change.offset == offset)
}

/// Gives a message to the other consumer while the lease lasts, and lets nobody end the lease.
fn second_lease(events: &mut Vec<Event>, rng: &mut Rng, from: impl Fn(Lease, u64) -> u64, node: u32) -> bool {
    let Some(at) = pick(events, rng, is_pop) else { return false };
    let first = deliver(&events[at]).expect("one").clone();
    let Some(lease) = first.lease else { return false };
    let (start, offset) = (from(lease, rng.next()), first.offset);
    let mut second = events[at].clone();
    second.process = if second.process == 51 { 52 } else { 51 };
    let shift = start - lease.from;
    (second.invoke, second.done) = (second.done + 1 + shift / 2, second.done + 2 + shift / 2);
    if let Some(by) = &mut second.by {
        by.node.id = (by.node.id + node) % 3;
    }
    deliver_mut(&mut second).lease = Some(Lease { from: start, until: start + 1_000_000_000 });
    events.retain(|event| !same(event, offset));
    insert(events, second);
    true
}

fn overlap(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    second_lease(events, rng, |lease, number| lease.from + 1 + number % (lease.until - lease.from - 1), 0)
}

fn overlap_at_once(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    second_lease(events, rng, |lease, _| lease.from, 0)
}

fn overlap_elsewhere(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    second_lease(events, rng, |lease, _| lease.from + 1, 1)
}

fn overlap_change(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let longer = |event: &Event| matches!(&event.what, What::Change(change) if change.outcome == Outcome::Ok && change.lease.until > change.lease.from);
    let Some(at) = pick(events, rng, longer) else { return false };
    let What::Change(change) = events[at].what.clone() else { return false };
    let Some(first) = events[..at].iter().rev().find(|event| is_pop(event) && deliver(event).is_some_and(|deliver| deliver.offset == change.offset)) else {
        return false;
    };
    let mut second = at_time(first, events[at].done, events[at].done + 1);
    second.by = events[at].by;
    second.process = if first.process == 51 { 52 } else { 51 };
    if events[at].by.map(|by| by.node) != first.by.map(|by| by.node) {
        return false;
    }
    deliver_mut(&mut second).lease = Some(Lease { from: change.lease.until - 1, until: change.lease.until + 1_000_000_000 });
    events.retain(|event| !matches!(&event.what, What::Ack(ack) if ack.offset == change.offset));
    insert(events, second);
    true
}

fn forget_ack(events: &mut Vec<Event>, rng: &mut Rng, later: u64) -> bool {
    let Some(at) = pick(events, rng, |event| matches!(&event.what, What::Ack(ack) if ack.outcome == Outcome::Ok)) else { return false };
    let What::Ack(ack) = events[at].what.clone() else { return false };
    let Some(first) = events[..at].iter().rev().find(|event| is_pop(event) && deliver(event).is_some_and(|deliver| deliver.offset == ack.offset)) else {
        return false;
    };
    let now = events[at].done + later;
    let mut again = at_time(first, now, now + 1);
    deliver_mut(&mut again).lease = Some(Lease { from: now + 1_000_000_000, until: now + 2_000_000_000 });
    insert(events, again);
    true
}

fn forget_commit(events: &mut Vec<Event>, rng: &mut Rng, assigned: bool) -> bool {
    let Some((at, place)) = kept_commit(events, rng) else { return false };
    let below =
        |event: &Event| deliver(event).is_some_and(|deliver| deliver.group == place.group && deliver.queue == place.queue && deliver.offset < place.offset);
    let Some(first) = events[..at].iter().rev().find(|event| below(event) && event.process == events[at].process) else { return false };
    let now = events[at].done;
    let offset = deliver(first).expect("one").offset;
    let again = at_time(first, now + 1, now + 1);
    let Place { group, queue, .. } = place;
    let new = Event { process: again.process, what: What::Assigned(Fetched { group, queue, offset }), ..at_time(&again, now + 1, now + 1) };
    events.insert(at + 1, again);
    if assigned {
        events.insert(at + 1, new);
    }
    // Nothing else has that time.
    events[at + 1..].iter().take(4).all(|event| event.done > now) && events.is_sorted_by_key(|event| event.done)
}

fn later(events: &[Event], rng: &mut Rng, attempt: impl Fn(u32) -> bool) -> Option<Consumed> {
    let at = pick(
        events,
        rng,
        |event| matches!(&event.what, What::Consumed(consumed) if consumed.verdict == Verdict::Later && consumed.outcome == Outcome::Ok && !consumed.orderly && attempt(consumed.attempt)),
    )?;
    if let What::Consumed(consumed) = &events[at].what { Some(consumed.clone()) } else { None }
}

fn is_attempt(event: &Event, consumed: &Consumed, attempt: u32) -> bool {
    deliver(event).is_some_and(|deliver| deliver.group == consumed.group && deliver.value == consumed.value && deliver.attempt == attempt)
}

fn skip_level(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(consumed) = later(events, rng, |attempt| attempt == 1 || attempt == 2) else { return false };
    let before = events.len();
    events.retain(|event| !is_attempt(event, &consumed, consumed.attempt));
    events.len() < before && events.iter().any(|event| is_attempt(event, &consumed, consumed.attempt + 1))
}

fn no_retry(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(consumed) = later(events, rng, |attempt| attempt < 3) else { return false };
    let before = events.len();
    events.retain(|event| !is_attempt(event, &consumed, consumed.attempt + 1));
    events.len() < before
}

fn is_dead(event: &Event, consumed: &Consumed) -> bool {
    deliver(event).is_some_and(|deliver| deliver.queue.topic.is_dead_letters() && deliver.value == consumed.value)
}

fn no_dead_letter(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(consumed) = later(events, rng, |attempt| attempt == 3) else { return false };
    let before = events.len();
    events.retain(|event| !is_dead(event, &consumed));
    events.len() < before
}

fn two_dead_letters(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(consumed) = later(events, rng, |attempt| attempt == 3) else { return false };
    let failures = places(
        events,
        |event| matches!(&event.what, What::Consumed(other) if other.value == consumed.value && other.verdict == Verdict::Later && other.attempt == 3),
    );
    let Some(at) = pick(events, rng, |event| is_dead(event, &consumed)) else { return false };
    for more in 0..failures.len() as u64 {
        let mut event = at_time(&events[at], end(events), end(events));
        deliver_mut(&mut event).offset = QueueOffset(1_000_000 + more);
        insert(events, event);
    }
    true
}

fn unfounded_dead_letter(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let failed: Vec<_> = events
        .iter()
        .filter_map(|event| {
            if let What::Consumed(consumed) = &event.what {
                (consumed.verdict == Verdict::Later && consumed.attempt == 3).then_some(consumed.value)
            } else {
                None
            }
        })
        .collect();
    let Some(at) = pick(events, rng, |event| deliver(event).is_some_and(|deliver| deliver.group.as_str() == "g-pull" && !failed.contains(&deliver.value)))
    else {
        return false;
    };
    let mut event = at_time(&events[at], end(events), end(events));
    let deliver = deliver_mut(&mut event);
    (deliver.queue.topic, deliver.queue.id, deliver.offset) = (topic("%DLQ%g-pull"), QueueId(0), QueueOffset(1_000_000));
    insert(events, event);
    true
}

fn retry_too_often(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(consumed) = later(events, rng, |attempt| attempt == 3) else { return false };
    let Some(at) = pick(events, rng, |event| is_attempt(event, &consumed, 3)) else { return false };
    let mut event = at_time(&events[at], end(events), end(events));
    let deliver = deliver_mut(&mut event);
    (deliver.attempt, deliver.offset) = (4, QueueOffset(1_000_000));
    insert(events, event);
    true
}
