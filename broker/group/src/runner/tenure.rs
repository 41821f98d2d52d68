//! The thread that opens and closes what a master does with its log, and opens the store again where that has to be.

use super::{
    resync,
    shared::{Shared, confirm, held},
};
use crate::life;
use sluice_env::broken;
use sluice_replication::{Core, Epoch, Event, Member, MemberId};
use sluice_store::{Mark, OpenError, Store};
use sluice_types::CommitLogOffset;
use std::{sync::Arc, time::Duration};

/// What is to be done, in order.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// This broker is master of that epoch.
    Begin(Epoch),
    /// It is not any more.
    Cease(Epoch),
    /// The log ends here by that epoch's master.
    Cut(Epoch, CommitLogOffset),
    /// The store is to be opened again.
    Reopen(Reopen),
    /// Another member of the set shall be master, by that time.
    HandOver(Epoch, MemberId, Duration),
}

/// Why a store is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reopen {
    /// What has no confirmation yet belongs to another epoch's master now, or to nobody.
    Ceased,
    /// A cut is ordered.
    Cut,
    /// A write or a sync has failed.
    Failed,
    /// It lacks what this life of it has said it holds: another one begins.
    Shorter,
    /// It can't be continued, or a person has ordered it: the master's log is taken whole.
    Resync,
}

/// How long the thread sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);
/// Between two tries to open a directory that somebody else still has.
const LOCKED_PAUSE: Duration = Duration::from_millis(5);
/// Between two tries to open one that can't be opened.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// How often it is said that a directory is still in use.
const LOCKED_TELL: Duration = Duration::from_secs(5);

pub(super) fn run(shared: &Shared) {
    let mut open = None;
    loop {
        // It stays in the queue while it is carried out: nobody follows meanwhile.
        let found = shared.wait(IDLE, |state| state.commands.front().cloned());
        match found {
            None => break,
            Some(Some(command)) => {
                carry_out(shared, command, &mut open);
                shared.lock().commands.pop_front();
                shared.notify();
            }
            Some(None) => reopen_failed(shared),
        }
    }
    if let Some(epoch) = open {
        shared.service.close(epoch);
    }
}

fn carry_out(shared: &Shared, command: Command, open: &mut Option<Epoch>) {
    match command {
        Command::Begin(epoch) => begin(shared, epoch, open),
        Command::Cease(epoch) => {
            if open.take() == Some(epoch) {
                shared.service.close(epoch);
            }
            reopen(shared, Reopen::Ceased);
        }
        Command::Cut(epoch, to) => cut(shared, epoch, to),
        Command::Reopen(why) => reopen(shared, why),
        Command::HandOver(epoch, to, until) => {
            if *open == Some(epoch) {
                give(shared, epoch, to, until);
            }
        }
    }
}

/// A replica's store that has failed; a master's is seen to by `Pace`.
fn reopen_failed(shared: &Shared) {
    let mut state = shared.lock();
    if state.core.master_of().is_none() && state.store.as_ref().is_some_and(|store| store.is_poisoned()) {
        state.commands.push_back(Command::Reopen(Reopen::Failed));
    }
}

/// Writes the epoch's first record, waits until it is confirmed and shown, and with it everything before, then lets clients in.
fn begin(shared: &Shared, epoch: Epoch, open: &mut Option<Epoch>) {
    let store = {
        let mut state = shared.lock();
        let store = state.store.clone().filter(|_| shared.leads(epoch));
        if store.is_some() {
            state.master = None;
        }
        store
    };
    let Some(store) = store else { return };
    // The old one is none any more: what clients ask meanwhile waits here, and is not sent there and back.
    shared.service.master_is(None);
    if let Err(error) = store.begin_epoch(epoch.0) {
        tracing::error!(%epoch, %error, "the epoch's first record could not be written");
        shared.tell(Event::Retire);
        return;
    }
    let end = store.marks().appended;
    shared.tell(Event::Own(held(store.marks())));
    // Shown: what is opened on it looks for what is under way, and sees no more than consumers do.
    while shared.leads(epoch) && !store.show(end) && !broken("clients are let in before the inherited log is confirmed") {
        let seen = store.marks();
        if !store.show(end) {
            store.await_progress(Mark::Confirmed, seen, shared.options.timing.beat());
        }
    }
    if !shared.leads(epoch) {
        return;
    }
    tracing::debug!(%epoch, %end, "the inherited log is confirmed");
    serve(shared, epoch, &store, open);
}

