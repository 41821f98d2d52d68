//! The index's state as bytes, for the checkpoint. Everything read back is checked: a snapshot that does not fit is refused, and the index rebuilt.

use super::{
    QueueIndex,
    queue::{Extent, Queue, QueueRef},
    space::{Place, Space},
};
use sluice_env::Disk;
use sluice_types::{QueueId, QueueOffset, Topic};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

const MAGIC: u32 = u32::from_be_bytes(*b"SLQI");
const VERSION: u16 = 1;

/// Why a snapshot was refused: the index has to be rebuilt from the log.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bytes are not a snapshot, or do not fit the files on disk.
    #[error("the queue index cannot be restored: {0}; rebuild it from the commit log")]
    Damaged(String),
    /// The disk failed.
    #[error("the queue index cannot be restored: {0}")]
    Disk(#[from] io::Error),
}

impl From<&'static str> for RestoreError {
    fn from(what: &'static str) -> Self {
        damaged(what)
    }
}

fn damaged(what: impl Into<String>) -> RestoreError {
    RestoreError::Damaged(what.into())
}

impl QueueIndex {
    /// Appends the state to `out`: what has been spilled, not what is in memory. Call it after [`Self::spill`] and before the [`Self::sync`] that makes
    /// durable what it describes; call [`Self::checkpoint_durable`] once the snapshot itself is durable.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let mut space = self.space.lock();
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let written = self.all().iter().filter(|queue| encode_queue(queue, out)).count() as u32;
        out[count_at..count_at + 4].copy_from_slice(&written.to_be_bytes());
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
        space.seal();
    }

    /// The index as a snapshot has it. Index files it does not name are removed.
    pub fn restore(disk: Arc<dyn Disk>, bytes: &[u8]) -> Result<Self, RestoreError> {
        let index = Self::empty(disk)?;
        {
            let mut space = index.space.lock();
            for_each_queue(bytes, |queue| index.restore_queue(queue, &mut space))?;
        }
        index.remove_unknown_files()?;
        Ok(index)
    }

    /// The next offset of every queue in a snapshot, without any index file: for a rebuild from a log that has no record left of some queues. Those have to
    /// [`Self::start_at`] it once the log has been dispatched, or their offsets would be used twice.
    pub fn next_offsets(bytes: &[u8]) -> Result<Vec<(Topic, QueueId, QueueOffset)>, RestoreError> {
        let mut found = Vec::new();
        for_each_queue(bytes, |queue| {
            found.push((queue.topic, queue.id, QueueOffset(queue.next)));
            Ok(())
        })?;
        Ok(found)
    }

    fn restore_queue(&self, stored: Stored, space: &mut Space) -> Result<(), RestoreError> {
        let Stored { topic, id, min, next, extents } = stored;
        for extent in &extents {
            space.claim(extent.place, extent.len.into(), &self.files).map_err(|error| damaged(format!("queue {topic}/{id}: {error}")))?;
        }
        if self.find(topic.as_str(), id.0).is_some() {
            return Err(damaged(format!("queue {topic}/{id} occurs twice")));
        }
        let queue = self.queue(&topic, id);
        queue.min.store(min, Ordering::Release);
        queue.visible.store(next, Ordering::Release);
        queue.next.store(next, Ordering::Release);
        queue.state.lock().extents = extents;
        Ok(())
    }
}

/// A queue as a snapshot has it; consistent in itself.
struct Stored {
    topic: Topic,
    id: QueueId,
    min: u64,
    next: u64,
    extents: Vec<Extent>,
}

fn for_each_queue(bytes: &[u8], mut visit: impl FnMut(Stored) -> Result<(), RestoreError>) -> Result<(), RestoreError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("the snapshot is empty"))?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return Err(damaged("the snapshot's checksum is wrong"));
    }
    let mut reader = Reader(body);
    if reader.u32()? != MAGIC || reader.u16()? != VERSION {
        return Err(damaged("this is not a snapshot of version 1"));
    }
    for _ in 0..reader.u32()? {
        let (topic, id) = reader.name()?;
        let (min, next) = (reader.u64()?, reader.u64()?);
        let extents = reader.extents(min, next).map_err(|what| damaged(format!("queue {topic}/{id}: {what}")))?;
        visit(Stored { topic, id, min, next, extents })?;
    }
    if reader.0.is_empty() { Ok(()) } else { Err(damaged("bytes follow the last queue")) }
}

