//! Replicated logs: what waits for the confirmation, and a log that follows another one.

use crate::world::*;
use sluice_env::sim::{Fault, FaultKind, Op};
use sluice_store::{AppendError, Batch, CutError, FlushMode, FollowError, Late, Mark, MetaChange, MetaTable, OpenError, Placed, ReadError, Store, Wait};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset};
use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

/// Opens a log of its own life; seeds tell the stores apart.
fn world(seed: u64, flush: FlushMode) -> World {
    World::new(seed, replicated(flush))
}

/// Appends without waiting for the confirmation.
fn write(store: &Store, queue: u32, body: &[u8]) -> Placed {
    append(store, "orders", queue, body, "KEYS\u{1}k1\u{2}", Wait::Appended).expect("appended")
}

/// Hands a message in and says how it was answered, when it is.
fn submit(store: &Store, body: &[u8]) -> mpsc::Receiver<Result<Vec<Placed>, AppendError>> {
    let (told, answer) = mpsc::channel();
    let mut batch = Batch::new();
    push(&mut batch, store, "orders", 0, body, "");
    store.submit(batch, Wait::Durable, Box::new(move |result| told.send(result).expect("awaited")));
    answer
}

#[test]
fn nothing_is_acknowledged_or_shown_before_it_is_confirmed() {
    for flush in [FlushMode::Sync, lazy()] {
        let world = world(1, flush);
        let store = world.open();
        let answer = submit(&store, b"first");
        until("written", || store.marks().appended.0 > 0);
        store.flush().expect("flushed");
        assert!(answer.try_recv().is_err(), "acknowledged unconfirmed under {flush:?}");
        assert_eq!(read_all(&store, "orders", 0), Vec::<Vec<u8>>::new());
        assert_eq!(store.record_at(CommitLogOffset(0)), Err(ReadError::NotFound(CommitLogOffset(0))));
        assert_eq!(store.query("orders", "k1", 10, 0, i64::MAX), Ok(Vec::new()));
        let end = store.marks().appended;
        // Not quite.
        store.confirm(CommitLogOffset(end.0 - 1));
        assert!(answer.try_recv().is_err(), "acknowledged unconfirmed under {flush:?}");
        store.confirm(end);
        assert_eq!(answer.recv().expect("answered").expect("acknowledged").len(), 1);
        assert_eq!(read_all(&store, "orders", 0), [b"first"]);
        assert!(store.record_at(CommitLogOffset(0)).is_ok());
    }
}

#[test]
fn a_confirmed_record_that_is_not_flushed_here_is_not_acknowledged_under_sync_flush() {
    let world = world(1, FlushMode::Sync);
    let store = world.open();
    write(&store, 0, b"unflushed");
    store.confirm(CommitLogOffset(u64::MAX));
    assert_eq!(read_all(&store, "orders", 0), Vec::<Vec<u8>>::new());
    store.flush().expect("flushed");
    assert_eq!(read_all(&store, "orders", 0), [b"unflushed"]);
}

#[test]
fn an_append_that_nobody_confirms_is_answered_at_its_deadline() {
    let world = world(1, lazy());
    let store = world.open();
    let answer = submit(&store, b"lonely");
    until("written", || store.marks().appended.0 > 0);
    world.clock.advance(Duration::from_secs(6));
    let late = answer.recv_timeout(Duration::from_secs(20)).expect("answered");
    assert!(matches!(&late, Err(AppendError::Late(Late::Confirmation, placed)) if placed.len() == 1), "{late:?}");
}

#[test]
fn what_was_appended_when_the_log_was_given_up_is_never_told_to_be_unwritten() {
    let world = world(1, lazy());
    let store = world.open();
    let answer = submit(&store, b"open");
    until("written", || store.marks().appended.0 > 0);
    store.abandon();
    // A client that takes it for unwritten does not look for it, and it is there.
    let ended = answer.recv_timeout(Duration::from_secs(20)).expect("answered");
    assert!(matches!(&ended, Err(AppendError::Ended(placed)) if placed.len() == 1), "{ended:?}");
    let late = submit(&store, b"late").recv_timeout(Duration::from_secs(20)).expect("answered");
    assert_eq!(late, Err(AppendError::Stopped), "nothing of it is written");
}

