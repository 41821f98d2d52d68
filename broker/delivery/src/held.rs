//! Pulls that wait for a message.
//!
//! A pull is lost when a message is published between its last look at the queue and its registration. So it registers first and looks again afterwards, and the
//! publisher publishes first and looks for waiters afterwards; a fence on both sides makes sure that one of them sees the other.

use crate::{
    clients::ConnectionId,
    pull::{PullDone, PullWork},
};
use ahash::AHashMap;
use sluice_env::{Monotonic, sync::Mutex};
use sluice_store::queue_index::QueueRef;
use sluice_types::Group;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

/// A pull that waits.
pub(crate) struct HeldPull {
    pub(crate) work: PullWork,
    pub(crate) deadline: Monotonic,
    pub(crate) done: PullDone,
}

impl HeldPull {
    /// Answers that nothing has come.
    pub(crate) fn end(self) {
        let answer = self.work.nothing();
        (self.done)(Ok(answer));
    }
}

#[derive(Default)]
struct State {
    next_id: u64,
    stopped: bool,
    pulls: AHashMap<u64, HeldPull>,
    by_queue: AHashMap<usize, Vec<u64>>,
    deadlines: BTreeSet<(Monotonic, u64)>,
    by_connection: BTreeSet<(ConnectionId, u64)>,
}

impl State {
    fn remove(&mut self, id: u64) -> Option<HeldPull> {
        let held = self.pulls.remove(&id)?;
        self.deadlines.remove(&(held.deadline, id));
        self.by_connection.remove(&(held.work.connection, id));
        let key = key(&held.work.queue);
        if let Some(ids) = self.by_queue.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_queue.remove(&key);
            }
        }
        held.work.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(held)
    }
}

/// A queue's identity while somebody holds it.
fn key(queue: &QueueRef) -> usize {
    Arc::as_ptr(queue).addr()
}

/// What became of a pull that was to be held.
pub(crate) enum Hold {
    /// It waits; the number takes it back.
    Waits(u64),
    /// Too many wait already, or the broker stops.
    Refused(Box<HeldPull>),
}

/// All pulls that wait.
pub(crate) struct HeldPulls {
    state: Mutex<State>,
    max: usize,
}

impl HeldPulls {
    pub(crate) fn new(max: usize) -> Self {
        Self { state: Mutex::default(), max }
    }

    /// Registers a pull. Look at the queue again afterwards.
    pub(crate) fn hold(&self, pull: HeldPull) -> Hold {
        let mut state = self.state.lock();
        if state.stopped || state.pulls.len() >= self.max {
            return Hold::Refused(Box::new(pull));
        }
        let id = state.next_id;
        state.next_id += 1;
        pull.work.queue.waiting.fetch_add(1, Ordering::Relaxed);
        state.by_queue.entry(key(&pull.work.queue)).or_default().push(id);
        state.deadlines.insert((pull.deadline, id));
        state.by_connection.insert((pull.work.connection, id));
        state.pulls.insert(id, pull);
        drop(state);
        fence(Ordering::SeqCst);
        Hold::Waits(id)
    }

    /// Takes a pull back, unless somebody else has.
    pub(crate) fn take(&self, id: u64) -> Option<HeldPull> {
        self.state.lock().remove(id)
    }

    /// Takes all that wait for a queue. One load when nobody does.
    pub(crate) fn take_arrived(&self, queue: &QueueRef) -> Vec<HeldPull> {
        fence(Ordering::SeqCst);
        if queue.waiting.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let ids = state.by_queue.get(&key(queue)).cloned().unwrap_or_default();
        ids.into_iter().filter_map(|id| state.remove(id)).collect()
    }

    /// Takes all of a group that wait for a queue.
    pub(crate) fn take_group(&self, queue: &QueueRef, group: &Group) -> Vec<HeldPull> {
        fence(Ordering::SeqCst);
        if queue.waiting.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let ids = state.by_queue.get(&key(queue)).cloned().unwrap_or_default();
        let of_group: Vec<u64> = ids.into_iter().filter(|id| state.pulls.get(id).is_some_and(|pull| pull.work.group == *group)).collect();
        of_group.into_iter().filter_map(|id| state.remove(id)).collect()
    }

    /// Takes all whose time is over.
    pub(crate) fn take_due(&self, now: Monotonic) -> Vec<HeldPull> {
        let mut state = self.state.lock();
        let due: Vec<u64> = state.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect();
        due.into_iter().filter_map(|id| state.remove(id)).collect()
    }

    /// Takes all of a connection.
    pub(crate) fn take_connection(&self, connection: ConnectionId) -> Vec<HeldPull> {
        let mut state = self.state.lock();
        let ids: Vec<u64> = state.by_connection.range((connection, 0)..=(connection, u64::MAX)).map(|(_, id)| *id).collect();
        ids.into_iter().filter_map(|id| state.remove(id)).collect()
    }

    /// Takes everything and holds nothing any more.
    pub(crate) fn stop(&self) -> Vec<HeldPull> {
        let mut state = self.state.lock();
        state.stopped = true;
        let ids: Vec<u64> = state.deadlines.iter().map(|(_, id)| *id).collect();
        ids.into_iter().filter_map(|id| state.remove(id)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().pulls.len()
    }
}
