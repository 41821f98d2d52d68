//! Sending: what is checked before a message reaches the log, and what the producer learns.

use crate::{
    Counters, Delivery,
    topics::{SCHEDULE_TOPIC, TopicConfig, TopicError, TopicState},
};
use bytes::Bytes;
use sluice_protocol::{
    batch,
    message_id::OffsetMessageId,
    properties::{self, PROPERTIES_BYTES_MAX, PropertiesError},
    record::{CRC_PROPERTY_BYTES, RecordError, RecordFields, sys_flag},
};
use sluice_store::{AppendError, Batch, Placed, Wait, queue_index::QueueRef};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::{borrow::Cow, net::SocketAddr};
use thiserror::Error;

/// One send: a message, or several in a batch.
#[derive(Clone, Debug)]
pub struct SendRequest<'a> {
    /// Topic.
    pub topic: &'a str,
    /// The queue, or negative for the broker's choice.
    pub queue_id: i32,
    /// The producer's group.
    pub group: &'a str,
    /// The topic whose settings a topic made on demand takes; normally `TBW102`.
    pub default_topic: &'a str,
    /// Queues the client wants for a topic made on demand.
    pub default_queue_count: u32,
    /// See [`sys_flag`].
    pub sys_flag: i32,
    /// When the producer made it, ms since 1970.
    pub born_timestamp: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// The application's flag.
    pub flag: i32,
    /// Properties as sent.
    pub properties: &'a str,
    /// The body; for a batch, the messages one after another.
    pub body: Bytes,
    /// How often a consumer has failed on it (sends into a retry topic).
    pub reconsume_times: i32,
    /// Attempts after which it is given up, if the client says so.
    pub max_reconsume_times: Option<i32>,
    /// Whether the body is a batch.
    pub batch: bool,
    /// Whether the producer is in unit mode.
    pub unit_mode: bool,
}

/// Where a send's messages came to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    /// The queue in the topic the producer named, also for a delayed message.
    pub queue_id: i32,
    /// Queue offset of the first message, in the queue where it lies.
    pub first_queue_offset: QueueOffset,
    /// Each message's place.
    pub placed: Vec<Placed>,
    /// Offset message ids, separated by commas: the reply's `msgId`.
    pub message_ids: String,
}

/// Why a send was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The topic does not exist and may not be made (17), has an illegal name (29), or could not be made.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Producers may not write to the topic (16).
    #[error("the topic {0} may not be written")]
    NoPermission(String),
    /// The topic has no such queue (29, upstream 1).
    #[error("the topic {topic} has {queues} queues, {queue_id} is none of them; look up the route again")]
    QueueId {
        /// The topic.
        topic: String,
        /// Its write queues.
        queues: u32,
        /// The queue asked for.
        queue_id: i32,
    },
    /// Body or properties too large, or unreadable (13).
    #[error("the message is illegal: {0}")]
    Illegal(String),
    /// A transactional message (16): not served by this version.
    #[error("transactional messages are not supported by this broker")]
    Transaction,
    /// A timer message with an arbitrary delay (13): not served by this version.
    #[error("timer messages are not supported by this broker; use a delay level (property DELAY)")]
    Timer,
    /// A send into a retry topic whose group does not exist (26).
    #[error("the consumer group {0} does not exist; create it, or switch on the automatic creation of groups")]
    GroupNotFound(String),
    /// Stored, but not flushed in time (10): the receipt is given to the producer with the code.
    #[error("stored at queue offset {}, but not flushed within the deadline", .0.first_queue_offset)]
    FlushTimeout(SendReceipt),
    /// The store refused: queue full (2), disk full (14), poisoned (1), stopping (14).
    #[error(transparent)]
    Store(AppendError),
}

/// Called once with what became of a send.
pub type SendDone = Box<dyn FnOnce(Result<SendReceipt, SendError>) + Send>;
