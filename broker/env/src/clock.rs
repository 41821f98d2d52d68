//! Time. What must only go forward (deadlines, leases) and what the calendar says (timestamps, retention) are different types.

use std::{ops::Add, time::Duration};

/// A point on a clock that never goes back; meaningless outside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

/// Milliseconds since 1970 by the calendar clock. May jump either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

/// Source of both times.
pub trait Clock: Send + Sync {
    /// Now, on the clock that only goes forward.
    fn monotonic(&self) -> Monotonic;
    /// Now, by the calendar.
    fn wall(&self) -> WallTime;
    /// Which run of the machine this is, from power-on to power-off: what a process of an earlier run had not flushed may be gone. `None`: that is not known.
    fn boot(&self) -> Option<u128>;
}
