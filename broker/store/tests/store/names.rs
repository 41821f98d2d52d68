//! Names of files: a sync of their directory that has failed is followed by syncs that succeed and put nothing on stable storage. What rests on a name has to outlive the
//! next power cut all the same.

use crate::{
    resync::{confirm_all, fill},
    world::*,
};
use parking_lot::Mutex;
use sluice_env::sim::{
    Fault, FaultKind, Op,
    threads::{self, Sim},
};
use sluice_store::{FlushMode, Store, StoreOptions, Wait, resync};
use std::{sync::Arc, time::Duration};

const SEGMENT: u64 = 64 << 10;

fn small() -> StoreOptions {
    StoreOptions { segment_bytes: SEGMENT, retention_bytes: Some(2 * SEGMENT), ..sync_options() }
}

/// Retention makes names too, in the directory in which the writer has just named a new segment.
#[test]
fn a_segment_that_is_written_to_keeps_its_name_whatever_sync_of_its_directory_fails_on_another_thread() {
    let mut struck = 0;
    for seed in 0..300 {
        let sim = Sim::new(seed);
        let machine = sim.machine("broker");
        let env = machine.env();
        let store = sim.block_on(&machine, "opens", move || Store::open(env, small()).expect("opens")).expect("opens");
        let acked = Arc::new(Mutex::new(Vec::new()));
        let (writer, noted) = (store.clone(), acked.clone());
        machine.spawn("writes", move || {
            while let Ok(placed) = append(&writer, "orders", 0, &[b'x'; 15_000], "", Wait::Durable) {
                noted.lock().push(placed.queue_offset.0);
            }
        });
        machine.spawn("retains", move || {
            for round in 0_u64.. {
                threads::sleep(Duration::from_micros(100 + (seed * 31 + round * 17) % 900));
                // One of them fails.
                let _ = store.retain_now();
            }
        });
        machine.disk().inject(Fault::once(Op::SyncDir, FaultKind::Eio).on("commitlog").after(seed % 30));
        sim.run_for(Duration::from_millis(60)).expect("runs");
        struck += machine.disk().faults_struck();
        machine.power_cut(seed);
        let env = machine.env();
        let opened = sim.block_on(&machine, "opens", move || {
            let store = Store::open(env, small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let bounds = store.bounds(&queue(&store, "orders", 0));
            let acked = acked.lock().last().map_or(0, |last| last + 1);
            assert!(bounds.max.0 >= acked, "seed {seed}: {acked} were acknowledged, {} are there", bounds.max.0);
        });
        opened.unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
    }
    assert!(struck > 150, "too few syncs have failed: {struck}");
}

/// Lets the so many-th sync of a directory fail in what a process does, ends the process, lets another one do the rest and acknowledge more, and cuts the power. Until nothing
/// is struck any more.
fn whatever_sync_of_a_directory_fails(
    world: impl Fn(u64) -> World,
    first: impl Fn(&mut World),
    then: impl Fn(&mut World, &str),
    after: impl Fn(&mut World, &str),
) {
    for n in 0.. {
        let mut world = world(n);
        world.disk.inject(Fault::once(Op::SyncDir, FaultKind::Eio).after(n));
        first(&mut world);
        let struck = world.disk.faults_struck() > 0;
        world.disk.heal();
        world.kill();
        then(&mut world, &format!("call {n}"));
        let disk = world.disk.clone();
        for cut in 0..10 {
            world.move_to(disk.crash(n * 100 + cut));
            after(&mut world, &format!("call {n}, power cut {cut}"));
        }
        if !struck {
            assert!(n > 1, "too few syncs have failed: {n}");
            return;
        }
    }
}

fn opened(world: &World, what: &str) -> Arc<Store> {
    Store::open(world.env.clone(), world.options.clone()).unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[test]
fn acked_records_survive_a_power_cut_whatever_sync_of_a_directory_has_failed_in_the_process_before() {
    fn load(world: &mut World, opened: Result<Arc<Store>, sluice_store::OpenError>) {
        let Ok(store) = opened else { return };
        for turn in 0..16 {
            let _ = world.append(&store, "orders", turn % 2, 15_000);
            if turn % 5 == 4 {
                let _ = store.checkpoint();
            }
        }
    }
    let first = |world: &mut World| load(world, Store::open(world.env.clone(), world.options.clone()));
    let then = |world: &mut World, what: &str| load(world, Ok(opened(world, what)));
    let after = |world: &mut World, what: &str| world.check(&opened(world, what));
    let options = StoreOptions { segment_bytes: SEGMENT, ..sync_options() };
    whatever_sync_of_a_directory_fails(|n| World::new(n, options.clone()), first, then, after);
}

#[test]
fn a_cut_that_was_carried_out_is_not_carried_out_again_whatever_sync_of_a_directory_has_failed() {
    const KEPT: u32 = 3;
    let world = |n| {
        let world = World::new(n, StoreOptions { segment_bytes: SEGMENT, ..replicated(FlushMode::Sync) });
        let store = world.open();
        (0..KEPT).for_each(|_| _ = append(&store, "orders", 0, &[b'x'; 9_000], "", Wait::Appended).expect("appended"));
        confirm_all(&store);
        (0..9).for_each(|_| _ = append(&store, "orders", 0, &[b'y'; 9_000], "", Wait::Appended).expect("appended"));
        store.flush().expect("flushed");
        store.order_cut(store.marks().confirmed).expect("ordered");
        drop(store);
        world
    };
    let first = |world: &mut World| drop(Store::open(world.env.clone(), world.options.clone()));
    let then = |world: &mut World, what: &str| {
        let store = opened(world, what);
        (0..9).for_each(|_| _ = append(&store, "orders", 0, &[b'z'; 9_000], "", Wait::Appended).expect("appended"));
        confirm_all(&store);
    };
    let after = |world: &mut World, what: &str| {
        let store = opened(world, what);
        store.confirm(store.marks().appended);
        let first: Vec<u8> = read_all(&store, "orders", 0).iter().map(|body| body[0]).collect();
        assert_eq!(String::from_utf8_lossy(&first), "xxxzzzzzzzzz", "{what}");
    };
    whatever_sync_of_a_directory_fails(world, first, then, after);
}

#[test]
fn a_directory_that_was_filled_is_not_emptied_again_whatever_sync_of_a_directory_has_failed() {
    let options = StoreOptions { segment_bytes: SEGMENT, ..replicated(FlushMode::Sync) };
    let ours = World::new(1, options.clone());
    let master = ours.open();
    let write = |n: usize| {
        (0..n).for_each(|_| _ = append(&master, "orders", 0, &[b'x'; 9_000], "", Wait::Appended).expect("appended"));
        confirm_all(&master);
    };
    write(20);
    let seed = master.seed().expect("seed");
    write(20);
    let world = |n| {
        // Longer than the master's log, in segments that lie across those to come.
        let mut world = World::new(n, StoreOptions { segment_bytes: SEGMENT / 2 * 3, ..options.clone() });
        let store = world.open();
        for _ in 0..2 {
            (0..30).for_each(|_| _ = append(&store, "others", 0, &[b'o'; 9_000], "", Wait::Appended).expect("appended"));
            confirm_all(&store);
            store.checkpoint().expect("checkpoint");
        }
        drop(store);
        world.options = options.clone();
        resync::order(&world.env, SEGMENT).expect("ordered");
        world
    };
    let first = |world: &mut World| drop(fill(&world.env, &master, &seed, 50_000));
    let then = |world: &mut World, what: &str| {
        match fill(&world.env, &master, &seed, 50_000) {
            Ok(()) | Err(resync::ResyncError::NotOrdered(_)) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        let store = opened(world, what);
        catch_up(&master, &store, 50_000);
        confirm_all(&store);
    };
    let after = |world: &mut World, what: &str| {
        let store = opened(world, what);
        assert!(log_of(&store) == log_of(&master), "{what}: another log");
        store.confirm(store.marks().appended);
        assert!(read_all(&store, "orders", 0) == read_all(&master, "orders", 0), "{what}: another queue");
        assert_eq!(read_all(&store, "others", 0).len(), 0, "{what}");
    };
    whatever_sync_of_a_directory_fails(world, first, then, after);
}
