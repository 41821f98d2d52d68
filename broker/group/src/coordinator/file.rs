//! The coordinator of a broker that is alone: a file in its store directory, whose lock keeps other processes out.

use super::{Coordinator, CoordinatorError, Lease, Swapped};
use crate::{Kept, KeptError};
use sluice_env::{Disk, sync::Mutex};
use sluice_replication::{GroupState, Version, Versioned};
use std::{sync::Arc, time::Duration};

const FILE: &str = "group";

/// Keeps the object in the file `group`.
pub struct FileCoordinator {
    place: String,
    kept: Kept<GroupState>,
    /// Taken while the object is read, compared, swapped.
    durable: Mutex<Durable>,
    /// Nobody else could look at it, and it is of no use to the next process.
    lease: Mutex<Option<Lease>>,
}

/// Whether what the file says would outlive a power cut. It need not after a failed write, nor after one that was cut short by the end of an earlier process; and
/// what was told once must not be taken back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    Unknown,
}

impl FileCoordinator {
    /// In that store directory.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { place: format!("{}/{FILE}", disk.describe()), kept: Kept::new(disk, FILE), durable: Mutex::new(Durable::Unknown), lease: Mutex::default() }
    }

    fn load(&self, durable: &mut Durable) -> Result<Option<Versioned>, CoordinatorError> {
        let state = self.kept.load().map_err(|error| self.failed(&error))?;
        if let Some(state) = state.as_ref().filter(|_| *durable == Durable::Unknown) {
            self.store(state, durable)?;
        }
        Ok(state.map(versioned))
    }

    fn store(&self, state: &GroupState, durable: &mut Durable) -> Result<(), CoordinatorError> {
        *durable = Durable::Unknown;
        self.kept.store(state).map_err(|error| self.failed(&error))?;
        *durable = Durable::Yes;
        Ok(())
    }

    fn failed(&self, error: &KeptError) -> CoordinatorError {
        let (place, why) = (self.place.clone(), error.to_string());
        match error {
            KeptError::Disk { .. } => CoordinatorError::Away { place, why },
            KeptError::Damaged { .. } => CoordinatorError::Damaged { place, why },
        }
    }
}

/// The revision rises with each change.
fn versioned(state: GroupState) -> Versioned {
    Versioned { version: Version(state.revision.to_string()), state }
}

impl Coordinator for FileCoordinator {
    fn read(&self, _: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        self.load(&mut self.durable.lock())
    }

    fn swap(&self, from: Option<&Version>, to: &GroupState, _: Duration) -> Result<Swapped, CoordinatorError> {
        let mut durable = self.durable.lock();
        let now = self.load(&mut durable)?;
        if now.as_ref().map(|now| &now.version) != from {
            return Ok(Swapped::Other(now));
        }
        self.store(to, &mut durable)?;
        Ok(Swapped::Done(versioned(to.clone())))
    }

    fn renew(&self, lease: Lease, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        let now = self.read(timeout)?;
        if now.as_ref().is_some_and(|now| now.state.epoch == lease.epoch) {
            *self.lease.lock() = Some(lease);
        }
        Ok(now)
    }

    fn lease(&self, _: Duration) -> Result<Option<Lease>, CoordinatorError> {
        Ok(*self.lease.lock())
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::sim::{self, Fault, FaultKind, Op};
    use sluice_replication::{Epoch, Incarnation, Member, MemberId};

    const SOON: Duration = Duration::from_secs(1);

    fn first() -> GroupState {
        GroupState::first(Member { id: MemberId(1), store: Incarnation(5) })
    }

    #[test]
    fn of_two_swaps_that_rest_on_one_version_one_succeeds() {
        let (env, disk, _) = sim::env(1);
        let coordinator = FileCoordinator::new(env.disk);
        assert_eq!(coordinator.read(SOON), Ok(None));
        let Ok(Swapped::Done(made)) = coordinator.swap(None, &first(), SOON) else { panic!("there was none") };
        assert_eq!(coordinator.swap(None, &first(), SOON), Ok(Swapped::Other(Some(made.clone()))));
        let next = made.state.with_master(MemberId(1), false);
        let Ok(Swapped::Done(second)) = coordinator.swap(Some(&made.version), &next, SOON) else { panic!("it was that version") };
        assert_eq!(coordinator.swap(Some(&made.version), &next, SOON), Ok(Swapped::Other(Some(second.clone()))));
        assert_eq!(second.state.epoch, Epoch(2));
        // It is there after the power was cut.
        assert_eq!(FileCoordinator::new(Arc::new(disk.crash(1))).read(SOON), Ok(Some(second)));
    }

    #[test]
    fn after_a_failed_write_what_was_told_once_stays_so_and_a_damaged_file_is_never_taken_for_none() {
        for (seed, op) in (0..40).map(|seed| (seed, [Op::Write, Op::Sync, Op::Rename, Op::SyncDir][seed as usize % 4])) {
            let (env, disk, _) = sim::env(seed);
            let coordinator = FileCoordinator::new(env.disk.clone());
            let Ok(Swapped::Done(made)) = coordinator.swap(None, &first(), SOON) else { panic!("there was none") };
            disk.inject(Fault::once(op, FaultKind::Eio));
            let next = made.state.with_master(MemberId(1), false);
            let error = coordinator.swap(Some(&made.version), &next, SOON).unwrap_err();
            assert!(error.to_string().contains("does not answer"), "{error}");
            // The same process, or the next one.
            let coordinator = if seed % 8 < 4 { coordinator } else { FileCoordinator::new(env.disk.clone()) };
            let read = coordinator.read(SOON).unwrap().unwrap().state;
            assert!(read == made.state || read == next, "{op:?}: {read:?}");
            let after = FileCoordinator::new(Arc::new(disk.crash(seed))).read(SOON).unwrap().unwrap().state;
            assert_eq!(after, read, "{op:?} failed, seed {seed}");
            let file = env.disk.open(FILE, sluice_env::OpenMode::Write).unwrap();
            file.write_all_at(b"#", 3).unwrap();
            assert!(matches!(coordinator.read(SOON), Err(CoordinatorError::Damaged { .. })));
            assert!(matches!(coordinator.swap(None, &next, SOON), Err(CoordinatorError::Damaged { .. })));
        }
    }
}
