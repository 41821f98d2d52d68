//! The commit log: a row of segments, one tail. Only the holder of [`Tail`] appends.

use crate::{
    AppendError, ReadError,
    segment::{self, Segment},
    watermarks::Watermarks,
};
use bytes::Bytes;
use sluice_env::{
    Disk, File, broken,
    sync::{Mutex, RwLock},
};
use sluice_protocol::record;
use sluice_types::CommitLogOffset;
use std::{io, sync::Arc};

/// The readable log.
pub(crate) struct CommitLog {
    disk: Arc<dyn Disk>,
    pub(crate) segment_bytes: u64,
    segments: RwLock<Vec<Arc<Segment>>>,
    pub(crate) marks: Watermarks,
    /// Files with writes since the last sync, oldest first.
    unsynced: Mutex<Vec<Arc<dyn File>>>,
    /// One sync at a time, so that `flushed` advances in order; after a failed one its words: the kernel has marked the lost pages clean, and a second try would
    /// succeed without having written them.
    syncing: Mutex<Option<String>>,
    /// Zeros written ahead in a segment that is made at once, at start or when preparation was too slow.
    prewritten_bytes: u64,
}

/// The writer's end of the log.
pub(crate) struct Tail {
    file: Arc<dyn File>,
    pub(crate) segment: Arc<Segment>,
    /// Where the next record goes.
    pub(crate) offset: u64,
}

impl CommitLog {
    /// A log of these segments (ascending, without holes) whose end is `tail`.
    pub(crate) fn new(disk: Arc<dyn Disk>, segment_bytes: u64, prewritten_bytes: u64, segments: Vec<Arc<Segment>>, marks: Watermarks) -> Self {
        Self { disk, segment_bytes, segments: RwLock::new(segments), marks, unsynced: Mutex::new(Vec::new()), syncing: Mutex::new(None), prewritten_bytes }
    }

