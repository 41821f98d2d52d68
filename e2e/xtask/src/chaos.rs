//! `cargo xtask chaos`: three brokers of a group, etcd and clients as processes on machines of their own, and faults: nothing acknowledged is lost, no old
//! master acknowledges, and writes go on soon.
//!
//! | file | what it does |
//! | --- | --- |
//! | `chaos/bed.rs` | machines: network namespaces, rules that drop packets, an address that moves |
//! | `chaos/group.rs` | the processes and their disks |
//! | `chaos/watch.rs` | who is master; moves the group's address there |
//! | `chaos/load.rs` | producers and consumers |
//! | `chaos/official.rs` | the official Java and Go clients beside them |
//! | `chaos/history.rs` | what they were told, for the judge in `broker/history` |
//! | `chaos/logs.rs` | the members' logs at the end |
//! | `chaos/losses.rs` | what asynchronous replication has lost, against its bound and the brokers' metrics |
//! | `chaos/faults.rs` | what goes wrong |
//! | `chaos/rocketmq.rs` | the same clients and faults with RocketMQ |
//! | `chaos/report.rs` | tables |

mod bed;
mod faults;
mod group;
mod history;
mod load;
mod logs;
mod losses;
mod official;
mod report;
mod rocketmq;
mod watch;

use crate::{places, sluice};
use anyhow::{Context, Result, bail, ensure};
use bed::Manner;
use clap::Args;
use faults::{Fault, Struck};
use group::{Replication, Scene};
use history::Epochs;
use load::Load;
use losses::{Change, Gone, Toll};
use official::{Maker, Official, Programs};
use report::{Isolated, Over, Row, Times};
use sluice_history::{Check, Config, Mode, Report, What};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Which faults, how often, how long.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: sluice::Choice,
    /// This fault alone; may be given several times. Without it a mixture of all
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    fault: Vec<Fault>,
    /// Each fault alone, one after another
    #[arg(long)]
    each: bool,
    /// Names the faults
    #[arg(long)]
    faults_list: bool,
    /// What sends wait for. Without it half an hour has a part of each, and less time is sync
    #[arg(long, value_name = "MODE", value_enum)]
    replication: Option<Replication>,
    /// How often each fault is done, when it is alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// How long each fault lasts, in place of what is usual for it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// How long all takes: the mixture, and, if there is time for it, each fault alone behind it
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Makes the mixture's order and its pauses repeatable
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Which clients are the load; the official ones as they are, with their default settings
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',', default_values = ["ours", "java", "go"])]
    clients: Vec<Maker>,
    /// What becomes of open connections when the group's address moves to a new master
    #[arg(long, value_name = "MANNER", value_enum, default_value = "reset")]
    address: Manner,
    /// Writes docs/failover.md: each fault alone, or those that are named, as often as is usual there
    #[arg(long)]
    write_docs: bool,
    /// What the official clients see of Apache RocketMQ in controller mode: of kill-master, pause-master and isolate-master, or what --fault names of these
    #[arg(long, conflicts_with_all = ["each", "seconds", "replication"])]
    peer: bool,
    /// Keeps logs, data and history
    #[arg(long)]
    keep: bool,
}

/// Between a whole group and the next fault.
const CALM: Duration = Duration::from_millis(1500);
/// Clients have connected anew, and with [`CALM`] the sends are over that hung for it: Go's client waits for 3 s.
const ANEW: Duration = Duration::from_secs(2);
/// Longest silence that is waited for after a fault.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A write succeeds this long after a fault has been mended.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for all official clients to send again after a fault.
const CLIENTS_BACK: Duration = Duration::from_secs(60);
/// What a fault alone takes besides the time that it lasts.
const AROUND: Duration = Duration::from_secs(40);
/// A shorter mixture is not worth its start.
const MIXTURE_MIN: Duration = Duration::from_secs(120);
/// Undisturbed load before the end.
const END: Duration = Duration::from_secs(3);
/// What a run must have acknowledged to show anything, a second.
const RATE_MIN: u64 = 20;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.faults_list {
        Fault::all().iter().for_each(|fault| println!("{:<18} {}", fault.name(), fault.about()));
        return Ok(());
    }
    if !bed::possible()? {
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("sluice-chaos-").tempdir().context("making a temporary directory")?;
    let outcome = if arguments.peer { beside(arguments, folder.path()) } else { run_in(arguments, &sluice::binary(&arguments.binary)?, folder.path()) };
    if outcome.is_err() || arguments.keep {
        eprintln!("logs, data and histories are kept in {}", folder.keep().display());
    }
    outcome
}

