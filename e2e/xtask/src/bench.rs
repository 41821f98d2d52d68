//! `cargo xtask bench`: Sluice and Apache RocketMQ in turn, under the same load, beside what this machine's disk and network stack can do at best.
//!
//! | file | what it does |
//! | --- | --- |
//! | `bench/alone.rs` | figures of Sluice that have no peer: starts, memory, backlog, many topics |
//! | `bench/ceilings.rs` | measures the disk's syncs and the loopback's round trips |
//! | `bench/pages.rs` | fills the memory before each turn |
//! | `bench/replicated.rs` | with `--replicas`: one broker, a group of several, and RocketMQ with a slave; how a replica catches up |
//! | `bench/report.rs` | docs/benchmark.md and its plot |

mod alone;
mod ceilings;
mod pages;
mod replicated;
mod report;

use crate::{
    generator::{self, Report},
    group::Group,
    peer::Peer,
    places,
    process::Background,
    sluice,
};
use anyhow::{Context, Result};
use clap::Args;
use pages::Pages;
use report::{Measured, Table};
use std::{
    path::{Path, PathBuf},
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
    /// In place of the rest: what it costs that so many replicas hold each message before it is acknowledged; writes docs/benchmark-replicated.md
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    replicas: Option<u32>,
    /// How much a replica has missed when it comes back
    #[arg(long, default_value_t = 5.0, value_name = "GIB", requires = "replicas")]
    catch_up_gib: f64,
}

/// One load, the same for both brokers.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) sync_flush: bool,
    connections: u32,
    in_flight: u32,
    size: u32,
    batch: u32,
    pub(super) goals: &'static [Goal],
}

/// What a load should come to.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// So many times as much as RocketMQ.
    TimesPeer(f64),
    /// This part of the synced round trips.
    PartOfCeiling(f64),
    /// Messages a second.
    Rate(f64),
}

use Goal::{PartOfCeiling, Rate, TimesPeer};

/// From one message at a time to as many as go through. 64 in flight on one connection is what one Java producer does with 64 threads.
const SETTINGS: [Setting; 7] = [
    Setting { goals: &[TimesPeer(2.5), PartOfCeiling(0.8)], ..one_by_one("sync flush, 1 in flight, 1 KiB", true, 1, 1) },
    Setting { goals: &[TimesPeer(8.0)], ..one_by_one("sync flush, 64 in flight, 1 KiB", true, 1, 64) },
    one_by_one("sync flush, 64 connections with 1 in flight, 1 KiB", true, 64, 1),
    one_by_one("async flush, 1 in flight, 1 KiB", false, 1, 1),
    Setting { goals: &[TimesPeer(5.0)], ..one_by_one("async flush, 64 in flight, 1 KiB", false, 1, 64) },
    one_by_one("async flush, 64 connections with 1 in flight, 1 KiB", false, 64, 1),
    Setting { size: 128, batch: 128, goals: &[Rate(1e6)], ..one_by_one("async flush, 16 batches of 128 in flight, 128 B", false, 2, 8) },
];

const fn one_by_one(name: &'static str, sync_flush: bool, connections: u32, in_flight: u32) -> Setting {
    Setting { name, sync_flush, connections, in_flight, size: 1024, batch: 1, goals: &[] }
}

/// What each broker does before it is measured.
const WARM_UP: Setting = one_by_one("warm-up", false, 8, 32);
const WARM_UP_SECONDS: u32 = 10;

/// The broker that has its turn; it ends when this is dropped.
enum Contender {
    Sluice { _process: Background, namesrv: String },
    Group(Box<Group>),
    Peer(Peer),
}

impl Contender {
    fn sluice(binary: &Path, place: &Path, sync_flush: bool) -> Result<Self> {
        let site = sluice::Site::new(binary, &place.join("data"), &place.join("sluice.log"), &["--storage-flush", if sync_flush { "sync" } else { "async" }])?;
        Ok(Self::Sluice { _process: site.start()?, namesrv: site.namesrv() })
    }

