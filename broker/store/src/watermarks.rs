//! How far the log has come, in one place.

use sluice_types::CommitLogOffset;
use std::sync::atomic::{AtomicU64, Ordering};

/// The log's watermarks. Each only goes forward, and `min <= flushed <= appended` always holds.
#[derive(Debug)]
pub(crate) struct Watermarks {
    min: AtomicU64,
    flushed: AtomicU64,
    appended: AtomicU64,
}

impl Watermarks {
    /// After recovery: everything found is on stable storage or has just been put there.
    pub(crate) fn new(min: u64, tail: u64) -> Self {
        assert!(min <= tail, "the log begins at {min}, after its end {tail}");
        Self { min: min.into(), flushed: tail.into(), appended: tail.into() }
    }

    /// Bytes below are written; readers may look at them.
    pub(crate) fn appended(&self) -> CommitLogOffset {
        CommitLogOffset(self.appended.load(Ordering::Acquire))
    }

    /// Bytes below survive a power cut.
    pub(crate) fn flushed(&self) -> CommitLogOffset {
        CommitLogOffset(self.flushed.load(Ordering::Acquire))
    }

    /// Bytes below have been removed by retention.
    pub(crate) fn min(&self) -> CommitLogOffset {
        CommitLogOffset(self.min.load(Ordering::Acquire))
    }

    pub(crate) fn advance_appended(&self, to: u64) {
        let before = self.appended.swap(to, Ordering::AcqRel);
        assert!(before <= to, "appended went back from {before} to {to}");
    }

    pub(crate) fn advance_flushed(&self, to: u64) {
        assert!(to <= self.appended.load(Ordering::Acquire), "flushed {to} beyond appended");
        self.flushed.fetch_max(to, Ordering::AcqRel);
    }

    pub(crate) fn advance_min(&self, to: u64) {
        assert!(to <= self.flushed.load(Ordering::Acquire), "retention beyond the flushed log");
        self.min.fetch_max(to, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "beyond appended")]
    fn flushed_never_passes_appended() {
        Watermarks::new(0, 10).advance_flushed(11);
    }

    #[test]
    #[should_panic(expected = "went back")]
    fn appended_never_goes_back() {
        Watermarks::new(0, 10).advance_appended(9);
    }
}
