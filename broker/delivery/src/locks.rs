//! Queue locks: one member of a group at a time consumes an ordered queue.

use ahash::AHashMap;
use sluice_env::{Clock, Monotonic, sync::Mutex};
use sluice_types::{Group, QueueId, Topic};
use std::{sync::Arc, time::Duration};

/// Most groups with locks, and most locks of one group: beyond that none is granted, and what nobody renews goes away.
const LOCKS_MAX: usize = 100_000;

struct Holder {
    client_id: Arc<str>,
    renewed: Monotonic,
}

type Held = AHashMap<(Topic, QueueId), Holder>;

/// All queue locks. They live in memory: after a restart clients lock anew, and a lock not renewed in time is free.
pub struct Locks {
    groups: Mutex<AHashMap<Group, Held>>,
    clock: Arc<dyn Clock>,
    expiry: Duration,
}

impl Locks {
    pub(crate) fn new(clock: Arc<dyn Clock>, expiry: Duration) -> Self {
        Self { groups: Mutex::default(), clock, expiry }
    }

    /// Takes or renews locks for a client; returns those it holds now.
    pub fn lock(&self, group: &Group, client_id: &str, queues: &[(Topic, QueueId)]) -> Vec<(Topic, QueueId)> {
        let now = self.clock.monotonic();
        let me: Arc<str> = client_id.into();
        let mut groups = self.groups.lock();
        if groups.len() >= LOCKS_MAX && !groups.contains_key(group) {
            return Vec::new();
        }
        let held = groups.entry(group.clone()).or_default();
        let mut granted = Vec::with_capacity(queues.len());
        for queue in queues {
            let free = match held.get(queue) {
                Some(holder) => *holder.client_id == *me || now.since(holder.renewed) > self.expiry,
                None => held.len() < LOCKS_MAX,
            };
            if free {
                held.insert(queue.clone(), Holder { client_id: me.clone(), renewed: now });
                granted.push(queue.clone());
            }
        }
        granted
    }

    /// Gives locks back. Another client's are left alone.
    pub fn unlock(&self, group: &Group, client_id: &str, queues: &[(Topic, QueueId)]) {
        let mut groups = self.groups.lock();
        let Some(held) = groups.get_mut(group) else { return };
        for queue in queues {
            if held.get(queue).is_some_and(|holder| &*holder.client_id == client_id) {
                held.remove(queue);
            }
        }
        if held.is_empty() {
            groups.remove(group);
        }
    }

    /// Who holds a queue, if the lock is alive.
    #[must_use]
    pub fn holder(&self, group: &Group, topic: &Topic, queue: QueueId) -> Option<String> {
        let now = self.clock.monotonic();
        let groups = self.groups.lock();
        let holder = groups.get(group)?.get(&(topic.clone(), queue))?;
        (now.since(holder.renewed) <= self.expiry).then(|| holder.client_id.to_string())
    }

    /// Whether a group holds any lock: it consumes in order.
    pub(crate) fn any(&self, group: &Group) -> bool {
        let now = self.clock.monotonic();
        self.groups.lock().get(group).is_some_and(|held| held.values().any(|holder| now.since(holder.renewed) <= self.expiry))
    }

    /// Gives back everything a client holds in a group.
    pub(crate) fn release(&self, group: &Group, client_id: &str) {
        let mut groups = self.groups.lock();
        if let Some(held) = groups.get_mut(group) {
            held.retain(|_, holder| &*holder.client_id != client_id);
            if held.is_empty() {
                groups.remove(group);
            }
        }
    }

    /// Forgets locks that have run out, so that memory does not grow with dead clients.
    pub(crate) fn sweep(&self) {
        let now = self.clock.monotonic();
        self.groups.lock().retain(|_, held| {
            held.retain(|_, holder| now.since(holder.renewed) <= self.expiry);
            !held.is_empty()
        });
    }
}
