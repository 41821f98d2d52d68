//! The real machine: its clocks, its entropy, its file system, its network, its threads.
//!
//! With `server`, this is the only place that may touch them; everything else is handed an [`Env`].
#![allow(clippy::disallowed_methods, reason = "this is the real environment behind the seam")]

mod clock;
mod disk;
mod entropy;
mod net;
mod spawn;

pub use clock::RealClock;
pub use disk::RealDisk;
pub use entropy::RealRng;
pub use net::RealNet;
pub use spawn::RealSpawn;

use std::{io, path::Path, sync::Arc};

use crate::Env;

/// The real world with `root` as the store directory, which is created when missing.
///
/// Fails when the directory cannot be made or the machine has no source of entropy; both are found here rather than in the middle of the work.
pub fn env(root: &Path) -> io::Result<Env> {
    Ok(Env {
        clock: Arc::new(RealClock::new()),
        disk: Arc::new(RealDisk::create(root)?),
        net: Arc::new(RealNet),
        rng: Arc::new(RealRng::new()?),
        spawn: Arc::new(RealSpawn),
    })
}