fn is_confirmed(store: &Store, end: CommitLogOffset) -> bool {
    store.marks().confirmed >= end
}

fn serve(shared: &Shared, epoch: Epoch, store: &Arc<Store>, open: &mut Option<Epoch>) {
    if let Err(why) = shared.service.open(epoch, store) {
        tracing::error!(%epoch, why, "this master can't serve clients: it gives up its role");
        shared.tell(Event::Retire);
        return;
    }
    *open = Some(epoch);
    let master = (shared.options.id, shared.options.place.clone());
    shared.lock().master = Some(master.clone());
    if shared.begin_to_serve(epoch) {
        tracing::info!(%epoch, "this broker serves clients");
        shared.service.master_is(Some(&master));
    }
}

/// Orders the cut and has it carried out, unless this broker follows another epoch by now, or is master itself: then what lies beyond is its own.
fn cut(shared: &Shared, epoch: Epoch, to: CommitLogOffset) {
    let Some(ordered) = shared.while_nothing_is_learnt(epoch, |store| store.order_cut(to)) else { return };
    match ordered {
        Ok(()) => {
            tracing::info!(%epoch, %to, "this replica's log ends with what its master does not have: it is cut");
            reopen(shared, Reopen::Cut);
        }
        Err(error) => {
            let why = error.to_string();
            tracing::error!(why, "this replica can't follow");
            shared.lock().wrong = Some(why);
            shared.pause(shared.options.timing.renewal());
        }
    }
}

/// Opens the store again. Comes back when it is open, or the member stops.
fn reopen(shared: &Shared, why: Reopen) {
    let mut agreed = None;
    if why == Reopen::Resync {
        agreed = resync::agree_first(shared);
        // Without a master that gives its own the log is kept: it may be the only copy that is left.
        if agreed.is_none() {
            return;
        }
    }
    let store = {
        let mut state = shared.lock();
        // A master's store is given up with its role, and not before.
        if why != Reopen::Ceased && state.core.master_of().is_some() {
            return;
        }
        shared.set_store(&mut state, None)
    };
    let Some(store) = store else { return };
    let has_failed = store.is_poisoned();
    if has_failed {
        life::note_failure(&shared.env);
    }
    // No more appends, and everybody who waits for one has an answer.
    store.abandon();
    drop(store);
    tracing::info!(?why, "the store is opened again");
    if why == Reopen::Shorter {
        match life::end_shorter(&shared.env) {
            Ok(times) => shared.lock().shortened = times,
            // It is found out again when it meets its master again.
            Err(error) => tracing::error!(%error, "that another life of the store begins could not be noted"),
        }
    }
    if let Some(agreed) = agreed
        && !resync::run(shared, agreed)
    {
        return;
    }
    let Some((store, me)) = open_again(shared, has_failed) else { return };
    let mut state = shared.lock();
    if state.core.me() != me {
        // It may have become master meanwhile, by an answer that was late: of a life that is over.
        drop(shared.tell_locked(&mut state, Event::Retire));
        let (seen, own) = (state.core.seen(), held(store.marks()));
        state.core = Core::new(me, shared.options.min_in_sync, seen, own);
        state.desk.look = true;
    }
    state.lost += store.lost();
    shared.set_store(&mut state, Some(store));
    drop(state);
    shared.notify();
}

