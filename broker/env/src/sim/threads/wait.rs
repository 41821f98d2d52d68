//! What a simulated thread waits for, and the lists by which it is woken.

use super::scheduler::{Current, Scheduler};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    panic::Location,
    sync::{Arc, Weak},
    time::Duration,
};

/// What is waited for, for the report of a deadlock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    pub(super) what: What,
    pub(super) place: Option<&'static Location<'static>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A lock, and which thread holds it, as far as that is known.
    Lock {
        holder: Option<usize>,
    },
    Notice,
    Sleep,
    /// A processor.
    Turn,
    Disk,
    End {
        of: usize,
    },
}

impl Waits {
    pub(crate) fn lock(holder: Option<usize>, place: &'static Location<'static>) -> Self {
        Self { what: What::Lock { holder }, place: Some(place) }
    }

    pub(crate) fn notice(place: &'static Location<'static>) -> Self {
        Self { what: What::Notice, place: Some(place) }
    }

    pub(crate) fn sleep(place: &'static Location<'static>) -> Self {
        Self { what: What::Sleep, place: Some(place) }
    }

    pub(crate) fn turn() -> Self {
        Self { what: What::Turn, place: None }
    }

    pub(crate) fn disk() -> Self {
        Self { what: What::Disk, place: None }
    }

    pub(crate) fn end(of: usize) -> Self {
        Self { what: What::End { of }, place: None }
    }
}

/// One wait of one thread: it wakes that wait and no later one.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    scheduler: Weak<Scheduler>,
    thread: usize,
    wait: u64,
}

impl Ticket {
    pub(super) fn new(scheduler: &Arc<Scheduler>, thread: usize, wait: u64) -> Self {
        Self { scheduler: Arc::downgrade(scheduler), thread, wait }
    }

    /// Whether it still waited.
    fn wake(&self) -> bool {
        self.scheduler.upgrade().is_some_and(|scheduler| scheduler.wake(self.thread, self.wait))
    }
}

/// Simulated threads that wait for one lock or condition, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct WaitList(Mutex<VecDeque<Ticket>>);

impl WaitList {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// Enters the thread's next wait.
    pub(crate) fn enlist(&self, me: &Current) -> Ticket {
        let ticket = me.ticket();
        self.0.lock().push_back(ticket.clone());
        ticket
    }

    /// Takes out one that was not woken.
    pub(crate) fn strike(&self, ticket: &Ticket) {
        self.0.lock().retain(|other| (other.thread, other.wait) != (ticket.thread, ticket.wait));
    }

    /// Waits to be woken.
    pub(crate) fn wait(&self, me: &Current, waits: Waits, timeout: Option<Duration>) -> bool {
        let ticket = self.enlist(me);
        let woken = me.block(waits, timeout);
        if !woken {
            self.strike(&ticket);
        }
        woken
    }

    /// Lets each wait until then at most: there is something for it at that time, and nothing before.
    pub(crate) fn hasten(&self, at: Duration) {
        for ticket in &*self.0.lock() {
            if let Some(scheduler) = ticket.scheduler.upgrade() {
                scheduler.hasten(ticket.thread, ticket.wait, at);
            }
        }
    }

    pub(crate) fn wake_one(&self) -> bool {
        loop {
            let Some(ticket) = self.0.lock().pop_front() else { return false };
            // One whose time was over, or whose machine was killed, is no longer there to be woken.
            if ticket.wake() {
                return true;
            }
        }
    }

    pub(crate) fn wake_all(&self) -> usize {
        let waiting = {
            let mut waiting = self.0.lock();
            if waiting.is_empty() {
                return 0;
            }
            std::mem::take(&mut *waiting)
        };
        waiting.iter().filter(|ticket| ticket.wake()).count()
    }
}
