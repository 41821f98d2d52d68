//! Rot, byte by byte: every byte of a megabyte of log (`megabyte`) turned over in turn. What was written comes back or nothing does, and the damage is told.
//!
//! There are two places where bytes of the log are looked at. One is reading, always by way of the record the byte belongs to: all ways of reading are tried for
//! each byte, on a running store with mapped files. The other is recovery, which looks at everything from the checkpoint on: it is run for each byte, from the
//! checkpoint before it. What lies below the checkpoint, or beyond the flushed mark, is tried for each byte of one record of every kind and for a sample of the rest.
//!
//! `cargo xtask flips` runs the whole; here in between a sample is taken.

use crate::{
    megabyte::{self, Kind, LOG_BYTES, Message, Stretch, queue_of},
    world::*,
};
use sluice_env::{
    Disk, Env, File, OpenMode, real,
    sim::{Op, SimDisk},
};
use sluice_protocol::record::{self, RecordView};
use sluice_store::{MetaTable, OpenError, ReadError, ReadLimits, Store};
use sluice_types::{CommitLogOffset, QueueOffset};
use std::{collections::BTreeMap, sync::Arc};

#[test]
fn a_sample_of_flipped_bytes_is_refused_by_every_way_of_reading() {
    every_way_of_reading_refuses(499);
}

#[test]
#[ignore = "minutes, and in a release build only: cargo xtask flips"]
fn each_flipped_byte_of_a_megabyte_is_refused_by_every_way_of_reading() {
    every_way_of_reading_refuses(1);
}

#[test]
fn a_sample_of_flipped_bytes_is_refused_by_recovery() {
    recovery_refuses(4999, 3);
}

#[test]
#[ignore = "minutes, and in a release build only: cargo xtask flips"]
fn each_flipped_byte_of_a_megabyte_is_refused_by_recovery() {
    recovery_refuses(1, 32);
}

#[test]
#[ignore = "minutes, and in a release build only: cargo xtask flips"]
fn flipped_bytes_of_every_kind_below_the_checkpoint_cost_their_record_and_nothing_else() {
    below_the_checkpoint(997);
}

#[test]
fn a_flipped_byte_beyond_the_flushed_mark_ends_the_log_there() {
    beyond_the_flushed_mark(19_973, false);
}

#[test]
#[ignore = "minutes, and in a release build only: cargo xtask flips"]
fn flipped_bytes_of_every_kind_beyond_the_flushed_mark_end_the_log_there() {
    beyond_the_flushed_mark(997, true);
}

/// All bits of the byte, and one of them: the most and the least that can be wrong with it.
fn masks(at: u64) -> [u8; 2] {
    [0xff, 1 << (at % 8)]
}

fn segment_name(at: u64) -> String {
    format!("commitlog/{:020}", at - at % SEGMENT_BYTES)
}

/// A log with its ledger on the machine's own disk, opened again behind its checkpoint.
struct Live {
    store: Arc<Store>,
    files: Vec<Arc<dyn File>>,
    log: Vec<Stretch>,
    _directory: tempfile::TempDir,
}

impl Live {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let open = |env: &Env| Store::open(env.clone(), never_flushing()).expect("opens");
        let env = real::env(directory.path()).expect("environment");
        let store = open(&env);
        let log = megabyte::write(&store, |_| ());
        store.close();
        drop(store);
        let files = (0..LOG_BYTES / SEGMENT_BYTES).map(|i| env.disk.open(&segment_name(i * SEGMENT_BYTES), OpenMode::Write).expect("there")).collect();
        Self { store: open(&env), files, log, _directory: directory }
    }

    /// Runs `look` while one byte is turned over.
    fn with_flip(&self, at: u64, mask: u8, look: impl FnOnce()) {
        let (file, place) = (&self.files[(at / SEGMENT_BYTES) as usize], at % SEGMENT_BYTES);
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).expect("readable");
        file.write_all_at(&[byte[0] ^ mask], place).expect("writable");
        look();
        file.write_all_at(&byte, place).expect("writable");
    }
}

