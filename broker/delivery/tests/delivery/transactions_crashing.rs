//! Kills and power cuts around transactions.

use crate::{
    bench::{Bench, client, group},
    transactions::{HALF, half, visible},
};
use sluice_delivery::{EndError, SendReceipt, SendRequest, Verdict};
use sluice_env::{
    Disk, OpenMode,
    sim::{self, SimClock, SimDisk},
};
use sluice_store::{FlushMode, Store, StoreOptions};
use sluice_types::CommitLogOffset;
use std::{ops::Range, sync::Arc, time::Duration};

const SEGMENT: &str = "commitlog/00000000000000000000";
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// Nothing is flushed by itself, so that the log may end anywhere.
pub(crate) fn unflushed() -> StoreOptions {
    StoreOptions {
        segment_bytes: 256 << 10,
        flush: FlushMode::Async { interval: Duration::from_secs(3600) },
        checkpoint_bytes: u64::MAX,
        checkpoint_interval: Duration::from_secs(86_400),
        ..StoreOptions::default()
    }
}

pub(crate) fn open_unflushed(disk: SimDisk, clock: SimClock) -> Bench {
    Bench::open_with(disk, clock, unflushed(), |options| {
        options.transaction_check_max = 1;
        options.transaction_check_interval = Duration::from_secs(6);
    })
}

/// The disk of a machine that died when the log had come just so far.
pub(crate) fn cut(disk: &SimDisk, at: u64) -> SimDisk {
    let cut = disk.kill();
    let file = cut.open(SEGMENT, OpenMode::Write).expect("there");
    let rest = file.len().expect("known") - at;
    file.write_all_at(&vec![0; rest as usize], at).expect("written");
    cut
}

fn bytes_of(receipt: &SendReceipt) -> Range<u64> {
    let place = &receipt.placed[0];
    place.log_offset.0..place.log_offset.0 + u64::from(place.bytes)
}

/// Each record's first and last bytes, and every seventh between.
pub(crate) fn points(range: &Range<u64>) -> Vec<u64> {
    let mut points: Vec<u64> = range.clone().step_by(7).chain([range.start + 1, range.end - 1, range.end]).collect();
    points.sort_unstable();
    points.dedup();
    points
}

pub(crate) fn stop(bench: &Bench) {
    bench.delivery.close();
    bench.store.close();
}

/// The ways in which one transaction can be found after a crash.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Open,
    Committed,
}

fn found(bench: &Bench) -> Found {
    match (bench.delivery.open_transactions(), visible(bench).len()) {
        (0, 0) => Found::Nothing,
        (1, 0) => Found::Open,
        (0, 1) => Found::Committed,
        other => panic!("{other:?} is open and visible"),
    }
}

#[test]
fn wherever_the_log_ends_a_transaction_is_open_or_ended_and_its_message_is_there_once_at_most() {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    let receipt = bench.send(half("money")).expect("stored");
    bench.end(&receipt, Verdict::Commit).expect("committed");
    let half_bytes = bytes_of(&receipt);
    let end = bench.store.status().appended.0;
    let record = bench.store.record_at(CommitLogOffset(half_bytes.end)).expect("the committed message");
    let message = half_bytes.end..half_bytes.end + record.len() as u64;
    let op = message.end..end;
    let mut seen = [0, 0, 0];
    for at in [points(&half_bytes), points(&message), points(&op)].concat() {
        let expected = match at {
            at if at < half_bytes.end => Found::Nothing,
            at if at < message.end => Found::Open,
            _ => Found::Committed,
        };
        seen[expected_index(&expected)] += 1;
        let mut crashed = open_unflushed(cut(&bench.disk, at), bench.clock.clone());
        // What was found stays so, through another kill and a start in order; and a commit that comes again finds what it should.
        for life in 0..3 {
            assert_eq!(found(&crashed), expected, "cut at {at}, life {life}");
            let disk = if life == 0 { crashed.disk.kill() } else { crashed.disk.clone() };
            if life > 0 {
                stop(&crashed);
            }
            let clock = crashed.clock.clone();
            drop(crashed);
            crashed = open_unflushed(disk, clock);
        }
        match expected {
            Found::Nothing => assert!(crashed.end(&receipt, Verdict::Commit).is_err(), "cut at {at}"),
            Found::Open => {
                crashed.end(&receipt, Verdict::Commit).expect("committed");
                assert_eq!(found(&crashed), Found::Committed);
            }
            Found::Committed => assert_eq!(crashed.end(&receipt, Verdict::Commit), Err(EndError::Ended(receipt.first_queue_offset)), "cut at {at}"),
        }
        stop(&crashed);
    }
    assert!(seen.iter().all(|n| *n > 10), "{seen:?}");
    stop(&bench);
}

