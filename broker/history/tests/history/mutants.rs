//! Ways to break a correct history, each of which one check must find.
#![allow(clippy::ptr_arg, reason = "all ways of breaking a history have one type, though some need no vector")]

mod consuming;
mod messages;
mod running;

use crate::rng::Rng;
use sluice_history::{Check, Deliver, Event, Outcome, Sent, What};
use sluice_types::Topic;

/// Breaks a history in one place; false when it has no such place.
pub(crate) type Break = fn(&mut Vec<Event>, &mut Rng) -> bool;

/// The check that must find it, what is done, and how.
pub(crate) type Mutation = (Check, &'static str, Break);

/// All of them, by check.
pub(crate) fn all() -> Vec<Mutation> {
    let mut all = messages::mutations();
    all.extend(consuming::mutations());
    all.extend(running::mutations());
    all.sort_by_key(|(check, ..)| *check);
    all
}

/// The events that are like this, by their places.
pub(crate) fn places(events: &[Event], like: impl Fn(&Event) -> bool) -> Vec<usize> {
    (0..events.len()).filter(|at| like(&events[*at])).collect()
}

pub(crate) fn pick(events: &[Event], rng: &mut Rng, like: impl Fn(&Event) -> bool) -> Option<usize> {
    let places = places(events, like);
    rng.pick(&places).copied()
}

pub(crate) fn sent(event: &Event) -> Option<&Sent> {
    if let What::Send(sent) = &event.what { Some(sent) } else { None }
}

pub(crate) fn deliver(event: &Event) -> Option<&Deliver> {
    if let What::Deliver(deliver) = &event.what { Some(deliver) } else { None }
}

pub(crate) fn deliver_mut(event: &mut Event) -> &mut Deliver {
    if let What::Deliver(deliver) = &mut event.what { deliver } else { panic!("a delivery was picked") }
}

pub(crate) fn sent_mut(event: &mut Event) -> &mut Sent {
    if let What::Send(sent) = &mut event.what { sent } else { panic!("a send was picked") }
}

pub(crate) fn is_acked(event: &Event) -> bool {
    sent(event).is_some_and(|sent| sent.outcome == Outcome::Ok)
}

/// A delivery from a topic that producers send to.
pub(crate) fn is_first_hand(event: &Event) -> bool {
    deliver(event).is_some_and(|deliver| !deliver.queue.topic.as_str().starts_with('%'))
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("legal")
}

/// Puts an event where its time says.
pub(crate) fn insert(events: &mut Vec<Event>, event: Event) {
    let at = events.partition_point(|other| other.done <= event.done);
    events.insert(at, event);
}

pub(crate) fn at_time(event: &Event, invoke: u64, done: u64) -> Event {
    Event { invoke, done, ..event.clone() }
}

/// The sends that were the only try for their value, and so are the only ones to explain it.
pub(crate) fn only_tries(events: &[Event], like: impl Fn(&Event, &Sent) -> bool) -> Vec<usize> {
    let tries = places(events, |event| sent(event).is_some());
    let mut count = std::collections::BTreeMap::new();
    for at in &tries {
        let value = sent(&events[*at]).expect("is one").value;
        *count.entry((value.process, value.number)).or_insert(0) += 1;
    }
    tries
        .into_iter()
        .filter(|at| {
            let sent = sent(&events[*at]).expect("is one");
            count[&(sent.value.process, sent.value.number)] == 1 && like(&events[*at], sent)
        })
        .collect()
}

/// The last time of all.
pub(crate) fn end(events: &[Event]) -> u64 {
    events.last().map_or(0, |event| event.done)
}