#[test]
fn a_replica_has_the_masters_log_byte_for_byte_over_segments_and_restarts() {
    for seed in 0..12 {
        let (mut ours, mut theirs) = (world(seed, FlushMode::Sync), world(seed + 100, if seed % 2 == 0 { FlushMode::Sync } else { lazy() }));
        let master = ours.open();
        let mut replica = theirs.open();
        for turn in 0..6_u64 {
            for i in 0..40 {
                write(&master, (i % 3) as u32, &vec![b'a' + turn as u8; 100 + (i as usize * 397 + seed as usize * 31) % 4000]);
            }
            catch_up(&master, &replica, 1 + (turn as usize * 7919) % 60_000);
            assert!(read_all(&replica, "orders", 0).is_empty(), "shown unconfirmed");
            if turn % 2 == 1 {
                replica.flush().expect("flushed");
                drop(replica);
                theirs.power_cut(seed + turn);
                replica = theirs.open();
            }
        }
        catch_up(&master, &replica, 1 << 20);
        let log = log_of(&master);
        assert!(master.status().segments > 1, "only one segment: {}", log.len());
        assert_eq!(log_of(&replica), log);
        let end = master.marks().appended;
        for store in [&master, &replica] {
            store.flush().expect("flushed");
            store.confirm(end);
        }
        for queue in 0..3 {
            assert_eq!(read_all(&replica, "orders", queue), read_all(&master, "orders", queue));
        }
        let found = |store: &Store| store.query("orders", "k1", 1000, 0, i64::MAX).expect("readable");
        assert_eq!((found(&replica).len(), found(&replica)), (240, found(&master)));
        drop((master, replica));
        ours.kill();
    }
}

#[test]
fn metadata_epochs_and_emptied_queues_follow_too() {
    let (ours, mut theirs) = (world(1, lazy()), world(2, lazy()));
    let (master, replica) = (ours.open(), theirs.open());
    let first = master.begin_epoch(7).expect("noted");
    let change = |value: Option<&[u8]>| MetaChange { table: MetaTable::Topics, key: "orders".into(), value: value.map(<[u8]>::to_vec) };
    let mut batch = Batch::new();
    batch.meta(&[change(Some(b"settings"))]).expect("small");
    master.append(batch, Wait::Appended).expect("appended");
    for i in 0..10 {
        write(&master, 0, format!("{i}").as_bytes());
    }
    master.confirm(master.marks().appended);
    master.trim_queue(&queue(&master, "orders", 0), QueueOffset(8));
    let second = master.begin_epoch(9).expect("noted");
    catch_up(&master, &replica, 300);
    let expected = vec![(7, first), (9, second)];
    assert_eq!((master.epochs(), replica.epochs()), (expected.clone(), expected.clone()));
    assert_eq!(replica.meta(MetaTable::Topics), [("orders".to_owned(), b"settings".to_vec())]);
    replica.confirm(replica.marks().appended);
    assert_eq!(read_all(&replica, "orders", 0), [b"8", b"9"]);
    drop(replica);
    theirs.kill();
    let replica = theirs.open();
    assert_eq!(replica.epochs(), expected);
    replica.confirm(replica.marks().appended);
    assert_eq!(read_all(&replica, "orders", 0), [b"8", b"9"]);
}

#[test]
fn an_epoch_begins_with_a_record_that_waits_for_no_later_flush_under_sync_flush() {
    let world = world(1, FlushMode::Sync);
    let store = world.open();
    store.begin_epoch(7).expect("noted");
    let marks = store.marks();
    assert_eq!(marks.flushed, marks.appended, "nobody else would flush it for up to half a second, and the epoch's clients wait for it");
}

