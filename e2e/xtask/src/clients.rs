//! `cargo xtask clients`: the official Java clients, unmodified, as programs that say PASS or FAIL.
//!
//! | file | what it does |
//! | --- | --- |
//! | `clients/apart.rs` | name server and broker as two processes, also one of Sluice and one of RocketMQ |
//! | `clients/benchmark.rs` | runs the benchmark programs that RocketMQ comes with |
//! | `clients/statistics.rs` | what they print, and what of it is good enough |

mod apart;
mod benchmark;
mod statistics;

use crate::{peer::Peer, places, process, sluice, text};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Longest time for the Java programs to say what there is.
const LISTING: Duration = Duration::from_secs(60);
/// Checks of transactions that come sooner than by default, so that a run is short. The peer has its own in its configuration.
const SOONER: [&str; 4] = ["--transaction-timeout", "2s", "--transaction-check-interval", "2s"];

/// What to run against what.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: sluice::Choice,
    /// Against Apache RocketMQ in place of Sluice
    #[arg(long)]
    peer: bool,
    /// Name server and broker as two processes, with a few of the scenarios unless --only names others; with --peer one of the two is Sluice's and the other
    /// RocketMQ's, in both combinations
    #[arg(long, conflicts_with = "namesrv")]
    roles_apart: bool,
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
    let known = if arguments.only.is_empty() { Vec::new() } else { program_names()? };
    let chosen = Chosen::new(&arguments.only, &known)?;
    let folder = tempfile::Builder::new().prefix("sluice-clients-").tempdir().context("making a temporary directory")?;
    let outcome = match &arguments.namesrv {
        Some(namesrv) => scenarios(arguments, &chosen, namesrv, folder.path()),
        None if arguments.roles_apart => apart::run(arguments, &chosen, folder.path()),
        None if arguments.peer => against_peer(arguments, &chosen, folder.path()),
        None => against_sluice(arguments, &chosen, folder.path()),
    };
    if outcome.is_err() {
        eprintln!("logs and data are kept in {}", folder.keep().display());
    }
    outcome
}

/// The scenarios that are wanted, by who runs them.
struct Chosen<'a> {
    /// The Java programs' names; an empty list means all of them.
    programs: Option<Vec<&'a str>>,
    benchmarks: Vec<&'static benchmark::Scenario>,
}

impl<'a> Chosen<'a> {
    /// `known`: the names of the Java programs, which are not asked for when nothing is chosen.
    fn new(only: &'a [String], known: &[String]) -> Result<Self> {
        if only.is_empty() {
            return Ok(Self { programs: Some(Vec::new()), benchmarks: benchmark::SCENARIOS.iter().collect() });
        }
        let (mut programs, mut benchmarks) = (Vec::new(), Vec::new());
        for name in only {
            match benchmark::SCENARIOS.iter().find(|scenario| scenario.name == name) {
                Some(scenario) => benchmarks.push(scenario),
                None if known.contains(name) => programs.push(name.as_str()),
                None => {
                    let known = known.iter().map(String::as_str).chain(benchmark::SCENARIOS.iter().map(|scenario| scenario.name));
                    bail!("unknown scenario {name}; known: {}", known.collect::<Vec<_>>().join(", "))
                }
            }
        }
        Ok(Self { programs: (!programs.is_empty()).then_some(programs), benchmarks })
    }

    /// Whether nothing was chosen, and so everything is wanted.
    fn is_all(&self) -> bool {
        self.programs.as_ref().is_some_and(Vec::is_empty)
    }
}

fn against_sluice(arguments: &Arguments, chosen: &Chosen<'_>, folder: &Path) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    let together = together(arguments, chosen, &binary, folder);
    if chosen.is_all() {
        // The everyday run has a look at this too, whatever the rest has shown.
        let apart = apart::sluice(arguments, chosen, &binary, folder);
        return together.and(apart);
    }
    together
}

fn together(arguments: &Arguments, chosen: &Chosen<'_>, binary: &Path, folder: &Path) -> Result<()> {
    let site = sluice::Site::new(binary, &folder.join("data"), &folder.join("sluice.log"), &SOONER)?;
    let mut running = site.start()?;
    scenarios(arguments, chosen, &site.namesrv(), folder)?;
    sluice::stop(&mut running)
}

