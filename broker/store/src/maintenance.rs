//! Work beside the write path: the next segment made ready, checkpoints, retention and disk space on one thread; the deadlines of waiters on another, which never touches
//! the disk.

use crate::{
    FlushMode,
    commit_log::CommitLog,
    prepare::{self, Preparing, Progress},
    recovery,
    store::Shared,
};
use sluice_env::{
    Monotonic,
    sync::{Condvar, Mutex},
};
use sluice_protocol::record::RecordView;
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

const TICK: Duration = Duration::from_millis(100);
/// Between two pieces of the next segment, in which the log's own syncs have the disk.
const BETWEEN_PIECES: Duration = Duration::from_millis(2);
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// How often the pages mapped by readers are given back.
const RELEASE_EVERY: Duration = Duration::from_secs(2);
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// A store that has had so much log to read when it was opened writes a checkpoint so long after that: the next opening may come soon, as in a chain of switchovers, and is
/// to find less. Not at once, for then its clients have just waited for it.
const MUCH_READ_BYTES: u64 = 8 << 20;
const CHECKPOINT_AFTER_MUCH_READ: Duration = Duration::from_secs(1);
/// Queue entries kept in memory before they go to the index files.
const ENTRIES_IN_MEMORY_MAX: usize = 512 << 10;
/// Keys kept in memory before they become a run.
const KEYS_IN_MEMORY_MAX: usize = 256 << 10;

/// What the thread is told, and what it tells.
pub(crate) struct Maintenance {
    state: Mutex<State>,
    changed: Condvar,
    prepared: AtomicBool,
    abandoned: AtomicBool,
    checkpointed: AtomicU64,
}

#[derive(Default)]
struct State {
    woken: bool,
    stopped: bool,
    /// How many segments have been begun.
    begun: u64,
}

impl Maintenance {
    pub(crate) fn new(checkpointed: u64) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            prepared: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            checkpointed: checkpointed.into(),
        }
    }

    /// Tells that a segment was begun, so that the next is made ready.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.woken = true;
        state.begun += 1;
        self.prepared.store(false, Ordering::SeqCst);
        drop(state);
        self.changed.notify_all();
    }

    fn begun(&self) -> u64 {
        self.state.lock().begun
    }

    /// The next segment was ready when so many had been begun; whether it still is if one more has been is seen at the next look.
    fn note_prepared(&self, begun: u64) {
        let state = self.state.lock();
        if state.begun == begun {
            self.prepared.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Ends without a last flush or checkpoint, as a kill would.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Whether the next segment is ready, so that the end of this one need not be kept free.
    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared.load(Ordering::SeqCst)
    }

    pub(crate) fn note_checkpoint(&self, log_offset: u64) {
        self.checkpointed.store(log_offset, Ordering::SeqCst);
    }

    /// A tick; false when it is the last.
    pub(crate) fn tick(&self) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            self.changed.wait_for(&mut state, TICK);
        }
        !state.stopped
    }

    fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.woken && !state.stopped && !timeout.is_zero() {
            self.changed.wait_for(&mut state, timeout);
        }
        state.woken = false;
        !state.stopped
    }
}

struct Timers {
    space: Monotonic,
    release: Monotonic,
    retention: Monotonic,
    checkpoint: Monotonic,
    checkpoint_after: Duration,
}

impl Shared {
    /// Everything is due so and so long after the store was opened, however late the thread begins.
    pub(crate) fn maintenance_thread(&self, opened: Monotonic) {
        let interval = self.options.checkpoint_interval;
        let checkpoint_after = if self.not_checkpointed() > MUCH_READ_BYTES { interval.min(CHECKPOINT_AFTER_MUCH_READ) } else { interval };
        let mut timers = Timers { space: opened, release: opened, retention: opened, checkpoint: opened, checkpoint_after };
        let (mut preparing, mut pause) = (None, TICK);
        while self.maintenance.wait(pause) {
            pause = self.maintain(&mut timers, &mut preparing);
        }
        if self.maintenance.is_abandoned() {
            return;
        }
        // A planned stop: the writer has drained by now or is about to; the checkpoint flushes what there is.
        while self.writer.queued_bytes() > 0 && !self.writer.is_poisoned.load(Ordering::SeqCst) {
            self.writer_turn();
        }
        self.flush_and_release();
        self.try_checkpoint();
    }

    /// A disk that hangs must not keep anybody from the answer that it hangs.
    pub(crate) fn deadlines_thread(&self) {
        while self.maintenance.tick() {
            self.release_unconfirmed();
            self.expire_waiters();
        }
    }

