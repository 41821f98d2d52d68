//! What one broker of a group may do: stand for master, begin an epoch, follow one, let members in and out. Nothing here looks at a clock: *when* to try is decided
//! elsewhere, and trying at the wrong time costs availability, never a record.

use crate::{Epoch, GroupState, Held, InSync, Member, MemberId, Proposal, Seen, SetBack, Version, Versioned};
use sluice_env::broken;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The coordinator's object as it is: read, or the answer to a swap, whether it went through or not.
    Read {
        /// What had been seen when it was asked.
        asked: Seen,
        /// `None`: there is none yet.
        now: Option<Versioned>,
    },
    /// The answer to a swap did not come: it may have gone through, or still go through.
    SwapUnknown,
    /// A member says that it is master, and by which state.
    Heard(GroupState),
    /// A member refuses this broker's epoch.
    Refused,
    /// It is time to try to become master: the lease is over, or the master is known to be dead.
    Stand {
        /// The newest that any member which answers has seen. Safe without, but for a coordinator that was set back: then a member that knows better is heard.
        heard: Seen,
    },
    /// Become master without being in the set. The caller answers for it that no life of a member of the set is left and that this log is the one with most, or that a person
    /// has ordered it.
    StandUnclean,
    /// The own log has come so far.
    Own(Held),
    /// A replica holds so much of this epoch's log.
    Ack {
        /// Which.
        from: Member,
        /// The epoch that it follows.
        epoch: Epoch,
        /// How much.
        held: Held,
    },
    /// That replica keeps up: it should be in the set.
    Admit(Member),
    /// That replica does not keep up: records should not wait for it any longer.
    Dismiss(Member),
    /// This broker shall not lead any more, though nobody else does: it can't be sure of that in time, or its disk fails. It may stand again.
    Retire,
    /// Another member of the set shall be master. The caller lets no more records in until it is settled.
    HandOver(MemberId),
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put it on stable storage before anything that follows.
    Remember(Seen),
    /// Ask the coordinator for its object.
    Read,
    /// Replace the coordinator's object if it is still that version (`None`: if there is none).
    Swap {
        /// What it has to be.
        from: Option<Version>,
        /// What it becomes.
        to: GroupState,
    },
    /// This broker is the master of that epoch: write its first record, open for clients.
    Begin(Epoch),
    /// It is not any more: answer nobody, close for clients.
    Cease(Epoch),
    /// Follow that member in that epoch; cut what it does not have.
    Follow(MemberId, Epoch),
    /// Every member of the set holds the log so far.
    Confirm(Held),
    /// Tell the people who run it. Nothing is done by that state.
    Alarm(SetBack),
}

/// What a broker is in its group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Follows the master of the newest epoch that it has heard of, if of any.
    Replica,
    /// The master of the set's epoch.
    Master(Box<InSync>),
}

/// Whether a broker may stand for master, by what the coordinator was last seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidacy<'a> {
    /// It may not, or has to ask first.
    No,
    /// There is no group yet: it may found it.
    Founder,
    /// It is a member of this state's set.
    Member(&'a GroupState),
}

/// What the coordinator was last seen to have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Known {
    /// It has not been asked since the start.
    Nothing,
    /// No object yet.
    Empty,
    /// This one.
    State(Versioned),
}

/// One broker's part in its group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Core {
    me: Member,
    min_in_sync: usize,
    seen: Seen,
    own: Held,
    known: Known,
    role: Role,
}

impl Core {
    /// After a start. `seen` is what was remembered last; `own` is how far the store has the log; `min_in_sync`: fewer members than that are never left in the set.
    #[must_use]
    pub fn new(me: Member, min_in_sync: usize, seen: Seen, own: Held) -> Self {
        Self { me, min_in_sync: min_in_sync.max(1), seen, own, known: Known::Nothing, role: Role::Replica }
    }

