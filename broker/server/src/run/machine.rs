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

/// That share of the memory that this process may use: its machine's, or less if its control group is given less.
pub(super) fn memory_share(share: f64) -> u64 {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let bytes = memory_bytes(&read("/proc/meminfo"), &read("/sys/fs/cgroup/memory.max"));
    (bytes as f64 * share) as u64
}

/// Reads `/proc/meminfo` and a control group's `memory.max`. A machine that does not say is taken for one with 4 GiB.
fn memory_bytes(meminfo: &str, group_max: &str) -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let total = total.map_or(UNKNOWN, |kib| kib.saturating_mul(1024));
    group_max.trim().parse().map_or(total, |max: u64| max.min(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_machines_or_what_the_control_group_leaves_of_it() {
        let machine = "MemTotal:       16384 kB\nMemFree:  1 kB\n";
        assert_eq!(memory_bytes(machine, "max\n"), 16 << 20);
        assert_eq!(memory_bytes(machine, "1048576\n"), 1 << 20);
        assert_eq!(memory_bytes(machine, "9223372036854771712\n"), 16 << 20);
        assert_eq!(memory_bytes("", ""), 4 << 30);
    }
}
