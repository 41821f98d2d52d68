//! Queues, and where their records lie in the commit log. The entries of many queues share few files: a queue owns *extents* of growing size in them, and
//! keeps its newest entries in memory until a [`QueueIndex::spill`]. Everything here can be rebuilt from the log. See `FORMAT.md`.
//!
//! One thread appends ([`QueueIndex::push`]); any thread reads; a queue's lock is never held during disk work.

mod queue;
mod snapshot;
mod space;
#[cfg(test)]
mod tests;

pub use queue::{Entry, Queue, QueueRef};
pub use snapshot::RestoreError;
pub(crate) use space::DIR;

use ahash::AHashMap;
use queue::{ENTRY_BYTES, Extent, State};
use sluice_env::{
    Disk,
    sync::{Mutex, RwLock},
};
use sluice_types::{QueueId, QueueOffset, Topic};
use space::{FileTable, Space, class_for};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Most entries one [`QueueIndex::entries`] returns, whatever is asked for.
pub const READ_ENTRIES_MAX: usize = 16_384;

/// All queues of a store.
pub struct QueueIndex {
    disk: Arc<dyn Disk>,
    /// Queues by topic, sorted by number.
    queues: RwLock<AHashMap<Topic, Vec<QueueRef>>>,
    files: FileTable,
    /// Held by whatever changes extents: spill, trim, truncate, snapshot. Always taken before a queue's lock.
    space: Mutex<Space>,
    /// Queues with entries in memory.
    dirty: Mutex<Vec<QueueRef>>,
    in_memory: AtomicUsize,
    /// Whether a sync has failed: which bytes are on disk is unknown from then on. Held while one runs.
    sync_failed: Mutex<bool>,
}

/// A stretch of an extent that a read wants.
struct Part {
    extent: Extent,
    from: usize,
    count: usize,
}

impl QueueIndex {
    /// An index without queues; files left by an earlier one are removed.
    pub fn new(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let index = Self::empty(disk)?;
        index.remove_unknown_files()?;
        Ok(index)
    }

    fn empty(disk: Arc<dyn Disk>) -> io::Result<Self> {
        disk.create_dir(space::DIR)?;
        Ok(Self {
            queues: RwLock::default(),
            files: FileTable::default(),
            space: Mutex::new(Space::new(disk.clone())),
            dirty: Mutex::default(),
            in_memory: AtomicUsize::new(0),
            sync_failed: Mutex::new(false),
            disk,
        })
    }

    /// Files no snapshot names hold entries that are dispatched again from the log.
    fn remove_unknown_files(&self) -> io::Result<()> {
        let known: Vec<String> = self.files.all().into_iter().map(|(number, _)| space::name(number)).collect();
        for file in self.disk.list(space::DIR)? {
            let path = format!("{}/{file}", space::DIR);
            if !known.contains(&path) {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// The queue, made when there is none.
    pub fn queue(&self, topic: &Topic, id: QueueId) -> QueueRef {
        if let Some(queue) = self.find(topic.as_str(), id.0) {
            return queue;
        }
        let mut queues = self.queues.write();
        // One copy of the name for all queues of a topic.
        let topic = queues.get_key_value(topic.as_str()).map_or_else(|| topic.clone(), |(known, _)| known.clone());
        let of_topic = queues.entry(topic.clone()).or_default();
        match of_topic.binary_search_by_key(&id, |queue| queue.id()) {
            Ok(at) => of_topic[at].clone(),
            Err(at) => {
                let queue = Arc::new(Queue::new(topic, id));
                of_topic.insert(at, queue.clone());
                queue
            }
        }
    }

    /// The queue, if there is one.
    #[must_use]
    pub fn find(&self, topic: &str, id: u32) -> Option<QueueRef> {
        let queues = self.queues.read();
        let of_topic = queues.get(topic)?;
        of_topic.binary_search_by_key(&QueueId(id), |queue| queue.id()).ok().map(|at| of_topic[at].clone())
    }

    /// The queues of a topic, by number.
    #[must_use]
    pub fn queues_of(&self, topic: &str) -> Vec<QueueRef> {
        self.queues.read().get(topic).cloned().unwrap_or_default()
    }

    /// Visits every queue there was at the time of the call. Queues may be made meanwhile.
    pub fn for_each(&self, visit: impl FnMut(&QueueRef)) {
        self.all().iter().for_each(visit);
    }

    /// Sorted: in which order queues are trimmed and written into a checkpoint decides what comes to lie where, and must not differ from run to run.
    fn all(&self) -> Vec<QueueRef> {
        let queues = self.queues.read();
        let mut topics: Vec<_> = queues.iter().collect();
        topics.sort_unstable_by_key(|(topic, _)| *topic);
        topics.into_iter().flat_map(|(_, queues)| queues).cloned().collect()
    }

    /// How many queues there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.read().values().map(Vec::len).sum()
    }

    /// Whether there is no queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.read().is_empty()
    }

    /// Open index files.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.files.all().len()
    }

