//! Kills and power cuts.

use crate::world::*;
use sluice_protocol::record::RecordView;
use sluice_store::{Batch, MetaChange, MetaTable, Store, StoreOptions, Wait};
use sluice_types::QueueOffset;
use std::time::Duration;

#[test]
fn acked_record_survives_power_cut_under_sync_flush() {
    for seed in 0..60 {
        let mut world = World::new(seed, sync_options());
        for life in 0..4 {
            let store = world.open();
            world.check(&store);
            for i in 0..40 + seed % 30 {
                world.append(&store, "orders", (i % 3) as u32, 100 + (i as usize * 397) % 6000).expect("acknowledged");
                if i == 20 && seed % 2 == 0 {
                    store.checkpoint().expect("checkpoint");
                }
            }
            drop(store);
            world.power_cut(seed * 10 + life);
        }
        world.check(&world.open());
    }
}

#[test]
fn every_appended_record_survives_a_kill_under_async_flush() {
    for seed in 0..20 {
        let mut world = World::new(seed, never_flushing());
        for _ in 0..4 {
            let store = world.open();
            world.check(&store);
            for i in 0..50 {
                world.append(&store, "orders", i % 2, 2000).expect("acknowledged");
            }
            drop(store);
            world.kill();
        }
        world.check(&world.open());
    }
}

#[test]
fn a_power_cut_under_async_flush_leaves_a_clean_prefix_of_each_queue() {
    for seed in 0..60 {
        let mut world = World::new(seed, never_flushing());
        let store = world.open();
        for i in 0..120u32 {
            append(&store, "orders", i % 2, format!("{i:05}").as_bytes(), "", Wait::Durable).expect("acknowledged");
        }
        drop(store);
        world.power_cut(seed);
        let store = world.open();
        for queue in 0..2 {
            let found = read_all(&store, "orders", queue);
            let expected: Vec<Vec<u8>> = (0..120u32).filter(|i| i % 2 == queue).map(|i| format!("{i:05}").into_bytes()).take(found.len()).collect();
            assert_eq!(found, expected, "seed {seed} queue {queue}");
        }
    }
}

/// apache/rocketmq#1434: records at the end of the previous file were lost to consumers after a kill at the roll.
#[test]
fn records_on_both_sides_of_a_roll_survive_a_kill() {
    let mut world = World::new(1, sync_options());
    for _ in 0..30 {
        let store = world.open();
        // Close to a segment's end, then over it.
        for _ in 0..9 {
            world.append(&store, "orders", 0, 30_000).expect("acknowledged");
        }
        drop(store);
        world.kill();
    }
    let store = world.open();
    world.check(&store);
    assert_eq!(read_all(&store, "orders", 0).len(), 270);
}

/// apache/rocketmq#7689: queue offsets were reused for other content after both sides had been killed.
#[test]
fn a_queue_offset_is_never_acknowledged_for_two_contents() {
    // `World::append` refuses a second ack of one offset; here with a power cut after every few appends.
    let mut world = World::new(7, sync_options());
    for life in 0..40 {
        let store = world.open();
        for _ in 0..3 {
            world.append(&store, "orders", 0, 300).expect("acknowledged");
        }
        drop(store);
        world.power_cut(life);
    }
    world.check(&world.open());
}

/// apache/rocketmq#10666: a tail that had been cut came back after the next restart, because its bytes were still there with a valid checksum.
#[test]
fn a_cut_tail_never_comes_back() {
    for seed in 0..40 {
        let mut world = World::new(seed, never_flushing());
        let store = world.open();
        for i in 0..30u32 {
            append(&store, "orders", 0, format!("first {i:05}").as_bytes(), "", Wait::Durable).expect("acknowledged");
        }
        drop(store);
        world.power_cut(seed);
        let store = world.open();
        let kept = read_all(&store, "orders", 0).len();
        // A record of the same length as those that may lie behind the cut.
        append(&store, "orders", 0, b"second 0000", "", Wait::Durable).expect("acknowledged");
        drop(store);
        world.kill();
        let found = read_all(&world.open(), "orders", 0);
        assert_eq!(found.len(), kept + 1, "seed {seed}");
        assert_eq!(found.last().map(Vec::as_slice), Some(&b"second 0000"[..]), "seed {seed}");
    }
}

