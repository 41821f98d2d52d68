//! `cargo xtask hostile`: clients that trickle, lie, inflate and never read. The broker must not grow by them and the others must not notice.
//!
//! | file | what it does |
//! | --- | --- |
//! | `hostile/attacks.rs` | the hostile clients |
//! | `hostile/bytes.rs` | what they send |
//! | `hostile/halves.rs` | processors for the broker alone |
//! | `hostile/held.rs` | pulls that wait |
//! | `hostile/idle.rs` | connections that do nothing |
//! | `hostile/load.rs` | the well-behaved client |
//! | `hostile/verdict.rs` | the table, and what is good enough |
//! | `hostile/watch.rs` | the broker's memory, metrics and health |

mod attacks;
mod bytes;
mod halves;
mod held;
mod idle;
mod load;
mod verdict;
mod watch;

use crate::{metrics::Metrics, process::Background, sluice};
use anyhow::{Context, Result, ensure};
use attacks::{ATTACKS, Attack, Attackers, Target};
use clap::Args;
use halves::Halves;
use load::Phase;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::runtime::Runtime;

use verdict::Outcome;
use watch::{Broker, Peak};

/// How much and how long.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: sluice::Choice,
    /// Idle connections to hold; 0 leaves that check out
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    connections: u32,
    /// Pulls to hold, as many as the broker then allows; 0 leaves that check out
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    held_pulls: u32,
    /// Measured seconds of each phase, after one of warm-up
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How often baseline and attack take turns; the quietest and the medians are compared
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only this attack
    #[arg(long, value_name = "NAME", value_parser = ATTACKS.map(|attack| attack.name))]
    only: Option<String>,
}

/// Smaller than the defaults (30 s and 256 MiB), so that the bounds are reached within a phase and not by an attack of minutes and of gigabytes; what is shown is
/// what happens at the bounds.
const FLAGS: [&str; 4] = ["--limits-partial-frame", "3s", "--limits-in-flight-size", "32MiB"];
/// Connections allowed besides the idle ones: all attackers' and the load's.
const OTHER_CONNECTIONS: u32 = 5_000;
/// After an attack: the broker notices that its connections are gone.
const QUIET: Duration = Duration::from_millis(500);
const STOP: Duration = Duration::from_secs(30);
/// How often what looks bad is measured again.
const AGAIN_MAX: usize = 3;

/// Everything that a phase needs.
struct Field {
    binary: PathBuf,
    namesrv: String,
    broker: Broker,
    target: Arc<Target>,
    runtime: Runtime,
    seconds: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = sluice::binary(&arguments.binary)?;
    let folder = tempfile::Builder::new().prefix("sluice-hostile-").tempdir().context("making a temporary directory")?;
    let outcome = attack_all(arguments, &binary, folder.path());
    if outcome.is_err() {
        eprintln!("log and data are kept in {}", folder.keep().display());
    }
    outcome
}

fn attack_all(arguments: &Arguments, binary: &Path, folder: &Path) -> Result<()> {
    let connections = (arguments.connections + OTHER_CONNECTIONS).to_string();
    let held_pulls = arguments.held_pulls.to_string();
    let flags = [&FLAGS[..], &["--limits-connections", &connections, "--limits-held-pulls", &held_pulls]].concat();
    let site = sluice::Site::new(binary, &folder.join("data"), &folder.join("sluice.log"), &flags)?.with_http()?;
    let mut running = start_apart(&site)?;
    let broker = Broker { pid: running.id(), address: site.broker(), http: site.http().context("the site was made with HTTP")? };
    let target = Arc::new(Target { address: broker.address, arsenal: bytes::Arsenal::new()? });
    let field = Field { binary: binary.to_path_buf(), namesrv: site.namesrv(), broker, target, runtime: attacks::runtime()?, seconds: arguments.seconds };
    let mut complaints = Vec::new();
    if arguments.connections > 0 && arguments.only.is_none() {
        complaints.extend(hold_idle(&field, arguments.connections)?);
    }
    if arguments.held_pulls > 0 && arguments.only.is_none() {
        complaints.extend(hold_pulls(&field, arguments.held_pulls)?);
    }
    field.runtime.block_on(load::fill(&field.namesrv))?;
    println!("{}", verdict::HEAD);
    for attack in ATTACKS.iter().filter(|attack| arguments.only.as_ref().is_none_or(|only| only == attack.name)) {
        let outcome = judge(&field, attack, arguments.rounds).with_context(|| format!("during {}", attack.name))?;
        println!("{}", outcome.row());
        complaints.extend(outcome.complaints());
    }
    running.stop(STOP).context("stopping the broker after the attacks")?;
    ensure!(complaints.is_empty(), "hostile clients do harm:\n{}", complaints.join("\n"));
    println!("hostile: the others did not notice");
    Ok(())
}