fn run_in(arguments: &Arguments, binary: &Path, folder: &Path) -> Result<()> {
    let is_interrupted = watch_for_interrupts()?;
    let programs = Programs::build(&arguments.clients, folder)?;
    let parts = plan(&arguments.faults(), arguments.replication, Duration::from_secs(60 * arguments.minutes));
    let mut rows = Vec::new();
    for part in parts {
        let run = Run { arguments, binary, programs: &programs, folder: folder.join(part.name()), is_interrupted: &is_interrupted, part };
        let outcome = run.play();
        ensure!(!is_interrupted.load(Ordering::SeqCst), "interrupted");
        let row = outcome.unwrap_or_else(|error| Some(Row::failed(&part.name(), &error)));
        row.iter().for_each(Row::print);
        rows.extend(row);
    }
    report::print_all(&rows);
    let complaints: Vec<String> = rows.iter().flat_map(Row::complaints).collect();
    ensure!(complaints.is_empty(), "chaos does harm:\n{}", complaints.join("\n"));
    if arguments.write_docs {
        report::write(&places::root().join("docs/failover.md"), &rows)?;
    }
    let but = if rows.iter().any(Row::may_lose) { " but what asynchronous replication may lose, and that was counted" } else { "" };
    println!("chaos: nothing acknowledged was lost{but}");
    Ok(())
}

/// What official clients see of RocketMQ.
fn beside(arguments: &Arguments, folder: &Path) -> Result<()> {
    let is_interrupted = watch_for_interrupts()?;
    let programs = Programs::build(&arguments.clients, folder)?;
    let faults = if arguments.fault.is_empty() { rocketmq::FAULTS.to_vec() } else { arguments.fault.clone() };
    let runs = arguments.runs.unwrap_or(if arguments.write_docs { rocketmq::RUNS } else { 1 });
    let mut lines = Vec::new();
    for fault in faults {
        lines.extend(rocketmq::measure(fault, runs, &programs, &folder.join(fault.name()), &is_interrupted).with_context(|| format!("with {}", fault.name()))?);
    }
    report::print_clients(&lines);
    if arguments.write_docs {
        report::write_clients(&places::root().join("docs/failover.md"), lines)?;
    }
    Ok(())
}

impl Arguments {
    /// The faults that come alone and nothing else does.
    fn faults(&self) -> Vec<Fault> {
        match (self.write_docs, self.replication) {
            _ if !self.fault.is_empty() => self.fault.clone(),
            (true, Some(Replication::Async)) if !self.each => Fault::FOR_LOSS.to_vec(),
            _ if self.write_docs || self.each => Fault::all().to_vec(),
            _ => Vec::new(),
        }
    }
}

/// What is done to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// All faults, for so long.
    Mixture(Duration),
    Alone(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    work: Work,
    replication: Replication,
}

impl Part {
    /// What it is called.
    fn name(self) -> String {
        let work = match self.work {
            Work::Mixture(_) => "mixture".to_owned(),
            Work::Alone(fault) => fault.name(),
        };
        match self.replication {
            Replication::Sync => work,
            Replication::Async => format!("{work}{}", report::ASYNC),
        }
    }
}

