//! Queue locks: one member of a group at a time consumes an ordered queue.
//!
//! RocketMQ's clients work on for half a minute with a lock that they were granted, whatever becomes of the broker. So who owns a queue lies in the log, in
//! [`MetaTable::Locks`], and nobody is told that a queue is his before that is durable. Whoever opens the log next, this broker or another one, holds each lock
//! for its owner until it would have run out had it been renewed at the opening. A renewal changes no owner and writes nothing.
//!
//! A record that outlives its lock does no harm: at worst the next owner has to wait. So nobody waits for a deletion, and a lock leaves memory only when its
//! deletion lies in the log.

use crate::meta::{MetaWriter, all_is_stored, bytes_of, in_log, place_key, place_of};
use ahash::AHashMap;
use sluice_env::{Clock, Env, Monotonic, sync::Mutex};
use sluice_store::{MetaChange, MetaTable, Store, Wait};
use sluice_types::{Group, QueueId, Topic};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Most groups with locks, and most locks of one group: beyond that none is granted, and what nobody renews goes away.
const LOCKS_MAX: usize = 100_000;
/// Bytes of records from which on one request claims no further queue: the client asks again for those it did not get.
const CLAIM_BYTES_MAX: usize = 1 << 20;
/// Most deletions written in one batch.
const DELETIONS_MAX: usize = 1_000;

type Queue = (Topic, QueueId);
type Place = (Group, Topic, QueueId);
type Held = AHashMap<Queue, Lock>;

/// Called once with the queues that the client holds now.
pub type LockDone = Box<dyn FnOnce(Vec<(Topic, QueueId)>) + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its owner may know, perhaps from another broker. `durable`: that the log says so is known to be durable.
    Held { durable: bool },
    /// The record with that number is on its way. Nobody has been told.
    Claimed(u64),
    /// Nobody's. The log may still name an owner; the deletion with that number is on its way.
    Free(Option<u64>),
}

struct Lock {
    owner: Arc<str>,
    renewed: Monotonic,
    stage: Stage,
}

impl Lock {
    fn is_taken(&self, now: Monotonic, expiry: Duration) -> bool {
        match self.stage {
            Stage::Held { .. } => now.since(self.renewed) <= expiry,
            Stage::Claimed(_) => true,
            Stage::Free(_) => false,
        }
    }

    fn is_held_by(&self, client_id: &str) -> bool {
        *self.owner == *client_id && matches!(self.stage, Stage::Held { .. })
    }

    /// What became of a request that the log has answered; whether its client holds the lock now. Meanwhile the lock may have been given back, or become another's.
    fn answered(&mut self, asked: &Asked, stored: bool, now: Monotonic) -> bool {
        match self.stage {
            Stage::Held { durable } if *self.owner == *asked.client_id && (durable || stored) => {}
            Stage::Claimed(number) if number == asked.number && stored => {}
            Stage::Claimed(number) if number == asked.number => {
                self.stage = Stage::Free(None);
                return false;
            }
            _ => return false,
        }
        (self.stage, self.renewed) = (Stage::Held { durable: true }, now);
        true
    }

    /// Whether it is free, and so may be deleted. By that number its deletion is known.
    fn is_deleted_by(&mut self, number: u64) -> bool {
        let free = matches!(self.stage, Stage::Free(_));
        if free {
            self.stage = Stage::Free(Some(number));
        }
        free
    }

    /// Whether that client has had anything to give back.
    fn give_back(&mut self, client_id: &str) -> bool {
        let gives = *self.owner == *client_id && !matches!(self.stage, Stage::Free(_));
        if gives {
            self.stage = Stage::Free(None);
        }
        gives
    }
}

/// A request for locks.
struct Asked {
    group: Group,
    client_id: Arc<str>,
    number: u64,
}

#[derive(Default)]
struct State {
    groups: AHashMap<Group, Held>,
    stopped: bool,
}

