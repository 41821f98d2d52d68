//! The kernel's entropy.

use std::io;

use crate::Rng;

/// Numbers from `getrandom(2)`.
#[derive(Clone, Copy, Debug)]
pub struct RealRng(());

impl RealRng {
    /// Asks the kernel once, so that a machine without entropy is found at start.
    pub fn new() -> io::Result<Self> {
        getrandom::u64().map_err(|error| io::Error::other(format!("the operating system gives no entropy: {error}; allow the getrandom system call")))?;
        Ok(Self(()))
    }
}

impl Rng for RealRng {
    fn next_u64(&self) -> u64 {
        getrandom::u64().expect("the kernel's pool, once initialised (asked in `new`), cannot run dry")
    }
}