/// Starts the broker on processors of its own, if there are two.
fn start_apart(site: &sluice::Site) -> Result<Background> {
    let Some(halves) = Halves::of_this_machine()? else { return site.start() };
    halves.enter_brokers()?;
    let running = site.start()?;
    halves.enter_others()?;
    Ok(running)
}

fn hold_idle(field: &Field, connections: u32) -> Result<Option<String>> {
    let bytes = idle::bytes_per_connection(connections, field.broker, &field.target, &field.runtime)?;
    println!("hostile: an idle connection costs {:.1} kB", bytes / 1000.0);
    let allowed = idle::BYTES_MAX;
    Ok((bytes > allowed).then(|| format!("idle: a connection costs {bytes:.0} bytes of resident memory; {allowed:.0} are allowed")))
}

fn hold_pulls(field: &Field, count: u32) -> Result<Vec<String>> {
    let held = held::measure(count, field.broker, &field.namesrv, &field.runtime).context("holding pulls")?;
    println!(
        "hostile: a held pull costs {:.1} kB, all of them {:.1} % of a processor; the slowest was answered {} ms after its message's send began",
        held.bytes_per_pull / 1000.0,
        held.processor * 100.0,
        held.slowest_answer.as_millis()
    );
    Ok(held.complaints())
}

/// One attack. A p99 over some seconds is a rough measure, which the machine's own unrest doubles at times: what looks bad is measured as often again, up to
/// thrice, and all turns count.
fn judge<'a>(field: &Field, attack: &'a Attack, rounds: u32) -> Result<Outcome<'a>> {
    let closed = attack.closed_for.iter().map(|reason| (*reason, 0.0)).collect();
    let mut outcome = Outcome { attack, baseline: Vec::new(), attacked: Vec::new(), growth: 0, closed };
    take_turns(field, &mut outcome, rounds)?;
    for _ in 0..AGAIN_MAX {
        if outcome.complaints().is_empty() {
            break;
        }
        println!("{}  once more", outcome.row());
        take_turns(field, &mut outcome, rounds)?;
    }
    Ok(outcome)
}

/// Baseline, attack, baseline, attack …: what else goes on in the machine meets both.
fn take_turns(field: &Field, outcome: &mut Outcome<'_>, rounds: u32) -> Result<()> {
    for _ in 0..rounds {
        let quiet = measure(field, None)?;
        outcome.baseline.push(quiet.load);
        let memory = field.broker.memory()?;
        let attacked = measure(field, Some(outcome.attack))?;
        outcome.attacked.push(attacked.load);
        outcome.growth = outcome.growth.max(attacked.peak.saturating_sub(memory.own));
        for (reason, count) in &mut outcome.closed {
            *count += attacked.after.closed(reason) - attacked.before.closed(reason);
        }
        thread::sleep(QUIET);
        field.broker.check_health().context("the broker is not healthy after the attack")?;
    }
    Ok(())
}

/// What one phase has shown.
struct Measured {
    load: Phase,
    /// Most memory of the broker's own.
    peak: u64,
    before: Metrics,
    after: Metrics,
}

/// One phase, with an attack or without. All else is the same in both: the watch alone, 100 looks a second, made the p99 half as long again.
fn measure(field: &Field, attack: Option<&Attack>) -> Result<Measured> {
    let before = field.broker.metrics()?;
    let peak = Peak::watch(field.broker);
    let attackers = attack.map(|attack| Attackers::start(attack, &field.target, &field.runtime));
    thread::sleep(attack.map_or(Duration::ZERO, |attack| attack.lead));
    let load = load::measure(&field.binary, &field.namesrv, field.seconds);
    // Counted while they are at it: what they end by themselves afterwards is no merit of the broker's.
    let after = field.broker.metrics();
    attackers.map_or(Ok(()), Attackers::end)?;
    let peak = peak.end()?;
    Ok(Measured { load: load?, peak, before, after: after? })
}
