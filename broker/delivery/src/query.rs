//! Questions about queues and messages, and how far groups are behind.

use crate::{
    Delivery,
    clients::{Beginning, ConnectionId, ConsumeFromWhere},
    offsets::{CommitDone, OffsetDone, OffsetError},
    topics::TopicError,
};
use bytes::Bytes;
use sluice_protocol::record::RecordView;
use sluice_store::{AppendError, QueueBounds, ReadError, TimeBoundary, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::collections::BTreeMap;
use thiserror::Error;

/// Most messages in the answer to a query by key.
const QUERY_MESSAGES_MAX: usize = 256;
/// Disk look-ups in one lag snapshot after which no further group's topic is begun.
const LAG_LOOKUPS_MAX: usize = 2_000;
/// What a search by time counts as.
const SEARCH_LOOKUPS: usize = 16;
/// How long before their start clients begin that begin at a time and were not told which.
const CLIENTS_TIMESTAMP_MS: i64 = 30 * 60 * 1_000;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// No such topic (17).
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// No such queue (29).
    #[error("the topic {0} has no queue {1}")]
    QueueId(Topic, i32),
    /// The store could not read (1), or nothing is there (22).
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// How far a group is behind in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// The group.
    pub group: Group,
    /// The topic.
    pub topic: Topic,
    /// Messages between the committed offsets and the ends of the queues.
    pub lag: u64,
    /// Age of the oldest message not consumed, ms; `None` without lag, or when the snapshot's budget of disk reads was used up.
    pub oldest_age_ms: Option<i64>,
}

/// How far groups are behind, as far as one snapshot goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LagSnapshot {
    /// Each group and topic.
    pub rows: Vec<GroupLag>,
    /// Groups' topics whose age, or whose lag too, was left out because the budget of disk reads was used up. The next snapshot begins with them.
    pub left_out: usize,
}

/// A group's topic, and how it is read.
#[derive(Default)]
struct Reading {
    committed: BTreeMap<QueueId, QueueOffset>,
    /// Set while the group has members that want the topic.
    beginning: Option<Beginning>,
}

fn place(group: &Group, topic: &Topic, queue_id: i32) -> (Group, Topic, QueueId) {
    (group.clone(), topic.clone(), QueueId(queue_id.cast_unsigned()))
}

fn not_stored(group: &Group, topic: &Topic, queue_id: i32) -> impl FnOnce(AppendError) -> OffsetError + Send + 'static {
    let (group, topic) = (group.clone(), topic.clone());
    move |error| OffsetError::Store { group, topic, queue_id, error }
}

/// Where a group goes on in a topic's queues.
type Positions = Vec<(QueueRef, QueueOffset)>;

impl Delivery {
    fn queue(&self, topic: &Topic, queue_id: i32) -> Result<QueueRef, QueryError> {
        self.topics().queue_to_read(topic.as_str(), queue_id)?.ok_or_else(|| QueryError::QueueId(topic.clone(), queue_id))
    }

    /// First and end offset of a queue; both 0 when it never had a message.
    pub fn bounds(&self, topic: &Topic, queue_id: i32) -> Result<QueueBounds, QueryError> {
        Ok(self.queue(topic, queue_id)?.visible())
    }

    /// When the first message still in a queue was stored; −1 without messages.
    pub fn earliest_store_time(&self, topic: &Topic, queue_id: i32) -> Result<i64, QueryError> {
        let queue = self.queue(topic, queue_id)?;
        let bounds = queue.visible();
        if bounds.min == bounds.max {
            return Ok(-1);
        }
        Ok(self.store().store_timestamp(&queue, bounds.min)?.unwrap_or(-1))
    }

    /// The queue offset that belongs to a time.
    pub fn offset_by_time(&self, topic: &Topic, queue_id: i32, ms: i64, boundary: TimeBoundary) -> Result<QueueOffset, QueryError> {
        let queue = self.queue(topic, queue_id)?;
        Ok(self.store().offset_by_time(&queue, ms, boundary)?)
    }

    /// Records of a topic by one of their keys or by the unique key their client gave them.
    pub fn query_by_key(&self, topic: &str, key: &str, max: usize, begin_ms: i64, end_ms: i64) -> Result<Vec<Bytes>, QueryError> {
        Ok(self.store().query(topic, key, max.min(QUERY_MESSAGES_MAX), begin_ms, end_ms)?)
    }

