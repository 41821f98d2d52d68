//! What people and other members ask of a member, and what people order.

use super::{Shared, confirm};
use crate::runner::{
    state::{ReplicaStatus, State, Status},
    tenure::{Command, Reopen},
};
use sluice_replication::{Epoch, Event, LogHealth, Member, MemberId, wire::Answer};
use std::collections::{BTreeMap, BTreeSet};

impl Shared {
    /// A person orders that this member be master, whatever others hold.
    pub(in crate::runner) fn stand_unclean(&self) -> Result<(), String> {
        let mut state = self.lock();
        if state.core.master_of().is_some() {
            return Err("this broker is master already".to_owned());
        }
        let Some(known) = state.core.known() else { return Err("the coordinator has not been reached; without it nobody can be made master".to_owned()) };
        if known.has(state.core.me()) {
            return Err("this broker is in the in-sync set: it becomes master by itself when the one there is is gone".to_owned());
        }
        let now = self.now();
        let counts = |id: &MemberId| self.lately(&state, *id, now).is_some_and(|answer| known.has(answer.member));
        if let Some(id) = self.options.members.keys().find(|id| counts(id)) {
            return Err(format!("member {id} answers, and it is in the in-sync set: it has what was acknowledged. If it must not be master, stop it first"));
        }
        tracing::error!("a person has ordered that this broker be master; acknowledged records may be lost");
        let confirmed = self.tell_locked(&mut state, Event::StandUnclean);
        drop(state);
        confirm(confirmed);
        Ok(())
    }

    /// A person orders that this replica take the master's log whole. Comes back when the master has agreed, or with why this log is kept.
    pub(in crate::runner) fn resync(&self) -> Result<(), String> {
        let before = self.order_resync()?;
        self.notify();
        let settled = self.wait(self.options.timing.lease * 4, |state| (state.resyncs > before).then(|| state.refused.take()));
        match settled.flatten() {
            Some(None) => Ok(()),
            Some(Some(why)) => Err(why),
            None => Err("it is not known yet whether the master agrees; `sluice broker status` shows it".to_owned()),
        }
    }

    fn order_resync(&self) -> Result<u64, String> {
        let mut state = self.lock();
        if state.core.master_of().is_some() {
            return Err("this broker is master; hand its role over first".to_owned());
        }
        if state.core.known().is_none_or(|known| known.has(state.core.me())) {
            return Err("this broker is in the in-sync set, or may be: its copy may be one that is needed".to_owned());
        }
        if state.store.is_none() {
            return Err("its store is being opened".to_owned());
        }
        state.commands.push_back(Command::Reopen(Reopen::Resync));
        Ok(state.resyncs)
    }

    /// What this member tells another one.
    pub(in crate::runner) fn answer(&self) -> Answer {
        let state = self.lock();
        let store = state.store.as_ref();
        Answer {
            member: state.core.me(),
            seen: state.core.seen(),
            master_of: state.core.master_of(),
            state: state.core.in_sync().map(|set| set.recorded().state.clone()),
            end: store.map(|store| store.marks().appended).unwrap_or_default(),
            last_epoch: store.and_then(|store| store.epochs().last().map(|(epoch, _)| Epoch(*epoch))),
        }
    }

    pub(in crate::runner) fn status(&self) -> Status {
        let state = self.lock();
        let troubles = [
            state.alarm.map(|alarm| alarm.to_string()),
            state.wrong.clone(),
            state.refused.clone(),
            state.shorter.clone(),
            state.forgetting.as_ref().map(|(_, why)| why.clone()),
            (self.signs(&state).log == LogHealth::Hung).then(|| format!("its disk has taken no write for {:?}", self.options.timing.disk())),
            state.coordinator_away.clone(),
            state.pace.is_flapping(self.now()).then(|| "the master has changed several times within minutes: the next change waits longer".to_owned()),
        ];
        Status {
            me: state.core.me(),
            replicas: replicas(&state),
            master_of: state.core.master_of(),
            master: state.master.clone(),
            seen: state.core.seen(),
            state: state.core.in_sync().map(|set| set.recorded().state.clone()),
            marks: state.store.as_ref().map(|store| store.marks()),
            shortened: state.shortened,
            resync: state.filling.map(|filled| (filled.taken_bytes, filled.needed_bytes)),
            lost: state.lost,
            troubles: troubles.into_iter().flatten().collect(),
        }
    }
}

fn replicas(state: &State) -> Vec<ReplicaStatus> {
    let Some(set) = state.core.in_sync() else { return Vec::new() };
    let (recorded, me) = (&set.recorded().state, state.core.me());
    let connected: BTreeMap<Member, bool> = state.pace.replicas().collect();
    let all: BTreeSet<Member> = connected.keys().copied().chain(recorded.in_sync.iter().copied().filter(|member| *member != me)).collect();
    let status = |member| ReplicaStatus {
        member,
        is_in_sync: recorded.has(member),
        is_connected: connected.get(&member).copied().unwrap_or_default(),
        held: set.held(member).unwrap_or_default(),
    };
    all.into_iter().map(status).collect()
}
