//! What the broker tells clients without being asked.

use crate::net::{self, Net};
use sluice_delivery::{ClientPush, ConnectionId};
use sluice_protocol::{Header, Language, RequestCode, TypedHeader, headers::NotifyConsumerIdsChangedRequest};
use sluice_types::Group;
use std::sync::Arc;

/// Reaches clients over their own connections.
pub struct Pushes {
    net: Arc<Net>,
}

impl Pushes {
    /// Over the connections of `net`.
    #[must_use]
    pub fn new(net: Arc<Net>) -> Self {
        Self { net }
    }
}

impl ClientPush for Pushes {
    fn notify_consumer_ids_changed(&self, group: &Group, connections: &[ConnectionId]) {
        let ext = NotifyConsumerIdsChangedRequest { consumer_group: group.as_str().into() }.encode();
        let mut header = Header::request(RequestCode::NotifyConsumerIdsChanged, 0, ext);
        // Older clients can't read a language that they do not know.
        header.language = Language::Java;
        let _batch = net::Batch::enter();
        for connection in connections.iter().filter_map(|id| self.net.connection(*id)) {
            if let Err(error) = connection.push_oneway(header.clone(), Vec::new()) {
                tracing::debug!(%group, peer = %connection.peer(), %error, "a consumer was not told that its group changed; it will find out by itself");
            }
        }
    }

    fn turn_end(&self) {
        net::flush_dirty();
    }
}
