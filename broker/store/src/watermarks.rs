//! How far the log has come, in one place.

use crate::FlushMode;
use sluice_types::CommitLogOffset;
use std::sync::atomic::{AtomicU64, Ordering};

/// The log's watermarks. Each only goes forward, and `min <= flushed <= appended` always holds. `confirmed` is what the others say, and may lie anywhere.
#[derive(Debug)]
pub(crate) struct Watermarks {
    min: AtomicU64,
    flushed: AtomicU64,
    appended: AtomicU64,
    confirmed: AtomicU64,
}

impl Watermarks {
    /// After recovery: everything found is on stable storage or has just been put there.
    pub(crate) fn new(min: u64, tail: u64, confirmed: u64) -> Self {
        assert!(min <= tail, "the log begins at {min}, after its end {tail}");
        Self { min: min.into(), flushed: tail.into(), appended: tail.into(), confirmed: confirmed.into() }
    }

    /// Bytes below are written; readers may look at them.
    pub(crate) fn appended(&self) -> CommitLogOffset {
        CommitLogOffset(self.appended.load(Ordering::Acquire))
    }

    /// Bytes below survive a power cut.
    pub(crate) fn flushed(&self) -> CommitLogOffset {
        CommitLogOffset(self.flushed.load(Ordering::Acquire))
    }

    /// Bytes below are held by every broker that must hold them, and are never cut again; all ones for a log that nobody else has to hold.
    pub(crate) fn confirmed(&self) -> CommitLogOffset {
        CommitLogOffset(self.confirmed.load(Ordering::Acquire))
    }

    /// Bytes below count as stored: consumers see them, and who waits for that is answered.
    pub(crate) fn stored(&self, flush: FlushMode) -> CommitLogOffset {
        self.stored_here(flush).min(self.confirmed())
    }

    /// The same without asking what others hold.
    pub(crate) fn stored_here(&self, flush: FlushMode) -> CommitLogOffset {
        match flush {
            FlushMode::Sync => self.flushed(),
            FlushMode::Async { .. } => self.appended(),
        }
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

    /// What was confirmed once stays so.
    pub(crate) fn advance_confirmed(&self, to: u64) {
        self.confirmed.fetch_max(to, Ordering::AcqRel);
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
        Watermarks::new(0, 10, u64::MAX).advance_flushed(11);
    }

    #[test]
    #[should_panic(expected = "went back")]
    fn appended_never_goes_back() {
        Watermarks::new(0, 10, u64::MAX).advance_appended(9);
    }

    #[test]
    fn stored_is_what_is_here_by_the_rule_and_confirmed() {
        let marks = Watermarks::new(0, 10, 0);
        marks.advance_appended(30);
        marks.advance_flushed(20);
        let (sync, lazy) = (FlushMode::Sync, FlushMode::Async { interval: std::time::Duration::from_secs(1) });
        let stored = || (marks.stored(sync).0, marks.stored(lazy).0);
        assert_eq!(stored(), (0, 0));
        marks.advance_confirmed(25);
        assert_eq!(stored(), (20, 25));
        // A replica may hear of more than it has.
        marks.advance_confirmed(100);
        assert_eq!(stored(), (20, 30));
    }
}
