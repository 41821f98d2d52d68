//! What the simulated disk promises to the tests that stand on it.
#![allow(clippy::disallowed_methods, reason = "the disk itself is tested")]
#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::{collections::BTreeSet, io::ErrorKind, sync::Arc};

use proptest::prelude::*;
use sluice_env::{
    Disk, File, OpenMode,
    sim::{Fault, FaultKind, Op, SimDisk},
};

const SECTOR: usize = 512;

/// A disk with one durable, empty file.
fn disk_with(name: &str) -> (SimDisk, Arc<dyn File>) {
    let disk = SimDisk::new();
    let file = disk.open(name, OpenMode::CreateNew).unwrap();
    disk.sync_dir("").unwrap();
    (disk, file)
}

fn outcomes(disk: &SimDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..200).map(|seed| disk.crash(seed).file_bytes(name)).collect()
}

fn is_eio(error: &std::io::Error) -> bool {
    error.kind() == std::io::Error::from_raw_os_error(5).kind()
}

#[test]
fn bytes_are_read_back_and_a_hole_is_zero() {
    let (disk, file) = disk_with("a");
    file.write_all_at(b"tail", 1000).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    let mut buf = [1; 8];
    file.read_exact_at(&mut buf, 996).unwrap();
    assert_eq!(&buf, b"\0\0\0\0tail");
    assert_eq!(file.read_exact_at(&mut buf, 997).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    file.set_len(2).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(disk.file_bytes("a").unwrap(), b"he\0\0\0\0");
    assert!(file.os_file().is_none());
}

#[test]
fn the_simulated_disk_gives_the_kinds_of_error_of_the_real_one() {
    let dir = tempfile::tempdir().unwrap();
    let real = sluice_env::real::RealDisk::new(dir.path());
    let sim = SimDisk::new();
    let disks: [&dyn Disk; 2] = [&real, &sim];
    let kinds = disks.map(|disk| {
        disk.create_dir("d/e").unwrap();
        let file = disk.open("f", OpenMode::Create).unwrap();
        let results = [
            disk.open("none", OpenMode::Read).err(),
            disk.open("none", OpenMode::Write).err(),
            disk.open("none/f", OpenMode::Create).err(),
            disk.open("f/g", OpenMode::Create).err(),
            disk.open("d", OpenMode::Create).err(),
            disk.open("f", OpenMode::CreateNew).err(),
            disk.open("../f", OpenMode::Create).err(),
            disk.open("f", OpenMode::Read).unwrap().write_all_at(b"x", 0).err(),
            disk.list("none").err(),
            disk.list("f").err(),
            disk.create_dir("f").err(),
            disk.remove("none").err(),
            disk.rename("none", "g").err(),
            disk.rename("f", "d").err(),
            disk.sync_dir("none").err(),
            file.read_exact_at(&mut [0], 0).err(),
            file.read_exact_at(&mut [], 7).err(),
        ];
        let mut kinds = Vec::from(results.map(|error| error.map(|error| error.kind())));
        let held = disk.lock("lock").unwrap();
        kinds.push(disk.lock("lock").err().map(|error| error.kind()));
        drop(held);
        kinds.push(disk.lock("lock").err().map(|error| error.kind()));
        kinds
    });
    assert_eq!(kinds[0], kinds[1]);
    assert_eq!(real.list("").unwrap(), sim.list("").unwrap());
}

#[test]
fn an_unsynced_write_is_kept_dropped_or_torn_between_sectors() {
    let (disk, file) = disk_with("a");
    file.write_all_at(&[1; 4 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 4 * SECTOR], 0).unwrap();
    let seen = outcomes(&disk, "a");
    assert!(seen.contains(&Some(vec![1; 4 * SECTOR])), "dropped");
    assert!(seen.contains(&Some(vec![2; 4 * SECTOR])), "kept");
    assert!(seen.len() > 4, "torn in several ways");
    for bytes in seen.into_iter().flatten() {
        assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "no sector is torn");
    }
}

#[test]
fn a_later_write_can_be_there_without_an_earlier_one() {
    let (disk, file) = disk_with("a");
    file.set_len(2 * SECTOR as u64).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[1; SECTOR], 0).unwrap();
    file.write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
    let late_only = [[0; SECTOR], [2; SECTOR]].concat();
    assert!(outcomes(&disk, "a").contains(&Some(late_only)));
}

#[test]
fn the_same_seed_cuts_the_same_way() {
    let (disk, file) = disk_with("a");
    for at in 0..20 {
        file.write_all_at(&[at; 700], u64::from(at) * 350).unwrap();
    }
    for seed in 0..50 {
        assert_eq!(disk.crash(seed).file_bytes("a"), disk.crash(seed).file_bytes("a"));
    }
}

