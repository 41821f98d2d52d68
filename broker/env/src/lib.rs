//! The seam to the outside world. Everything that store, replication and delivery do to a clock, entropy, a disk, another broker or a thread goes through the traits here,
//! so that the same code runs on the real machine ([`real`]) and in a seeded simulation ([`sim`]).
#![forbid(unsafe_code)]

mod broken;
mod clock;
mod disk;
mod entropy;
mod names;
mod net;
mod spawn;

pub mod real;
pub mod sim;
pub mod sync;

#[cfg(feature = "sim-threads")]
pub use broken::break_one;
pub use broken::broken;
pub use clock::{Clock, Monotonic, WallTime};
pub use disk::{Disk, File, OpenMode};
pub use entropy::Rng;
pub use names::{Names, new_name};
pub use net::{Connection, Listener, Net};
pub use spawn::{JoinHandle, Spawn};

use std::sync::Arc;

/// Everything a component needs of the outside world, handed over at construction.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Files below the store directory.
    pub disk: Arc<dyn Disk>,
    /// Connections between brokers.
    pub net: Arc<dyn Net>,
    /// Entropy.
    pub rng: Arc<dyn Rng>,
    /// Threads.
    pub spawn: Arc<dyn Spawn>,
}