impl State {
    /// The queues that the client holds already or claims now, and what is to be written before it may know.
    fn claim(&mut self, asked: &Asked, queues: &[Queue], now: Monotonic, expiry: Duration) -> (Vec<Queue>, Vec<MetaChange>) {
        let (mut wanted, mut changes, mut bytes) = (Vec::with_capacity(queues.len()), Vec::new(), 0);
        if self.stopped || (self.groups.len() >= LOCKS_MAX && !self.groups.contains_key(&asked.group)) {
            return (wanted, changes);
        }
        let held = self.groups.entry(asked.group.clone()).or_default();
        for queue in queues {
            match held.get(queue) {
                Some(lock) if lock.is_held_by(&asked.client_id) && lock.stage == (Stage::Held { durable: true }) => {
                    wanted.push(queue.clone());
                    continue;
                }
                Some(lock) if lock.is_taken(now, expiry) && !lock.is_held_by(&asked.client_id) => continue,
                None if held.len() >= LOCKS_MAX => continue,
                _ if bytes >= CLAIM_BYTES_MAX => continue,
                // From before the opening, and not known to be durable: its owner holds it, whatever becomes of this record.
                Some(lock) if lock.is_held_by(&asked.client_id) => {}
                _ => drop(held.insert(queue.clone(), Lock { owner: asked.client_id.clone(), renewed: now, stage: Stage::Claimed(asked.number) })),
            }
            let change = change(&asked.group, queue, Some(&asked.client_id));
            bytes += bytes_of(&change);
            changes.push(change);
            wanted.push(queue.clone());
        }
        self.drop_if_empty(&asked.group);
        (wanted, changes)
    }

    fn lock(&mut self, (group, topic, queue): &Place) -> Option<&mut Lock> {
        self.groups.get_mut(group)?.get_mut(&(topic.clone(), *queue))
    }

    fn drop_if_empty(&mut self, group: &Group) {
        if self.groups.get(group).is_some_and(|held| held.is_empty()) {
            self.groups.remove(group);
        }
    }

    fn remove(&mut self, (group, topic, queue): &Place) {
        if let Some(held) = self.groups.get_mut(group) {
            held.remove(&(topic.clone(), *queue));
        }
        self.drop_if_empty(group);
    }
}

fn change(group: &Group, (topic, queue): &Queue, owner: Option<&str>) -> MetaChange {
    MetaChange { table: MetaTable::Locks, key: place_key(group, topic, *queue), value: owner.map(|id| id.as_bytes().to_vec()) }
}

/// All queue locks.
pub struct Locks {
    state: Arc<Mutex<State>>,
    meta: Arc<MetaWriter>,
    clock: Arc<dyn Clock>,
    expiry: Duration,
    numbers: AtomicU64,
}

