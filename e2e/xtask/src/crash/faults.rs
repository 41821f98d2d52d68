//! A real broker whose system calls fail from the n-th on: after the failure there is no acknowledgement, the log says why, and the next start loses nothing.

use super::{FLAGS, Ledger, Load};
use crate::{places, process, process::Background, sluice};
use anyhow::{Context, Result, ensure};
use std::{path::Path, process::Command, time::Duration};
use tokio::runtime::Runtime;

/// System call and error; the log's own words for it must be in the broker's log.
const FAULTS: [(&str, &str); 4] = [("fdatasync", "EIO"), ("fdatasync", "ENOSPC"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC")];
/// How long a load runs undisturbed before each failure.
const BEFORE: Duration = Duration::from_millis(200);
/// How long the first writers may take to notice.
const LOAD: Duration = Duration::from_millis(700);
/// How long writers that come after the failure try.
const AFTER: Duration = Duration::from_millis(200);
const ATTACH: Duration = Duration::from_millis(300);

/// `count` values of n for each fault.
pub(super) fn run(count: u32, binary: &Path, folder: &Path) -> Result<()> {
    if count == 0 || !places::has_tool("strace", "strace")? {
        return Ok(());
    }
    let site = sluice::Site::new(binary, &folder.join("faulty"), &folder.join("faulty.log"), &FLAGS)?;
    let runtime = Runtime::new().context("starting tokio")?;
    let mut load = Load::new(site.namesrv());
    let mut ledger = Ledger::default();
    for (call, error) in FAULTS {
        for step in 0..count {
            // Close together at first, then further on: 1, 2, 4, 7, 11 …
            let n = 1 + step * (step + 1) / 2;
            let acked =
                cycle(call, error, n, &site, folder, &runtime, &mut load, &mut ledger).with_context(|| format!("with {error} from {call} number {n} on"))?;
            println!("crash: {error} from {call} number {n} on: {acked} acknowledged before, none after");
        }
    }
    super::last_word("failing system calls", count * FAULTS.len() as u32, &site, &runtime, &load, &mut ledger)
}

#[allow(clippy::too_many_arguments, reason = "a test's scene, used once")]
fn cycle(call: &str, error: &str, n: u32, site: &sluice::Site, folder: &Path, runtime: &Runtime, load: &mut Load, ledger: &mut Ledger) -> Result<usize> {
    let log = folder.join("faulty.log");
    let told_before = poisonings(&log);
    let mut running = site.start()?;
    runtime.block_on(load.verify(ledger, false))?;
    // A failure at the very first call leaves nothing that it could lose: this has to be there.
    let session = load.begin(runtime);
    std::thread::sleep(BEFORE);
    let before = runtime.block_on(session.end(load, ledger, None))?;
    ensure!(before > 0, "nothing was acknowledged before the failure: the run would show nothing");
    let mut tracer = attach(&running, call, error, n, &folder.join("strace.log"))?;
    let session = load.begin(runtime);
    std::thread::sleep(LOAD);
    let acked = runtime.block_on(session.end(load, ledger, None))?;
    ensure!(poisonings(&log) > told_before, "the broker's log does not tell of the failure");
    let session = load.begin(runtime);
    std::thread::sleep(AFTER);
    let after = runtime.block_on(session.end(load, ledger, None))?;
    ensure!(after == 0, "{after} messages were acknowledged after the failure");
    running.kill();
    tracer.kill();
    Ok(before + acked)
}

fn attach(running: &Background, call: &str, error: &str, n: u32, log: &Path) -> Result<Background> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}:when={n}+"), "-o", "/dev/null"]);
    command.args(["-p", &running.id().to_string()]);
    let tracer = process::Background::start(&mut command, log)?;
    std::thread::sleep(ATTACH);
    Ok(tracer)
}

/// How often the log has told that the commit log stopped.
pub(super) fn poisonings(log: &Path) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().matches("the commit log is poisoned").count()
}