#[test]
fn a_file_whose_name_was_not_synced_can_vanish_with_its_synced_bytes() {
    let disk = SimDisk::new();
    let file = disk.open("a", OpenMode::CreateNew).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(b"x".to_vec())]));
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"x".to_vec())]));
}

#[test]
fn a_rename_over_a_file_leaves_the_old_or_the_new_and_never_neither() {
    let (disk, old) = disk_with("a");
    old.write_all_at(b"old", 0).unwrap();
    old.sync_data().unwrap();
    let new = disk.open("tmp", OpenMode::CreateNew).unwrap();
    new.write_all_at(b"new", 0).unwrap();
    new.sync_data().unwrap();
    disk.rename("tmp", "a").unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]));
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"new".to_vec())]));
    assert_eq!(disk.crash(3).file_names(), ["a"]);
}

#[test]
fn a_removal_is_durable_only_after_the_directory_is_synced() {
    let (disk, _file) = disk_with("a");
    disk.remove("a").unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(vec![])]));
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None]));
}

#[test]
fn a_kill_keeps_every_byte_and_makes_none_durable() {
    let (disk, file) = disk_with("a");
    let held = disk.lock("lock").unwrap();
    file.write_all_at(b"unsynced", 0).unwrap();
    let killed = disk.kill();
    assert_eq!(killed.file_bytes("a").unwrap(), b"unsynced");
    killed.lock("lock").unwrap();
    assert!(outcomes(&killed, "a").contains(&Some(vec![])));
    file.write_all_at(b"after", 0).unwrap();
    assert_eq!(killed.file_bytes("a").unwrap(), b"unsynced", "the dead process reaches the new disk no more");
    drop(held);
}

#[test]
fn a_sync_after_a_failed_sync_succeeds_and_does_not_save_the_bytes() {
    let (disk, file) = disk_with("a");
    file.write_all_at(&[1; 2 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 2 * SECTOR], 0).unwrap();
    disk.inject(Fault::once(Op::Sync, FaultKind::Eio));
    assert!(is_eio(&file.sync_data().unwrap_err()));
    file.sync_data().unwrap();
    assert_eq!(disk.file_bytes("a").unwrap(), [2; 2 * SECTOR], "readers do not notice");
    assert!(outcomes(&disk, "a").contains(&Some(vec![1; 2 * SECTOR])));
    file.write_all_at(&[3; SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    for bytes in outcomes(&disk, "a").into_iter().flatten() {
        assert_eq!(bytes[..SECTOR], [3; SECTOR], "what was written anew is safe");
        assert!(bytes[SECTOR..] == [1; SECTOR] || bytes[SECTOR..] == [2; SECTOR], "what was not stays in doubt");
    }
}

#[test]
fn a_name_stays_in_doubt_after_a_failed_directory_sync() {
    let disk = SimDisk::new();
    disk.open("a", OpenMode::CreateNew).unwrap();
    disk.inject(Fault::once(Op::SyncDir, FaultKind::Eio));
    assert!(is_eio(&disk.sync_dir("").unwrap_err()));
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(vec![])]));
    disk.rename("a", "b").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.crash(0).file_names(), ["b"]);
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None]), "an overtaken name does not come back");
}

#[test]
fn a_lying_sync_succeeds_and_saves_nothing() {
    let (disk, file) = disk_with("a");
    file.write_all_at(b"x", 0).unwrap();
    disk.inject(Fault::once(Op::Sync, FaultKind::LyingSync));
    file.sync_data().unwrap();
    assert!(outcomes(&disk, "a").contains(&Some(vec![])));
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"x".to_vec())]));
}

#[test]
fn a_fault_strikes_the_call_it_was_told_to_and_as_often() {
    let (disk, file) = disk_with("log");
    let other = disk.open("other", OpenMode::Create).unwrap();
    let mut fault = Fault::once(Op::Write, FaultKind::Enospc).on("log").after(1);
    fault.times = Some(2);
    disk.inject(fault);
    let mut results = Vec::new();
    for _ in 0..4 {
        other.write_all_at(b"y", 0).unwrap();
        results.push(file.write_all_at(b"x", 0).map_err(|error| error.kind()));
    }
    assert_eq!(results, [Ok(()), Err(ErrorKind::StorageFull), Err(ErrorKind::StorageFull), Ok(())]);
    assert_eq!((disk.calls(Op::Write), disk.faults_struck()), (8, 2));
    disk.inject(Fault::once(Op::Write, FaultKind::Eio).forever());
    assert!(file.write_all_at(b"x", 0).is_err() && file.write_all_at(b"x", 0).is_err());
    disk.heal();
    file.write_all_at(b"x", 0).unwrap();
}

