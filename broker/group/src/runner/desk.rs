//! The thread that asks the coordinator, one thing at a time.

use super::{shared::Shared, state::State};
use crate::coordinator::{CoordinatorError, Lease, Swapped};
use sluice_replication::{Event, GroupState, Version, Versioned};
use std::time::Duration;

/// How long the thread sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_secs(60);

enum Errand {
    Swap(Option<Version>, GroupState),
    Renew(Lease),
    Look,
}

pub(super) fn run(shared: &Shared) {
    while let Some(found) = shared.wait(IDLE, next) {
        let Some(errand) = found else { continue };
        let result = carry_out(shared, errand);
        let is_away = note(shared, result.err());
        // An answer that comes at once says that there is none: not to be asked again at once.
        if is_away && !shared.pause(shared.options.timing.renewal() / 5) {
            return;
        }
    }
}

fn next(state: &mut State) -> Option<Errand> {
    let desk = &mut state.desk;
    if let Some((from, to)) = desk.swap.take() {
        return Some(Errand::Swap(from, to));
    }
    if let Some(lease) = desk.renew.take() {
        return Some(Errand::Renew(lease));
    }
    std::mem::take(&mut desk.look).then_some(Errand::Look)
}

fn carry_out(shared: &Shared, errand: Errand) -> Result<(), CoordinatorError> {
    let timeout = shared.options.timing.renewal();
    let (asked, at) = (shared.lock().core.seen(), shared.now());
    let tell = |now: Option<Versioned>| shared.tell(Event::Read { asked, now });
    match errand {
        Errand::Swap(from, to) => match shared.coordinator.swap(from.as_ref(), &to, timeout) {
            Ok(Swapped::Done(now)) => tell(Some(now)),
            Ok(Swapped::Other(now)) => tell(now),
            Err(error) => {
                shared.tell(Event::SwapUnknown);
                return Err(error);
            }
        },
        Errand::Renew(lease) => {
            let now = shared.coordinator.renew(lease, timeout)?;
            if now.as_ref().is_some_and(|now| now.state.epoch == lease.epoch) {
                renewed(shared, lease, at);
            }
            tell(now);
        }
        Errand::Look => {
            let lease = shared.coordinator.lease(timeout)?;
            shared.lock().pace.saw_lease(at, lease.map(|lease| (lease.epoch, lease.renewal)));
            tell(shared.coordinator.read(timeout)?);
        }
    }
    Ok(())
}

fn renewed(shared: &Shared, lease: Lease, asked: Duration) {
    let mut state = shared.lock();
    if state.core.master_of() == Some(lease.epoch) {
        state.pace.renewed(asked);
        state.renewal = lease.renewal;
    }
}

/// Tells people once that the coordinator is away, and once that it is back.
fn note(shared: &Shared, error: Option<CoordinatorError>) -> bool {
    let mut state = shared.lock();
    match error {
        Some(error) => {
            if state.coordinator_away.is_none() {
                tracing::warn!(%error, "the group can't change its master or its in-sync set now; what it has goes on");
            }
            state.coordinator_away = Some(error.to_string());
            true
        }
        None => {
            if state.coordinator_away.take().is_some() {
                tracing::info!(coordinator = shared.coordinator.describe(), "the coordinator answers again");
            }
            false
        }
    }
}
