use super::*;
use proptest::prelude::*;
use sluice_env::{
    OpenMode,
    real::RealDisk,
    sim::{Fault, FaultKind, HookedDisk, Op, SimDisk},
};
use std::collections::BTreeMap;

fn disk() -> Arc<dyn Disk> {
    Arc::new(SimDisk::new())
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("legal")
}

fn entry(log_offset: u64) -> Entry {
    Entry { log_offset, size: log_offset as u32 % 1000 + 1, tag_hash: -(log_offset as i64) }
}

fn push_many(index: &QueueIndex, queue: &QueueRef, logs: std::ops::Range<u64>) {
    logs.for_each(|log| _ = index.push(queue, entry(log * 100)));
}

fn checkpoint(index: &QueueIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.spill().expect("spill");
    index.snapshot(&mut bytes);
    index.sync().expect("sync");
    bytes
}

fn read_all(index: &QueueIndex, queue: &QueueRef) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut from = queue.visible().min;
    loop {
        let before = out.len();
        let first = index.entries(queue, from, 1000, &mut out).expect("read");
        assert_eq!(first, from);
        if out.len() == before {
            return out;
        }
        from = from.plus((out.len() - before) as u64);
    }
}

#[test]
fn an_entry_keeps_all_its_bits_on_disk() {
    let value = Entry { log_offset: u64::MAX - 3, size: 0xfeed_beef, tag_hash: i64::MIN + 9 };
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    assert_eq!(Entry::decode(bytes.as_slice().try_into().unwrap()), value);
}

#[test]
fn what_is_not_published_is_not_read_but_can_be_looked_at() {
    let disk = disk();
    let index = QueueIndex::new(disk).unwrap();
    let queue = index.queue(&topic("t"), QueueId(0));
    push_many(&index, &queue, 0..10);
    index.publish(&queue, QueueOffset(4));
    let mut out = Vec::new();
    assert_eq!(index.entries(&queue, QueueOffset(1), 100, &mut out).unwrap(), QueueOffset(1));
    assert_eq!(out, (1..4).map(|log| entry(log * 100)).collect::<Vec<_>>());
    assert_eq!(index.entry(&queue, QueueOffset(9)).unwrap(), Some(entry(900)));
    assert_eq!(index.entry(&queue, QueueOffset(10)).unwrap(), None);
    index.publish(&queue, QueueOffset(2));
    index.publish(&queue, QueueOffset(99));
    assert_eq!(queue.visible().max, QueueOffset(10), "publishing takes nothing back and shows nothing that is not there");
}

#[test]
fn a_read_crosses_extents_frozen_entries_and_the_tail() {
    let disk = disk();
    let index = QueueIndex::new(disk).unwrap();
    let queue = index.queue(&topic("t"), QueueId(0));
    for end in [20, 50, 400, 5000, 40_000] {
        push_many(&index, &queue, queue.next_offset().0..end);
        index.spill().unwrap();
    }
    push_many(&index, &queue, 40_000..40_010);
    assert_eq!(index.in_memory_entries(), 10);
    index.publish(&queue, queue.next_offset());
    assert_eq!(read_all(&index, &queue), (0..40_010).map(|log| entry(log * 100)).collect::<Vec<_>>());
}

