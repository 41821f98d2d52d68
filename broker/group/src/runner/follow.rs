//! The thread that follows the master.

use super::{
    shared::Shared,
    state::State,
    tenure::{Command, Reopen},
};
use crate::{
    link::LinkError,
    replica::{Ended, Loyalty, Replica},
};
use sluice_env::Connection;
use sluice_replication::{
    Epoch, Event, Member, MemberId, Seen,
    wire::{Beat, Refusal, Welcome},
};
use sluice_store::{AppendError, FollowError, Store};
use std::{io, sync::Arc, time::Duration};

/// How long the thread sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn run(shared: &Shared) {
    while let Some(found) = shared.wait(IDLE, whom) {
        let Some((master, epoch, me, store)) = found else { continue };
        if !follow(shared, master, epoch, me, &store) {
            return;
        }
    }
}

/// Whom to follow, with what; nobody while the store is about to be opened again.
fn whom(state: &mut State) -> Option<(MemberId, Epoch, Member, Arc<Store>)> {
    let (master, epoch) = state.target?;
    let store = state.store.clone().filter(|_| state.commands.is_empty())?;
    Some((master, epoch, state.core.me(), store))
}

/// Follows once; false when the member stops.
fn follow(shared: &Shared, master: MemberId, epoch: Epoch, me: Member, store: &Arc<Store>) -> bool {
    let timing = shared.options.timing;
    let Some(address) = shared.options.members.get(&master) else {
        tracing::error!(%master, "the master is no member that this broker knows the address of; list it among the group's members");
        return shared.pause(timing.lease);
    };
    // Not longer: while a machine that is gone is asked, another master may be elected, which waits for this replica.
    let connection = match shared.env.net.connect(address, timing.renewal() / 2) {
        Ok(connection) => connection,
        Err(error) => {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                gone(shared, master, epoch);
            }
            return pause(shared, master, epoch, timing.beat() / 2);
        }
    };
    if !hold(shared, &connection, master, epoch) {
        return true;
    }
    let replica = Replica { cluster: shared.options.cluster.clone(), group: shared.options.group.clone(), member: me, patience: timing.lease };
    let begun = shared.now();
    let ended = replica.follow(&connection, store, &Following { shared, master });
    shared.lock().followed = None;
    let is_long = shared.now().saturating_sub(begun) >= timing.beat();
    settle(shared, master, epoch, ended, is_long)
}

/// Keeps the connection where it is closed from when another one is to be followed.
fn hold(shared: &Shared, connection: &Arc<dyn Connection>, master: MemberId, epoch: Epoch) -> bool {
    let mut state = shared.lock();
    let is_still = state.target == Some((master, epoch)) && !state.is_stopping;
    if is_still {
        state.followed = Some(connection.clone());
    } else {
        connection.close();
    }
    is_still
}

/// Does what the end of a connection asks for; false when the member stops.
fn settle(shared: &Shared, master: MemberId, epoch: Epoch, ended: Ended, is_long: bool) -> bool {
    let timing = shared.options.timing;
    tracing::debug!(member = %shared.options.id, %master, %epoch, reason = %ended, "does not follow any more");
    let pause = match ended {
        // A process that has ended listens no more: the next try says so. One that ends each connection at once is not asked again at once.
        Ended::Link(LinkError::Closed(_) | LinkError::Broken(..)) if is_long => Duration::ZERO,
        Ended::Link(_) => timing.beat(),
        Ended::OtherEpoch(_) => {
            look(shared);
            timing.beat()
        }
        Ended::Refused(Refusal { state, why }) => {
            tracing::debug!(%master, why, "the master refuses this replica");
            gone(shared, master, epoch);
            if let Some(state) = state {
                shared.tell(Event::Heard(state));
            }
            // Often it is just about to be master: then clients wait for this replica.
            timing.beat() / 8
        }
        Ended::Cut(to) => {
            order(shared, Command::Cut(epoch, to));
            Duration::ZERO
        }
        Ended::Store(_) | Ended::Follow(FollowError::Append(AppendError::Poisoned(_))) => {
            order(shared, Command::Reopen(Reopen::Failed));
            timing.renewal()
        }
        Ended::Follow(FollowError::Append(_)) => timing.renewal(),
        Ended::Resync(why) => {
            tracing::warn!(%master, %why, "this replica's log can't be continued");
            order(shared, Command::Reopen(Reopen::Resync));
            Duration::ZERO
        }
        Ended::Shorter(shorter) => {
            tracing::error!(%master, "{shorter}");
            shared.lock().shorter = Some(shorter.to_string());
            order(shared, Command::Reopen(Reopen::Shorter));
            Duration::ZERO
        }
        ref wrong @ (Ended::Wrong(_) | Ended::Follow(_) | Ended::OutOfPlace(_)) => {
            let why = wrong.to_string();
            let mut state = shared.lock();
            if state.wrong.as_ref() != Some(&why) {
                tracing::error!(%master, why, "this replica can't follow");
            }
            state.wrong = Some(why);
            timing.lease
        }
    };
    pause.is_zero() || self::pause(shared, master, epoch, pause)
}

/// Waits so long, or until another one is master: that one is followed at once. False when the member stops.
fn pause(shared: &Shared, master: MemberId, epoch: Epoch, time: Duration) -> bool {
    shared.wait(time, |state| (state.target != Some((master, epoch))).then_some(())).is_some()
}

fn gone(shared: &Shared, master: MemberId, epoch: Epoch) {
    let (now, heard) = (shared.now(), shared.heard_at());
    let mut state = shared.lock();
    if state.target == Some((master, epoch)) {
        state.pace.gone(now, heard);
    }
}

fn look(shared: &Shared) {
    shared.lock().desk.look = true;
    shared.notify();
}

fn order(shared: &Shared, command: Command) {
    shared.lock().commands.push_back(command);
    shared.notify();
}

struct Following<'a> {
    shared: &'a Shared,
    master: MemberId,
}

impl Loyalty for Following<'_> {
    fn seen(&self) -> Seen {
        self.shared.lock().core.seen()
    }

    fn welcomed(&self, welcome: &Welcome) -> bool {
        let follows = self.hear(&welcome.state, None);
        if follows {
            let master = (self.master, welcome.place.clone());
            let mut state = self.shared.lock();
            let is_news = state.master.as_ref() != Some(&master);
            state.master = Some(master.clone());
            drop(state);
            if is_news {
                self.shared.service.master_is(Some(&master));
            }
        }
        follows
    }

    fn heard(&self, beat: &Beat) -> bool {
        self.hear(&beat.state, Some(beat.renewal))
    }

    fn while_following(&self, epoch: Epoch, what: &mut dyn FnMut()) -> bool {
        let follows = self.shared.while_following(epoch, what);
        if follows {
            self.shared.heard_master();
        }
        follows
    }
}

impl Following<'_> {
    fn hear(&self, heard: &sluice_replication::GroupState, renewal: Option<u64>) -> bool {
        if heard.master != self.master {
            return false;
        }
        self.shared.tell(Event::Heard(heard.clone()));
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if !state.core.follows(heard.epoch) || state.forgetting.is_some() {
            return false;
        }
        if let Some(renewal) = renewal.filter(|renewal| *renewal > 0) {
            state.pace.saw_lease(now, Some((heard.epoch, renewal)));
        }
        drop(state);
        self.shared.heard_master();
        true
    }
}
