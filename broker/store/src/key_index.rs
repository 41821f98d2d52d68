//! Finds records by key: hashes of keys with the log offsets of their records, the newest in memory, the rest in sorted, immutable *runs* on disk that are
//! merged as they grow many. Everything here can be rebuilt from the log. See `FORMAT.md`.
//!
//! A hit is a hint: hashes collide, and a run knows the times of its records only roughly. The caller looks at the record itself.

mod merge;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use run::DIR;
use run::{Run, RunWriter};
use sluice_env::{
    Disk,
    sync::{Mutex, RwLock},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many entries may wait in memory before the caller should [`KeyIndex::flush_run`].
pub const PENDING_MAX: usize = 256 * 1024;
/// Entries of a block: what a lookup scans under the lock that the writer needs, at most.
const BLOCK_ENTRIES: usize = 4096;
const MAGIC: u32 = u32::from_be_bytes(*b"SLKI");
const VERSION: u16 = 1;

/// Why a lookup, a flush or a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum KeyIndexError {
    /// Bytes are not what was written. The caller drops the key index and dispatches the log again.
    #[error("the key index is damaged ({what}: {reason}); drop it and rebuild it from the commit log")]
    Damaged {
        /// The run, or `snapshot`.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    #[error("the key index cannot reach its files: {0}")]
    Disk(#[from] io::Error),
}

impl KeyIndexError {
    fn damaged(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), reason: reason.into() }
    }
}

/// The hash under which a key of a topic is indexed.
#[must_use]
pub fn hash_key(topic: &str, key: &str) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(topic.as_bytes());
    hasher.update(&[1]);
    hasher.update(key.as_bytes());
    hasher.digest()
}

/// The hash of a key and the log offset of a record that has it; sorts as runs do.
type Pair = (u64, u64);

/// Entries in the order they were pushed, and the span of their store timestamps.
#[derive(Clone)]
struct Block {
    pairs: Vec<Pair>,
    min_ms: i64,
    max_ms: i64,
}

impl Default for Block {
    fn default() -> Self {
        Self { pairs: Vec::new(), min_ms: i64::MAX, max_ms: i64::MIN }
    }
}

impl Block {
    fn collect(&self, hash: u64, begin_ms: i64, end_ms: i64, max: usize, found: &mut Vec<u64>) {
        if self.max_ms >= begin_ms && self.min_ms <= end_ms {
            found.extend(self.pairs.iter().rev().filter(|pair| pair.0 == hash).take(max).map(|pair| pair.1));
        }
    }
}

/// What is in memory.
#[derive(Default)]
struct Hot {
    /// Being written as a run.
    flushing: Vec<Arc<Block>>,
    /// Full blocks, oldest first.
    full: Vec<Arc<Block>>,
    active: Block,
}

/// Files that go when a checkpoint without them is durable.
#[derive(Default)]
struct Upkeep {
    next_number: u64,
    retired: Vec<Arc<Run>>,
    sealed: Vec<Arc<Run>>,
    dir_dirty: bool,
    /// Entries of records below are dropped when runs are merged.
    min_log: u64,
}

/// Log offsets by key.
pub struct KeyIndex {
    disk: Arc<dyn Disk>,
    hot: Mutex<Hot>,
    /// Oldest first. Readers take the list and leave the lock.
    runs: RwLock<Arc<Vec<Arc<Run>>>>,
    /// Held while runs are written, merged or dropped; taken before the other locks.
    upkeep: Mutex<Upkeep>,
    /// Everything below is in runs that were restored; dispatching it again adds nothing.
    covered: AtomicU64,
    /// Whether a sync has failed: which bytes are on disk is unknown from then on. Held while one runs.
    sync_failed: Mutex<bool>,
}

impl KeyIndex {
    /// An index without entries; runs left by an earlier one are removed.
    pub fn new(disk: Arc<dyn Disk>) -> io::Result<Self> {
        disk.create_dir(DIR)?;
        let index = Self::of(disk, Vec::new(), 0);
        index.remove_orphans()?;
        Ok(index)
    }

    fn of(disk: Arc<dyn Disk>, runs: Vec<Arc<Run>>, next_number: u64) -> Self {
        let covered = runs.iter().map(|run| run.meta.last).max().unwrap_or(0);
        let upkeep = Upkeep { next_number, dir_dirty: true, ..Upkeep::default() };
        Self {
            disk,
            hot: Mutex::default(),
            runs: RwLock::new(Arc::new(runs)),
            upkeep: Mutex::new(upkeep),
            covered: AtomicU64::new(covered),
            sync_failed: Mutex::new(false),
        }
    }

