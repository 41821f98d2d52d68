//! A machine: threads that end together, one disk, one calendar clock.

use super::{
    current,
    disk::{DiskPace, ThreadedDisk},
    net::Network,
    run::LIMIT,
    scheduler::Scheduler,
};
use crate::{
    Clock, Env, JoinHandle, Monotonic, Spawn, WallTime,
    sim::{SimDisk, SimRng, clock::START_MILLIS, entropy::hash},
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

/// One of a simulation's machines. It starts with an empty disk and lives until it is killed, and then again with what the disk has kept. Clones are one machine.
#[derive(Clone)]
pub struct Machine {
    scheduler: Arc<Scheduler>,
    network: Network,
    pub(super) id: usize,
    shared: Arc<Shared>,
}

struct Shared {
    life: Mutex<Life>,
    /// Calendar less virtual time, in milliseconds.
    calendar_offset: AtomicI64,
    pace: Arc<DiskPace>,
}

struct Life {
    number: u64,
    /// Power cuts so far.
    boot: u64,
    disk: SimDisk,
    over: Arc<AtomicBool>,
}

impl Machine {
    pub(super) fn new(scheduler: Arc<Scheduler>, network: Network, name: &str) -> Self {
        let id = scheduler.add_machine(name);
        network.add(name, id);
        let life = Mutex::new(Life { number: 0, boot: 0, disk: SimDisk::new(), over: Arc::default() });
        Self { scheduler, network, id, shared: Arc::new(Shared { life, calendar_offset: AtomicI64::new(START_MILLIS), pace: Arc::default() }) }
    }

    /// The machine as its processes see it in this life.
    #[must_use]
    pub fn env(&self) -> Env {
        let life = self.shared.life.lock();
        Env {
            clock: Arc::new(MachineClock(self.clone())),
            disk: Arc::new(ThreadedDisk::new(Arc::new(life.disk.clone()), life.over.clone(), self.scheduler.clone(), self.shared.pace.clone())),
            net: self.network.of(self),
            rng: Arc::new(SimRng::new(hash(&[self.scheduler.seed, 2, self.id as u64, life.number]))),
            spawn: Arc::new(MachineSpawn { machine: self.clone(), over: life.over.clone() }),
        }
    }

    /// The disk of this life, to look at and to plant faults in.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.shared.life.lock().disk.clone()
    }

    /// Starts a thread of this machine that nobody joins.
    pub fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) {
        self.start(name, Box::new(body));
    }

    pub(super) fn start(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> usize {
        self.scheduler.spawn(self.id, name, body)
    }

    /// Kills the machine's processes: their threads do nothing any more, what they wrote is there for the next life, and their connections are ended.
    pub fn kill(&self) {
        self.end(true, SimDisk::kill);
    }

    /// Cuts its power: as [`Self::kill`], and the disk keeps what was synced and, by the seed, some of the rest. Its peers hear nothing, and nobody
    /// answers at its addresses until [`Self::env`] begins another life.
    pub fn power_cut(&self, seed: u64) {
        self.end(false, |disk| disk.crash(seed));
    }

    /// Takes its disk away: as [`Self::power_cut`], and the next life has an empty one.
    pub fn wipe(&self) {
        self.end(false, |_| SimDisk::new());
    }

    /// Puts another disk into its place, such as an older copy of its own: as [`Self::kill`], and the next life has that one.
    pub fn replace_disk(&self, disk: SimDisk) {
        self.end(true, |_| disk);
    }

    /// Lets its threads stand still for that time, as a stopped process or a machine that its host has put aside. Its connections stay.
    pub fn pause(&self, time: Duration) {
        self.scheduler.pause(self.id, time);
    }

    fn end(&self, has_power: bool, after: impl FnOnce(&SimDisk) -> SimDisk) {
        {
            let mut life = self.shared.life.lock();
            life.over.store(true, Ordering::SeqCst);
            let boot = life.boot + u64::from(!has_power);
            *life = Life { number: life.number + 1, boot, disk: after(&life.disk), over: Arc::default() };
        }
        self.network.machine_ended(self.id, has_power);
        self.scheduler.kill(self.id);
    }

    /// Lets calls to the disk that begin within that time wait for its end.
    pub fn stall_disk(&self, time: Duration) {
        self.shared.pace.stall_until(self.scheduler.now().saturating_add(time));
    }

    /// Lets each call to the disk take so many times as long.
    pub fn slow_disk(&self, times: u32) {
        self.shared.pace.slow(times);
    }

    /// Sets the machine's calendar forward or, with a negative number, back.
    pub fn jump_wall(&self, millis: i64) {
        self.shared.calendar_offset.fetch_add(millis, Ordering::SeqCst);
    }
}

/// Virtual time, with the machine's own calendar.
struct MachineClock(Machine);

impl Clock for MachineClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.scheduler.now())
    }

    fn wall(&self) -> WallTime {
        let passed = i64::try_from(self.0.scheduler.now().as_millis()).unwrap_or(i64::MAX);
        WallTime(self.0.shared.calendar_offset.load(Ordering::SeqCst).saturating_add(passed))
    }

    fn boot(&self) -> Option<u128> {
        Some(self.0.shared.life.lock().boot.into())
    }
}

struct MachineSpawn {
    machine: Machine,
    over: Arc<AtomicBool>,
}

impl Spawn for MachineSpawn {
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn JoinHandle>> {
        if self.over.load(Ordering::SeqCst) {
            return Err(io::Error::other(format!("cannot start thread {name}: its machine was killed")));
        }
        Ok(Box::new(Handle { scheduler: self.machine.scheduler.clone(), id: self.machine.start(name, body) }))
    }
}

struct Handle {
    scheduler: Arc<Scheduler>,
    id: usize,
}

impl JoinHandle for Handle {
    /// Outside of simulated threads this drives the simulation: there is nobody else to do it.
    fn join(self: Box<Self>) -> Result<(), String> {
        if let Some(me) = current() {
            return me.join(self.id);
        }
        self.scheduler.run_until(LIMIT, || self.scheduler.outcome(self.id).is_some()).map_err(|halt| halt.to_string())?;
        self.scheduler.outcome(self.id).unwrap_or(Ok(()))
    }
}
