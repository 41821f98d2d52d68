//! Threads of a simulated machine.

use std::io;

use crate::{JoinHandle, Spawn, real::RealSpawn};

/// Real threads: the code under test blocks on locks and channels that only the operating system can schedule.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimSpawn;

impl Spawn for SimSpawn {
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn JoinHandle>> {
        RealSpawn.thread(name, body)
    }
}
