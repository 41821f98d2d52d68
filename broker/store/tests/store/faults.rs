//! Disks that fail, lie, fill up.

use crate::world::*;
use sluice_env::sim::{Fault, FaultKind, Op};
use sluice_store::{AppendError, Batch, FlushMode, MetaChange, MetaTable, Store, Wait};
use sluice_types::QueueOffset;
use std::{sync::mpsc, time::Duration};

/// Opens with the fault armed; `None` when opening itself met it and said so.
fn open_with(world: &World, fault: Fault) -> Option<std::sync::Arc<Store>> {
    world.disk.inject(fault);
    Store::open(world.env.clone(), world.options.clone()).ok()
}

/// Appends until something fails, and then some: after the first failure nothing may be acknowledged. Then a power cut: every ack is still there.
fn nothing_is_acked_after(op: Op, kind: FaultKind, calls: std::ops::Range<u64>) {
    let mut struck = 0;
    for n in calls {
        let mut world = World::new(n, sync_options());
        let Some(store) = open_with(&world, Fault::once(op, kind).on("commitlog/").after(n)) else { continue };
        let mut failed = false;
        for i in 0..60 {
            match world.append(&store, "orders", i % 2, 20_000) {
                Ok(_) => assert!(!failed, "acknowledged after a failure, {op:?} {kind:?} call {n}"),
                // No space for a new segment, found before anything was placed: refused, and taken again later.
                Err(AppendError::DiskFull(_)) => world.clock.advance(Duration::from_secs(2)),
                Err(_) => failed = true,
            }
        }
        if failed {
            assert!(store.status().poisoned.is_some(), "{op:?} {kind:?} call {n}");
            struck += 1;
        }
        drop(store);
        world.disk.heal();
        world.power_cut(n);
        world.check(&world.open());
    }
    assert!(struck > 3, "the sweep of {op:?} {kind:?} hit too little: {struck}");
}

/// apache/rocketmq#2706, #3349, #4306: a failed flush was logged, and acknowledged.
#[test]
fn a_failed_sync_is_never_followed_by_an_ack() {
    nothing_is_acked_after(Op::Sync, FaultKind::Eio, 1..60);
}

#[test]
fn a_failed_write_is_never_followed_by_an_ack() {
    nothing_is_acked_after(Op::Write, FaultKind::Eio, 1..60);
}

#[test]
fn a_short_write_is_never_followed_by_an_ack() {
    nothing_is_acked_after(Op::Write, FaultKind::ShortWrite(100), 1..60);
}

#[test]
fn a_write_refused_for_space_is_never_followed_by_an_ack() {
    nothing_is_acked_after(Op::Write, FaultKind::Enospc, 1..60);
}

/// After a failed sync the system takes for written what it could not write: another sync says yes and writes nothing.
#[test]
fn what_a_failed_sync_has_left_is_written_anew_before_it_counts_as_flushed() {
    for seed in 0..20 {
        let mut world = World::new(seed, sync_options());
        let store = world.open();
        world.append(&store, "orders", 0, 3_000).expect("acknowledged");
        world.disk.inject(Fault::once(Op::Sync, FaultKind::Eio).on("commitlog/"));
        append(&store, "orders", 0, &[7; 3_000], "", Wait::Durable).expect_err("not flushed");
        drop(store);
        // Another process finds it, takes it for the log's and shows it.
        let store = world.open();
        assert_eq!(store.bounds(&queue(&store, "orders", 0)).max, QueueOffset(2));
        drop(store);
        world.power_cut(seed);
        let store = world.open();
        assert!(read_one(&store, "orders", 0, 1).is_some(), "seed {seed}: what was shown is gone with the power");
    }
}

#[test]
fn callers_wait_for_no_flush_that_never_comes() {
    let world = World::new(1, sync_options());
    let store = world.open();
    world.disk.inject(Fault::once(Op::Sync, FaultKind::Eio).on("commitlog/").forever());
    let (send, receive) = mpsc::channel();
    for i in 0..50u8 {
        let mut batch = Batch::new();
        push(&mut batch, &store, "orders", 0, &[i; 10], "");
        let send = send.clone();
        store.submit(batch, Wait::Durable, Box::new(move |result| send.send(result).expect("receiver lives")));
    }
    for _ in 0..50 {
        let result = receive.recv_timeout(Duration::from_secs(10)).expect("each is answered");
        assert!(matches!(result, Err(AppendError::Poisoned(_))), "{result:?}");
    }
}

