//! The write path after hand-over: one turn takes what waits, seals it, writes it with one positioned write, syncs if somebody waits for that, and answers.
//!
//! There is one writer at a time, whoever holds [`Turn`]'s lock: the submitter itself when nobody else is writing (no thread switch between request and answer),
//! else the writer thread, which finds all that queued up meanwhile and pays one sync for all of it.

use crate::{
    AppendError, Batch, Done, FlushMode, Late, Mark, Placed, Rule, Wait,
    batch::Pending,
    commit_log::Tail,
    latency::Histogram,
    queue_index::{Entry, QueueRef},
    store::Shared,
};
use sluice_env::{
    Monotonic, broken,
    sync::{Condvar, Mutex},
};
use sluice_protocol::record;
use sluice_types::{CommitLogOffset, QueueOffset};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Most bytes one turn takes: what one sync carries, and with it the longest torn tail a power cut under sync flush can leave.
pub(crate) const TURN_BYTES_MAX: usize = 8 << 20;
/// Under synchronous flush no more than this is left unflushed by a turn in which nobody waits for the flush: with the next turn it is still less than what recovery takes
/// for one torn tail.
const UNFLUSHED_BYTES_MAX: u64 = 1 << 20;
/// Kept free at the end of the last segment for metadata while the disk is full.
const METADATA_RESERVE_BYTES: usize = 4 << 20;
/// A submitter syncs by itself only on a disk that is quicker than this; it must not hold its thread for long.
const INLINE_SYNC_MAX: Duration = Duration::from_micros(500);

pub(crate) struct Job {
    batch: Batch,
    /// `None`: it waits for the append alone.
    rule: Option<Rule>,
    done: Done,
    since: Monotonic,
}

/// Queues with new entries, each with the end it shall have for consumers.
pub(crate) type Touched = Vec<(QueueRef, QueueOffset)>;
/// Jobs that need no more than the append, with their places.
type Early = Vec<(Done, Vec<Placed>)>;

/// An appended job that waits until its rule's watermark passes its end.
struct Waiter {
    rule: Rule,
    end: u64,
    since: Monotonic,
    placed: Vec<Placed>,
    done: Done,
}

/// Those of each rule, in the order of the log.
#[derive(Default)]
struct Waiters([VecDeque<Waiter>; Rule::ALL.len()]);

impl Waiters {
    fn add(&mut self, waiters: Vec<Waiter>) {
        waiters.into_iter().for_each(|waiter| self.0[waiter.rule.number()].push_back(waiter));
    }

    /// The rules that somebody waits by.
    fn rules(&self) -> [bool; Rule::ALL.len()] {
        Rule::ALL.map(|rule| !self.0[rule.number()].is_empty())
    }

    /// Takes the first one of a rule if it ends at or below `to`.
    fn pop(&mut self, rule: Rule, to: u64) -> Option<Waiter> {
        let waiters = &mut self.0[rule.number()];
        waiters.front().is_some_and(|waiter| waiter.end <= to).then(|| waiters.pop_front())?
    }

    fn take(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        std::mem::take(&mut self.0).into_iter().flatten()
    }

    /// Takes those that wait since before that.
    fn take_before(&mut self, since: impl Fn(&Waiter) -> bool) -> Vec<Waiter> {
        let mut taken = Vec::new();
        for waiters in &mut self.0 {
            let n = waiters.iter().take_while(|waiter| since(waiter)).count();
            taken.extend(waiters.drain(..n));
        }
        taken
    }
}

/// Entries that are appended and not shown yet: they are when what is stored passes `end`.
struct Hidden {
    end: u64,
    since: Monotonic,
    touched: Touched,
}

#[derive(Default)]
struct Inbox {
    jobs: VecDeque<Job>,
    bytes: usize,
    stopped: bool,
}

/// What only the writer touches.
pub(crate) struct Turn {
    pub(crate) tail: Tail,
    staging: Vec<u8>,
    pub(crate) touched: Touched,
    pub(crate) newest_ms: i64,
    /// Where the log's last record begins, if there is one that recovery has seen.
    pub(crate) last_record: Option<u64>,
}

