//! A store that gives its log up for another one's and takes that whole.

use crate::world::*;
use sluice_env::{
    Disk, Env, OpenMode,
    sim::{
        self, Fault, FaultKind, HookedDisk, Op, SimDisk,
        threads::{self, Sim},
    },
};
use sluice_protocol::record::{self, RecordView};
use sluice_store::{
    Batch, FlushMode, FollowError, MetaChange, MetaTable, OpenError, QueueBounds, Store, StoreOptions, Wait,
    resync::{self, Filling, ResyncError, Seed},
};
use sluice_types::{CommitLogOffset, QueueOffset};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const SEGMENT: u64 = 64 << 10;
const QUEUES: [(&str, u32); 5] = [("orders", 0), ("orders", 1), ("orders", 2), ("gone", 0), ("old", 0)];
/// What belongs to somebody else in the same directory.
const OTHERS: [&str; 3] = ["group", "life", "resync.log"];

fn small(flush: FlushMode) -> StoreOptions {
    StoreOptions { segment_bytes: SEGMENT, retention_bytes: Some(3 * SEGMENT), ..replicated(flush) }
}

fn write(store: &Store, topic: &str, queue: u32, body: &[u8]) {
    append(store, topic, queue, body, &format!("KEYS\u{1}all k{}\u{2}", body.len() % 5), Wait::Appended).expect("appended");
}

fn change(store: &Store, key: &str, value: Option<&str>) {
    let mut batch = Batch::new();
    batch.meta(&[MetaChange { table: MetaTable::Topics, key: key.into(), value: value.map(|value| value.as_bytes().to_vec()) }]).expect("small");
    store.append(batch, Wait::Appended).expect("appended");
}

pub(crate) fn confirm_all(store: &Store) {
    store.flush().expect("flushed");
    store.confirm(store.marks().appended);
}

/// A master whose log has lost its begin to retention: a queue of which nothing is left, one that was emptied later, metadata and epochs from before and after; and a
/// checkpoint at its end.
fn master(seed: u64, flush: FlushMode) -> (World, Arc<Store>) {
    let world = World::new(seed, small(flush));
    let store = world.open();
    store.begin_epoch(3).expect("noted");
    change(&store, "orders", Some("first"));
    change(&store, "dropped", Some("x"));
    (0..3).for_each(|_| write(&store, "gone", 0, b"soon"));
    for i in 0..150_usize {
        write(&store, "orders", (i % 3) as u32, &vec![b'a' + (i % 26) as u8; 100 + (i * 397 + seed as usize * 31) % 6000]);
        if i == 110 {
            store.begin_epoch(5).expect("noted");
            change(&store, "orders", Some("second"));
            change(&store, "dropped", None);
        }
    }
    confirm_all(&store);
    store.trim_queue(&queue(&store, "orders", 1), QueueOffset(48));
    confirm_all(&store);
    store.retain_now().expect("retention");
    let gone = store.bounds(&queue(&store, "gone", 0));
    assert_eq!(gone, QueueBounds { min: QueueOffset(3), max: QueueOffset(3) });
    let marks = store.marks();
    assert!(marks.min.0 > 2 * SEGMENT && marks.min.distance_to(marks.appended) > 3 * SEGMENT, "{marks:?}");
    (world, store)
}

/// All that can be asked of a store.
#[derive(PartialEq)]
struct Content {
    log: (CommitLogOffset, Vec<u8>),
    queues: Vec<(QueueBounds, Vec<Vec<u8>>)>,
    found: Vec<Vec<bytes::Bytes>>,
    topics: Vec<(String, Vec<u8>)>,
    epochs: Vec<(u64, CommitLogOffset)>,
}

impl Content {
    fn of(store: &Store) -> Self {
        let read = |(topic, id): (&str, u32)| (store.bounds(&queue(store, topic, id)), read_all(store, topic, id));
        let find = |key: &str| store.query("orders", key, 1000, 0, i64::MAX).expect("readable");
        Self {
            log: (store.marks().min, log_of(store)),
            queues: QUEUES.into_iter().map(read).collect(),
            found: ["all", "k0", "k1", "k4", "none"].into_iter().map(find).collect(),
            topics: store.meta(MetaTable::Topics),
            epochs: store.epochs(),
        }
    }

