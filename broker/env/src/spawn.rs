//! Threads for work that blocks on the disk. Asynchronous tasks belong to the server and its runtime.

use std::io;

/// Waits for a thread; a panic in it comes out as `Err`.
pub trait JoinHandle: Send {
    /// Blocks until the thread has ended.
    fn join(self: Box<Self>) -> Result<(), String>;
}

/// Starts threads.
pub trait Spawn: Send + Sync {
    /// Runs `body` on a thread of its own with that name.
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn JoinHandle>>;
}