#[test]
fn every_call_can_be_made_to_fail() {
    for op in Op::ALL {
        let (disk, file) = disk_with("a");
        file.write_all_at(b"x", 0).unwrap();
        disk.inject(Fault::once(op, FaultKind::Eio));
        let result = match op {
            Op::Read => file.read_exact_at(&mut [0], 0),
            Op::Write => file.write_all_at(b"y", 0),
            Op::Sync => file.sync_data(),
            Op::SetLen => file.set_len(0),
            Op::Allocate => file.allocate(9),
            Op::Open => disk.open("a", OpenMode::Read).map(drop),
            Op::Rename => disk.rename("a", "b"),
            Op::Remove => disk.remove("a"),
            Op::CreateDir => disk.create_dir("d"),
            Op::SyncDir => disk.sync_dir(""),
        };
        assert!(result.is_err_and(|error| is_eio(&error)), "{op:?}");
        assert_eq!(disk.file_bytes("a").unwrap(), b"x", "{op:?} that failed changed nothing");
        assert_eq!(disk.faults_struck(), 1, "{op:?}");
    }
}

#[test]
fn a_short_write_leaves_its_first_bytes() {
    let (disk, file) = disk_with("a");
    disk.inject(Fault::once(Op::Write, FaultKind::ShortWrite(3)));
    assert_eq!(file.write_all_at(b"abcdef", 0).unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(disk.file_bytes("a").unwrap(), b"abc");
}

#[test]
#[should_panic(expected = "cannot fail with LyingSync")]
fn a_fault_that_cannot_happen_is_refused() {
    SimDisk::new().inject(Fault::once(Op::Read, FaultKind::LyingSync));
}

#[test]
fn a_full_disk_refuses_new_sectors_and_takes_what_was_reserved() {
    let (disk, reserved) = disk_with("reserved");
    disk.set_capacity(Some(8 * SECTOR as u64));
    reserved.allocate(4 * SECTOR as u64).unwrap();
    let other = disk.open("other", OpenMode::Create).unwrap();
    assert_eq!(other.write_all_at(&[1; 6 * SECTOR], 0).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(other.len().unwrap(), 4 * SECTOR as u64, "what fitted was written");
    assert_eq!(disk.space().unwrap(), (0, 8 * SECTOR as u64));
    assert_eq!(reserved.allocate(5 * SECTOR as u64).unwrap_err().kind(), ErrorKind::StorageFull);
    reserved.write_all_at(&[2; 4 * SECTOR], 0).unwrap();
    other.write_all_at(&[3; SECTOR], 0).unwrap();
    disk.remove("other").unwrap();
    assert_eq!(disk.space().unwrap().0, 4 * SECTOR as u64);
    reserved.set_len(1).unwrap();
    assert_eq!(disk.space().unwrap().0, 7 * SECTOR as u64);
}

#[test]
fn a_flipped_byte_is_flipped_for_readers_and_after_a_crash() {
    let (disk, file) = disk_with("a");
    file.write_all_at(b"abc", 0).unwrap();
    file.sync_data().unwrap();
    disk.flip_byte("a", 1, 0x20);
    disk.flip_byte("a", 99, 0xff);
    assert_eq!(disk.file_bytes("a").unwrap(), b"aBc");
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"aBc".to_vec())]));
}

#[test]
fn an_open_file_outlives_its_name() {
    let (disk, file) = disk_with("a");
    disk.remove("a").unwrap();
    disk.sync_dir("").unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.read_exact_at(&mut [0], 0).unwrap();
    assert!(disk.file_names().is_empty());
}

/// A step on one file.
#[derive(Clone, Debug)]
enum Step {
    Write { offset: u16, len: u16, fill: u8 },
    SetLen(u16),
    Allocate(u16),
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3000_u16, 1..1500_u16, 1..=255_u8).prop_map(|(offset, len, fill)| Step::Write { offset, len, fill }),
        1 => (0..4000_u16).prop_map(Step::SetLen),
        1 => (0..4000_u16).prop_map(Step::Allocate),
        2 => Just(Step::Sync),
    ]
}

fn take(file: &dyn File, step: &Step) {
    match *step {
        Step::Write { offset, len, fill } => file.write_all_at(&vec![fill; usize::from(len)], u64::from(offset)),
        Step::SetLen(len) => file.set_len(u64::from(len)),
        Step::Allocate(len) => file.allocate(u64::from(len)),
        Step::Sync => file.sync_data(),
    }
    .unwrap();
}

