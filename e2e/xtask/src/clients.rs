//! `cargo xtask clients`: the official Java clients, unmodified, as programs that say PASS or FAIL.

use crate::{peer::Peer, places, process, sluice, text};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What to run against what.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: sluice::Choice,
    /// Against Apache RocketMQ in place of Sluice
    #[arg(long)]
    peer: bool,
    /// Only this scenario; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Messages of the scenario "million"
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    million_count: u32,
    /// Against a name server that runs already, in place of starting anything
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "peer")]
    namesrv: Option<String>,
    /// Seconds that one scenario may take
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    deadline: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(namesrv) = &arguments.namesrv {
        return scenarios(arguments, namesrv);
    }
    let folder = tempfile::Builder::new().prefix("sluice-clients-").tempdir().context("making a temporary directory")?;
    let outcome = if arguments.peer { against_peer(arguments, folder.path()) } else { against_sluice(arguments, folder.path()) };
    if outcome.is_err() {
        eprintln!("logs and data are kept in {}", folder.keep().display());
    }
    outcome
}

fn against_sluice(arguments: &Arguments, folder: &Path) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    let site = sluice::Site::new(&binary, &folder.join("data"), &folder.join("sluice.log"), &[])?;
    let mut running = site.start()?;
    scenarios(arguments, &site.namesrv())?;
    let status = running.stop(Duration::from_secs(30))?;
    anyhow::ensure!(status.success(), "sluice ended with {status} on SIGTERM");
    Ok(())
}

fn against_peer(arguments: &Arguments, folder: &Path) -> Result<()> {
    let peer = Peer::start(folder, false)?;
    scenarios(arguments, peer.namesrv())
}

fn scenarios(arguments: &Arguments, namesrv: &str) -> Result<()> {
    let classes = programs()?;
    let library = library(false)?;
    let text = text::file()?;
    let logs = places::cache()?.join("client-logs");
    let mut command = Command::new("java");
    command.arg("-Xmx1g").arg(format!("-Drocketmq.log.root={}", logs.display()));
    command.arg("-cp").arg(format!("{}:{}/*", classes.display(), library.display())).arg("sluice.clients.Main");
    command.args(["--namesrv", namesrv, "--million-count", &arguments.million_count.to_string(), "--deadline", &arguments.deadline.to_string()]);
    command.arg("--text").arg(text);
    if !arguments.only.is_empty() {
        command.arg("--only").args(&arguments.only);
    }
    process::run(&mut command, Duration::from_secs(arguments.deadline.saturating_mul(2).saturating_add(300)))
}

/// Compiles the programs; the folder with the classes.
fn programs() -> Result<PathBuf> {
    let folder = places::cache()?.join("clients");
    maven(&folder, false, &["compile"])?;
    Ok(folder.join("classes"))
}

/// The folder with the jars of the client, or with those of the broker too.
pub(crate) fn library(peer: bool) -> Result<PathBuf> {
    let folder = places::cache()?.join(if peer { "peer" } else { "clients" });
    let library = folder.join("lib");
    let complete = folder.join("lib.complete");
    let pom = fs::read_to_string(project().join("pom.xml")).context("reading the clients' pom.xml")?;
    if fs::read_to_string(&complete).ok().as_ref() != Some(&pom) {
        if library.exists() {
            fs::remove_dir_all(&library).with_context(|| format!("removing {}", library.display()))?;
        }
        maven(&folder, peer, &["dependency:copy-dependencies"])?;
        fs::write(&complete, pom).with_context(|| format!("writing {}", complete.display()))?;
    }
    Ok(library)
}

fn project() -> PathBuf {
    places::root().join("e2e/clients/java")
}

fn maven(folder: &Path, peer: bool, goals: &[&str]) -> Result<()> {
    places::need_tool("java", "openjdk-17-jdk-headless")?;
    places::need_tool("mvn", "maven")?;
    let mut command = Command::new("mvn");
    command.args(["-q", "-B", "-Dstyle.color=never", "-f"]).arg(project().join("pom.xml")).arg(format!("-Dsluice.build.dir={}", folder.display()));
    if peer {
        command.arg("-Ppeer");
    }
    process::run(command.args(goals), Duration::from_secs(600))
}
