//! What can go wrong, and what to do about it.

use sluice_protocol::{EncodeError, RequestCode, ResponseCode};
use sluice_types::NameError;
use std::time::Duration;

/// Whether a failed request may succeed when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No: the request itself is at fault.
    Never,
    /// Yes, on the same broker.
    SameBroker,
    /// Yes, but better on another broker.
    Reroute,
}

/// Why a request has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made.
    #[error("cannot connect to {addr}: {reason}; check that a server listens there and that the address is right")]
    Unreachable {
        /// Where to.
        addr: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended before the answer came. A send may or may not have been stored.
    #[error("the connection to {addr} ended before {request} was answered: {reason}; send again if a duplicate does no harm")]
    Closed {
        /// The peer.
        addr: String,
        /// What was asked.
        request: String,
        /// Why it ended.
        reason: String,
    },
    /// No answer in time. A send may or may not have been stored.
    #[error("{addr} has not answered {request} within {after:?}; it may be overloaded: send again later or raise the timeout")]
    Timeout {
        /// The peer.
        addr: String,
        /// What was asked.
        request: String,
        /// How long was waited.
        after: Duration,
    },
    /// Too much waits to be written.
    #[error("too much waits to be sent to {addr}; send more slowly or raise outbox_bytes_max and in_flight_max")]
    Backlogged {
        /// The peer.
        addr: String,
    },
    /// The server said no.
    #[error("{addr} refused {request}: {} ({code}){}{}", code_name(*.code), first_line(.remark), advice(*.code))]
    Refused {
        /// The peer.
        addr: String,
        /// What was asked.
        request: String,
        /// The answer's code.
        code: i32,
        /// The answer's words.
        remark: String,
    },
    /// The topic has no route.
    #[error("the topic {topic} does not exist at {namesrv}; create it with `sluice topic create {topic}`, or check the name and the name server")]
    TopicNotFound {
        /// Topic.
        topic: String,
        /// Who was asked.
        namesrv: String,
    },
    /// The topic exists, but no broker with it may be written, or the queue asked for is not there.
    #[error("the topic {topic} has no queue to {purpose}{}; `sluice topic route {topic}` shows its permission and queue count, `sluice topic update {topic}` changes them", with_number(*.queue))]
    NoQueue {
        /// Topic.
        topic: String,
        /// `read` or `write`.
        purpose: &'static str,
        /// The queue asked for, if one was.
        queue: Option<u32>,
    },
    /// Nothing has that key or id.
    #[error("no message has {what}; check topic and spelling, and whether retention has removed it")]
    NoMessage {
        /// What was looked for.
        what: String,
    },
    /// A group's offsets were reset, but are not where they were put.
    #[error("the reset of group {group} in topic {topic} does not hold: {queues}; stop the group's members, then reset again")]
    ResetUndone {
        /// Topic.
        topic: String,
        /// Group.
        group: String,
        /// The queues where it does not hold, and where the group is in each.
        queues: String,
    },
    /// The server's answer can't be read.
    #[error("{addr} answered {request} with something that can't be read: {reason}; is it a RocketMQ-compatible server?")]
    Malformed {
        /// The peer.
        addr: String,
        /// What was asked.
        request: String,
        /// What is wrong.
        reason: String,
    },
    /// The request can't be written.
    #[error("the request cannot be written: {0}")]
    Encode(#[from] EncodeError),
    /// A name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The message can't be sent as it is.
    #[error("the message cannot be sent: {0}")]
    Message(String),
    /// No name server was given.
    #[error("no name server was given; pass --namesrv HOST:PORT or set SLUICE_NAMESRV")]
    NoNameServer,
}

fn code_name(code: i32) -> &'static str {
    ResponseCode::from_wire(code).map_or("unknown code", ResponseCode::name)
}

