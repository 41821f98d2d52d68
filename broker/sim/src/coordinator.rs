//! A coordinator of the simulation: answers late, loses answers, is away for some, is set back to what it was.

use parking_lot::Mutex;
use sluice_env::{Rng, broken, sim::SimRng, sim::threads};
use sluice_group::coordinator::{Coordinator, CoordinatorError, Lease, Swapped};
use sluice_replication::{GroupState, Version, Versioned};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The one object, and what may go wrong with it. Clones are one coordinator.
#[derive(Clone)]
pub struct SimCoordinator {
    shared: Arc<Mutex<Shared>>,
    rng: Arc<SimRng>,
}

#[derive(Default)]
struct Shared {
    object: Option<Versioned>,
    lease: Option<Lease>,
    versions: u64,
    /// Brokers that it does not answer.
    away_for: BTreeSet<u32>,
    /// Of a thousand requests, so many are carried out without an answer.
    lost_answers: u64,
    /// Every object that there was, oldest first.
    past: Vec<GroupState>,
    /// Whether swaps are on their way for long, and those that are.
    holds: bool,
    held: Vec<(Option<Version>, GroupState)>,
}

impl SimCoordinator {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { shared: Arc::default(), rng: Arc::new(SimRng::new(seed)) }
    }

    /// As that broker sees it.
    #[must_use]
    pub fn of(&self, broker: u32) -> Arc<dyn Coordinator> {
        Arc::new(View { coordinator: self.clone(), broker })
    }

    /// Whether it answers that broker.
    pub fn set_away(&self, broker: u32, is_away: bool) {
        let mut shared = self.shared.lock();
        if is_away {
            shared.away_for.insert(broker);
        } else {
            shared.away_for.remove(&broker);
        }
    }

    /// Of a thousand requests, so many are carried out and not answered from now on.
    pub fn lose_answers(&self, of_thousand: u64) {
        self.shared.lock().lost_answers = of_thousand;
    }

    /// Restores the object that it had so many changes ago. `None`: there are not so many.
    pub fn set_back(&self, changes: usize) -> Option<GroupState> {
        let mut shared = self.shared.lock();
        let at = shared.past.len().checked_sub(changes + 1)?;
        let state = shared.past[at].clone();
        shared.store(state.clone());
        Some(state)
    }

    /// Puts the newest object back that there was, after [`Self::set_back`], unless something newer has come of the older one.
    pub fn restore(&self) {
        let mut shared = self.shared.lock();
        let newest = shared.past.iter().max_by_key(|state| state.seen()).cloned();
        if let Some(newest) = newest.filter(|newest| shared.object.as_ref().is_none_or(|object| object.state.seen() < newest.seen())) {
            shared.store(newest);
        }
    }

    /// From now on swaps are on their way until [`Self::deliver`], and whoever asked has no answer.
    pub fn hold_swaps(&self) {
        self.shared.lock().holds = true;
    }

    /// How many swaps are on their way.
    #[must_use]
    pub fn held_swaps(&self) -> usize {
        self.shared.lock().held.len()
    }

    /// What was held back arrives.
    pub fn deliver(&self) {
        let mut shared = self.shared.lock();
        shared.holds = false;
        for (from, to) in std::mem::take(&mut shared.held) {
            shared.swap(from.as_ref(), &to);
        }
    }

    /// How often it has changed.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.shared.lock().past.len()
    }

    /// The object as it is.
    #[must_use]
    pub fn state(&self) -> Option<GroupState> {
        self.shared.lock().object.as_ref().map(|object| object.state.clone())
    }
}

impl Shared {
    fn swap(&mut self, from: Option<&Version>, to: &GroupState) -> Swapped {
        if self.object.as_ref().map(|object| &object.version) == from || broken("the coordinator swaps whatever the version") {
            Swapped::Done(self.store(to.clone()))
        } else {
            Swapped::Other(self.object.clone())
        }
    }

    fn store(&mut self, state: GroupState) -> Versioned {
        self.versions += 1;
        self.past.push(state.clone());
        let now = Versioned { version: Version(self.versions.to_string()), state };
        self.object = Some(now.clone());
        now
    }
}

struct View {
    coordinator: SimCoordinator,
    broker: u32,
}

impl View {
    /// Carries a request out, as far as the broker reaches the coordinator, after a while; and the answer comes back, perhaps, after another one.
    fn ask<T>(&self, timeout: Duration, what: impl FnOnce(&mut Shared) -> T) -> Result<T, CoordinatorError> {
        self.travel();
        if self.is_away() {
            threads::sleep(timeout / 2);
            return Err(self.away("it is cut off"));
        }
        let (answer, lost) = {
            let mut shared = self.coordinator.shared.lock();
            let lost = self.coordinator.rng.next_u64() % 1000 < shared.lost_answers;
            (what(&mut shared), lost)
        };
        self.travel();
        if lost || self.is_away() {
            threads::sleep(timeout / 2);
            return Err(self.away("its answer is lost"));
        }
        Ok(answer)
    }

    fn travel(&self) {
        threads::sleep(Duration::from_micros(200 + self.coordinator.rng.next_u64() % 3000));
    }

    fn is_away(&self) -> bool {
        self.coordinator.shared.lock().away_for.contains(&self.broker)
    }

    fn away(&self, why: &str) -> CoordinatorError {
        CoordinatorError::Away { place: self.describe(), why: why.to_owned() }
    }
}

impl Coordinator for View {
    fn read(&self, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        self.ask(timeout, |shared| shared.object.clone())
    }

    fn swap(&self, from: Option<&Version>, to: &GroupState, timeout: Duration) -> Result<Swapped, CoordinatorError> {
        let answer = self.ask(timeout, |shared| {
            if shared.holds {
                shared.held.push((from.cloned(), to.clone()));
                return None;
            }
            Some(shared.swap(from, to))
        })?;
        answer.ok_or_else(|| {
            threads::sleep(timeout / 2);
            self.away("it does not answer in time")
        })
    }

    fn renew(&self, lease: Lease, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        self.ask(timeout, |shared| {
            if shared.object.as_ref().is_some_and(|object| object.state.epoch == lease.epoch) {
                shared.lease = Some(lease);
            }
            shared.object.clone()
        })
    }

    fn lease(&self, timeout: Duration) -> Result<Option<Lease>, CoordinatorError> {
        self.ask(timeout, |shared| shared.lease)
    }

    fn describe(&self) -> String {
        "the simulation's coordinator".to_owned()
    }
}
