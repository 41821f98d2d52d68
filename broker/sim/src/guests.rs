//! Clients whose processes may be killed. Nobody tells the brokers; after a while another process comes and does what is left of the work.

use crate::{client::Client, history::History, load::Phase};
use parking_lot::Mutex;
use sluice_env::sim::threads::{Machine, Sim};
use sluice_history::What;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

/// Machines of such clients: those of one are killed at once.
pub const MACHINES: usize = 2;

/// What a client does. Done again from the begin by the one that comes for it.
pub type Again = Arc<dyn Fn(Client, &Arc<Phase>) + Send + Sync>;

/// What is to be written down of an operation whose client is killed: when it was begun, and what it was.
pub type Intent = Arc<Mutex<Option<(u64, What)>>>;

struct Guest {
    machine: usize,
    name: String,
    work: Again,
    phase: Arc<Phase>,
    is_done: Arc<AtomicBool>,
    process: u32,
    intent: Intent,
}

#[derive(Default)]
struct Shared {
    guests: Mutex<Vec<Guest>>,
    processes: AtomicU32,
    is_down: [AtomicBool; MACHINES],
}

/// All of them. Clones are the same.
#[derive(Clone)]
pub struct Guests {
    machines: Vec<Machine>,
    members: u32,
    history: History,
    shared: Arc<Shared>,
}

impl Guests {
    /// Nobody yet.
    #[must_use]
    pub fn new(sim: &Sim, members: u32, history: &History) -> Self {
        let machines = (1..=MACHINES).map(|id| sim.machine(&format!("guests{id}"))).collect();
        Self { machines, members, history: history.clone(), shared: Arc::default() }
    }

    /// Where they are.
    #[must_use]
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// A number that no client of the run has had.
    #[must_use]
    pub fn next_process(&self) -> u32 {
        self.shared.processes.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A client begins.
    pub fn take_in(&self, name: &str, phase: &Arc<Phase>, work: Again) {
        let mut guests = self.shared.guests.lock();
        let machine = guests.len() % MACHINES;
        let mut guest = Guest { machine, name: name.to_owned(), work, phase: phase.clone(), is_done: Arc::default(), process: 0, intent: Intent::default() };
        self.start(&mut guest);
        guests.push(guest);
    }

    fn start(&self, guest: &mut Guest) {
        guest.process = self.next_process();
        guest.intent = Intent::default();
        let machine = &self.machines[guest.machine];
        let client = Client::new(machine.env(), guest.process, self.members, &self.history).with_intent(&guest.intent);
        let (work, phase, is_done) = (guest.work.clone(), guest.phase.clone(), guest.is_done.clone());
        machine.spawn(&guest.name, move || {
            work(client, &phase);
            is_done.store(true, Ordering::SeqCst);
            phase.leave();
        });
    }

    /// Kills those of one machine: their connections are reset or, with `power_cut`, nobody hears of it. False if they are dead already.
    #[must_use]
    pub fn kill(&self, machine: usize, power_cut: Option<u64>) -> bool {
        if self.shared.is_down[machine].swap(true, Ordering::SeqCst) {
            return false;
        }
        for guest in self.shared.guests.lock().iter().filter(|guest| guest.machine == machine && !guest.is_done.load(Ordering::SeqCst)) {
            if let Some((invoke, what)) = guest.intent.lock().take() {
                self.history.op(invoke, guest.process, None, what);
            }
            self.history.op(self.history.now(), guest.process, None, What::Stopped);
        }
        match power_cut {
            Some(seed) => self.machines[machine].power_cut(seed),
            None => self.machines[machine].kill(),
        }
        true
    }

    /// Others come for those that were killed.
    pub fn replace(&self, machine: usize) {
        self.shared.is_down[machine].store(false, Ordering::SeqCst);
        for guest in self.shared.guests.lock().iter_mut().filter(|guest| guest.machine == machine && !guest.is_done.load(Ordering::SeqCst)) {
            self.start(guest);
        }
    }
}
