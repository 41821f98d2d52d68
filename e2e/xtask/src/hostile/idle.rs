//! Many connections that say who they are and then nothing.

use super::{attacks::Target, bytes::heartbeat, watch::Broker};
use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, runtime::Runtime, task::JoinSet, time::timeout};

/// Most bytes that an idle connection may cost.
pub(super) const BYTES_MAX: f64 = 20_000.0;
/// Connections made and ended before the first measurement: the broker's threads and tables are there then.
const SETTLING: usize = 500;
/// What is freed or kept after a burst is so after this time.
const SETTLED: Duration = Duration::from_secs(2);
/// Connections being made at the same time.
const AT_ONCE: usize = 128;
/// Longest time until one more client is answered.
const ANSWER: Duration = Duration::from_secs(1);
/// Files that are open besides the connections.
const OTHER_FILES: u64 = 1000;
/// Longest time for all connections to be made, or to be gone.
const CROWD: Duration = Duration::from_secs(60);

/// Measures the bytes that each of `count` idle connections costs the broker.
pub(super) fn bytes_per_connection(count: u32, broker: Broker, target: &Arc<Target>, runtime: &Runtime) -> Result<f64> {
    allow_open_files(u64::from(count) + OTHER_FILES)?;
    drop(runtime.block_on(crowd("early", SETTLING, target))?);
    await_connections(broker, "to end", |open| open == 0.0)?;
    thread::sleep(SETTLED);
    let before = broker.memory()?;
    let held = runtime.block_on(crowd("idle", count as usize, target))?;
    thread::sleep(SETTLED);
    let after = broker.memory()?;
    await_connections(broker, "to be held", |open| open >= f64::from(count))?;
    let one_more = runtime.block_on(async { timeout(ANSWER, target.introduce(&target.arsenal.heartbeat)).await });
    one_more
        .with_context(|| format!("with {count} idle connections the broker did not answer one more within {ANSWER:?}"))?
        .with_context(|| format!("with {count} idle connections the broker did not serve one more"))?;
    println!("hostile: {count} idle connections: {} MiB before, {} MiB with them", before.resident >> 20, after.resident >> 20);
    drop(held);
    await_connections(broker, "to end", |open| open == 0.0)?;
    Ok(after.resident.saturating_sub(before.resident) as f64 / f64::from(count))
}

/// So many clients, each with a name of its own.
async fn crowd(name: &str, count: usize, target: &Arc<Target>) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    let mut coming = JoinSet::new();
    let mut number = 0;
    let end = tokio::time::Instant::now() + CROWD;
    while held.len() < count {
        while number < count && coming.len() < AT_ONCE {
            let (target, hello) = (Arc::clone(target), heartbeat(&format!("{name}-{number}"))?);
            coming.spawn(async move { target.introduce(&hello).await });
            number += 1;
        }
        let next = tokio::time::timeout_at(end, coming.join_next()).await;
        let Some(come) = next.with_context(|| format!("{} of {count} connections after {CROWD:?}", held.len()))? else { break };
        held.push(
            come.context("a client panicked")?.with_context(|| format!("connection {} of {count}; has the broker enough files (ulimit -n)?", held.len()))?,
        );
    }
    Ok(held)
}

fn await_connections(broker: Broker, what: &str, met: impl Fn(f64) -> bool) -> Result<()> {
    let end = Instant::now() + CROWD;
    loop {
        let open = broker.metrics()?.value("sluice_connections");
        if met(open) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the broker has {open} connections; waited {CROWD:?} for them {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Each connection is an open file, here and in the broker, which inherits the limit.
fn allow_open_files(needed: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit on open files")?;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    ensure!(allowed >= needed, "this process may open {allowed} files and needs {needed}: raise the hard limit (ulimit -Hn) or give fewer --connections");
    Ok(())
}
