//! One run: brokers, clients and a coordinator for some minutes of virtual time, faults one after another; then all is well again, everything is read, and judged.

use crate::{
    coordinator::SimCoordinator,
    digest,
    faults::{Fault, Plan},
    guests::Guests,
    history::History,
    load::Crew,
    node::{Node, Settings, UNCONFIRMED_BYTES_MAX, name},
    work::{self, Work},
};
use sluice_env::{
    break_one,
    sim::threads::{Halt, Machine, Sim, Timing as SimTiming},
};
use sluice_history::{Checker, Config, Mode, Report, What};
use sluice_replication::Timing;
use sluice_store::{FlushMode, Store};
use std::{fmt, sync::Arc, time::Duration};

/// How a run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Virtual time with faults.
    pub minutes: u64,
    /// The faults; all if there are none named.
    pub faults: Option<Vec<Fault>>,
    /// What clients do; everything if nothing is named.
    pub work: Option<Vec<&'static Work>>,
    /// The rule that is broken on purpose.
    pub broken: Option<&'static str>,
}

impl Options {
    /// All faults, all work, nothing broken.
    #[must_use]
    pub fn new(seed: u64, minutes: u64) -> Self {
        Self { seed, minutes, faults: None, work: None, broken: None }
    }
}

/// How a run went.
pub struct Outcome {
    /// What the judge found.
    pub report: Report,
    /// All violations, each with the check's name in front.
    pub violations: Vec<String>,
    /// A hash of everything that happened.
    pub trace: u64,
    /// Virtual time.
    pub time: Duration,
    /// Faults.
    pub faults: usize,
    /// Epochs.
    pub epochs: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, seconds) = (&self.report.counts, self.time.as_secs());
        write!(f, "{seconds} s, {} faults, {} epochs, ", self.faults, self.epochs)?;
        write!(f, "{} acknowledged, {} unknown, {} delivered, trace {:016x}", counts.sends_ok, counts.sends_unknown, counts.delivered, self.trace)
    }
}

/// How long a group may still suffer from a fault that is over: an election, a recovery, a log to catch up with.
const RECOVERY_NANOS: u64 = 30_000_000_000;
/// How long a new master keeps a queue for a consumer that held its order lock, dead or not.
const LOCK_NANOS: u64 = 60_000_000_000;
/// How long the end of a run may take.
const END: Duration = Duration::from_secs(300);

/// Runs.
pub fn run(options: &Options) -> Result<Outcome, String> {
    break_one(options.broken);
    let sim = Sim::with_timing(options.seed, SimTiming::default());
    let settings = settings(options.seed);
    let world = World::new(&sim, settings, options.seed);
    let outcome = world.go(options).map_err(|halt| halt.to_string());
    drop(world);
    drop(sim);
    break_one(None);
    outcome
}

/// What retention leaves in a share of the runs: little enough that a broker with an empty disk has to be given a copy of a log that begins later, and a multiple of what is
/// written while a consumer is away.
const RETENTION_BYTES: u64 = 4 << 20;

/// What a seed decides of the brokers.
pub(crate) fn settings(seed: u64) -> Settings {
    let flush = if seed.is_multiple_of(3) { FlushMode::Async { interval: Duration::from_millis(500) } } else { FlushMode::Sync };
    Settings {
        members: 3,
        min_in_sync: 1,
        flush,
        confirm: seed % 5 != 4,
        timing: Timing { flapping: Duration::ZERO, ..Timing::new(Duration::from_secs(5)) },
        queues: 4,
        retention: (seed / 2).is_multiple_of(2).then_some(RETENTION_BYTES),
        calendars_jump: seed.is_multiple_of(2),
    }
}

/// The machines of a run and what runs on them.
pub struct World<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) seed: u64,
    pub(crate) brokers: Vec<Machine>,
    pub(crate) clients: Machine,
    pub(crate) guests: Guests,
    pub(crate) coordinator: SimCoordinator,
    pub(crate) history: History,
    pub(crate) settings: Settings,
    nodes: parking_lot::Mutex<Vec<Option<Arc<Node>>>>,
}

impl<'a> World<'a> {
    pub(crate) fn new(sim: &'a Sim, settings: Settings, seed: u64) -> Self {
        let brokers: Vec<Machine> = (1..=settings.members).map(|id| sim.machine(&name(id))).collect();
        let clients = sim.machine("clients");
        let history = History::new(clients.env().clock);
        let guests = Guests::new(sim, settings.members, &history);
        let nodes = parking_lot::Mutex::new(vec![None; brokers.len()]);
        Self { sim, seed, brokers, clients, guests, coordinator: SimCoordinator::new(seed), history, settings, nodes }
    }

    /// Lets virtual time pass.
    pub(crate) fn pass(&self, time: Duration) -> Result<(), Halt> {
        self.sim.run_for(time)
    }

