//! Who is connected: producers and consumers by group, from their heartbeats.

use crate::{Counters, delivery::ClientPush, filter::Subscription};
use ahash::AHashMap;
use parking_lot::Mutex;
use sluice_env::{Clock, Monotonic};
use sluice_protocol::Language;
use sluice_types::{Group, Topic};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// A connection, numbered by the server and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A client, as its heartbeat and its connection describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The id it gave itself.
    pub client_id: String,
    /// Its connection.
    pub connection: ConnectionId,
    /// Its address.
    pub address: SocketAddr,
    /// Its language.
    pub language: Language,
    /// Its version's number.
    pub version: i32,
}

/// How a group consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeType {
    /// The application pulls.
    Actively,
    /// The client pulls for a listener.
    Passively,
    /// The broker hands messages out.
    Pop,
}

/// Whether a group shares the messages or each member gets all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageModel {
    /// Each member gets all messages and keeps its own offsets.
    Broadcasting,
    /// The members share the queues.
    Clustering,
}

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFromWhere {
    /// At the end.
    LastOffset,
    /// At the beginning.
    FirstOffset,
    /// At a time.
    Timestamp,
}

impl ConsumeType {
    /// Reads the wire's name (`CONSUME_PASSIVELY`); what is not known counts as passive.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "CONSUME_ACTIVELY" => Self::Actively,
            "CONSUME_POP" => Self::Pop,
            _ => Self::Passively,
        }
    }

    /// The wire's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Actively => "CONSUME_ACTIVELY",
            Self::Passively => "CONSUME_PASSIVELY",
            Self::Pop => "CONSUME_POP",
        }
    }
}

impl MessageModel {
    /// Reads the wire's name; what is not known counts as clustering.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name == "BROADCASTING" { Self::Broadcasting } else { Self::Clustering }
    }

    /// The wire's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcasting => "BROADCASTING",
            Self::Clustering => "CLUSTERING",
        }
    }
}

impl ConsumeFromWhere {
    /// Reads the wire's name; what is not known counts as the end.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "CONSUME_FROM_FIRST_OFFSET" | "CONSUME_FROM_MIN_OFFSET" => Self::FirstOffset,
            "CONSUME_FROM_TIMESTAMP" => Self::Timestamp,
            _ => Self::LastOffset,
        }
    }

    /// The wire's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastOffset => "CONSUME_FROM_LAST_OFFSET",
            Self::FirstOffset => "CONSUME_FROM_FIRST_OFFSET",
            Self::Timestamp => "CONSUME_FROM_TIMESTAMP",
        }
    }
}

/// What a consumer's heartbeat says about one of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerHeartbeat {
    /// The group.
    pub group: Group,
    /// How it consumes.
    pub consume_type: ConsumeType,
    /// Whether members share.
    pub model: MessageModel,
    /// Where it starts.
    pub from_where: ConsumeFromWhere,
    /// What it wants.
    pub subscriptions: Vec<Subscription>,
}

/// A consumer group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupView {
    /// The group.
    pub group: Group,
    /// How it consumes.
    pub consume_type: ConsumeType,
    /// Whether members share.
    pub model: MessageModel,
    /// Where it starts.
    pub from_where: ConsumeFromWhere,
    /// What it wants, by topic.
    pub subscriptions: Vec<Subscription>,
    /// Its members, by client id.
    pub members: Vec<ClientInfo>,
}