    /// The record at a commit log offset.
    pub fn view_message(&self, log_offset: i64) -> Result<Bytes, QueryError> {
        let offset = CommitLogOffset::from_wire(log_offset).ok_or(ReadError::NotFound(CommitLogOffset::ZERO))?;
        Ok(self.store().record_at(offset)?)
    }

    /// Takes a consumer's commit. It is written a little later.
    pub fn commit_offset(&self, group: &Group, topic: &Topic, queue_id: i32, offset: i64) -> Result<(), OffsetError> {
        let queue = self.topics().queue_to_read(topic.as_str(), queue_id).map_err(|_| OffsetError::TopicNotFound(topic.clone()))?;
        let queue = queue.ok_or_else(|| OffsetError::QueueId(topic.clone(), queue_id))?;
        let offset = QueueOffset::from_wire(offset).ok_or(OffsetError::Negative(offset))?;
        // Only known groups are remembered: names that a peer makes up must not fill the memory. One that is not known yet is made, for clients commit for
        // groups that have not been seen here, and lose their place where that is refused.
        self.groups().ensure(group).map_err(|_| OffsetError::NotFound(group.clone(), topic.clone(), queue_id))?;
        self.offsets().commit(group, topic, queue.id(), offset);
        Ok(())
    }

    /// Takes a commit whose sender wants to know that it stays: `done` comes when it is stored, or what its group was reset to meanwhile.
    pub fn commit_offset_stored(&self, group: &Group, topic: &Topic, queue_id: i32, offset: i64, done: CommitDone) {
        if let Err(error) = self.commit_offset(group, topic, queue_id, offset) {
            return done(Err(error));
        }
        let (place, not_stored) = (place(group, topic, queue_id), not_stored(group, topic, queue_id));
        self.offsets().settle(vec![place], Box::new(move |stored| done(stored.map_err(not_stored))));
    }

    /// Where a group goes on in a queue. A group that has committed nothing starts at 0 when everything that the queue ever had is there and recent; else it gets
    /// [`OffsetError::NotFound`] and starts where its client is configured to. Who asks knows of a reset of the group from then on. `done` comes at once when the offset is
    /// stored already, else when it is.
    pub fn query_offset(&self, group: &Group, topic: &Topic, queue_id: i32, zero_if_not_found: bool, connection: ConnectionId, done: OffsetDone) {
        let not_found = OffsetError::NotFound(group.clone(), topic.clone(), queue_id);
        let Some(queue) = self.topics().queue_to_read(topic.as_str(), queue_id).ok().flatten() else { return done(Err(not_found)) };
        if self.offsets().newest(group.as_str(), topic.as_str(), queue.id()).is_none() {
            let bounds = queue.visible();
            let complete = bounds.min == QueueOffset::ZERO && bounds.max > QueueOffset::ZERO;
            let zero = zero_if_not_found && complete && self.first_is_recent(&queue);
            return done(if zero { Ok(QueueOffset::ZERO) } else { Err(not_found) });
        }
        let (place, not_stored) = (place(group, topic, queue_id), not_stored(group, topic, queue_id));
        let answer = move |stored: Result<Option<QueueOffset>, _>| done(stored.map_err(not_stored).and_then(|offset| offset.ok_or(not_found)));
        self.offsets().ask(place, connection, Box::new(answer));
    }

    fn first_is_recent(&self, queue: &QueueRef) -> bool {
        let limits = sluice_store::ReadLimits { messages: 1, bytes: 1, scanned: 1 };
        let Ok(read) = self.store().read(queue, QueueOffset::ZERO, limits, &mut |_| true) else { return false };
        let Some(view) = read.slices.first().and_then(|bytes| RecordView::parse(bytes).ok()) else { return false };
        CommitLogOffset(view.log_offset()).distance_to(self.store().status().appended) <= self.options().recent_bytes
    }

