//! Damage: detected, never served, never guessed at.

use crate::world::*;
use sluice_store::{OpenError, ReadError, ReadLimits, Store, Wait};
use sluice_types::QueueOffset;

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

/// A record that rots costs itself: what lies before it is served, and it is named.
#[test]
fn a_read_ends_before_a_damaged_record_and_the_next_one_names_it() {
    let mut world = World::new(1, sync_options());
    let store = world.open();
    let placed: Vec<_> = (0..10).map(|_| world.append(&store, "orders", 0, 100).expect("acknowledged")).collect();
    world.disk.flip_byte("commitlog/00000000000000000000", placed[6].log_offset.0 + 90, 4);
    let limits = ReadLimits { messages: 32, bytes: 1 << 20, scanned: 32 };
    let read = |from| store.read(&queue(&store, "orders", 0), QueueOffset(from), limits, &mut |_| true);
    let before = read(2).expect("the first wanted is whole");
    assert_eq!((before.messages, before.next), (4, QueueOffset(6)));
    assert_eq!(read(6).err(), Some(ReadError::Corrupt(placed[6].log_offset)));
    assert_eq!(read(7).map(|out| out.messages), Ok(3));
}

/// The entries of the queue index have no checksum of their own: what they name is checked instead.
#[test]
fn an_index_entry_that_names_another_record_is_found_out() {
    const ENTRY_BYTES: usize = 20;
    const FILE: &str = "queueindex/000000";
    let mut world = World::new(1, sync_options());
    let store = world.open();
    let placed: Vec<_> = (0..12).map(|i| world.append(&store, ["orders", "payments"][i % 2], i as u32 / 2 % 2, 100).expect("acknowledged")).collect();
    store.checkpoint().expect("checkpoint");
    let index = world.disk.file_bytes(FILE).expect("there");
    let entries: Vec<usize> = placed.iter().map(|p| index.windows(12).position(|w| w == entry_of(p)).expect("in the index")).collect();
    let file = sluice_env::Disk::open(&world.disk, FILE, sluice_env::OpenMode::Write).expect("there");
    for (at, original) in placed.iter().zip(&entries) {
        for other in entries.iter().filter(|other| *other != original) {
            file.write_all_at(&index[*other..*other + ENTRY_BYTES], *original as u64).expect("writable");
            let served =
                [("orders", 0), ("orders", 1), ("payments", 0), ("payments", 1)].iter().filter_map(|(t, q)| read_one(&store, t, *q, at.queue_offset.0));
            assert_eq!(served.count(), 3, "instead of the record at {}", at.log_offset);
        }
        file.write_all_at(&index[*original..*original + ENTRY_BYTES], *original as u64).expect("writable");
    }
    world.check(&store);
}

/// An entry's first fields: log offset and size.
fn entry_of(placed: &sluice_store::Placed) -> [u8; 12] {
    let mut entry = [0; 12];
    entry[..8].copy_from_slice(&placed.log_offset.0.to_be_bytes());
    entry[8..].copy_from_slice(&placed.bytes.to_be_bytes());
    entry
}
