//! Bugs that other brokers have had, as far as the tests of recovery and of faults do not show already that they are kept out. docs/testing.md has the list.

use crate::world::*;
use sluice_env::{
    Disk, OpenMode,
    sim::{Fault, FaultKind, Op},
};
use sluice_protocol::record::RecordView;
use sluice_store::{Store, Wait};
use sluice_types::QueueOffset;
use std::{collections::BTreeMap, time::Duration};

/// apache/rocketmq#1434: after a kill only the last file was dispatched again, and consumers never saw what the checkpoint lacked of the file before.
#[test]
fn wherever_the_checkpoint_lies_no_record_around_a_roll_is_lost_to_consumers() {
    const RECORDS: u64 = 30;
    for checkpoint_at in 0..=RECORDS {
        let mut world = World::new(checkpoint_at, never_flushing());
        let store = world.open();
        for i in 0..RECORDS {
            if i == checkpoint_at {
                store.checkpoint().expect("checkpoint");
            }
            world.append(&store, "orders", 0, 20_000).expect("acknowledged");
        }
        assert!(store.status().segments >= 3, "the log has not rolled twice");
        drop(store);
        world.kill();
        let store = world.open();
        assert_eq!(store.bounds(&queue(&store, "orders", 0)).max, QueueOffset(RECORDS), "checkpoint after {checkpoint_at}");
        world.check(&store);
    }
}

/// apache/rocketmq#7437: the checksum covered the body only, and a record whose properties had not reached the disk was taken for whole.
#[test]
fn a_record_torn_anywhere_is_cut_whole() {
    let mut world = World::new(1, never_flushing());
    let store = world.open();
    world.append(&store, "orders", 0, 100).expect("acknowledged");
    let properties = format!("KEYS\u{1}k\u{2}long\u{1}{}\u{2}", "p".repeat(2000));
    let torn = append(&store, "orders", 0, &[b'b'; 500], &properties, Wait::Durable).expect("appended");
    drop(store);
    let whole = world.disk.kill();
    for missing in (1..=u64::from(torn.bytes)).step_by(19) {
        // What lies there instead: nothing was ever written, or the file has had another life.
        for leftover in [0, b'p'] {
            let disk = whole.kill();
            let file = disk.open("commitlog/00000000000000000000", OpenMode::Write).expect("there");
            file.write_all_at(&vec![leftover; missing as usize], torn.log_offset.0 + u64::from(torn.bytes) - missing).expect("writable");
            world.move_to(disk);
            let store = world.open();
            assert_eq!(store.bounds(&queue(&store, "orders", 0)).max, QueueOffset(1), "{missing} bytes of {leftover}");
            world.check(&store);
            assert_eq!(append(&store, "orders", 0, b"next", "", Wait::Durable).expect("acknowledged").log_offset, torn.log_offset);
        }
    }
}

/// What consumers of a queue have seen so far, by offset.
#[derive(Default)]
struct Seen(BTreeMap<u64, Vec<u8>>);

impl Seen {
    /// Looks at all that is visible, by queue and by key.
    fn look(&mut self, store: &Store) {
        for (offset, body) in (0..).zip(read_all(store, "orders", 0)) {
            self.note(offset, body);
        }
        for record in store.query("orders", "k", 1000, 0, i64::MAX).expect("readable") {
            let view = RecordView::checked(&record).expect("served whole");
            self.note(view.queue_offset(), view.body().to_vec());
        }
    }

    fn note(&mut self, offset: u64, body: Vec<u8>) {
        let before = self.0.insert(offset, body.clone());
        assert!(before.is_none_or(|before| before == body), "offset {offset} had another content");
    }
}

