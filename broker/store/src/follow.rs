//! The log as another broker wrote it: ranges of it read for a replica, and taken in from a master, byte for byte.

use crate::{
    AppendError, FlushMode, MetaChange, ReadError, Store,
    batch::{self, META_TOPIC, Pending},
    queue_index::QueueRef,
    recovery,
    segment::Segment,
    store::Shared,
    writer::Turn,
};
use ahash::AHashMap;
use bytes::Bytes;
use sluice_env::{
    Monotonic,
    sync::{Condvar, Mutex},
};
use sluice_protocol::record::{self, Prefix, RecordView};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset, Topic};
use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Why a range of another broker's log was not taken in. Unless the log is poisoned, what was taken in is whole, and it goes on at [`Store::marks`]' `appended`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// It does not begin where this log ends.
    #[error("a range that begins at {given} does not continue the log, which ends at {end}")]
    NotNext {
        /// Where this log ends.
        end: CommitLogOffset,
        /// Where the range begins.
        given: CommitLogOffset,
    },
    /// There is no whole record where one should be: the bytes were damaged on their way, or on the other broker's disk.
    #[error("what came for commit log offset {0} is no whole record of that place; nothing of the range is taken")]
    Damaged(CommitLogOffset),
    /// The two logs differ below the range.
    #[error(
        "the record at {at} is entry {given} of {topic} queue {queue}, which has {next} entries here: this log is not a part of the other one; resynchronise this replica"
    )]
    Foreign {
        /// Where the record lies.
        at: CommitLogOffset,
        /// Its topic.
        topic: Topic,
        /// Its queue.
        queue: QueueId,
        /// Its queue offset.
        given: QueueOffset,
        /// The one that is next here.
        next: QueueOffset,
    },
    /// No space for it, or the log is poisoned, or closing.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why a cut was not ordered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// Confirmed records are never given up: whoever asks for that has another history, or has lost a part of it.
    #[error("the log is not cut at {to}: it is confirmed up to {confirmed}. The one who asks lacks confirmed records; do not let it be master")]
    Confirmed {
        /// Where it should have been cut.
        to: CommitLogOffset,
        /// Up to where every broker that had to hold it did.
        confirmed: CommitLogOffset,
    },
    /// The disk failed.
    #[error("ordering a cut of the log at {0} failed: {1}")]
    Disk(CommitLogOffset, String),
}

/// How far a log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Begin of what is still there.
    pub min: CommitLogOffset,
    /// End of what survives a power cut.
    pub flushed: CommitLogOffset,
    /// End of what is written.
    pub appended: CommitLogOffset,
    /// End of what every broker holds that must; all ones for a log that is not replicated.
    pub confirmed: CommitLogOffset,
}

/// One of the marks that move as a log comes further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// [`Marks::appended`].
    Appended,
    /// [`Marks::flushed`].
    Flushed,
    /// [`Marks::confirmed`].
    Confirmed,
}

impl FlushMode {
    /// By which a record counts as held by a broker.
    #[must_use]
    pub fn mark(self) -> Mark {
        match self {
            Self::Sync => Mark::Flushed,
            Self::Async { .. } => Mark::Appended,
        }
    }
}

impl Marks {
    fn of(&self, mark: Mark) -> CommitLogOffset {
        match mark {
            Mark::Appended => self.appended,
            Mark::Flushed => self.flushed,
            Mark::Confirmed => self.confirmed,
        }
    }
}

impl Store {
    /// How far the log has come.
    #[must_use]
    pub fn marks(&self) -> Marks {
        let marks = &self.shared.log.marks;
        Marks { min: marks.min(), flushed: marks.flushed(), appended: marks.appended(), confirmed: marks.confirmed() }
    }

    /// Waits until that mark of the log is another one than in `seen`, for at most that time and until a [`Self::nudge`], and says how far the log is. Only of a replicated
    /// log. Each mark has its own waiters: under load they move thousands of times a second, and who is woken for nothing takes the processor from those who write.
    pub fn await_progress(&self, of: Mark, seen: Marks, timeout: Duration) -> Marks {
        let clock = &self.shared.env.clock;
        let until = clock.monotonic() + timeout;
        let progress = &self.shared.progress;
        let mut nudges = progress.nudges.lock();
        let before = *nudges;
        loop {
            let (marks, left) = (self.marks(), until.since(clock.monotonic()));
            if marks.of(of) != seen.of(of) || *nudges != before || left.is_zero() {
                return marks;
            }
            progress.made(of).wait_for(&mut nudges, left);
        }
    }

