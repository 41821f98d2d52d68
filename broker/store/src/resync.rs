//! A log that can't be continued is given up for another broker's, which is taken whole: from where that one begins now, with a checkpoint of that broker's in place of
//! what lies before.
//!
//! [`order`] the directory to be emptied; until the end that order stands. [`Filling::begin`] empties it and takes the master's [`Seed`], [`Filling::take`] its log,
//! [`Filling::finish`] withdraws the order: then the directory is a store, and the next open builds its indexes. An open before that finishes the emptying, and gives an
//! empty store. Whatever is interrupted, the directory is the old store, or ordered to be emptied, or the new store.

use crate::{
    AppendError, FollowError, MetaTable, OpenError, Store,
    checkpoint::Checkpoint,
    commit_log::{CommitLog, Tail},
    follow::{Content, Piece, pieces},
    queue_index::QueueIndex,
    recovery,
    store::UNFLUSHED_BYTES_MAX,
    watermarks::Watermarks,
};
use ahash::AHashMap;
use sluice_env::{Disk, Env, broken};
use sluice_protocol::record::{self, RecordView};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset, Topic};
use std::{io, sync::Arc};

/// More than any segment has: an order with more is a mistake.
const SEGMENT_BYTES_MAX: u64 = 1 << 40;

/// Why a store was not given up for another one's log. The order to empty the directory, once given, stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResyncError {
    /// The directory is in use, or the disk failed.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// No log has such segments.
    #[error("segments of {0} bytes hold no log; nothing was changed. Look at what the other broker says of its log")]
    SegmentBytes(u64),
    /// What is there may be wanted.
    #[error("the store directory {0} was not ordered to be emptied; nothing was changed. Order it first")]
    NotOrdered(String),
    /// The checkpoint is damaged, or of a log that can't be.
    #[error("the other broker's checkpoint can't be used ({0}); nothing was changed. Ask for another one")]
    Seed(String),
    /// A range of the log was not taken.
    #[error(transparent)]
    Range(#[from] FollowError),
    /// A write or sync has failed: what of it is on the disk is unknown.
    #[error("filling the store failed: {0}; begin anew")]
    Broken(String),
    /// Without the rest the checkpoint is of no use.
    #[error("the log is there up to {next} and has to be up to {end}; take the rest first")]
    Incomplete {
        /// Up to where it is there.
        next: CommitLogOffset,
        /// Up to where the checkpoint needs it.
        end: CommitLogOffset,
    },
    /// The log has fewer records than the checkpoint knows.
    #[error("the log has {found} entries of {topic} queue {queue}, the checkpoint says {expected}: they are not of one broker's store; begin anew")]
    Unlike {
        /// The topic.
        topic: Topic,
        /// Its queue.
        queue: QueueId,
        /// One past the last record's queue offset.
        found: QueueOffset,
        /// What it should be.
        expected: QueueOffset,
    },
}

/// What a broker needs beside the log to take it from `min` on: the state of all that lies before, and of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// For [`Filling::begin`].
    pub bytes: Vec<u8>,
    /// From where on the log has to be taken.
    pub min: CommitLogOffset,
    /// Up to where the log has to be there before the rest is of any use.
    pub end: CommitLogOffset,
}

impl Store {
    /// The newest checkpoint for a broker that takes the log whole; one is made if there is none. Retention goes on: when [`Store::range`] finds a part of the log gone,
    /// it has to begin anew with another seed.
    pub fn seed(&self) -> io::Result<Seed> {
        // The files of its indexes are of no use elsewhere.
        let mut seed = Checkpoint { keys: Vec::new(), rebuild: true, ..self.shared.newest_checkpoint()? };
        if broken("a copy of the log comes without what deliveries note") {
            seed.meta.retain(|(table, _), _| matches!(table, MetaTable::Topics | MetaTable::Groups | MetaTable::Store));
        }
        Ok(Seed { bytes: seed.encode(), min: CommitLogOffset(seed.min_offset), end: CommitLogOffset(seed.log_offset) })
    }
}