/// apache/rocketmq#10017: records of a recycled file passed their checksum and were taken for new ones.
#[test]
fn a_recycled_segments_old_records_are_never_read() {
    const BODY_BYTES: usize = 20_000;
    let mut opts = sync_options();
    opts.retention_bytes = Some(SEGMENT_BYTES);
    let mut world = World::new(3, opts);
    let store = world.open();
    let mut bodies = Vec::new();
    let mut next = |store: &Store| {
        bodies.push(vec![bodies.len() as u8; BODY_BYTES]);
        append(store, "orders", 0, &bodies[bodies.len() - 1], "", Wait::Durable).expect("acknowledged").log_offset.0
    };
    for _ in 0..60 {
        next(&store);
    }
    // One is made ready after each roll; were that still going on, it would take the recycled one's place.
    until("the next segment is ready", || world.disk.file_names().iter().any(|name| name == "commitlog/next"));
    store.retain_now().expect("retention");
    // Into the recycled segment, and then some more of the same size: what lies behind them is an old record in the place of the next one.
    let rolled = store.status().segments;
    while store.status().segments == rolled {
        next(&store);
    }
    let last = (0..3).map(|_| next(&store)).last().unwrap_or_default();
    let segment = world.disk.file_bytes(&format!("commitlog/{:020}", last - last % SEGMENT_BYTES)).expect("there");
    let end = (store.status().appended.0 % SEGMENT_BYTES) as usize;
    let old = RecordView::checked(&segment[end..]).expect("the segment is not a recycled one");
    assert!(old.log_offset() < last);
    drop(store);
    world.kill();
    let store = world.open();
    let found = read_all(&store, "orders", 0);
    assert_eq!(store.bounds(&queue(&store, "orders", 0)).max, QueueOffset(bodies.len() as u64));
    assert!(found[..] == bodies[bodies.len() - found.len()..], "other messages than were sent");
}

#[test]
fn retention_removes_the_oldest_and_keeps_queue_offsets() {
    let mut opts = sync_options();
    opts.retention_bytes = Some(2 * SEGMENT_BYTES);
    let mut world = World::new(3, opts);
    let store = world.open();
    for _ in 0..60 {
        append(&store, "orders", 0, &[7; 20_000], "", Wait::Durable).expect("acknowledged");
    }
    append(&store, "rare", 0, b"once", "", Wait::Durable).expect("acknowledged");
    store.retain_now().expect("retention");
    let bounds = store.bounds(&queue(&store, "orders", 0));
    assert!(bounds.min > QueueOffset(0) && bounds.max == QueueOffset(60), "{bounds:?}");
    assert!(store.status().min.0 > 0);
    drop(store);
    for _ in 0..2 {
        world.kill();
        let store = world.open();
        assert_eq!(store.bounds(&queue(&store, "orders", 0)), bounds);
        assert_eq!(read_one(&store, "rare", 0, 0).as_deref(), Some(&b"once"[..]));
    }
}

#[test]
fn metadata_is_as_durable_as_messages_and_deletes_stay_deleted() {
    let mut world = World::new(5, sync_options());
    let change = |key: &str, value: Option<&str>| MetaChange { table: MetaTable::Topics, key: key.to_owned(), value: value.map(|v| v.as_bytes().to_vec()) };
    let store = world.open();
    for changes in [vec![change("a", Some("1")), change("b", Some("2"))], vec![change("a", None), change("c", Some("3"))]] {
        let mut batch = Batch::new();
        batch.meta(&changes).expect("encodes");
        store.append(batch, Wait::Durable).expect("acknowledged");
    }
    drop(store);
    for life in 0..3 {
        world.power_cut(life);
        let store = world.open();
        assert_eq!(store.meta(MetaTable::Topics), [("b".to_owned(), b"2".to_vec()), ("c".to_owned(), b"3".to_vec())]);
        if life == 1 {
            store.checkpoint().expect("checkpoint");
        }
    }
}

