//! Messages that a consumer gives back: again later, or into the dead letters.

use crate::{Counters, Delivery, groups::GroupError, send::Message, topics::TopicError};
use sluice_env::broken;
use sluice_protocol::{message_id::OffsetMessageId, properties, record::RecordView};
use sluice_store::{AppendError, Batch, ReadError, Wait};
use sluice_types::{CommitLogOffset, Group, NameError, Topic};
use thiserror::Error;

/// A message given back (36).
#[derive(Clone, Debug)]
pub struct SendBackRequest {
    /// The group that failed on it.
    pub group: Group,
    /// Commit log offset of the record.
    pub offset: i64,
    /// 0: the next level by the number of attempts; 1 to 18: that level; negative: straight into the dead letters.
    pub delay_level: i32,
    /// Attempts after which it is given up; `None` takes the group's.
    pub max_reconsume_times: Option<i32>,
    /// Whether the consumer is in unit mode.
    pub unit_mode: bool,
}

/// Why a message was not taken back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendBackError {
    /// No such group (26).
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The group's name leaves no room for the retry topic's (13).
    #[error(transparent)]
    Name(#[from] NameError),
    /// The retry or dead-letter topic could not be made (1).
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The retry or dead-letter topic may not be written (16).
    #[error("the topic {0} may not be written")]
    NoPermission(String),
    /// No such record, or it cannot be read (1).
    #[error("the message at commit log offset {offset} cannot be given back: {error}")]
    Original {
        /// The offset asked for.
        offset: i64,
        /// What the store said.
        error: ReadError,
    },
    /// The record cannot be written again (13).
    #[error("the message at commit log offset {offset} cannot be written again: {reason}")]
    Illegal {
        /// The offset asked for.
        offset: i64,
        /// Why not.
        reason: String,
    },
    /// The store refused (1, 2, 14).
    #[error(transparent)]
    Store(#[from] AppendError),
}

/// Called once with what became of a message given back.
pub type SendBackDone = Box<dyn FnOnce(Result<(), SendBackError>) + Send>;

/// Where a message given back came from at first.
const RETRY_TOPIC: &str = "RETRY_TOPIC";
/// The offset message id it had at first.
const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";

impl Delivery {
    /// Takes a message back from a consumer. `done` comes when it is stored for its next attempt, or among the dead letters.
    pub fn send_back(&self, request: SendBackRequest, done: SendBackDone) {
        let counters = self.counters.clone();
        match self.encode_back(&request) {
            Err(error) => done(Err(error)),
            Ok(_) if broken("a message sent back is forgotten") => done(Ok(())),
            // The group keeps no retries: what it gives back is gone, by its own settings.
            Ok(None) => done(Ok(())),
            Ok(Some((batch, dead))) => self.store().submit(
                batch,
                Wait::Durable,
                Box::new(move |result| {
                    if result.is_ok() {
                        Counters::add(if dead { &counters.dead_letters } else { &counters.sent_back }, 1);
                    }
                    done(result.map(|_| ()).map_err(SendBackError::Store));
                }),
            ),
        }
    }

    fn encode_back(&self, request: &SendBackRequest) -> Result<Option<(Batch, bool)>, SendBackError> {
        let group = self.groups().ensure(&request.group)?;
        if group.retry_queue_nums == 0 {
            return Ok(None);
        }
        let offset = request.offset;
        let original = |error| SendBackError::Original { offset, error };
        let place = CommitLogOffset::from_wire(offset).ok_or_else(|| original(ReadError::NotFound(CommitLogOffset::ZERO)))?;
        let record = self.store().record_at(place).map_err(original)?;
        let view = RecordView::parse(&record).map_err(|_| original(ReadError::Corrupt(place)))?;
        let max = request.max_reconsume_times.unwrap_or(group.retry_max_times);
        let dead = request.delay_level < 0 || view.reconsume_times() >= max;

        let topic = match dead {
            true => self.topics().internal(Topic::dead_letters_of(&request.group)?, 1, 0)?,
            false => self.topics().retry_topic(&request.group, group.retry_queue_nums, request.unit_mode)?,
        };
        let missing = || SendBackError::NoPermission(topic.config.name.to_string());
        if !topic.config.writable() {
            return Err(missing());
        }
        let mut queue = topic.queue(self.store(), topic.next_queue()).cloned().ok_or_else(missing)?;
        let mut properties = history(&view);
        if dead {
            properties::remove(&mut properties, properties::DELAY_LEVEL);
        } else if !broken("a message that failed comes at once") {
            let level = if request.delay_level == 0 { view.reconsume_times().saturating_add(3) } else { request.delay_level };
            queue = self.delay_queue(level, &queue, &mut properties);
        }
        let message = Message {
            flag: view.flag(),
            sys_flag: view.sys_flag(),
            born_timestamp: view.born_timestamp(),
            born_host: view.born_host(),
            reconsume_times: view.reconsume_times().saturating_add(i32::from(!broken("a failure is not counted"))),
            body: view.body(),
            properties: properties.into(),
        };
        let mut batch = Batch::new();
        self.push(&mut batch, &queue, &message).map_err(|error| SendBackError::Illegal { offset, reason: error.to_string() })?;
        Ok(Some((batch, dead)))
    }
}

/// The properties, with a note of where the message came from at first.
fn history(view: &RecordView<'_>) -> String {
    let mut properties = view.user_properties().to_owned();
    if properties::get(&properties, RETRY_TOPIC).is_none() {
        properties::push(&mut properties, RETRY_TOPIC, view.topic());
    }
    if properties::get(&properties, ORIGIN_MESSAGE_ID).is_none_or(|id| id.trim().is_empty()) {
        let id = OffsetMessageId { store_host: view.store_host(), log_offset: view.log_offset() as i64 };
        properties::set(&mut properties, ORIGIN_MESSAGE_ID, &id.encode());
    }
    properties
}