/// Orders, durably, that the directory be emptied for a log with segments of so many bytes. Its store has to be dropped before. The next open gives an empty store, which is
/// another one than before, unless [`Filling::finish`] comes first.
pub fn order(env: &Env, segment_bytes: u64) -> Result<(), ResyncError> {
    if !(record::PREFIX_BYTES as u64..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
        return Err(ResyncError::SegmentBytes(segment_bytes));
    }
    let _lock = recovery::lock(&env.disk)?;
    Ok(recovery::RESYNC.give(&env.disk, segment_bytes).map_err(disk_error("ordering the store directory to be emptied"))?)
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Where the next range has to begin.
    pub next: CommitLogOffset,
    /// Bytes of the log taken.
    pub taken_bytes: u64,
    /// Bytes that have to be taken in all.
    pub needed_bytes: u64,
}

impl Filled {
    /// Whether nothing is missing any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.taken_bytes == self.needed_bytes
    }
}

/// A directory that is being filled with another broker's log. It holds the directory's lock. Dropped before its end it leaves the order to empty the directory.
pub struct Filling {
    disk: Arc<dyn Disk>,
    checkpoint: Checkpoint,
    log: CommitLog,
    tail: Tail,
    queues: Queues,
    broken: Option<String>,
    _lock: Box<dyn Send + Sync>,
}

/// The records of one queue.
struct Count {
    /// The next one's queue offset; `None` before the first.
    next: Option<QueueOffset>,
    /// One past the last one's.
    end: QueueOffset,
}

type Queues = AHashMap<(Topic, QueueId), Count>;

/// A queue, and one past the queue offset of a record that it has.
type Counted = ((Topic, QueueId), QueueOffset);

fn disk_error(what: &str) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |error| OpenError::Disk { what: what.to_owned(), error: error.to_string() }
}

impl Filling {
    /// Empties the directory, as was ordered, for the log that the seed is of.
    pub fn begin(env: &Env, seed: &[u8]) -> Result<Self, ResyncError> {
        let disk = env.disk.clone();
        let lock = recovery::lock(&disk)?;
        let segment_bytes = recovery::RESYNC.given(&disk)?.ok_or_else(|| ResyncError::NotOrdered(disk.describe()))?;
        let (checkpoint, queues) = read(seed, segment_bytes).map_err(ResyncError::Seed)?;
        recovery::empty(env, segment_bytes)?;
        let min = checkpoint.min_offset;
        let log = CommitLog::new(disk.clone(), segment_bytes, 0, Vec::new(), Watermarks::new(min, min, u64::MAX));
        let tail = log.tail().map_err(disk_error("making the first segment"))?;
        Ok(Self { disk, checkpoint, log, tail, queues, broken: None, _lock: lock })
    }

    /// How far it is.
    #[must_use]
    pub fn filled(&self) -> Filled {
        let Checkpoint { min_offset, log_offset, .. } = self.checkpoint;
        let next = self.log.marks.appended();
        Filled { next, taken_bytes: next.0 - min_offset, needed_bytes: log_offset - min_offset }
    }

