//! One store directory, opened.

use crate::{
    AppendError, Batch, Done, FlushMode, Hooks, Latency, MetaChange, MetaTable, Placed, Wait,
    checkpoint::{Checkpoint, Loaded, Meta},
    commit_log::CommitLog,
    flush_mark::FlushMark,
    follow::Progress,
    key_index::KeyIndex,
    maintenance::Maintenance,
    queue_index::{QueueIndex, QueueRef},
    recovery::{self, OpenError, RecoveryProgress},
    unconfirmed::{Lost, Unconfirmed},
    writer::Writer,
};
use sluice_env::{
    Env, JoinHandle,
    sync::{Mutex, RwLock, ThreadFlag, oneshot},
};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset, Topic};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of a segment. Fixed when the directory is made; a later change has no effect on it.
    pub segment_bytes: u64,
    /// When a record counts as stored.
    pub flush: FlushMode,
    /// Longest wait for a flush, and for the confirmation, before the append is answered with [`AppendError::Late`].
    pub flush_deadline: Duration,
    /// Whether a record counts as stored only when it is confirmed too (see [`Store::confirm`]). Nothing that was not confirmed when the directory was last open is
    /// shown before it is.
    pub replicated: bool,
    /// Most bytes of a replicated log that may lie between what is confirmed and what is acknowledged unconfirmed, see [`Rule`](crate::Rule).
    pub unconfirmed_bytes_max: u64,
    /// Longest time for which anything may have been unconfirmed while more is acknowledged unconfirmed.
    pub unconfirmed_age_max: Duration,
    /// Age after which a segment is removed.
    pub retention_age: Duration,
    /// Bytes of log beyond which the oldest segments are removed whatever their age.
    pub retention_bytes: Option<u64>,
    /// Most bytes that may wait for the writer.
    pub append_queue_bytes_max: usize,
    /// Share of the file system in use (0 to 1) from which on writes are refused.
    pub disk_used_ratio_max: f64,
    /// Bytes of log after which a checkpoint is written: what recovery has to read at most.
    pub checkpoint_bytes: u64,
    /// Time after which a checkpoint is written when anything changed.
    pub checkpoint_interval: Duration,
    /// Whether messages can be found by key.
    pub key_index: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 128 << 20,
            flush: FlushMode::Async { interval: Duration::from_millis(500) },
            flush_deadline: Duration::from_secs(5),
            replicated: false,
            unconfirmed_bytes_max: 64 << 20,
            unconfirmed_age_max: Duration::from_secs(5),
            retention_age: Duration::from_secs(72 * 3600),
            retention_bytes: None,
            append_queue_bytes_max: 64 << 20,
            disk_used_ratio_max: 0.95,
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(30),
            key_index: true,
        }
    }
}

/// How a store is doing.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// End of what is written.
    pub appended: CommitLogOffset,
    /// End of what survives a power cut.
    pub flushed: CommitLogOffset,
    /// Begin of what is still there.
    pub min: CommitLogOffset,
    /// Why writes are refused, if they are.
    pub writable: Result<(), String>,
    /// The failure that stopped the log, if one has.
    pub poisoned: Option<String>,
    /// Bytes left on the file system.
    pub disk_free_bytes: u64,
    /// Bytes of the file system.
    pub disk_total_bytes: u64,
    /// Bytes between min and appended.
    pub log_bytes: u64,
    /// Segments.
    pub segments: usize,
    /// Queues.
    pub queues: usize,
    /// Bytes that wait for the writer.
    pub queued_bytes: usize,
    /// Records appended since the start.
    pub appended_records: u64,
    /// Bytes appended since the start.
    pub appended_bytes: u64,
    /// How long flushes to stable storage took.
    pub flush_latency: Latency,
    /// How long records waited from their hand-over until they were written to the log, one duration a batch.
    pub append_latency: Latency,
    /// Turns of the writer since the start.
    pub turns: u64,
}

