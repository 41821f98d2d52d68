//! The broker from outside: its memory, its metrics, its health.

use crate::{
    memory::Memory,
    metrics::{self, Metrics},
};
use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A broker that does not answer its health within this time is not healthy.
const HTTP: Duration = Duration::from_secs(5);
/// Often enough to see a body that is inflated: a gigabyte takes much longer.
const SAMPLE: Duration = Duration::from_millis(10);

/// The broker under attack.
#[derive(Clone, Copy)]
pub(super) struct Broker {
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Broker {
    pub(super) fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid)
    }

    /// How long it has kept processors busy.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}: the process may have ended, see its log"))?;
        let ticks = ticks(&stat).with_context(|| format!("{path} has no times: {stat}"))?;
        Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
    }

    pub(super) fn metrics(&self) -> Result<Metrics> {
        self.get("/metrics").map(Metrics)
    }

    /// Fails unless the broker says that it lives and takes traffic.
    pub(super) fn check_health(&self) -> Result<()> {
        self.get("/healthz")?;
        self.get("/readyz").map(drop)
    }

    fn get(&self, path: &str) -> Result<String> {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.http, HTTP)?;
            stream.set_read_timeout(Some(HTTP))?;
            stream.write_all(metrics::request(path).as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        let answer = ask().with_context(|| format!("asking the broker for {path}"))?;
        metrics::body(path, &answer)
    }
}

/// The 14th and the 15th word, time in the process and in the kernel for it. The second word is a name and may have blanks and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(user + system)
}

/// Looks at the broker's own memory again and again and keeps the largest value.
pub(super) struct Peak {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Peak {
    pub(super) fn watch(broker: Broker) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(broker.memory()?.own);
                thread::sleep(SAMPLE);
            }
            Ok(peak)
        });
        Self { stop, thread }
    }

    pub(super) fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("watching the broker's memory panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        assert_eq!(ticks("7 (a ) b) S 1 7 7 0 -1 4194304 5 0 0 0 30 12 0 0 20 0 3 0 100"), Some(42));
        assert_eq!(ticks("7"), None);
    }
}
