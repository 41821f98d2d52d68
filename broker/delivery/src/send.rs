//! Sending: what is checked before a message reaches the log, and what the producer learns.

use crate::{
    Counters, Delivery,
    topics::{TopicConfig, TopicError, TopicState},
    transaction::{HalfSend, TRANSACTION},
};
use bytes::Bytes;
use sluice_protocol::{
    batch,
    message_id::OffsetMessageId,
    properties::{self, PROPERTIES_BYTES_MAX},
    record::{CRC_PROPERTY_BYTES, RecordError, RecordFields, sys_flag},
};
use sluice_store::{AppendError, Batch, Late, Placed, Rule, Wait, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, Group, QueueOffset, Topic};
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
    /// See [`sluice_protocol::record::sys_flag`].
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
    /// The queue in the topic the producer named, also for a delayed message and a half message.
    pub queue_id: i32,
    /// Queue offset of the first message, in the queue where it lies: for a half message the one that ends its transaction.
    pub first_queue_offset: QueueOffset,
    /// Each message's place.
    pub placed: Vec<Placed>,
    /// Offset message ids, separated by commas: the reply's `msgId`.
    pub message_ids: String,
    /// Of a half message: its transaction's id, which is the unique key that the client gave it.
    pub transaction_id: Option<String>,
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
    /// As many transactions are open as may be (2).
    #[error("{0} transactions are open, more are not taken; end some, or send to another broker (transaction.open_max)")]
    TransactionsFull(usize),
    /// A timer message with an arbitrary delay (13): not served by this version.
    #[error("timer messages are not supported by this broker; use a delay level (property DELAY)")]
    Timer,
    /// A send into a retry topic whose group does not exist (26).
    #[error("the consumer group {0} does not exist; create it, or switch on the automatic creation of groups")]
    GroupNotFound(String),
    /// Stored, but not flushed (10) or not confirmed (12) in time: the receipt is given to the producer with the code.
    #[error("stored at queue offset {offset}, but not {late} within the deadline", late = .0, offset = .1.first_queue_offset)]
    Late(Late, SendReceipt),
    /// The store refused: queue full (2), disk full (14), poisoned (1), stopping (14).
    #[error(transparent)]
    Store(AppendError),
}

/// A send that has passed its checks.
struct Encoded {
    batch: Batch,
    /// The queue that the producer is told.
    queue_id: i32,
    wait: Wait,
    half: Option<HalfSend>,
}

/// Called once with what became of a send.
pub type SendDone = Box<dyn FnOnce(Result<SendReceipt, SendError>) + Send>;

/// Marks of a timer message.
const TIMERS: [&str; 3] = ["TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"];
/// Where a waiting message is to go.
pub(crate) const REAL_TOPIC: &str = "REAL_TOPIC";
/// The queue there.
pub(crate) const REAL_QUEUE: &str = "REAL_QID";
/// Most messages in one batch.
const BATCH_MESSAGES_MAX: usize = 4096;

/// What routing decides: the topic and queue where the record is going to lie, and the level it waits at.
struct Route {
    topic: std::sync::Arc<TopicState>,
    queue_id: u32,
    dead: bool,
}

impl Delivery {
    /// Takes a message, or a batch, towards the log. `done` is called once, perhaps before this returns.
    pub fn send(&self, request: SendRequest<'_>, done: SendDone) {
        let counters = self.counters.clone();
        let Encoded { batch, queue_id, wait, half } = match self.encode(&request) {
            Ok(encoded) => encoded,
            Err(error) => {
                Counters::add(&counters.sends_failed, 1);
                return done(Err(error));
            }
        };
        let store_host = self.options().store_host;
        let stored = move |result: Result<Vec<Placed>, AppendError>| {
            let transaction_id = half.and_then(|half| half.stored(&result, &counters));
            let receipt = |placed| SendReceipt { transaction_id, ..receipt(queue_id, store_host, placed) };
            match result {
                Ok(placed) => {
                    Counters::add(&counters.messages_in, placed.len() as u64);
                    Counters::add(&counters.bytes_in, placed.iter().map(|p| u64::from(p.bytes)).sum());
                    done(Ok(receipt(placed)));
                }
                Err(error) => {
                    Counters::add(&counters.sends_failed, 1);
                    done(Err(match error {
                        AppendError::Late(late, placed) => SendError::Late(late, receipt(placed)),
                        other => SendError::Store(other),
                    }));
                }
            }
        };
        self.store().submit(batch, wait, Box::new(stored));
    }