/// What all threads of a store share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) options: StoreOptions,
    pub(crate) log: CommitLog,
    pub(crate) writer: Writer,
    pub(crate) queues: QueueIndex,
    pub(crate) keys: KeyIndex,
    pub(crate) flush_mark: FlushMark,
    pub(crate) meta: Mutex<Meta>,
    pub(crate) disk_full: Mutex<Option<String>>,
    pub(crate) maintenance: Maintenance,
    /// One checkpoint at a time: each gives files their names, and lets go of what the one before has needed.
    checkpointing: Mutex<()>,
    pub(crate) progress: Progress,
    pub(crate) unconfirmed: Unconfirmed,
    lost: Lost,
    /// Retention leaves what lies at or above it; all ones: nothing is held.
    pub(crate) held_from: AtomicU64,
    pub(crate) last_inherited: Mutex<Option<CommitLogOffset>>,
    hooks: RwLock<Option<Arc<Hooks>>>,
    /// The directory's lock, held as long as anything of the store lives.
    _lock: Box<dyn Send + Sync>,
}

/// An open store. Dropping it without [`Store::close`] is what a kill does: nothing acknowledged is lost, the next start has more to read.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    identity: u128,
    threads: Mutex<Vec<Box<dyn JoinHandle>>>,
}

thread_local! {
    static CORKED_KEY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether the calling thread's submits wait for the end of [`Store::corked`].
const CORKED: ThreadFlag = ThreadFlag::new(&CORKED_KEY);

impl Store {
    /// Opens the directory that `env.disk` stands for: takes its lock, recovers, starts the writer.
    pub fn open(env: Env, options: StoreOptions) -> Result<Arc<Self>, OpenError> {
        Self::open_watched(env, options, &RecoveryProgress::default())
    }

    /// The same, telling meanwhile how far it is.
    pub fn open_watched(env: Env, options: StoreOptions, progress: &RecoveryProgress) -> Result<Arc<Self>, OpenError> {
        let recovered = recovery::open(&env, &options, progress)?;
        let tail = recovered.log.tail().map_err(|e| OpenError::Disk { what: "opening the last segment".to_owned(), error: e.to_string() })?;
        let shared = Arc::new(Shared {
            writer: Writer::new(tail, recovered.newest_ms, recovered.last_record, recovered.hidden, env.clock.monotonic()),
            env,
            options,
            log: recovered.log,
            queues: recovered.queues,
            keys: recovered.keys,
            flush_mark: recovered.flush_mark,
            meta: Mutex::new(recovered.meta),
            disk_full: Mutex::new(None),
            maintenance: Maintenance::new(recovered.checkpointed),
            checkpointing: Mutex::default(),
            progress: Progress::default(),
            unconfirmed: Unconfirmed::new(recovered.unconfirmed),
            lost: recovered.lost,
            held_from: AtomicU64::new(u64::MAX),
            last_inherited: Mutex::new(recovered.last_record.map(CommitLogOffset)),
            hooks: RwLock::default(),
            _lock: recovered.lock,
        });
        let store = Self { shared, identity: recovered.identity, threads: Mutex::default() };
        store.start_threads()?;
        Ok(Arc::new(store))
    }

    fn start_threads(&self) -> Result<(), OpenError> {
        self.start("log-writer", Shared::writer_thread)?;
        self.start("log-deadlines", Shared::deadlines_thread)?;
        let opened = self.shared.env.clock.monotonic();
        self.start("log-keeper", move |shared| shared.maintenance_thread(opened))
    }

    fn start(&self, name: &str, body: impl FnOnce(&Shared) + Send + 'static) -> Result<(), OpenError> {
        let shared = self.shared.clone();
        let thread = self.shared.env.spawn.thread(name, Box::new(move || body(&shared)));
        let thread = thread.map_err(|e| OpenError::Disk { what: format!("starting the thread {name}"), error: e.to_string() })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Who this store is; made with the directory.
    #[must_use]
    pub fn identity(&self) -> u128 {
        self.identity
    }

    /// The last record that was there before this broker's own first one, when the store was opened or when its epoch began: the only one whose batch a crash, or the end
    /// of another master, may have cut short. Records that say no more than that an epoch begins do not count: who wrote them may have come no further. `None` when the log was empty, or ended with metadata that the checkpoint had taken in.
    #[must_use]
    pub fn last_inherited(&self) -> Option<CommitLogOffset> {
        *self.shared.last_inherited.lock()
    }

    /// Most bytes that one batch may have.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        self.shared.log.batch_bytes_max()
    }

    /// Keeps retention from removing what lies at `from` or above; `None` holds nothing. On a full disk retention goes on all the same: one who must free space can
    /// do no other thing.
    pub fn hold_retention(&self, from: Option<CommitLogOffset>) {
        self.shared.held_from.store(from.map_or(u64::MAX, |offset| offset.0), Ordering::SeqCst);
    }

    /// Sets what the store calls from now on, in place of what it has called so far. A call that has begun goes on to its end.
    pub fn set_hooks(&self, hooks: Hooks) {
        self.shared.replace_hooks(Some(Arc::new(hooks)));
    }

    /// From now on the store calls nothing. A call that has begun goes on to its end.
    pub fn clear_hooks(&self) {
        self.shared.replace_hooks(None);
    }

    /// A topic's queue, made when it is missing. Keep it: looking it up costs more than using it.
    #[must_use]
    pub fn queue(&self, topic: &Topic, id: QueueId) -> QueueRef {
        self.shared.queues.queue(topic, id)
    }

    /// The queues that a topic has had so far.
    #[must_use]
    pub fn queues_of(&self, topic: &str) -> Vec<QueueRef> {
        self.shared.queues.queues_of(topic)
    }

    /// Hands a batch to the log. `done` is called exactly once, perhaps before this returns.
    pub fn submit(&self, batch: Batch, wait: Wait, done: Done) {
        self.shared.enqueue(batch, wait, done);
        if !CORKED.get() {
            self.shared.drive();
        }
    }

    /// Runs `body`, whose submits on this thread go forward together at its end: the requests of one network read share one write and one sync.
    pub fn corked<T>(&self, body: impl FnOnce() -> T) -> T {
        struct Uncork(bool);
        impl Drop for Uncork {
            fn drop(&mut self) {
                CORKED.replace(self.0);
            }
        }
        let out = {
            let _uncork = Uncork(CORKED.replace(true));
            body()
        };
        if !CORKED.get() {
            self.shared.drive();
        }
        out
    }

    /// Appends and blocks until it is done: for background threads and tests, never for a thread that serves connections.
    pub fn append(&self, batch: Batch, wait: Wait) -> Result<Vec<Placed>, AppendError> {
        let (send, receive) = oneshot();
        self.submit(batch, wait, Box::new(move |result| send.send(result)));
        receive.recv().unwrap_or(Err(AppendError::Stopped))
    }

    /// A table of the metadata as it is now.
    #[must_use]
    pub fn meta(&self, table: MetaTable) -> Vec<(String, Vec<u8>)> {
        let meta = self.shared.meta.lock();
        meta.range((table, String::new())..).take_while(|((t, _), _)| *t == table).map(|((_, k), v)| (k.clone(), v.clone())).collect()
    }

    /// One value of the metadata as it is now.
    #[must_use]
    pub fn meta_value(&self, table: MetaTable, key: &str) -> Option<Vec<u8>> {
        self.shared.meta.lock().get(&(table, key.to_owned())).cloned()
    }

    /// Gives up a queue's entries below `min`, at once and for good: a record of it goes into the log before everything submitted later.
    pub fn trim_queue(&self, queue: &QueueRef, min: QueueOffset) {
        self.shared.queues.trim_queue(queue, min);
        let mut batch = Batch::new();
        let queue = format!("{} {}", queue.topic(), queue.id());
        let noted = batch.meta(&[recovery::trim_change(queue.clone(), min)]);
        debug_assert!(noted.is_ok(), "a trim is a small record");
        let done = Box::new(move |result: Result<_, AppendError>| {
            if let Err(error) = result {
                tracing::warn!(%error, queue, "that a queue was emptied could not be noted: after a crash its messages may be there again");
            }
        });
        self.submit(batch, Wait::Appended, done);
    }

    /// How the store is doing.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let s = &self.shared;
        let (min, flushed, appended) = (s.log.marks.min(), s.log.marks.flushed(), s.log.marks.appended());
        let poisoned = s.writer.poisoned.lock().clone();
        let full = s.disk_full.lock().clone();
        let (disk_free_bytes, disk_total_bytes) = s.env.disk.space().unwrap_or((0, 0));
        let counters = &s.writer.counters;
        StoreStatus {
            appended,
            flushed,
            min,
            writable: poisoned.clone().or(full).map_or(Ok(()), Err),
            poisoned,
            disk_free_bytes,
            disk_total_bytes,
            log_bytes: min.distance_to(appended),
            segments: s.log.segments().len(),
            queues: s.queues.len(),
            queued_bytes: s.writer.queued_bytes(),
            appended_records: counters.records.load(Ordering::Relaxed),
            appended_bytes: counters.bytes.load(Ordering::Relaxed),
            flush_latency: counters.flushes.read(),
            append_latency: counters.appends.read(),
            turns: counters.turns.load(Ordering::Relaxed),
        }
    }

    /// Drains, flushes and writes a checkpoint. Submits that come later get [`AppendError::Stopped`].
    pub fn close(&self) {
        self.shared.writer.stop();
        self.shared.maintenance.stop();
        self.join_threads();
        // Of a replicated log, some may wait for a confirmation.
        self.shared.end_waiters();
        self.shared.settle_unconfirmed();
    }

    /// What the opening of this store has cut that had been acknowledged without being confirmed.
    #[must_use]
    pub fn lost(&self) -> Lost {
        self.shared.lost
    }

    /// Whether a write or a sync has failed: nothing more is appended or acknowledged until the directory is opened again.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.writer.is_poisoned.load(Ordering::SeqCst)
    }

    /// Ends as a kill would, without a last flush or checkpoint: for a log that another broker writes on. Whoever waits for an append gets [`AppendError::Ended`], or, if it was not
    /// appended yet, [`AppendError::Stopped`], as do later ones. The directory is free for another opening when everybody has let go of this one.
    pub fn abandon(&self) {
        self.end();
        self.shared.settle_unconfirmed();
    }

    fn end(&self) {
        self.shared.maintenance.abandon();
        self.shared.writer.stop();
        self.shared.maintenance.stop();
        self.join_threads();
        self.shared.end_waiters();
    }

    fn join_threads(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if let Err(what) = thread.join() {
                tracing::error!(what, "a thread of the store had failed");
            }
        }
    }

    /// Applies retention now instead of at the next turn of the background thread.
    pub fn retain_now(&self) -> std::io::Result<()> {
        self.shared.retain()
    }

    /// Writes a checkpoint now: for tests and before a planned stop.
    pub fn checkpoint(&self) -> std::io::Result<()> {
        self.shared.checkpoint()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Without close this is a kill: the threads end, nothing more is flushed.
        self.end();
    }
}

