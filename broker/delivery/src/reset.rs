//! An administrator moves a group to another place.
//!
//! The broker itself holds the new place against members that are connected, as RocketMQ 5 does: their next pull, and each that is held, is answered with the
//! new offset, and what they commit before they are there is left out. RocketMQ 4 told the members instead (request 220) and took whatever they committed in the
//! ten seconds they needed. One must not do both: a Java member that gets 220 while it moves by a pull's answer reads the queue twice from then on.

use crate::Delivery;
use sluice_store::{AppendError, ReadError, TimeBoundary, queue_index::QueueRef};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::collections::BTreeMap;
use thiserror::Error;

/// Where a group shall go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// At the end.
    End,
    /// At the first message stored at or after this time, ms since 1970.
    Time(i64),
    /// At this queue offset.
    Offset(i64),
}

/// An order to go on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetReset {
    /// The group.
    pub group: Group,
    /// The topic.
    pub topic: Topic,
    /// Only this queue; all queues that are read without it.
    pub queue_id: Option<i32>,
    /// Where to.
    pub to: ResetTo,
    /// Without it the group only goes back: where it would go forward, and so leave messages out, it stays.
    pub forward: bool,
}

/// Why a group was not moved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResetError {
    /// No such topic (17).
    #[error("the topic {0} does not exist on this broker; check its name")]
    TopicNotFound(Topic),
    /// No such group (26).
    #[error("the consumer group {0} does not exist on this broker; check its name")]
    GroupNotFound(Group),
    /// The topic has no such queue (29).
    #[error("the topic {topic} has {queues} queues to read, {queue_id} is none of them")]
    QueueId {
        /// The topic.
        topic: Topic,
        /// Its read queues.
        queues: u32,
        /// What was asked for.
        queue_id: i32,
    },
    /// The queue does not reach there (29).
    #[error("the queue {topic}/{queue_id} has the offsets {min} to {max}, {offset} is none of them")]
    Offset {
        /// The topic.
        topic: Topic,
        /// The queue.
        queue_id: i32,
        /// What was asked for.
        offset: i64,
        /// First offset.
        min: QueueOffset,
        /// One past the last.
        max: QueueOffset,
    },
    /// The store could not find the time (1).
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The group has moved, but the log has not taken it: a restart would undo it.
    #[error("the new offsets were not stored: {0}")]
    Store(#[from] AppendError),
}

/// Called once with the group's offset in each queue, when they are stored.
pub type ResetDone = Box<dyn FnOnce(Result<BTreeMap<QueueId, QueueOffset>, ResetError>) + Send>;

/// What becomes of a group in one queue.
struct Place {
    queue: QueueRef,
    offset: QueueOffset,
    /// It is not moved: its members read on where they are, though that may be ahead of what it has committed.
    stays: bool,
}

impl Delivery {
    /// Moves a group in a topic's queues, its members included. `done` comes when the log has it.
    pub fn reset_offsets(&self, reset: &OffsetReset, done: ResetDone) {
        let places = match self.reset_places(reset) {
            Ok(places) => places,
            Err(error) => return done(Err(error)),
        };
        let now = self.env.clock.monotonic();
        for Place { queue, offset, .. } in places.iter().filter(|place| !place.stays) {
            self.offsets().reset(&reset.group, &reset.topic, queue.id(), *offset, now);
        }
        // First all are set, then members learn of it: what they ask next must meet the new place.
        for Place { queue, .. } in places.iter().filter(|place| !place.stays) {
            self.redirect_held(queue, &reset.group);
        }
        // The offsets of queues where it stays are told too.
        let told = places.iter().map(|place| (reset.group.clone(), reset.topic.clone(), place.queue.id())).collect();
        let moved = places.into_iter().map(|place| (place.queue.id(), place.offset)).collect();
        self.offsets().settle(told, Box::new(move |stored| done(stored.map(|()| moved).map_err(ResetError::from))));
    }

    fn reset_places(&self, reset: &OffsetReset) -> Result<Vec<Place>, ResetError> {
        let topic = self.topics().get(reset.topic.as_str()).ok_or_else(|| ResetError::TopicNotFound(reset.topic.clone()))?;
        // Not made on demand: a name that was mistyped must not become a group.
        self.groups().get(reset.group.as_str()).ok_or_else(|| ResetError::GroupNotFound(reset.group.clone()))?;
        let wrong = |queue_id| ResetError::QueueId { topic: reset.topic.clone(), queues: topic.read_queues, queue_id };
        let queues = match reset.queue_id {
            Some(id) if u32::try_from(id).is_ok_and(|id| id < topic.read_queues) => id..id + 1,
            Some(id) => return Err(wrong(id)),
            None => 0..topic.read_queues.cast_signed(),
        };
        queues
            .map(|id| {
                let queue = self.topics().queue_to_read(reset.topic.as_str(), id).ok().flatten().ok_or_else(|| wrong(id))?;
                let wanted = self.reset_place(reset, id, &queue)?;
                let now = self.offsets().newest(reset.group.as_str(), reset.topic.as_str(), queue.id());
                let stays = now.filter(|now| !reset.forward && *now < wanted);
                Ok(Place { queue, offset: stays.unwrap_or(wanted), stays: stays.is_some() })
            })
            .collect()
    }

    fn reset_place(&self, reset: &OffsetReset, queue_id: i32, queue: &QueueRef) -> Result<QueueOffset, ResetError> {
        let bounds = queue.visible();
        match reset.to {
            ResetTo::End => Ok(bounds.max),
            ResetTo::Time(ms) => Ok(self.store().offset_by_time(queue, ms, TimeBoundary::Lower)?),
            ResetTo::Offset(offset) => {
                let found = QueueOffset::from_wire(offset).filter(|offset| (bounds.min..=bounds.max).contains(offset));
                found.ok_or_else(|| ResetError::Offset { topic: reset.topic.clone(), queue_id, offset, min: bounds.min, max: bounds.max })
            }
        }
    }
}
