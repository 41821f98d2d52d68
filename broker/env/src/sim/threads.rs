//! Simulated threads: the store's and delivery's own blocking code on one thread of the operating system, in virtual time, in an order that a seed decides.
//!
//! A simulated thread is a coroutine with a stack of its own. It gives way where it would block (a lock that is held, a condition, a sleep, a join), at each call to
//! its machine's disk, and now and then before it takes a lock. Between two such points it runs alone. What this cannot show: orders of single atomic operations,
//! and weak memory.
//!
//! The same seed gives the same run as long as nothing else decides an order: no real clock, no real thread, no unsorted iteration over a hash map, and no lock but
//! those of [`crate::sync`] held across one of the points above.

mod disk;
mod machine;
mod net;
mod run;
mod scheduler;
mod wait;

pub use machine::Machine;
pub use net::Network;
pub use run::{Halt, Sim};
pub use scheduler::Timing;

pub(crate) use scheduler::Current;
pub(crate) use wait::{WaitList, Waits};

use std::{
    cell::{Cell, RefCell},
    panic::Location,
    time::Duration,
};

thread_local! {
    /// The simulated thread that runs now.
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    /// Simulations that live on this thread of the operating system.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// How long the thread that drives a simulation waits for a lock before it takes it for held by a simulated thread, which meanwhile stands still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The calling simulated thread; `None` outside of one.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// Lets the calling simulated thread give way now and then: it is about to take a lock. Its number; `None` outside of one.
///
/// Locks are taken millions of times in a run, so that a thread that goes on is asked no more than its number.
pub(crate) fn before_lock() -> Option<usize> {
    let (id, gives_way) = CURRENT.with_borrow(|me| me.as_ref().map(|me| (me.id(), me.draws_to_yield())))?;
    if gives_way {
        current()?.yield_or_pause();
    }
    Some(id)
}

/// Takes a lock outside of simulated threads: for as long as it takes where no simulation lives.
pub(crate) fn outside<G>(soon: impl FnOnce() -> Option<G>, ever: impl FnOnce() -> G) -> G {
    if LIVE.get() == 0 {
        return ever();
    }
    soon().expect("the lock is held by a simulated thread that stands still: ask from a simulated thread, by Sim::block_on")
}

/// Lets virtual time pass on the calling simulated thread.
///
/// # Panics
/// Outside of one.
#[track_caller]
pub fn sleep(time: Duration) {
    let me = current().expect("sleep is for simulated threads; outside of one, run the simulation for that time");
    me.block(Waits::sleep(Location::caller()), Some(time));
}

/// Lets the other runnable threads have their chance.
///
/// # Panics
/// Outside of a simulated thread.
pub fn yield_now() {
    current().expect("only a simulated thread can give way").yield_now();
}
