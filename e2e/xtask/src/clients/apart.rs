//! Name server and broker as two processes that know each other by the network alone.

use super::{Arguments, Chosen, scenarios};
use crate::{peer, places, process::Background, sluice};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is run unless others are chosen: topics made by their first send and by an administrator, single clients and groups that share the work.
const SCENARIOS: [&str; 2] = ["sync-send", "tags"];

pub(super) fn run(arguments: &Arguments, chosen: &Chosen<'_>, folder: &Path) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    if !arguments.peer {
        return sluice(arguments, chosen, &binary, folder);
    }
    // Both run, whichever fails.
    let broker = peer_broker(arguments, chosen, &binary, folder).context("RocketMQ's broker at the name server of sluice");
    let naming = peer_naming(arguments, chosen, &binary, folder).context("the broker of sluice at RocketMQ's name server");
    broker.and(naming)
}

/// Both of Sluice.
pub(super) fn sluice(arguments: &Arguments, chosen: &Chosen<'_>, binary: &Path, folder: &Path) -> Result<()> {
    println!("clients: a name server and a broker apart");
    let (folder, port) = (subfolder(folder, "apart")?, places::free_port()?);
    let mut naming = sluice::start_naming(binary, &folder, port)?;
    let mut broker = sluice::start_broker(binary, &folder, &namesrv(port))?;
    try_out(arguments, chosen, port, &folder)?;
    stop([&mut broker, &mut naming])
}

fn peer_broker(arguments: &Arguments, chosen: &Chosen<'_>, binary: &Path, folder: &Path) -> Result<()> {
    println!("clients: RocketMQ's broker at the name server of sluice");
    let (folder, port) = (subfolder(folder, "peer-broker")?, places::free_port()?);
    let mut naming = sluice::start_naming(binary, &folder, port)?;
    let _broker = peer::start_broker(&folder, &namesrv(port), false)?;
    try_out(arguments, chosen, port, &folder)?;
    stop([&mut naming])
}

fn peer_naming(arguments: &Arguments, chosen: &Chosen<'_>, binary: &Path, folder: &Path) -> Result<()> {
    println!("clients: the broker of sluice at RocketMQ's name server");
    let (folder, port) = (subfolder(folder, "peer-naming")?, places::free_port()?);
    let _naming = peer::start_naming(&folder, port)?;
    let mut broker = sluice::start_broker(binary, &folder, &namesrv(port))?;
    try_out(arguments, chosen, port, &folder)?;
    stop([&mut broker])
}

fn try_out(arguments: &Arguments, chosen: &Chosen<'_>, port: u16, folder: &Path) -> Result<()> {
    let few = Chosen { programs: Some(SCENARIOS.to_vec()), benchmarks: Vec::new() };
    scenarios(arguments, if chosen.is_all() { &few } else { chosen }, &namesrv(port), folder)
}

fn stop<const N: usize>(processes: [&mut Background; N]) -> Result<()> {
    processes.into_iter().try_for_each(sluice::stop)
}

fn namesrv(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}