fn open_again(shared: &Shared, has_failed: bool) -> Option<(Arc<Store>, Member)> {
    let mut locked_since = shared.now();
    loop {
        match try_open(shared, has_failed) {
            Ok(opened) => return Some(opened),
            Err(None) => {
                if shared.now().saturating_sub(locked_since) > LOCKED_TELL {
                    locked_since = shared.now();
                    tracing::warn!("the store is still in use by requests that have not ended");
                }
                shared.pause(LOCKED_PAUSE).then_some(())?;
            }
            Err(Some(why)) => {
                tracing::error!(why, "the store could not be opened; trying again");
                shared.pause(FAILED_PAUSE).then_some(())?;
            }
        }
    }
}

/// `Err(None)`: somebody still has it.
fn try_open(shared: &Shared, has_failed: bool) -> Result<(Arc<Store>, Member), Option<String>> {
    let store = Store::open(shared.env.clone(), shared.store_options()).map_err(|error| match error {
        OpenError::Locked(_) => None,
        other => Some(other.to_string()),
    })?;
    let incarnation = life::begin(&shared.env, store.identity(), store.flush_mode(), has_failed).map_err(|error| Some(error.to_string()))?;
    Ok((store, Member { id: shared.options.id, store: incarnation }))
}

/// Orders a hand-over and waits for its end.
pub(super) fn hand_over(shared: &Shared, to: Option<MemberId>, deadline: Duration) -> Result<MemberId, String> {
    let until = shared.now() + deadline;
    let (epoch, to) = {
        let mut state = shared.lock();
        let Some(set) = state.core.in_sync() else { return Err("this broker is not master; ask the one that is".to_owned()) };
        let recorded = &set.recorded().state;
        let others = recorded.in_sync.iter().filter(|member| member.id != shared.options.id && to.is_none_or(|to| member.id == to));
        let Some(best) = others.max_by_key(|member| set.held(**member).map(|held| held.received)) else {
            return Err(match to {
                Some(to) => format!("member {to} is not in the in-sync set, only a member of it can be master; wait until it has caught up"),
                None => "no other member is in the in-sync set; wait until one has caught up".to_owned(),
            });
        };
        let (epoch, to) = (recorded.epoch, best.id);
        state.commands.push_back(Command::HandOver(epoch, to, until));
        (epoch, to)
    };
    shared.notify();
    let slack = shared.options.timing.lease;
    let ended = shared.wait(deadline + slack, |state| {
        let is_under_way = state.commands.iter().any(|command| matches!(command, Command::HandOver(e, ..) if *e == epoch));
        (!is_under_way && !state.is_learning).then(|| state.core.seen().epoch > epoch)
    });
    match ended.flatten() {
        Some(true) => Ok(to),
        Some(false) => Err(format!("member {to} did not become master in time; this broker stands again")),
        None => Err("it is not known how the hand-over ended; ask again who is master".to_owned()),
    }
}

/// Lets nothing new in, waits until the other one has everything, and lets the coordinator decide.
fn give(shared: &Shared, epoch: Epoch, to: MemberId, until: Duration) {
    let Some(store) = shared.lock().store.clone() else { return };
    shared.end_to_serve();
    shared.service.hand_over(epoch);
    let end = store.marks().appended;
    let pause = shared.options.timing.beat() / 10;
    while shared.leads(epoch) && shared.now() < until {
        let mut state = shared.lock();
        let set = state.core.in_sync();
        // Confirmed too: whoever waits for that is answered by this broker, and by no other.
        let has_all = is_confirmed(&store, end)
            && set.is_some_and(|set| set.effective().iter().any(|m| m.id == to && set.held(*m).is_some_and(|held| held.received >= end)));
        // Again and again: another change of the set may be under way.
        let confirmed = if has_all { shared.tell_locked(&mut state, Event::HandOver(to)) } else { None };
        drop(state);
        confirm(confirmed);
        if !shared.pause(pause) {
            return;
        }
    }
    if shared.leads(epoch) {
        // As after a restart: what was under way at the end of the old service must have ended before another one begins on the log.
        tracing::warn!(%to, "the other member did not become master in time: this one begins anew");
        shared.tell(Event::Retire);
    }
}