    /// Starts a broker's process; the one of before is dead or was never there.
    pub(crate) fn start(&self, index: usize) {
        let id = index as u32 + 1;
        let node = Node::start(&self.brokers[index], id, &self.settings, &self.coordinator, &self.history);
        self.nodes.lock()[index] = Some(node);
    }

    pub(crate) fn node(&self, index: usize) -> Option<Arc<Node>> {
        self.nodes.lock()[index].clone()
    }

    /// A broker's store, while it is open.
    pub(crate) fn store(&self, index: usize) -> Option<Arc<Store>> {
        self.node(index)?.member()?.store()
    }

    pub(crate) fn forget(&self, index: usize) {
        self.nodes.lock()[index] = None;
    }

    /// The broker that the coordinator has as master.
    pub(crate) fn master(&self) -> Option<usize> {
        self.coordinator.state().map(|state| state.master.0 as usize - 1)
    }

    fn go(&self, options: &Options) -> Result<Outcome, Halt> {
        let work = options.work.clone().unwrap_or_else(|| work::ALL.iter().collect());
        let crew = self.begin(&work)?;
        let plan = Plan::new(self.seed, options.faults.clone(), self.settings.calendars_jump);
        let faults = plan.carry_out(self, Duration::from_secs(options.minutes * 60))?;
        self.finish(&crew, faults)
    }

    /// The group is founded, and clients begin.
    pub(crate) fn begin(&self, work: &[&Work]) -> Result<Crew<'_>, Halt> {
        self.history.note(What::Configure(config(&self.settings)));
        (0..self.brokers.len()).for_each(|index| self.start(index));
        self.pass(Duration::from_secs(8))?;
        let mut crew = Crew::new(&self.clients, &self.guests, &self.settings, &self.history);
        work.iter().for_each(|work| (work.hire)(&mut crew));
        self.pass(Duration::from_secs(5))?;
        Ok(crew)
    }

    /// All is well again: everything is read, and judged.
    pub(crate) fn finish(&self, crew: &Crew<'_>, faults: usize) -> Result<Outcome, Halt> {
        self.history.note(What::Heal);
        self.pass(Duration::from_secs(30))?;
        crew.phase.end();
        self.pass(Duration::from_secs(20))?;
        crew.phase.drain();
        self.sim.run_until(END, || crew.phase.is_idle())?;
        crew.note_drained();
        // The last commits are written, and every broker has heard of it.
        self.pass(Duration::from_secs(3))?;
        let away = (1..).zip((0..self.brokers.len()).map(|index| self.store(index))).filter(|(_, store)| store.is_none());
        away.for_each(|(id, _): (u32, _)| crew.phase.found(format!("R3: broker {id} has no open store at the end, though nothing is broken")));
        digest::write(self)?;
        let mut checker = Checker::default();
        let mut events = self.history.take();
        events.sort_by_key(|event| event.done);
        if let Ok(path) = std::env::var("SLUICE_SIM_HISTORY") {
            #[allow(clippy::disallowed_methods, reason = "a file of the one who looks for the cause, and none of the simulation")]
            let mut file = std::fs::File::create(path).unwrap_or_else(|error| panic!("the history's file: {error}"));
            events.iter().for_each(|event| drop(sluice_history::write(&mut file, event)));
        }
        for event in &events {
            if let Err(error) = checker.push(event) {
                return Err(Halt::Panicked(format!("the history can't be judged: {error}")));
            }
        }
        let epochs = self.coordinator.state().map_or(0, |state| state.epoch.0);
        let report = checker.finish();
        let violations = report.violations().iter().map(ToString::to_string).chain(crew.phase.findings()).collect();
        Ok(Outcome { report, violations, trace: self.sim.trace(), time: self.sim.now(), faults, epochs })
    }
}

/// How long before a fault something may have been acknowledged that is lost with it: longer than a replica stays in the set that does not keep up.
const LOSS_WINDOW_NANOS: u64 = 30_000_000_000;
/// Bytes of a record that is sent here; most have more, some a few less.
const RECORD_BYTES: u64 = 512;
/// Changes of master in one fault, with what is around it, that may each take what was not confirmed.
const CHANGES_MAX: u64 = 2;

fn config(settings: &Settings) -> Config {
    let flush = if settings.is_sync() { Mode::Sync } else { Mode::Async };
    let (replication, loss_window, loss_count_max) = match settings.confirm {
        true => (Mode::Sync, 0, 0),
        false => (Mode::Async, LOSS_WINDOW_NANOS, CHANGES_MAX * UNCONFIRMED_BYTES_MAX / RECORD_BYTES),
    };
    Config {
        flush,
        replication,
        loss_window,
        loss_count_max,
        write_within: RECOVERY_NANOS,
        held_back_max: LOCK_NANOS,
        delay_late_max: RECOVERY_NANOS,
        retries_max: work::RETRIES_MAX,
        ..Config::default()
    }
}