/// A deleted topic's messages must not come back with a topic of the same name.
#[test]
fn a_trimmed_queue_stays_trimmed_after_a_kill_and_after_a_rebuild() {
    let mut world = World::new(10, sync_options());
    let store = world.open();
    for _ in 0..5 {
        append(&store, "orders", 0, b"old", "", Wait::Durable).expect("acknowledged");
    }
    store.trim_queue(&queue(&store, "orders", 0), QueueOffset(5));
    append(&store, "orders", 0, b"new", "", Wait::Durable).expect("acknowledged");
    assert_eq!(read_all(&store, "orders", 0), [b"new"]);
    drop(store);
    for life in 0..3 {
        world.power_cut(life);
        let store = world.open();
        assert_eq!(read_all(&store, "orders", 0), [b"new"], "life {life}");
        store.checkpoint().expect("checkpoint");
        if life == 1 {
            drop(store);
            world.kill();
            world.disk.flip_byte("checkpoint", 30, 1);
        }
    }
}

#[test]
fn a_query_gives_no_more_than_a_client_takes_and_the_newest_of_it() {
    let world = World::new(7, StoreOptions { segment_bytes: 32 << 20, ..sync_options() });
    let store = world.open();
    for i in 0..4u8 {
        world.clock.advance(Duration::from_millis(10));
        append(&store, "orders", 0, &vec![i; (4 << 20) - 1024], "KEYS\u{1}k\u{2}", Wait::Durable).expect("acknowledged");
    }
    let found = store.query("orders", "k", 64, 0, i64::MAX).expect("readable");
    assert_eq!(found.iter().map(|bytes| RecordView::checked(bytes).expect("whole").body()[0]).collect::<Vec<_>>(), [3, 2, 1]);
}

#[test]
fn messages_are_found_by_key_and_time_before_and_after_a_restart() {
    let mut world = World::new(6, sync_options());
    let store = world.open();
    let mut times = Vec::new();
    for i in 0..20u32 {
        world.clock.advance(Duration::from_millis(10));
        let properties = format!("KEYS\u{1}k{} shared\u{2}UNIQ_KEY\u{1}u{i}\u{2}", i % 4);
        times.push(append(&store, "orders", 0, &i.to_be_bytes(), &properties, Wait::Durable).expect("acknowledged").store_timestamp);
    }
    let check = |store: &sluice_store::Store| {
        assert_eq!(store.query("orders", "k1", 10, 0, i64::MAX).expect("readable").len(), 5);
        assert_eq!(store.query("orders", "shared", 7, 0, i64::MAX).expect("readable").len(), 7);
        assert_eq!(store.query("orders", "u3", 10, 0, i64::MAX).expect("readable").len(), 1);
        assert_eq!(store.query("others", "u3", 10, 0, i64::MAX).expect("readable").len(), 0);
        assert_eq!(store.query("orders", "shared", 64, times[5], times[7]).expect("readable").len(), 3);
        let queue = queue(store, "orders", 0);
        let at = |ms, b| store.offset_by_time(&queue, ms, b).expect("readable").0;
        assert_eq!(at(times[5], sluice_store::TimeBoundary::Lower), 5);
        assert_eq!(at(times[5] + 1, sluice_store::TimeBoundary::Lower), 6);
        assert_eq!(at(times[5] + 1, sluice_store::TimeBoundary::Upper), 5);
        assert_eq!(at(i64::MAX, sluice_store::TimeBoundary::Lower), 20);
        assert_eq!(at(0, sluice_store::TimeBoundary::Upper), 0);
    };
    check(&store);
    drop(store);
    world.kill();
    let store = world.open();
    check(&store);
    store.checkpoint().expect("checkpoint");
    drop(store);
    world.power_cut(1);
    check(&world.open());
}

#[test]
fn a_planned_stop_leaves_nothing_to_recover() {
    let mut world = World::new(8, never_flushing());
    let store = world.open();
    for _ in 0..10 {
        world.append(&store, "orders", 0, 100).expect("acknowledged");
    }
    store.close();
    drop(store);
    world.power_cut(0);
    world.check(&world.open());
}

/// reliability: two processes on one directory.
#[test]
fn a_second_store_on_the_same_directory_is_refused() {
    let world = World::new(9, sync_options());
    let _store = world.open();
    let second = sluice_store::Store::open(world.env.clone(), world.options.clone());
    assert!(matches!(second, Err(sluice_store::OpenError::Locked(_))));
}