fn against_peer(arguments: &Arguments, chosen: &Chosen<'_>, folder: &Path) -> Result<()> {
    let peer = Peer::start(folder, false)?;
    scenarios(arguments, chosen, peer.namesrv(), folder)
}

/// All run, whichever fails.
fn scenarios(arguments: &Arguments, chosen: &Chosen<'_>, namesrv: &str, folder: &Path) -> Result<()> {
    let library = library(false)?;
    let outcome = chosen.programs.as_ref().map_or(Ok(()), |only| run_programs(arguments, only, namesrv, &library));
    if chosen.benchmarks.is_empty() {
        return outcome;
    }
    let deadline = Duration::from_secs(arguments.deadline);
    outcome.and(benchmark::run(&chosen.benchmarks, &benchmark::Surroundings { namesrv, library: &library, folder, deadline }))
}

fn run_programs(arguments: &Arguments, only: &[&str], namesrv: &str, library: &Path) -> Result<()> {
    let text = text::file()?;
    let mut command = main_program(library)?;
    command.args(["--namesrv", namesrv, "--million-count", &arguments.million_count.to_string(), "--deadline", &arguments.deadline.to_string()]);
    command.arg("--text").arg(text);
    if !only.is_empty() {
        command.arg("--only").args(only);
    }
    process::run(&mut command, Duration::from_secs(arguments.deadline.saturating_mul(2).saturating_add(300)))
}

/// The names of the Java programs.
fn program_names() -> Result<Vec<String>> {
    let names = process::output(main_program(&library(false)?)?.arg("--list"), LISTING)?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Where Java finds the programs in `e2e/clients/java` and the client they use; compiled.
pub(crate) fn class_path() -> Result<String> {
    Ok(class_path_with(&library(false)?, &programs()?))
}

fn class_path_with(library: &Path, classes: &Path) -> String {
    format!("{}:{}/*", classes.display(), library.display())
}

fn main_program(library: &Path) -> Result<Command> {
    let classes = programs()?;
    let logs = places::cache()?.join("client-logs");
    let mut command = Command::new("java");
    command.arg("-Xmx1g").arg(format!("-Drocketmq.log.root={}", logs.display()));
    command.arg("-cp").arg(class_path_with(library, &classes)).arg("sluice.clients.Main");
    Ok(command)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The Java programs' names that were chosen, and the benchmarks'.
    type Names = (Option<Vec<String>>, Vec<&'static str>);

    fn chosen(only: &[&str]) -> Result<Names> {
        let only: Vec<_> = only.iter().map(|&name| name.to_owned()).collect();
        let chosen = Chosen::new(&only, &["tags".to_owned(), "million".to_owned()])?;
        let programs = chosen.programs.map(|names| names.into_iter().map(str::to_owned).collect());
        Ok((programs, chosen.benchmarks.iter().map(|scenario| scenario.name).collect()))
    }

    #[test]
    fn each_scenario_goes_to_who_runs_it() {
        assert_eq!(chosen(&[]).unwrap(), (Some(vec![]), vec!["benchmark-producer", "benchmark-batch-producer", "benchmark-consumer"]));
        assert_eq!(chosen(&["million"]).unwrap(), (Some(vec!["million".to_owned()]), vec![]));
        assert_eq!(chosen(&["benchmark-consumer"]).unwrap(), (None, vec!["benchmark-consumer"]));
        assert_eq!(chosen(&["benchmark-producer", "tags"]).unwrap(), (Some(vec!["tags".to_owned()]), vec!["benchmark-producer"]));
    }

    #[test]
    fn an_unknown_scenario_is_an_error_that_names_the_known_ones_of_both_kinds() {
        for wrong in ["benchmark-producers", "tag"] {
            let error = chosen(&["tags", wrong]).unwrap_err().to_string();
            for word in [wrong, "tags", "million", "benchmark-producer", "benchmark-batch-producer", "benchmark-consumer"] {
                assert!(error.contains(word), "{word} in {error}");
            }
        }
    }
}