/// The way in, and the waiters.
pub(crate) struct Writer {
    inbox: Mutex<Inbox>,
    work: Condvar,
    pub(crate) turn: Mutex<Turn>,
    waiters: Mutex<Waiters>,
    hidden: Mutex<VecDeque<Hidden>>,
    /// Whether somebody who waits for a flush is among the jobs: a log that is flushed asynchronously has to do it for them.
    wants_flush: AtomicBool,
    pub(crate) poisoned: Mutex<Option<String>>,
    pub(crate) is_poisoned: AtomicBool,
    /// Fewer brokers hold the log than should.
    pub(crate) too_few: AtomicBool,
    /// Last sync's time, ns, smoothed.
    sync_ns: AtomicU64,
    pub(crate) counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) turns: AtomicU64,
    pub(crate) flushes: Histogram,
    pub(crate) appends: Histogram,
}

impl Writer {
    /// `hidden`: what recovery has found and is not known to be confirmed.
    pub(crate) fn new(tail: Tail, newest_ms: i64, last_record: Option<u64>, hidden: VecDeque<(u64, Touched)>, now: Monotonic) -> Self {
        Self {
            inbox: Mutex::default(),
            work: Condvar::new(),
            turn: Mutex::new(Turn { tail, staging: Vec::new(), touched: Vec::new(), newest_ms, last_record }),
            waiters: Mutex::default(),
            hidden: Mutex::new(hidden.into_iter().map(|(end, touched)| Hidden { end, since: now, touched }).collect()),
            wants_flush: AtomicBool::new(false),
            poisoned: Mutex::default(),
            is_poisoned: AtomicBool::new(false),
            too_few: AtomicBool::new(false),
            sync_ns: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.inbox.lock().bytes
    }

    fn has_work(&self) -> bool {
        !self.inbox.lock().jobs.is_empty()
    }

    pub(crate) fn wake(&self) {
        let _inbox = self.inbox.lock();
        self.work.notify_one();
    }

    /// Waits for jobs, at most `timeout`. False when the store is closing and nothing is left.
    pub(crate) fn wait_for_work(&self, timeout: Duration) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.jobs.is_empty() && !inbox.stopped {
            self.work.wait_for(&mut inbox, timeout);
        }
        !(inbox.stopped && inbox.jobs.is_empty())
    }

    pub(crate) fn stop(&self) {
        self.inbox.lock().stopped = true;
        self.work.notify_all();
    }

    fn take(&self) -> Vec<Job> {
        let mut inbox = self.inbox.lock();
        self.wants_flush.store(false, Ordering::SeqCst);
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(job) = inbox.jobs.front() {
            if !taken.is_empty() && bytes + job.batch.bytes() > TURN_BYTES_MAX {
                break;
            }
            bytes += job.batch.bytes();
            taken.extend(inbox.jobs.pop_front());
        }
        inbox.bytes -= bytes;
        taken
    }

    pub(crate) fn poison(&self, what: &str) {
        tracing::error!(reason = what, "the commit log is poisoned: nothing is acknowledged until the broker restarts and recovers");
        *self.poisoned.lock() = Some(what.to_owned());
        self.is_poisoned.store(true, Ordering::SeqCst);
        self.fail_waiters(what);
    }

    /// Why nothing is taken in any more.
    pub(crate) fn closed(&self) -> Option<AppendError> {
        self.poison_error().or_else(|| self.inbox.lock().stopped.then_some(AppendError::Stopped))
    }

    pub(crate) fn poison_error(&self) -> Option<AppendError> {
        if !self.is_poisoned.load(Ordering::SeqCst) {
            return None;
        }
        self.poisoned.lock().clone().map(AppendError::Poisoned)
    }

    fn fail_waiters(&self, why: &str) {
        let waiters = self.waiters.lock().take();
        for waiter in waiters {
            (waiter.done)(Err(AppendError::Poisoned(why.to_owned())));
        }
    }
}

impl Shared {
    /// Takes a batch in. The callback comes back exactly once.
    pub(crate) fn enqueue(&self, batch: Batch, wait: Wait, done: Done) {
        if let Err((done, why)) = self.try_enqueue(batch, wait, done) {
            done(Err(why));
        }
    }