    /// Appends an entry; consumers see it after [`Self::publish`]. For the one writer only; log offsets must rise within a queue.
    pub fn push(&self, queue: &QueueRef, entry: Entry) -> QueueOffset {
        let mut state = queue.state.lock();
        if !state.dirty {
            state.dirty = true;
            self.dirty.lock().push(queue.clone());
        }
        state.tail.push(entry);
        self.in_memory.fetch_add(1, Ordering::Relaxed);
        QueueOffset(queue.next.fetch_add(1, Ordering::AcqRel))
    }

    /// Lets consumers see entries below `max`. Never takes anything back, and never shows what has not been appended.
    pub fn publish(&self, queue: &QueueRef, max: QueueOffset) {
        let max = max.0.min(queue.next.load(Ordering::Acquire));
        queue.visible.fetch_max(max, Ordering::AcqRel);
    }

    /// Makes the queue continue at `offset`, which must not lie below its next offset, and forgets what it held: for a rebuild from a log whose beginning
    /// has been removed, where the first record of a queue is not its record 0.
    pub fn start_at(&self, queue: &QueueRef, offset: QueueOffset) {
        let mut space = self.space.lock();
        let mut state = queue.state.lock();
        if offset.0 <= queue.next.load(Ordering::Acquire) {
            return;
        }
        state.extents.drain(..).for_each(|extent| space.retire(extent.place));
        self.forget_in_memory(&mut state);
        // In this order no reader sees `min` above `visible`.
        queue.next.store(offset.0, Ordering::Release);
        queue.visible.store(offset.0, Ordering::Release);
        queue.min.store(offset.0, Ordering::Release);
    }

    fn forget_in_memory(&self, state: &mut State) {
        let dropped = state.frozen_len() + state.tail.len();
        self.in_memory.fetch_sub(dropped, Ordering::Relaxed);
        state.frozen = None;
        state.tail = Vec::new();
    }

    /// Puts up to `max_count` visible entries from `from` on at the end of `out`, and returns the offset of the first of them: above `from` when the queue
    /// begins later. Nothing is added when nothing is visible there.
    pub fn entries(&self, queue: &QueueRef, from: QueueOffset, max_count: usize, out: &mut Vec<Entry>) -> io::Result<QueueOffset> {
        let base = out.len();
        loop {
            let bounds = queue.visible();
            let first = from.max(bounds.min).0;
            let end = bounds.max.0.min(first.saturating_add(max_count.min(READ_ENTRIES_MAX) as u64));
            if first >= end {
                return Ok(QueueOffset(first));
            }
            let read = self.read_range(queue, first, end, out);
            // What was trimmed meanwhile may have been given to another queue before it was read.
            let still_there = {
                let _writers_done = queue.state.lock();
                queue.min.load(Ordering::Acquire) <= first
            };
            if still_there {
                return read.map(|()| QueueOffset(first)).inspect_err(|_| out.truncate(base));
            }
            out.truncate(base);
        }
    }

    /// The entry at `offset`, visible or not; `None` when it has been trimmed or not been appended yet.
    pub fn entry(&self, queue: &QueueRef, offset: QueueOffset) -> io::Result<Option<Entry>> {
        let mut out = Vec::with_capacity(1);
        let next = queue.next.load(Ordering::Acquire);
        if offset.0 < queue.min.load(Ordering::Acquire) || offset.0 >= next {
            return Ok(None);
        }
        let read = self.read_range(queue, offset.0, offset.0 + 1, &mut out);
        let _writers_done = queue.state.lock();
        if queue.min.load(Ordering::Acquire) > offset.0 {
            return Ok(None);
        }
        read.map(|()| out.pop())
    }