impl Shared {
    /// What is called now. The lock is let go before the call, which may come back to the store.
    fn hooks(&self) -> Option<Arc<Hooks>> {
        self.hooks.read().clone()
    }

    fn replace_hooks(&self, hooks: Option<Arc<Hooks>>) {
        let before = std::mem::replace(&mut *self.hooks.write(), hooks);
        // What they hold may be the last of something large: not under the lock.
        drop(before);
    }

    pub(crate) fn gather(&self, body: impl FnOnce()) {
        let Some(hooks) = self.hooks() else { return body() };
        let mut body = Some(body);
        (hooks.gather)(&mut || {
            if let Some(body) = body.take() {
                body();
            }
        });
    }

    pub(crate) fn turn_end(&self) {
        if let Some(hooks) = self.hooks() {
            (hooks.turn_end)();
        }
    }

    pub(crate) fn arrived(&self, queue: &QueueRef) {
        if let Some(hooks) = self.hooks() {
            (hooks.arrived)(queue);
        }
    }

    /// `at`: where the record of the changes lies.
    pub(crate) fn apply_meta(&self, changes: &[MetaChange], at: u64) {
        if changes.is_empty() {
            return;
        }
        let mut meta = self.meta.lock();
        for change in changes {
            recovery::apply(&mut meta, change, at);
        }
    }