    fn try_enqueue(&self, batch: Batch, wait: Wait, done: Done) -> Result<(), (Done, AppendError)> {
        if let Some(why) = self.writer.poison_error() {
            return Err((done, why));
        }
        if batch.bytes() > self.log.batch_bytes_max() {
            return Err((done, AppendError::TooLarge(batch.bytes())));
        }
        if !batch.only_metadata()
            && let Some(why) = self.disk_full.lock().clone()
        {
            return Err((done, AppendError::DiskFull(why)));
        }
        let since = self.env.clock.monotonic();
        let rule = self.rule_of(&batch, wait);
        let mut inbox = self.writer.inbox.lock();
        if inbox.stopped {
            return Err((done, AppendError::Stopped));
        }
        if inbox.bytes + batch.bytes() > self.options.append_queue_bytes_max {
            let waiting = inbox.bytes;
            return Err((done, AppendError::QueueFull(waiting)));
        }
        inbox.bytes += batch.bytes();
        if rule.is_some_and(|rule| rule.flushed) {
            self.writer.wants_flush.store(true, Ordering::SeqCst);
        }
        inbox.jobs.push_back(Job { batch, rule, done, since });
        Ok(())
    }

    fn rule_of(&self, batch: &Batch, wait: Wait) -> Option<Rule> {
        let shown_flushed = || batch.records.iter().any(|record| record.queue.as_ref().is_some_and(|queue| queue.is_shown_flushed()));
        match wait {
            Wait::Durable => Some(Rule { flushed: self.options.flush == FlushMode::Sync || shown_flushed(), confirmed: true }),
            Wait::By(rule) => Some(rule),
            Wait::Appended => None,
        }
    }

    /// Lets what was submitted go forward: on this thread if nobody writes now and the disk is quick, else on the writer's.
    pub(crate) fn drive(&self) {
        let syncs = self.options.flush == FlushMode::Sync || self.writer.wants_flush.load(Ordering::SeqCst);
        if syncs && self.writer.sync_ns.load(Ordering::Relaxed) >= INLINE_SYNC_MAX.as_nanos() as u64 {
            self.writer.wake();
            return;
        }
        // Not getting the lock is fine: its holder looks for more work after letting go, see below.
        if let Some(mut turn) = self.writer.turn.try_lock() {
            let wants_flush = self.run_turn(&mut turn);
            drop(turn);
            if self.writer.has_work() {
                self.writer.wake();
            }
            self.flush_if(wants_flush);
        }
    }

    /// One turn for the writer thread.
    pub(crate) fn writer_turn(&self) {
        let mut turn = self.writer.turn.lock();
        let wants_flush = self.run_turn(&mut turn);
        drop(turn);
        self.flush_if(wants_flush);
    }

    /// For those who wait for the flush of a log that is flushed asynchronously, while others go on appending.
    fn flush_if(&self, wants_flush: bool) {
        if wants_flush {
            self.flush_and_release();
            self.turn_end();
        }
    }

    /// Whether somebody waits for a flush that is still to be done.
    fn run_turn(&self, turn: &mut Turn) -> bool {
        let jobs = self.writer.take();
        if jobs.is_empty() {
            return false;
        }
        self.writer.counters.turns.fetch_add(1, Ordering::Relaxed);
        let (placed, early) = self.append_jobs(turn, jobs);
        // Before the flush: the replicas' and the own one go on at the same time.
        self.made_progress(Mark::Appended);
        for (done, placed) in early {
            done(Ok(placed));
        }
        let mut wants_flush = placed.iter().any(|waiter| waiter.rule.flushed);
        match self.options.flush {
            FlushMode::Async { .. } if !self.options.replicated => {
                self.show_unflushed(turn);
                let mut waiting = Vec::new();
                for waiter in placed {
                    match waiter.rule.flushed {
                        true => waiting.push(waiter),
                        false => (waiter.done)(Ok(waiter.placed)),
                    }
                }
                if wants_flush {
                    self.writer.waiters.lock().add(waiting);
                }
            }
            FlushMode::Async { .. } => {
                self.hide(turn);
                self.writer.waiters.lock().add(placed);
                self.release();
            }
            FlushMode::Sync => {
                self.hide(turn);
                self.writer.waiters.lock().add(placed);
                let is_much = self.log.marks.flushed().distance_to(self.log.marks.appended()) > UNFLUSHED_BYTES_MAX;
                if std::mem::take(&mut wants_flush) || is_much {
                    self.flush_and_release();
                } else {
                    self.release();
                }
            }
        }
        self.turn_end();
        wants_flush
    }

    /// What this turn has appended is shown when it counts as stored.
    pub(crate) fn hide(&self, turn: &mut Turn) {
        let touched = std::mem::take(&mut turn.touched);
        self.hide_until(turn.tail.offset, touched);
    }

    fn hide_until(&self, end: u64, touched: Touched) {
        let since = self.env.clock.monotonic();
        self.writer.hidden.lock().push_back(Hidden { end, since, touched });
    }