    fn is_empty(&self) -> bool {
        let nothing = |(bounds, _): &(QueueBounds, Vec<Vec<u8>>)| *bounds == QueueBounds::default();
        self.log == (CommitLogOffset(0), Vec::new()) && self.queues.iter().all(nothing) && self.topics.is_empty() && self.epochs.is_empty()
    }
}

/// A directory with a store of another history, closed, and everything that a store ever leaves there; and files of others.
fn replica(seed: u64, flush: FlushMode) -> World {
    let mut world = World::new(seed, StoreOptions { segment_bytes: 96 << 10, ..small(flush) });
    let store = world.open();
    store.begin_epoch(4).expect("noted");
    for round in 0..2 {
        (0..40).for_each(|_| write(&store, "old", 0, &[b'o'; 5000]));
        confirm_all(&store);
        store.checkpoint().unwrap_or_else(|error| panic!("checkpoint {round}: {error}"));
    }
    write(&store, "old", 0, b"not confirmed");
    store.flush().expect("flushed");
    store.order_cut(store.marks().confirmed).expect("ordered");
    drop(store);
    world.kill();
    for name in
        OTHERS.into_iter().chain(["identity.new", "cut.new", "checkpoint.new", "resync.new", "commitlog/next", "commitlog/now.new", "commitlog/next.new"])
    {
        let file = world.disk.open(name, OpenMode::Create).expect("made");
        file.write_all_at(name.as_bytes(), 0).and_then(|()| file.sync_data()).expect("written");
    }
    ["", "commitlog"].into_iter().for_each(|directory| world.disk.sync_dir(directory).expect("synced"));
    world.options.segment_bytes = SEGMENT;
    world
}

fn others(disk: &SimDisk) -> Vec<Option<Vec<u8>>> {
    OTHERS.map(|name| disk.file_bytes(name)).to_vec()
}

pub(crate) fn fill(env: &Env, master: &Store, seed: &Seed, bytes_max: usize) -> Result<(), ResyncError> {
    let mut filling = Filling::begin(env, &seed.bytes)?;
    while !filling.filled().is_complete() {
        let next = filling.filled().next;
        filling.take(next, &master.range(next, bytes_max).expect("readable"))?;
    }
    filling.finish()
}

fn resync(env: &Env, master: &Store, seed: &Seed, bytes_max: usize) -> Result<(), ResyncError> {
    resync::order(env, master.segment_bytes())?;
    fill(env, master, seed, bytes_max)
}

/// The identity that a directory says it has.
fn identity(disk: &SimDisk) -> u128 {
    let file = disk.file_bytes("identity").expect("there");
    u128::from_be_bytes(file[8..24].try_into().expect("16 bytes"))
}

#[test]
fn a_resynced_replica_has_the_masters_log_queues_keys_and_metadata_and_goes_on_following() {
    for (seed, bytes_max) in [(0, 1), (1, 20_000), (2, 100_000), (3, 1 << 20), (4, 7_000), (5, 66_000)] {
        let flush = if seed % 2 == 0 { FlushMode::Sync } else { lazy() };
        let (_ours, master) = master(seed, flush);
        let mut theirs = replica(seed + 100, flush);
        let before = identity(&theirs.disk);
        let seed_of_log = master.seed().expect("there is a checkpoint");
        let at_seed = Content::of(&master);
        // The master goes on, and the last of it is not confirmed yet.
        change(&master, "orders", Some("third"));
        master.begin_epoch(7).expect("noted");
        QUEUES.into_iter().for_each(|(topic, id)| write(&master, topic, id, b"after the seed"));
        resync(&theirs.env, &master, &seed_of_log, bytes_max).expect("filled");
        let store = theirs.open();
        assert!(store.identity() != before && store.identity() != master.identity() && store.segment_bytes() == SEGMENT);
        let marks = store.marks();
        assert_eq!((marks.min, marks.appended, marks.confirmed), (seed_of_log.min, seed_of_log.end, seed_of_log.end));
        assert!(Content::of(&store) == at_seed, "seed {seed}");
        catch_up(&master, &store, 1 + bytes_max);
        assert!(Content::of(&store).queues == at_seed.queues, "seed {seed}: shown before it is confirmed");
        confirm_all(&master);
        confirm_all(&store);
        let expected = Content::of(&master);
        assert!(Content::of(&store) == expected, "seed {seed}");
        let identity = store.identity();
        drop(store);
        // Built anew from the seed's checkpoint, then from one of its own, and then without that.
        for life in 0..3 {
            theirs.power_cut(seed + life);
            if life == 2 {
                theirs.disk.flip_byte("checkpoint", 30, 1);
            }
            let store = theirs.open();
            store.confirm(store.marks().appended);
            assert!(Content::of(&store) == expected, "seed {seed} life {life}");
            assert_eq!(store.identity(), identity);
            store.checkpoint().expect("confirmed");
        }
    }
}