    fn encode(&self, request: &SendRequest<'_>) -> Result<Encoded, SendError> {
        self.check_sizes(request)?;
        let marks = Marks::of(request.properties)?;
        let properties = marks.without_checksum(request.properties);
        let route = self.route(request)?;
        // Clients before 4.6.1 leave the mark on a message that they give back.
        if marks.transaction && !(request.reconsume_times > 0 && marks.delay.is_some()) {
            return self.encode_half(request, &route, &properties);
        }
        let delay = marks.delay.filter(|_| !route.dead);
        let mut batch = Batch::new();
        match (request.batch, delay) {
            (true, None) => self.push_batch(&mut batch, request, &route)?,
            (true, Some(_)) => return Err(SendError::Illegal("a batch cannot be delayed; send its messages one by one".to_owned())),
            (false, delay) => self.push_single(&mut batch, request, &route, &properties, delay)?,
        }
        let rule = rule_of(&route)?;
        let wait = if marks.early { self.topics().durability.at_once() } else { Wait::By(rule) };
        Ok(Encoded { batch, queue_id: route.queue_id as i32, wait, half: None })
    }

    /// A half message always waits for the other brokers, also without the producer waiting for it: its transaction may end the next moment.
    fn encode_half(&self, request: &SendRequest<'_>, route: &Route, properties: &str) -> Result<Encoded, SendError> {
        if request.batch {
            return Err(SendError::Illegal("a batch cannot be a transaction; send its messages one by one".to_owned()));
        }
        let wait = Wait::By(Rule { confirmed: true, ..rule_of(route)? });
        let (half, own) = self.half_of(request.group, properties, &self.queue_of(route)?).map_err(SendError::Illegal)?;
        let message = Message {
            flag: request.flag,
            sys_flag: request.sys_flag & !sys_flag::TRANSACTION_MASK,
            born_timestamp: request.born_timestamp,
            born_host: request.born_host,
            reconsume_times: request.reconsume_times,
            body: &request.body,
            properties: own.into(),
        };
        let mut batch = Batch::new();
        self.push(&mut batch, self.transactions.half_queue(), &message).map_err(illegal)?;
        self.check_half_bytes(batch.bytes()).map_err(SendError::Illegal)?;
        let Some(ticket) = self.transactions.reserve() else {
            Counters::add(&self.counters().transactions_refused, 1);
            return Err(SendError::TransactionsFull(self.options().transactions_open_max));
        };
        Ok(Encoded { batch, queue_id: route.queue_id as i32, wait, half: Some(half.with(ticket)) })
    }

    fn check_sizes(&self, request: &SendRequest<'_>) -> Result<(), SendError> {
        let max = self.options().message_bytes_max;
        if request.body.len() > max {
            return Err(SendError::Illegal(format!("a body of {} bytes, the limit is {max}", request.body.len())));
        }
        // One separator may have to be added, and the checksum needs its room.
        let max = PROPERTIES_BYTES_MAX - CRC_PROPERTY_BYTES - 1;
        if request.properties.len() > max {
            return Err(SendError::Illegal(format!("properties of {} bytes, the limit is {max}", request.properties.len())));
        }
        Ok(())
    }