    /// Of a log that is flushed asynchronously and that nobody else has to hold: all is shown at once but for the queues that are shown flushed only.
    fn show_unflushed(&self, turn: &mut Turn) {
        let mut touched = std::mem::take(&mut turn.touched);
        if touched.iter().any(|(queue, _)| queue.is_shown_flushed()) {
            let (later, now) = touched.drain(..).partition(|(queue, _)| queue.is_shown_flushed());
            self.hide_until(turn.tail.offset, later);
            touched = now;
        }
        self.publish(&touched);
        turn.touched = touched;
        turn.touched.clear();
    }

    /// Appends all jobs. Comes back with those that wait for durability, and those that need no more than the append.
    fn append_jobs(&self, turn: &mut Turn, jobs: Vec<Job>) -> (Vec<Waiter>, Early) {
        let mut placed: Vec<(Job, Vec<Placed>)> = Vec::with_capacity(jobs.len());
        turn.staging.clear();
        for mut job in jobs {
            if let Some(why) = self.writer.poison_error() {
                (job.done)(Err(why));
                continue;
            }
            let before = turn.tail.offset + turn.staging.len() as u64;
            let reserve =
                if job.batch.only_metadata() || self.maintenance.is_prepared() { 0 } else { METADATA_RESERVE_BYTES.min(self.log.segment_bytes as usize / 8) };
            if !self.log.fits(&turn.tail, turn.staging.len() + job.batch.bytes(), reserve) {
                self.write_staged(turn);
                // The log ends in the middle of what could not be written: nothing goes behind it.
                if let Some(why) = self.writer.poison_error() {
                    (job.done)(Err(why));
                    continue;
                }
                if let Err(why) = self.log.make_room(&mut turn.tail, job.batch.bytes(), reserve) {
                    self.no_room(&why);
                    (job.done)(Err(why));
                    continue;
                }
                self.maintenance.wake();
            }
            let at = turn.tail.offset + turn.staging.len() as u64;
            debug_assert!(at >= before);
            let places = self.place(turn, &mut job.batch, at);
            turn.staging.extend_from_slice(&job.batch.bytes);
            placed.push((job, places));
        }
        self.write_staged(turn);
        if let Some(why) = self.writer.poison_error() {
            for (job, _) in placed {
                (job.done)(Err(why.clone()));
            }
            turn.touched.clear();
            return (Vec::new(), Vec::new());
        }
        self.split_by_wait(turn.tail.offset, placed)
    }

    fn split_by_wait(&self, end: u64, placed: Vec<(Job, Vec<Placed>)>) -> (Vec<Waiter>, Early) {
        let (mut waiting, mut early) = (Vec::new(), Vec::new());
        let written = self.env.clock.monotonic();
        for (job, placed) in placed {
            self.writer.counters.appends.observe(written.since(job.since));
            self.apply_meta(&job.batch.changes, placed.last().map_or(end, |placed| placed.log_offset.0));
            match job.rule {
                Some(rule) => waiting.push(Waiter { rule, end, since: job.since, placed, done: job.done }),
                None => early.push((job.done, placed)),
            }
        }
        (waiting, early)
    }

    pub(crate) fn no_room(&self, why: &AppendError) {
        match why {
            AppendError::DiskFull(what) => {
                tracing::warn!(reason = what.as_str(), "no space for another segment: writes are refused until there is");
                *self.disk_full.lock() = Some(what.clone());
            }
            AppendError::Poisoned(what) => self.writer.poison(what),
            _ => {}
        }
    }

    fn write_staged(&self, turn: &mut Turn) {
        if turn.staging.is_empty() || self.writer.is_poisoned.load(Ordering::SeqCst) {
            return;
        }
        let staging = std::mem::take(&mut turn.staging);
        if let Err(e) = self.log.append(&mut turn.tail, &staging) {
            self.writer.poison(&format!("writing to the commit log at {} failed: {e}", turn.tail.offset));
        }
        turn.staging = staging;
        turn.staging.clear();
        // One huge batch must not keep its memory for ever.
        turn.staging.shrink_to(TURN_BYTES_MAX / 4);
    }

