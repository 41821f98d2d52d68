//! The whole of delivery: what it is made of, how it starts and stops.

use crate::{
    Counters,
    clients::{Clients, ConnectionId},
    delay::DelayService,
    groups::Groups,
    held::HeldPulls,
    locks::Locks,
    meta::MetaWriter,
    offsets::Offsets,
    topics::Topics,
};
use parking_lot::{Condvar, Mutex};
use sluice_env::{Env, JoinHandle};
use sluice_store::{Hooks, Store, StoreError};
use sluice_types::Group;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use thiserror::Error;

/// Runs work that may touch the disk, soon, on another thread.
pub type SpawnWork = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// What delivery asks of the side that holds the connections. Every method must be quick.
pub trait ClientPush: Send + Sync {
    /// Tell these consumers that their group's members changed (request 40), so that they share out the queues anew.
    fn notify_consumer_ids_changed(&self, group: &Group, connections: &[ConnectionId]);
    /// All callbacks of one turn of the log's writer have run: the moment to write out the replies that they made.
    fn turn_end(&self);
}

/// Settings.
#[derive(Clone, Debug)]
pub struct DeliveryOptions {
    /// This broker's address, part of every record and offset message id.
    pub store_host: SocketAddr,
    /// Whether a send or pull may make its topic.
    pub auto_create_topics: bool,
    /// Whether a heartbeat or pull may make its consumer group.
    pub auto_create_groups: bool,
    /// Most queues of a topic made on demand.
    pub default_topic_queues: u32,
    /// Largest body of a message.
    pub message_bytes_max: usize,
    /// Most bytes in one pull's reply; the first message is returned even if larger.
    pub pull_bytes_max: usize,
    /// Most messages in one pull's reply.
    pub pull_messages_max: u32,
    /// Most pulls held at once.
    pub held_pulls_max: usize,
    /// Longest time a pull is held, whatever the client asks.
    pub hold_max: Duration,
    /// A client silent for so long is dropped.
    pub client_expiry: Duration,
    /// A queue lock not renewed for so long is free.
    pub lock_expiry: Duration,
    /// How often changed offsets are written.
    pub offset_flush_interval: Duration,
    /// A group without an offset starts at 0 when the whole queue lies within that many bytes of the log's end, else where the client chooses.
    pub recent_bytes: u64,
    /// The delay of each level, from level 1.
    pub delay_levels: Vec<Duration>,
}
