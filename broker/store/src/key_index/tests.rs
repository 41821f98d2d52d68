use super::*;
use proptest::prelude::*;
use sluice_env::{
    OpenMode,
    sim::{Fault, FaultKind, Op, SimDisk},
};

const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);

fn disk() -> Arc<dyn Disk> {
    Arc::new(SimDisk::new())
}

fn find(index: &KeyIndex, hash: u64, (begin, end): (i64, i64), max: usize) -> Vec<u64> {
    let mut out = Vec::new();
    index.lookup(hash, begin, end, max, &mut out).expect("lookup");
    out
}

fn snapshot(index: &KeyIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.snapshot(&mut bytes);
    index.sync().expect("sync");
    bytes
}

#[test]
fn topic_and_key_do_not_run_into_each_other() {
    assert_ne!(hash_key("ab", "c"), hash_key("a", "bc"));
    assert_eq!(hash_key("t", "k"), xxhash_rust::xxh3::xxh3_64(b"t\x01k"));
}

#[test]
fn a_key_is_found_newest_first_in_memory_and_on_disk() {
    let disk = disk();
    let index = KeyIndex::new(disk).unwrap();
    (0..10).for_each(|log| index.push(log % 2, log, log as i64));
    index.flush_run().unwrap();
    (10..20).for_each(|log| index.push(log % 2, log, log as i64));
    assert_eq!(index.pending(), 10);
    assert_eq!(find(&index, 1, ALWAYS, 7), [19, 17, 15, 13, 11, 9, 7]);
    assert_eq!(find(&index, 1, (0, 9), 2), [9, 7], "the run that lies in time is asked alone");
    assert!(find(&index, 2, ALWAYS, 7).is_empty());
}

#[test]
fn a_key_on_many_pages_is_found_whole() {
    let disk = disk();
    let index = KeyIndex::new(disk).unwrap();
    for log in 0..3000 {
        index.push(if log % 3 == 0 { log } else { u64::MAX / 2 }, log, 0);
    }
    index.flush_run().unwrap();
    let expected: Vec<u64> = (0..3000).rev().filter(|log| log % 3 != 0).collect();
    assert_eq!(find(&index, u64::MAX / 2, ALWAYS, 10_000), expected);
    assert_eq!(find(&index, u64::MAX / 2, ALWAYS, 600), expected[..600]);
}

#[test]
fn sixty_four_flushes_leave_one_run_and_old_files_go_with_the_checkpoint() {
    let disk = disk();
    let index = KeyIndex::new(disk.clone()).unwrap();
    for log in 0..64 * 500 {
        index.push(hash_key("t", &(log % 7000).to_string()), log, 1);
        if log % 500 == 499 {
            index.flush_run().unwrap();
        }
    }
    assert_eq!(index.run_count(), 1);
    assert!(disk.list(DIR).unwrap().len() > 1);
    snapshot(&index);
    index.checkpoint_durable();
    assert_eq!(disk.list(DIR).unwrap().len(), 1);
    assert_eq!(find(&index, hash_key("t", "6999"), ALWAYS, 9), [27_999, 20_999, 13_999, 6_999]);
}

#[test]
fn a_restored_index_has_its_runs_skips_what_they_cover_and_removes_orphans() {
    let disk = disk();
    let index = KeyIndex::new(disk.clone()).unwrap();
    (0..100).for_each(|log| index.push(5, log, 1));
    index.flush_run().unwrap();
    let bytes = snapshot(&index);
    (100..200).for_each(|log| index.push(5, log, 1));
    index.flush_run().unwrap();
    let restored = KeyIndex::restore(disk.clone(), &bytes).unwrap();
    assert_eq!(disk.list(DIR).unwrap().len(), 1);
    (90..110).for_each(|log| restored.push(5, log, 1));
    restored.flush_run().unwrap();
    assert_eq!(find(&restored, 5, ALWAYS, 1000), (0..110).rev().collect::<Vec<_>>());
    restored.truncate_above_log(50);
    restored.push(6, 50, 1);
    assert_eq!(find(&restored, 6, ALWAYS, 1000), [50]);
}

#[test]
fn runs_below_the_log_go_and_merged_runs_forget_what_lies_below() {
    let disk = disk();
    let index = KeyIndex::new(disk.clone()).unwrap();
    for first in 0..3 {
        (first * 100..(first + 1) * 100).for_each(|log| index.push(1, log, 1));
        index.flush_run().unwrap();
    }
    index.trim(150).unwrap();
    assert_eq!(index.run_count(), 2);
    assert_eq!(find(&index, 1, ALWAYS, 1000).last(), Some(&100));
    for log in 300..306 {
        index.push(1, log, 1);
        index.flush_run().unwrap();
    }
    assert_eq!((index.run_count(), find(&index, 1, ALWAYS, 1000).last()), (1, Some(&150)));
    assert_eq!(disk.list(DIR).unwrap().len(), 10);
    snapshot(&index);
    index.checkpoint_durable();
    assert_eq!(disk.list(DIR).unwrap().len(), 1);
}