#[test]
fn a_replica_of_a_resynced_master_that_has_no_checkpoint_of_its_own_yet_is_the_same_too() {
    let (_ours, first) = master(1, lazy());
    let (second, third) = (replica(2, lazy()), replica(3, lazy()));
    resync(&second.env, &first, &first.seed().expect("seed"), 50_000).expect("filled");
    let second = second.open();
    resync(&third.env, &second, &second.seed().expect("seed"), 9_000).expect("filled");
    assert!(Content::of(&third.open()) == Content::of(&first));
}

#[test]
fn a_master_without_a_checkpoint_makes_one_for_the_seed() {
    let (ours, theirs) = (World::new(1, small(FlushMode::Sync)), replica(2, FlushMode::Sync));
    let master = ours.open();
    change(&master, "orders", Some("first"));
    write(&master, "orders", 0, b"one");
    confirm_all(&master);
    let seed = master.seed().expect("confirmed");
    assert_eq!((seed.min, seed.end), (CommitLogOffset(0), master.marks().appended));
    resync(&theirs.env, &master, &seed, 1 << 20).expect("filled");
    assert!(Content::of(&theirs.open()) == Content::of(&master));
}

/// The log's last segment has no record yet, and all others are gone.
#[test]
fn a_seed_that_needs_no_log_at_all_tells_where_each_queue_goes_on() {
    let (ours, mut middle, mut theirs) = (World::new(1, small(lazy())), World::new(2, small(lazy())), replica(3, lazy()));
    let (master, store) = (ours.open(), middle.open());
    (0..30).for_each(|i| write(&master, "orders", i % 3, &[b'x'; 5000]));
    while store.marks().appended.0 < SEGMENT {
        let from = store.marks().appended;
        store.follow(from, &master.range(from, 1).expect("readable")).expect("taken");
    }
    confirm_all(&store);
    drop(store);
    middle.options.retention_bytes = Some(0);
    let store = middle.open();
    store.confirm(store.marks().appended);
    store.retain_now().expect("retention");
    let seed = store.seed().expect("seed");
    assert_eq!((seed.min, seed.end), (store.marks().appended, store.marks().appended));
    resync(&theirs.env, &store, &seed, 1).expect("filled");
    for _ in 0..2 {
        let replica = theirs.open();
        assert_eq!(replica.marks().min, seed.min);
        (0..3).for_each(|i| write(&master, "orders", i, b"after"));
        catch_up(&master, &replica, 1 << 20);
        confirm_all(&replica);
        catch_up(&master, &store, 1 << 20);
        confirm_all(&store);
        assert!(Content::of(&replica) == Content::of(&store));
        drop(replica);
        theirs.power_cut(1);
    }
}

#[test]
fn an_order_alone_gives_an_empty_store_of_another_identity_and_leaves_the_files_of_others_alone() {
    let mut world = replica(1, FlushMode::Sync);
    let (before, untouched) = (identity(&world.disk), others(&world.disk));
    resync::order(&world.env, SEGMENT).expect("ordered");
    // Emptied, and not yet filled: nothing but this is there.
    let (_ours, master) = master(2, FlushMode::Sync);
    drop(Filling::begin(&world.env, &master.seed().expect("seed").bytes).expect("begun"));
    let first = format!("commitlog/{:020}", master.marks().min.0);
    assert_eq!(world.disk.file_names(), [&first, "group", "identity", "life", "lock", "resync", "resync.log"]);
    let emptied = identity(&world.disk);
    world.options.segment_bytes = 1 << 20;
    let store = world.open();
    assert!(Content::of(&store).is_empty());
    assert_eq!(store.segment_bytes(), SEGMENT);
    assert!(![before, emptied].contains(&store.identity()));
    // The order is carried out once.
    let identity = store.identity();
    let other = World::new(3, small(FlushMode::Sync)).open();
    write(&other, "orders", 0, b"from the begin");
    catch_up(&other, &store, 1 << 20);
    store.flush().expect("flushed");
    drop(store);
    world.power_cut(1);
    let store = world.open();
    assert_eq!((store.identity(), log_of(&store)), (identity, log_of(&other)));
    assert_eq!(others(&world.disk), untouched);
}