/// Whether there was anything to remember of the queue.
fn encode_queue(queue: &QueueRef, out: &mut Vec<u8>) -> bool {
    let state = queue.state.lock();
    let min = queue.min.load(Ordering::Acquire);
    let spilled = queue.next.load(Ordering::Acquire) - (state.frozen_len() + state.tail.len()) as u64;
    // Entries may have been trimmed before they were ever spilled; no extent is left then.
    let next = spilled.max(min);
    if next == 0 {
        return false;
    }
    out.push(queue.topic().as_str().len() as u8);
    out.extend_from_slice(queue.topic().as_str().as_bytes());
    out.extend_from_slice(&queue.id().0.to_be_bytes());
    out.extend_from_slice(&min.to_be_bytes());
    out.extend_from_slice(&next.to_be_bytes());
    out.extend_from_slice(&(state.extents.len() as u32).to_be_bytes());
    for extent in &state.extents {
        out.extend_from_slice(&extent.first.to_be_bytes());
        out.extend_from_slice(&extent.first_log.to_be_bytes());
        out.extend_from_slice(&extent.last_log.to_be_bytes());
        out.extend_from_slice(&extent.place.chunk.to_be_bytes());
        out.extend_from_slice(&extent.place.slot.to_be_bytes());
        out.push(extent.place.class);
        out.extend_from_slice(&extent.len.to_be_bytes());
    }
    true
}

/// Takes numbers off the front of a snapshot.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("the snapshot ends early")?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.take().map(u64::from_be_bytes)
    }

    fn name(&mut self) -> Result<(Topic, QueueId), &'static str> {
        let [len] = self.take()?;
        let (name, rest) = self.0.split_at_checked(len.into()).ok_or("the snapshot ends within a topic's name")?;
        self.0 = rest;
        let topic = std::str::from_utf8(name).ok().and_then(|name| Topic::new(name).ok()).ok_or("a topic's name is illegal")?;
        Ok((topic, QueueId(self.u32()?)))
    }

    fn extent(&mut self) -> Result<Extent, &'static str> {
        let (first, first_log, last_log) = (self.u64()?, self.u64()?, self.u64()?);
        let (chunk, slot) = (self.u32()?, self.u16()?);
        let [class] = self.take()?;
        Ok(Extent { first, first_log, last_log, place: Place { chunk, slot, class }, len: self.u16()? })
    }

    /// The extents of a queue; they must cover `min..next` without a gap, in rising order.
    fn extents(&mut self, min: u64, next: u64) -> Result<Vec<Extent>, &'static str> {
        let count = self.u32()?;
        // Grown as they are read: the number may be a lie.
        let mut extents: Vec<Extent> = Vec::new();
        for _ in 0..count {
            let extent = self.extent()?;
            let follows = extents.last().is_none_or(|last| last.first.checked_add(last.len.into()) == Some(extent.first) && last.last_log < extent.first_log);
            if !follows || extent.len == 0 || extent.first_log > extent.last_log {
                return Err("its extents do not follow each other");
            }
            if extents.is_empty() {
                extents.reserve_exact(1);
            }
            extents.push(extent);
        }
        let covered = match (extents.first(), extents.last()) {
            (Some(first), Some(last)) => {
                first.first <= min && min < first.first.saturating_add(first.len.into()) && last.first.checked_add(last.len.into()) == Some(next)
            }
            _ => min == next,
        };
        if covered && min <= next { Ok(extents) } else { Err("its extents do not cover its entries") }
    }
}

// Eighty thousand idle queues shall cost no more than a few megabytes.
const _: () = assert!(sluice_env::sync::SIMULATED || size_of::<Queue>() + size_of::<Extent>() <= 200);