    /// How far every group is behind in every topic in which it has an offset, or which its live members want and share.
    ///
    /// Where the group has committed nothing in a queue and has live members, it counts from where they would begin: at the queue's first message if they
    /// want that, or if the broker itself tells them to begin there (see [`Delivery::query_offset`]); else at the first message that was stored after the group's
    /// first member came, or 30 minutes before that for members that begin at a time. So a consumer that is connected and never gets anywhere has a lag.
    ///
    /// Work is bounded: after a number of disk reads, further ages are left out, and lags too if they cannot be told without; the next call begins with those.
    #[must_use]
    pub fn lag(&self) -> LagSnapshot {
        let now = self.env.clock.wall().0;
        let readings = self.readings();
        let mut next = self.lag_next.lock();
        let (first, last): (Vec<_>, Vec<_>) = readings.into_iter().partition(|(place, _)| next.as_ref().is_none_or(|next| place >= next));
        *next = None;
        let mut snapshot = LagSnapshot::default();
        let mut lookups = 0;
        for ((group, topic), reading) in first.into_iter().chain(last) {
            let may_look = lookups < LAG_LOOKUPS_MAX;
            let positions = self.positions(&topic, &reading, may_look.then_some(&mut lookups));
            let lag = positions.as_ref().map(|all| all.iter().map(|(queue, from)| from.distance_to(queue.visible().max)).sum::<u64>());
            if !may_look && lag != Some(0) {
                snapshot.left_out += 1;
                next.get_or_insert_with(|| (group.clone(), topic.clone()));
            }
            let (Some(positions), Some(lag)) = (positions, lag) else { continue };
            if positions.is_empty() {
                continue;
            }
            let oldest = if may_look { self.oldest(&positions, &mut lookups) } else { None };
            snapshot.rows.push(GroupLag { group, topic, lag, oldest_age_ms: oldest.map(|stored| now.saturating_sub(stored).max(0)) });
        }
        snapshot.rows.sort_unstable_by(|a, b| (&a.group, &a.topic).cmp(&(&b.group, &b.topic)));
        snapshot
    }

    fn readings(&self) -> BTreeMap<(Group, Topic), Reading> {
        let mut readings: BTreeMap<_, Reading> = BTreeMap::new();
        for group in self.offsets().groups() {
            for committed in self.offsets().list(group.as_str()) {
                readings.entry((group.clone(), committed.topic)).or_default().committed.insert(committed.queue, committed.offset);
            }
        }
        for (group, topic, beginning) in self.clients().shared_subscriptions() {
            readings.entry((group, topic)).or_default().beginning = Some(beginning);
        }
        readings
    }

    /// Where a group goes on; `None` when that takes disk reads and there are to be none.
    fn positions(&self, topic: &Topic, reading: &Reading, mut lookups: Option<&mut usize>) -> Option<Positions> {
        let mut positions = Positions::new();
        let Some(config) = self.topics().get(topic.as_str()) else { return Some(positions) };
        for (id, offset) in &reading.committed {
            if let Ok(Some(queue)) = self.topics().queue_to_read(topic.as_str(), id.to_wire()) {
                let from = (*offset).max(queue.visible().min);
                positions.push((queue, from));
            }
        }
        let Some(beginning) = reading.beginning else { return Some(positions) };
        for queue in self.store().queues_of(topic.as_str()) {
            if queue.id().0 >= config.read_queues || reading.committed.contains_key(&queue.id()) {
                continue;
            }
            let bounds = queue.visible();
            let from = match beginning.from_where {
                _ if bounds.min == bounds.max => bounds.max,
                ConsumeFromWhere::FirstOffset => bounds.min,
                ConsumeFromWhere::LastOffset => self.begin_at(&queue, beginning.since_ms, lookups.as_deref_mut()?),
                ConsumeFromWhere::Timestamp => self.begin_at(&queue, beginning.since_ms.saturating_sub(CLIENTS_TIMESTAMP_MS), lookups.as_deref_mut()?),
            };
            positions.push((queue, from));
        }
        Some(positions)
    }

    fn begin_at(&self, queue: &QueueRef, ms: i64, lookups: &mut usize) -> QueueOffset {
        *lookups += SEARCH_LOOKUPS;
        let first = queue.visible().min;
        if first == QueueOffset::ZERO && self.first_is_recent(queue) {
            return first;
        }
        // A queue that can't be searched for damage shows up rather than hides.
        self.store().offset_by_time(queue, ms, TimeBoundary::Lower).unwrap_or(first)
    }

    /// When the oldest message not consumed was stored.
    fn oldest(&self, positions: &Positions, lookups: &mut usize) -> Option<i64> {
        let behind = positions.iter().filter(|(queue, from)| *from < queue.visible().max);
        behind
            .filter_map(|(queue, from)| {
                *lookups += 1;
                self.store().store_timestamp(queue, *from).ok().flatten()
            })
            .min()
    }
}