/// The named faults alone. Without names a mixture, each fault alone behind it if there is time, and if nobody has said what sends wait for and there is still time, a
/// mixture with asynchronous replication.
fn plan(named: &[Fault], replication: Option<Replication>, time: Duration) -> Vec<Part> {
    let part = |work| Part { work, replication: replication.unwrap_or(Replication::Sync) };
    if !named.is_empty() {
        return named.iter().map(|fault| part(Work::Alone(*fault))).collect();
    }
    let all = Fault::all().iter();
    let alone: Duration = all.clone().map(|fault| AROUND + fault.lasts(true)).sum();
    let Some(left) = time.checked_sub(alone).filter(|left| *left >= MIXTURE_MIN) else { return vec![part(Work::Mixture(time))] };
    let has_both = replication.is_none() && left / 2 >= MIXTURE_MIN;
    let mixture = if has_both { left / 2 } else { left };
    let behind = has_both.then_some(Part { work: Work::Mixture(mixture), replication: Replication::Async });
    std::iter::once(part(Work::Mixture(mixture))).chain(all.map(|fault| part(Work::Alone(*fault)))).chain(behind).collect()
}

/// Set when somebody wants the run to end: namespaces and mounts must not stay behind.
fn watch_for_interrupts() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag: Arc<AtomicBool> = Arc::default();
    let set = flag.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let guard = runtime.enter();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        });
        set.store(true, Ordering::SeqCst);
    });
    Ok(flag)
}

/// A run on a bed of its own.
struct Run<'a> {
    arguments: &'a Arguments,
    binary: &'a Path,
    programs: &'a Programs,
    folder: PathBuf,
    is_interrupted: &'a Arc<AtomicBool>,
    part: Part,
}

