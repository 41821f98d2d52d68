//! Reading: by queue, by offset, by key, by time. Nothing is served that has not been checked against its checksum and its place.

use crate::{
    QueueBounds, ReadError, ReadLimits, ReadOutcome, Store, TimeBoundary,
    key_index::hash_key,
    queue_index::{Entry, Queue, QueueRef},
    segment::Segment,
};
use bytes::Bytes;
use sluice_protocol::{properties, record::RecordView};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset};
use std::sync::Arc;

/// Index entries fetched at a time.
const ENTRIES_AT_ONCE: usize = 1024;
/// Most bytes of records that a query gives: RocketMQ's clients refuse an answer of more than 16 MiB.
const QUERY_BYTES_MAX: usize = 12 << 20;

/// Slices under construction: neighbours in one mapped segment become one slice.
#[derive(Default)]
struct Slices {
    done: Vec<Bytes>,
    /// The segment of the last record, in which most of the next ones lie too.
    segment: Option<Arc<Segment>>,
    /// Log offset and length of the run being extended, in that segment.
    run: Option<(u64, usize)>,
}

impl Slices {
    /// Adds a checked record of the segment.
    fn add(&mut self, segment: &Segment, offset: u64, len: usize) -> Result<(), ReadError> {
        match &mut self.run {
            Some((start, run)) if *start + *run as u64 == offset => *run += len,
            _ => {
                self.end_run(segment)?;
                self.run = Some((offset, len));
            }
        }
        Ok(())
    }