/// Sector `index` of `bytes`, zero beyond their end.
fn sector(bytes: &[u8], index: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let rest = bytes.get(index * SECTOR..).unwrap_or_default();
    let len = rest.len().min(SECTOR);
    sector[..len].copy_from_slice(&rest[..len]);
    sector
}

/// Whether each sector, and the length, is one that the file had in one of `versions`.
fn is_possible(bytes: &[u8], versions: &[Vec<u8>]) -> bool {
    let sectors_possible =
        bytes.chunks(SECTOR).enumerate().all(|(index, chunk)| versions.iter().any(|version| sector(version, index)[..chunk.len()] == *chunk));
    sectors_possible && versions.iter().any(|version| version.len() == bytes.len())
}

proptest! {
    #[test]
    fn after_a_crash_each_sector_is_the_synced_one_or_a_newer_one(steps in prop::collection::vec(step(), 1..24), seed: u64) {
        let (disk, file) = disk_with("a");
        // What the file was at the last sync and after each step since.
        let mut versions = vec![Vec::new()];
        for step in &steps {
            take(file.as_ref(), step);
            if matches!(step, Step::Sync) {
                versions.clear();
            }
            versions.push(disk.file_bytes("a").unwrap());
        }
        for seed in (0..16).map(|n| seed.wrapping_add(n)) {
            let crashed = disk.crash(seed);
            let bytes = crashed.file_bytes("a").unwrap();
            prop_assert!(is_possible(&bytes, &versions), "seed {seed} left an impossible file");
            prop_assert_eq!(crashed.crash(seed ^ 1).file_bytes("a").unwrap(), bytes, "what a crash left is durable");
        }
    }

    #[test]
    fn synced_bytes_survive_every_crash(steps in prop::collection::vec(step(), 1..24), seed: u64) {
        let (disk, file) = disk_with("a");
        steps.iter().for_each(|step| take(file.as_ref(), step));
        file.sync_data().unwrap();
        let bytes = disk.file_bytes("a");
        for seed in (0..16).map(|n| seed.wrapping_add(n)) {
            prop_assert_eq!(disk.crash(seed).file_bytes("a"), bytes.clone());
            prop_assert_eq!(disk.kill().crash(seed).file_bytes("a"), bytes.clone());
        }
    }

    #[test]
    fn what_is_written_and_synced_after_a_failed_sync_survives(
        before in prop::collection::vec(step(), 0..12),
        failed in prop::collection::vec(step(), 0..12),
        offset in 0..3000_u16, len in 1..1500_u16, seed: u64,
    ) {
        let (disk, file) = disk_with("a");
        before.iter().for_each(|step| take(file.as_ref(), step));
        // A sync among these steps would make them certain.
        failed.iter().filter(|step| !matches!(step, Step::Sync)).for_each(|step| take(file.as_ref(), step));
        disk.inject(Fault::once(Op::Sync, FaultKind::Eio));
        prop_assert!(file.sync_data().is_err());
        take(file.as_ref(), &Step::Write { offset, len, fill: 77 });
        file.sync_data().unwrap();
        let range = usize::from(offset)..usize::from(offset) + usize::from(len);
        for seed in (0..16).map(|n| seed.wrapping_add(n)) {
            let bytes = disk.crash(seed).file_bytes("a").unwrap();
            prop_assert_eq!(bytes.get(range.clone()), Some(&vec![77; usize::from(len)][..]));
        }
    }

    #[test]
    fn a_name_untouched_since_the_directory_was_synced_survives_every_crash(
        steps in prop::collection::vec((0..4_u8, 0..4_usize, 0..4_usize), 1..30), seed: u64,
    ) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let disk = SimDisk::new();
        let mut synced = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for (kind, one, two) in steps {
            let (one, two) = (NAMES[one], NAMES[two]);
            let done = match kind {
                0 => disk.open(one, OpenMode::CreateNew).is_ok(),
                1 => disk.remove(one).is_ok(),
                2 => disk.rename(one, two).is_ok(),
                _ => {
                    disk.sync_dir("").unwrap();
                    synced = disk.file_names().into_iter().collect();
                    touched.clear();
                    false
                }
            };
            if done {
                touched.extend([one, two]);
            }
        }
        for seed in (0..16).map(|n| seed.wrapping_add(n)) {
            let names = disk.crash(seed).file_names();
            for name in NAMES.iter().filter(|name| !touched.contains(*name)) {
                prop_assert_eq!(names.iter().any(|other| other == name), synced.contains(*name), "{}", name);
            }
        }
    }
}