impl Locks {
    /// Reads what the log holds. The error names a key that cannot be read.
    pub(crate) fn load(store: &Store, meta: &Arc<MetaWriter>, env: &Env, expiry: Duration) -> Result<Self, String> {
        let now = env.clock.monotonic();
        let mut state = State::default();
        let stored = store.meta(MetaTable::Locks);
        // Looked at afterwards: then it covers what was read.
        let stage = Stage::Held { durable: all_is_stored(store) };
        for (key, value) in stored {
            let unreadable = || format!("the queue lock {key:?} is unreadable");
            let (group, topic, queue) = place_of(&key).ok_or_else(unreadable)?;
            let owner = String::from_utf8(value).map_err(|_| unreadable())?;
            state.groups.entry(group).or_default().insert((topic, queue), Lock { owner: owner.into(), renewed: now, stage });
        }
        Ok(Self { state: Arc::new(Mutex::new(state)), meta: meta.clone(), clock: env.clock.clone(), expiry, numbers: AtomicU64::new(0) })
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes or renews locks for a client. `done` comes with those it holds, at once when they were its own already, else when the log says so durably.
    pub fn lock(&self, group: &Group, client_id: &str, queues: &[(Topic, QueueId)], done: LockDone) {
        let asked = Arc::new(Asked { group: group.clone(), client_id: client_id.into(), number: self.number() });
        let wanted: Arc<Mutex<Vec<Queue>>> = Arc::default();
        let (kept, of, state, clock) = (wanted.clone(), asked.clone(), self.state.clone(), self.clock.clone());
        self.meta.change(
            Wait::Durable,
            || {
                let (queues, changes) = self.state.lock().claim(&asked, queues, self.clock.monotonic(), self.expiry);
                *wanted.lock() = queues;
                changes
            },
            Box::new(move |result| {
                if let Err(error) = &result {
                    tracing::debug!(group = %of.group, client = &*of.client_id, %error, "queue locks were not stored, and so not granted");
                }
                let mut queues = std::mem::take(&mut *kept.lock());
                let now = clock.monotonic();
                {
                    let mut state = state.lock();
                    let mut held = state.groups.get_mut(&of.group);
                    queues.retain(|queue| held.as_mut().and_then(|held| held.get_mut(queue)).is_some_and(|lock| lock.answered(&of, result.is_ok(), now)));
                }
                done(queues);
            }),
        );
    }

    /// Gives locks back. Another client's are left alone.
    pub fn unlock(&self, group: &Group, client_id: &str, queues: &[(Topic, QueueId)]) {
        let mut places = Vec::new();
        if let Some(held) = self.state.lock().groups.get_mut(group) {
            let given = queues.iter().filter(|queue| held.get_mut(queue).is_some_and(|lock| lock.give_back(client_id)));
            places.extend(given.map(|(topic, queue)| (group.clone(), topic.clone(), *queue)));
        }
        self.delete(places);
    }

    /// Gives back everything a client holds in a group.
    pub(crate) fn release(&self, group: &Group, client_id: &str) {
        let mut places = Vec::new();
        if let Some(held) = self.state.lock().groups.get_mut(group) {
            let given = held.iter_mut().filter_map(|(queue, lock)| lock.give_back(client_id).then_some(queue));
            places.extend(given.map(|(topic, queue)| (group.clone(), topic.clone(), *queue)));
        }
        self.delete(places);
    }

    /// Whether a group holds any lock: it consumes in order.
    pub(crate) fn any(&self, group: &Group) -> bool {
        let now = self.clock.monotonic();
        self.state.lock().groups.get(group).is_some_and(|held| held.values().any(|lock| lock.is_taken(now, self.expiry)))
    }

    /// Forgets locks that have run out, so that neither memory nor the log keeps those of dead clients.
    pub(crate) fn sweep(&self) {
        let now = self.clock.monotonic();
        let mut places = Vec::new();
        for (group, held) in &mut self.state.lock().groups {
            for ((topic, queue), lock) in held {
                if !lock.is_taken(now, self.expiry) && !matches!(lock.stage, Stage::Free(Some(_))) {
                    lock.stage = Stage::Free(None);
                    places.push((group.clone(), topic.clone(), *queue));
                }
            }
        }
        self.delete(places);
    }

    /// Deletes from the log and then from memory what is free. What the log refuses is left to the next sweep.
    fn delete(&self, mut places: Vec<Place>) {
        // The log must not depend on a hash's order.
        places.sort_unstable();
        for places in places.chunks(DELETIONS_MAX) {
            let (number, state, written) = (self.number(), self.state.clone(), places.to_vec());
            self.meta.change(
                Wait::Appended,
                || {
                    let mut state = self.state.lock();
                    let free = places.iter().filter(|place| state.lock(place).is_some_and(|lock| lock.is_deleted_by(number)));
                    free.map(|(group, topic, queue)| change(group, &(topic.clone(), *queue), None)).collect()
                },
                Box::new(move |result| {
                    let mut state = state.lock();
                    for place in &written {
                        match state.lock(place) {
                            Some(lock) if lock.stage != Stage::Free(Some(number)) => {}
                            Some(_) if in_log(&result) => state.remove(place),
                            Some(lock) => lock.stage = Stage::Free(None),
                            None => {}
                        }
                    }
                }),
            );
        }
    }

    /// From now on nobody holds a lock here, and nobody gets one: another broker may be granting them.
    pub(crate) fn stop(&self) {
        *self.state.lock() = State { stopped: true, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the look that found it free and the deletion's turn another client may have come.
    #[test]
    fn what_has_been_claimed_anew_is_not_deleted() {
        let mut lock = Lock { owner: "a".into(), renewed: Monotonic(Duration::ZERO), stage: Stage::Free(None) };
        assert!(lock.is_deleted_by(4) && lock.stage == Stage::Free(Some(4)));
        for stage in [Stage::Claimed(3), Stage::Held { durable: true }, Stage::Held { durable: false }] {
            lock.stage = stage;
            assert!(!lock.is_deleted_by(5) && lock.stage == stage);
        }
    }
}
