//! C1 to C4, C7 and C8: what is sent and what comes.

use super::{Mutation, at_time, deliver, deliver_mut, end, insert, is_acked, is_first_hand, only_tries, pick, places, sent, sent_mut, topic};
use crate::rng::Rng;
use sluice_history::{Action, Check, Event, Mode, Outcome, Recall, SendKind, Value, What};
use sluice_types::{QueueId, QueueOffset};

pub(super) fn mutations() -> Vec<Mutation> {
    vec![
        (Check::C1, "no delivery of an acknowledged message to any group", |events, rng| lose(events, rng, None)),
        (Check::C1, "no delivery of an acknowledged message to one of two groups", |events, rng| lose(events, rng, Some("plain"))),
        (Check::C1, "no delivery of an acknowledged delayed message", |events, rng| lose(events, rng, Some("delays"))),
        (Check::C1, "a refused send was acknowledged", acknowledge_refused),
        (Check::C1, "asynchronous, lost outside of the faults' reach", |events, rng| lose_async(events, rng, 1000)),
        (Check::C1, "asynchronous, more lost than the bound", |events, rng| lose_async(events, rng, 0)),
        (Check::C2, "another body", |events, rng| change(events, rng, |value| value.body ^= 1)),
        (Check::C2, "other properties", |events, rng| change(events, rng, |value| value.properties ^= 1)),
        (Check::C2, "a value that was never sent", |events, rng| change(events, rng, |value| value.number += 1_000_000)),
        (Check::C2, "the send of what came was refused", refuse_seen),
        (Check::C2, "it came before its send was begun", send_later),
        (Check::C3, "a second copy without a second try", copy),
        (Check::C3, "the same consumer gets again what it has consumed", repeat_consumed),
        (Check::C3, "a second copy in another queue", copy_elsewhere),
        (Check::C3, "a retry of what did not fail", retry_unprovoked),
        (Check::C4, "a send is given another one's offset", give_offset_twice),
        (Check::C4, "a delivery shows another value", show_other),
        (Check::C4, "a delivery long after a failover shows another value", show_other_late),
        (Check::C4, "offsets are left out", leave_out_offsets),
        (Check::C7, "no delivery of a committed message", lose_committed),
        (Check::C7, "a rolled back message comes", show_rolled_back),
        (Check::C7, "a message comes before its commit", commit_later),
        (Check::C7, "a message that nobody committed comes", never_commit),
        (Check::C7, "a committed message comes at two offsets", commit_twice),
        (Check::C8, "before it is due", |events, rng| shift_due(events, rng, true)),
        (Check::C8, "long after it is due", |events, rng| shift_due(events, rng, false)),
        (Check::C8, "one nanosecond before it is due", just_early),
        (Check::C8, "a retry one nanosecond before its delay has passed", retry_early),
        (Check::C8, "after its recall", recall_seen),
    ]
}

fn forget(events: &mut Vec<Event>, value: Value, group: Option<&str>) -> bool {
    let before = events.len();
    events.retain(|event| {
        deliver(event).is_none_or(|deliver| {
            (deliver.value.process, deliver.value.number) != (value.process, value.number) || group.is_some_and(|group| deliver.group.as_str() != group)
        })
    });
    events.len() < before
}

fn lose(events: &mut Vec<Event>, rng: &mut Rng, of: Option<&str>) -> bool {
    let recalled = |value| events.iter().any(|event| matches!(&event.what, What::Recall(recall) if recall.value == value));
    let like = |event: &Event| {
        is_acked(event)
            && sent(event).is_some_and(|sent| sent.kind != SendKind::Half && of.is_none_or(|of| sent.queue.topic == topic(of)) && !recalled(sent.value))
    };
    let Some(at) = pick(events, rng, like) else { return false };
    let value = sent(&events[at]).expect("picked").value;
    forget(events, value, (of == Some("plain")).then_some("g-pull"))
}

