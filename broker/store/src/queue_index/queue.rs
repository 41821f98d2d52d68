//! One queue: where its entries lie, what is not yet on disk, and what consumers may see.

use super::space::Place;
use crate::api::QueueBounds;
use sluice_env::sync::Mutex;
use sluice_types::{QueueId, QueueOffset, Topic};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// A queue, shared. Cache it: looking it up by name costs a hash.
pub type QueueRef = Arc<Queue>;

/// Where one record of a queue lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Byte position of the record in the commit log.
    pub log_offset: u64,
    /// Bytes of the record.
    pub size: u32,
    /// Hash of the record's tag, 0 without one.
    pub tag_hash: i64,
}

/// Bytes of an entry on disk.
pub(super) const ENTRY_BYTES: usize = 20;

impl Entry {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.log_offset.to_be_bytes());
        to.extend_from_slice(&self.size.to_be_bytes());
        to.extend_from_slice(&self.tag_hash.to_be_bytes());
    }

    pub(super) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { log_offset: word(0), size: u32::from_be_bytes(std::array::from_fn(|i| bytes[8 + i])), tag_hash: word(12) as i64 }
    }
}

/// A run of one queue's entries that lie side by side in one index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Queue offset of the first entry.
    pub(super) first: u64,
    /// Log offset of the first entry, so that a search touches the disk in one extent only.
    pub(super) first_log: u64,
    /// Log offset of the last entry.
    pub(super) last_log: u64,
    /// Where it lies and how much it can hold.
    pub(super) place: Place,
    /// Entries written.
    pub(super) len: u16,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.len)
    }

    pub(super) fn room(&self) -> usize {
        self.place.capacity() - usize::from(self.len)
    }
}

/// What the queue's lock protects. Entries in order: extents, then `frozen`, then `tail`, without a gap.
#[derive(Default)]
pub(super) struct State {
    pub(super) extents: Vec<Extent>,
    /// Entries a spill is writing at the moment, or could not write.
    pub(super) frozen: Option<Arc<Vec<Entry>>>,
    /// The newest entries.
    pub(super) tail: Vec<Entry>,
    /// Whether the queue is on the list of those a spill has to visit.
    pub(super) dirty: bool,
}

impl State {
    /// Where the record of the newest entry lies.
    pub(super) fn last_log(&self) -> Option<u64> {
        let in_memory = self.tail.last().or_else(|| self.frozen.as_ref()?.last());
        in_memory.map(|entry| entry.log_offset).or_else(|| self.extents.last().map(|extent| extent.last_log))
    }

    pub(super) fn frozen_len(&self) -> usize {
        self.frozen.as_ref().map_or(0, |frozen| frozen.len())
    }
}

/// One queue of a topic.
pub struct Queue {
    topic: Topic,
    id: QueueId,
    /// Pulls held back until a message arrives; delivery counts them here so that an arrival without waiters costs one load.
    pub waiting: AtomicU32,
    is_shown_flushed: AtomicBool,
    /// First entry still there; never above `visible`.
    pub(super) min: AtomicU64,
    /// One past the last entry consumers may see; never above `next`.
    pub(super) visible: AtomicU64,
    /// One past the last entry appended. Changed under the lock only.
    pub(super) next: AtomicU64,
    pub(super) state: Mutex<State>,
}

impl Queue {
    pub(super) fn new(topic: Topic, id: QueueId) -> Self {
        Self {
            topic,
            id,
            waiting: AtomicU32::new(0),
            is_shown_flushed: AtomicBool::new(false),
            min: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            next: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// The topic it belongs to.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Its number within the topic.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// The offset the next appended entry gets.
    #[must_use]
    pub fn next_offset(&self) -> QueueOffset {
        QueueOffset(self.next.load(Ordering::Acquire))
    }

    /// Whether consumers see flushed entries only, also in a log that is flushed asynchronously. What has been shown stays so.
    pub fn show_flushed_only(&self, yes: bool) {
        // Said again with each send: no two processors shall quarrel about it.
        if self.is_shown_flushed() != yes {
            self.is_shown_flushed.store(yes, Ordering::SeqCst);
        }
    }

    pub(crate) fn is_shown_flushed(&self) -> bool {
        self.is_shown_flushed.load(Ordering::SeqCst)
    }

    /// What consumers may see.
    #[must_use]
    pub fn visible(&self) -> QueueBounds {
        // `min` first: both only grow and `min <= visible` always holds, so the pair read is ordered too.
        let min = self.min.load(Ordering::Acquire);
        QueueBounds { min: QueueOffset(min), max: QueueOffset(self.visible.load(Ordering::Acquire)) }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} {:?}", self.topic, self.id, self.visible())
    }
}
