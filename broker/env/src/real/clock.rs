//! The machine's clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::{Clock, Monotonic, WallTime};

/// `CLOCK_MONOTONIC`, counted from construction, and the calendar clock.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }

    fn wall(&self) -> WallTime {
        // A calendar set before 1970 is negative, not an error: the caller decides what to make of a wild clock.
        let millis = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        WallTime(millis)
    }

    fn boot(&self) -> Option<u128> {
        // Linux draws this UUID at each start; no other system's page cache outlives its processes for us.
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
    }
}