#[test]
fn epochs_of_which_retention_has_left_nothing_are_forgotten_but_for_one_that_ends_where_the_log_begins() {
    let mut world = world(1, FlushMode::Sync);
    world.options.retention_bytes = Some(2 * SEGMENT_BYTES);
    let store = world.open();
    let mut begun = Vec::new();
    for epoch in 1..=30 {
        begun.push((epoch, store.begin_epoch(epoch).expect("noted")));
        for _ in 0..7 {
            write(&store, 0, &[b'x'; 5000]);
        }
    }
    assert_eq!(store.epochs(), begun);
    store.flush().expect("flushed");
    store.confirm(store.marks().appended);
    store.retain_now().expect("retention");
    let min = store.marks().min;
    // The epoch that the log begins in, or that ends right there, and all later ones.
    let left: Vec<_> =
        begun.iter().zip(begun.iter().skip(1)).skip_while(|(_, next)| next.1 < min).map(|(epoch, _)| *epoch).chain(begun.last().copied()).collect();
    assert!(left.len() > 2 && left.len() < 25 && left[0].1 <= min, "{left:?} of a log that begins at {min}");
    assert_eq!(store.epochs(), left);
    drop(store);
    world.power_cut(1);
    assert_eq!(world.open().epochs(), left);
}

#[test]
fn after_a_restart_only_what_is_confirmed_is_shown() {
    let mut world = world(1, FlushMode::Sync);
    let store = world.open();
    for i in 0..60 {
        write(&store, 0, format!("{i:05000}").as_bytes());
    }
    store.flush().expect("flushed");
    store.confirm(store.marks().appended);
    store.checkpoint().expect("all is confirmed");
    let unconfirmed = write(&store, 0, b"60");
    store.flush().expect("flushed");
    drop(store);
    world.power_cut(1);
    let store = world.open();
    assert_eq!(read_all(&store, "orders", 0).len(), 60);
    assert_eq!(store.record_at(unconfirmed.log_offset), Err(ReadError::NotFound(unconfirmed.log_offset)));
    store.confirm(store.marks().appended);
    assert_eq!(read_all(&store, "orders", 0).len(), 61);
}

#[test]
fn what_does_not_continue_the_log_is_refused_and_nothing_of_it_taken() {
    let (ours, theirs) = (world(1, lazy()), world(2, lazy()));
    let (master, replica) = (ours.open(), theirs.open());
    for i in 0..4 {
        write(&master, 0, format!("{i}").as_bytes());
    }
    let zero = CommitLogOffset(0);
    let range = master.range(zero, 1 << 20).expect("readable");
    let end = CommitLogOffset(range.len() as u64);
    assert_eq!(replica.follow(CommitLogOffset(1), &range), Err(FollowError::NotNext { end: zero, given: CommitLogOffset(1) }));
    // Every byte of it, and every length.
    for at in 0..range.len() {
        let mut bad = range.to_vec();
        bad[at] ^= 0x40;
        let refused = replica.follow(zero, &bad).expect_err("damaged");
        assert!(matches!(refused, FollowError::Damaged(_)), "byte {at}: {refused}");
        let short = replica.follow(zero, &range[..at]);
        assert!(short.is_ok() == (replica.marks().appended.0 == at as u64), "length {at}: {short:?}");
        if replica.marks().appended > zero {
            // It was cut at a record's end, and so it is the log up to there.
            break;
        }
    }
    assert_eq!(replica.marks().appended.0, range.len() as u64 / 4);
    replica.follow(replica.marks().appended, &range[range.len() / 4..]).expect("the rest");
    assert_eq!(replica.marks().appended, end);
    // Another log of the same length.
    let other = world(3, lazy()).open();
    for _ in 0..4 {
        write(&other, 1, b"x");
    }
    write(&other, 0, b"foreign");
    let foreign = other.range(end, 1 << 20).expect("readable");
    let refused = replica.follow(end, &foreign).expect_err("another history");
    let FollowError::Foreign { queue, given, next, .. } = &refused else { panic!("{refused}") };
    assert_eq!((*queue, *given, *next), (QueueId(0), QueueOffset(0), QueueOffset(4)));
    assert!(refused.to_string().contains("resynchronise this replica"), "{refused}");
    write(&master, 0, b"after all that");
    catch_up(&master, &replica, 1 << 20);
    assert_eq!(log_of(&replica), log_of(&master));
}