    /// Gives each record its place: queue offset, log offset, time, checksum; and enters it into the indexes.
    fn place(&self, turn: &mut Turn, batch: &mut Batch, at: u64) -> Vec<Placed> {
        let now = self.env.clock.wall().0.max(turn.newest_ms);
        turn.newest_ms = now;
        let mut places = Vec::with_capacity(batch.records.len());
        let mut from = 0;
        for pending in &batch.records {
            let to = from + pending.bytes as usize;
            let log_offset = at + from as u64;
            turn.last_record = Some(log_offset);
            let queue_offset = self.enter(turn, pending, log_offset, now);
            record::seal(&mut batch.bytes[from..to], queue_offset.0, log_offset, now);
            places.push(Placed { log_offset: CommitLogOffset(log_offset), queue_offset, store_timestamp: now, bytes: pending.bytes });
            from = to;
        }
        self.writer.counters.records.fetch_add(places.len() as u64, Ordering::Relaxed);
        self.writer.counters.bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        places
    }

    pub(crate) fn enter(&self, turn: &mut Turn, pending: &Pending, log_offset: u64, now: i64) -> QueueOffset {
        let Some(queue) = &pending.queue else { return QueueOffset(0) };
        let offset = self.queues.push(queue, Entry { log_offset, size: pending.bytes, tag_hash: pending.tag_hash });
        if self.options.key_index {
            for key in &pending.keys {
                self.keys.push(*key, log_offset, now);
            }
        }
        match turn.touched.last_mut() {
            Some((last, max)) if Arc::ptr_eq(last, queue) => *max = offset.plus(1),
            _ => turn.touched.push((queue.clone(), offset.plus(1))),
        }
        offset
    }

    fn publish(&self, touched: &[(QueueRef, QueueOffset)]) {
        for (queue, max) in touched {
            self.queues.publish(queue, *max);
            if queue.waiting.load(Ordering::SeqCst) > 0 {
                self.arrived(queue);
            }
        }
    }

    /// Syncs, then shows and answers everything the flushed watermark has passed. A failed sync poisons the log.
    pub(crate) fn flush_and_release(&self) {
        if let Some(why) = self.writer.poison_error() {
            // Poisoned between append and here: these must not wait for a flush that never comes.
            self.writer.fail_waiters(&why.to_string());
            return;
        }
        let begun = self.env.clock.monotonic();
        if let Err(e) = self.log.flush() {
            self.writer.poison(&format!("syncing the commit log failed: {e}"));
            return;
        }
        let took = self.env.clock.monotonic().since(begun);
        self.writer.counters.flushes.observe(took);
        let ns = took.as_nanos() as u64;
        let before = self.writer.sync_ns.load(Ordering::Relaxed);
        self.writer.sync_ns.store((before * 7 + ns) / 8, Ordering::Relaxed);
        self.flush_mark.note(self.log.marks.flushed().0);
        self.made_progress(Mark::Flushed);
        self.release();
    }

    /// Shows and answers in the order of the log what counts as stored by now.
    pub(crate) fn release(&self) {
        let oldest_hidden = self.show();
        let waiting = self.writer.waiters.lock().rules();
        if waiting.contains(&true) {
            self.gather(|| self.answer(waiting, oldest_hidden));
        }
    }

    fn answer(&self, waiting: [bool; Rule::ALL.len()], oldest_hidden: Option<Monotonic>) {
        for rule in Rule::ALL.into_iter().filter(|rule| waiting[rule.number()]) {
            // Asked again for each: whoever stands still between two must not go on as if no time had passed.
            while let stored = self.stored_by(rule, oldest_hidden)
                && let Some(waiter) = { self.writer.waiters.lock().pop(rule, stored) }
            {
                // Invariant 1: the one place where durability is confirmed.
                assert!(waiter.end <= stored, "an ack before its record is stored");
                self.acknowledge(waiter);
            }
        }
    }

    /// Time alone may allow what it had forbidden: a lease that was renewed late.
    pub(crate) fn release_unconfirmed(&self) {
        let waiting = self.writer.waiters.lock().rules();
        if Rule::ALL.into_iter().any(|rule| !rule.confirmed && waiting[rule.number()]) {
            self.release();
            self.turn_end();
        }
    }

    /// Shows what counts as stored; since when the first of what is left has been hidden.
    fn show(&self) -> Option<Monotonic> {
        let (marks, mode) = (&self.log.marks, self.options.flush);
        let shown = match mode {
            _ if broken("records are shown before they are confirmed") => marks.stored_here(mode),
            // All else is shown at once.
            FlushMode::Async { .. } if !self.options.replicated => marks.flushed(),
            _ => marks.stored(mode),
        };
        let mut hidden = self.writer.hidden.lock();
        while hidden.front().is_some_and(|hidden| hidden.end <= shown.0) {
            let touched = hidden.pop_front().map(|hidden| hidden.touched).unwrap_or_default();
            // Shown under the lock: two releases at once must not show out of order.
            self.publish(&touched);
        }
        hidden.front().map(|hidden| hidden.since)
    }

