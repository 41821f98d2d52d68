//! The half messages whose transaction has not ended, in memory.

use super::{HALF_TOPIC, OP_TOPIC};
use crate::stop::Stop;
use sluice_env::{Clock, Env, Monotonic, broken, sync::Mutex};
use sluice_store::{Placed, Store, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, NameError, QueueId, QueueOffset, Topic};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

/// How transactions are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransactionRules {
    /// From the half message to its first check.
    pub(crate) timeout: Duration,
    /// From one check to the next.
    pub(crate) check_interval: Duration,
    /// Checks before it is given up.
    pub(crate) check_max: u32,
    /// Longest time that a half message may put off its first check.
    pub(crate) immunity_max: Duration,
    /// Most open at once.
    pub(crate) open_max: usize,
}

impl TransactionRules {
    /// From the half message to its first check.
    pub(super) fn first_check(&self, immunity_seconds: Option<u64>) -> Duration {
        let asked = Duration::from_secs(immunity_seconds.unwrap_or(0));
        asked.min(self.immunity_max).max(self.timeout)
    }
}

/// Half messages in one chunk of the notes.
pub(super) const CHUNK: u64 = 1024;

/// One half message that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub(super) log_offset: CommitLogOffset,
    pub(super) stored_ms: i64,
    /// The next check.
    pub(super) due: Monotonic,
    /// Checks so far.
    pub(super) checks: u32,
    /// Somebody is writing its end.
    pub(super) claimed: bool,
}

/// Entries of a queue that are known from the first one on. Answers of the store may overtake each other a little.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    /// All below are known.
    pub(super) next: u64,
    early: BTreeSet<u64>,
}

impl Prefix {
    fn add(&mut self, entry: u64) {
        self.early.insert(entry);
        while self.early.first() == Some(&self.next) {
            self.early.pop_first();
            self.next += 1;
        }
    }

    /// Whether all that are known are below `next`.
    pub(super) fn is_gapless(&self) -> bool {
        self.early.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By offset in the half queue, and so by age.
    pub(super) open: BTreeMap<u64, Half>,
    due: BTreeSet<(Monotonic, u64)>,
    /// Half messages on their way into the log.
    reserved: usize,
    pub(super) halves: Prefix,
    pub(super) ops: Prefix,
    /// Chunks that differ from what is noted.
    pub(super) changed: BTreeSet<u64>,
}

impl State {
    pub(super) fn insert(&mut self, offset: QueueOffset, half: Half) {
        if let Some(before) = self.open.insert(offset.0, half) {
            self.due.remove(&(before.due, offset.0));
        }
        self.due.insert((half.due, offset.0));
        self.changed.insert(offset.0 / CHUNK);
    }

    pub(super) fn remove(&mut self, offset: QueueOffset) -> Option<Half> {
        let half = self.open.remove(&offset.0)?;
        self.due.remove(&(half.due, offset.0));
        self.changed.insert(offset.0 / CHUNK);
        Some(half)
    }

    /// Changes an open half message; nothing happens when it is open no more.
    fn change(&mut self, offset: QueueOffset, change: impl FnOnce(&mut Half)) -> Option<Half> {
        let half = self.open.get_mut(&offset.0)?;
        let before = half.due;
        change(half);
        let after = *half;
        if after.due != before {
            self.due.remove(&(before, offset.0));
            self.due.insert((after.due, offset.0));
        }
        self.changed.insert(offset.0 / CHUNK);
        Some(after)
    }
}

/// Why a claim was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not open.
    Ended,
    /// Claimed by another.
    UnderWay,
}

/// All open transactions.
pub(crate) struct Transactions {
    pub(super) state: Mutex<State>,
    pub(super) rules: TransactionRules,
    /// Not held: what waits in the store for its answer holds this.
    store: Weak<Store>,
    stop: Arc<Stop>,
    pub(super) clock: Arc<dyn Clock>,
    half_queue: QueueRef,
    op_queue: QueueRef,
    pub(super) noted: Mutex<super::notes::Noted>,
}

impl Transactions {
    /// None open. [`Transactions::load`] finds those that are.
    pub(super) fn empty(store: &Arc<Store>, env: &Env, rules: TransactionRules, stop: &Arc<Stop>) -> Result<Self, NameError> {
        Ok(Self {
            state: Mutex::default(),
            rules,
            half_queue: store.queue(&Topic::new(HALF_TOPIC)?, QueueId(0)),
            op_queue: store.queue(&Topic::new(OP_TOPIC)?, QueueId(0)),
            store: Arc::downgrade(store),
            stop: stop.clone(),
            clock: env.clock.clone(),
            noted: Mutex::default(),
        })
    }

    /// The queue of half messages.
    pub(crate) fn half_queue(&self) -> &QueueRef {
        &self.half_queue
    }

    /// The queue of op records.
    pub(super) fn op_queue(&self) -> &QueueRef {
        &self.op_queue
    }

