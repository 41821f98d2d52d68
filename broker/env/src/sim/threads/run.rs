//! A simulation as a test holds it.

use super::{
    LIVE,
    machine::Machine,
    net::Network,
    scheduler::{Scheduler, Timing},
};
use parking_lot::Mutex;
use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

/// Virtual time after which nobody waits any more. Threads that tick keep a simulation going for ever, also when the one that is waited for is stuck.
pub(super) const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Why a simulation goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Threads wait for each other, or all for what never comes: each one, and what for.
    Deadlock(String),
    /// A thread has panicked.
    Panicked(String),
    /// What was waited for has not come within its time: what each thread waits for.
    Late(String),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadlock(report) => write!(f, "deadlock {report}"),
            Self::Panicked(what) => f.write_str(what),
            Self::Late(report) => write!(f, "too late {report}"),
        }
    }
}

impl std::error::Error for Halt {}

/// Machines, their threads and their time. Dropping it drops the threads wherever they stand.
pub struct Sim {
    scheduler: Arc<Scheduler>,
    network: Network,
    /// Coroutines must not move to another thread of the operating system.
    _stays: PhantomData<*const ()>,
}

impl Sim {
    /// An empty simulation. The same seed, with the same machines and threads, is the same run.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_timing(seed, Timing::default())
    }

    /// The same with other speeds.
    #[must_use]
    pub fn with_timing(seed: u64, timing: Timing) -> Self {
        LIVE.set(LIVE.get() + 1);
        let scheduler = Scheduler::new(seed, timing);
        Self { network: Network::new(scheduler.clone()), scheduler, _stays: PhantomData }
    }

    /// A machine with an empty disk and a calendar clock that stands at the first day of 2026.
    #[must_use]
    pub fn machine(&self, name: &str) -> Machine {
        Machine::new(self.scheduler.clone(), self.network.clone(), name)
    }

    /// What connects the machines.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.scheduler.now()
    }

    /// A hash of everything that has happened so far: every turn, every wake-up, every call to a disk, with its time.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.scheduler.trace()
    }

    /// Turns of threads so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.scheduler.turns()
    }

    /// Lets that much virtual time pass.
    pub fn run_for(&self, time: Duration) -> Result<(), Halt> {
        self.scheduler.run_for(time)
    }

    /// Runs until `so` holds, looked at before every turn; at most `limit` of virtual time.
    pub fn run_until(&self, limit: Duration, so: impl FnMut() -> bool) -> Result<(), Halt> {
        self.scheduler.run_until(limit, so)
    }

    /// Runs `body` on a thread of the machine until it has come back, for 24 h of virtual time at most. Other threads run meanwhile and stand still afterwards.
    pub fn block_on<T: Send + 'static>(&self, machine: &Machine, name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<T, Halt> {
        let out = Arc::new(Mutex::new(None));
        let slot = out.clone();
        let id = machine.start(name, Box::new(move || *slot.lock() = Some(body())));
        self.scheduler.run_until(LIMIT, || self.scheduler.outcome(id).is_some())?;
        let out = out.lock().take();
        out.ok_or_else(|| Halt::Panicked(format!("{name} ended without a result: its machine was killed")))
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.scheduler.clear();
        LIVE.set(LIVE.get() - 1);
    }
}