    fn writer_thread(&self) {
        let pause = match self.options.flush {
            FlushMode::Sync => Duration::from_millis(20),
            FlushMode::Async { interval } => interval,
        };
        let mut flushed_at = self.env.clock.monotonic();
        while self.writer.wait_for_work(if self.log.marks.flushed() < self.log.marks.appended() { pause } else { IDLE_PAUSE }) {
            self.writer_turn();
            let now = self.env.clock.monotonic();
            let due = now.since(flushed_at) >= pause || self.log.marks.flushed().distance_to(self.log.marks.appended()) > UNFLUSHED_BYTES_MAX;
            if due {
                flushed_at = now;
                if self.log.marks.flushed() < self.log.marks.appended() {
                    self.flush_and_release();
                    self.turn_end();
                }
            }
        }
        if !self.maintenance.is_abandoned() {
            self.flush_and_release();
        }
    }

    /// Everything below the tail as a checkpoint.
    pub(crate) fn checkpoint(&self) -> std::io::Result<()> {
        let _one = self.checkpointing.lock();
        self.write_checkpoint().map(drop)
    }

    /// The newest checkpoint; one is made if there is none, or none that is whole.
    pub(crate) fn newest_checkpoint(&self) -> std::io::Result<Checkpoint> {
        let _one = self.checkpointing.lock();
        match Checkpoint::load(&*self.env.disk)? {
            Loaded::Newest(newest) => Ok(newest),
            _ => self.write_checkpoint(),
        }
    }