    /// Takes in a range of the log as [`Store::range`] gives it. Every record is checked before the first is written. What lies beyond the need is left: it may still be
    /// cut, and is followed when the store is open. When the disk is full, it goes on at [`Self::filled`]'s `next` as soon as there is space.
    pub fn take(&mut self, from: CommitLogOffset, bytes: &[u8]) -> Result<(), ResyncError> {
        self.check_whole()?;
        let Filled { next, taken_bytes, needed_bytes } = self.filled();
        if from != next {
            return Err(FollowError::NotNext { end: next, given: from }.into());
        }
        let bytes = &bytes[..(bytes.len() as u64).min(needed_bytes - taken_bytes) as usize];
        let mut met = AHashMap::new();
        let pieces = pieces(self.log.segment_bytes, from.0, bytes, |view, content| self.check(&mut met, view, content))?;
        pieces.into_iter().try_for_each(|piece| self.write(piece, bytes))?;
        if self.log.marks.flushed().distance_to(self.log.marks.appended()) > UNFLUSHED_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    /// Whether it is its queue's next record, and one that the checkpoint knows.
    fn check(&self, met: &mut AHashMap<(Topic, QueueId), QueueOffset>, view: &RecordView<'_>, content: Content) -> Result<Option<Counted>, FollowError> {
        let Content::Message(topic, id) = content else { return Ok(None) };
        let (given, queue) = (QueueOffset(view.queue_offset()), (topic, id));
        let known = self.queues.get(&queue);
        let next = met.get(&queue).copied().or_else(|| known.and_then(|count| count.next));
        let end = known.map_or(QueueOffset::ZERO, |count| count.end);
        if given >= end || next.is_some_and(|next| next != given) {
            return Err(FollowError::Foreign { at: CommitLogOffset(view.log_offset()), topic: queue.0, queue: id, given, next: next.unwrap_or(end) });
        }
        met.insert(queue.clone(), given.plus(1));
        Ok(Some((queue, given.plus(1))))
    }

    fn write(&mut self, piece: Piece<Option<Counted>>, bytes: &[u8]) -> Result<(), ResyncError> {
        let (range, records) = match piece {
            Piece::Filler => return self.next_segment(),
            Piece::Records(range, records) => (range, records),
        };
        if self.tail.offset == self.tail.segment.end() {
            self.next_segment()?;
        }
        if let Err(error) = self.log.append(&mut self.tail, &bytes[range]) {
            return Err(self.fail(format!("writing the log at {}: {error}", self.tail.offset)));
        }
        for (queue, next) in records.into_iter().flatten() {
            if let Some(count) = self.queues.get_mut(&queue) {
                count.next = Some(next);
            }
        }
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), ResyncError> {
        match self.log.next_segment(&mut self.tail) {
            Ok(()) => Ok(()),
            Err(AppendError::Poisoned(what)) => Err(self.fail(what)),
            Err(full) => Err(FollowError::Append(full).into()),
        }
    }

    fn flush(&mut self) -> Result<(), ResyncError> {
        self.log.flush().map_err(|error| self.fail(format!("syncing the log: {error}")))
    }

    fn fail(&mut self, what: String) -> ResyncError {
        self.broken = Some(what.clone());
        ResyncError::Broken(what)
    }

    fn check_whole(&self) -> Result<(), ResyncError> {
        self.broken.clone().map_or(Ok(()), |what| Err(ResyncError::Broken(what)))
    }

    /// Makes a store of it, when all that the checkpoint needs is there.
    pub fn finish(mut self) -> Result<(), ResyncError> {
        self.check_whole()?;
        let filled = self.filled();
        if !filled.is_complete() {
            return Err(ResyncError::Incomplete { next: filled.next, end: CommitLogOffset(self.checkpoint.log_offset) });
        }
        let fewer = self.queues.iter().filter_map(|(queue, count)| Some((queue, count.next.filter(|next| *next < count.end)?, count.end)));
        if let Some(((topic, queue), found, expected)) = fewer.min_by_key(|(queue, ..)| *queue) {
            return Err(ResyncError::Unlike { topic: topic.clone(), queue: *queue, found, expected });
        }
        self.flush()?;
        self.checkpoint.store(&*self.disk).map_err(disk_error("writing the checkpoint"))?;
        Ok(recovery::RESYNC.withdraw(&self.disk)?)
    }
}

/// The checkpoint, and where each of its queues goes on.
fn read(seed: &[u8], segment_bytes: u64) -> Result<(Checkpoint, Queues), String> {
    let checkpoint = Checkpoint::decode(seed).ok_or("it does not match its checksum")?;
    let Checkpoint { min_offset, log_offset, .. } = checkpoint;
    if !checkpoint.rebuild {
        return Err("it is one for a broker that has its index files".to_owned());
    }
    if min_offset > log_offset || !min_offset.is_multiple_of(segment_bytes) {
        return Err(format!("its log goes from {min_offset} to {log_offset}, with segments of {segment_bytes} bytes"));
    }
    let queues = QueueIndex::next_offsets(&checkpoint.queues).map_err(|error| error.to_string())?;
    let queues = queues.into_iter().map(|(topic, id, end)| ((topic, id), Count { next: None, end })).collect();
    Ok((checkpoint, queues))
}
