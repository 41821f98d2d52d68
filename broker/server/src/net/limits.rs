//! What peers may hold of us.

use sluice_protocol::FrameLimits;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds and deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetLimits {
    /// What a frame may declare.
    pub frame: FrameLimits,
    /// Most connections; more are closed at once.
    pub connections_max: usize,
    /// Most bytes of requests in work for one connection; it is not read from until answers have gone out.
    pub in_flight_bytes_per_connection: usize,
    /// Most bytes of requests in work for all connections, unfinished large frames included.
    pub in_flight_bytes_max: usize,
    /// Most bytes of answers that wait for one connection; more close it.
    pub outbox_bytes_per_connection: usize,
    /// Most bytes of answers that wait in all; a connection that goes beyond is closed.
    pub outbox_bytes_max: usize,
    /// Silence after which a connection is closed.
    pub idle: Duration,
    /// Longest time from a frame's first byte to its last.
    pub partial_frame: Duration,
    /// Longest time a socket may take nothing while answers wait.
    pub write: Duration,
}

impl Default for NetLimits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            frame: FrameLimits::default(),
            connections_max: 20_000,
            in_flight_bytes_per_connection: 64 * MIB,
            in_flight_bytes_max: 256 * MIB,
            outbox_bytes_per_connection: 64 * MIB,
            outbox_bytes_max: 512 * MIB,
            idle: Duration::from_secs(120),
            partial_frame: Duration::from_secs(30),
            write: Duration::from_secs(30),
        }
    }
}

/// A request's bytes, counted while it is in work. Drop it when the answer is made.
#[derive(Debug)]
pub struct Permit {
    _connection: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// A bounded number of bytes.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    size: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let size = bytes.clamp(1, u32::MAX as usize);
        Self { free: Arc::new(Semaphore::new(size)), size }
    }

    /// One request may be larger than the whole: then it waits until it is alone.
    fn clamp(&self, bytes: usize) -> u32 {
        bytes.clamp(1, self.size) as u32
    }

    pub(super) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.clamp(bytes)).ok()
    }

    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_many_owned(self.clamp(bytes)).await.expect("the semaphore is never closed")
    }

    pub(super) fn in_use(&self) -> usize {
        self.size - self.free.available_permits()
    }
}

pub(super) fn try_permit(connection: &Budget, all: &Budget, bytes: usize) -> Option<Permit> {
    Some(Permit { _connection: connection.try_take(bytes)?, _all: all.try_take(bytes)? })
}

pub(super) async fn permit(connection: &Budget, all: &Budget, bytes: usize) -> Permit {
    Permit { _connection: connection.take(bytes).await, _all: all.take(bytes).await }
}
