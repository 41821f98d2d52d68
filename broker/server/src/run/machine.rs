//! What the process takes from its machine: file descriptors, worker threads, signals.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{io, num::NonZero};
use tokio::signal::unix::{SignalKind, signal};

/// Fewer would let one blocking callback stop all connections.
const WORKERS_MIN: usize = 2;

/// Threads that carry connections: one a core.
pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(WORKERS_MIN, NonZero::get).max(WORKERS_MIN)
}

/// Raises the limit on open files as far as the system allows and says how far that was. `None`: no limit.
pub(super) fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        return current;
    }
    maximum
}

/// Resolves at the first SIGTERM or SIGINT with its name.
pub(super) async fn stop_signal() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