    /// Lets everybody who waits for progress look around.
    pub fn nudge(&self) {
        let progress = &self.shared.progress;
        *progress.nudges.lock() += 1;
        for mark in [Mark::Appended, Mark::Flushed, Mark::Confirmed] {
            progress.made(mark).notify_all();
        }
    }

    /// When a record counts as stored here.
    #[must_use]
    pub fn flush_mode(&self) -> FlushMode {
        self.shared.options.flush
    }

    /// Bytes of a segment. Logs whose segments differ in size cannot follow each other.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.shared.log.segment_bytes
    }

    /// Whether other brokers have to hold the log too.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.shared.options.replicated
    }

    /// The log from the record that begins at `from` on, up to a record's end: at most `bytes_max`, but at least one record; nothing at the log's end. A slice of the
    /// memory map, not checked: who takes it in checks it.
    pub fn range(&self, from: CommitLogOffset, bytes_max: usize) -> Result<Bytes, ReadError> {
        let log = &self.shared.log;
        let end = log.marks.appended();
        if from == end {
            return Ok(Bytes::new());
        }
        let segment = log.segment_of(from.0)?;
        let to = whole_records(&segment, from.0, end.0.min(segment.end()), bytes_max)?;
        segment.slice(from.0, (to - from.0) as usize)
    }

    /// Takes in a range of the master's log that begins where this one ends. Every record is checked before the first is written. Shown to consumers is what
    /// [`Self::confirm`] has passed.
    pub fn follow(&self, from: CommitLogOffset, bytes: &[u8]) -> Result<(), FollowError> {
        self.shared.follow(from, bytes)
    }

    /// Every broker that must hold the log does up to here: shows records and answers those who wait for that. It never goes back; a replica may hear of more than it has.
    pub fn confirm(&self, to: CommitLogOffset) {
        self.shared.log.marks.advance_confirmed(to.0);
        self.shared.made_progress(Mark::Confirmed);
        self.shared.release();
        self.shared.turn_end();
    }

    /// Until then, by the clock, this broker may be sure to be the only master: only so long is anything acknowledged that is not confirmed. After the opening: not at all.
    pub fn lead_until(&self, until: Monotonic) {
        self.shared.unconfirmed.lead_until(until);
    }

    /// Shows consumers everything that counts as stored by now, and says whether that is the log up to `to`. What is confirmed need not be shown yet: a [`Self::confirm`] may
    /// be under way on another thread.
    pub fn show(&self, to: CommitLogOffset) -> bool {
        let stored = self.shared.log.marks.stored(self.shared.options.flush);
        self.shared.release();
        self.shared.turn_end();
        stored >= to
    }

    /// Whether fewer brokers hold the log than should. Then an append that waits for more than the append is told so, though it is stored.
    pub fn set_too_few(&self, are_too_few: bool) {
        self.shared.writer.too_few.store(are_too_few, Ordering::SeqCst);
    }

    /// Puts everything appended before the call on stable storage.
    pub fn flush(&self) -> Result<(), AppendError> {
        self.shared.flush_and_release();
        self.shared.writer.poison_error().map_or(Ok(()), Err)
    }

    /// Notes that an epoch begins: the record that says so is the epoch's first. Comes back with its place once it is appended, under synchronous flush once it is on
    /// stable storage: nothing of the epoch is confirmed before, and no append comes that would flush it on the way.
    pub fn begin_epoch(&self, epoch: u64) -> Result<CommitLogOffset, AppendError> {
        let last = self.shared.writer.turn.lock().last_record;
        *self.shared.last_inherited.lock() = last.map(CommitLogOffset);
        let mut batch = crate::Batch::new();
        batch.meta(&[recovery::epoch_change(epoch)]).map_err(|_| AppendError::TooLarge(0))?;
        let placed = self.append(batch, crate::Wait::Appended)?;
        if self.flush_mode() == FlushMode::Sync {
            self.flush()?;
        }
        placed.first().map(|placed| placed.log_offset).ok_or(AppendError::Stopped)
    }

    /// The epochs that the log has records of, each with the place of its first one, ascending; the oldest may have begun below the log's begin, or ended there.
    #[must_use]
    pub fn epochs(&self) -> Vec<(u64, CommitLogOffset)> {
        recovery::epochs(&self.shared.meta.lock())
    }

    /// Orders that the log ends at `to` when its directory is opened next: what lies beyond is other than the master's. From then on the order stands, whatever happens
    /// until it is carried out. Drop the store and open it again.
    pub fn order_cut(&self, to: CommitLogOffset) -> Result<(), CutError> {
        let confirmed = self.shared.log.marks.confirmed();
        if to < confirmed {
            return Err(CutError::Confirmed { to, confirmed });
        }
        recovery::CUT.give(&self.shared.env.disk, to.0).map_err(|error| CutError::Disk(to, error.to_string()))
    }
}