/// apache/rocketmq#8239: consumers read, under sync flush, what was not flushed yet and then lost it.
#[test]
fn consumers_see_nothing_beyond_the_flushed_mark_under_sync_flush() {
    let world = World::new(2, sync_options());
    let store = world.open();
    append(&store, "orders", 0, b"flushed", "", Wait::Durable).expect("acknowledged");
    world.disk.inject(Fault::once(Op::Sync, FaultKind::Eio).on("commitlog/").forever());
    let unflushed = append(&store, "orders", 0, b"never flushed", "", Wait::Appended);
    assert_eq!(store.bounds(&queue(&store, "orders", 0)).max, QueueOffset(1));
    assert_eq!(read_one(&store, "orders", 0, 1), None);
    if let Ok(placed) = unflushed {
        assert!(store.record_at(placed.log_offset).is_err());
    }
}

/// alibaba/rocketmq#331: a broker stayed read-only for good after a full disk had been cleared.
#[test]
fn a_full_disk_refuses_writes_serves_reads_and_takes_writes_again_within_five_seconds_of_space() {
    let mut world = World::new(3, options(FlushMode::Sync));
    let store = world.open();
    world.disk.set_capacity(Some(SEGMENT_BYTES * 3));
    let mut refused = None;
    for _ in 0..200 {
        if let Err(e) = world.append(&store, "orders", 0, 10_000) {
            refused = Some(e);
            break;
        }
    }
    assert!(matches!(refused, Some(AppendError::DiskFull(_))), "{refused:?}");
    assert!(store.status().writable.is_err() && store.status().poisoned.is_none());
    world.check(&store);
    // There is room for metadata.
    let mut batch = Batch::new();
    batch.meta(&[MetaChange { table: MetaTable::Offsets, key: "g".into(), value: Some(vec![1]) }]).expect("encodes");
    store.append(batch, Wait::Durable).expect("metadata has its reserve");
    world.disk.set_capacity(None);
    // Five seconds of the store's clock, and no more.
    world.clock.advance(Duration::from_secs(5));
    until("writes are taken again", || world.append(&store, "orders", 0, 10_000).is_ok());
    drop(store);
    world.power_cut(1);
    world.check(&world.open());
}

#[test]
fn a_full_write_queue_refuses_and_gives_every_caller_an_answer() {
    let mut opts = sync_options();
    opts.append_queue_bytes_max = 1000;
    let world = World::new(4, opts);
    let store = world.open();
    let (send, receive) = mpsc::channel();
    store.corked(|| {
        for i in 0..20u8 {
            let mut batch = Batch::new();
            push(&mut batch, &store, "orders", 0, &[i; 100], "");
            let send = send.clone();
            store.submit(batch, Wait::Durable, Box::new(move |result| send.send(result).expect("receiver lives")));
        }
    });
    let results: Vec<_> = (0..20).map(|_| receive.recv_timeout(Duration::from_secs(10)).expect("each is answered")).collect();
    assert!(results.iter().any(|r| matches!(r, Err(AppendError::QueueFull(_)))));
    assert!(results.iter().any(Result::is_ok));
}

#[test]
fn a_batch_larger_than_half_a_segment_is_refused_alone() {
    let mut world = World::new(5, sync_options());
    let store = world.open();
    let refused = append(&store, "orders", 0, &vec![0; SEGMENT_BYTES as usize * 3 / 4], "", Wait::Durable);
    assert!(matches!(refused, Err(AppendError::TooLarge(_))), "{refused:?}");
    world.append(&store, "orders", 0, 10).expect("the next one is taken");
}

#[test]
fn after_close_every_append_is_refused() {
    let world = World::new(6, sync_options());
    let store = world.open();
    store.close();
    assert_eq!(append(&store, "orders", 0, b"late", "", Wait::Durable), Err(AppendError::Stopped));
}

/// The segment's end was filled up behind what had not been written, and the log went on as if nothing had happened.
#[test]
fn nothing_is_put_behind_what_could_not_be_written_also_where_the_segment_ends() {
    let world = World::new(7, sync_options());
    let store = world.open();
    let before = store.marks().appended;
    world.disk.inject(Fault::once(Op::Write, FaultKind::Eio).on("commitlog/0"));
    let (send, receive) = mpsc::channel();
    store.corked(|| {
        // Two fit into the segment, and the third does not.
        for i in 0..3u8 {
            let mut batch = Batch::new();
            push(&mut batch, &store, "orders", 0, &vec![i; SEGMENT_BYTES as usize * 3 / 8], "");
            let send = send.clone();
            store.submit(batch, Wait::Durable, Box::new(move |result| send.send(result).expect("receiver lives")));
        }
    });
    for _ in 0..3 {
        let result = receive.recv_timeout(Duration::from_secs(10)).expect("each is answered");
        assert!(matches!(result, Err(AppendError::Poisoned(_))), "{result:?}");
    }
    assert_eq!(store.marks().appended, before);
}