    /// Most bytes that are appended in one piece: with half a segment at most, a roll leaves no more than half a segment empty.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX)
    }

    /// The writer's end, on the segment that holds the tail; a new segment when the tail is at a segment's end.
    pub(crate) fn tail(&self) -> io::Result<Tail> {
        let offset = self.marks.appended().0;
        match self.find(offset) {
            Some(segment) => {
                let file = self.disk.open(&segment::name(segment.base), sluice_env::OpenMode::Write)?;
                Ok(Tail { file, segment, offset })
            }
            None => self.add_segment(offset),
        }
    }

    fn add_segment(&self, base: u64) -> io::Result<Tail> {
        let file = segment::create(&*self.disk, base, self.segment_bytes, self.prewritten_bytes.min(self.segment_bytes))?;
        let segment = Arc::new(Segment::new(base, self.segment_bytes, file.clone())?);
        self.segments.write().push(segment.clone());
        Ok(Tail { file, segment, offset: base })
    }

    /// Makes sure that `bytes` fit at the tail, with a new segment when they don't, before anything of a batch is placed. `reserve` bytes of the last segment
    /// stay free for those who ask with a smaller reserve when no further segment can be made.
    pub(crate) fn make_room(&self, tail: &mut Tail, bytes: usize, reserve: usize) -> Result<(), AppendError> {
        if self.fits(tail, bytes, reserve) {
            return Ok(());
        }
        self.next_segment(tail)
    }

    /// Fills up the segment and goes on in the next.
    pub(crate) fn next_segment(&self, tail: &mut Tail) -> Result<(), AppendError> {
        self.roll(tail).map_err(|error| match error {
            RollError::NoSpace(e) => AppendError::DiskFull(e.to_string()),
            RollError::Broken(e) => AppendError::Poisoned(e.to_string()),
        })
    }

    /// Whether `bytes` and the `reserve` fit behind the tail without a roll.
    pub(crate) fn fits(&self, tail: &Tail, bytes: usize, reserve: usize) -> bool {
        tail.offset + (bytes + record::PREFIX_BYTES + reserve) as u64 <= tail.segment.end()
    }

    fn roll(&self, tail: &mut Tail) -> Result<(), RollError> {
        // The new segment first: when there is no space for it, the old one must stay as it is, open for the reserve.
        let next = self.add_segment(tail.segment.end()).map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RollError::NoSpace(e),
            _ => RollError::Broken(e),
        })?;
        let rest = tail.segment.end() - tail.offset;
        if rest > 0 {
            let mut filler = record::blank(rest as u32).to_vec();
            filler.truncate(rest as usize);
            self.write(tail, &filler).map_err(RollError::Broken)?;
        }
        self.marks.advance_appended(next.offset);
        *tail = next;
        Ok(())
    }

    /// Writes bytes at the tail's place without moving it.
    ///
    /// The file is noted as unsynced after the write and before the new end is published. Noted before the write, a flush on another thread could take the note, sync
    /// the file without these bytes, and leave the next flush nothing to sync: it would call them flushed.
    fn write(&self, tail: &Tail, bytes: &[u8]) -> io::Result<()> {
        tail.file.write_all_at(bytes, tail.offset - tail.segment.base)?;
        let mut unsynced = self.unsynced.lock();
        if !unsynced.iter().any(|f| Arc::ptr_eq(f, &tail.file)) {
            unsynced.push(tail.file.clone());
        }
        Ok(())
    }

    /// Appends sealed records and publishes the new end. After an error the log must be given up: part of the bytes may be in the file.
    pub(crate) fn append(&self, tail: &mut Tail, bytes: &[u8]) -> io::Result<()> {
        assert!(tail.offset + bytes.len() as u64 <= tail.segment.end(), "append without room");
        self.write(tail, bytes)?;
        tail.offset += bytes.len() as u64;
        self.marks.advance_appended(tail.offset);
        Ok(())
    }

    /// Puts everything appended before the call on stable storage and publishes it as flushed. After an error nothing may be acknowledged any more.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut failed = self.syncing.lock();
        if let Some(what) = &*failed {
            return Err(io::Error::other(what.clone()));
        }
        let target = self.marks.appended();
        if self.marks.flushed() >= target {
            return Ok(());
        }
        let files = std::mem::take(&mut *self.unsynced.lock());
        for file in files.iter().filter(|_| !broken("an ack before the flush")) {
            if let Err(e) = file.sync_data()
                && !broken("a failed sync is taken for a good one")
            {
                *failed = Some(e.to_string());
                return Err(e);
            }
        }
        self.marks.advance_flushed(target.0);
        Ok(())
    }

    fn find(&self, offset: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let i = segments.partition_point(|s| s.end() <= offset);
        segments.get(i).filter(|s| s.base <= offset).cloned()
    }

    /// The segment of an offset that has been appended.
    pub(crate) fn segment_of(&self, offset: u64) -> Result<Arc<Segment>, ReadError> {
        let written = offset < self.marks.appended().0;
        self.find(offset).filter(|_| written).ok_or(ReadError::NotFound(CommitLogOffset(offset)))
    }

    /// The bytes of the record at `offset`: whole, not yet checked.
    pub(crate) fn record_bytes(&self, offset: u64) -> Result<Bytes, ReadError> {
        let segment = self.segment_of(offset)?;
        let damaged = ReadError::Corrupt(CommitLogOffset(offset));
        let head = segment.slice(offset, record::PREFIX_BYTES).map_err(|_| damaged.clone())?;
        match record::prefix(&head) {
            record::Prefix::Record(size) => segment.slice(offset, size).map_err(|_| damaged),
            record::Prefix::Blank(_) => Err(ReadError::NotFound(CommitLogOffset(offset))),
            record::Prefix::Nothing => Err(damaged),
        }
    }

    /// How much of the last segment is filled.
    pub(crate) fn filled(&self) -> u64 {
        let base = self.segments.read().last().map_or(0, |segment| segment.base);
        self.marks.appended().0.saturating_sub(base)
    }

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    /// Removes whole segments below `min`; one file at most is kept for recycling. The caller has made sure that nothing durable refers to them.
    pub(crate) fn remove_below(&self, min: u64) -> io::Result<()> {
        let gone: Vec<Arc<Segment>> = {
            let mut segments = self.segments.write();
            let n = segments.iter().take_while(|s| s.end() <= min).count();
            segments.drain(..n).collect()
        };
        let removed = !gone.is_empty();
        for (i, segment) in gone.into_iter().enumerate() {
            let base = segment.base;
            if i == 0 && segment.into_unread() {
                segment::recycle(&*self.disk, base)?;
            } else {
                self.disk.remove(&segment::name(base))?;
            }
        }
        if removed { self.disk.change_names(segment::DIRECTORY, || Ok(())) } else { Ok(()) }
    }
}

enum RollError {
    NoSpace(io::Error),
    Broken(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::sim::{self, HookedDisk, Op};
    use std::sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    };

    const SEGMENT_BYTES: u64 = 64 << 10;

    #[test]
    fn bytes_that_a_flush_on_another_thread_has_missed_are_synced_before_they_count_as_flushed() {
        let (env, disk, _clock) = sim::env(1);
        env.disk.create_dir(segment::DIRECTORY).expect("made");
        let armed = Arc::new(AtomicBool::new(false));
        let log = Arc::new_cyclic(|log: &Weak<CommitLog>| {
            let (log, armed) = (log.clone(), armed.clone());
            // Another thread's flush, at the worst moment: when a write has begun and its bytes are not there yet.
            let flush = move |op, _: &str| match op == Op::Write && armed.swap(false, Ordering::SeqCst) {
                true => log.upgrade().expect("the log lives").flush(),
                false => Ok(()),
            };
            CommitLog::new(Arc::new(HookedDisk::new(env.disk.clone(), flush)), SEGMENT_BYTES, 0, Vec::new(), Watermarks::new(0, 0, u64::MAX))
        });
        let mut tail = log.add_segment(0).expect("made");
        log.append(&mut tail, &[1; 600]).expect("written");
        armed.store(true, Ordering::SeqCst);
        log.append(&mut tail, &[2; 600]).expect("written");
        log.flush().expect("synced");
        assert_eq!(log.marks.flushed().0, 1200);
        for seed in 0..20 {
            let after = disk.crash(seed).file_bytes(&segment::name(0)).expect("there");
            assert!(after[600..1200] == [2; 600], "flushed bytes are gone after power cut {seed}");
        }
    }
}