#[test]
fn every_flipped_byte_of_a_run_is_found_out() {
    let disk = disk();
    let index = KeyIndex::new(disk.clone()).unwrap();
    (0..400).for_each(|log| index.push(1, log, 1));
    index.flush_run().unwrap();
    let bytes = snapshot(&index);
    let run = format!("{DIR}/{}", disk.list(DIR).unwrap()[0]);
    let file = disk.open(&run, OpenMode::Write).unwrap();
    for at in (0..file.len().unwrap()).step_by(61) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let result = KeyIndex::restore(disk.clone(), &bytes).and_then(|index| index.lookup(1, ALWAYS.0, ALWAYS.1, 1000, &mut Vec::new()));
        assert!(matches!(result, Err(KeyIndexError::Damaged { .. })), "byte {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    file.set_len(4096).unwrap();
    assert!(matches!(KeyIndex::restore(disk, &bytes), Err(KeyIndexError::Damaged { .. })));
}

#[test]
fn no_flipped_bit_of_a_snapshot_makes_a_restore_panic() {
    let disk = disk();
    let index = KeyIndex::new(disk.clone()).unwrap();
    (0..400).for_each(|log| index.push(1, log, 1));
    index.flush_run().unwrap();
    let bytes = snapshot(&index);
    for at in 0..bytes.len() - 4 {
        for bit in 0..8 {
            let mut body = bytes[..bytes.len() - 4].to_vec();
            body[at] ^= 1 << bit;
            let crc = crc32fast::hash(&body);
            body.extend_from_slice(&crc.to_be_bytes());
            if let Ok(index) = KeyIndex::restore(disk.clone(), &body) {
                find(&index, 1, ALWAYS, 10);
            }
        }
        assert!(KeyIndex::restore(disk.clone(), &bytes[..at]).is_err());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { hash: u64, count: u64 },
    Flush,
    FailingFlush { op: Op, after: u64 },
    Trim { permille: u64 },
    Checkpoint,
    Crash { seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..6_u64, prop_oneof![1..5_u64, 1..5000_u64]).prop_map(|(hash, count)| Step::Push { hash, count }),
        6 => Just(Step::Flush),
        1 => (0..1000_u64).prop_map(|permille| Step::Trim { permille }),
        2 => Just(Step::Checkpoint),
        1 => (prop_oneof![Just(Op::Write), Just(Op::Open), Just(Op::Read)], 0..6_u64).prop_map(|(op, after)| Step::FailingFlush { op, after }),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_key_index_finds_what_a_list_finds(steps in proptest::collection::vec(step(), 1..80)) {
        let mut disk = SimDisk::new();
        let mut index = KeyIndex::new(Arc::new(disk.clone())).unwrap();
        let mut model: Vec<(u64, u64)> = Vec::new();
        let (mut log, mut trimmed, mut durable) = (0, 0, None);
        for step in steps {
            match step {
                Step::Push { hash, count } => for _ in 0..count {
                    log += 10;
                    index.push(hash, log, log as i64);
                    model.push((hash, log));
                },
                Step::Flush => index.flush_run().unwrap(),
                Step::FailingFlush { op, after } => {
                    disk.inject(Fault::once(op, FaultKind::Eio).after(after));
                    // It may not come to that many calls.
                    let _ = index.flush_run();
                    disk.heal();
                }
                Step::Trim { permille } => {
                    trimmed = trimmed.max(log * permille / 1000);
                    index.trim(trimmed).unwrap();
                }
                Step::Checkpoint => {
                    index.flush_run().unwrap();
                    durable = Some(snapshot(&index));
                    index.checkpoint_durable();
                }
                Step::Crash { seed } => {
                    disk = disk.crash(seed);
                    let after = Arc::new(disk.clone());
                    index = match &durable {
                        Some(bytes) => KeyIndex::restore(after, bytes).unwrap(),
                        None => KeyIndex::new(after).unwrap(),
                    };
                    model.iter().for_each(|(hash, log)| index.push(*hash, *log, *log as i64));
                }
            }
            for hash in 0..7 {
                let found = find(&index, hash, ALWAYS, usize::MAX);
                let expected: Vec<u64> = model.iter().rev().filter(|pair| pair.0 == hash).map(|pair| pair.1).collect();
                prop_assert!(found.iter().all(|log| expected.binary_search_by(|at| log.cmp(at)).is_ok()));
                let kept = |logs: &[u64]| logs.iter().copied().filter(|log| *log >= trimmed).collect::<Vec<_>>();
                prop_assert_eq!(kept(&found), kept(&expected));
                prop_assert_eq!(find(&index, hash, ALWAYS, 3), found[..found.len().min(3)].to_vec());
            }
        }
    }
}