/// Where the records end that lie whole between `from` and `end` and are no more than `bytes_max` together, but for the first.
fn whole_records(segment: &Segment, from: u64, end: u64, bytes_max: usize) -> Result<u64, ReadError> {
    let mut at = from;
    while at < end {
        let size = if segment.end() - at < record::PREFIX_BYTES as u64 {
            segment.end() - at
        } else {
            match record::prefix(&segment.slice(at, record::PREFIX_BYTES)?) {
                Prefix::Record(size) | Prefix::Blank(size) => size as u64,
                Prefix::Nothing => return Err(ReadError::Corrupt(CommitLogOffset(at))),
            }
        };
        if at + size > end {
            return Err(ReadError::Corrupt(CommitLogOffset(at)));
        }
        if at > from && at + size - from > bytes_max as u64 {
            break;
        }
        at += size;
    }
    Ok(at)
}

/// A part of a range, checked.
pub(crate) enum Piece<T> {
    /// Records that lie in one segment: their bytes within the range, and what is known of each.
    Records(Range<usize>, Vec<T>),
    /// The rest of a segment.
    Filler,
}

/// What a record is.
pub(crate) enum Content {
    Message(Topic, QueueId),
    Metadata(Vec<MetaChange>),
}

impl Content {
    fn of(view: &RecordView<'_>) -> Option<Self> {
        if view.topic() == META_TOPIC {
            return batch::decode_changes(view.body()).map(Self::Metadata);
        }
        Some(Self::Message(Topic::new(view.topic()).ok()?, QueueId::from_wire(view.queue_id())?))
    }
}

/// Reads a range of a log with segments of that size, from its begin to its end. Each record is whole and of its place; whether it fits what came before it says `check`.
pub(crate) fn pieces<T>(
    segment_bytes: u64,
    from: u64,
    bytes: &[u8],
    mut check: impl FnMut(&RecordView<'_>, Content) -> Result<T, FollowError>,
) -> Result<Vec<Piece<T>>, FollowError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let offset = from + at as u64;
        let left_in_segment = (segment_bytes - offset % segment_bytes) as usize;
        let rest = &bytes[at..];
        let damaged = FollowError::Damaged(CommitLogOffset(offset));
        if left_in_segment < record::PREFIX_BYTES {
            at += (rest.len() >= left_in_segment).then_some(left_in_segment).ok_or(damaged)?;
            pieces.push(Piece::Filler);
            continue;
        }
        match record::prefix(rest.get(..record::PREFIX_BYTES).ok_or(damaged.clone())?) {
            Prefix::Blank(size) if size == left_in_segment && rest.len() >= size => {
                at += size;
                pieces.push(Piece::Filler);
            }
            Prefix::Record(size) if size <= left_in_segment => {
                let view = RecordView::checked(rest).ok().filter(|view| view.log_offset() == offset);
                let (view, content) = view.and_then(|view| Some((view, Content::of(&view)?))).ok_or(damaged)?;
                let checked = check(&view, content)?;
                match pieces.last_mut() {
                    Some(Piece::Records(range, records)) if !offset.is_multiple_of(segment_bytes) => {
                        range.end = at + size;
                        records.push(checked);
                    }
                    _ => pieces.push(Piece::Records(at..at + size, vec![checked])),
                }
                at += size;
            }
            _ => return Err(damaged),
        }
    }
    Ok(pieces)
}

struct Checked {
    at: u64,
    store_timestamp: i64,
    what: What,
}

enum What {
    Message(Pending),
    Metadata(Vec<MetaChange>),
}

/// The next queue offset of each queue that a range has had a record of.
type Next = AHashMap<*const crate::Queue, QueueOffset>;

/// Whether it is the queue's next record.
fn count(next: &mut Next, queue: &QueueRef, view: &RecordView<'_>) -> Result<(), FollowError> {
    let next = next.entry(Arc::as_ptr(queue)).or_insert_with(|| queue.next_offset());
    let given = QueueOffset(view.queue_offset());
    if given != *next {
        let at = CommitLogOffset(view.log_offset());
        return Err(FollowError::Foreign { at, topic: queue.topic().clone(), queue: queue.id(), given, next: *next });
    }
    *next = next.plus(1);
    Ok(())
}

