//! A condition variable for simulated and other threads.

use super::MutexGuard;
use crate::sim::threads::{self, WaitList, Waits};
use std::{panic::Location, time::Duration};

/// As `parking_lot`'s. Simulated waiters are woken in the order in which they came.
#[derive(Debug, Default)]
pub struct Condvar {
    waiting: WaitList,
    inner: parking_lot::Condvar,
}

/// How a wait with a timeout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was over.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: WaitList::new(), inner: parking_lot::Condvar::new() }
    }

    /// Lets go of the mutex, waits to be notified, takes it again.
    #[track_caller]
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_at(guard, None, Location::caller());
    }

    /// The same, for at most that time.
    #[track_caller]
    pub fn wait_for<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        self.wait_at(guard, Some(timeout), Location::caller())
    }

    fn wait_at<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, timeout: Option<Duration>, place: &'static Location<'static>) -> WaitTimeoutResult {
        let Some(me) = threads::current() else {
            return WaitTimeoutResult(match timeout {
                Some(timeout) => self.inner.wait_for(guard.real(), timeout).timed_out(),
                None => {
                    self.inner.wait(guard.real());
                    false
                }
            });
        };
        if me.is_unwinding() {
            // Of a killed machine: nobody will notify, and what waits here is only being cleared away.
            return WaitTimeoutResult(true);
        }
        let ticket = self.waiting.enlist(&me);
        guard.release();
        let notified = me.block(Waits::notice(place), timeout);
        if !notified {
            self.waiting.strike(&ticket);
        }
        guard.take_again(&me, place);
        WaitTimeoutResult(!notified)
    }

    /// Wakes one waiter; whether there was one.
    pub fn notify_one(&self) -> bool {
        self.waiting.wake_one() || self.inner.notify_one()
    }

    /// Ends the waits of simulated threads at that time of the simulation, if they last so long.
    pub(crate) fn hasten(&self, at: Duration) {
        self.waiting.hasten(at);
    }

    /// Wakes all waiters; how many there were.
    pub fn notify_all(&self) -> usize {
        self.waiting.wake_all() + self.inner.notify_all()
    }
}
