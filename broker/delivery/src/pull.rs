//! Pulling: reading a queue for a consumer, now or when a message arrives.

use crate::{
    Counters, Delivery,
    clients::ConnectionId,
    filter::{FilterError, Subscription},
    groups::GroupError,
    topics::TopicError,
};
use bytes::Bytes;
use sluice_store::{QueueBounds, ReadError, ReadLimits, queue_index::QueueRef};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::{sync::Arc, time::Duration};
use thiserror::Error;

/// One pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The consumer's group.
    pub group: Group,
    /// Topic.
    pub topic: Topic,
    /// Queue.
    pub queue_id: i32,
    /// First queue offset wanted. Outside the queue's bounds it is moved.
    pub offset: i64,
    /// Most messages wanted.
    pub max_messages: u32,
    /// Most bytes wanted, if the client says so.
    pub max_bytes: Option<usize>,
    /// An offset to commit for the group on the way.
    pub commit_offset: Option<i64>,
    /// How long to hold the pull when nothing is there; `None` answers at once.
    pub suspend: Option<Duration>,
    /// The subscription, when the request carries one; else the heartbeat's is taken.
    pub subscription: Option<Subscription>,
    /// The version of the subscription that the client means, 0 for any. A heartbeat older than it is refused.
    pub subscription_version: i64,
    /// The connection; its end drops a held pull.
    pub connection: ConnectionId,
}

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages (0).
    Found,
    /// Nothing yet (19).
    NoNewMessage,
    /// Messages, but none that the subscription wants (20): go on at `next`.
    NoMatched,
    /// The offset lay outside the queue (21): go on at `next`.
    OffsetMoved,
}

/// A pull's result.
#[derive(Clone, Debug)]
pub struct PullOutcome {
    /// What was found.
    pub status: PullStatus,
    /// The status in upstream's words, for the reply's remark: `FOUND`, `OFFSET_TOO_SMALL` …
    pub remark: &'static str,
    /// Where to go on.
    pub next: QueueOffset,
    /// The queue's bounds.
    pub bounds: QueueBounds,
    /// Records as stored. Neighbours are one slice.
    pub slices: Vec<Bytes>,
    /// How many records there are.
    pub messages: u32,
    /// Their bytes.
    pub bytes: usize,
    /// The topic's flag.
    pub topic_sys_flag: i32,
    /// The group's flag.
    pub group_sys_flag: i32,
}

/// Why a pull was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PullError {
    /// No such topic (17).
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// No such group (26).
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Topic not readable, or the group may not consume (16).
    #[error("{0}")]
    NoPermission(String),
    /// The topic has no such queue (29).
    #[error("the topic {topic} has {queues} queues to read, {queue_id} is none of them; look up the route again")]
    QueueId {
        /// The topic.
        topic: Topic,
        /// Its read queues.
        queues: u32,
        /// The queue asked for.
        queue_id: i32,
    },
    /// The group has sent no heartbeat with a subscription for the topic (24).
    #[error("the group {0} has no subscription for {1}; send a heartbeat first")]
    NoSubscription(Group, Topic),
    /// The heartbeat's subscription is older than the one the pull means (25).
    #[error("the group {group}'s subscription has version {have}, the pull means {want}; send a heartbeat")]
    SubscriptionOutdated {
        /// The group.
        group: Group,
        /// Known here.
        have: i64,
        /// Meant by the client.
        want: i64,
    },
    /// The expression is no filter that is served (23).
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Too many pulls are held (209); pull again after a moment.
    #[error("the broker holds {0} pulls, more are not taken; pull again after a moment")]
    PollingFull(usize),
    /// The store could not read (1).
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The broker is stopping (14).
    #[error("the broker is stopping")]
    Stopped,
}

/// What a pull is answered with.
pub type PullReply = Result<PullOutcome, PullError>;
/// Called once with a pull's answer, perhaps much later.
pub type PullDone = Box<dyn FnOnce(PullReply) + Send>;
