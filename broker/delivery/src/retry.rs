//! Messages that a consumer gives back: again later, or into the dead letters.

use crate::{Counters, Delivery, groups::GroupError, topics::{TopicConfig, TopicError}};
use sluice_store::{AppendError, ReadError};
use sluice_types::{Group, NameError};
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