/// Wakes those who wait for a mark.
#[derive(Default)]
pub(crate) struct Progress {
    nudges: Mutex<u64>,
    appended: Condvar,
    flushed: Condvar,
    confirmed: Condvar,
}

impl Progress {
    fn made(&self, mark: Mark) -> &Condvar {
        match mark {
            Mark::Appended => &self.appended,
            Mark::Flushed => &self.flushed,
            Mark::Confirmed => &self.confirmed,
        }
    }
}

impl Shared {
    /// The log has come further. Who looks at it and then waits does not miss it: between the two it holds the lock that is taken here.
    pub(crate) fn made_progress(&self, of: Mark) {
        if self.options.replicated {
            drop(self.progress.nudges.lock());
            self.progress.made(of).notify_all();
        }
    }

    fn follow(&self, from: CommitLogOffset, bytes: &[u8]) -> Result<(), FollowError> {
        let mut turn = self.writer.turn.lock();
        if let Some(why) = self.writer.closed() {
            return Err(why.into());
        }
        if turn.tail.offset != from.0 {
            return Err(FollowError::NotNext { end: CommitLogOffset(turn.tail.offset), given: from });
        }
        let mut next = Next::new();
        let pieces = pieces(self.log.segment_bytes, from.0, bytes, |view, content| self.check(&mut next, view, content))?;
        let taken = pieces.into_iter().try_for_each(|piece| self.take_piece(&mut turn, piece, bytes));
        self.hide(&mut turn);
        drop(turn);
        self.made_progress(Mark::Appended);
        self.release();
        self.turn_end();
        Ok(taken?)
    }

    fn check(&self, next: &mut Next, view: &RecordView<'_>, content: Content) -> Result<Checked, FollowError> {
        let what = match content {
            Content::Metadata(changes) => What::Metadata(changes),
            Content::Message(topic, id) => {
                let queue = self.queues.queue(&topic, id);
                count(next, &queue, view)?;
                let (tag_hash, keys) = batch::derived(view.topic(), view.properties());
                What::Message(Pending { queue: Some(queue), bytes: view.bytes().len() as u32, tag_hash, keys })
            }
        };
        Ok(Checked { at: view.log_offset(), store_timestamp: view.store_timestamp(), what })
    }

    fn take_piece(&self, turn: &mut Turn, piece: Piece<Checked>, bytes: &[u8]) -> Result<(), AppendError> {
        let (range, records) = match piece {
            // The same bytes as the master has written there.
            Piece::Filler => return self.next_segment(turn),
            Piece::Records(range, records) => (range, records),
        };
        if turn.tail.offset == turn.tail.segment.end() {
            self.next_segment(turn)?;
        }
        if let Err(error) = self.log.append(&mut turn.tail, &bytes[range.clone()]) {
            self.writer.poison(&format!("writing to the commit log at {} failed: {error}", turn.tail.offset));
            return Err(self.writer.poison_error().unwrap_or(AppendError::Stopped));
        }
        self.writer.counters.records.fetch_add(records.len() as u64, Ordering::Relaxed);
        self.writer.counters.bytes.fetch_add(range.len() as u64, Ordering::Relaxed);
        for record in records {
            turn.newest_ms = turn.newest_ms.max(record.store_timestamp);
            if !matches!(&record.what, What::Metadata(changes) if recovery::only_epochs(changes)) {
                turn.last_record = Some(record.at);
            }
            match record.what {
                What::Message(pending) => drop(self.enter(turn, &pending, record.at, record.store_timestamp)),
                What::Metadata(changes) => self.take_changes(&changes, record.at),
            }
        }
        Ok(())
    }

    fn next_segment(&self, turn: &mut Turn) -> Result<(), AppendError> {
        let rolled = self.log.next_segment(&mut turn.tail);
        if let Err(why) = &rolled {
            self.no_room(why);
        }
        self.maintenance.wake();
        rolled
    }

    /// What the master's store has done to its queues when it wrote this, and to its metadata.
    fn take_changes(&self, changes: &[MetaChange], at: u64) {
        for change in changes {
            if let Some((queue, min)) = recovery::noted_trim(change.table, &change.key, change.value.as_deref(), &self.queues) {
                self.queues.empty_below(&queue, min);
            }
        }
        self.apply_meta(changes, at);
    }
}