/// apache/rocketmq#8239 and #7689: under synchronous flush consumers read what was not flushed yet; a power cut took it, and its offset got another content.
#[test]
fn what_a_consumer_has_read_under_sync_flush_stays_at_its_offset_through_power_cuts() {
    for seed in 0..20 {
        let mut world = World::new(seed, sync_options());
        let mut seen = Seen::default();
        for life in 0..4u64 {
            let store = world.open();
            for i in 0..30u64 {
                // Few are waited for: only those bring a flush about, for the clock stands still.
                let wait = if (i + seed) % 7 == 0 { Wait::Durable } else { Wait::Appended };
                append(&store, "orders", 0, format!("{seed} {life} {i}").as_bytes(), "KEYS\u{1}k\u{2}", wait).expect("appended");
                seen.look(&store);
            }
            drop(store);
            world.power_cut(seed * 10 + life);
            let store = world.open();
            let there = store.bounds(&queue(&store, "orders", 0)).max.0;
            assert!(there >= seen.0.len() as u64, "seed {seed} life {life}: {} were seen, {there} are there", seen.0.len());
            seen.look(&store);
        }
        assert!(seen.0.len() >= 80, "too little was seen to tell: {}", seen.0.len());
    }
}

/// apache/rocketmq#10666: a crash around the truncation of a tail. Whatever call of a recovery fails, and with a power cut after it, the next one finds the same.
#[test]
fn a_recovery_that_fails_half_way_finds_the_same_log_the_next_time() {
    for op in [Op::Read, Op::Write, Op::Sync, Op::SetLen, Op::Open, Op::Rename, Op::Remove, Op::SyncDir] {
        let mut failures = 0;
        for n in 0.. {
            let mut world = torn_world(n);
            let cut = world.disk.kill();
            let expected = read_all(&world.open(), "orders", 0);
            world.move_to(cut);
            world.disk.inject(Fault::once(op, FaultKind::Eio).after(n));
            let opened = Store::open(world.env.clone(), world.options.clone());
            failures += u64::from(opened.is_err());
            drop(opened);
            let struck = world.disk.faults_struck() > 0;
            world.disk.heal();
            world.power_cut(n);
            let store = world.open();
            assert_eq!(read_all(&store, "orders", 0), expected, "{op:?} {n}");
            append(&store, "orders", 0, b"new 0000", "", Wait::Durable).expect("acknowledged");
            drop(store);
            world.kill();
            assert_eq!(read_all(&world.open(), "orders", 0).len(), expected.len() + 1, "{op:?} {n}");
            if !struck {
                break;
            }
        }
        let may_pass = matches!(op, Op::SetLen | Op::Rename | Op::Remove);
        assert!(failures > 0 || may_pass, "no {op:?} of a recovery has failed");
    }
}

/// Some records flushed, some not, and then a power cut: a tail to be cut.
fn torn_world(seed: u64) -> World {
    let mut world = World::new(seed, never_flushing());
    let store = world.open();
    for i in 0..20u32 {
        append(&store, "orders", 0, format!("old {i:04}").as_bytes(), "", Wait::Durable).expect("acknowledged");
        if i == 5 {
            store.checkpoint().expect("checkpoint");
        }
    }
    drop(store);
    world.power_cut(seed);
    world
}

/// alibaba/rocketmq#331, by the other way to a full disk: the share in use.
#[test]
fn writes_refused_above_the_share_in_use_are_taken_again_within_five_seconds() {
    let mut world = World::new(3, sync_options());
    let store = world.open();
    world.append(&store, "orders", 0, 100).expect("acknowledged");
    let (free, total) = world.disk.space().expect("known");
    let used = total - free;
    world.disk.set_capacity(Some(used + used / 50));
    world.clock.advance(Duration::from_secs(5));
    until("writes are refused", || store.status().writable.is_err());
    assert!(matches!(world.append(&store, "orders", 0, 100), Err(sluice_store::AppendError::DiskFull(_))));
    world.check(&store);
    world.disk.set_capacity(Some(used * 2));
    world.clock.advance(Duration::from_secs(5));
    until("writes are taken", || store.status().writable.is_ok());
    world.append(&store, "orders", 0, 100).expect("acknowledged");
    world.check(&store);
}