    fn end_run(&mut self, segment: &Segment) -> Result<(), ReadError> {
        if let Some((start, len)) = self.run.take() {
            self.done.push(segment.slice(start, len)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Bytes>, ReadError> {
        if let Some(segment) = self.segment.take() {
            self.end_run(&segment)?;
        }
        Ok(self.done)
    }
}

impl Store {
    /// First and end offset of a queue as consumers may see it.
    #[must_use]
    pub fn bounds(&self, queue: &Queue) -> QueueBounds {
        queue.visible()
    }

    /// Reads a queue from `from` on. `accept` sees each entry's tag hash (0: none) and may refuse it unread. Outside the bounds nothing is found. A damaged record is
    /// an error when it is the first that is wanted; else the read ends before it.
    pub fn read(&self, queue: &QueueRef, from: QueueOffset, limits: ReadLimits, accept: &mut dyn FnMut(i64) -> bool) -> Result<ReadOutcome, ReadError> {
        let bounds = queue.visible();
        let mut out = ReadOutcome { slices: Vec::new(), messages: 0, bytes: 0, next: from, bounds, last_store_timestamp: 0 };
        if from < bounds.min || from >= bounds.max {
            return Ok(out);
        }
        let mut slices = Slices::default();
        let mut scanned = 0;
        let mut entries = Vec::new();
        'read: while out.next < bounds.max && out.messages < limits.messages && scanned < limits.scanned {
            entries.clear();
            let want = (ENTRIES_AT_ONCE.min((limits.scanned - scanned) as usize)).min(limits.messages.saturating_mul(4) as usize);
            let first = self.entries(queue, out.next, want.max(1), &mut entries)?;
            if entries.is_empty() {
                break;
            }
            out.next = first;
            for entry in &entries {
                if out.messages >= limits.messages || (out.messages > 0 && out.bytes + entry.size as usize > limits.bytes) {
                    break 'read;
                }
                scanned += 1;
                if accept(entry.tag_hash) {
                    out.last_store_timestamp = match self.take(queue, out.next, *entry, &mut slices) {
                        Ok(ms) => ms,
                        // What lies before is whole and must not be lost with it: the next read begins here and says what is wrong.
                        Err(_) if out.messages > 0 => break 'read,
                        Err(e) => return Err(e),
                    };
                    out.messages += 1;
                    out.bytes += entry.size as usize;
                }
                out.next = out.next.plus(1);
            }
        }
        out.slices = slices.finish()?;
        Ok(out)
    }

    fn entries(&self, queue: &QueueRef, from: QueueOffset, count: usize, out: &mut Vec<Entry>) -> Result<QueueOffset, ReadError> {
        self.shared.queues.entries(queue, from, count, out).map_err(|e| ReadError::Disk(CommitLogOffset::ZERO, format!("the queue index: {e}")))
    }

    /// Checks a record and adds it to the slices; its store timestamp.
    fn take(&self, queue: &QueueRef, offset: QueueOffset, entry: Entry, slices: &mut Slices) -> Result<i64, ReadError> {
        let segment = match slices.segment.take() {
            Some(segment) if segment.holds(entry.log_offset) => segment,
            last => {
                if let Some(last) = last {
                    slices.end_run(&last)?;
                }
                self.shared.log.segment_of(entry.log_offset)?
            }
        };
        let taken = take_from(&segment, queue, offset, entry, slices);
        slices.segment = Some(segment);
        taken
    }

    /// The record that begins at a commit log offset, if consumers may see that far.
    pub fn record_at(&self, offset: CommitLogOffset) -> Result<Bytes, ReadError> {
        if offset >= self.shared.log.marks.stored(self.shared.options.flush) {
            return Err(ReadError::NotFound(offset));
        }
        let bytes = self.shared.log.record_bytes(offset.0)?;
        let view = checked(&bytes, offset.0)?;
        if view.topic() == crate::batch::META_TOPIC || self.is_hidden_until_flushed(offset, &view) {
            return Err(ReadError::NotFound(offset));
        }
        Ok(bytes)
    }

    fn is_hidden_until_flushed(&self, offset: CommitLogOffset, view: &RecordView<'_>) -> bool {
        let queue = || self.shared.queues.find(view.topic(), QueueId::from_wire(view.queue_id())?.0);
        offset >= self.shared.log.marks.flushed() && queue().is_some_and(|queue| queue.is_shown_flushed())
    }

    /// When an entry's record was stored, ms since 1970; `None` when there is no such entry.
    pub fn store_timestamp(&self, queue: &QueueRef, offset: QueueOffset) -> Result<Option<i64>, ReadError> {
        let found = self.shared.queues.entry(queue, offset).map_err(|e| ReadError::Disk(CommitLogOffset::ZERO, format!("the queue index: {e}")))?;
        let Some(entry) = found else { return Ok(None) };
        let bytes = self.shared.log.record_bytes(entry.log_offset)?;
        Ok(Some(checked(&bytes, entry.log_offset)?.store_timestamp()))
    }

    /// The entry at a time, by binary search: times never go back within a queue. `Lower` beyond the last is the end; `Upper` before the first is the first.
    pub fn offset_by_time(&self, queue: &QueueRef, ms: i64, boundary: TimeBoundary) -> Result<QueueOffset, ReadError> {
        let bounds = queue.visible();
        let (mut low, mut high) = (bounds.min.0, bounds.max.0);
        // The first entry at or after `ms` (Lower), or after it (Upper).
        while low < high {
            let middle = low + (high - low) / 2;
            let stored = self.store_timestamp(queue, QueueOffset(middle))?;
            let before = match boundary {
                TimeBoundary::Lower => stored.is_none_or(|t| t < ms),
                TimeBoundary::Upper => stored.is_none_or(|t| t <= ms),
            };
            if before {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(match boundary {
            TimeBoundary::Lower => QueueOffset(low),
            TimeBoundary::Upper => QueueOffset(low.saturating_sub(1).max(bounds.min.0)),
        })
    }

    /// Records with that key (one of KEYS, or the unique key) in a topic, newest first, stored between two times; at most 12 MiB of them, or one.
    pub fn query(&self, topic: &str, key: &str, max: usize, begin_ms: i64, end_ms: i64) -> Result<Vec<Bytes>, ReadError> {
        let mut offsets = Vec::new();
        // Hashes may collide and a message may have the key twice: ask for more than wanted, then look.
        let lookup = self.shared.keys.lookup(hash_key(topic, key), begin_ms, end_ms, max.saturating_mul(2).saturating_add(16), &mut offsets);
        lookup.map_err(|e| ReadError::Disk(CommitLogOffset::ZERO, format!("the key index: {e}")))?;
        offsets.dedup();
        let (mut found, mut found_bytes) = (Vec::new(), 0);
        for offset in offsets {
            if found.len() >= max {
                break;
            }
            let bytes = match self.record_at(CommitLogOffset(offset)) {
                Ok(bytes) => bytes,
                Err(ReadError::NotFound(_)) => continue,
                Err(e) => return Err(e),
            };
            let view = checked(&bytes, offset)?;
            let has = properties::iter(view.properties()).any(|(name, value)| match name {
                properties::UNIQUE_KEY => value == key,
                properties::KEYS => value.split(' ').any(|k| k == key),
                _ => false,
            });
            if has && view.topic() == topic && (begin_ms..=end_ms).contains(&view.store_timestamp()) {
                found_bytes += bytes.len();
                if found_bytes > QUERY_BYTES_MAX && !found.is_empty() {
                    break;
                }
                found.push(bytes);
            }
        }
        Ok(found)
    }
}

/// Checks a record of the segment and adds it to the slices; its store timestamp.
fn take_from(segment: &Segment, queue: &QueueRef, offset: QueueOffset, entry: Entry, slices: &mut Slices) -> Result<i64, ReadError> {
    let size = entry.size as usize;
    let Some(bytes) = segment.mapped(entry.log_offset, size)? else {
        let bytes = segment.slice(entry.log_offset, size)?;
        let ms = checked_in_queue(&bytes, queue, offset, entry)?;
        slices.done.push(bytes);
        return Ok(ms);
    };
    let ms = checked_in_queue(bytes, queue, offset, entry)?;
    slices.add(segment, entry.log_offset, size)?;
    Ok(ms)
}

/// Checks that the bytes are the whole record that the queue's entry names; its store timestamp.
fn checked_in_queue(bytes: &[u8], queue: &QueueRef, offset: QueueOffset, entry: Entry) -> Result<i64, ReadError> {
    let view = checked(bytes, entry.log_offset)?;
    let belongs = view.bytes().len() == bytes.len()
        && view.queue_offset() == offset.0
        && view.queue_id() == queue.id().to_wire()
        && view.topic() == queue.topic().as_str();
    belongs.then(|| view.store_timestamp()).ok_or(ReadError::Corrupt(CommitLogOffset(entry.log_offset)))
}

fn checked(bytes: &[u8], offset: u64) -> Result<RecordView<'_>, ReadError> {
    RecordView::checked(bytes).ok().filter(|view| view.log_offset() == offset).ok_or(ReadError::Corrupt(CommitLogOffset(offset)))
}