/// A second crash comes before the first start has noted what it found; its checkpoint says that the log was read up to the end.
#[test]
fn a_commit_that_was_cut_counts_also_when_a_checkpoint_was_all_that_the_first_start_wrote() {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    let receipt = bench.send(half("money")).expect("stored");
    let message = bytes_of(&receipt).end;
    bench.end(&receipt, Verdict::Commit).expect("committed");
    let record = bench.store.record_at(CommitLogOffset(message)).expect("the committed message");
    let disk = cut(&bench.disk, message + record.len() as u64);
    let store = Store::open(sim::env_over(7, &disk, &bench.clock), unflushed()).expect("opens");
    store.checkpoint().expect("written");
    let mut crashed = open_unflushed(disk.kill(), bench.clock.clone());
    for life in 0..3 {
        assert_eq!(found(&crashed), Found::Committed, "life {life}");
        assert_eq!(crashed.end(&receipt, Verdict::Commit), Err(EndError::Ended(receipt.first_queue_offset)));
        let before = crashed;
        crashed = open_unflushed(before.disk.kill(), before.clock.clone());
        stop(&before);
    }
    assert_eq!(crashed.contents("RMQ_SYS_TRANS_OP_HALF_TOPIC", 0), [("0,".to_owned(), "TAGS\u{1}d\u{2}".to_owned())]);
    stop(&crashed);
    drop(store);
    stop(&bench);
}

/// A replica has the master's log up to there when that one is gone, and becomes master without an opening of its store.
fn promoted(bench: &Bench, at: u64) -> Bench {
    let (env, disk, clock) = sim::env(9);
    let store = Store::open(env.clone(), StoreOptions { replicated: true, ..unflushed() }).expect("opens");
    let log = bench.store.range(CommitLogOffset(0), at as usize).expect("readable");
    assert_eq!(log.len() as u64, at, "a record ends there");
    store.follow(CommitLogOffset(0), &log).expect("taken");
    store.begin_epoch(2).expect("begun");
    // It is alone in its set: what it has is confirmed, and so is what follows.
    store.confirm(CommitLogOffset(u64::MAX));
    Bench::open_over(env, disk, clock, store, |_| (), Arc::new(|work| drop(std::thread::spawn(work))))
}

#[test]
fn a_commit_that_ends_a_replicas_log_without_its_op_record_counts_once_when_it_becomes_master() {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    let receipt = bench.send(half("money")).expect("stored");
    bench.end(&receipt, Verdict::Commit).expect("committed");
    let half_bytes = bytes_of(&receipt);
    let record = bench.store.record_at(CommitLogOffset(half_bytes.end)).expect("the committed message");
    let (message_end, op_end) = (half_bytes.end + record.len() as u64, bench.store.status().appended.0);
    for (at, expected) in [(half_bytes.end, Found::Open), (message_end, Found::Committed), (op_end, Found::Committed)] {
        let promoted = promoted(&bench, at);
        assert_eq!(found(&promoted), expected, "the log ends at {at}");
        let again = promoted.end(&receipt, Verdict::Commit);
        assert_eq!(again.is_ok(), expected == Found::Open, "{again:?}");
        assert_eq!((visible(&promoted).len(), promoted.contents("RMQ_SYS_TRANS_OP_HALF_TOPIC", 0).len()), (1, 1), "the log ends at {at}");
        stop(&promoted);
    }
    stop(&bench);
}

fn expected_index(found: &Found) -> usize {
    match found {
        Found::Nothing => 0,
        Found::Open => 1,
        Found::Committed => 2,
    }
}

/// Only with asynchronous flush: what was acknowledged last is gone, and what comes next gets its place, its queue offset and all.
#[test]
fn an_end_whose_half_message_a_power_cut_took_does_not_end_the_one_that_lies_in_its_place() {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    let lost = bench.send(half("a")).expect("stored");
    let crashed = open_unflushed(cut(&bench.disk, bytes_of(&lost).start), bench.clock.clone());
    let other = HALF.replace("id-1", "id-2");
    let next = crashed.send(SendRequest { properties: &other, ..half("b") }).expect("stored");
    assert_eq!((bytes_of(&next), next.first_queue_offset), (bytes_of(&lost), lost.first_queue_offset));
    for verdict in [Verdict::Commit, Verdict::Rollback] {
        let refused = crashed.end(&lost, verdict);
        assert!(matches!(&refused, Err(EndError::Id { found, given, .. }) if found == "id-2" && given == "id-1"), "{refused:?}");
        assert_eq!(found(&crashed), Found::Open);
    }
    crashed.end(&next, Verdict::Commit).expect("committed");
    assert_eq!(visible(&crashed), ["b"]);
    stop(&bench);
    stop(&crashed);
}