#[test]
fn ten_thousand_topics_share_few_files_and_little_disk() {
    let disk = disk();
    let index = QueueIndex::new(disk).unwrap();
    let mut log = 0;
    for number in 0..10_000 {
        let topic = topic(&format!("topic-{number}"));
        for id in 0..8 {
            log += 1;
            index.push(&index.queue(&topic, QueueId(id)), entry(log));
        }
    }
    let bytes = checkpoint(&index);
    assert_eq!((index.len(), index.open_files()), (80_000, 1));
    let restored = QueueIndex::restore(index.disk.clone(), &bytes).unwrap();
    assert_eq!(restored.len(), 80_000);
    let queue = restored.find("topic-9999", 7).unwrap();
    assert_eq!(restored.entry(&queue, QueueOffset(0)).unwrap(), Some(entry(80_000)));
    assert_eq!(restored.queues_of("topic-5").iter().map(|queue| queue.id().0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_trimmed_extent_is_reused_only_after_the_next_durable_checkpoint() {
    let disk = disk();
    let index = QueueIndex::new(disk.clone()).unwrap();
    let old = index.queue(&topic("old"), QueueId(0));
    push_many(&index, &old, 0..32);
    index.publish(&old, QueueOffset(32));
    let first = checkpoint(&index);
    index.checkpoint_durable();
    index.trim_queue(&old, QueueOffset(32));
    let new = index.queue(&topic("new"), QueueId(0));
    push_many(&index, &new, 32..64);
    let second = checkpoint(&index);
    // Power cut before the second checkpoint was durable: the first must still be whole.
    let restored = QueueIndex::restore(disk.clone(), &first).unwrap();
    let queue = restored.find("old", 0).unwrap();
    assert_eq!(read_all(&restored, &queue), (0..32).map(|log| entry(log * 100)).collect::<Vec<_>>());

    let index = QueueIndex::restore(disk, &second).unwrap();
    let place = |index: &QueueIndex, name| index.find(name, 0).unwrap().state.lock().extents.first().map(|extent| extent.place);
    let reuser = index.queue(&topic("reuser"), QueueId(0));
    push_many(&index, &reuser, 64..65);
    index.spill().unwrap();
    assert_eq!((place(&index, "reuser").unwrap().slot, place(&index, "old")), (0, None));
}

#[test]
fn files_that_have_become_empty_are_removed_but_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::create(dir.path()).unwrap());
    let index = QueueIndex::new(disk.clone()).unwrap();
    let queue = index.queue(&topic("t"), QueueId(0));
    let entries = u64::from(space::CHUNKS_PER_FILE) * 16_384 * 2;
    for first in (0..entries).step_by(1 << 20) {
        push_many(&index, &queue, first..entries.min(first + (1 << 20)));
        index.spill().unwrap();
    }
    assert!(index.open_files() > 1);
    index.publish(&queue, queue.next_offset());
    index.trim_below_log(u64::MAX).unwrap();
    assert_eq!(queue.visible(), crate::api::QueueBounds { min: QueueOffset(entries), max: QueueOffset(entries) });
    checkpoint(&index);
    index.checkpoint_durable();
    assert_eq!(index.open_files(), 1);
    assert_eq!(disk.list(space::DIR).unwrap().len(), 1);
}

#[test]
fn a_queue_of_a_log_without_its_beginning_starts_where_its_first_record_lies() {
    let disk = disk();
    let index = QueueIndex::new(disk.clone()).unwrap();
    let queue = index.queue(&topic("t"), QueueId(3));
    index.start_at(&queue, QueueOffset(5000));
    assert_eq!(index.push(&queue, entry(7)), QueueOffset(5000));
    index.publish(&queue, QueueOffset(5001));
    let bytes = checkpoint(&index);
    let restored = QueueIndex::restore(disk, &bytes).unwrap();
    let queue = restored.find("t", 3).unwrap();
    assert_eq!(queue.visible(), crate::api::QueueBounds { min: QueueOffset(5000), max: QueueOffset(5001) });
    let mut out = Vec::new();
    assert_eq!(restored.entries(&queue, QueueOffset(1), 10, &mut out).unwrap(), QueueOffset(5000), "a read from below begins at the first entry");
    assert_eq!(out, [entry(7)]);
}

#[test]
fn an_empty_queue_never_uses_an_offset_twice_after_a_restore() {
    let disk = disk();
    let index = QueueIndex::new(disk.clone()).unwrap();
    let queue = index.queue(&topic("t"), QueueId(0));
    push_many(&index, &queue, 0..50);
    index.publish(&queue, QueueOffset(50));
    index.trim_queue(&queue, QueueOffset(50));
    let bytes = checkpoint(&index);
    let restored = QueueIndex::restore(disk, &bytes).unwrap();
    assert_eq!(restored.find("t", 0).unwrap().next_offset(), QueueOffset(50));
    assert_eq!(QueueIndex::next_offsets(&bytes).unwrap(), [(topic("t"), QueueId(0), QueueOffset(50))], "also when the index files are lost");
}

#[test]
fn a_log_shorter_than_the_snapshot_cuts_the_queues() {
    let disk = disk();
    for (spilled, cut) in [(true, 7777), (true, 1), (true, 2048), (false, 7777), (false, 0), (true, 100_000)] {
        let index = QueueIndex::new(disk.clone()).unwrap();
        let queue = index.queue(&topic("t"), QueueId(0));
        push_many(&index, &queue, 0..9000);
        if spilled {
            index.spill().unwrap();
        }
        push_many(&index, &queue, 9000..9005);
        index.publish(&queue, queue.next_offset());
        index.truncate_above_log(cut * 100).unwrap();
        let end = cut.min(9005);
        assert_eq!((queue.next_offset(), queue.visible().max), (QueueOffset(end), QueueOffset(end)));
        push_many(&index, &queue, 20_000..20_100);
        index.spill().unwrap();
        index.publish(&queue, queue.next_offset());
        assert_eq!(read_all(&index, &queue), (0..end).chain(20_000..20_100).map(|log| entry(log * 100)).collect::<Vec<_>>());
        QueueIndex::restore(disk.clone(), &checkpoint(&index)).unwrap();
    }
}

#[test]
fn a_snapshot_is_refused_when_a_file_it_names_is_missing_or_short() {
    let disk = disk();
    let index = QueueIndex::new(disk.clone()).unwrap();
    push_many(&index, &index.queue(&topic("t"), QueueId(0)), 0..10);
    let bytes = checkpoint(&index);
    disk.open("queueindex/000000", OpenMode::Write).unwrap().set_len(100).unwrap();
    assert!(matches!(QueueIndex::restore(disk.clone(), &bytes), Err(RestoreError::Damaged(_))));
    disk.remove("queueindex/000000").unwrap();
    assert!(matches!(QueueIndex::restore(disk, &bytes), Err(RestoreError::Damaged(_))));
}

/// A snapshot with one bit changed and a checksum that fits.
fn mutate(bytes: &[u8], at: usize, bit: u8) -> Vec<u8> {
    let mut body = bytes[..bytes.len() - 4].to_vec();
    let at = at % body.len();
    body[at] ^= 1 << (bit % 8);
    let crc = crc32fast::hash(&body);
    body.extend_from_slice(&crc.to_be_bytes());
    body
}

fn snapshot_of_some_queues() -> (Arc<dyn Disk>, Vec<u8>) {
    let disk = disk();
    let index = QueueIndex::new(disk.clone()).unwrap();
    for (id, count) in [(0, 10), (1, 400), (2, 33)] {
        let queue = index.queue(&topic("t"), QueueId(id));
        push_many(&index, &queue, 0..count);
        index.spill().unwrap();
        push_many(&index, &queue, count..2 * count);
    }
    let bytes = checkpoint(&index);
    (disk, bytes)
}

#[test]
fn no_flipped_bit_of_a_snapshot_makes_a_restore_panic_or_two_queues_overlap() {
    let (disk, bytes) = snapshot_of_some_queues();
    for at in 0..bytes.len() - 4 {
        for bit in 0..8 {
            if let Ok(index) = QueueIndex::restore(disk.clone(), &mutate(&bytes, at, bit)) {
                index.for_each(|queue| _ = read_all(&index, queue));
            }
        }
        assert!(QueueIndex::restore(disk.clone(), &bytes[..at]).is_err(), "a snapshot cut at {at}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "readers on real threads")]
fn reads_stay_right_while_extents_are_written_trimmed_and_reused() {
    let disk = disk();
    let index = QueueIndex::new(disk).unwrap();
    let queues: Vec<QueueRef> = (0..4).map(|id| index.queue(&topic("t"), QueueId(id))).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for queue in &queues {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let mut out = Vec::new();
                    let first = index.entries(queue, queue.visible().min, 500, &mut out).unwrap();
                    for (at, found) in (first.0..).zip(&out) {
                        assert_eq!(found.log_offset, (at * 4 + u64::from(queue.id().0)) * 100, "{queue:?}");
                    }
                }
            });
        }
        for round in 0..300_u64 {
            for at in round * 40..(round + 1) * 40 {
                queues.iter().for_each(|queue| _ = index.push(queue, entry((at * 4 + u64::from(queue.id().0)) * 100)));
            }
            queues.iter().for_each(|queue| index.publish(queue, queue.next_offset()));
            index.spill().unwrap();
            index.trim_below_log((round * 40).saturating_sub(500) * 400).unwrap();
            index.snapshot(&mut Vec::new());
            index.checkpoint_durable();
        }
        done.store(true, Ordering::Release);
    });
}

