//! The broker's side of a process: its own delivery, or, for a member of a group that is not master, the way to the one that is.

use super::{
    BrokerProcessor, Outcome,
    forward::{Forwards, Here},
};
use crate::net::Connection;
use parking_lot::RwLock;
use sluice_group::runner::Member;
use sluice_protocol::{Frame, RequestCode as Code, ResponseCode};
use sluice_replication::Epoch;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

/// How long requests may take from their frame to the log at a change of role.
const END_TRIES: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(1);

/// Who handles the broker's requests now.
pub struct BrokerSide {
    here: RwLock<Option<Arc<BrokerProcessor>>>,
    group: Option<InGroup>,
}

struct InGroup {
    /// Set when it has started; until then nobody is served.
    member: OnceLock<Arc<Member>>,
    forwards: Arc<Forwards>,
    /// Where clients reach the group, whoever is master.
    address: SocketAddr,
}

/// By which a master knows, at an answer's time, that it was still master.
pub(super) struct Fence {
    member: Arc<Member>,
    epoch: Epoch,
    is_success_confirmed: bool,
}

impl Fence {
    /// Of a request whose success waits for the log, and is as good as that record's confirmation, whoever is master when it is told.
    pub(super) fn confirming_success(self) -> Self {
        Self { is_success_confirmed: true, ..self }
    }

    /// Whether its request's success waits for the log: then what is void has not been stored.
    pub(super) fn confirms_success(&self) -> bool {
        self.is_success_confirmed
    }

    /// Whether that may be told: it is no master's word, or a master still gives it.
    pub(super) fn lets_through(&self, outcome: &Outcome) -> bool {
        !is_masters_word(outcome, self.is_success_confirmed) || self.member.serves() == Some(self.epoch)
    }
}

/// Whether what a request came to is only right while this broker is master. An old one does not know of topics, groups, queues and offsets that came later, and would tell
/// a client that there are none; what it says of the request itself, or of a record that is stored and not confirmed yet, is right all the same.
fn is_masters_word(outcome: &Outcome, is_success_confirmed: bool) -> bool {
    match outcome {
        Ok(_) => !is_success_confirmed,
        Err(failure) => !matches!(
            failure.code,
            // Stored here. A client that is told to ask again would send it twice.
            ResponseCode::FlushDiskTimeout | ResponseCode::FlushSlaveTimeout | ResponseCode::SlaveNotAvailable
            // May be stored here, and is asked for again in any case; "busy" would say that it is not.
            | ResponseCode::SystemError
            // Wrong wherever it is asked.
            | ResponseCode::MessageIllegal | ResponseCode::SubscriptionParseFailed | ResponseCode::RequestCodeNotSupported
        ),
    }
}

impl BrokerSide {
    /// A broker that is alone.
    #[must_use]
    pub fn alone(processor: BrokerProcessor) -> Arc<Self> {
        Arc::new(Self { here: RwLock::new(Some(Arc::new(processor))), group: None })
    }