    /// The entry of all queues whose record lies last in the log; `None` without one. Of all queues, one is read.
    pub fn newest(&self) -> io::Result<Option<Entry>> {
        let is_empty = |queue: &QueueRef| queue.min.load(Ordering::Acquire) >= queue.next.load(Ordering::Acquire);
        let queues = self.all();
        let newest = queues.iter().filter(|queue| !is_empty(queue)).max_by_key(|queue| queue.state.lock().last_log());
        match newest {
            Some(queue) => self.entry(queue, QueueOffset(queue.next.load(Ordering::Acquire) - 1)),
            None => Ok(None),
        }
    }

    /// Reads `first..end`. The disk is read without the queue's lock; the caller checks afterwards that the range had not been trimmed.
    fn read_range(&self, queue: &QueueRef, first: u64, end: u64, out: &mut Vec<Entry>) -> io::Result<()> {
        let base = out.len();
        let parts = {
            let state = queue.state.lock();
            let next = queue.next.load(Ordering::Acquire);
            let tail_first = next - state.tail.len() as u64;
            let frozen_first = tail_first - state.frozen_len() as u64;
            let (parts, on_disk) = parts_of(&state.extents, first, end);
            out.resize(base + on_disk, Entry::default());
            if let Some(frozen) = &state.frozen {
                out.extend_from_slice(overlap(frozen, frozen_first, first, end));
            }
            out.extend_from_slice(overlap(&state.tail, tail_first, first, end));
            parts
        };
        let mut at = base;
        let mut bytes = Vec::new();
        for part in parts {
            bytes.resize(part.count * ENTRY_BYTES, 0);
            let file = self.file_of(&part.extent)?;
            file.file.read_exact_at(&mut bytes, part.extent.place.position(part.from))?;
            for (to, from) in out[at..].iter_mut().zip(bytes.as_chunks().0) {
                *to = Entry::decode(from);
            }
            at += part.count;
        }
        Ok(())
    }

