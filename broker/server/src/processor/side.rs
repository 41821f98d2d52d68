//! The broker's side of a process: its own delivery, or, for a member of a group that is not master, the way to the one that is.

use super::{
    BrokerProcessor,
    forward::{Forwards, Here},
};
use crate::net::Connection;
use parking_lot::RwLock;
use sluice_group::runner::Member;
use sluice_protocol::{Frame, RequestCode as Code};
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
}

impl Fence {
    pub(super) fn holds(&self) -> bool {
        self.member.serves() == Some(self.epoch)
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
        Some((processor, Some(Fence { member: Arc::clone(member), epoch })))
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