fn every_way_of_reading_refuses(step: usize) {
    let live = Live::new();
    live.log.iter().filter_map(Stretch::message).for_each(|message| assert_served(&live.store, message));
    let mut flipped = 0;
    for (i, stretch) in live.log.iter().enumerate().filter(|(_, s)| s.range.start < LOG_BYTES) {
        // A stretch may be shorter than the step: where the sample begins depends on the stretch.
        for at in stretch.range.clone().skip(i % step).step_by(step) {
            for mask in masks(at) {
                live.with_flip(at, mask, || assert_refused(&live, i, at));
            }
            flipped += 1;
        }
        stretch.message().inspect(|message| assert_served(&live.store, message));
    }
    assert!(flipped >= LOG_BYTES / step as u64 / 2 && (step > 1 || flipped == LOG_BYTES), "{flipped} bytes were tried");
    println!("{flipped} bytes flipped and read");
}

/// The stretch is not served in any way, and its neighbours are as they were.
fn assert_refused(live: &Live, i: usize, at: u64) {
    let (store, stretch) = (&live.store, &live.log[i]);
    let place = CommitLogOffset(stretch.range.start);
    match &stretch.kind {
        Kind::Message(message) => assert_message_refused(store, message, place, at),
        // Nobody may ask for these, whole or not.
        Kind::Metadata(_) | Kind::Filler => assert!(store.record_at(place).is_err(), "byte {at}"),
    }
    for neighbour in [i.checked_sub(1), Some(i + 1)].into_iter().flatten().filter_map(|n| live.log.get(n)) {
        if let Some(message) = neighbour.message() {
            assert!(store.record_at(CommitLogOffset(neighbour.range.start)).is_ok_and(|record| record == message.bytes), "byte {at}");
        }
    }
}

fn assert_message_refused(store: &Store, message: &Message, place: CommitLogOffset, at: u64) {
    let refused = ReadError::Corrupt(place);
    let queue = queue_of(store, message);
    let read = |from, messages| store.read(&queue, from, ReadLimits { messages, bytes: 1 << 20, scanned: 100 }, &mut |_| true);
    assert_eq!(read(message.offset, 1).err().as_ref(), Some(&refused), "byte {at}");
    assert_eq!(store.record_at(place), Err(refused.clone()), "byte {at}");
    assert_eq!(store.store_timestamp(&queue, message.offset), Err(refused.clone()), "byte {at}");
    if let Some(key) = &message.key {
        assert_eq!(store.query(message.topic, key, 10, 0, i64::MAX), Err(refused), "byte {at}");
    }
    // A read that begins before it ends before it.
    let before = QueueOffset(message.offset.0.saturating_sub(2));
    if before < message.offset {
        let found = read(before, 8).unwrap_or_else(|e| panic!("byte {at}: what lies before is not served: {e}"));
        assert_eq!((u64::from(found.messages), found.next), (message.offset.0 - before.0, message.offset), "byte {at}");
    }
}

/// The message is served as it was written, in every way.
fn assert_served(store: &Store, message: &Message) {
    let view = RecordView::checked(&message.bytes).expect("made whole");
    let place = CommitLogOffset(view.log_offset());
    let limits = ReadLimits { messages: 1, bytes: 1 << 20, scanned: 1 };
    let read = store.read(&queue_of(store, message), message.offset, limits, &mut |_| true).expect("readable");
    assert!(read.slices.first().is_some_and(|slice| slice[..] == message.bytes), "{place}");
    assert!(store.record_at(place).is_ok_and(|record| record == message.bytes), "{place}");
    assert_eq!(store.store_timestamp(&queue_of(store, message), message.offset), Ok(Some(view.store_timestamp())));
    if let Some(key) = &message.key {
        let found = store.query(message.topic, key, 10, 0, i64::MAX).expect("readable");
        assert!(found == [&message.bytes[..]], "{place}");
    }
}

/// The log on a simulated disk, as a kill leaves it, with its newest checkpoint at or after a place.
struct Image {
    world: World,
    log: Vec<Stretch>,
    /// From where recovery has to read.
    checkpoint: u64,
}