    fn namesrv(&self) -> &str {
        match self {
            Self::Sluice { namesrv, .. } => namesrv,
            Self::Group(group) => group.namesrv(),
            Self::Peer(peer) => peer.namesrv(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("sluice-bench-").tempdir_in(&base).with_context(|| format!("making a directory in {}", base.display()))?;
    if let Some(replicas) = arguments.replicas {
        return replicated::run(arguments, replicas, &binary, folder.path());
    }
    let (mut table, mut pages) = (Table::new(&SETTINGS), Pages::new(folder.path().to_owned()));
    for round in 1..=arguments.rounds {
        // Between the brokers' turns, not once: a shared disk is not the same every minute.
        let ceilings = ceilings::measure(folder.path())?;
        println!(
            "bench: {:.0} syncs/s, {:.0} round trips/s, {:.0} of both",
            ceilings.syncs_per_second, ceilings.round_trips_per_second, ceilings.synced_round_trips_per_second
        );
        table.ceilings.push(ceilings);
        for sync_flush in [true, false] {
            for is_peer in [false, true] {
                pages.fill()?;
                let place = Place::new(folder.path(), &format!("{round}-{sync_flush}-{is_peer}"))?;
                turn(arguments, &binary, &place.0, sync_flush, is_peer, &mut table)?;
            }
        }
    }
    let figures = alone::measure(&binary, folder.path())?;
    report::write(&places::root().join("docs"), &table, &figures, arguments.rounds, arguments.seconds)
}

/// A directory for one turn. Segments of gigabytes: the next turn shall find the disk as this one did.
struct Place(PathBuf);

impl Place {
    fn new(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays goes with the whole directory in the end.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All loads of one kind of flush against one broker, freshly started.
fn turn(arguments: &Arguments, binary: &Path, place: &Path, sync_flush: bool, is_peer: bool, table: &mut Table) -> Result<()> {
    let (name, contender) = match is_peer {
        true => ("RocketMQ", Contender::Peer(Peer::start(place, sync_flush)?)),
        false => ("Sluice", Contender::sluice(binary, place, sync_flush)?),
    };
    let settings = SETTINGS.iter().enumerate().filter(|(_, setting)| setting.sync_flush == sync_flush);
    loads(arguments, binary, &contender, name, settings, |index, measured| table.add(index, is_peer, measured))
}

/// These loads, one after the other, against who has just been started.
fn loads<'a>(
    arguments: &Arguments,
    binary: &Path,
    contender: &Contender,
    name: &str,
    settings: impl Iterator<Item = (usize, &'a Setting)>,
    mut add: impl FnMut(usize, Measured),
) -> Result<()> {
    // A virtual machine compiles what it runs often: nobody shall be measured cold.
    load(binary, contender.namesrv(), &WARM_UP, "warm-up", WARM_UP_SECONDS)?;
    for (index, setting) in settings {
        let measured = load(binary, contender.namesrv(), setting, &format!("load-{index}"), arguments.seconds)?;
        println!("bench: {name}: {}: {:.0} messages/s, p50 {:.0} us, p99 {:.0} us", setting.name, measured.rate, measured.p50_us, measured.p99_us);
        add(index, measured);
    }
    Ok(())
}

fn load(binary: &Path, namesrv: &str, setting: &Setting, topic: &str, seconds: u32) -> Result<Measured> {
    let Setting { connections, in_flight, size, batch, .. } = setting;
    let words = format!("produce {topic} --connections {connections} --in-flight {in_flight} --size {size} --batch {batch} --seconds {seconds} --warmup 2");
    let report = generate(binary, namesrv, &words, Duration::from_secs(u64::from(seconds) + 90))?;
    Ok(Measured { rate: report.messages_per_second, p50_us: report.latency_us.p50, p99_us: report.latency_us.p99 })
}

/// Errors are told, and cost rate, but do not end a benchmark: a broker may refuse what is too much for it.
fn generate(binary: &Path, namesrv: &str, words: &str, deadline: Duration) -> Result<Report> {
    let report = generator::run(binary, namesrv, words, deadline)?;
    if let Some(errors) = report.errors() {
        eprintln!("bench: errors in {words}: {errors}");
    }
    Ok(report)
}