fn first_line(remark: &str) -> String {
    // Java servers append a stack trace: the first line says it all.
    let line = remark.lines().next().unwrap_or("").trim();
    if line.is_empty() { String::new() } else { format!(": {}", line.chars().take(300).collect::<String>()) }
}

fn with_number(queue: Option<u32>) -> String {
    queue.map_or_else(String::new, |id| format!(" with number {id}"))
}

fn advice(code: i32) -> &'static str {
    match ResponseCode::from_wire(code) {
        Some(ResponseCode::SystemBusy | ResponseCode::FlowControl) => "; the broker is overloaded: send again later",
        Some(ResponseCode::TopicNotExist) => "; create the topic with `sluice topic create`",
        Some(ResponseCode::SubscriptionGroupNotExist) => "; `sluice group list` shows the groups there are, `sluice group create` makes one",
        Some(ResponseCode::NoPermission) => "; give the permission with `sluice topic update TOPIC --perm rw` or `sluice group update GROUP --enabled true`",
        Some(ResponseCode::MessageIllegal) => "; the message is too large or malformed",
        Some(ResponseCode::ServiceNotAvailable) => "; the broker is a replica, is stopping, or its disk is full: look at its health endpoint",
        Some(ResponseCode::RequestCodeNotSupported) => "; this server does not know the request",
        _ => "",
    }
}

impl ClientError {
    /// A refusal with this code?
    #[must_use]
    pub fn is_refusal(&self, wanted: ResponseCode) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted.to_wire())
    }

    /// Whether what was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        // Without a queue's number it is not the queue that is missing, but the permission.
        matches!(self, Self::TopicNotFound { .. } | Self::NoQueue { queue: Some(_), .. } | Self::NoMessage { .. })
            || [ResponseCode::TopicNotExist, ResponseCode::QueryNotFound, ResponseCode::SubscriptionGroupNotExist].iter().any(|code| self.is_refusal(*code))
    }

    /// Whether no server could be reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Closed { .. } | Self::Timeout { .. })
    }

    /// What to do with the request.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Closed { .. } | Self::Timeout { .. } => Retry::Reroute,
            Self::Backlogged { .. } => Retry::SameBroker,
            Self::Refused { code, .. } => retry_of(*code),
            _ => Retry::Never,
        }
    }
}

/// The codes on which the official producers try another broker.
fn retry_of(code: i32) -> Retry {
    match ResponseCode::from_wire(code) {
        Some(
            ResponseCode::SystemError
            | ResponseCode::SystemBusy
            | ResponseCode::ServiceNotAvailable
            | ResponseCode::NoPermission
            | ResponseCode::TopicNotExist
            | ResponseCode::NoBuyerId
            | ResponseCode::NotInCurrentUnit
            | ResponseCode::GoAway,
        ) => Retry::Reroute,
        Some(ResponseCode::FlowControl | ResponseCode::PullRetryImmediately | ResponseCode::PollingFull) => Retry::SameBroker,
        _ => Retry::Never,
    }
}

/// What a request is called in an error.
pub(crate) fn request_name(code: i32) -> String {
    RequestCode::from_wire(code).map_or_else(|| format!("request {code}"), |code| code.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_peer_request_reason_and_remedy() {
        let error = ClientError::Refused { addr: "h:1".into(), request: "SendMessageV2".into(), code: 2, remark: "[TIMEOUT_CLEAN_QUEUE] busy\n at X".into() };
        assert_eq!(error.to_string(), "h:1 refused SendMessageV2: SystemBusy (2): [TIMEOUT_CLEAN_QUEUE] busy; the broker is overloaded: send again later");
        assert_eq!(error.retry(), Retry::Reroute);
    }

    #[test]
    fn a_message_that_is_illegal_is_not_sent_again() {
        let error = ClientError::Refused { addr: String::new(), request: String::new(), code: ResponseCode::MessageIllegal.to_wire(), remark: String::new() };
        assert_eq!(error.retry(), Retry::Never);
    }
}
