//! The simulated machine: a clock moved by hand, seeded numbers, a disk in memory that can lose power, fill up and fail.
//!
//! [`env`]'s threads are real: what a run does depends on the seed and on the schedule. With the feature `sim-threads` there are simulated ones as well (`threads`),
//! whose order the seed decides too.

mod clock;
mod content;
mod disk;
mod entropy;
mod fault;
mod hooked;
mod inode;
mod net;
mod outcome;
mod spawn;
mod state;

#[cfg(feature = "sim-threads")]
pub mod threads;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use entropy::SimRng;
pub use fault::{Fault, FaultKind, Op};
pub use hooked::{Hook, HookedDisk};
pub use net::NoNet;
pub use spawn::SimSpawn;

use std::sync::Arc;

use crate::Env;

/// A world with an empty disk, and the handles by which a test moves its clock and breaks its disk.
#[must_use]
pub fn env(seed: u64) -> (Env, SimDisk, SimClock) {
    let (disk, clock) = (SimDisk::new(), SimClock::new());
    (env_over(seed, &disk, &clock), disk, clock)
}

/// A world over a disk and a clock that exist: what a process finds when it starts again after [`SimDisk::crash`] or [`SimDisk::kill`].
#[must_use]
pub fn env_over(seed: u64, disk: &SimDisk, clock: &SimClock) -> Env {
    Env { clock: Arc::new(clock.clone()), disk: Arc::new(disk.clone()), net: Arc::new(NoNet), rng: Arc::new(SimRng::new(seed)), spawn: Arc::new(SimSpawn) }
}
