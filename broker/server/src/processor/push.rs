//! What the broker tells clients without being asked.

use crate::net::{self, Net};
use sluice_delivery::{CheckSent, ClientPush, ConnectionId, TransactionCheck};
use sluice_protocol::{
    Header, Language, RequestCode, TypedHeader,
    headers::{CheckTransactionStateRequest, NotifyConsumerIdsChangedRequest},
};
use sluice_types::Group;
use std::sync::Arc;

/// Unread bytes of a connection from which on it is not asked about transactions: a connection is ended when too much of what it is sent waits.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

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

    fn check_transaction(&self, connection: ConnectionId, check: &TransactionCheck) -> CheckSent {
        let Some(connection) = self.net.connection(connection) else { return CheckSent::Gone };
        if connection.outbox_bytes() > UNREAD_BYTES_MAX {
            return CheckSent::Busy;
        }
        let key = check.unique_key.as_deref();
        let fields = CheckTransactionStateRequest {
            topic: Some(check.topic.as_str().into()),
            tran_state_table_offset: check.queue_offset.to_wire(),
            commit_log_offset: check.log_offset.to_wire(),
            msg_id: key.map(Into::into),
            transaction_id: key.map(Into::into),
            offset_msg_id: Some(check.message_id.as_str().into()),
        };
        let mut header = Header::request(RequestCode::CheckTransactionState, 0, fields.encode());
        header.language = Language::Java;
        match connection.push_oneway(header, vec![check.record.clone()]) {
            Ok(()) => CheckSent::Sent,
            Err(error) => {
                tracing::debug!(peer = %connection.peer(), %error, "a producer was not asked about its transaction");
                CheckSent::Gone
            }
        }
    }

    fn turn_end(&self) {
        net::flush_dirty();
    }

    fn gather(&self, body: &mut dyn FnMut()) {
        let _batch = net::Batch::enter();
        body();
    }
}