impl Image {
    /// Without a checkpoint when `from` is `None`.
    fn new(from: Option<u64>) -> Self {
        let mut world = World::new(1, sync_options());
        let store = world.open();
        let mut checkpoint = 0;
        let log = megabyte::write(&store, |store| {
            let appended = store.status().appended.0;
            if checkpoint == 0 && from.is_some_and(|from| appended >= from) {
                store.checkpoint().expect("checkpoint");
                checkpoint = appended;
            }
        });
        drop(store);
        world.kill();
        Self { world, log, checkpoint }
    }

    /// One after another with checkpoints further and further on, all of the same log.
    fn series(count: u64) -> Vec<Self> {
        let images: Vec<Self> = (0..count).map(|i| Self::new((i > 0).then_some(LOG_BYTES * i / count))).collect();
        let bytes = |image: &Self| (0..4).map(|i| image.world.disk.file_bytes(&segment_name(i * SEGMENT_BYTES)).expect("there")).collect::<Vec<_>>();
        let first = bytes(&images[0]);
        assert!(images.iter().all(|image| bytes(image) == first), "a checkpoint has changed the log");
        images
    }

    fn open(&self) -> Result<Arc<Store>, OpenError> {
        Store::open(self.world.env.clone(), self.world.options.clone())
    }

    /// A copy to be spoiled, with one byte turned over.
    fn flipped(&self, at: u64, mask: u8) -> World {
        let mut world = World::new(1, sync_options());
        world.move_to(self.world.disk.kill());
        world.disk.flip_byte(&segment_name(at), at % SEGMENT_BYTES, mask);
        world
    }

    fn stretch_of(&self, at: u64) -> &Stretch {
        &self.log[self.log.partition_point(|s| s.range.end <= at)]
    }

    fn end(&self) -> u64 {
        self.log.last().map_or(0, |s| s.range.end)
    }

    /// Every `step`th byte and, with `structures`, every byte of one stretch of each kind and size class.
    fn sample(&self, step: usize, structures: bool) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut sample: Vec<u64> = (0..LOG_BYTES).step_by(step).collect();
        for stretch in self.log.iter().filter(|_| structures) {
            let shape = match &stretch.kind {
                Kind::Message(m) => (m.topic, m.key.is_some(), m.bytes.len() < 400),
                Kind::Metadata(_) => ("metadata", false, stretch.range.end - stretch.range.start < 400),
                Kind::Filler => ("filler", false, stretch.range.end - stretch.range.start < 400),
            };
            if stretch.range.end <= LOG_BYTES && !seen.contains(&shape) {
                seen.push(shape);
                // Heads and tails of long ones: between them are only bytes of a body.
                sample.extend(stretch.range.clone().take(250));
                sample.extend(stretch.range.clone().rev().take(250));
            }
        }
        sample.sort_unstable();
        sample.dedup();
        sample
    }
}

/// Calls by which a disk is changed.
fn changes(disk: &SimDisk) -> u64 {
    [Op::Write, Op::SetLen, Op::Allocate, Op::Rename, Op::Remove].into_iter().map(|op| disk.calls(op)).sum()
}

/// Recovery is tried from several checkpoints: the closer they are, the less there is to read before each byte.
fn recovery_refuses(step: usize, checkpoints: u64) {
    let images = Image::series(checkpoints);
    let ends = images.iter().skip(1).map(|next| next.checkpoint).chain([LOG_BYTES]);
    let flipped: u64 = images.iter().zip(ends).map(|(image, end)| image.refuses_flips_up_to(end, step)).sum();
    assert!(flipped >= LOG_BYTES / step as u64 && (step > 1 || flipped == LOG_BYTES), "{flipped} bytes were tried");
    println!("{flipped} bytes flipped and recovered from");
}

impl Image {
    /// Flips from the checkpoint on; how many.
    fn refuses_flips_up_to(&self, end: u64, step: usize) -> u64 {
        let all = (self.checkpoint..end).step_by(step);
        for at in all.clone() {
            // All bits and a single one in turns: a recovery costs more than a read.
            let mask = masks(at)[(at / 8 % 2) as usize];
            if self.is_meaningless(at) {
                let world = self.flipped(at, mask);
                assert_all_served(&world.open(), &self.log, None);
            } else {
                self.assert_refused_unchanged(at, mask);
            }
        }
        // So many refusals have left it as it was.
        assert_all_served(&self.open().expect("whole again"), &self.log, None);
        all.count() as u64
    }

