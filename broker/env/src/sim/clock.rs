//! A clock that stands still until a test moves it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{Clock, Monotonic, WallTime};

/// Where the calendar stands at the start: 2026-01-01T00:00:00Z.
pub(super) const START_MILLIS: i64 = 1_767_225_600_000;

/// Both times, moved by hand. Clones share one clock.
#[derive(Clone, Debug)]
pub struct SimClock {
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    monotonic: Duration,
    /// Calendar less monotonic time, in milliseconds.
    calendar_offset: i64,
}

impl SimClock {
    /// A clock at monotonic zero on the first day of 2026.
    #[must_use]
    pub fn new() -> Self {
        Self { now: Arc::new(Mutex::new(Now { monotonic: Duration::ZERO, calendar_offset: START_MILLIS })) }
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock();
        now.monotonic = now.monotonic.saturating_add(by);
    }

    /// Sets the calendar forward or, with a negative number, back; the monotonic clock does not notice.
    pub fn jump_wall(&self, millis: i64) {
        let mut now = self.now.lock();
        now.calendar_offset = now.calendar_offset.saturating_add(millis);
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.now.lock().monotonic)
    }

    fn wall(&self) -> WallTime {
        let now = self.now.lock();
        let passed = i64::try_from(now.monotonic.as_millis()).unwrap_or(i64::MAX);
        WallTime(now.calendar_offset.saturating_add(passed))
    }

    fn boot(&self) -> Option<u128> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_on_both_clocks_and_only_by_hand() {
        let clock = SimClock::new();
        let (start, wall) = (clock.monotonic(), clock.wall());
        assert_eq!(clock.monotonic(), start);
        clock.clone().advance(Duration::from_millis(1500));
        assert_eq!(clock.monotonic().since(start), Duration::from_millis(1500));
        assert_eq!(clock.wall().0 - wall.0, 1500);
    }

    #[test]
    fn a_calendar_jump_leaves_the_monotonic_clock_alone() {
        let clock = SimClock::new();
        let (start, wall) = (clock.monotonic(), clock.wall());
        clock.jump_wall(-3_600_000);
        assert_eq!(clock.monotonic(), start);
        assert_eq!(clock.wall().0 - wall.0, -3_600_000);
    }
}