/// A disk on which all calls but the first `calls` do not take place any more, and how many have been made: what the process would have done later.
fn ending(disk: &SimDisk, calls: u64) -> (Arc<dyn Disk>, Arc<AtomicU64>) {
    let made = Arc::new(AtomicU64::new(0));
    let count = made.clone();
    let hook = move |op, _: &str| match count.fetch_add(1, Ordering::SeqCst) {
        n if n < calls => Ok(()),
        _ => Err(io::Error::other(format!("the process ended before this {op:?}"))),
    };
    (Arc::new(HookedDisk::new(Arc::new(disk.clone()), hook)), made)
}

/// Runs `what` on a copy of the disk until its so many-th call, and then ends the process, or the machine. Comes with whether it came to its end, and how many calls it had made.
fn interrupt<E>(world: &mut World, calls: u64, power_cut: bool, what: impl FnOnce(&Env) -> Result<(), E>) -> (bool, u64) {
    let (disk, made) = ending(&world.disk, calls);
    let done = what(&Env { disk, ..world.env.clone() }).is_ok();
    if power_cut {
        world.power_cut(calls)
    } else {
        world.kill()
    }
    (done, made.load(Ordering::SeqCst))
}

/// What a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Old,
    Ordered,
    Complete,
}

/// What the directory is, looked at on copies of it; an ordered one is empty when it is opened, and can be filled.
fn look(world: &mut World, old: &Content, master: &Store, seed: &Seed) -> Is {
    let disk = world.disk.clone();
    let is_ordered = disk.file_bytes("resync").is_some_and(|order| !order.is_empty());
    world.move_to(disk.kill());
    let content = Content::of(&world.open());
    let is = match is_ordered {
        true => {
            assert!(content.is_empty(), "an ordered store is not empty");
            world.move_to(disk.kill());
            fill(&world.env, master, seed, 100_000).expect("filled");
            assert!(Content::of(&world.open()) == Content::of(master), "an ordered store is another one when it was filled");
            Is::Ordered
        }
        false if content == *old => Is::Old,
        false => {
            assert!(content == Content::of(master), "neither the old store nor the master's");
            Is::Complete
        }
    };
    world.move_to(disk);
    is
}

