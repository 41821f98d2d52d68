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
    /// Most bytes of answers that wait in all; a connection that goes beyond is closed, unless what it has waiting itself is little.
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

impl NetLimits {
    /// Most bytes that unfinished frames may have of the bytes in work: the rest is for requests that are whole. Peers who hold ends back cannot take that away.
    pub(super) fn unfinished_bytes_max(&self) -> usize {
        (self.in_flight_bytes_max / 2).max(self.frame.frame_bytes_max).min(self.in_flight_bytes_max)
    }
}

/// A request's bytes, counted while it is in work. Drop it when the answer is made.
#[derive(Debug)]
pub struct Permit {
    part: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Permit {
    pub(super) fn bytes(&self) -> usize {
        self.all.num_permits()
    }

    /// Both must be of the same budgets.
    pub(super) fn merge(&mut self, other: Self) {
        self.part.merge(other.part);
        self.all.merge(other.all);
    }
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

/// Counts bytes in a part (a connection's, or that of unfinished frames) and in all.
pub(super) fn try_permit(part: &Budget, all: &Budget, bytes: usize) -> Option<Permit> {
    Some(Permit { part: part.try_take(bytes)?, all: all.try_take(bytes)? })
}

pub(super) async fn permit(part: &Budget, all: &Budget, bytes: usize) -> Permit {
    Permit { part: part.take(bytes).await, all: all.take(bytes).await }
}