    /// Behind a filler's size and magic nothing is said.
    fn is_meaningless(&self, at: u64) -> bool {
        let stretch = self.stretch_of(at);
        matches!(stretch.kind, Kind::Filler) && at >= stretch.range.start + record::PREFIX_BYTES as u64
    }

    fn assert_refused_unchanged(&self, at: u64, mask: u8) {
        let (disk, name, place) = (&self.world.disk, segment_name(at), at % SEGMENT_BYTES);
        let before = changes(disk);
        disk.flip_byte(&name, place, mask);
        match self.open() {
            Err(OpenError::Damaged(why)) => assert!(why.contains(&format!("offset {},", self.stretch_of(at).range.start)), "byte {at}: {why}"),
            Err(other) => panic!("byte {at}: {other}"),
            Ok(_) => panic!("byte {at}: opened"),
        }
        disk.flip_byte(&name, place, mask);
        assert_eq!(changes(disk), before, "byte {at}: the refused directory was changed");
    }
}

/// Every message but the one that lies there, and the metadata.
fn assert_all_served(store: &Store, log: &[Stretch], but: Option<u64>) {
    for stretch in log.iter().filter(|s| but.is_none_or(|at| !s.range.contains(&at))) {
        stretch.message().inspect(|message| assert_served(store, message));
    }
    assert_eq!(store.meta(MetaTable::Topics), metadata(log.iter()));
}

/// The metadata that these stretches come to.
fn metadata<'a>(log: impl Iterator<Item = &'a Stretch>) -> Vec<(String, Vec<u8>)> {
    let mut table = BTreeMap::new();
    for stretch in log {
        let Kind::Metadata(changes) = &stretch.kind else { continue };
        for change in changes {
            match &change.value {
                Some(value) => table.insert(change.key.clone(), value.clone()),
                None => table.remove(&change.key),
            };
        }
    }
    table.into_iter().collect()
}

fn below_the_checkpoint(step: usize) {
    let image = Image::new(Some(LOG_BYTES));
    assert!(image.checkpoint > LOG_BYTES);
    for at in image.sample(step, true) {
        let world = image.flipped(at, masks(at)[(at / 8 % 2) as usize]);
        let store = world.open();
        let stretch = image.stretch_of(at);
        assert_all_served(&store, &image.log, Some(at));
        if let Some(message) = stretch.message() {
            assert_message_refused(&store, message, CommitLogOffset(stretch.range.start), at);
        }
    }
}

fn beyond_the_flushed_mark(step: usize, structures: bool) {
    let image = Image::new(None);
    image.world.disk.remove("flushed").expect("there");
    for at in image.sample(step, structures) {
        let mut world = image.flipped(at, masks(at)[(at / 8 % 2) as usize]);
        let end = if image.is_meaningless(at) { image.end() } else { image.stretch_of(at).range.start };
        let kept: Vec<&Stretch> = image.log.iter().take_while(|s| s.range.end <= end).collect();
        for life in 0..2 {
            let store = world.open();
            assert_eq!(store.status().appended.0, end, "byte {at}, life {life}");
            assert_only_these(&store, &kept);
            drop(store);
            world.kill();
        }
    }
}

/// These messages are served and no others, and the metadata is what these come to.
fn assert_only_these(store: &Store, kept: &[&Stretch]) {
    let messages: Vec<&Message> = kept.iter().filter_map(|s| s.message()).collect();
    messages.iter().for_each(|message| assert_served(store, message));
    let there: u64 = ["orders", "payments", megabyte::LONGEST_TOPIC].iter().flat_map(|topic| store.queues_of(topic)).map(|q| store.bounds(&q).max.0).sum();
    assert_eq!(there, messages.len() as u64);
    assert_eq!(store.meta(MetaTable::Topics), metadata(kept.iter().copied()));
}
