//! Kills and power cuts around delayed messages.

use crate::{
    bench::{Bench, message},
    transactions_crashing::{cut, open_unflushed, points, stop, unflushed},
};
use sluice_delivery::SendRequest;
use sluice_env::sim::{self, SimDisk};
use sluice_store::{MetaTable, Store, StoreOptions};
use sluice_types::CommitLogOffset;
use std::{sync::Arc, time::Duration};

const BODIES: [&str; 3] = ["a", "b", "c"];

/// A broker that has given out three delayed messages in one batch; and where the log ended after the last that waited, after each that was given out, and after all.
fn given_out() -> (Bench, Vec<u64>) {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    for body in BODIES {
        let own = format!("DELAY\u{1}1\u{2}UNIQ_KEY\u{1}id-{body}\u{2}");
        bench.send(SendRequest { properties: &own, ..message("orders", body) }).expect("stored");
    }
    let mut ends = vec![bench.store.status().appended.0];
    bench.clock.advance(Duration::from_secs(5));
    await_all(&bench);
    for _ in BODIES {
        let at = ends[ends.len() - 1];
        ends.push(at + bench.store.record_at(CommitLogOffset(at)).expect("a message").len() as u64);
    }
    ends.push(bench.store.status().appended.0);
    assert!(ends[4] > ends[3], "the note of the progress comes last: {ends:?}");
    (bench, ends)
}

/// Until the level's note says that nothing waits any more.
fn await_all(bench: &Bench) {
    let all = (BODIES.len() as u64).to_be_bytes().to_vec();
    bench.until("all are given out", || bench.store.meta(MetaTable::Delay) == [("1".to_owned(), all.clone())]);
}

fn each_came_once(bench: &Bench, what: &str) {
    await_all(bench);
    let bodies: Vec<String> = bench.contents("orders", 0).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, BODIES, "{what}");
}

#[test]
fn wherever_the_log_ends_a_delayed_message_is_given_out_once() {
    let (bench, ends) = given_out();
    for at in points(&(ends[0]..ends[4])) {
        let crashed = open_unflushed(cut(&bench.disk, at), bench.clock.clone());
        each_came_once(&crashed, &format!("the log ended at {at}"));
        stop(&crashed);
    }
    stop(&bench);
}

#[test]
fn wherever_the_log_ends_again_after_a_start_a_delayed_message_is_given_out_once() {
    let (bench, ends) = given_out();
    for end in &ends[1..4] {
        let first = open_unflushed(cut(&bench.disk, *end), bench.clock.clone());
        each_came_once(&first, &format!("the log ended at {end}"));
        for at in points(&(*end..first.store.status().appended.0)) {
            let crashed = open_unflushed(cut(&first.disk, at), bench.clock.clone());
            each_came_once(&crashed, &format!("the log ended at {end} and then at {at}"));
            stop(&crashed);
        }
        stop(&first);
    }
    stop(&bench);
}

/// How the one after him comes by the log of a master that did nothing but begin his epoch.
#[derive(Clone, Copy, Debug)]
enum Next {
    Killed,
    KilledAfterACheckpoint,
    Followed,
}

/// Who becomes master on a log that ends in the middle of a batch may be gone before he has done more than to write that his epoch begins.
#[test]
fn a_delayed_message_at_a_replicas_logs_end_is_given_out_once_whoever_becomes_master_and_dies() {
    let (bench, ends) = given_out();
    for (end, next) in ends[1..4].iter().flat_map(|end| [(*end, Next::Killed), (*end, Next::KilledAfterACheckpoint), (*end, Next::Followed)]) {
        let second = second_master(&bench.store, end, next);
        each_came_once(&second, &format!("the log ended at {end}, {next:?}"));
        stop(&second);
    }
    stop(&bench);
}

fn second_master(log: &Store, end: u64, next: Next) -> Bench {
    let options = StoreOptions { replicated: true, ..unflushed() };
    let (env, disk, clock) = sim::env(9);
    clock.advance(Duration::from_secs(60));
    let first = Store::open(env, options.clone()).expect("opens");
    follow(&first, log, end);
    first.begin_epoch(2).expect("begun");
    first.confirm(CommitLogOffset(u64::MAX));
    if let Next::KilledAfterACheckpoint = next {
        first.flush().expect("flushed");
        first.checkpoint().expect("written");
    }
    let left = if let Next::Followed = next { SimDisk::new() } else { disk.kill() };
    let env = sim::env_over(9, &left, &clock);
    let second = Store::open(env.clone(), options).expect("opens");
    if let Next::Followed = next {
        follow(&second, &first, first.marks().appended.0);
    }
    second.begin_epoch(3).expect("begun");
    second.confirm(CommitLogOffset(u64::MAX));
    Bench::open_over(env, left, clock, second, |_| (), Arc::new(|work| drop(std::thread::spawn(work))))
}

fn follow(store: &Store, other: &Store, end: u64) {
    let log = other.range(CommitLogOffset(0), end as usize).expect("readable");
    store.follow(CommitLogOffset(0), &log).expect("taken");
}
