//! How far groups have consumed. Kept in memory, written into the log a little later.

use crate::{
    Counters,
    clients::ConnectionId,
    meta::{MetaWriter, in_log, place_key, place_of},
};
use ahash::{AHashMap, AHashSet};
use sluice_env::{Monotonic, sync::Mutex};
use sluice_store::{AppendError, MetaChange, MetaTable, Store, Wait};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use thiserror::Error;

/// How long a reset waits to be followed while its group has no live member: longer than any restart of its members takes. Without an end it would leave out
/// the commits of who comes much later, and send them to a place that no one means any more.
const UNFOLLOWED_MAX: Duration = Duration::from_secs(600);
/// Most connections told of one reset. A group that has told so many and still reads elsewhere does not want it.
const TOLD_MAX: usize = 1024;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Topic.
    pub topic: Topic,
    /// Queue.
    pub queue: QueueId,
    /// The next message the group wants.
    pub offset: QueueOffset,
}

/// Why an offset was not taken or found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OffsetError {
    /// No such topic (17).
    #[error("the topic {0} does not exist")]
    TopicNotFound(Topic),
    /// No such queue (29).
    #[error("the topic {0} has no queue {1}")]
    QueueId(Topic, i32),
    /// A negative offset (29).
    #[error("{0} is no queue offset")]
    Negative(i64),
    /// The group has committed nothing there (22): the client chooses where to start.
    #[error("the group {0} has no offset for {1}/{2}, maybe it is new; the client starts where it is configured to")]
    NotFound(Group, Topic, i32),
}

/// Called once with how many offsets were written.
pub type FlushDone = Box<dyn FnOnce(Result<usize, AppendError>) + Send>;

type Place = (Group, Topic, QueueId);

#[derive(Default)]
struct State {
    groups: AHashMap<Group, AHashMap<Topic, BTreeMap<QueueId, QueueOffset>>>,
    /// Places whose value in the log is older than that in memory.
    dirty: AHashSet<Place>,
    /// Resets that no member has followed yet.
    resets: AHashMap<Place, Reset>,
}

/// An administrator's order to go on elsewhere.
struct Reset {
    offset: QueueOffset,
    /// Connections whose pulls were sent there, or that asked where to go on.
    told: Vec<ConnectionId>,
    /// When it was made, or its group was last seen with a live member after that.
    live: Monotonic,
}

impl Reset {
    /// Whether a connection's pulls are to be sent to the reset's offset: it has not been told yet. Where it pulls from does not count, for a member may have come
    /// to the same place by itself and have work from before in hand, which it commits. Who was told and pulls from anywhere has followed, or has chosen so.
    fn redirects(&self, connection: ConnectionId) -> bool {
        self.told.len() < TOLD_MAX && !self.told.contains(&connection)
    }

    /// The connection knows.
    fn tell(&mut self, connection: ConnectionId) {
        if self.redirects(connection) {
            self.told.push(connection);
        }
    }
}

impl State {
    fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.groups.get(group)?.get(topic)?.get(&queue).copied()
    }

    /// The reset that a place's members have not followed yet.
    fn reset(&self, group: &Group, topic: &Topic, queue: QueueId) -> Option<&Reset> {
        if self.resets.is_empty() { None } else { self.resets.get(&(group.clone(), topic.clone(), queue)) }
    }

    /// Sets a value and returns the former one.
    fn set(&mut self, group: &Group, topic: &Topic, queue: QueueId, offset: QueueOffset) -> Option<QueueOffset> {
        let before = self.get(group.as_str(), topic.as_str(), queue);
        if before != Some(offset) {
            self.groups.entry(group.clone()).or_default().entry(topic.clone()).or_default().insert(queue, offset);
            self.dirty.insert((group.clone(), topic.clone(), queue));
        }
        before
    }
}

/// All committed offsets.
pub struct Offsets {
    state: Arc<Mutex<State>>,
    /// How many resets wait to be followed: almost always none, and then a pull need not look.
    resets: AtomicUsize,
    meta: Arc<MetaWriter>,
    counters: Arc<Counters>,
}