    fn file_of(&self, extent: &Extent) -> io::Result<Arc<space::IndexFile>> {
        let number = extent.place.file();
        self.files.get(number).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("index file {} has been removed", space::name(number))))
    }

    /// Entries that are in memory only, for the caller to decide when to spill.
    #[must_use]
    pub fn in_memory_entries(&self) -> usize {
        self.in_memory.load(Ordering::Relaxed)
    }

    /// Writes the entries in memory, as of now, to the index files. After an error they are still readable, and the next spill tries again.
    pub fn spill(&self) -> io::Result<()> {
        let mut space = self.space.lock();
        let mut queues = std::mem::take(&mut *self.dirty.lock());
        while let Some(queue) = queues.pop() {
            if let Err(error) = self.spill_queue(&mut space, &queue) {
                queues.push(queue);
                self.dirty.lock().append(&mut queues);
                return Err(error);
            }
        }
        Ok(())
    }

    fn spill_queue(&self, space: &mut Space, queue: &QueueRef) -> io::Result<()> {
        loop {
            let (frozen, frozen_end, last) = {
                let mut state = queue.state.lock();
                if state.frozen.is_none() && !state.tail.is_empty() {
                    let tail = std::mem::take(&mut state.tail);
                    state.frozen = Some(Arc::new(tail));
                }
                let Some(frozen) = state.frozen.clone() else {
                    state.dirty = false;
                    return Ok(());
                };
                let frozen_end = queue.next.load(Ordering::Acquire) - state.tail.len() as u64;
                (frozen, frozen_end, state.extents.last().copied())
            };
            let first = frozen_end - frozen.len() as u64;
            // Entries trimmed before they were ever written are not written. Only `space`'s holder trims, so that this cannot change underneath.
            let skip = queue.min.load(Ordering::Acquire).saturating_sub(first).min(frozen.len() as u64);
            let written = self.write_extents(space, &frozen[skip as usize..], first + skip, last)?;
            let mut state = queue.state.lock();
            if let (Some(extended), Some(last)) = (written.extended, state.extents.last_mut()) {
                *last = extended;
            }
            state.extents.reserve_exact(written.added.len());
            state.extents.extend(written.added);
            state.frozen = None;
            self.in_memory.fetch_sub(frozen.len(), Ordering::Relaxed);
            if state.tail.is_empty() {
                state.dirty = false;
                return Ok(());
            }
        }
    }

    /// Writes entries behind `last` and into new extents. On an error no extent has changed.
    fn write_extents(&self, space: &mut Space, entries: &[Entry], first: u64, last: Option<Extent>) -> io::Result<Written> {
        let mut written = Written::default();
        let mut rest = entries;
        let mut first = first;
        let mut class = last.map(|extent| extent.place.class);
        if let Some(mut extent) = last
            && extent.room() > 0
            && !rest.is_empty()
        {
            self.fill(&mut extent, &mut rest, &mut first)?;
            written.extended = Some(extent);
        }
        while let Some(entry) = rest.first() {
            let result = space.allocate(class_for(class, rest.len()), &self.files).and_then(|place| {
                let mut extent = Extent { first, first_log: entry.log_offset, last_log: entry.log_offset, place, len: 0 };
                written.added.push(extent);
                self.fill(&mut extent, &mut rest, &mut first).map(|()| extent)
            });
            match (result, written.added.last_mut()) {
                (Ok(extent), Some(added)) => {
                    *added = extent;
                    class = Some(extent.place.class);
                }
                (Err(error), _) => {
                    written.added.iter().for_each(|extent| space.free_at_once(extent.place));
                    return Err(error);
                }
                (Ok(_), None) => unreachable!("the extent was added just now"),
            }
        }
        Ok(written)
    }

    /// Writes as many entries into the extent as fit.
    fn fill(&self, extent: &mut Extent, rest: &mut &[Entry], first: &mut u64) -> io::Result<()> {
        let (now, later) = rest.split_at(extent.room().min(rest.len()));
        let mut bytes = Vec::with_capacity(now.len() * ENTRY_BYTES);
        now.iter().for_each(|entry| entry.encode(&mut bytes));
        let file = self.file_of(extent)?;
        let result = file.file.write_all_at(&bytes, extent.place.position(usize::from(extent.len)));
        // After the write: a sync that runs meanwhile may miss it and must not clear the mark.
        file.dirty.store(true, Ordering::Release);
        result?;
        extent.len += now.len() as u16;
        extent.last_log = now.last().map_or(extent.last_log, |entry| entry.log_offset);
        *first += now.len() as u64;
        *rest = later;
        Ok(())
    }

    /// Puts everything spilled so far on stable storage. Once this has failed it fails for good: which bytes reached the disk is unknown until a restart
    /// restores the last durable snapshot.
    pub fn sync(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(io::Error::other("an earlier sync of the queue index failed; restart the broker to recover"));
        }
        let result = self.sync_files();
        *failed = result.is_err();
        result
    }

    fn sync_files(&self) -> io::Result<()> {
        for (_, file) in self.files.all() {
            if file.dirty.swap(false, Ordering::AcqRel) {
                file.file.sync_data()?;
            }
        }
        let dir_dirty = std::mem::take(&mut self.space.lock().dir_dirty);
        if dir_dirty { self.disk.change_names(space::DIR, || Ok(())) } else { Ok(()) }
    }

    /// Raises every queue's first entry to the first whose record lies at or above `min_log_offset`, and gives up the extents below.
    pub fn trim_below_log(&self, min_log_offset: u64) -> io::Result<()> {
        for queue in self.all() {
            let min = self.first_at_or_above(&queue, min_log_offset)?;
            if min > queue.min.load(Ordering::Acquire) {
                self.trim_queue(&queue, QueueOffset(min));
            }
        }
        Ok(())
    }

    /// Raises the queue's first entry to `min`, or to the end of what is visible if that is less.
    pub fn trim_queue(&self, queue: &QueueRef, min: QueueOffset) {
        let mut space = self.space.lock();
        let mut state = queue.state.lock();
        let min = min.0.min(queue.visible.load(Ordering::Acquire));
        if queue.min.fetch_max(min, Ordering::AcqRel) >= min {
            return;
        }
        let gone = state.extents.iter().take_while(|extent| extent.end() <= min).count();
        state.extents.drain(..gone).for_each(|extent| space.retire(extent.place));
    }

    /// The same for what is not shown yet: it never will be.
    pub fn empty_below(&self, queue: &QueueRef, min: QueueOffset) {
        self.publish(queue, min);
        self.trim_queue(queue, min);
    }

    /// Drops every entry whose record lies at or above `log_offset`. For recovery only, before anybody reads or appends, and only needed if the log is shorter
    /// than the snapshot says: write a new checkpoint before appending, or the next recovery brings the dropped entries back.
    pub fn truncate_above_log(&self, log_offset: u64) -> io::Result<()> {
        for queue in self.all() {
            let end = self.first_at_or_above(&queue, log_offset)?;
            // The last entry left, if it is on disk in the extent that is cut.
            let last_log = match end.checked_sub(1) {
                Some(last) => self.entry(&queue, QueueOffset(last))?.map(|entry| entry.log_offset),
                None => None,
            };
            self.cut(&queue, end, last_log);
        }
        Ok(())
    }

    fn cut(&self, queue: &QueueRef, end: u64, last_log: Option<u64>) {
        let mut space = self.space.lock();
        let mut state = queue.state.lock();
        let next = queue.next.load(Ordering::Acquire);
        if end >= next {
            return;
        }
        let state = &mut *state;
        let in_memory = (state.frozen_len() + state.tail.len()) as u64;
        let kept = end.saturating_sub(next - in_memory) as usize;
        let mut memory: Vec<Entry> = state.frozen.take().map(|frozen| frozen.to_vec()).unwrap_or_default();
        memory.append(&mut state.tail);
        memory.truncate(kept);
        self.in_memory.fetch_sub(in_memory as usize - memory.len(), Ordering::Relaxed);
        state.tail = memory;
        while let Some(extent) = state.extents.last_mut() {
            if extent.first >= end {
                space.retire(extent.place);
                state.extents.pop();
                continue;
            }
            if extent.end() > end {
                extent.len = (end - extent.first) as u16;
                extent.last_log = last_log.unwrap_or(extent.first_log);
            }
            break;
        }
        queue.visible.fetch_min(end, Ordering::AcqRel);
        queue.next.store(end, Ordering::Release);
    }

    /// Offset of the first entry, at or above the queue's first, whose record lies at or above `log_offset`; the next offset when there is none.
    fn first_at_or_above(&self, queue: &QueueRef, log_offset: u64) -> io::Result<u64> {
        let extent = {
            let state = queue.state.lock();
            let next = queue.next.load(Ordering::Acquire);
            let at = state.extents.partition_point(|extent| extent.last_log < log_offset);
            match state.extents.get(at).copied() {
                Some(extent) => extent,
                None => {
                    let tail_first = next - state.tail.len() as u64;
                    let frozen: &[Entry] = state.frozen.as_ref().map_or(&[], |frozen| frozen);
                    let below = |entry: &Entry| entry.log_offset < log_offset;
                    let in_frozen = frozen.partition_point(below);
                    let found = if in_frozen < frozen.len() {
                        tail_first - (frozen.len() - in_frozen) as u64
                    } else {
                        tail_first + state.tail.partition_point(below) as u64
                    };
                    return Ok(found.max(queue.min.load(Ordering::Acquire)));
                }
            }
        };
        let (mut low, mut high) = (queue.min.load(Ordering::Acquire).max(extent.first), extent.end() - 1);
        if extent.first_log >= log_offset {
            return Ok(low);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(queue, QueueOffset(middle))? {
                Some(entry) if entry.log_offset >= log_offset => high = middle,
                // Trimmed meanwhile: what is wanted lies above.
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    /// Lets go of what only the snapshot before the last [`Self::snapshot`] needed; call it once that last one is durable, and never otherwise.
    pub fn checkpoint_durable(&self) {
        self.space.lock().release(&self.files);
    }
}

/// What a spill has made of a queue's extents.
#[derive(Default)]
struct Written {
    extended: Option<Extent>,
    added: Vec<Extent>,
}

/// Which stretches of the extents make up `first..end`, and how many entries that is.
fn parts_of(extents: &[Extent], first: u64, end: u64) -> (Vec<Part>, usize) {
    let mut total = 0;
    let mut parts = Vec::new();
    let begin = extents.partition_point(|extent| extent.end() <= first);
    for extent in extents[begin..].iter().take_while(|extent| extent.first < end) {
        let from = first.max(extent.first);
        let count = (end.min(extent.end()) - from) as usize;
        parts.push(Part { extent: *extent, from: (from - extent.first) as usize, count });
        total += count;
    }
    (parts, total)
}

/// The entries of `slice`, which begins at queue offset `base`, within `first..end`.
fn overlap(slice: &[Entry], base: u64, first: u64, end: u64) -> &[Entry] {
    let index = |offset: u64| (offset.saturating_sub(base) as usize).min(slice.len());
    &slice[index(first)..index(end).max(index(first))]
}