    /// What it is.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The newest state that it has seen.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The epoch that it is master of.
    #[must_use]
    pub fn master_of(&self) -> Option<Epoch> {
        match &self.role {
            Role::Master(set) => Some(set.recorded().state.epoch),
            Role::Replica => None,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn me(&self) -> Member {
        self.me
    }

    /// Fewer members than that are never left in the set.
    #[must_use]
    pub fn min_in_sync(&self) -> usize {
        self.min_in_sync
    }

    /// The set that it is master of.
    #[must_use]
    pub fn in_sync(&self) -> Option<&InSync> {
        match &self.role {
            Role::Master(set) => Some(set),
            Role::Replica => None,
        }
    }

    /// What the coordinator was last seen to have.
    #[must_use]
    pub fn known(&self) -> Option<&GroupState> {
        match &self.known {
            Known::State(known) => Some(&known.state),
            Known::Nothing | Known::Empty => None,
        }
    }

    /// Whether it has asked the coordinator, since it started or retired.
    #[must_use]
    pub fn has_asked(&self) -> bool {
        self.known != Known::Nothing
    }

    /// Whether it may stand for master.
    #[must_use]
    pub fn candidacy(&self) -> Candidacy<'_> {
        match (&self.role, &self.known) {
            (Role::Replica, Known::Empty) if self.seen == Seen::default() => Candidacy::Founder,
            (Role::Replica, Known::State(known))
                if known.state.seen() == self.seen && (self.counts_in(&known.state) || broken("who is not in the set stands")) =>
            {
                Candidacy::Member(&known.state)
            }
            _ => Candidacy::No,
        }
    }

    /// Whether records of that epoch may be taken from its master, and acknowledged. Who has seen a newer epoch is lost to the older ones.
    #[must_use]
    pub fn follows(&self, epoch: Epoch) -> bool {
        self.master_of().is_none() && (epoch == self.seen.epoch || broken("old epochs are followed"))
    }

    /// What [`Self::on`] would have remembered first: whoever can't hold still while a disk writes remembers it before the event is told.
    #[must_use]
    pub fn news(&self, event: &Event) -> Option<Seen> {
        let state = match event {
            Event::Read { now: Some(now), .. } => &now.state,
            Event::Heard(state) if state.master != self.me.id => state,
            _ => return None,
        };
        self.seen.after(state).ok().filter(|after| *after != self.seen)
    }

    /// What to do about what happened.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let news = if cfg!(debug_assertions) { self.news(&event) } else { None };
        let todo = self.think(event);
        debug_assert_eq!(todo.iter().find_map(|action| if let Action::Remember(seen) = action { Some(*seen) } else { None }), news);
        todo
    }

    fn think(&mut self, event: Event) -> Vec<Action> {
        let mut todo = Vec::new();
        match event {
            Event::Read { now: None, .. } => self.known = Known::Empty,
            Event::Read { now: Some(now), asked } => self.read(now, asked, &mut todo),
            Event::SwapUnknown | Event::Refused => todo.push(Action::Read),
            Event::Heard(state) => self.heard(&state, &mut todo),
            Event::Stand { heard } => self.stand(heard, &mut todo),
            Event::StandUnclean => self.stand_unclean(&mut todo),
            Event::Own(held) => {
                self.own = held;
                self.ack(self.me, held, &mut todo);
            }
            Event::Ack { from, epoch, held } => {
                if self.master_of() == Some(epoch) {
                    self.ack(from, held, &mut todo);
                }
            }
            Event::Admit(member) => self.propose(&mut todo, |set, _| set.propose_add(member)),
            Event::Dismiss(member) => self.dismiss(member, &mut todo),
            Event::Retire => {
                if let Some(epoch) = self.master_of() {
                    todo.push(Action::Cease(epoch));
                    // As after a restart.
                    (self.role, self.known) = (Role::Replica, Known::Nothing);
                }
            }
            Event::HandOver(to) => {
                let end = self.own.received;
                self.propose(&mut todo, |set, _| set.propose_master(to, end));
            }
        }
        todo
    }

    fn read(&mut self, now: Versioned, asked: Seen, todo: &mut Vec<Action>) {
        let fresh = now.state.epoch > self.seen.epoch;
        if let Err(set_back) = self.remember(&now.state, todo) {
            // What was heard from a member while the answer was on its way may be newer than the answer.
            todo.push(if asked == self.seen { Action::Alarm(set_back) } else { Action::Read });
            return;
        }
        self.known = Known::State(now.clone());
        if let Role::Master(set) = &mut self.role
            && set.recorded().state.epoch == now.state.epoch
        {
            let before = set.confirmed();
            set.learn(now);
            tell_confirmed(set, before, todo);
            todo.extend(set.proposal().map(swap));
            return;
        }
        self.cease_before(now.state.epoch, todo);
        if now.state.master != self.me.id {
            todo.push(Action::Follow(now.state.master, now.state.epoch));
        } else if (fresh || broken("an epoch is begun twice")) && (self.counts_in(&now.state) || broken("who is not in the set stands")) {
            todo.push(Action::Begin(now.state.epoch));
            self.role = Role::Master(Box::new(InSync::new(now, self.own.received)));
        }
        // An epoch of its own that it has seen before: it was its master before a restart, and what it asked the coordinator for then is not known any more. It stands again.
    }