    /// Does what is due, and says when to look again.
    fn maintain(&self, timers: &mut Timers, preparing: &mut Option<Preparing>) -> Duration {
        let now = self.env.clock.monotonic();
        if now.since(timers.space) >= SPACE_EVERY {
            timers.space = now;
            self.watch_space();
        }
        if now.since(timers.release) >= RELEASE_EVERY {
            timers.release = now;
            self.log.segments().iter().for_each(|s| s.release_pages());
        }
        let pause = match !self.maintenance.is_prepared() && self.disk_full.lock().is_none() {
            true => self.prepare_segment(preparing),
            false => TICK,
        };
        if self.queues.in_memory_entries() > ENTRIES_IN_MEMORY_MAX
            && let Err(e) = self.queues.spill()
        {
            tracing::warn!(error = %e, "the queue index could not be written; it stays in memory");
        }
        if self.keys.pending() > KEYS_IN_MEMORY_MAX
            && let Err(e) = self.keys.flush_run()
        {
            tracing::warn!(error = %e, "the key index could not be written; it stays in memory");
        }
        let ahead = self.not_checkpointed();
        if ahead >= self.options.checkpoint_bytes || (ahead > 0 && now.since(timers.checkpoint) >= timers.checkpoint_after) {
            (timers.checkpoint, timers.checkpoint_after) = (now, self.options.checkpoint_interval);
            self.try_checkpoint();
        }
        if now.since(timers.retention) >= RETENTION_EVERY {
            timers.retention = now;
            if let Err(e) = self.retain() {
                tracing::warn!(error = %e, "old segments could not be removed; they are tried again");
            }
        }
        pause
    }

    /// Bytes of log that the next opening would read.
    fn not_checkpointed(&self) -> u64 {
        let appended = self.log.marks.appended().0;
        appended - self.maintenance.checkpointed.load(Ordering::SeqCst).min(appended)
    }

    fn try_checkpoint(&self) {
        if self.writer.is_poisoned.load(Ordering::SeqCst) {
            return;
        }
        if let Err(e) = self.checkpoint() {
            tracing::warn!(error = %e, "no checkpoint could be written; recovery will read more of the log");
        }
    }

    fn prepare_segment(&self, preparing: &mut Option<Preparing>) -> Duration {
        let (prewrite, begun) = (self.options.flush == FlushMode::Sync, self.maintenance.begun());
        match prepare::step(preparing, &*self.env.disk, self.log.segment_bytes, prewrite, self.log.filled()) {
            Ok(Progress::Ready) => self.maintenance.note_prepared(begun),
            Ok(Progress::Behind { by_much: true }) => return Duration::ZERO,
            Ok(Progress::Behind { by_much: false }) => return BETWEEN_PIECES,
            Ok(Progress::Ahead) => {}
            Err(e) => tracing::debug!(error = %e, "the next segment could not be made ready"),
        }
        TICK
    }

    /// Refuses writes before the disk is full, and takes them again as soon as there is space.
    fn watch_space(&self) {
        let Ok((free, total)) = self.env.disk.space() else { return };
        let used = if total == 0 { 0.0 } else { 1.0 - free as f64 / total as f64 };
        let over = used > self.options.disk_used_ratio_max;
        let mut full = self.disk_full.lock();
        if over && full.is_none() {
            let why = format!("{:.1} % of the file system is in use, writes are refused above {:.1} %", used * 100.0, self.options.disk_used_ratio_max * 100.0);
            tracing::warn!(reason = why, "writes are refused");
            *full = Some(why);
        } else if !over && full.is_some() {
            // Also after a segment could not be made: the next append tries again, and says so if it still can't.
            tracing::info!("writes are taken again");
            *full = None;
        }
    }

    /// Removes segments that are too old or too many, never the last, and only what a durable checkpoint no longer refers to.
    pub(crate) fn retain(&self) -> std::io::Result<()> {
        if let Some(min) = self.retention_min() {
            self.log.marks.advance_min(min);
            recovery::trim_epochs(&mut self.meta.lock(), min);
            self.queues.trim_below_log(min)?;
            self.keys.trim(min)?;
        }
        // Also what is left of a turn whose checkpoint failed.
        let min = self.log.marks.min().0;
        if self.log.segments().first().is_none_or(|segment| segment.end() > min) {
            return Ok(());
        }
        self.checkpoint()?;
        self.log.remove_below(min)
    }

    fn retention_min(&self) -> Option<u64> {
        let segments = self.log.segments();
        let flushed = self.log.marks.flushed().min(self.log.marks.confirmed()).0;
        let oldest_kept = self.env.clock.wall().0 - i64::try_from(self.options.retention_age.as_millis()).unwrap_or(i64::MAX);
        let end = self.log.marks.appended().0;
        let held_from = if self.disk_full.lock().is_some() { u64::MAX } else { self.held_from.load(Ordering::SeqCst) };
        let mut min = None;
        for pair in segments.windows(2) {
            let next = &pair[1];
            if next.base > flushed.min(held_from) {
                break;
            }
            // Times never go back in the log: the next segment's first record is younger than everything here.
            let old = first_timestamp(&self.log, next.base).is_some_and(|ms| ms < oldest_kept);
            let many = self.options.retention_bytes.is_some_and(|most| end - next.base >= most);
            if !old && !many {
                break;
            }
            min = Some(next.base);
        }
        min.filter(|min| *min > self.log.marks.min().0)
    }
}

fn first_timestamp(log: &CommitLog, base: u64) -> Option<i64> {
    let bytes = log.record_bytes(base).ok()?;
    RecordView::checked(&bytes).ok().map(|view| view.store_timestamp())
}