/// Makes the history one of an asynchronous mode that may lose so many, and loses one: within reach of a fault only if none may be lost.
fn lose_async(events: &mut Vec<Event>, rng: &mut Rng, bound: u64) -> bool {
    const WINDOW: u64 = 200_000_000;
    let mut faults: Vec<(u64, u64)> = Vec::new();
    for event in events.iter_mut() {
        match &mut event.what {
            What::Configure(config) => (config.flush, config.loss_window, config.loss_count_max) = (Mode::Async, WINDOW, bound),
            What::FaultBegin { .. } => faults.push((event.done, u64::MAX)),
            What::Heal => faults.iter_mut().for_each(|fault| fault.1 = fault.1.min(event.done)),
            _ => {}
        }
    }
    let in_reach = |at: u64| faults.iter().any(|fault| at + WINDOW >= fault.0 && at <= fault.1);
    let like = |event: &Event| is_acked(event) && sent(event).is_some_and(|sent| sent.queue.topic == topic("plain")) && in_reach(event.done) == (bound == 0);
    let Some(at) = pick(events, rng, like) else { return false };
    let value = sent(&events[at]).expect("picked").value;
    // Another acknowledged try may lie elsewhere in time.
    places(events, |event| sent(event).is_some_and(|sent| sent.value == value)).len() == 1 && forget(events, value, Some("g-pull"))
}

fn acknowledge_refused(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let places = only_tries(events, |_, sent| sent.outcome == Outcome::Failed && sent.kind == SendKind::Normal);
    let Some(at) = rng.pick(&places).copied() else { return false };
    sent_mut(&mut events[at]).outcome = Outcome::Ok;
    true
}

fn change(events: &mut [Event], rng: &mut Rng, how: fn(&mut Value)) -> bool {
    let Some(at) = pick(events, rng, |event| deliver(event).is_some()) else { return false };
    how(&mut deliver_mut(&mut events[at]).value);
    true
}

fn is_seen(events: &[Event], value: Value) -> bool {
    events.iter().any(|event| deliver(event).is_some_and(|deliver| deliver.value == value))
}

fn refuse_seen(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let places = only_tries(events, |_, _| true);
    let Some(at) = (0..20).filter_map(|_| rng.pick(&places).copied()).find(|at| is_seen(events, sent(&events[*at]).expect("one").value)) else { return false };
    let sent = sent_mut(&mut events[at]);
    (sent.outcome, sent.offset) = (Outcome::Failed, None);
    true
}

fn send_later(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let places = only_tries(events, |_, sent| sent.kind == SendKind::Normal);
    let Some(at) = rng.pick(&places).copied() else { return false };
    let Some(seen) = places_of(events, sent(&events[at]).expect("one").value).first().map(|at| events[*at].done) else { return false };
    let event = events.remove(at);
    insert(events, at_time(&event, seen + 1, seen + 2));
    true
}

fn places_of(events: &[Event], value: Value) -> Vec<usize> {
    places(events, |event| deliver(event).is_some_and(|deliver| deliver.value == value))
}

/// A delivery whose value was sent once.
fn once_sent(events: &[Event], rng: &mut Rng, like: impl Fn(&Event) -> bool) -> Option<usize> {
    let once = only_tries(events, |_, _| true);
    let values: std::collections::BTreeSet<_> =
        once.iter().map(|at| sent(&events[*at]).expect("one").value).map(|value| (value.process, value.number)).collect();
    pick(events, rng, |event| {
        is_first_hand(event) && like(event) && deliver(event).is_some_and(|deliver| values.contains(&(deliver.value.process, deliver.value.number)))
    })
}

fn copy(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = once_sent(events, rng, |event| deliver(event).is_some_and(|deliver| deliver.queue.topic != topic("tx"))) else { return false };
    let mut event = at_time(&events[at], events[at].done, events[at].done + 1);
    deliver_mut(&mut event).offset = QueueOffset(1_000_000);
    insert(events, event);
    true
}

fn copy_elsewhere(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = once_sent(events, rng, |event| deliver(event).is_some_and(|deliver| deliver.queue.topic == topic("plain"))) else { return false };
    let mut event = at_time(&events[at], events[at].done, events[at].done + 1);
    deliver_mut(&mut event).queue.id = QueueId(7);
    insert(events, event);
    true
}

/// A success, and the same message once more to the same consumer before anything is committed or assigned.
fn repeat_consumed(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let like = |at: &usize| {
        let What::Consumed(consumed) = &events[*at].what else { return false };
        let group = consumed.group.as_str();
        let mut before = events[..*at].iter().rev().take(400);
        let delivery = before.find(|event| {
            deliver(event).is_some_and(|deliver| deliver.group == consumed.group && deliver.queue == consumed.queue && deliver.offset == consumed.offset)
        });
        let is_fresh =
            |since: u64| !events.iter().any(|event| event.done >= since && event.invoke <= events[*at].done && matches!(&event.what, What::Reset(_)));
        consumed.verdict == sluice_history::Verdict::Success
            && group != "g-pop"
            && group != "g-order"
            && delivery.is_some_and(|delivery| is_fresh(delivery.invoke))
    };
    let candidates: Vec<_> = (0..events.len()).filter(like).collect();
    let Some(at) = rng.pick(&candidates).copied() else { return false };
    let What::Consumed(consumed) = &events[at].what else { return false };
    let (group, queue, offset) = (consumed.group.clone(), consumed.queue.clone(), consumed.offset);
    let Some(first) = events[..at]
        .iter()
        .rev()
        .find(|event| deliver(event).is_some_and(|deliver| deliver.group == group && deliver.queue == queue && deliver.offset == offset))
    else {
        return false;
    };
    let again = at_time(first, events[at].done, events[at].done);
    events.insert(at + 1, again);
    true
}