    /// Up to where records are stored by that rule.
    fn stored_by(&self, rule: Rule, oldest_hidden: Option<Monotonic>) -> u64 {
        let here = self.stored_here_by(rule);
        let confirmed = self.log.marks.confirmed().0;
        if rule.confirmed {
            return if broken("an ack before the confirmation") { here } else { here.min(confirmed) };
        }
        here.min(self.unconfirmed_limit(confirmed, oldest_hidden))
    }

    /// The same without asking what others hold.
    fn stored_here_by(&self, rule: Rule) -> u64 {
        if rule.flushed { self.log.marks.flushed().0 } else { self.log.marks.appended().0 }
    }

    /// Up to where records may be acknowledged that need not be confirmed: what a change of master may take.
    fn unconfirmed_limit(&self, confirmed: u64, oldest_hidden: Option<Monotonic>) -> u64 {
        if confirmed == u64::MAX {
            return confirmed;
        }
        let now = self.env.clock.monotonic();
        let is_fresh = oldest_hidden.is_none_or(|since| now.since(since) <= self.options.unconfirmed_age_max) && self.unconfirmed.leads(now);
        let may = is_fresh || broken("acknowledgements without confirmation have no bound");
        if !may || !self.unconfirmed.open(&self.env.disk, confirmed) {
            return confirmed;
        }
        if broken("acknowledgements without confirmation have no bound") { u64::MAX } else { confirmed.saturating_add(self.options.unconfirmed_bytes_max) }
    }

    fn acknowledge(&self, waiter: Waiter) {
        let Waiter { rule, end, placed, done, .. } = waiter;
        if rule.confirmed && self.writer.too_few.load(Ordering::SeqCst) {
            return done(Err(AppendError::Late(Late::Replicas, placed)));
        }
        let confirmed = self.log.marks.confirmed().0;
        if !rule.confirmed
            && end > confirmed
            && let Some((first, last)) = placed.first().zip(placed.last())
        {
            self.unconfirmed.note(first.log_offset.0, last.log_offset.0 + u64::from(last.bytes), confirmed);
        }
        done(Ok(placed));
    }

    /// Nothing is acknowledged any more by this opening.
    pub(crate) fn settle_unconfirmed(&self) {
        self.unconfirmed.settle(&self.env.disk, self.log.marks.confirmed().0);
    }

    /// After the end of the store's threads: answers whoever still waits.
    pub(crate) fn end_waiters(&self) {
        // Behind a turn that has begun before: what it has taken it puts among the waiters.
        drop(self.writer.turn.lock());
        let jobs = std::mem::take(&mut self.writer.inbox.lock().jobs);
        let waiters = self.writer.waiters.lock().take();
        for job in jobs {
            (job.done)(Err(AppendError::Stopped));
        }
        for waiter in waiters {
            (waiter.done)(Err(AppendError::Ended(waiter.placed)));
        }
        self.turn_end();
    }

    /// Answers waiters whose deadline has passed: their records are appended, but a slow disk has not flushed them, or a slow replica not confirmed.
    pub(crate) fn expire_waiters(&self) {
        let now = self.env.clock.monotonic();
        let deadline = self.options.flush_deadline;
        let late = self.writer.waiters.lock().take_before(|waiter| now.since(waiter.since) > deadline);
        let any = !late.is_empty();
        for waiter in late {
            let late = if waiter.end <= self.stored_here_by(waiter.rule) { Late::Confirmation } else { Late::Flush };
            (waiter.done)(Err(AppendError::Late(late, waiter.placed)));
        }
        let stuck: Vec<Job> = {
            let mut inbox = self.writer.inbox.lock();
            let n = inbox.jobs.iter().take_while(|j| now.since(j.since) > deadline).count();
            let stuck: Vec<Job> = inbox.jobs.drain(..n).collect();
            inbox.bytes -= stuck.iter().map(|j| j.batch.bytes()).sum::<usize>();
            stuck
        };
        if any || !stuck.is_empty() {
            let waiting = self.writer.queued_bytes();
            for job in stuck {
                (job.done)(Err(AppendError::QueueFull(waiting)));
            }
            self.turn_end();
        }
    }
}
