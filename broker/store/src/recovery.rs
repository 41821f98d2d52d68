//! Opening a directory: what the checkpoint says, then every record after it, checked. A torn tail is cut; damage below the flushed mark is refused, never guessed at.

use crate::{
    FlushMode, MetaChange, MetaTable, StoreOptions, batch,
    checkpoint::{Checkpoint, Loaded, Meta},
    commit_log::CommitLog,
    flush_mark::FlushMark,
    key_index::{self, KeyIndex},
    queue_index::{Entry, QueueIndex, QueueRef},
    segment::{self, Segment},
    unconfirmed::{Lost, Ranges},
    watermarks::Watermarks,
    writer::{TURN_BYTES_MAX, Touched},
};
use memchr::memmem;
use sluice_env::{Disk, Env, OpenMode};
use sluice_protocol::record::{self, Prefix, RecordView};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset, Topic};
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

mod empty;
mod names;
mod order;

pub(crate) use empty::empty;
pub(crate) use names::{read, remove_anew, settle_names};
pub(crate) use order::{CUT, RESYNC};

const IDENTITY: &str = "identity";
const IDENTITY_MAGIC: &[u8; 8] = b"SLUICES1";
/// Entries kept in memory during recovery before they are spilled.
const ENTRIES_IN_MEMORY_MAX: usize = 1 << 20;
/// Records not known to be confirmed whose ends lie within so many bytes of the log are shown together.
const HIDDEN_TOGETHER_BYTES: u64 = 64 << 10;
/// Zeros written at the start of a segment that is made at once.
const PREWRITTEN_BYTES: u64 = 4 << 20;

/// Before the name of a queue in [`MetaTable::Store`]: the value is the offset below which it has been emptied.
const TRIM: &str = "trim ";

/// Before the number of an epoch in [`MetaTable::Store`]: the value is where the record lies that says so, the epoch's first.
const EPOCH: &str = "epoch ";

/// Notes that an epoch begins.
pub(crate) fn epoch_change(epoch: u64) -> MetaChange {
    // Its place is filled in when it has one.
    MetaChange { table: MetaTable::Store, key: format!("{EPOCH}{epoch:020}"), value: Some(Vec::new()) }
}

/// Whether a record says that an epoch begins, and nothing else. What was cut off before it is looked for by whoever leads next, and he may come to nothing too: the last
/// record that counts is the one before.
pub(crate) fn begins_epoch(view: &RecordView<'_>) -> bool {
    view.topic() == batch::META_TOPIC && batch::decode_changes(view.body()).is_some_and(|changes| only_epochs(&changes))
}

/// Whether changes say nothing but that epochs begin.
pub(crate) fn only_epochs(changes: &[MetaChange]) -> bool {
    changes.iter().all(|change| change.table == MetaTable::Store && change.key.starts_with(EPOCH))
}

/// The epochs that have begun, each with the place of its first record.
pub(crate) fn epochs(meta: &Meta) -> Vec<(u64, CommitLogOffset)> {
    let begin = (MetaTable::Store, EPOCH.to_owned());
    let known = meta.range(begin..).take_while(|((table, key), _)| *table == MetaTable::Store && key.starts_with(EPOCH));
    known.filter_map(|((_, key), value)| Some((key[EPOCH.len()..].parse().ok()?, CommitLogOffset(u64_of(value)?)))).collect()
}

/// Forgets the epochs of which nothing is left in a log that begins at `min`. The one that ends right there stays: a replica whose log ends with it goes on from there.
pub(crate) fn trim_epochs(meta: &mut Meta, min: u64) {
    for pair in epochs(meta).windows(2).take_while(|pair| pair[1].1.0 < min) {
        meta.remove(&(MetaTable::Store, epoch_change(pair[0].0).key));
    }
}

fn u64_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// Takes a change in whose record lies at `at`.
pub(crate) fn apply(meta: &mut Meta, change: &MetaChange, at: u64) {
    let key = (change.table, change.key.clone());
    match &change.value {
        Some(_) if change.table == MetaTable::Store && change.key.starts_with(EPOCH) => meta.insert(key, at.to_be_bytes().to_vec()),
        Some(value) => meta.insert(key, value.clone()),
        None => meta.remove(&key),
    };
}