fn retry_unprovoked(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let failed: Vec<_> = events
        .iter()
        .filter_map(|event| {
            if let What::Consumed(consumed) = &event.what { (consumed.verdict == sluice_history::Verdict::Later).then_some(consumed.value) } else { None }
        })
        .collect();
    let like =
        |event: &Event| deliver(event).is_some_and(|deliver| deliver.group.as_str() == "g-pull" && deliver.attempt == 0 && !failed.contains(&deliver.value));
    let Some(at) = pick(events, rng, like) else { return false };
    let mut event = at_time(&events[at], end(events), end(events));
    let deliver = deliver_mut(&mut event);
    (deliver.attempt, deliver.queue.topic, deliver.queue.id, deliver.offset) = (1, topic("%RETRY%g-pull"), QueueId(0), QueueOffset(1_000_000));
    insert(events, event);
    true
}

fn give_offset_twice(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let given = |event: &Event| sent(event).is_some_and(|sent| sent.offset.is_some());
    let Some(at) = pick(events, rng, given) else { return false };
    let (queue, mine) = (sent(&events[at]).expect("one").queue.clone(), sent(&events[at]).expect("one").offset);
    let Some(other) = pick(events, rng, |event| given(event) && sent(event).is_some_and(|sent| sent.queue == queue && sent.offset != mine)) else {
        return false;
    };
    sent_mut(&mut events[other]).offset = mine;
    true
}

fn show_other(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, is_first_hand) else { return false };
    let queue = deliver(&events[at]).expect("one").queue.clone();
    let Some(other) = pick(events, rng, |event| sent(event).is_some_and(|sent| sent.queue == queue) && event.done < events[at].invoke) else { return false };
    let value = sent(&events[other]).expect("one").value;
    if deliver(&events[at]).expect("one").value == value {
        return false;
    }
    deliver_mut(&mut events[at]).value = value;
    true
}

fn show_other_late(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let masters = places(events, |event| matches!(&event.what, What::Node { event: sluice_history::NodeEvent::Master { .. }, .. }));
    let Some(before) = masters.last().copied().filter(|_| masters.len() > 1) else { return false };
    let Some(at) = pick(&events[..before], rng, is_first_hand) else { return false };
    let Some(other) =
        pick(&events[..before], rng, |event| is_first_hand(event) && deliver(event).expect("one").value != deliver(&events[at]).expect("one").value)
    else {
        return false;
    };
    let value = deliver(&events[other]).expect("one").value;
    let mut late = at_time(&events[at], end(events), end(events));
    deliver_mut(&mut late).value = value;
    insert(events, late);
    true
}

/// All offsets of a queue from one on are higher than they should be.
fn leave_out_offsets(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, is_first_hand) else { return false };
    let (queue, from) = (deliver(&events[at]).expect("one").queue.clone(), deliver(&events[at]).expect("one").offset);
    let up = |offset: &mut QueueOffset| {
        if *offset > from {
            offset.0 += 1000;
        }
    };
    let mut moved = false;
    for event in events {
        match &mut event.what {
            What::Send(sent) if sent.queue == queue => sent.offset.iter_mut().for_each(up),
            What::Deliver(deliver) if deliver.queue == queue => {
                up(&mut deliver.offset);
                moved |= deliver.offset.0 > 1000;
            }
            _ => {}
        }
    }
    moved
}

fn committed(events: &[Event], rng: &mut Rng) -> Option<Value> {
    let at = pick(
        events,
        rng,
        |event| matches!(&event.what, What::End(end) if end.action == Action::Commit && end.outcome == Outcome::Ok && is_seen(events, end.value)),
    )?;
    if let What::End(end) = &events[at].what { Some(end.value) } else { None }
}

fn lose_committed(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    committed(events, rng).is_some_and(|value| forget(events, value, None))
}