    /// A member of a group that clients reach at `address`. It is nothing yet.
    #[must_use]
    pub fn in_group(forwards: Arc<Forwards>, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { here: RwLock::default(), group: Some(InGroup { member: OnceLock::new(), forwards, address }) })
    }

    /// The member has started.
    pub fn set_member(&self, member: &Arc<Member>) {
        if let Some(group) = &self.group {
            // A second one is the same.
            let _ = group.member.set(Arc::clone(member));
        }
    }

    /// Who serves what has waited until this broker was master.
    pub(super) fn set_here(&self, here: Weak<dyn Here>) {
        if let Some(group) = &self.group {
            group.forwards.set_here(here);
        }
    }

    /// Handles requests here from now on, as long as the member serves.
    pub fn begin(&self, processor: Arc<BrokerProcessor>) {
        *self.here.write() = Some(processor);
    }

    /// Handles none here any more. Comes back when those that were being handled have been handed to the log, or after a moment.
    pub fn end(&self) {
        let Some(processor) = self.here.write().take() else { return };
        for _ in 0..END_TRIES {
            if Arc::strong_count(&processor) == 1 {
                return;
            }
            std::thread::sleep(END_PAUSE);
        }
        tracing::warn!("requests are still being handled though this broker is not master any more; the log takes nothing of them");
    }

    /// The member of the group, if it is in one and has started.
    pub(crate) fn member(&self) -> Option<&Arc<Member>> {
        self.group.as_ref().and_then(|group| group.member.get())
    }

    /// Where clients reach the group that it is in.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.group.as_ref().map(|group| group.address)
    }

    /// Who handles requests here, if that is so now.
    pub(super) fn master(&self) -> Option<(Arc<BrokerProcessor>, Option<Fence>)> {
        let processor = self.here.read().clone()?;
        let Some(group) = &self.group else { return Some((processor, None)) };
        let member = group.member.get()?;
        let epoch = member.serves()?;
        Some((processor, Some(Fence { member: Arc::clone(member), epoch, is_success_confirmed: false })))
    }

    /// The ways to whoever is master; `None`: there is no group.
    pub(super) fn forwards(&self) -> Option<&Arc<Forwards>> {
        self.group.as_ref().map(|group| &group.forwards)
    }

    /// Keeps what a client says of itself for a master to come.
    pub(super) fn remember(&self, connection: &Arc<Connection>, frame: &Frame) {
        let Some(group) = &self.group else { return };
        match frame.header.request_code() {
            Some(Code::HeartBeat) => group.forwards.remember(connection, frame),
            Some(Code::UnregisterClient) => group.forwards.forget(connection.id()),
            _ => {}
        }
    }

    /// Runs `body`, whose sends share one write.
    pub(super) fn corked(&self, body: &mut dyn FnMut()) {
        // Bound first: the lock must not be held while requests run.
        let here = self.here.read().clone();
        match here {
            Some(processor) => processor.delivery.store().corked(body),
            None => body(),
        }
    }

    pub(super) fn closed(&self, connection: &Arc<Connection>) {
        let here = self.here.read().clone();
        if let Some(processor) = here {
            processor.delivery.connection_closed(connection.id());
        }
        if let Some(group) = &self.group {
            group.forwards.closed(connection.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::{Answer, Failure};
    use sluice_delivery::{GroupError, OffsetError, PullError, SendError, TopicError};
    use sluice_store::{AppendError, Late};
    use sluice_types::{Group, Topic};

    #[test]
    fn an_old_masters_failures_are_told_only_if_they_are_right_wherever_they_are_asked_for() {
        let (topic, group) = (Topic::new("orders").expect("legal"), Group::new("readers").expect("legal"));
        let ok = |code| Ok(Answer { code, ..Answer::success() });
        let cases: [(&str, Outcome, bool); 13] = [
            ("a topic made by the next master", Err(SendError::Topic(TopicError::NotFound("orders".into())).into()), true),
            ("the same, pulled from", Err(PullError::Topic(TopicError::NotFound("orders".into())).into()), true),
            ("a group made by the next master", Err(GroupError::NotFound(group.clone()).into()), true),
            ("an offset committed to the next master", Err(OffsetError::NotFound(group.clone(), topic.clone(), 0).into()), true),
            ("a queue that the next master has added", Err(OffsetError::QueueId(topic.clone(), 9).into()), true),
            ("a right given by the next master", Err(Failure::not_allowed("no")), true),
            ("an offset that seems to be moved", ok(ResponseCode::PullOffsetMoved), true),
            ("nothing new", ok(ResponseCode::PullNotFound), true),
            ("it is stored, and not confirmed", Err(AppendError::Late(Late::Confirmation, vec![]).into()), false),
            ("the same of a send", Err(Failure::new(ResponseCode::FlushDiskTimeout, "late")), false),
            ("it is stored, and the role ended before it was confirmed", Err(AppendError::Ended(vec![]).into()), false),
            ("too large for any log", Err(AppendError::TooLarge(9).into()), false),
            ("unknown to this version", Err(Failure::new(ResponseCode::RequestCodeNotSupported, "no")), false),
        ];
        for (what, outcome, is_word) in cases {
            assert_eq!(is_masters_word(&outcome, false), is_word, "{what}");
        }
        assert!(
            is_masters_word(&ok(ResponseCode::Success), false) && !is_masters_word(&ok(ResponseCode::Success), true),
            "a confirmed success is one for ever"
        );
        assert!(is_masters_word(&Err(TopicError::NotFound("orders".into()).into()), true), "also of a request whose success would be confirmed");
    }
}