#[test]
fn a_replica_whose_disk_fails_takes_nothing_more_and_one_without_space_goes_on_when_there_is() {
    let (ours, theirs) = (world(1, lazy()), world(2, lazy()));
    let (master, replica) = (ours.open(), theirs.open());
    for _ in 0..80 {
        write(&master, 0, &[b'x'; 5000]);
    }
    theirs.disk.inject(Fault::once(Op::Allocate, FaultKind::Enospc).on("commitlog/"));
    let refused = loop {
        let from = replica.marks().appended;
        match replica.follow(from, &master.range(from, 20_000).expect("readable")) {
            Ok(()) => assert!(from < master.marks().appended, "no segment was made"),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, FollowError::Append(AppendError::DiskFull(_))), "{refused}");
    theirs.disk.heal();
    catch_up(&master, &replica, 20_000);
    assert_eq!(log_of(&replica), log_of(&master));
    theirs.disk.inject(Fault::once(Op::Write, FaultKind::Eio).on("commitlog/0"));
    write(&master, 0, b"more");
    let from = replica.marks().appended;
    let range = master.range(from, 20_000).expect("readable");
    for _ in 0..2 {
        let refused = replica.follow(from, &range).expect_err("the disk fails");
        assert!(matches!(refused, FollowError::Append(AppendError::Poisoned(_))), "{refused}");
    }
    assert_eq!(replica.marks().appended, from);
}

#[test]
fn times_never_go_back_in_a_log_that_goes_on_under_another_clock() {
    let (ours, theirs) = (world(1, lazy()), world(2, lazy()));
    let (master, replica) = (ours.open(), theirs.open());
    ours.clock.advance(Duration::from_secs(3600));
    let last = write(&master, 0, b"an hour ahead");
    catch_up(&master, &replica, 1 << 20);
    assert!(write(&replica, 0, b"an hour behind").store_timestamp >= last.store_timestamp);
}

#[test]
fn a_cut_of_many_flushed_turns_is_no_damage() {
    let mut world = world(1, FlushMode::Sync);
    let store = world.open();
    write(&store, 0, b"kept");
    let at = store.marks().appended;
    // More than recovery would take for a torn tail.
    for _ in 0..200 {
        write(&store, 0, &[b'x'; 100_000]);
    }
    store.flush().expect("flushed");
    store.order_cut(at).expect("ordered");
    drop(store);
    world.power_cut(1);
    assert_eq!(world.open().marks().appended, at);
}

#[test]
fn who_waits_for_progress_is_told_of_each_kind_and_of_none_at_the_deadline() {
    let world = world(1, lazy());
    let store = world.open();
    let waits = |of, seen, timeout| {
        let store = store.clone();
        std::thread::spawn(move || store.await_progress(of, seen, timeout))
    };
    let progress = |of, what: &str, make: &dyn Fn()| {
        let seen = store.marks();
        let waiting = waits(of, seen, Duration::from_secs(3600));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished(), "woken before anything was {what}");
        make();
        until(what, || waiting.is_finished());
        assert_ne!(waiting.join().expect("no panic"), seen);
    };
    progress(Mark::Appended, "appended", &|| {
        write(&store, 0, b"x");
    });
    progress(Mark::Flushed, "flushed", &|| store.flush().expect("flushed"));
    progress(Mark::Confirmed, "confirmed", &|| store.confirm(store.marks().appended));
    let seen = store.marks();
    let waiting = waits(Mark::Appended, seen, Duration::from_millis(10));
    until("given up", || {
        world.clock.advance(Duration::from_millis(10));
        waiting.is_finished()
    });
    assert_eq!(waiting.join().expect("no panic"), seen);
}

/// A log of which the first 50 messages are confirmed and checkpointed and the last 50 are not; and where the 80th begins.
fn half_confirmed(world: &World) -> (Arc<Store>, CommitLogOffset) {
    let store = world.open();
    let mut at = CommitLogOffset(0);
    for i in 0..100 {
        let placed = write(&store, i % 2, format!("{i:04000}").as_bytes());
        if i == 49 {
            store.flush().expect("flushed");
            store.confirm(store.marks().appended);
            store.checkpoint().expect("confirmed");
        }
        at = if i == 80 { placed.log_offset } else { at };
    }
    store.flush().expect("flushed");
    (store, at)
}

