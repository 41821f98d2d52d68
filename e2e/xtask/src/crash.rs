//! `cargo xtask crash`: kills and power cuts under load; nothing that was acknowledged may be lost, moved or changed.
//!
//! | file | what it does |
//! | --- | --- |
//! | `crash/load.rs` | writers and readers that note what they were told |
//! | `crash/ledger.rs` | what was acknowledged and what was seen, and whether the log still agrees |
//! | `crash/faults.rs` | system calls that fail |
//! | `crash/power.rs` | a file system that can lose its power |
//! | `crash/short.rs` | writes that end in the middle |

mod faults;
mod ledger;
mod load;
pub(crate) mod power;
mod short;

use crate::{places, sluice};
use anyhow::{Context, Result};
use clap::Args;
use ledger::Ledger;
use load::Load;
use power::Disk;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// How often.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: sluice::Choice,
    /// SIGKILLs under load
    #[arg(long, default_value_t = 20, value_name = "N")]
    kills: u32,
    /// Power cuts under load (ext4 on a loop device, shut down without flushing; needs root)
    #[arg(long, default_value_t = 5, value_name = "N")]
    power_cuts: u32,
    /// Failing system calls under load: so many values of n for each, and writes cut short at so many places (needs strace and prlimit)
    #[arg(long, default_value_t = 3, value_name = "N")]
    faults: u32,
    /// Makes the delays before the crashes repeatable
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// Longest delay between the start of the load and the crash.
const DELAY_MAX_MS: u64 = 1500;
/// How long the broker runs on after its disk has gone, which it must survive.
const AFTER_CUT: Duration = Duration::from_millis(200);

/// The control: acknowledged means written, and flushed much later. A power cut must lose something, or the run would show nothing.
const CONTROL_FLAGS: [&str; 8] =
    ["--storage-flush", "async", "--storage-flush-interval", "1h", "--storage-segment-size", "8MiB", "--messages-size-max", "1MiB"];

/// Acknowledged means flushed; small segments so that a crash often comes near a segment's end.
const FLAGS: [&str; 6] = ["--storage-flush", "sync", "--storage-segment-size", "8MiB", "--messages-size-max", "1MiB"];
const SEGMENT_BYTES: u64 = 8 << 20;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    let folder = tempfile::Builder::new().prefix("sluice-crash-").tempdir().context("making a temporary directory")?;
    let mut delays = Delays(arguments.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    println!("crash: {} kills, {} power cuts, {} faults of each kind, seed {}", arguments.kills, arguments.power_cuts, arguments.faults, arguments.seed);
    let outcome = kills(arguments.kills, &binary, folder.path(), &mut delays)
        .and_then(|()| power_cuts(arguments.power_cuts, &binary, folder.path(), &mut delays))
        .and_then(|()| faults::run(arguments.faults, &binary, folder.path()))
        .and_then(|()| short::run(arguments.faults, &binary, folder.path()));
    if outcome.is_err() {
        eprintln!("logs and data are kept in {}", folder.keep().display());
    }
    outcome
}

/// A pseudo-random sequence (xorshift): the run can be repeated with its seed.
struct Delays(u64);

impl Delays {
    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(50 + self.0 % DELAY_MAX_MS)
    }
}

fn kills(count: u32, binary: &Path, folder: &Path, delays: &mut Delays) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let site = sluice::Site::new(binary, &folder.join("killed"), &folder.join("killed.log"), &FLAGS)?;
    let runtime = Runtime::new().context("starting tokio")?;
    let mut load = Load::new(site.namesrv());
    let mut ledger = Ledger::default();
    for cycle in 1..=count {
        let mut running = site.start()?;
        runtime.block_on(load.verify(&mut ledger, false)).with_context(|| format!("after {} kills", cycle - 1))?;
        let session = load.begin(&runtime);
        std::thread::sleep(delays.next());
        running.kill();
        let acked = runtime.block_on(session.end(&mut load, &mut ledger, None))?;
        println!("crash: kill {cycle}/{count}: {acked} acknowledged");
    }
    last_word("kills", count, &site, &runtime, &load, &mut ledger)
}

fn power_cuts(count: u32, binary: &Path, folder: &Path, delays: &mut Delays) -> Result<()> {
    if count == 0 || !power::possible()? {
        return Ok(());
    }
    control(binary, folder, delays)?;
    let mut disk = Disk::make(folder, "disk", 512 + 32 * u64::from(count))?;
    let site = sluice::Site::new(binary, &disk.mount_point().join("data"), &folder.join("cut.log"), &FLAGS)?;
    let runtime = Runtime::new().context("starting tokio")?;
    let mut load = Load::new(site.namesrv());
    let mut ledger = Ledger::default();
    for cycle in 1..=count {
        let acked = power_cut(&site, &mut disk, &runtime, &mut load, &mut ledger, delays).with_context(|| format!("after {} power cuts", cycle - 1))?;
        println!("crash: power cut {cycle}/{count}: {acked} acknowledged");
    }
    last_word("power cuts", count, &site, &runtime, &load, &mut ledger)
}

/// One cycle: start, compare, load, cut, kill, and the power back.
fn power_cut(site: &sluice::Site, disk: &mut Disk, runtime: &Runtime, load: &mut Load, ledger: &mut Ledger, delays: &mut Delays) -> Result<usize> {
    let mut running = site.start()?;
    runtime.block_on(load.verify(ledger, false))?;
    let session = load.begin(runtime);
    std::thread::sleep(delays.next());
    let cut = Instant::now();
    disk.cut()?;
    std::thread::sleep(AFTER_CUT);
    running.kill();
    let acked = runtime.block_on(session.end(load, ledger, Some(cut)))?;
    disk.restore()?;
    Ok(acked)
}

/// Shows that the cut loses what was not synced and that the comparison finds it.
fn control(binary: &Path, folder: &Path, delays: &mut Delays) -> Result<()> {
    let mut disk = Disk::make(folder, "control", 512)?;
    let site = sluice::Site::new(binary, &disk.mount_point().join("data"), &folder.join("control.log"), &CONTROL_FLAGS)?;
    let runtime = Runtime::new().context("starting tokio")?;
    let mut load = Load::new(site.namesrv());
    let mut ledger = Ledger::default();
    power_cut(&site, &mut disk, &runtime, &mut load, &mut ledger, delays).context("in the control run")?;
    let _running = site.start()?;
    match runtime.block_on(load.verify(&mut ledger, true)) {
        Err(found) => println!("crash: control (without synchronous flush): as it must be, {found:#}"),
        Ok(()) => anyhow::bail!("the control run without synchronous flush lost nothing: a power cut here shows nothing"),
    }
    Ok(())
}

/// Reads everything once more and stops the broker in an orderly way.
fn last_word(what: &str, count: u32, site: &sluice::Site, runtime: &Runtime, load: &Load, ledger: &mut Ledger) -> Result<()> {
    let mut running = site.start()?;
    runtime.block_on(load.verify(ledger, true)).with_context(|| format!("after all {count} {what}"))?;
    running.stop(Duration::from_secs(30))?;
    println!("crash: {count} {what}: {} acknowledged, 0 lost; {} read, 0 out of order, 0 offsets with two contents", ledger.acked(), ledger.read());
    anyhow::ensure!(ledger.acked() > 0, "nothing was acknowledged: the run has shown nothing");
    Ok(())
}

/// Under CI these are errors, else reasons to skip.
fn skip(reason: &str) -> Result<bool> {
    anyhow::ensure!(!places::ci(), "{reason}");
    eprintln!("skipped: {reason}");
    Ok(false)
}