#[test]
fn a_resync_that_is_interrupted_at_any_call_is_still_ordered_or_complete() {
    let (_ours, master) = master(1, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    let mut world = replica(2, FlushMode::Sync);
    let before = world.disk.clone();
    let old = Content::of(&world.open());
    let untouched = others(&before);
    for power_cut in [false, true] {
        let mut seen = Vec::new();
        for calls in 0.. {
            world.move_to(before.kill());
            let mut ordered = false;
            let (done, made) = interrupt(&mut world, calls, power_cut, |env| {
                resync::order(env, SEGMENT)?;
                ordered = true;
                fill(env, &master, &seed, 100_000)
            });
            let mut is = look(&mut world, &old, &master, &seed);
            assert!(!ordered || is != Is::Old, "call {calls}: the order is lost");
            assert!(!done || is == Is::Complete, "call {calls}: it is not there any more");
            seen.push(is);
            // And once more, cut off at another place.
            if is == Is::Ordered {
                let (done, _) = interrupt(&mut world, calls * 7919 % 150, power_cut, |env| fill(env, &master, &seed, 100_000));
                is = look(&mut world, &old, &master, &seed);
                assert!(is == Is::Complete || (is == Is::Ordered && !done), "call {calls}: {is:?} after the second time");
            }
            assert_eq!(others(&world.disk), untouched, "call {calls}");
            if made <= calls {
                break;
            }
        }
        let count = |what| seen.iter().filter(|is| **is == what).count();
        assert!(count(Is::Old) > 2 && count(Is::Ordered) > 60 && count(Is::Complete) >= 1, "{seen:?}");
    }
}

#[test]
fn an_emptying_that_is_interrupted_at_any_call_leaves_no_half_emptied_store() {
    let mut world = replica(2, FlushMode::Sync);
    resync::order(&world.env, SEGMENT).expect("ordered");
    let (before, options) = (world.disk.clone(), world.options.clone());
    for power_cut in [false, true] {
        for calls in 0.. {
            world.move_to(before.kill());
            let (_, made) = interrupt(&mut world, calls, power_cut, |env| Store::open(env.clone(), options.clone()).map(drop));
            let store = world.open();
            assert!(Content::of(&store).is_empty(), "call {calls}");
            assert_eq!((store.segment_bytes(), others(&world.disk)), (SEGMENT, others(&before)));
            if made <= calls {
                assert!(calls > 40, "there is more to do than {calls} calls");
                break;
            }
        }
    }
}

#[test]
fn a_damaged_or_foreign_seed_is_refused_and_the_order_stands() {
    let (ours, master) = master(1, FlushMode::Sync);
    let world = replica(2, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    resync::order(&world.env, SEGMENT).expect("ordered");
    let before = world.disk.file_names();
    let refused = |bytes: &[u8], what: &str| {
        let refused = Filling::begin(&world.env, bytes).err();
        assert!(matches!(refused, Some(ResyncError::Seed(_))), "{what}: {refused:?}");
    };
    for at in 0..seed.bytes.len() {
        let mut bad = seed.bytes.clone();
        bad[at] ^= 0x20;
        refused(&bad, &format!("byte {at}"));
        refused(&seed.bytes[..at], &format!("length {at}"));
    }
    refused(&ours.disk.file_bytes("checkpoint").expect("there"), "a checkpoint of one that has its indexes");
    assert_eq!(world.disk.file_names(), before, "something was touched");
    // The master's segments are not as large as was said.
    resync::order(&world.env, 7 * SEGMENT).expect("ordered");
    refused(&seed.bytes, "other segments");
    resync::order(&world.env, SEGMENT).expect("ordered");
    fill(&world.env, &master, &seed, 100_000).expect("filled");
    assert!(Content::of(&world.open()) == Content::of(&master));
}

#[test]
fn a_damaged_or_misplaced_range_is_refused_and_nothing_of_it_taken() {
    let (_ours, master) = master(1, FlushMode::Sync);
    let world = replica(2, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    resync::order(&world.env, SEGMENT).expect("ordered");
    let mut filling = Filling::begin(&world.env, &seed.bytes).expect("begun");
    let min = seed.min;
    let range = master.range(min, 30_000).expect("readable");
    let next = min.plus(range.len() as u64);
    let mut refused = |from: CommitLogOffset, bytes: &[u8]| {
        let (before, refused) = (filling.filled(), filling.take(from, bytes).expect_err("refused"));
        assert_eq!(filling.filled(), before);
        match refused {
            ResyncError::Range(refused) => refused,
            other => panic!("{other}"),
        }
    };
    for from in [0, min.0 - 1, min.0 + 1, next.0] {
        let given = CommitLogOffset(from);
        assert_eq!(refused(given, &range), FollowError::NotNext { end: min, given });
    }
    for at in (0..range.len()).step_by(13).chain(range.len() - 40..range.len()) {
        let mut bad = range.to_vec();
        bad[at] ^= 0x40;
        assert!(matches!(refused(min, &bad), FollowError::Damaged(_)), "byte {at}");
    }
    assert!(matches!(refused(min, &range[..range.len() - 1]), FollowError::Damaged(_)), "cut short");
    // Whole records, in another one's place.
    assert!(matches!(refused(min, &master.range(next, 30_000).expect("readable")), FollowError::Damaged(_)));
    filling.take(min, &range).expect("taken");
    assert_eq!((filling.filled().next, filling.filled().taken_bytes), (next, range.len() as u64));
    let end = seed.end;
    assert_eq!(filling.finish(), Err(ResyncError::Incomplete { next, end }));
    fill(&world.env, &master, &seed, 100_000).expect("filled");
    assert!(Content::of(&world.open()) == Content::of(&master));
}

/// The same record as another entry of its queue.
fn as_entry(record: &[u8], entry: u64) -> Vec<u8> {
    let (log_offset, stored) = RecordView::checked(record).map(|view| (view.log_offset(), view.store_timestamp())).expect("whole");
    let mut record = record.to_vec();
    record::seal(&mut record, entry, log_offset, stored);
    record
}

#[test]
fn a_record_that_is_not_the_next_of_its_queue_or_not_known_to_the_checkpoint_is_refused() {
    let [master, other] = [0, 1].map(|queue| {
        let store = World::new(1, small(FlushMode::Sync)).open();
        (0..4).for_each(|_| write(&store, "orders", queue, b"x"));
        confirm_all(&store);
        store
    });
    let world = replica(9, FlushMode::Sync);
    resync::order(&world.env, SEGMENT).expect("ordered");
    let mut filling = Filling::begin(&world.env, &master.seed().expect("seed").bytes).expect("begun");
    let (log, strange) = (log_of(&master), log_of(&other));
    let records: Vec<&[u8]> = log.chunks(log.len() / 4).collect();
    let mut refused = |taken: usize, bytes: &[u8], entry: u64, next: u64| {
        let before = filling.filled();
        match filling.take(before.next, bytes).expect_err("refused") {
            ResyncError::Range(FollowError::Foreign { at, given, next: expected, .. }) => {
                assert_eq!((at.0, given.0, expected.0), ((taken * records[0].len()) as u64, entry, next));
            }
            other => panic!("{other}"),
        }
        assert_eq!(filling.filled(), before);
        before.next
    };
    refused(0, &strange, 0, 0);
    refused(0, &as_entry(records[0], 4), 4, 4);
    for entry in [0, 2, 3, u64::MAX] {
        refused(1, &[records[0], &as_entry(records[1], entry)].concat(), entry, 1);
    }
    filling.take(CommitLogOffset(0), records[0]).expect("the first");
    let mut refused = |entry: u64| {
        let refused = filling.take(filling.filled().next, &as_entry(records[1], entry));
        assert!(matches!(&refused, Err(ResyncError::Range(FollowError::Foreign { next, .. })) if next.0 == 1), "{entry}: {refused:?}");
    };
    [0, 2, 3].into_iter().for_each(&mut refused);
    filling.take(filling.filled().next, &log[records[0].len()..]).expect("the rest");
    filling.finish().expect("filled");
    assert!(Content::of(&world.open()) == Content::of(&master));
}

#[test]
fn a_filler_that_does_not_end_with_its_segment_is_refused() {
    let (_ours, master) = master(1, FlushMode::Sync);
    let world = replica(2, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    resync::order(&world.env, SEGMENT).expect("ordered");
    let mut filling = Filling::begin(&world.env, &seed.bytes).expect("begun");
    // Up to the filler.
    let filler = loop {
        let next = filling.filled().next;
        let record = master.range(next, 1).expect("readable");
        if RecordView::checked(&record).is_err() {
            break record;
        }
        filling.take(next, &record).expect("taken");
    };
    let next = filling.filled().next;
    assert_eq!((next.0 + filler.len() as u64) % SEGMENT, 0);
    let size = filler.len() as u32;
    for wrong in [size - 8, size + 8, 8, 0] {
        let mut bad = record::blank(wrong).to_vec();
        bad.resize(filler.len(), 0);
        for bad in [&bad[..], &bad[..filler.len().min(8.max(wrong as usize))]] {
            assert!(matches!(filling.take(next, bad), Err(ResyncError::Range(FollowError::Damaged(_)))), "{wrong}");
        }
    }
    assert!(matches!(filling.take(next, &filler[..filler.len() - 1]), Err(ResyncError::Range(FollowError::Damaged(_)))));
    filling.take(next, &filler).expect("taken");
    assert_eq!(filling.filled().next.0, next.0 + filler.len() as u64);
}

/// The log's own writer leaves room for a filler; its format need not.
#[test]
fn records_that_fill_their_segment_to_its_end_are_taken() {
    const RECORD_BYTES: usize = 4096;
    let master = World::new(1, StoreOptions { segment_bytes: 1 << 20, ..small(FlushMode::Sync) }).open();
    let write_one = |bytes: usize| append(&master, "old", 0, &vec![b'x'; bytes], "", Wait::Appended).expect("appended").bytes as usize;
    let without_body = write_one(0);
    write_one(RECORD_BYTES - 2 * without_body);
    (0..9).for_each(|_| _ = write_one(RECORD_BYTES - without_body));
    confirm_all(&master);
    let seed = master.seed().expect("seed");
    (0..4).for_each(|_| _ = write_one(RECORD_BYTES - without_body));
    assert_eq!(master.marks().appended, CommitLogOffset(14 * RECORD_BYTES as u64));
    let world = replica(2, FlushMode::Sync);
    resync::order(&world.env, 2 * RECORD_BYTES as u64).expect("ordered");
    fill(&world.env, &master, &seed, 1 << 20).expect("filled");
    let store = world.open();
    catch_up(&master, &store, 1 << 20);
    confirm_all(&store);
    confirm_all(&master);
    assert!(Content::of(&store) == Content::of(&master));
}

#[test]
fn a_log_with_fewer_records_than_the_checkpoint_knows_is_no_store() {
    let (ours, theirs) = (World::new(1, small(FlushMode::Sync)).open(), World::new(2, small(FlushMode::Sync)).open());
    for store in [&ours, &theirs] {
        write(store, "orders", 0, b"one");
    }
    // As many bytes.
    write(&ours, "orders", 0, &[b'x'; 200]);
    let missing = ours.marks().appended.0 - theirs.marks().appended.0;
    change(&theirs, "orders", Some(""));
    let metadata = theirs.marks().appended.0 - (ours.marks().appended.0 - missing);
    change(&theirs, "orders", Some(&"y".repeat((missing - 2 * metadata) as usize)));
    assert_eq!(ours.marks().appended, theirs.marks().appended);
    confirm_all(&ours);
    let world = replica(9, FlushMode::Sync);
    resync::order(&world.env, SEGMENT).expect("ordered");
    let mut filling = Filling::begin(&world.env, &ours.seed().expect("seed").bytes).expect("begun");
    filling.take(CommitLogOffset(0), &log_of(&theirs)).expect("each record is known");
    let refused = filling.finish().expect_err("a record is missing");
    assert!(matches!(refused, ResyncError::Unlike { found: QueueOffset(1), expected: QueueOffset(2), .. }), "{refused}");
    assert!(Content::of(&world.open()).is_empty(), "the order stands");
}

#[test]
fn only_a_directory_that_nobody_uses_can_be_ordered_and_only_an_ordered_one_filled() {
    let (_ours, master) = master(1, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    let world = replica(2, FlushMode::Sync);
    let store = world.open();
    let old = Content::of(&store);
    assert!(matches!(resync::order(&world.env, SEGMENT), Err(ResyncError::Directory(OpenError::Locked(_)))));
    drop(store);
    for silly in [0, 7, u64::MAX] {
        assert_eq!(resync::order(&world.env, silly), Err(ResyncError::SegmentBytes(silly)));
    }
    assert!(matches!(Filling::begin(&world.env, &seed.bytes).err(), Some(ResyncError::NotOrdered(_))));
    assert!(Content::of(&world.open()) == old);
    resync::order(&world.env, SEGMENT).expect("ordered");
    let filling = Filling::begin(&world.env, &seed.bytes).expect("begun");
    assert!(matches!(Store::open(world.env.clone(), world.options.clone()).err(), Some(OpenError::Locked(_))));
    drop(filling);
    // An order that nobody can have given is not carried out.
    world.disk.flip_byte("resync", 3, 1);
    assert!(matches!(Store::open(world.env.clone(), world.options.clone()).err(), Some(OpenError::Damaged(_))));
    assert!(matches!(Filling::begin(&world.env, &seed.bytes).err(), Some(ResyncError::Directory(OpenError::Damaged(_)))));
}

#[test]
fn a_full_disk_holds_a_filling_up_and_a_failing_one_ends_it() {
    let (_ours, master) = master(1, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    let world = replica(2, FlushMode::Sync);
    resync::order(&world.env, SEGMENT).expect("ordered");
    let mut filling = Filling::begin(&world.env, &seed.bytes).expect("begun");
    let log = log_of(&master);
    let rest = |filling: &Filling| log[filling.filled().taken_bytes as usize..].to_vec();
    world.disk.inject(Fault::once(Op::Allocate, FaultKind::Enospc));
    let refused = filling.take(seed.min, &log).expect_err("no space");
    assert!(matches!(refused, ResyncError::Range(FollowError::Append(_))), "{refused}");
    let next = filling.filled().next;
    assert!(next > seed.min && next < seed.end, "a segment was taken");
    filling.take(next, &rest(&filling)).expect("there is space again");
    filling.finish().expect("filled");
    assert!(Content::of(&world.open()) == Content::of(&master));
    for op in [Op::Write, Op::Sync] {
        resync::order(&world.env, SEGMENT).expect("ordered");
        let mut filling = Filling::begin(&world.env, &seed.bytes).expect("begun");
        world.disk.inject(Fault::once(op, FaultKind::Eio).on("commitlog/0"));
        let taken = filling.take(seed.min, &log);
        let again = filling.take(filling.filled().next, &rest(&filling));
        let refused = taken.and(again).and(filling.finish()).expect_err("the disk has failed");
        assert!(matches!(refused, ResyncError::Broken(_)), "{op:?}: {refused}");
        world.disk.heal();
        assert!(Content::of(&world.open()).is_empty());
    }
}

#[test]
fn damage_below_the_seeds_end_is_found_when_the_indexes_are_built() {
    let (_ours, master) = master(1, FlushMode::Sync);
    let seed = master.seed().expect("seed");
    let mut world = replica(2, lazy());
    resync(&world.env, &master, &seed, 100_000).expect("filled");
    let filled = world.disk.clone();
    for at in (seed.min.0..seed.end.0).step_by(4999).chain([seed.end.0 - 1]) {
        world.move_to(filled.kill());
        world.disk.flip_byte(&format!("commitlog/{:020}", at - at % SEGMENT), at % SEGMENT, 4);
        // A filler's bytes mean nothing but for the first.
        match Store::open(world.env.clone(), world.options.clone()) {
            Ok(store) => assert!(Content::of(&store).queues == Content::of(&master).queues, "byte {at}"),
            Err(error) => assert!(matches!(error, OpenError::Damaged(_)), "byte {at}: {error}"),
        }
    }
}

#[test]
fn a_seed_is_whole_whatever_checkpoints_and_retention_do_meanwhile() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let machine = sim.machine("broker");
        let env = machine.env();
        let flush = FlushMode::Async { interval: Duration::from_millis(1) };
        let options = StoreOptions { replicated: false, key_index: false, ..small(flush) };
        let store = sim.block_on(&machine, "opens", move || Store::open(env, options).expect("opens")).expect("opens");
        for keeper in 0..2 {
            let store = store.clone();
            machine.spawn("keeps", move || {
                for round in 0_u64.. {
                    threads::sleep(Duration::from_micros(100 + (seed * 31 + keeper * 17 + round * 7) % 900));
                    store.checkpoint().expect("checkpoint");
                    store.retain_now().expect("retention");
                }
            });
        }
        let filled = sim.block_on(&machine, "seeds", move || {
            let mut filled = 0;
            for round in 0..40_usize {
                (0..8).for_each(|i| write(&store, "orders", 0, &vec![b'x'; 1000 + (round * 997 + i * 31) % 3000]));
                let seed = store.seed().expect("a seed");
                let (env, _, _) = sim::env(1);
                resync::order(&env, SEGMENT).expect("ordered");
                let mut filling = Filling::begin(&env, &seed.bytes).expect("whole");
                // Retention may be quicker.
                while let Some(range) = store.range(filling.filled().next, 50_000).ok().filter(|_| !filling.filled().is_complete()) {
                    filling.take(filling.filled().next, &range).expect("taken");
                }
                filled += u64::from(filling.finish().is_ok());
            }
            filled
        });
        let filled = filled.expect("nobody waits for ever");
        assert!(filled > 10, "seed {seed}: {filled} were filled");
    }
}