#[test]
fn retention_stops_at_what_is_held_and_goes_on_when_it_is_let_go() {
    let world = World::new(3, StoreOptions { retention_bytes: Some(SEGMENT_BYTES), ..sync_options() });
    let store = world.open();
    let place = |_| append(&store, "orders", 0, &[1; 30_000], "", Wait::Durable).expect("acknowledged").log_offset;
    let places: Vec<_> = (0..60).map(place).collect();
    store.hold_retention(Some(places[20]));
    store.retain_now().expect("retention");
    assert_eq!(store.status().min.0, places[20].0 / SEGMENT_BYTES * SEGMENT_BYTES);
    assert!(store.record_at(places[20]).is_ok());
    store.hold_retention(None);
    store.retain_now().expect("retention");
    assert!(store.status().min > places[20]);
}

/// A batch cut short ends the log: whoever wrote it must learn what of it is there.
#[test]
fn recovery_tells_the_last_record_also_when_a_checkpoint_has_come_behind_it() {
    let mut world = World::new(4, never_flushing());
    let store = world.open();
    assert_eq!(store.last_inherited(), None);
    append(&store, "orders", 0, b"one", "", Wait::Durable).expect("acknowledged");
    let last = append(&store, "orders", 1, b"two", "", Wait::Durable).expect("acknowledged").log_offset;
    drop(store);
    world.kill();
    let store = world.open();
    assert_eq!(store.last_inherited(), Some(last));
    store.checkpoint().expect("checkpoint");
    drop(store);
    world.kill();
    let store = world.open();
    assert_eq!(store.last_inherited(), Some(last));
    let mut batch = Batch::new();
    batch.meta(&[MetaChange { table: MetaTable::Topics, key: "a".to_owned(), value: Some(vec![1]) }]).expect("encodes");
    store.append(batch, Wait::Appended).expect("acknowledged");
    store.checkpoint().expect("checkpoint");
    drop(store);
    world.kill();
    assert_eq!(world.open().last_inherited(), None, "the last one is metadata");
}

/// A rebuild reads the whole log.
#[test]
fn a_recovery_writes_the_keys_of_a_long_log_to_disk_and_makes_none_that_nobody_wants() {
    let mut world = World::new(11, never_flushing());
    let store = world.open();
    let keys = (0..6000).map(|key| format!("{key:04}")).collect::<Vec<_>>().join(" ");
    for _ in 0..50 {
        append(&store, "orders", 0, b"x", &format!("KEYS\u{1}{keys}\u{2}"), Wait::Appended).expect("appended");
    }
    drop(store);
    world.kill();
    let left = world.disk.clone();
    for wanted in [true, false] {
        world.move_to(left.kill());
        world.options.key_index = wanted;
        let store = world.open();
        let runs = world.disk.file_names().iter().filter(|name| name.starts_with("keyindex/")).count();
        assert_eq!(runs, usize::from(wanted));
        assert_eq!(store.query("orders", "0007", 100, 0, i64::MAX).expect("readable").len(), if wanted { 50 } else { 0 });
    }
}

#[test]
fn a_store_that_has_had_much_to_read_when_it_was_opened_writes_a_checkpoint_soon() {
    for (megabytes, is_much) in [(5, false), (10, true)] {
        let mut world = World::new(1, sync_options());
        let store = world.open();
        (0..megabytes * 10).for_each(|_| _ = world.append(&store, "orders", 0, 100_000).expect("acknowledged"));
        assert!(store.status().min.0 == 0 && world.disk.file_bytes("checkpoint").is_none());
        drop(store);
        world.kill();
        let store = world.open();
        world.clock.advance(Duration::from_millis(1100));
        if is_much {
            until("a checkpoint", || world.disk.file_bytes("checkpoint").is_some());
            until("it is whole", || world.disk.file_bytes("checkpoint.new").is_none());
            world.check(&store);
        } else {
            std::thread::sleep(Duration::from_millis(500));
            assert!(world.disk.file_bytes("checkpoint").is_none(), "a checkpoint after {megabytes} MB");
        }
    }
}
