//! How fast the checker is, and how much memory it takes: `cargo test --release -p sluice-history --test history -- --ignored --nocapture speed`.
#![allow(clippy::disallowed_methods)]

use crate::model;
use sluice_history::{Checker, Event, Node, Queue, What, check, write};
use std::{collections::BTreeMap, time::Instant};

const EVENTS_MIN: u64 = 10_000_000;

/// Resident memory in MiB, where the system tells of it.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    (pages.unwrap_or(0) * 4096) >> 20
}

/// The same history again in another shard, with other clients and later: one long history of many parts.
fn part(events: &[Event], number: u32, last: u64) -> Vec<Event> {
    let shift = u64::from(number) * last;
    let in_shard = |queue: &mut Queue| queue.shard = number;
    let at_node = |node: &mut Node| node.shard = number;
    let value = |value: &mut sluice_history::Value| value.process += number * 100;
    let mut events = events.to_vec();
    for event in &mut events {
        (event.invoke, event.done, event.process) = (event.invoke + shift, event.done + shift, event.process + number * 100);
        event.by.iter_mut().for_each(|by| at_node(&mut by.node));
        match &mut event.what {
            What::Send(sent) => (in_shard(&mut sent.queue), value(&mut sent.value)).1,
            What::End(end) => value(&mut end.value),
            What::Recall(recall) => value(&mut recall.value),
            What::Deliver(deliver) => (in_shard(&mut deliver.queue), value(&mut deliver.value)).1,
            What::Consumed(consumed) => (in_shard(&mut consumed.queue), value(&mut consumed.value)).1,
            What::Commit(place) | What::Reset(place) => in_shard(&mut place.queue),
            What::Assigned(fetched) | What::Fetched(fetched) => in_shard(&mut fetched.queue),
            What::Revoked(revoked) => in_shard(&mut revoked.queue),
            What::Lock(lock) => in_shard(&mut lock.queue),
            What::Ack(ack) => in_shard(&mut ack.queue),
            What::Change(change) => in_shard(&mut change.queue),
            What::Node { node, .. } => at_node(node),
            What::Digest(digest) => at_node(&mut digest.node),
            _ => {}
        }
    }
    events
}

#[test]
#[ignore = "takes a minute and wants a release build"]
fn speed() {
    let seed = 4;
    let history: Vec<_> = model::history_of(seed, 60 * model::SECOND).into_iter().filter(|event| !matches!(event.what, What::Drained(_))).collect();
    let last = history.last().map_or(0, |event| event.done) + 1;
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    let (mut checker, mut pushed, mut number) = (Checker::default(), 0, 0);
    let before = resident();
    while pushed < EVENTS_MIN {
        let events = part(&history, number, last);
        number += 1;
        let mut lines = Vec::new();
        if number == 1 {
            events.iter().for_each(|event| write(&mut lines, event).expect("a vector takes it"));
            let start = Instant::now();
            check(&lines[..]).expect("is well formed");
            sums.insert("a part with reading, s", start.elapsed().as_secs_f64());
            sums.insert("bytes a line", lines.len() as f64 / events.len() as f64);
        }
        let start = Instant::now();
        for event in &events {
            checker.push(event).expect("is well formed");
        }
        *sums.entry("checking, s").or_default() += start.elapsed().as_secs_f64();
        pushed += events.len() as u64;
    }
    let memory = resident();
    let start = Instant::now();
    let report = checker.finish();
    *sums.entry("checking, s").or_default() += start.elapsed().as_secs_f64();
    println!("{pushed} events in {number} parts: {sums:?}; {} MiB resident, {before} before\n{report}", memory);
    assert!(report.is_clean());
}