/// The queue that has been emptied according to that entry, and below what, if there is such a queue.
pub(crate) fn noted_trim(table: MetaTable, key: &str, value: Option<&[u8]>, queues: &QueueIndex) -> Option<(QueueRef, QueueOffset)> {
    let name = key.strip_prefix(TRIM).filter(|_| table == MetaTable::Store)?;
    let (topic, id) = name.rsplit_once(' ')?;
    Some((queues.find(topic, id.parse().ok()?)?, QueueOffset(u64_of(value?)?)))
}

/// Notes that a queue (topic, space, number) has been emptied below `min`.
pub(crate) fn trim_change(queue: String, min: QueueOffset) -> MetaChange {
    MetaChange { table: MetaTable::Store, key: TRIM.to_owned() + &queue, value: Some(min.0.to_be_bytes().to_vec()) }
}

/// Why a store directory was not opened. Nothing in it has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store directory {0} is in use by another process; stop that one or choose another directory")]
    Locked(String),
    /// The disk failed.
    #[error("{what} failed: {error}")]
    Disk {
        /// What was being done.
        what: String,
        /// The system's words.
        error: String,
    },
    /// Damage where the log is known to have been whole. Restoring the segment from a copy, or a replica, is the way out.
    #[error("the store directory is damaged: {0}; nothing was changed. Restore the file from a copy, or start with an empty directory")]
    Damaged(String),
}

/// How far an opening is, for those who wait for it.
#[derive(Debug, Default)]
pub struct RecoveryProgress {
    read: AtomicU64,
    total: AtomicU64,
}

impl RecoveryProgress {
    /// Bytes of log checked so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes of log to be checked at most; the log may end earlier. 0 before that is known.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total.load(Relaxed)
    }
}

pub(crate) struct Recovered {
    pub(crate) log: CommitLog,
    pub(crate) queues: QueueIndex,
    pub(crate) keys: KeyIndex,
    pub(crate) meta: Meta,
    pub(crate) flush_mark: FlushMark,
    pub(crate) newest_ms: i64,
    /// Where the last record begins, if it lies behind the checkpoint or in a queue.
    pub(crate) last_record: Option<u64>,
    pub(crate) checkpointed: u64,
    /// What is there and not known to be confirmed, with its end.
    pub(crate) hidden: VecDeque<(u64, Touched)>,
    /// What had been acknowledged without being confirmed, and is still there; and what of it has been cut.
    pub(crate) unconfirmed: Ranges,
    pub(crate) lost: Lost,
    pub(crate) identity: u128,
    pub(crate) lock: Box<dyn Send + Sync>,
}

fn disk_error(what: &str) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |error| OpenError::Disk { what: what.to_owned(), error: error.to_string() }
}

/// Takes the directory, if no other process has it, until the guard is dropped.
pub(crate) fn lock(disk: &Arc<dyn Disk>) -> Result<Box<dyn Send + Sync>, OpenError> {
    disk.lock("lock").map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(disk.describe()),
        _ => disk_error("locking the store directory")(e),
    })
}

pub(crate) fn open(env: &Env, options: &StoreOptions, progress: &RecoveryProgress) -> Result<Recovered, OpenError> {
    let disk = &env.disk;
    let lock = lock(disk)?;
    if let Some(segment_bytes) = RESYNC.given(disk)? {
        tracing::info!(segment_bytes, "the store is emptied, as ordered: its log could not be continued");
        empty(env, segment_bytes)?;
        RESYNC.withdraw(disk)?;
    }
    disk.create_dir(segment::DIRECTORY).map_err(disk_error("making the directory commitlog"))?;
    let (identity, segment_bytes) = identity(env, options)?;
    let (flush_mark, marked) = FlushMark::open(&**disk).map_err(disk_error("reading the flushed mark"))?;
    let base = Base::load(disk)?;
    let segments = segments(disk, segment_bytes, base.min)?;
    let newest_ms = base.newest_ms;
    let limit = CUT.given(disk)?.unwrap_or(u64::MAX);
    let (replicated, key_index, hidden) = (options.replicated, options.key_index, VecDeque::new());
    let mut scan = Scan { disk, progress, base, segments, marked, newest_ms, last_record: None, end: 0, limit, replicated, key_index, hidden };
    scan.run()?;
    scan.refuse_damage(options)?;
    settle_names(disk)?;
    let mut unconfirmed = Ranges::load(disk).map_err(disk_error("reading what was acknowledged unconfirmed"))?;
    let lost = scan.lost(&unconfirmed);
    scan.cut()?;
    scan.trim();
    let prewritten = if options.flush == FlushMode::Sync { PREWRITTEN_BYTES } else { 0 };
    let Scan { base, segments, newest_ms, last_record, end, hidden, .. } = scan;
    // Before the order is withdrawn: what comes after the cut is another master's.
    unconfirmed.end_at(disk, end, base.checkpointed).map_err(disk_error("noting what was acknowledged unconfirmed"))?;
    if limit < u64::MAX {
        flush_mark.reset(end).map_err(disk_error("taking back the flushed mark"))?;
        CUT.withdraw(disk)?;
    } else {
        flush_mark.note(end);
    }
    let min = segments.first().map_or(end, |s| s.base);
    // Every checkpoint has waited for its confirmation.
    let confirmed = if replicated { base.checkpointed } else { u64::MAX };
    let log = CommitLog::new(disk.clone(), segment_bytes, prewritten, segments, Watermarks::new(min, end, confirmed));
    let Base { queues, keys, meta, checkpointed, .. } = base;
    let last_record = last_record.or_else(|| last_of_queues(&queues, &log, end));
    Ok(Recovered { log, queues, keys, meta, flush_mark, newest_ms, last_record, checkpointed, hidden, unconfirmed, lost, identity, lock })
}

