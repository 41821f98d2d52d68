//! Which life of a store this is: whether it still has everything that its broker ever said it held.

use crate::{Kept, KeptError};
use serde::{Deserialize, Serialize};
use sluice_env::{Env, broken};
use sluice_replication::Incarnation;
use sluice_store::FlushMode;

/// The file that says so.
const FILE: &str = "life";

/// What is kept of a life while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Life {
    incarnation: Incarnation,
    /// Of which store directory: a log that was taken away takes its promises with it.
    store: Incarnation,
    /// In which run of the machine; `None`: not known.
    boot: Option<Incarnation>,
    /// Whether all that it says it holds is flushed, and not just written.
    flushes: bool,
    /// Whether it was ended with everything flushed.
    is_closed: bool,
    /// How many lives have ended because the log lacked what they had said they held.
    #[serde(default)]
    shortened: u64,
}

/// Begins the next part of a store's life with the opening of its store, and says which life it is: the one of before, if nothing can have been lost that it said it held.
///
/// `has_failed`: a write or a sync of the log has failed since the store was opened last.
pub(crate) fn begin(env: &Env, store: u128, flush: FlushMode, has_failed: bool) -> Result<Incarnation, KeptError> {
    let kept = kept(env);
    let before = match kept.load() {
        Ok(before) => before,
        Err(KeptError::Damaged { file, why }) => {
            tracing::warn!(file, why, "this broker begins another life: what it held before counts no more until it has caught up");
            None
        }
        Err(error) => return Err(error),
    };
    let shortened = before.as_ref().map_or(0, |life| life.shortened);
    let (store, boot, flushes) = (Incarnation(store), env.clock.boot().map(Incarnation), flush == FlushMode::Sync);
    let goes_on = before.filter(|life| {
        let same_run = boot.is_some() && life.boot == boot && !has_failed;
        broken("any life of a store counts") || life.store == store && (life.flushes || life.is_closed || same_run)
    });
    let incarnation = goes_on.map_or_else(|| Incarnation(env.rng.next_u128()), |life| life.incarnation);
    kept.store(&Life { incarnation, store, boot, flushes, is_closed: false, shortened })?;
    Ok(incarnation)
}

/// A write or a sync of the log has failed: under asynchronous flush something may be lost that was said to be held, whoever opens the store next.
pub(crate) fn note_failure(env: &Env) {
    let kept = kept(env);
    let noted = kept.load().and_then(|life| life.map_or(Ok(()), |life| kept.store(&Life { boot: None, is_closed: false, ..life })));
    if let Err(error) = noted {
        tracing::error!(%error, "that the log has failed could not be noted: remove the file `life` before this broker is started again under asynchronous flush");
    }
}

/// The log lacks what this life has said it holds: another one goes on. How many have ended so by now.
pub(crate) fn end_shorter(env: &Env) -> Result<u64, KeptError> {
    let kept = kept(env);
    let Some(life) = kept.load()? else { return Ok(0) };
    let shortened = life.shortened + 1;
    kept.store(&Life { incarnation: Incarnation(env.rng.next_u128()), shortened, ..life })?;
    Ok(shortened)
}

/// How many lives have ended because the log lacked what they had said they held.
pub(crate) fn shortened(env: &Env) -> Result<u64, KeptError> {
    Ok(kept(env).load()?.map_or(0, |life| life.shortened))
}

/// Everything is flushed, and nothing more will be said to be held.
pub(crate) fn close(env: &Env) -> Result<(), KeptError> {
    let kept = kept(env);
    let Some(life) = kept.load()? else { return Ok(()) };
    kept.store(&Life { is_closed: true, ..life })
}

fn kept(env: &Env) -> Kept<Life> {
    Kept::new(env.disk.clone(), FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::sim::threads::Sim;
    use std::time::Duration;

    const LAZY: FlushMode = FlushMode::Async { interval: Duration::from_millis(500) };

    /// Whether a life goes on after that, begun under the one mode and going on under the other.
    fn goes_on(before: FlushMode, after: FlushMode, what: impl Fn(&sluice_env::sim::threads::Machine), store: u128, has_failed: bool) -> bool {
        let sim = Sim::new(1);
        let machine = sim.machine("a");
        let env = machine.env();
        let first = sim.block_on(&machine, "first", move || begin(&env, 1, before, false).unwrap()).unwrap();
        what(&machine);
        let env = machine.env();
        let second = sim.block_on(&machine, "second", move || begin(&env, store, after, has_failed).unwrap()).unwrap();
        first == second
    }

    #[test]
    fn a_life_ends_where_something_may_be_lost_that_was_said_to_be_held() {
        let (sync, kill) = (FlushMode::Sync, |machine: &sluice_env::sim::threads::Machine| machine.kill());
        let cut = |machine: &sluice_env::sim::threads::Machine| machine.power_cut(1);
        assert!(goes_on(LAZY, LAZY, kill, 1, false), "the page cache outlives a process");
        assert!(!goes_on(LAZY, LAZY, cut, 1, false), "and not the power");
        assert!(goes_on(sync, sync, cut, 1, false) && goes_on(sync, sync, kill, 1, true), "what was flushed stays");
        assert!(goes_on(sync, LAZY, cut, 1, false), "it counts how it was, not how it will be");
        assert!(!goes_on(LAZY, sync, cut, 1, false));
        assert!(!goes_on(LAZY, LAZY, kill, 1, true), "after a failed sync the page cache may have dropped what it could not write");
        assert!(!goes_on(sync, sync, kill, 2, false), "another store");
        let failed = |machine: &sluice_env::sim::threads::Machine| {
            note_failure(&machine.env());
            machine.kill();
        };
        assert!(!goes_on(LAZY, LAZY, failed, 1, false), "also when the process that knew of it has ended");
        assert!(goes_on(sync, sync, failed, 1, false));
    }

    #[test]
    fn a_life_that_was_closed_goes_on_whatever_the_machine_does() {
        let sim = Sim::new(1);
        let machine = sim.machine("a");
        let lives = (0..3).map(|turn| {
            let env = machine.env();
            let life = sim.block_on(&machine, "life", move || {
                let life = begin(&env, 1, LAZY, false).unwrap();
                if turn == 0 {
                    close(&env).unwrap();
                }
                life
            });
            machine.power_cut(turn);
            life.unwrap()
        });
        let lives: Vec<_> = lives.collect();
        assert!(lives[0] == lives[1] && lives[1] != lives[2], "closed once, it counts once: {lives:?}");
    }
}