/// Runs something in the middle of the next read.
type Meddler = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn meddled_disk(meddler: &Meddler) -> Arc<dyn Disk> {
    let meddler = meddler.clone();
    let meddle = move |op, _: &str| {
        if op == Op::Read {
            let now = meddler.lock().take();
            now.into_iter().for_each(|meddle| meddle());
        }
        Ok(())
    };
    Arc::new(HookedDisk::new(disk(), meddle))
}

#[test]
fn a_read_never_returns_another_queues_entries_when_its_extent_is_trimmed_and_reused_meanwhile() {
    let meddler = Meddler::default();
    let index = Arc::new(QueueIndex::new(meddled_disk(&meddler)).unwrap());
    let (old, new) = (index.queue(&topic("old"), QueueId(0)), index.queue(&topic("new"), QueueId(0)));
    for (look_at_one, first) in [(false, 0), (true, 40)] {
        push_many(&index, &old, first..first + 40);
        index.publish(&old, old.next_offset());
        index.spill().unwrap();
        let (there, old_queue, new_queue) = (index.clone(), old.clone(), new.clone());
        *meddler.lock() = Some(Box::new(move || {
            there.trim_queue(&old_queue, QueueOffset(first + 40));
            there.snapshot(&mut Vec::new());
            there.checkpoint_durable();
            push_many(&there, &new_queue, 1000 + first..1040 + first);
            there.spill().unwrap();
        }));
        if look_at_one {
            assert_eq!(index.entry(&old, QueueOffset(first)).unwrap(), None);
        } else {
            let mut out = Vec::new();
            assert_eq!(index.entries(&old, QueueOffset(first), 40, &mut out).unwrap(), QueueOffset(first + 40));
            assert_eq!(out, []);
        }
        assert!(meddler.lock().is_none(), "the read has been meddled with");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { queue: usize, count: u64 },
    Publish { queue: usize },
    Spill,
    TrimLog { permille: u64 },
    TrimQueue { queue: usize, permille: u64 },
    Checkpoint { durable: bool },
    FailingSpill { op: Op, after: u64, bytes: usize },
    FailingSync,
    Crash { seed: u64, power_cut: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..5_usize;
    prop_oneof![
        6 => (queue.clone(), prop_oneof![1..4_u64, 1..300_u64, 1..3000_u64]).prop_map(|(queue, count)| Step::Push { queue, count }),
        3 => queue.clone().prop_map(|queue| Step::Publish { queue }),
        3 => Just(Step::Spill),
        1 => (0..1000_u64).prop_map(|permille| Step::TrimLog { permille }),
        1 => (queue, 0..1100_u64).prop_map(|(queue, permille)| Step::TrimQueue { queue, permille }),
        2 => any::<bool>().prop_map(|durable| Step::Checkpoint { durable }),
        1 => (prop_oneof![Just(Op::Write), Just(Op::Allocate), Just(Op::Open)], 0..4_u64, 0..2000_usize).prop_map(|(op, after, bytes)| Step::FailingSpill { op, after, bytes }),
        1 => Just(Step::FailingSync),
        2 => (any::<u64>(), any::<bool>()).prop_map(|(seed, power_cut)| Step::Crash { seed, power_cut }),
    ]
}

struct Model {
    disk: SimDisk,
    /// A sync has failed since the last restart.
    sync_failed: bool,
    /// All entries ever appended, by queue.
    entries: BTreeMap<usize, Vec<Entry>>,
    min: BTreeMap<usize, u64>,
    visible: BTreeMap<usize, u64>,
    log: u64,
    durable: Option<Vec<u8>>,
}

impl Model {
    fn visible_of(&self, queue: usize) -> u64 {
        self.visible.get(&queue).copied().unwrap_or(0)
    }

    fn run(&mut self, index: &mut QueueIndex, step: &Step) {
        let of = |index: &QueueIndex, queue: usize| index.queue(&topic(["a", "b"][queue % 2]), QueueId(queue as u32));
        match *step {
            Step::Push { queue, count } => {
                for _ in 0..count {
                    self.log += 100;
                    let entries = self.entries.entry(queue).or_default();
                    assert_eq!(index.push(&of(index, queue), entry(self.log)), QueueOffset(entries.len() as u64));
                    entries.push(entry(self.log));
                }
            }
            Step::Publish { queue } => {
                let next = self.entries.get(&queue).map_or(0, Vec::len) as u64;
                index.publish(&of(index, queue), QueueOffset(next));
                self.visible.insert(queue, next);
            }
            Step::Spill => index.spill().unwrap(),
            Step::TrimLog { permille } => {
                let below = self.log * permille / 1000;
                index.trim_below_log(below).unwrap();
                for (queue, entries) in &self.entries {
                    let first = entries.partition_point(|entry| entry.log_offset < below) as u64;
                    let min = self.min.entry(*queue).or_default();
                    *min = first.min(self.visible.get(queue).copied().unwrap_or(0)).max(*min);
                }
            }
            Step::TrimQueue { queue, permille } => {
                let to = self.entries.get(&queue).map_or(0, Vec::len) as u64 * permille / 1000;
                index.trim_queue(&of(index, queue), QueueOffset(to));
                let visible = self.visible_of(queue);
                let min = self.min.entry(queue).or_default();
                *min = to.min(visible).max(*min);
            }
            Step::FailingSpill { op, after, bytes } => {
                let kind = if op == Op::Write { FaultKind::ShortWrite(bytes) } else { FaultKind::Enospc };
                self.disk.inject(Fault::once(op, kind).after(after));
                // It may not come to that many calls.
                let _ = index.spill();
                self.disk.heal();
            }
            Step::FailingSync => {
                index.spill().unwrap();
                let struck = self.disk.faults_struck();
                self.disk.inject(Fault::once(Op::Sync, FaultKind::Eio));
                let result = index.sync();
                self.disk.heal();
                self.sync_failed |= self.disk.faults_struck() > struck;
                assert_eq!(result.is_err(), self.sync_failed);
            }
            Step::Checkpoint { durable } if self.sync_failed => {
                index.snapshot(&mut Vec::new());
                assert!(index.sync().is_err() || !durable, "no snapshot becomes durable after a failed sync");
            }
            Step::Checkpoint { durable } => {
                let bytes = checkpoint(index);
                if durable {
                    index.checkpoint_durable();
                    self.durable = Some(bytes);
                }
            }
            Step::Crash { seed, power_cut } => {
                self.disk = if power_cut { self.disk.crash(seed) } else { self.disk.kill() };
                self.crash(index, of);
            }
        }
    }

    /// Restores the last durable snapshot and dispatches again what it does not cover.
    fn crash(&mut self, index: &mut QueueIndex, of: impl Fn(&QueueIndex, usize) -> QueueRef) {
        let disk = Arc::new(self.disk.clone());
        self.sync_failed = false;
        *index = match &self.durable {
            Some(bytes) => QueueIndex::restore(disk, bytes).unwrap(),
            None => QueueIndex::new(disk).unwrap(),
        };
        for (&number, entries) in &self.entries {
            let queue = of(index, number);
            let bounds = queue.visible();
            assert!(bounds.min.0 <= self.min.get(&number).copied().unwrap_or(0), "a trim is never invented");
            assert_eq!(bounds.max, queue.next_offset());
            entries[bounds.max.0 as usize..].iter().for_each(|entry| _ = index.push(&queue, *entry));
            index.publish(&queue, queue.next_offset());
            self.min.insert(number, bounds.min.0);
            self.visible.insert(number, entries.len() as u64);
        }
    }

    fn check(&self, index: &QueueIndex) {
        for (&number, entries) in &self.entries {
            let queue = index.find(["a", "b"][number % 2], number as u32).unwrap();
            let (min, visible) = (self.min.get(&number).copied().unwrap_or(0), self.visible_of(number));
            assert_eq!(queue.visible(), crate::api::QueueBounds { min: QueueOffset(min), max: QueueOffset(visible) });
            assert!(read_all(index, &queue) == entries[min as usize..visible as usize], "queue {number} from {min} to {visible}");
            for at in [min, min + 33, visible, entries.len() as u64 - 1] {
                let expected = entries.get(at as usize).filter(|_| at >= min).copied();
                assert_eq!(index.entry(&queue, QueueOffset(at)).unwrap(), expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_index_is_a_list_per_queue_through_spills_trims_and_crashes(steps in proptest::collection::vec(step(), 1..60)) {
        let disk = SimDisk::new();
        let mut index = QueueIndex::new(Arc::new(disk.clone())).unwrap();
        let mut model = Model { disk, sync_failed: false, entries: BTreeMap::new(), min: BTreeMap::new(), visible: BTreeMap::new(), log: 0, durable: None };
        for step in &steps {
            model.run(&mut index, step);
            model.check(&index);
        }
    }

    #[test]
    fn random_bytes_are_no_snapshot(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let disk = disk();
        prop_assert!(QueueIndex::restore(disk, &bytes).is_err());
    }
}