impl Offsets {
    /// Reads what the log holds. The error names a key that cannot be read.
    pub(crate) fn load(store: &Store, meta: &Arc<MetaWriter>, counters: &Arc<Counters>) -> Result<Self, String> {
        let mut state = State::default();
        for (key, value) in store.meta(MetaTable::Offsets) {
            let ((group, topic, queue), offset) = parse(&key, &value).ok_or_else(|| format!("the committed offset {key:?} is unreadable"))?;
            state.set(&group, &topic, queue, offset);
        }
        state.dirty.clear();
        Ok(Self { state: Arc::new(Mutex::new(state)), resets: AtomicUsize::new(0), meta: meta.clone(), counters: counters.clone() })
    }

    /// A group's offset in a queue.
    #[must_use]
    pub fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.state.lock().get(group, topic, queue)
    }

    /// A group's offset in a queue, for a connection that asks where to go on: a reset need not send it there any more.
    pub(crate) fn tell(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> Option<QueueOffset> {
        let mut state = self.state.lock();
        if !state.resets.is_empty()
            && let Some(reset) = state.resets.get_mut(&(group.clone(), topic.clone(), queue))
        {
            reset.tell(connection);
        }
        state.get(group.as_str(), topic.as_str(), queue)
    }

    /// Takes a consumer's commit. It may lower the offset, as the protocol allows; that is counted. While the group's members have not followed a
    /// [reset](Self::reset) yet, what they commit is from before it, and is left out.
    pub fn commit(&self, group: &Group, topic: &Topic, queue: QueueId, offset: QueueOffset) {
        let before = {
            let mut state = self.state.lock();
            if let Some(reset) = state.reset(group, topic, queue).filter(|reset| reset.offset != offset) {
                tracing::debug!(%group, %topic, %queue, %offset, reset = %reset.offset, "a commit from before a reset is left out");
                return;
            }
            state.set(group, topic, queue, offset)
        };
        if let Some(before) = before.filter(|before| *before > offset) {
            Counters::add(&self.counters.offsets_lowered, 1);
            tracing::debug!(%group, %topic, %queue, %before, %offset, "a commit lowered an offset");
        }
    }

    /// Sets an offset by an administrator's order. It holds against members that are connected: their pulls are sent there, and what they commit is left out
    /// until one of them pulls that knows of it, or the group has had no live member for ten minutes.
    pub(crate) fn reset(&self, group: &Group, topic: &Topic, queue: QueueId, offset: QueueOffset, now: Monotonic) {
        let mut state = self.state.lock();
        state.set(group, topic, queue, offset);
        state.resets.insert((group.clone(), topic.clone(), queue), Reset { offset, told: Vec::new(), live: now });
        self.resets.store(state.resets.len(), Ordering::Release);
    }

    /// Where a pull is to be sent instead, because the group was reset; the connection counts as told. `None` when it may read on.
    pub(crate) fn redirect(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> Option<QueueOffset> {
        if self.resets.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut state = self.state.lock();
        let place = (group.clone(), topic.clone(), queue);
        let reset = state.resets.get_mut(&place)?;
        if reset.redirects(connection) {
            reset.tell(connection);
            return Some(reset.offset);
        }
        state.resets.remove(&place);
        self.resets.store(state.resets.len(), Ordering::Release);
        None
    }

    /// Where a pull that is held is to be sent, because the group was reset since; the connection counts as told. That it was told already does not let the pull
    /// wait on: it asked before that, for who asks afterwards has followed, and then there is no reset any more.
    pub(crate) fn redirect_held(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> Option<QueueOffset> {
        let mut state = self.state.lock();
        let reset = state.resets.get_mut(&(group.clone(), topic.clone(), queue))?;
        reset.tell(connection);
        Some(reset.offset)
    }

    /// Whether [`redirect`](Self::redirect) would send the pull elsewhere.
    pub(crate) fn would_redirect(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> bool {
        self.resets.load(Ordering::Acquire) != 0 && self.state.lock().reset(group, topic, queue).is_some_and(|reset| reset.redirects(connection))
    }

    /// Ends resets that nobody can follow. `live` says whether a group has live members; it is called under the lock.
    pub(crate) fn sweep_resets(&self, now: Monotonic, live: impl Fn(&Group) -> bool) {
        if self.resets.load(Ordering::Acquire) == 0 {
            return;
        }
        self.end_resets(|(group, topic, queue), reset| {
            if live(group) {
                reset.live = now;
            }
            let ended = now.since(reset.live) >= UNFOLLOWED_MAX;
            if ended {
                tracing::info!(%group, %topic, %queue, offset = %reset.offset, "no member has come to follow a reset; from now on commits count again");
            }
            ended
        });
    }

    /// Ends a group's resets. Its offsets stay.
    pub(crate) fn end_resets_of(&self, group: &Group) {
        self.end_resets(|(of, _, _), _| of == group);
    }

    fn end_resets(&self, mut which: impl FnMut(&Place, &mut Reset) -> bool) {
        let mut state = self.state.lock();
        state.resets.retain(|place, reset| !which(place, reset));
        self.resets.store(state.resets.len(), Ordering::Release);
    }

    /// All offsets of a group.
    #[must_use]
    pub fn list(&self, group: &str) -> Vec<CommittedOffset> {
        let state = self.state.lock();
        let topics = state.groups.get(group).into_iter().flatten();
        let mut all: Vec<_> = topics
            .flat_map(|(topic, queues)| queues.iter().map(|(queue, offset)| CommittedOffset { topic: topic.clone(), queue: *queue, offset: *offset }))
            .collect();
        all.sort_unstable_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        all
    }

    /// All groups that have an offset anywhere.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.state.lock().groups.keys().cloned().collect();
        groups.sort_unstable();
        groups
    }

    /// The groups that have an offset in a topic, connected or not.
    #[must_use]
    pub fn groups_of_topic(&self, topic: &str) -> Vec<Group> {
        let state = self.state.lock();
        let mut groups: Vec<Group> = state.groups.iter().filter(|(_, topics)| topics.contains_key(topic)).map(|(group, _)| group.clone()).collect();
        groups.sort_unstable();
        groups
    }

    /// Gives a group another group's offsets in a topic. They come after any reset of the group there, and end it.
    pub fn copy_group(&self, from: &str, to: &Group, topic: &Topic) {
        let mut state = self.state.lock();
        let copied = state.groups.get(from).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default();
        for (queue, offset) in copied {
            state.set(to, topic, queue, offset);
            state.resets.remove(&(to.clone(), topic.clone(), queue));
        }
        self.resets.store(state.resets.len(), Ordering::Release);
    }

    /// Forgets a group's offsets.
    pub fn remove_group(&self, group: &Group) {
        let mut state = self.state.lock();
        for (topic, queues) in state.groups.remove(group).unwrap_or_default() {
            state.dirty.extend(queues.into_keys().map(|queue| (group.clone(), topic.clone(), queue)));
        }
        state.resets.retain(|(of, _, _), _| of != group);
        self.resets.store(state.resets.len(), Ordering::Release);
    }

    /// Forgets all offsets in a topic.
    pub fn remove_topic(&self, topic: &Topic) {
        let mut state = self.state.lock();
        let State { groups, dirty, resets } = &mut *state;
        groups.retain(|group, topics| {
            let queues = topics.remove(topic).unwrap_or_default();
            dirty.extend(queues.into_keys().map(|queue| (group.clone(), topic.clone(), queue)));
            !topics.is_empty()
        });
        resets.retain(|(_, of, _), _| of != topic);
        self.resets.store(resets.len(), Ordering::Release);
    }

    /// Hands every changed offset to the log. Those it refuses are handed over again next time.
    pub fn flush(&self, done: FlushDone) {
        let taken: Arc<Mutex<Vec<Place>>> = Arc::default();
        let (kept, state, counters) = (taken.clone(), self.state.clone(), self.counters.clone());
        self.meta.change(
            Wait::Durable,
            || {
                let mut state = self.state.lock();
                let mut places: Vec<Place> = std::mem::take(&mut state.dirty).into_iter().collect();
                // The log must not depend on a hash's order.
                places.sort_unstable();
                let changes = places.iter().map(|place| change(&state, place)).collect();
                *taken.lock() = places;
                changes
            },
            Box::new(move |result| {
                let places = std::mem::take(&mut *kept.lock());
                let written = places.len();
                if !in_log(&result) {
                    state.lock().dirty.extend(places);
                    Counters::add(&counters.offset_flushes_failed, 1);
                }
                done(result.map(|()| written));
            }),
        );
    }
}

fn change(state: &State, (group, topic, queue): &Place) -> MetaChange {
    let value = state.get(group.as_str(), topic.as_str(), *queue).map(|offset| offset.0.to_be_bytes().to_vec());
    MetaChange { table: MetaTable::Offsets, key: place_key(group, topic, *queue), value }
}

fn parse(key: &str, value: &[u8]) -> Option<(Place, QueueOffset)> {
    Some((place_of(key)?, QueueOffset(u64::from_be_bytes(value.try_into().ok()?))))
}