    fn route(&self, request: &SendRequest<'_>) -> Result<Route, SendError> {
        let topic = self.topics().for_send(request.topic, request.default_topic, request.default_queue_count, request.unit_mode)?;
        if !topic.config.writable() {
            return Err(SendError::NoPermission(request.topic.to_owned()));
        }
        let queues = topic.config.write_queues;
        let queue_id = match u32::try_from(request.queue_id) {
            Err(_) => topic.next_queue(),
            Ok(id) if id < queues => id,
            Ok(_) => return Err(SendError::QueueId { topic: request.topic.to_owned(), queues, queue_id: request.queue_id }),
        };
        match topic.config.name.retry_group() {
            Some(_) if request.batch => Err(SendError::Illegal("a batch cannot go to a retry topic".to_owned())),
            Some(group) => self.route_retry(request, &group, Route { topic, queue_id, dead: false }),
            None => Ok(Route { topic, queue_id, dead: false }),
        }
    }

    /// A client sends into a retry topic when it could not give a message back: too many attempts lead to the dead letters here too.
    fn route_retry(&self, request: &SendRequest<'_>, group: &Group, route: Route) -> Result<Route, SendError> {
        let config = self.groups().ensure(group).map_err(|_| SendError::GroupNotFound(group.to_string()))?;
        // A group that consumes in order retries in place: what it sends here, it has given up on.
        let given_up = request.reconsume_times > request.max_reconsume_times.unwrap_or(config.retry_max_times) || self.locks().any(group);
        if !given_up {
            return Ok(route);
        }
        let topic = self.topics().internal(Topic::dead_letters_of(group).map_err(TopicError::from)?, 1, 0)?;
        if !topic.config.writable() {
            return Err(SendError::NoPermission(topic.config.name.to_string()));
        }
        Counters::add(&self.counters().dead_letters, 1);
        Ok(Route { queue_id: topic.next_queue(), topic, dead: true })
    }

    fn push_single(&self, batch: &mut Batch, request: &SendRequest<'_>, route: &Route, properties: &str, delay: Option<i32>) -> Result<(), SendError> {
        let own = self.queue_of(route)?;
        let mut message = Message {
            flag: request.flag,
            sys_flag: request.sys_flag,
            born_timestamp: request.born_timestamp,
            born_host: request.born_host,
            reconsume_times: request.reconsume_times,
            body: &request.body,
            properties: Cow::Borrowed(properties),
        };
        match delay {
            None => self.push(batch, &own, &message),
            Some(level) => {
                let queue = self.delay_queue(level, &own, message.properties.to_mut());
                Counters::add(&self.counters().delayed_in, 1);
                self.push(batch, &queue, &message)
            }
        }
        .map_err(illegal)
    }

    fn push_batch(&self, batch: &mut Batch, request: &SendRequest<'_>, route: &Route) -> Result<(), SendError> {
        let queue = self.queue_of(route)?;
        for inner in batch::decode(&request.body, BATCH_MESSAGES_MAX) {
            let inner = inner.map_err(|error| SendError::Illegal(error.to_string()))?;
            let marks = Marks::of(inner.properties)?;
            if marks.transaction {
                return Err(SendError::Illegal("a batch cannot hold half messages; send them one by one".to_owned()));
            }
            let properties = marks.without_checksum(inner.properties);
            let message = Message {
                flag: inner.flag,
                sys_flag: request.sys_flag,
                born_timestamp: request.born_timestamp,
                born_host: request.born_host,
                reconsume_times: request.reconsume_times,
                body: inner.body,
                properties,
            };
            self.push(batch, &queue, &message).map_err(illegal)?;
        }
        if batch.records() == 0 {
            return Err(SendError::Illegal("the batch is empty".to_owned()));
        }
        Ok(())
    }

    fn queue_of(&self, route: &Route) -> Result<QueueRef, SendError> {
        let config: &TopicConfig = &route.topic.config;
        route.topic.queue(self.store(), route.queue_id).cloned().ok_or_else(|| SendError::QueueId {
            topic: config.name.to_string(),
            queues: config.write_queues,
            queue_id: route.queue_id as i32,
        })
    }

