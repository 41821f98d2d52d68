//! Questions about queues and messages, and how far groups are behind.

use crate::{Delivery, offsets::OffsetError, topics::TopicError};
use bytes::Bytes;
use sluice_protocol::record::RecordView;
use sluice_store::{QueueBounds, ReadError, TimeBoundary, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, Group, QueueOffset, Topic};
use std::collections::BTreeMap;
use thiserror::Error;

/// Most messages in the answer to a query by key.
const QUERY_MESSAGES_MAX: usize = 256;
/// Most disk look-ups in one lag snapshot.
const LAG_LOOKUPS_MAX: usize = 2_000;

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

    /// Takes a consumer's commit.
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

    /// Where a group goes on in a queue. A group that has committed nothing starts at 0 when everything that the queue ever had is there and recent; else it gets
    /// [`OffsetError::NotFound`] and starts where its client is configured to.
    pub fn query_offset(&self, group: &Group, topic: &Topic, queue_id: i32, zero_if_not_found: bool) -> Result<QueueOffset, OffsetError> {
        let not_found = || OffsetError::NotFound(group.clone(), topic.clone(), queue_id);
        let queue = self.topics().queue_to_read(topic.as_str(), queue_id).ok().flatten().ok_or_else(not_found)?;
        if let Some(offset) = self.offsets().get(group.as_str(), topic.as_str(), queue.id()) {
            return Ok(offset);
        }
        let bounds = queue.visible();
        let complete = bounds.min == QueueOffset::ZERO && bounds.max > QueueOffset::ZERO;
        if zero_if_not_found && complete && self.first_is_recent(&queue) { Ok(QueueOffset::ZERO) } else { Err(not_found()) }
    }

    fn first_is_recent(&self, queue: &QueueRef) -> bool {
        let limits = sluice_store::ReadLimits { messages: 1, bytes: 1, scanned: 1 };
        let Ok(read) = self.store().read(queue, QueueOffset::ZERO, limits, &mut |_| true) else { return false };
        let Some(view) = read.slices.first().and_then(|bytes| RecordView::parse(bytes).ok()) else { return false };
        CommitLogOffset(view.log_offset()).distance_to(self.store().status().appended) <= self.options().recent_bytes
    }

    /// How far every group is behind in every topic it has offsets in. Work is bounded: beyond a number of disk reads the ages are left out.
    #[must_use]
    pub fn lag(&self) -> Vec<GroupLag> {
        let now = self.env.clock.wall().0;
        let mut lookups = 0;
        let mut rows = Vec::new();
        for group in self.offsets().groups() {
            let mut topics: BTreeMap<Topic, (u64, Option<i64>)> = BTreeMap::new();
            for committed in self.offsets().list(group.as_str()) {
                let Ok(Some(queue)) = self.topics().queue_to_read(committed.topic.as_str(), committed.queue.to_wire()) else { continue };
                let bounds = queue.visible();
                let from = committed.offset.max(bounds.min);
                let behind = from.distance_to(bounds.max);
                let row = topics.entry(committed.topic).or_default();
                row.0 += behind;
                if behind > 0 && lookups < LAG_LOOKUPS_MAX {
                    lookups += 1;
                    let stored = self.store().store_timestamp(&queue, from).ok().flatten();
                    row.1 = [row.1, stored].into_iter().flatten().min();
                }
            }
            let row = |(topic, (lag, oldest)): (Topic, (u64, Option<i64>))| GroupLag {
                group: group.clone(),
                topic,
                lag,
                oldest_age_ms: oldest.map(|stored| now.saturating_sub(stored).max(0)),
            };
            rows.extend(topics.into_iter().map(row));
        }
        rows
    }
}