#[test]
fn wherever_the_log_ends_a_rolled_back_message_is_not_visible() {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    let receipt = bench.send(half("never")).expect("stored");
    bench.end(&receipt, Verdict::Rollback).expect("rolled back");
    let op = bytes_of(&receipt).end..bench.store.status().appended.0;
    for at in points(&op) {
        let crashed = open_unflushed(cut(&bench.disk, at), bench.clock.clone());
        assert_eq!(found(&crashed), if at < op.end { Found::Open } else { Found::Nothing }, "cut at {at}");
        stop(&crashed);
    }
    stop(&bench);
}

#[test]
fn wherever_the_log_ends_what_is_given_up_is_open_or_lies_among_those_given_up() {
    let (_, disk, clock) = sim::env(5);
    let bench = open_unflushed(disk, clock);
    let receipt = bench.send(half("vain")).expect("stored");
    bench.clock.advance(Duration::from_secs(6));
    bench.until("checked", || bench.delivery.counters().transaction_checks_unasked.load(std::sync::atomic::Ordering::Relaxed) == 1);
    // Notes that are written by now lie before what is looked at.
    let begin = bench.store.status().appended.0.max(bytes_of(&receipt).end);
    bench.clock.advance(Duration::from_secs(6));
    bench.until("given up", || bench.delivery.open_transactions() == 0);
    let end = bench.store.status().appended.0;
    for at in points(&(begin..end)) {
        let crashed = open_unflushed(cut(&bench.disk, at), bench.clock.clone());
        let (open, given_up) = (crashed.delivery.open_transactions(), crashed.contents(GIVEN_UP, 0).len());
        assert!(matches!((open, given_up), (1, 0 | 1) | (0, 1)), "cut at {at}: {open} open, {given_up} given up");
        assert!(visible(&crashed).is_empty());
        stop(&crashed);
    }
    stop(&bench);
}

#[test]
fn no_power_cut_takes_a_half_message_that_was_acknowledged_nor_a_commit_nor_a_rollback() {
    for seed in 0..10 {
        let (_, disk, clock) = sim::env(seed);
        let bench = Bench::open_sync(disk, clock);
        let begin = |i: usize| bench.send(half(&i.to_string())).expect("stored");
        let receipts: Vec<SendReceipt> = (0..12).map(begin).collect();
        for (i, receipt) in receipts.iter().enumerate() {
            match i % 3 {
                0 => bench.end(receipt, Verdict::Commit).expect("committed"),
                1 => bench.end(receipt, Verdict::Rollback).expect("rolled back"),
                _ => {}
            }
        }
        let crashed = Bench::open_sync(bench.disk.crash(seed), bench.clock.clone());
        assert_eq!(crashed.delivery.open_transactions(), 4, "seed {seed}");
        assert_eq!(visible(&crashed), ["0", "3", "6", "9"], "seed {seed}");
        crashed.delivery.heartbeat(client("p", 1), &[group("producers")], vec![]);
        crashed.clock.advance(Duration::from_secs(6));
        crashed.until("the open ones are asked about", || crashed.push.checks.lock().len() == 4);
        for receipt in &receipts {
            let _ = crashed.end(receipt, Verdict::Commit);
        }
        assert_eq!(visible(&crashed), ["0", "3", "6", "9", "2", "5", "8", "11"], "seed {seed}");
        stop(&bench);
        stop(&crashed);
    }
}

/// Producers that end their transactions while the log's file system dies at any of its calls: what the broker said of each end is true afterwards.
#[test]
fn whatever_call_of_the_disk_fails_an_end_that_was_acknowledged_holds_and_none_is_doubled() {
    use sluice_env::sim::{Fault, FaultKind, Op};
    let mut failed = 0;
    for nth in 0..40 {
        for (op, kind) in [(Op::Write, FaultKind::ShortWrite(300)), (Op::Sync, FaultKind::Eio)] {
            let (_, disk, clock) = sim::env(nth);
            let bench = Bench::open_sync(disk, clock);
            bench.send(half("first")).expect("stored");
            let mut ends = Vec::new();
            bench.disk.inject(Fault::once(op, kind).after(nth).forever());
            for i in 0..8 {
                let Ok(receipt) = bench.send(half(&i.to_string())) else { break };
                ends.push((i, bench.end(&receipt, Verdict::Commit).is_ok()));
            }
            failed += u32::from(ends.len() < 8 || ends.iter().any(|(_, ok)| !ok));
            stop(&bench);
            bench.disk.heal();
            let crashed = Bench::open_sync(bench.disk.kill(), bench.clock.clone());
            let bodies = visible(&crashed);
            for (i, acknowledged) in &ends {
                let times = bodies.iter().filter(|body| **body == i.to_string()).count();
                assert!(times == 1 || (times == 0 && !acknowledged), "{op:?} {nth}: message {i} is there {times} times, acknowledged {acknowledged}");
            }
            stop(&crashed);
        }
    }
    assert!(failed > 10, "{failed} runs met their fault");
}