/// Where the record begins that ends at `end`, but for begins of epochs, if it lies in a queue. With nothing behind the checkpoint the log's last record is not read again,
/// but it is the last of its queue too.
fn last_of_queues(queues: &QueueIndex, log: &CommitLog, end: u64) -> Option<u64> {
    // An entry that cannot be read now is told when somebody asks for it.
    let newest = queues.newest().ok().flatten()?;
    let mut at = newest.log_offset.checked_add(u64::from(newest.size))?;
    while at < end {
        let bytes = log.record_bytes(at).ok()?;
        RecordView::checked(&bytes).ok().filter(begins_epoch)?;
        at += bytes.len() as u64;
    }
    (at == end).then_some(newest.log_offset)
}

/// Identity and segment size, fixed when the directory is made: magic 8 · id 16 · segment bytes 8 · CRC-32 4.
fn identity(env: &Env, options: &StoreOptions) -> Result<(u128, u64), OpenError> {
    const BYTES: usize = 36;
    let disk = &env.disk;
    match disk.open(IDENTITY, OpenMode::Read) {
        Ok(file) => {
            let mut bytes = [0; BYTES];
            file.read_exact_at(&mut bytes, 0).map_err(|_| OpenError::Damaged("the file identity is too short".to_owned()))?;
            let (content, checksum) = bytes.split_at(BYTES - 4);
            if !content.starts_with(IDENTITY_MAGIC) || crc32fast::hash(content).to_be_bytes() != checksum {
                return Err(OpenError::Damaged("the file identity does not match its checksum".to_owned()));
            }
            let mut id = [0; 16];
            id.copy_from_slice(&content[8..24]);
            let mut size = [0; 8];
            size.copy_from_slice(&content[24..32]);
            Ok((u128::from_be_bytes(id), u64::from_be_bytes(size)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if !segment::list(&**disk).map_err(disk_error("listing commitlog"))?.is_empty() {
                return Err(OpenError::Damaged("there is a commit log but no file identity".to_owned()));
            }
            Ok((new_identity(env, options.segment_bytes)?, options.segment_bytes))
        }
        Err(e) => Err(disk_error("reading the file identity")(e)),
    }
}

/// Makes the directory a new store's, whoever's it was.
fn new_identity(env: &Env, segment_bytes: u64) -> Result<u128, OpenError> {
    let id = env.rng.next_u128();
    let mut bytes = IDENTITY_MAGIC.to_vec();
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&segment_bytes.to_be_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    env.disk.replace(IDENTITY, &bytes).map_err(disk_error("writing the file identity"))?;
    Ok(id)
}

/// What recovery starts from.
struct Base {
    min: u64,
    /// Records below are dispatched already.
    dispatched: u64,
    /// Metadata below is in `meta` already; differs from `dispatched` when the indexes are rebuilt.
    checkpointed: u64,
    newest_ms: i64,
    meta: Meta,
    queues: QueueIndex,
    keys: KeyIndex,
    /// The log's begin may lie above 0 only with a checkpoint.
    known: bool,
    /// Where queues go on at the checkpoint whose records retention has removed; only for a rebuild.
    next_offsets: Vec<(Topic, QueueId, QueueOffset)>,
}

impl Base {
    fn load(disk: &Arc<dyn Disk>) -> Result<Self, OpenError> {
        match Checkpoint::load(&**disk).map_err(disk_error("reading the checkpoint"))? {
            Loaded::None => Self::rebuild(disk, Checkpoint::default(), false),
            Loaded::Newest(checkpoint) if checkpoint.rebuild => {
                tracing::info!("the log was taken from another broker: its indexes are built");
                Self::rebuild(disk, checkpoint, true)
            }
            Loaded::Newest(checkpoint) => Self::restore(disk, checkpoint),
            Loaded::Previous(checkpoint) => {
                tracing::warn!("the newest checkpoint is damaged: the indexes are rebuilt from the whole log");
                Self::rebuild(disk, checkpoint, true)
            }
            Loaded::Damaged => Err(OpenError::Damaged("neither checkpoint nor checkpoint.old is whole".to_owned())),
        }
    }

    fn restore(disk: &Arc<dyn Disk>, checkpoint: Checkpoint) -> Result<Self, OpenError> {
        let queues = QueueIndex::restore(disk.clone(), &checkpoint.queues);
        let keys = KeyIndex::restore(disk.clone(), &checkpoint.keys);
        match (queues, keys) {
            (Ok(queues), Ok(keys)) => Ok(Self {
                min: checkpoint.min_offset,
                dispatched: checkpoint.log_offset,
                checkpointed: checkpoint.log_offset,
                newest_ms: checkpoint.newest_ms,
                meta: checkpoint.meta,
                queues,
                keys,
                known: true,
                next_offsets: Vec::new(),
            }),
            (queues, keys) => {
                let why = queues.err().map(|e| e.to_string()).or(keys.err().map(|e| e.to_string())).unwrap_or_default();
                tracing::warn!(reason = why, "an index file is damaged: the indexes are rebuilt from the whole log");
                Self::rebuild(disk, checkpoint, true)
            }
        }
    }

    fn rebuild(disk: &Arc<dyn Disk>, checkpoint: Checkpoint, known: bool) -> Result<Self, OpenError> {
        let next_offsets = if known { QueueIndex::next_offsets(&checkpoint.queues) } else { Ok(Vec::new()) };
        Ok(Self {
            next_offsets: next_offsets.map_err(|e| OpenError::Damaged(format!("the checkpoint's queues can't be read: {e}")))?,
            min: checkpoint.min_offset,
            dispatched: checkpoint.min_offset,
            checkpointed: checkpoint.log_offset,
            newest_ms: checkpoint.newest_ms,
            meta: checkpoint.meta,
            queues: QueueIndex::new(disk.clone()).map_err(disk_error("making the queue index"))?,
            keys: KeyIndex::new(disk.clone()).map_err(disk_error("making the key index"))?,
            known,
        })
    }
}

/// The segments from `min` on, without holes.
fn segments(disk: &Arc<dyn Disk>, segment_bytes: u64, min: u64) -> Result<Vec<Arc<Segment>>, OpenError> {
    let bases = segment::list(&**disk).map_err(disk_error("listing commitlog"))?;
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for base in bases {
        let name = segment::name(base);
        if base + segment_bytes <= min {
            // Retention had removed it from the checkpoint, and was stopped before it had removed the file.
            disk.remove(&name).map_err(disk_error("removing an old segment"))?;
            continue;
        }
        let expected = segments.last().map_or(min - min % segment_bytes, |s| s.end());
        let file = disk.open(&name, OpenMode::Write).map_err(disk_error("opening a segment"))?;
        let len = file.len().map_err(disk_error("reading a segment's length"))?;
        if len == 0 {
            // It was discarded, and its name has come back.
            disk.remove(&name).map_err(disk_error("removing a discarded segment"))?;
            continue;
        }
        if base != expected {
            return Err(OpenError::Damaged(format!("the segment {} is missing", segment::name(expected))));
        }
        if len != segment_bytes {
            return Err(OpenError::Damaged(format!("the segment {name} has {len} bytes instead of {segment_bytes}")));
        }
        segments.push(Arc::new(Segment::new(base, segment_bytes, file).map_err(disk_error("mapping a segment"))?));
    }
    Ok(segments)
}

struct Scan<'a> {
    disk: &'a Arc<dyn Disk>,
    progress: &'a RecoveryProgress,
    base: Base,
    segments: Vec<Arc<Segment>>,
    marked: u64,
    newest_ms: i64,
    last_record: Option<u64>,
    /// Where the log ends: the first place without a whole record.
    end: u64,
    /// Where it has to end by an order; all ones: by none.
    limit: u64,
    replicated: bool,
    key_index: bool,
    hidden: VecDeque<(u64, Touched)>,
}

/// How much of a segment is looked at or written at once.
const CHUNK_BYTES: u64 = 1 << 20;

impl Scan<'_> {
    fn run(&mut self) -> Result<(), OpenError> {
        let from = self.base.dispatched;
        let last = self.segments.last().map_or(from.min(self.base.min), |s| s.end());
        if self.limit < self.base.checkpointed {
            let (limit, checkpointed) = (self.limit, self.base.checkpointed);
            return Err(OpenError::Damaged(format!("it was ordered to end at {limit}, but there is a checkpoint at {checkpointed}")));
        }
        if last < self.base.checkpointed {
            return Err(OpenError::Damaged(format!("the checkpoint knows the log up to {}, the segments end at {last}", self.base.checkpointed)));
        }
        if !self.base.known && self.segments.first().is_some_and(|s| s.base > 0) {
            return Err(OpenError::Damaged("the log does not begin at 0 and there is no checkpoint: the metadata before it is lost".to_owned()));
        }
        self.end = from;
        self.progress.total.store(last.saturating_sub(from), Relaxed);
        for segment in self.segments.clone() {
            if segment.end() <= from {
                continue;
            }
            let start = from.max(segment.base);
            if start >= self.limit {
                break;
            }
            self.end = self.scan_segment(&segment, start)?;
            if self.end < segment.end() {
                break;
            }
        }
        self.pass_checkpoint();
        Ok(())
    }

    /// All below the checkpoint has been dispatched: queues without a record there go on where the checkpoint says.
    fn pass_checkpoint(&mut self) {
        for (topic, id, next) in std::mem::take(&mut self.base.next_offsets) {
            self.base.queues.start_at(&self.base.queues.queue(&topic, id), next);
        }
    }

    /// Dispatches the records of a segment; where it ends, or the first place without a record.
    fn scan_segment(&mut self, segment: &Segment, from: u64) -> Result<u64, OpenError> {
        let limit = segment.end().min(self.limit);
        let length = (limit - from) as usize;
        let bytes = segment
            .slice(from, length)
            .map_err(|e| OpenError::Disk { what: format!("reading the segment {}", segment::name(segment.base)), error: e.to_string() })?;
        let mut at = 0;
        while length - at >= record::PREFIX_BYTES {
            match record::prefix(&bytes[at..]) {
                Prefix::Blank(size) if size == length - at => return Ok(segment.end()),
                Prefix::Record(_) => {
                    let offset = from + at as u64;
                    let Some(view) = whole(&bytes[at..], offset) else { return Ok(offset) };
                    self.dispatch(&view, offset)?;
                    if !begins_epoch(&view) {
                        self.last_record = Some(offset);
                    }
                    at += view.bytes().len();
                    self.progress.read.store(offset + view.bytes().len() as u64 - self.base.dispatched, Relaxed);
                }
                _ => return Ok(from + at as u64),
            }
        }
        Ok(if limit < segment.end() { from + at as u64 } else { limit })
    }

    fn dispatch(&mut self, view: &RecordView<'_>, offset: u64) -> Result<(), OpenError> {
        self.newest_ms = self.newest_ms.max(view.store_timestamp());
        let is_new = offset >= self.base.checkpointed;
        if is_new {
            self.pass_checkpoint();
        }
        if view.topic() == batch::META_TOPIC {
            return if is_new { self.apply_meta(view, offset) } else { Ok(()) };
        }
        let damaged = |what: &str| OpenError::Damaged(format!("the record at {offset} has {what}"));
        let topic = Topic::new(view.topic()).map_err(|e| damaged(&e.to_string()))?;
        let id = QueueId::from_wire(view.queue_id()).ok_or_else(|| damaged("a negative queue id"))?;
        let queue = self.base.queues.queue(&topic, id);
        let (found, expected) = (QueueOffset(view.queue_offset()), queue.next_offset());
        if found != expected {
            // Rebuilding from a log whose begin retention has removed: the queue begins where its first record says.
            let first = expected == QueueOffset::ZERO && found > expected && !is_new;
            if !first {
                return Err(damaged(&format!("queue offset {found}, {expected} was next in {topic} {id}")));
            }
            self.base.queues.start_at(&queue, found);
        }
        let (tag_hash, keys) = batch::derived(view.topic(), view.properties());
        let pushed = self.base.queues.push(&queue, Entry { log_offset: offset, size: view.bytes().len() as u32, tag_hash });
        if self.replicated && is_new {
            self.hide(queue.clone(), pushed.plus(1), offset, view.bytes().len() as u64);
        } else {
            self.base.queues.publish(&queue, pushed.plus(1));
        }
        if self.key_index {
            keys.into_iter().for_each(|key| self.base.keys.push(key, offset, view.store_timestamp()));
        }
        if self.base.keys.pending() > key_index::PENDING_MAX {
            self.base.keys.flush_run().map_err(|e| disk_error("writing the key index")(io::Error::other(e)))?;
        }
        if self.base.queues.in_memory_entries() > ENTRIES_IN_MEMORY_MAX {
            self.base.queues.spill().map_err(disk_error("writing the queue index"))?;
        }
        Ok(())
    }

    /// Consumers see it when it is known to be confirmed. What lies close together is shown together, so that a long tail takes little memory.
    fn hide(&mut self, queue: QueueRef, max: QueueOffset, offset: u64, bytes: u64) {
        match self.hidden.back_mut() {
            Some((end, touched)) if offset / HIDDEN_TOGETHER_BYTES == (*end - 1) / HIDDEN_TOGETHER_BYTES => {
                *end = offset + bytes;
                match touched.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &queue)) {
                    Some((_, known)) => *known = max,
                    None => touched.push((queue, max)),
                }
            }
            _ => self.hidden.push_back((offset + bytes, vec![(queue, max)])),
        }
    }

    fn apply_meta(&mut self, view: &RecordView<'_>, offset: u64) -> Result<(), OpenError> {
        let changes = batch::decode_changes(view.body()).ok_or_else(|| OpenError::Damaged(format!("the metadata record at {offset} can't be read")))?;
        for change in changes {
            apply(&mut self.base.meta, &change, offset);
        }
        Ok(())
    }

    /// Empties again what had been emptied: the entries came back with the records, or with a checkpoint from before.
    fn trim(&self) {
        for ((table, key), value) in &self.base.meta {
            if let Some((queue, min)) = noted_trim(*table, key, Some(value), &self.base.queues) {
                self.base.queues.empty_below(&queue, min);
            }
        }
    }

    /// Tells a torn tail from damage. Below the flushed mark and the checkpoint everything has been whole once; and under sync flush one turn at most can be torn, so that a whole
    /// record further on proves that what lies before it had been flushed.
    fn refuse_damage(&self, options: &StoreOptions) -> Result<(), OpenError> {
        let flushed = self.marked.max(self.base.checkpointed);
        if self.end < flushed.min(self.limit) {
            return Err(OpenError::Damaged(format!("no whole record at commit log offset {}, though the log was flushed up to {flushed}", self.end)));
        }
        // What was ordered to be cut is whole, of course.
        if options.flush != FlushMode::Sync || self.limit < u64::MAX {
            return Ok(());
        }
        let beyond = self.end + TURN_BYTES_MAX as u64 * 2;
        for segment in self.segments.iter().filter(|s| s.end() > beyond) {
            if let Some(offset) = find_record(segment, beyond.max(segment.base)) {
                return Err(OpenError::Damaged(format!(
                    "no whole record at commit log offset {}, but one at {offset}, which was written after a sync",
                    self.end
                )));
            }
        }
        Ok(())
    }

    /// What of the records that are about to be cut by an order had been acknowledged.
    fn lost(&self, unconfirmed: &Ranges) -> Lost {
        let mut lost = Lost { at_most: unconfirmed.is_at_most(), ..Lost::default() };
        let mut at = self.end;
        while self.limit < u64::MAX && !unconfirmed.is_empty() {
            let Some(segment) = self.segments.iter().find(|segment| segment.holds(at)) else { break };
            let Ok(bytes) = segment.slice(at, (segment.end() - at) as usize) else { break };
            at = match bytes.get(..record::PREFIX_BYTES).map(record::prefix) {
                None => segment.end(),
                Some(Prefix::Blank(size)) if size == bytes.len() => segment.end(),
                Some(Prefix::Record(_)) => match whole(&bytes, at) {
                    Some(view) => {
                        let size = view.bytes().len() as u64;
                        if unconfirmed.has(at) && view.topic() != batch::META_TOPIC {
                            lost = Lost { messages: lost.messages + 1, bytes: lost.bytes + size, ..lost };
                        }
                        at + size
                    }
                    None => break,
                },
                Some(_) => break,
            };
        }
        if lost.messages > 0 {
            let Lost { messages, bytes, at_most } = lost;
            tracing::error!(
                "{}{messages} messages ({bytes} bytes) are lost that this broker had acknowledged as master before the other brokers confirmed them: the next master did not have them",
                if at_most { "up to " } else { "" }
            );
        }
        lost
    }

    /// Cuts the log at its end for good: what lies beyond is zeroed or removed and synced before anything new is written, so that no later recovery can take a
    /// remainder for live records. Then everything kept is put on stable storage, for a process kill leaves records that were never synced. A sync alone would not do: after a
    /// failed one the system takes for written what it has dropped, so what lies beyond the flushed mark is written anew.
    fn cut(&mut self) -> Result<(), OpenError> {
        let end = self.end;
        // Also an empty one at the end, which is made again: it is there because the sync of its name has failed, or has not come about.
        while let Some(segment) = self.segments.pop_if(|s| s.base >= end) {
            segment::discard(&**self.disk, &segment::name(segment.base)).map_err(disk_error("removing a segment beyond the log's end"))?;
        }
        self.disk.change_names(segment::DIRECTORY, || Ok(())).map_err(disk_error("syncing commitlog"))?;
        for segment in self.segments.iter().filter(|s| s.end() > self.base.dispatched) {
            let file = self.disk.open(&segment::name(segment.base), OpenMode::Write).map_err(disk_error("opening a segment"))?;
            self.write_anew(segment, &*file, end)?;
            if segment.end() > end {
                self.zero_rest(segment, &*file, end)?;
            }
            file.sync_data().map_err(disk_error("syncing a segment"))?;
        }
        Ok(())
    }

    /// Writes again what is there and not known to be flushed.
    fn write_anew(&self, segment: &Segment, file: &dyn sluice_env::File, end: u64) -> Result<(), OpenError> {
        let (mut at, end) = (self.marked.max(self.base.checkpointed).max(segment.base), end.min(segment.end()));
        while at < end {
            let n = (end - at).min(CHUNK_BYTES);
            let bytes = segment.slice(at, n as usize).map_err(|e| OpenError::Disk { what: "reading a segment".to_owned(), error: e.to_string() })?;
            file.write_all_at(&bytes, at - segment.base).map_err(disk_error("writing a segment anew"))?;
            at += n;
        }
        Ok(())
    }

    fn zero_rest(&self, segment: &Segment, file: &dyn sluice_env::File, end: u64) -> Result<(), OpenError> {
        let mut at = end.max(segment.base);
        while at < segment.end() {
            let n = (segment.end() - at).min(CHUNK_BYTES);
            let bytes = segment.slice(at, n as usize).map_err(|e| OpenError::Disk { what: "reading a segment's rest".to_owned(), error: e.to_string() })?;
            if bytes.iter().any(|b| *b != 0) {
                segment::zero(file, at - segment.base, at - segment.base + n).map_err(disk_error("zeroing a segment's rest"))?;
            }
            at += n;
        }
        Ok(())
    }
}

/// The record at the front of `bytes`, if it is whole and belongs at `offset`.
fn whole(bytes: &[u8], offset: u64) -> Option<RecordView<'_>> {
    RecordView::checked(bytes).ok().filter(|view| view.log_offset() == offset)
}

/// The first whole record in a segment at or after `from`.
fn find_record(segment: &Segment, from: u64) -> Option<u64> {
    let bytes = segment.slice(from, (segment.end() - from) as usize).ok()?;
    [record::MAGIC_V1, record::MAGIC_V2]
        .into_iter()
        .filter_map(|magic| {
            memmem::find_iter(&bytes, &magic.to_be_bytes())
                .filter_map(|at| at.checked_sub(4))
                .map(|at| from + at as u64)
                .find(|at| whole(&bytes[(at - from) as usize..], *at).is_some())
        })
        .min()
}