fn show_rolled_back(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(value) = committed(events, rng) else { return false };
    for event in events {
        if let What::End(end) = &mut event.what
            && end.value == value
            && end.action == Action::Commit
        {
            (end.action, end.outcome) = (Action::Rollback, Outcome::Ok);
        }
    }
    true
}

fn commit_later(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(value) = committed(events, rng) else { return false };
    let Some(seen) = places_of(events, value).first().map(|at| events[*at].done) else { return false };
    let ends = places(events, |event| matches!(&event.what, What::End(end) if end.value == value && end.action == Action::Commit));
    for at in ends.into_iter().rev() {
        let event = events.remove(at);
        insert(events, at_time(&event, seen + 1, seen + 2));
    }
    true
}

fn never_commit(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(value) = committed(events, rng) else { return false };
    events.retain(|event| !matches!(&event.what, What::End(end) if end.value == value));
    true
}

fn commit_twice(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(value) = committed(events, rng) else { return false };
    let Some(at) = places_of(events, value).first().copied() else { return false };
    let mut event = at_time(&events[at], end(events), end(events));
    deliver_mut(&mut event).offset = QueueOffset(1_000_000);
    insert(events, event);
    true
}

fn is_delayed(event: &Event) -> bool {
    deliver(event).is_some_and(|deliver| deliver.queue.topic == topic("delays"))
}

fn due_of(events: &[Event], value: Value) -> Option<(usize, u64)> {
    events.iter().enumerate().find_map(|(at, event)| match sent(event).filter(|sent| sent.value == value)?.kind {
        SendKind::Delayed { due } => Some((at, due)),
        _ => None,
    })
}

/// Moves the due times of all tries of a message.
fn move_due(events: &mut [Event], value: Value, due: u64) {
    for event in events {
        if let What::Send(sent) = &mut event.what
            && sent.value == value
        {
            sent.kind = SendKind::Delayed { due };
        }
    }
}

fn shift_due(events: &mut Vec<Event>, rng: &mut Rng, early: bool) -> bool {
    const LATE: u64 = 3_000_000_000;
    let faults: Vec<_> = events.iter().filter(|event| matches!(&event.what, What::FaultBegin { .. } | What::Heal)).map(|event| event.done).collect();
    // Late is wrong only while all is well.
    let is_well = |event: &Event| !faults.iter().any(|fault| *fault <= event.done && fault + 17_000_000_000 > event.done);
    let Some(at) = pick(events, rng, |event| is_delayed(event) && event.done > 8_000_000_000 && (early || is_well(event))) else { return false };
    let (value, clock) = (deliver(&events[at]).expect("one").value, deliver(&events[at]).expect("one").clock);
    let by = 1 + rng.below(500_000_000);
    // The first delivery shows it.
    let Some(first) = places_of(events, value).first().copied().filter(|first| *first == at) else { return false };
    move_due(events, value, if early { clock + by } else { clock - LATE - by });
    first == at
}

fn just_early(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, is_delayed) else { return false };
    let value = deliver(&events[at]).expect("one").value;
    let Some((_, due)) = due_of(events, value) else { return false };
    let Some(first) = places_of(events, value).first().copied() else { return false };
    deliver_mut(&mut events[first]).clock = due - 1;
    true
}

fn retry_early(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let due = |event: &Event| if let What::Consumed(consumed) = &event.what { Some((consumed.value, consumed.attempt + 1, consumed.due?)) } else { None };
    let Some(at) = pick(events, rng, |event| due(event).is_some()) else { return false };
    let Some((value, attempt, _)) = due(&events[at]) else { return false };
    // What was said to have failed several times has several times when it may come.
    let Some(first) = events.iter().filter_map(due).filter(|other| (other.0, other.1) == (value, attempt)).map(|other| other.2).min() else { return false };
    let Some(came) = events.iter_mut().find(|event| deliver(event).is_some_and(|deliver| deliver.value == value && deliver.attempt == attempt)) else {
        return false;
    };
    deliver_mut(came).clock = first - 1;
    true
}

fn recall_seen(events: &mut Vec<Event>, rng: &mut Rng) -> bool {
    let Some(at) = pick(events, rng, is_delayed) else { return false };
    let value = deliver(&events[at]).expect("one").value;
    let Some((sent, _)) = due_of(events, value) else { return false };
    let recall = Event { what: What::Recall(Recall { value, outcome: Outcome::Ok }), ..at_time(&events[sent], events[sent].done, events[sent].done + 1) };
    insert(events, recall);
    true
}