    fn remove_orphans(&self) -> io::Result<()> {
        let runs = self.runs();
        for file in self.disk.list(DIR)? {
            let path = format!("{DIR}/{file}");
            if !runs.iter().any(|run| run.name == path) {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    fn runs(&self) -> Arc<Vec<Arc<Run>>> {
        self.runs.read().clone()
    }

    /// How many runs there are; each is an open file.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs().len()
    }

    /// Adds an entry. For the one writer only, in rising order of log offsets; what a restored run covers already is skipped.
    pub fn push(&self, hash: u64, log_offset: u64, store_ms: i64) {
        if log_offset < self.covered.load(Ordering::Relaxed) {
            return;
        }
        let mut hot = self.hot.lock();
        let active = &mut hot.active;
        active.pairs.push((hash, log_offset));
        active.min_ms = active.min_ms.min(store_ms);
        active.max_ms = active.max_ms.max(store_ms);
        if active.pairs.len() == BLOCK_ENTRIES {
            let full = std::mem::take(active);
            hot.full.push(Arc::new(full));
        }
    }

    /// Entries in memory that no flush has taken yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        let hot = self.hot.lock();
        hot.full.len() * BLOCK_ENTRIES + hot.active.pairs.len()
    }

    /// Writes what is in memory as a run, and merges runs where eight of a size have gathered. Slow: not for the writer's thread, which may push meanwhile.
    /// After an error the entries are still found, and the next flush tries again.
    pub fn flush_run(&self) -> Result<(), KeyIndexError> {
        let mut upkeep = self.upkeep.lock();
        self.flush(&mut upkeep)?;
        self.merge_where_due(&mut upkeep)
    }

    /// Like [`Self::flush_run`], but leaves the merging to the next one: for a moment in which others wait, right after a `flush_run` has done most of the work.
    pub fn flush_run_only(&self) -> Result<(), KeyIndexError> {
        self.flush(&mut self.upkeep.lock())
    }

    fn flush(&self, upkeep: &mut Upkeep) -> Result<(), KeyIndexError> {
        let blocks = {
            let mut hot = self.hot.lock();
            let mut blocks = std::mem::take(&mut hot.full);
            let active = std::mem::take(&mut hot.active);
            blocks.extend((!active.pairs.is_empty()).then(|| Arc::new(active)));
            hot.flushing.clone_from(&blocks);
            blocks
        };
        if !blocks.is_empty() {
            let result = self.write_run(upkeep, &blocks);
            let mut hot = self.hot.lock();
            let unwritten = std::mem::take(&mut hot.flushing);
            match result {
                Ok(run) => self.replace_runs(|runs| runs.push(run)),
                Err(error) => {
                    let newer = std::mem::replace(&mut hot.full, unwritten);
                    hot.full.extend(newer);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn write_run(&self, upkeep: &mut Upkeep, blocks: &[Arc<Block>]) -> io::Result<Arc<Run>> {
        let mut pairs: Vec<Pair> = blocks.iter().flat_map(|block| &block.pairs).copied().collect();
        pairs.sort_unstable();
        pairs.dedup();
        let first = pairs.iter().map(|pair| pair.1).min().unwrap_or(0);
        let last = pairs.iter().map(|pair| pair.1).max().unwrap_or(0);
        let times = (blocks.iter().map(|block| block.min_ms).min().unwrap_or(0), blocks.iter().map(|block| block.max_ms).max().unwrap_or(0));
        let mut writer = self.run_writer(upkeep, 0, (first, last))?;
        let written = pairs.into_iter().try_for_each(|pair| writer.push(pair)).and_then(|()| writer.finish(times));
        self.unless_failed(written, &writer)
    }

    fn run_writer(&self, upkeep: &mut Upkeep, tier: u8, span: (u64, u64)) -> io::Result<RunWriter> {
        upkeep.next_number += 1;
        upkeep.dir_dirty = true;
        RunWriter::create(&*self.disk, tier, span, upkeep.next_number)
    }

    /// Removes the file of a run that could not be written to its end.
    fn unless_failed<E>(&self, written: Result<Run, E>, writer: &RunWriter) -> Result<Arc<Run>, E> {
        written.map(Arc::new).inspect_err(|_| {
            // If this fails too, the file is an orphan, which the next restart removes.
            let _ = self.disk.remove(writer.name());
        })
    }

    fn replace_runs(&self, change: impl FnOnce(&mut Vec<Arc<Run>>)) {
        let mut runs = self.runs.write();
        change(Arc::make_mut(&mut runs));
    }

    /// Adds to `out` the log offsets, newest first, of up to `max` records that may have the key and may have been stored within `begin_ms..=end_ms`.
    pub fn lookup(&self, hash: u64, begin_ms: i64, end_ms: i64, max: usize, out: &mut Vec<u64>) -> Result<(), KeyIndexError> {
        let mut found = Vec::new();
        // Memory first: a flush that ends meanwhile makes entries be found twice rather than not at all.
        let blocks: Vec<Arc<Block>> = {
            let hot = self.hot.lock();
            hot.active.collect(hash, begin_ms, end_ms, max, &mut found);
            hot.full.iter().rev().chain(hot.flushing.iter().rev()).cloned().collect()
        };
        blocks.iter().for_each(|block| block.collect(hash, begin_ms, end_ms, max, &mut found));
        newest_first(&mut found, max);
        for run in self.runs().iter().rev().filter(|run| run.meta.max_ms >= begin_ms && run.meta.min_ms <= end_ms) {
            if found.len() >= max {
                break;
            }
            run.collect(hash, max, &mut found)?;
            newest_first(&mut found, max);
        }
        out.append(&mut found);
        Ok(())
    }

    /// Gives up runs whose records all lie below `min_log_offset`. Their files go at the next [`Self::checkpoint_durable`] after a snapshot.
    pub fn trim(&self, min_log_offset: u64) -> io::Result<()> {
        let mut upkeep = self.upkeep.lock();
        upkeep.min_log = upkeep.min_log.max(min_log_offset);
        self.replace_runs(|runs| {
            runs.retain(|run| {
                let keep = run.meta.last >= min_log_offset;
                if !keep {
                    upkeep.retired.push(run.clone());
                }
                keep
            });
        });
        Ok(())
    }

    /// The log turned out to end at `log_offset`: what is appended from there on is indexed, though a restored run reaches further. Entries of the records that
    /// are gone stay; they are hints that lead nowhere, as the caller finds out.
    pub fn truncate_above_log(&self, log_offset: u64) {
        self.covered.fetch_min(log_offset, Ordering::Relaxed);
    }

    /// Puts all runs on stable storage. Once this has failed it fails for good: which bytes reached the disk is unknown until a restart.
    pub fn sync(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(io::Error::other("an earlier sync of the key index failed; restart the broker to recover"));
        }
        let result = self.sync_files();
        *failed = result.is_err();
        result
    }

    fn sync_files(&self) -> io::Result<()> {
        for run in self.runs().iter() {
            run.sync()?;
        }
        let dir_dirty = std::mem::take(&mut self.upkeep.lock().dir_dirty);
        if dir_dirty { self.disk.change_names(DIR, || Ok(())) } else { Ok(()) }
    }

    /// Appends the list of runs to `out`: what is in memory is not part of it. Call [`Self::flush_run`] before, [`Self::sync`] after, and
    /// [`Self::checkpoint_durable`] once the snapshot itself is durable.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let mut upkeep = self.upkeep.lock();
        let upkeep = &mut *upkeep;
        let runs = self.runs();
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&upkeep.next_number.to_be_bytes());
        out.extend_from_slice(&(runs.len() as u32).to_be_bytes());
        for run in runs.iter() {
            out.extend_from_slice(&run.number.to_be_bytes());
            run.meta.encode(out);
        }
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
        upkeep.sealed.append(&mut upkeep.retired);
    }

    /// The index as a snapshot has it. Run files it does not name are removed. The contents of runs are checked as lookups come upon them.
    pub fn restore(disk: Arc<dyn Disk>, bytes: &[u8]) -> Result<Self, KeyIndexError> {
        disk.create_dir(DIR)?;
        let (next_number, listed) = decode_snapshot(bytes).ok_or_else(|| KeyIndexError::damaged("snapshot", "it is not what was written"))?;
        let runs = listed.into_iter().map(|(number, meta)| Run::open(&*disk, number, meta).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let index = Self::of(disk, runs, next_number);
        index.remove_orphans()?;
        Ok(index)
    }

    /// Removes files that only the snapshot before the last [`Self::snapshot`] needed; call it once that last one is durable, and never otherwise.
    pub fn checkpoint_durable(&self) {
        let mut upkeep = self.upkeep.lock();
        for run in std::mem::take(&mut upkeep.sealed) {
            upkeep.dir_dirty = true;
            if let Err(error) = self.disk.remove(&run.name) {
                tracing::warn!(run = run.name, %error, "a run of the key index that is not needed any more could not be removed; the next restart removes it");
            }
        }
    }
}

fn newest_first(found: &mut Vec<u64>, max: usize) {
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup();
    found.truncate(max);
}

/// The next run's number, and the runs by number. `None` for anything [`KeyIndex::snapshot`] has not written.
fn decode_snapshot(bytes: &[u8]) -> Option<(u64, Vec<(u64, run::Meta)>)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let (magic, body) = body.split_first_chunk::<4>().filter(|_| crc32fast::hash(body) == u32::from_be_bytes(*crc))?;
    let (version, body) = body.split_first_chunk::<2>()?;
    if u32::from_be_bytes(*magic) != MAGIC || u16::from_be_bytes(*version) != VERSION {
        return None;
    }
    let (next_number, body) = body.split_first_chunk::<8>()?;
    let (count, body) = body.split_first_chunk::<4>()?;
    let (listed, rest) = body.as_chunks::<{ 8 + run::META_BYTES }>();
    if !rest.is_empty() || listed.len() != u32::from_be_bytes(*count) as usize {
        return None;
    }
    let next_number = u64::from_be_bytes(*next_number);
    let one = |entry: &[u8; 8 + run::META_BYTES]| {
        let (number, meta) = entry.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        Some((number, run::Meta::decode(meta)?)).filter(|_| number <= next_number)
    };
    Some((next_number, listed.iter().map(one).collect::<Option<Vec<_>>>()?))
}
