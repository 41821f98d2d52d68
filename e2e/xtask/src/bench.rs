//! `cargo xtask bench`: Sluice and Apache RocketMQ in turn, under the same load, beside what this machine's disk and network stack can do at best.
//!
//! | file | what it does |
//! | --- | --- |
//! | `bench/ceilings.rs` | measures the disk's syncs and the loopback's round trips |
//! | `bench/report.rs` | docs/benchmark.md and its plot |

mod ceilings;
mod report;

use crate::{peer::Peer, places, process, process::Background, sluice};
use anyhow::{Context, Result};
use clap::Args;
use report::{Measured, Table};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: sluice::Choice,
    /// Measured seconds of each load, after two of warm-up
    #[arg(long, default_value_t = 5, value_name = "N")]
    seconds: u32,
    /// How often each broker has its turn; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: u32,
    /// Where data, the peer and the measured file lie; the disk under it is what is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One load, the same for both brokers.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) sync_flush: bool,
    connections: u32,
    in_flight: u32,
    size: u32,
    batch: u32,
}

/// From one message at a time to as many as go through.
const SETTINGS: [Setting; 6] = [
    Setting { name: "sync flush, 1 at a time, 1 KiB", sync_flush: true, connections: 1, in_flight: 1, size: 1024, batch: 1 },
    Setting { name: "sync flush, 8 x 32, 1 KiB", sync_flush: true, connections: 8, in_flight: 32, size: 1024, batch: 1 },
    Setting { name: "sync flush, 8 x 8, batches of 32 x 128 B", sync_flush: true, connections: 8, in_flight: 8, size: 128, batch: 32 },
    Setting { name: "async flush, 1 at a time, 1 KiB", sync_flush: false, connections: 1, in_flight: 1, size: 1024, batch: 1 },
    Setting { name: "async flush, 8 x 32, 1 KiB", sync_flush: false, connections: 8, in_flight: 32, size: 1024, batch: 1 },
    Setting { name: "async flush, 8 x 8, batches of 32 x 128 B", sync_flush: false, connections: 8, in_flight: 8, size: 128, batch: 32 },
];

/// What each broker does before it is measured.
const WARM_UP: Setting = Setting { name: "warm-up", sync_flush: false, connections: 8, in_flight: 32, size: 1024, batch: 1 };
const WARM_UP_SECONDS: u32 = 10;

/// What `sluice bench produce --output json` prints, as far as it is used.
#[derive(Deserialize)]
struct Printed {
    messages_per_second: f64,
    latency_us: PrintedLatency,
    error_count: u64,
}

#[derive(Deserialize)]
struct PrintedLatency {
    p50: f64,
    p99: f64,
}

/// The broker that has its turn; it ends when this is dropped.
enum Contender {
    Sluice { _process: Background, namesrv: String },
    Peer(Peer),
}

impl Contender {
    fn namesrv(&self) -> &str {
        match self {
            Self::Sluice { namesrv, .. } => namesrv,
            Self::Peer(peer) => peer.namesrv(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("sluice-bench-").tempdir_in(&base).with_context(|| format!("making a directory in {}", base.display()))?;
    let ceilings = ceilings::measure(folder.path())?;
    println!("bench: {:.0} syncs/s, {:.0} round trips/s at best", ceilings.syncs_per_second, ceilings.round_trips_per_second);
    let mut table = Table::new(SETTINGS.len());
    for round in 1..=arguments.rounds {
        for sync_flush in [true, false] {
            for is_peer in [false, true] {
                let place = folder.path().join(format!("{round}-{sync_flush}-{is_peer}"));
                std::fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
                turn(arguments, &binary, &place, sync_flush, is_peer, &mut table)?;
                // Segments of gigabytes: the next turn shall find the disk as this one did.
                std::fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
            }
        }
    }
    report::write(&places::root().join("docs"), &SETTINGS, &table, &ceilings, arguments.rounds, arguments.seconds)
}

/// All loads of one kind of flush against one broker, freshly started.
fn turn(arguments: &Arguments, binary: &Path, place: &Path, sync_flush: bool, is_peer: bool, table: &mut Table) -> Result<()> {
    let contender = if is_peer {
        Contender::Peer(Peer::start(place, sync_flush)?)
    } else {
        let site = sluice::Site::new(binary, &place.join("data"), &place.join("sluice.log"), &["--storage-flush", if sync_flush { "sync" } else { "async" }])?;
        Contender::Sluice { _process: site.start()?, namesrv: site.namesrv() }
    };
    // A virtual machine compiles what it runs often: nobody shall be measured cold.
    load(binary, contender.namesrv(), &WARM_UP, "warm-up", WARM_UP_SECONDS)?;
    for (index, setting) in SETTINGS.iter().enumerate().filter(|(_, setting)| setting.sync_flush == sync_flush) {
        let measured = load(binary, contender.namesrv(), setting, &format!("load-{index}"), arguments.seconds)?;
        let name = if is_peer { "RocketMQ" } else { "Sluice" };
        println!("bench: {name}: {}: {:.0} messages/s, p50 {:.0} us, p99 {:.0} us", setting.name, measured.rate, measured.p50_us, measured.p99_us);
        table.add(index, is_peer, measured);
    }
    Ok(())
}

fn load(binary: &Path, namesrv: &str, setting: &Setting, topic: &str, seconds: u32) -> Result<Measured> {
    let mut command = Command::new(binary);
    command.args(["bench", "produce", topic, "--namesrv", namesrv, "--output", "json", "--warmup", "2"]);
    for (flag, value) in [
        ("--connections", setting.connections),
        ("--in-flight", setting.in_flight),
        ("--size", setting.size),
        ("--batch", setting.batch),
        ("--seconds", seconds),
    ] {
        command.args([flag, &value.to_string()]);
    }
    let text = process::output(&mut command, Duration::from_secs(u64::from(seconds) + 90))?;
    let printed: Printed = serde_json::from_str(&text).with_context(|| format!("reading what sluice bench printed: {text}"))?;
    if printed.error_count > 0 {
        eprintln!("bench: {} errors in {}: {text}", printed.error_count, setting.name);
    }
    Ok(Measured { rate: printed.messages_per_second, p50_us: printed.latency_us.p50, p99_us: printed.latency_us.p99 })
}