    /// The writer stands still only while the state is copied.
    fn write_checkpoint(&self) -> std::io::Result<Checkpoint> {
        // Most of it while the writer goes on, so that little is left for the moment it stands still.
        for _ in 0..SPILLS_MAX {
            self.queues.spill()?;
            if self.queues.in_memory_entries() < ENTRIES_LEFT_MAX {
                break;
            }
        }
        self.keys.flush_run().map_err(std::io::Error::other)?;
        let checkpoint = {
            let turn = self.writer.turn.lock();
            if self.writer.is_poisoned.load(Ordering::SeqCst) {
                // The indexes name records that the failed write never finished.
                return Err(std::io::Error::other("the commit log is poisoned: no checkpoint of it is taken"));
            }
            self.queues.spill()?;
            self.keys.flush_run_only().map_err(std::io::Error::other)?;
            let mut checkpoint = Checkpoint {
                min_offset: self.log.marks.min().0,
                log_offset: turn.tail.offset,
                newest_ms: turn.newest_ms,
                meta: self.meta.lock().clone(),
                ..Checkpoint::default()
            };
            self.queues.snapshot(&mut checkpoint.queues);
            self.keys.snapshot(&mut checkpoint.keys);
            checkpoint
        };
        // Whoever came meanwhile has left its work to the one who held the log.
        self.writer.wake();
        self.flush_and_release();
        if self.log.marks.flushed().0 < checkpoint.log_offset {
            return Err(std::io::Error::other("the log could not be flushed up to the checkpoint"));
        }
        self.await_confirmed(checkpoint.log_offset)?;
        self.queues.sync()?;
        self.keys.sync()?;
        self.flush_mark.sync()?;
        checkpoint.store(&*self.env.disk)?;
        self.queues.checkpoint_durable();
        self.keys.checkpoint_durable();
        self.maintenance.note_checkpoint(checkpoint.log_offset);
        Ok(checkpoint)
    }

    /// What is behind the checkpoint can still be cut, what is before it never: the state without it is not kept.
    fn await_confirmed(&self, offset: u64) -> std::io::Result<()> {
        let begun = self.env.clock.monotonic();
        while self.log.marks.confirmed().0 < offset {
            let late = self.env.clock.monotonic().since(begun) >= CONFIRMATION_WAIT;
            if late || !self.maintenance.tick() {
                return Err(std::io::Error::other(format!("the other brokers have not confirmed the log up to the checkpoint at {offset}")));
            }
        }
        Ok(())
    }
}

/// How long a checkpoint waits for the confirmation of what it holds.
const CONFIRMATION_WAIT: Duration = Duration::from_secs(2);
/// Spills before a checkpoint, and the entries that are few enough to be written while the writer waits.
const SPILLS_MAX: usize = 4;
const ENTRIES_LEFT_MAX: usize = 4096;
/// How long the writer thread sleeps when nothing is unflushed and nobody wakes it.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// Dirty log bytes beyond which the writer syncs before the interval is over, so that a sync never has much to do.
pub(crate) const UNFLUSHED_BYTES_MAX: u64 = 8 << 20;