    /// A place for one more half message; `None` when as many are open as may be.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Ticket> {
        let mut state = self.state.lock();
        if state.open.len() + state.reserved >= self.rules.open_max {
            return None;
        }
        state.reserved += 1;
        Some(Ticket(self.clone()))
    }

    pub(super) fn claim(self: &Arc<Self>, offset: QueueOffset) -> Result<Claim, Refused> {
        let mut state = self.state.lock();
        let half = state.open.get_mut(&offset.0).ok_or(Refused::Ended)?;
        if half.claimed {
            return Err(Refused::UnderWay);
        }
        half.claimed = true;
        Ok(Claim { transactions: self.clone(), offset, checks: half.checks })
    }

    /// Those whose check is due and that nobody is ending, the one that waits longest first.
    pub(super) fn due(&self, most: usize) -> Vec<(QueueOffset, Half)> {
        let now = self.clock.monotonic();
        let state = self.state.lock();
        let due = state.due.iter().take_while(|(at, _)| *at <= now).filter_map(|(_, offset)| state.open.get(offset).map(|half| (QueueOffset(*offset), *half)));
        due.filter(|(_, half)| !half.claimed).take(most).collect()
    }

    /// Counts a check that is about to be made; how many that makes. `None` when the transaction has ended or is just being ended.
    pub(super) fn count_check(&self, offset: QueueOffset) -> Option<u32> {
        let next = self.clock.monotonic() + self.rules.check_interval;
        let mut state = self.state.lock();
        if state.open.get(&offset.0)?.claimed {
            return None;
        }
        state.change(offset, |half| (half.checks, half.due) = (half.checks + 1, next)).map(|half| half.checks)
    }

    /// A check that was counted could not be made: again after `pause`.
    pub(super) fn uncount_check(&self, offset: QueueOffset, pause: Duration) {
        let next = self.clock.monotonic() + pause;
        self.state.lock().change(offset, |half| (half.checks, half.due) = (half.checks.saturating_sub(1), next));
    }

    /// Looks at a half message again after `pause`.
    pub(super) fn put_off(&self, offset: QueueOffset, pause: Duration) {
        let next = self.clock.monotonic() + pause;
        self.state.lock().change(offset, |half| half.due = next);
    }

    /// Drops a half message that can never be read again. Whether it was open.
    pub(super) fn forget(&self, offset: QueueOffset) -> bool {
        let mut state = self.state.lock();
        let was_open = state.remove(offset).is_some();
        self.hold(&state);
        was_open
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().open.len()
    }

    pub(super) fn oldest_stored_ms(&self) -> Option<i64> {
        self.state.lock().open.first_key_value().map(|(_, half)| half.stored_ms)
    }

    /// Retention keeps the log from the oldest open half message on. Called with the state's lock held, so that no older value comes last.
    pub(super) fn hold(&self, state: &State) {
        // Perhaps on a thread of the store's, which must not be the last to hold it.
        let Some(_inside) = self.stop.enter() else { return };
        let Some(store) = self.store.upgrade() else { return };
        store.hold_retention(state.open.first_key_value().map(|(_, half)| half.log_offset));
    }
}

/// A reserved place. Dropped, it is free again.
pub(crate) struct Ticket(Arc<Transactions>);

impl Ticket {
    /// The half message lies in the log: its transaction is open from now on, before its producer learns of it.
    pub(super) fn begun(self, placed: &Placed, immunity_seconds: Option<u64>) {
        let transactions = &self.0;
        let due = transactions.clock.monotonic() + transactions.rules.first_check(immunity_seconds);
        let half = Half { log_offset: placed.log_offset, stored_ms: placed.store_timestamp, due, checks: 0, claimed: false };
        let mut state = transactions.state.lock();
        state.insert(placed.queue_offset, half);
        state.halves.add(placed.queue_offset.0);
        transactions.hold(&state);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.state.lock().reserved -= 1;
    }
}

/// The right to write a transaction's end, given to one at a time. Dropped, the transaction is open as before.
pub(super) struct Claim {
    transactions: Arc<Transactions>,
    offset: QueueOffset,
    checks: u32,
}

impl Claim {
    /// Checks so far.
    pub(super) fn checks(&self) -> u32 {
        self.checks
    }

    /// The end lies in the log, its op record at that offset.
    pub(super) fn ended(self, op: QueueOffset) {
        let mut state = self.transactions.state.lock();
        if !broken("a commit counts twice") {
            state.remove(self.offset);
        }
        state.ops.add(op.0);
        self.transactions.hold(&state);
    }

    /// The store refused the end that its producer wanted: the check that brought it does not count, and another one comes when it would have come.
    pub(super) fn back_with_its_check(self) {
        self.transactions.state.lock().change(self.offset, |half| half.checks = half.checks.saturating_sub(1));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // After an end there is nothing left to give back.
        if let Some(half) = self.transactions.state.lock().open.get_mut(&self.offset.0) {
            half.claimed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_comes_early_counts_when_those_before_it_have_come() {
        let mut prefix = Prefix { next: 5, ..Prefix::default() };
        for (entry, next) in [(6, 5), (8, 5), (5, 7), (7, 9)] {
            prefix.add(entry);
            assert_eq!(prefix.next, next);
        }
        assert!(prefix.early.is_empty());
    }

    #[test]
    fn an_immunity_is_never_shorter_than_the_timeout_nor_longer_than_retention_allows() {
        let seconds = Duration::from_secs;
        let rules = TransactionRules { timeout: seconds(6), check_interval: seconds(30), check_max: 15, immunity_max: seconds(100), open_max: 1 };
        for (asked, waits) in [(None, 6), (Some(0), 6), (Some(5), 6), (Some(7), 7), (Some(u64::MAX), 100)] {
            assert_eq!(rules.first_check(asked), seconds(waits), "{asked:?}");
        }
    }
}