#[test]
fn an_ordered_cut_is_carried_out_whatever_happens_meanwhile() {
    for (seed, flush) in (0..60).map(|seed| (seed, if seed % 2 == 0 { FlushMode::Sync } else { lazy() })) {
        let mut world = world(seed, flush);
        let (store, at) = half_confirmed(&world);
        store.order_cut(at).expect("ordered");
        drop(store);
        world.power_cut(seed);
        // The opening that carries it out is itself cut off somewhere.
        world.disk.inject(Fault::once([Op::Write, Op::Sync, Op::Remove][seed as usize % 3], FaultKind::Eio).after(seed / 3));
        drop(Store::open(world.env.clone(), world.options.clone()));
        world.disk.heal();
        world.power_cut(seed + 1);
        let store = world.open();
        assert_eq!(store.marks().appended, at, "seed {seed}");
        // Grown again, and again cut off: the order does not come back.
        let other = write(&store, 0, b"another history");
        store.flush().expect("flushed");
        drop(store);
        world.power_cut(seed + 2);
        let store = world.open();
        store.confirm(store.marks().appended);
        assert_eq!(other.log_offset, at);
        assert_eq!(read_all(&store, "orders", 0).last().map(Vec::as_slice), Some(&b"another history"[..]), "seed {seed}");
        assert_eq!((read_all(&store, "orders", 0).len(), read_all(&store, "orders", 1).len()), (41, 40), "seed {seed}");
    }
}

#[test]
fn what_is_confirmed_is_never_cut() {
    let mut world = world(1, FlushMode::Sync);
    let (store, at) = half_confirmed(&world);
    let confirmed = store.marks().confirmed;
    assert!(confirmed < at);
    let to = CommitLogOffset(confirmed.0 - 1);
    assert_eq!(store.order_cut(to), Err(CutError::Confirmed { to, confirmed }));
    store.confirm(store.marks().appended);
    assert!(matches!(store.order_cut(at), Err(CutError::Confirmed { .. })));
    drop(store);
    world.kill();
    // A log that is not replicated has nobody to cut it for.
    let alone = World::new(2, sync_options());
    let store = alone.open();
    assert!(matches!(store.order_cut(CommitLogOffset(0)), Err(CutError::Confirmed { .. })));
    // An order that nobody can have given is not carried out.
    drop(store);
    let file = world.env.disk.open("cut", sluice_env::OpenMode::Create).expect("made");
    file.write_all_at(b"12345678????", 0).expect("written");
    let refused = Store::open(world.env.clone(), world.options.clone()).err();
    assert!(matches!(refused, Some(OpenError::Damaged(_))), "{refused:?}");
}

#[test]
fn no_checkpoint_goes_beyond_what_is_confirmed_and_retention_goes_on_after_one_that_failed() {
    let mut world = world(1, FlushMode::Sync);
    world.options.retention_bytes = Some(SEGMENT_BYTES);
    let store = world.open();
    let mut ends = Vec::new();
    for _ in 0..200 {
        write(&store, 0, &[b'x'; 5000]);
        ends.push(store.marks().appended);
    }
    store.flush().expect("flushed");
    // Less than half: a segment could go, but the state of the end may not be kept.
    store.confirm(ends[80]);
    let (clock, told) = (world.clock.clone(), Arc::clone(&store));
    let retained = std::thread::spawn(move || told.retain_now());
    until("given up", || {
        clock.advance(Duration::from_secs(1));
        retained.is_finished()
    });
    let refused = retained.join().expect("no panic").expect_err("unconfirmed");
    assert!(refused.to_string().contains("have not confirmed the log"), "{refused}");
    assert!(store.status().segments > 3);
    let min = store.marks().min;
    assert!(min > CommitLogOffset(0) && min < ends[80], "given up to {min}, confirmed up to {}", ends[80]);
    store.confirm(ends[199]);
    store.retain_now().expect("confirmed");
    assert!(store.status().segments <= 2, "{}", store.status().segments);
    drop(store);
    world.power_cut(1);
    let store = world.open();
    assert_eq!(store.marks().appended, ends[199]);
}
