//! Counts for telemetry.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed it, or the network did.
    Peer,
    /// Nothing came for too long.
    Idle,
    /// A frame was begun and not finished in time.
    PartialFrame,
    /// What came is no frame.
    BadFrame,
    /// The peer did not take its answers.
    SlowReader,
    /// The server is stopping.
    Stopping,
    /// A defect of ours while a request was handled.
    Internal,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Peer, Self::Idle, Self::PartialFrame, Self::BadFrame, Self::SlowReader, Self::Stopping, Self::Internal];

    /// A word for a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Idle => "idle",
            Self::PartialFrame => "partial_frame",
            Self::BadFrame => "bad_frame",
            Self::SlowReader => "slow_reader",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Counts since start, over all listeners that share a [`super::Net`].
#[derive(Debug, Default)]
pub struct NetStats {
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Connections refused because there are too many.
    pub refused: AtomicU64,
    /// Failures to take a connection, such as too few file descriptors.
    pub accept_errors: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Frames read.
    pub frames_in: AtomicU64,
    /// Bytes of answers that wait for their sockets now.
    pub outbox_bytes: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

impl NetStats {
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    pub(super) fn closed(&self, reason: CloseReason) {
        Self::add(&self.closed[reason as usize], 1);
    }

    /// Connections that ended for that reason.
    #[must_use]
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].load(Relaxed)
    }
}