    fn cease_before(&mut self, epoch: Epoch, todo: &mut Vec<Action>) {
        if let Some(old) = self.master_of().filter(|old| *old < epoch) {
            todo.push(Action::Cease(old));
            self.role = Role::Replica;
        }
    }

    /// Takes note of a state, unless the coordinator was set back to it.
    fn remember(&mut self, state: &GroupState, todo: &mut Vec<Action>) -> Result<(), SetBack> {
        let after = self.seen.after(state)?;
        if after != self.seen {
            self.seen = after;
            todo.push(Action::Remember(after));
        }
        Ok(())
    }

    fn counts_in(&self, state: &GroupState) -> bool {
        state.has(self.me) || broken("any life of a store counts") && state.in_sync.iter().any(|member| member.id == self.me.id)
    }

    fn heard(&mut self, state: &GroupState, todo: &mut Vec<Action>) {
        // An older state is one that the member has not heard the end of: its epoch is refused, and nobody alarmed.
        if state.seen() < self.seen {
            return;
        }
        if state.seen() == self.seen {
            // Seen before: by a broker that was restarted, it says again whom to follow, also while the coordinator is away.
            if self.master_of().is_none() && state.master != self.me.id {
                todo.push(Action::Follow(state.master, state.epoch));
            }
            return;
        }
        // Only the coordinator makes a master, and only its version lets one change anything.
        if state.master == self.me.id {
            todo.push(Action::Read);
            return;
        }
        match self.remember(state, todo) {
            Ok(()) => {
                self.cease_before(state.epoch, todo);
                todo.push(Action::Follow(state.master, state.epoch));
            }
            Err(set_back) => todo.push(Action::Alarm(set_back)),
        }
    }

    fn stand(&mut self, heard: Seen, todo: &mut Vec<Action>) {
        if self.master_of().is_some() || heard > self.seen {
            todo.push(Action::Read);
            return;
        }
        let (from, to) = match (self.candidacy(), &self.known) {
            // The first of a group; it has seen no epoch, so none is forgotten.
            (Candidacy::Founder, _) => (None, GroupState::first(self.me)),
            (Candidacy::Member(state), Known::State(known)) => (Some(known.version.clone()), state.with_master(self.me.id, false)),
            _ => {
                todo.push(Action::Read);
                return;
            }
        };
        // Nothing is kept of it: if it goes through, however late, a read says so. Standing again in the meantime asks for the same, or fails.
        todo.push(Action::Swap { from, to });
    }

    fn stand_unclean(&mut self, todo: &mut Vec<Action>) {
        let known = match (&self.role, &self.known) {
            (Role::Replica, Known::State(known)) if known.state.seen() == self.seen && !known.state.has(self.me) => known,
            _ => {
                todo.push(Action::Read);
                return;
            }
        };
        todo.push(Action::Swap { from: Some(known.version.clone()), to: known.state.unclean_under(self.me) });
    }

    fn ack(&mut self, from: Member, held: Held, todo: &mut Vec<Action>) {
        let end = self.own.received;
        if let Role::Master(set) = &mut self.role {
            let before = set.confirmed();
            // The caller closes the connection of one that claims more than there is, before this; here it counts for nothing.
            if set.ack(from, held, end).is_ok() {
                tell_confirmed(set, before, todo);
                todo.extend(set.join().map(swap));
            }
        }
    }

    fn dismiss(&mut self, member: Member, todo: &mut Vec<Action>) {
        let min = self.min_in_sync;
        if let Role::Master(set) = &mut self.role {
            let before = set.confirmed();
            if set.give_up_joining(member) {
                tell_confirmed(set, before, todo);
            } else {
                todo.extend(set.propose_remove(member, min).map(swap));
            }
        }
    }

    fn propose(&mut self, todo: &mut Vec<Action>, change: impl FnOnce(&mut InSync, usize) -> Option<&Proposal>) {
        let min = self.min_in_sync;
        if let Role::Master(set) = &mut self.role {
            todo.extend(change(set, min).map(swap));
        }
    }
}

fn swap(open: &Proposal) -> Action {
    Action::Swap { from: Some(open.from.version.clone()), to: open.to.clone() }
}

fn tell_confirmed(set: &InSync, before: Held, todo: &mut Vec<Action>) {
    if set.confirmed() != before {
        todo.push(Action::Confirm(set.confirmed()));
    }
}

#[cfg(test)]
mod tests;
