//! Damage: detected, never served, never guessed at.

use crate::world::*;
use sluice_store::{OpenError, Store, Wait};

#[test]
fn a_flipped_byte_below_the_flushed_mark_is_refused_or_never_served() {
    let mut world = World::new(1, sync_options());
    let store = world.open();
    for _ in 0..20 {
        world.append(&store, "orders", 0, 50).expect("acknowledged");
    }
    let end = store.status().appended.0;
    drop(store);
    let whole = world.disk.kill();
    for at in 0..end {
        let disk = whole.kill();
        disk.flip_byte("commitlog/00000000000000000000", at, 0x10);
        world.move_to(disk);
        match Store::open(world.env.clone(), world.options.clone()) {
            Err(OpenError::Damaged(_)) => {}
            Err(other) => panic!("byte {at}: {other}"),
            Ok(_) => panic!("byte {at}: opened"),
        }
    }
}

#[test]
fn a_flipped_byte_below_the_checkpoint_is_never_served() {
    let mut world = World::new(2, sync_options());
    let store = world.open();
    for _ in 0..20 {
        world.append(&store, "orders", 0, 50).expect("acknowledged");
    }
    store.checkpoint().expect("checkpoint");
    let end = store.status().appended.0;
    drop(store);
    let whole = world.disk.kill();
    for at in 0..end {
        let disk = whole.kill();
        disk.flip_byte("commitlog/00000000000000000000", at, 0x01);
        world.move_to(disk);
        let store = world.open();
        let served: Vec<Option<Vec<u8>>> = (0..20).map(|offset| read_one(&store, "orders", 0, offset)).collect();
        assert_eq!(served.iter().filter(|s| s.is_none()).count(), 1, "byte {at}");
        for (offset, body) in served.into_iter().enumerate() {
            if let Some(body) = body {
                assert_eq!(Some(&body), world.acked.get(&("orders".to_owned(), 0, offset as u64)), "byte {at}");
            }
        }
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let mut world = World::new(3, sync_options());
    let store = world.open();
    for _ in 0..40 {
        append(&store, "orders", 0, &[1; 20_000], "", Wait::Durable).expect("acknowledged");
    }
    drop(store);
    world.kill();
    sluice_env::Disk::remove(&world.disk, &format!("commitlog/{SEGMENT_BYTES:020}")).expect("removed");
    assert!(matches!(Store::open(world.env.clone(), world.options.clone()), Err(OpenError::Damaged(_))));
}

#[test]
fn a_damaged_newest_checkpoint_costs_time_and_nothing_else() {
    let mut world = World::new(4, sync_options());
    let store = world.open();
    for round in 0..3 {
        for _ in 0..20 {
            world.append(&store, "orders", round, 3000).expect("acknowledged");
        }
        store.checkpoint().expect("checkpoint");
    }
    drop(store);
    world.kill();
    world.disk.flip_byte("checkpoint", 30, 1);
    let store = world.open();
    world.check(&store);
    world.append(&store, "orders", 0, 10).expect("acknowledged");
}

#[test]
fn indexes_can_be_rebuilt_from_the_log_alone() {
    let mut world = World::new(5, sync_options());
    let store = world.open();
    for i in 0..100 {
        world.append(&store, "orders", i % 5, 3000).expect("acknowledged");
    }
    store.checkpoint().expect("checkpoint");
    drop(store);
    world.kill();
    for name in world.disk.file_names() {
        if !name.starts_with("commitlog/") && name != "identity" {
            sluice_env::Disk::remove(&world.disk, &name).expect("removed");
        }
    }
    world.check(&world.open());
}