    /// The queue where a message waits for `target`; its properties are told where it is to go. A level above the last counts as the last.
    pub(crate) fn delay_queue(&self, level: i32, target: &QueueRef, properties: &mut String) -> QueueRef {
        let level = (level.max(1) as usize).min(self.delay_queues.len().max(1));
        properties::set(properties, properties::DELAY_LEVEL, &level.to_string());
        properties::set(properties, REAL_TOPIC, target.topic().as_str());
        properties::set(properties, REAL_QUEUE, &target.id().to_string());
        self.delay_queues[level - 1].clone()
    }

    /// Encodes a message for a queue.
    pub(crate) fn push(&self, batch: &mut Batch, queue: &QueueRef, message: &Message<'_>) -> Result<(), RecordError> {
        self.push_copy(batch, queue, message, CommitLogOffset::ZERO)
    }

    /// The same for a message that lies in the log already, at `of`.
    pub(crate) fn push_copy(&self, batch: &mut Batch, queue: &QueueRef, message: &Message<'_>, of: CommitLogOffset) -> Result<(), RecordError> {
        let fields = RecordFields {
            topic: queue.topic().as_str(),
            queue_id: queue.id().to_wire(),
            flag: message.flag,
            sys_flag: message.sys_flag,
            born_timestamp: message.born_timestamp,
            born_host: message.born_host,
            store_host: self.options().store_host,
            reconsume_times: message.reconsume_times,
            prepared_transaction_offset: of.to_wire(),
            body: message.body,
            properties: &message.properties,
        };
        batch.push(queue, &fields)
    }
}

/// A message on its way into a queue.
pub(crate) struct Message<'a> {
    pub(crate) flag: i32,
    pub(crate) sys_flag: i32,
    pub(crate) born_timestamp: i64,
    pub(crate) born_host: SocketAddr,
    pub(crate) reconsume_times: i32,
    pub(crate) body: &'a [u8],
    pub(crate) properties: Cow<'a, str>,
}

/// What a message on that route waits for.
fn rule_of(route: &Route) -> Result<Rule, SendError> {
    let TopicState { config, rule, .. } = &*route.topic;
    rule.rule.ok_or_else(|| TopicError::Durability { topic: config.name.to_string(), why: rule.wrong.clone().unwrap_or_default() }.into())
}

fn illegal(error: RecordError) -> SendError {
    SendError::Illegal(error.to_string())
}

/// What the broker reads in a message's properties, found in one pass.
#[derive(Default)]
struct Marks {
    delay: Option<i32>,
    /// The producer does not wait for the durability rule.
    early: bool,
    /// A checksum is there, from a message that a client has received and sends again.
    checksum: bool,
    /// It is a half message.
    transaction: bool,
}

impl Marks {
    fn of(text: &str) -> Result<Self, SendError> {
        let mut marks = Self::default();
        for (name, value) in properties::iter(text) {
            match name {
                properties::DELAY_LEVEL => marks.delay = value.parse().ok().filter(|level| *level > 0),
                properties::WAIT => marks.early = value == "false",
                properties::CRC32 => marks.checksum = true,
                TRANSACTION => marks.transaction = value.eq_ignore_ascii_case("true"),
                _ if TIMERS.contains(&name) => return Err(SendError::Timer),
                _ => {}
            }
        }
        Ok(marks)
    }

    fn without_checksum<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.checksum {
            return Cow::Borrowed(text);
        }
        let mut own = text.to_owned();
        properties::remove(&mut own, properties::CRC32);
        Cow::Owned(own)
    }
}

fn receipt(queue_id: i32, store_host: SocketAddr, placed: Vec<Placed>) -> SendReceipt {
    let mut message_ids = String::with_capacity(placed.len() * 33);
    for place in &placed {
        if !message_ids.is_empty() {
            message_ids.push(',');
        }
        OffsetMessageId { store_host, log_offset: place.log_offset.to_wire() }.encode_to(&mut message_ids);
    }
    SendReceipt { queue_id, first_queue_offset: placed.first().map(|p| p.queue_offset).unwrap_or_default(), placed, message_ids, transaction_id: None }
}