impl Run<'_> {
    /// `None`: this machine can't do it.
    fn play(&self) -> Result<Option<Row>> {
        match self.part.work {
            Work::Mixture(time) => self.mixture(time).map(Some),
            Work::Alone(fault) => self.alone(fault, self.arguments.runs.unwrap_or(if self.arguments.write_docs { self.runs(fault) } else { 1 })),
        }
    }

    /// How often a fault is done when the page is written.
    fn runs(&self, fault: Fault) -> u32 {
        match self.part.replication {
            Replication::Sync => fault.runs(),
            Replication::Async => losses::RUNS,
        }
    }

    /// One fault, again and again. `None`: this machine can't do it.
    fn alone(&self, fault: Fault, runs: u32) -> Result<Option<Row>> {
        if fault == Fault::ClockJump && !group::has_own_clocks()? {
            return Ok(None);
        }
        self.go(|run, scene, times| {
            for _ in 0..runs {
                run.one(fault, scene, runs == 1, times)?;
            }
            Ok(())
        })
        .map(Some)
    }

    /// All faults in an order that the seed decides, until the time is over.
    fn mixture(&self, time: Duration) -> Result<Row> {
        let mut random = Random::new(self.arguments.seed);
        let mut faults: Vec<Fault> = Fault::all().to_vec();
        if !group::has_own_clocks()? {
            faults.retain(|fault| *fault != Fault::ClockJump);
        }
        self.go(|run, scene, times| {
            let begun = Instant::now();
            let mut left = if scene.may_lose() { Fault::FOR_LOSS.to_vec() } else { Vec::new() };
            while begun.elapsed() < time {
                if left.is_empty() {
                    left = faults.clone();
                }
                let fault = left.swap_remove(random.below(left.len() as u64) as usize);
                scene.pass(Duration::from_millis(random.below(2000)))?;
                run.one(fault, scene, false, times).with_context(|| format!("with {}", fault.name()))?;
            }
            Ok(())
        })
    }

    /// Load, what `work` does, a quiet end, and the judgement.
    fn go(&self, work: impl FnOnce(&Self, &mut Scene, &mut Times) -> Result<()>) -> Result<Row> {
        let mut scene = Scene::start(self.binary, &self.folder, self.arguments.address, self.part.replication, self.is_interrupted)?;
        scene.history.note(What::Configure(config()));
        let master = scene.master()?;
        self.programs.makers().try_for_each(|maker| scene.make_topic(master, maker.name(), 1))?;
        let begun = Instant::now();
        let load = Load::begin(&scene.history, &scene.namesrv(), &scene.clients, &scene.beside)?;
        let official = Official::begin(self.programs, || scene.client_command(), &scene.namesrv(), &scene.history, &self.folder)?;
        let mut times = Times::default();
        let worked = work(self, &mut scene, &mut times).and_then(|()| scene.await_whole()).and_then(|_| scene.pass(END));
        if let Err(error) = worked {
            // What was acknowledged until then is worth a look all the same, when clients have told of it.
            let _ = official.end(&scene.history);
            let found = scene.watch.findings();
            let judged = scene.epochs().and_then(|epochs| self.judge(&scene, &epochs, begun.elapsed(), times, found));
            let found = judged.map_or_else(|error| format!("{error:#}"), |row| row.complaints().join("\n"));
            bail!("{error:#}\nand so far:\n{found}");
        }
        let took = begun.elapsed();
        let findings = [load.end(&scene.clients)?, official.end(&scene.history)?, scene.watch.findings()].concat();
        scene.await_whole()?;
        scene.count(None)?;
        let epochs = scene.epochs()?;
        scene.pass(CALM)?;
        scene.digest()?;
        let row = self.judge(&scene, &epochs, took, times, findings)?;
        drop(scene);
        self.tidy(&row)?;
        Ok(row)
    }

    /// What nobody will look at is removed: a run's disks are large.
    fn tidy(&self, row: &Row) -> Result<()> {
        if self.arguments.keep || !row.complaints().is_empty() {
            return Ok(());
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("removing {}", self.folder.display()))
    }

    fn judge(&self, scene: &Scene, epochs: &Epochs, took: Duration, times: Times, findings: Vec<String>) -> Result<Row> {
        let (gone, changes) = if scene.may_lose() { (scene.history.gone(), history::changes(epochs, &scene.watch.owners())) } else { Default::default() };
        let taken = gone.iter().filter(|gone| losses::taker(gone, &changes).is_some()).map(|gone| gone.value).collect();
        let tolls = scene.may_lose().then(|| losses::tolls(&gone, &changes, scene.samples()));
        self.keep(&gone, &changes)?;
        let report: Report = scene.history.judge(epochs, &taken, &self.folder.join("history.jsonl"))?;
        let mut complaints = findings;
        complaints.extend(report.violations().iter().map(ToString::to_string));
        complaints.extend(tolls.iter().flatten().flat_map(Toll::complaints));
        for check in [Check::C1, Check::C2, Check::C4, Check::C5, Check::C11, Check::C12, Check::C13] {
            if report.judged(check) == 0 {
                complaints.push(format!("{check} had nothing to judge: the run has shown nothing"));
            }
        }
        if report.counts.sends_ok < RATE_MIN * took.as_secs() {
            complaints.push(format!("{} sends were acknowledged in {took:?}: too few to show anything", report.counts.sends_ok));
        }
        Ok(Row::new(&self.part.name(), &report, times, tolls, complaints))
    }

    /// Writes down beside the history what is gone, and which change of master has taken it.
    fn keep(&self, gone: &[Gone], changes: &[Change]) -> Result<()> {
        let mut text = String::new();
        for gone in gone {
            writeln!(text, "{gone:?} taken by {:?}", losses::taker(gone, changes).map(|index| changes[index]))?;
        }
        fs::write(self.folder.join("gone.txt"), text).context("writing down what is gone")
    }

    /// One fault, from a whole group to a whole group.
    fn one(&self, fault: Fault, scene: &mut Scene, is_alone: bool, times: &mut Times) -> Result<()> {
        self.calm(scene)?;
        scene.pass(CALM)?;
        let lasts = self.arguments.seconds.map_or_else(|| fault.lasts(is_alone), Duration::from_secs);
        let before = scene.history.now();
        let struck = fault.strike(scene)?;
        scene.pass(lasts)?;
        let isolated = (fault == Fault::IsolateMaster).then(|| told_by_old_master(scene, &struck)).flatten();
        let (at, epoch) = (struck.at.max(before), struck.epoch);
        struck.mend(fault, scene)?;
        let whole = Instant::now();
        scene.await_whole().context("after it was mended")?;
        scene.pass(CALM)?;
        scene.count(Some(fault))?;
        times.add(Over { fault, at, within: SILENCE_MAX.min(lasts + whole.elapsed()), isolated, epoch }, scene, self.programs.makers());
        if let Some(told) = isolated.filter(|told| told.acked > 0) {
            bail!("the old master, cut off from all others, acknowledged {} messages after epoch {} had begun", told.acked, scene.watch.newest_epoch());
        }
        Ok(())
    }

    /// A replica that has seen several changes of master within minutes waits longer before the next one. So it is started anew: each fault is to be the first one,
    /// for clients too.
    fn calm(&self, scene: &mut Scene) -> Result<()> {
        scene.await_whole()?;
        scene.scrape()?;
        for index in scene.watch.hesitating() {
            scene.kill(index);
            scene.restart(index)?;
            scene.await_whole()?;
        }
        // No connection leads to who was master two times ago.
        scene.bed.reset_clients()?;
        scene.pass(ANEW)?;
        let since = scene.history.now();
        scene.wait("each client sends", CLIENTS_BACK, |scene| official::all_send(self.programs.makers(), &scene.history, since).then_some(()))
    }
}

/// What the isolated master told the client beside it after a new epoch was known, if there was one.
fn told_by_old_master(scene: &Scene, struck: &Struck) -> Option<Isolated> {
    let owners = scene.watch.owners();
    let (_, (_, begun)) = owners.into_iter().find(|(epoch, (index, _))| *epoch > struck.epoch && *index != struck.index)?;
    let process = load::direct(struck.index);
    let acked = scene.history.acks().iter().filter(|acked| acked.process == process && acked.done > begun).count();
    Some(Isolated { acked, tried: scene.history.tried_since(process, begun) })
}

/// What asynchronous replication takes is made out before the history is judged ([`history::History::judge`]): the rest has to be as with synchronous replication.
fn config() -> Config {
    Config { flush: Mode::Sync, replication: Mode::Sync, write_within: history::nanos(WRITE_WITHIN), ..Config::default() }
}

/// A pseudo-random sequence (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn minutes(number: u64) -> Duration {
        Duration::from_secs(60 * number)
    }

    fn alone(replication: Replication) -> Vec<Part> {
        Fault::all().iter().map(|fault| Part { work: Work::Alone(*fault), replication }).collect()
    }

    #[test]
    fn half_an_hour_has_a_mixture_and_each_fault_alone_and_an_asynchronous_mixture_and_two_minutes_a_mixture() {
        let parts = plan(&[], None, minutes(30));
        let (Work::Mixture(first), Work::Mixture(last)) = (parts[0].work, parts[parts.len() - 1].work) else { panic!("{parts:?}") };
        assert_eq!((parts[0].replication, parts[parts.len() - 1].replication), (Replication::Sync, Replication::Async));
        assert!(first == last && (minutes(4)..minutes(15)).contains(&first), "{first:?}");
        assert_eq!(parts[1..parts.len() - 1], alone(Replication::Sync));
        let all: Duration = Fault::all().iter().map(|fault| AROUND + fault.lasts(true)).sum();
        assert!(all + first + last <= minutes(30));
        assert_eq!(plan(&[], None, minutes(2)), [Part { work: Work::Mixture(minutes(2)), replication: Replication::Sync }]);
    }

    #[test]
    fn what_sends_wait_for_holds_for_all_parts_when_it_is_said() {
        for replication in [Replication::Sync, Replication::Async] {
            let parts = plan(&[], Some(replication), minutes(30));
            assert!(parts.iter().all(|part| part.replication == replication), "{parts:?}");
            assert_eq!(parts[1..], alone(replication));
            assert_eq!(plan(&[], Some(replication), minutes(2)), [Part { work: Work::Mixture(minutes(2)), replication }]);
            assert_eq!(plan(&[Fault::Ring], Some(replication), minutes(30)), [Part { work: Work::Alone(Fault::Ring), replication }]);
        }
        assert_eq!(plan(&[Fault::Ring], None, minutes(30)), [Part { work: Work::Alone(Fault::Ring), replication: Replication::Sync }]);
    }
}
