//! The in-sync set as its master has it: whom a record waits for.

use crate::{GroupState, Member, MemberId, Versioned};
use sluice_env::broken;
use sluice_types::CommitLogOffset;
use std::collections::{BTreeMap, BTreeSet};

/// How far a member has the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Written to its file: survives the end of its process.
    pub received: CommitLogOffset,
    /// On stable storage: survives a power cut.
    pub flushed: CommitLogOffset,
}

/// A change of the set that the coordinator was asked for and that is not known to have failed or succeeded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proposal {
    /// What it rests on.
    pub from: Versioned,
    /// What it would make of it.
    pub to: GroupState,
}

/// An acknowledgement that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("member {} says it holds the log up to {} (flushed {}), but it ends at {}: it is another log, or a defect", member.id, held.received.0, held.flushed.0, end.0)]
pub struct BeyondTheEnd {
    member: Member,
    held: Held,
    end: CommitLogOffset,
}

/// One epoch's in-sync set, and what its members are known to hold.
///
/// A record is confirmed when every member of the *effective* set holds it: of the recorded set and of the one that is proposed, until it is known which of the two the
/// coordinator has. A record that only one of the two has confirmed could be lost with the other's election (RocketMQ #5663).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InSync {
    recorded: Versioned,
    proposal: Option<Proposal>,
    /// Records wait for it already; it is asked to be let in as soon as it holds what is confirmed.
    joining: Option<Member>,
    held: BTreeMap<Member, Held>,
    confirmed: Held,
    inherited: CommitLogOffset,
}

impl InSync {
    /// At an epoch's begin nobody is known to hold anything. `inherited`: the log's end before the epoch's first record. Whatever earlier masters have confirmed lies
    /// below, though this one does not know how much of it that is.
    #[must_use]
    pub fn new(recorded: Versioned, inherited: CommitLogOffset) -> Self {
        Self { recorded, proposal: None, joining: None, held: BTreeMap::new(), confirmed: Held::default(), inherited }
    }

    /// The state that the coordinator has, as far as known.
    #[must_use]
    pub fn recorded(&self) -> &Versioned {
        &self.recorded
    }

    /// The change that is not settled.
    #[must_use]
    pub fn proposal(&self) -> Option<&Proposal> {
        self.proposal.as_ref()
    }

    /// Who has to hold a record.
    #[must_use]
    pub fn effective(&self) -> BTreeSet<Member> {
        let mut all = self.recorded.state.in_sync.clone();
        all.extend(self.joining);
        if let Some(proposal) = &self.proposal {
            if broken("shrink before the swap") {
                all.retain(|member| proposal.to.in_sync.contains(member));
            }
            if !broken("growth without union") {
                all.extend(&proposal.to.in_sync);
            }
        }
        all
    }

    /// What every member of the effective set holds; it never goes back.
    #[must_use]
    pub fn confirmed(&self) -> Held {
        self.confirmed
    }

    /// What that member is known to hold in this epoch.
    #[must_use]
    pub fn held(&self, member: Member) -> Option<Held> {
        self.held.get(&member).copied()
    }

    /// A member holds so much, of a log that ends at `end`. Late words of less change nothing.
    pub fn ack(&mut self, member: Member, held: Held, end: CommitLogOffset) -> Result<(), BeyondTheEnd> {
        if held.received > end || held.flushed > held.received {
            return Err(BeyondTheEnd { member, held, end });
        }
        let known = self.held.entry(member).or_default();
        known.received = known.received.max(held.received);
        known.flushed = known.flushed.max(held.flushed);
        self.advance();
        Ok(())
    }

    fn advance(&mut self) {
        let effective = self.effective();
        let least =
            |of: fn(&Held) -> CommitLogOffset| effective.iter().map(|member| self.held.get(member).map_or(CommitLogOffset(0), of)).min().unwrap_or_default();
        let (received, flushed) = (least(|held| held.received), least(|held| held.flushed));
        self.confirmed.received = self.confirmed.received.max(received);
        self.confirmed.flushed = self.confirmed.flushed.max(flushed);
    }

    /// Who is about to be asked for.
    #[must_use]
    pub fn joining(&self) -> Option<Member> {
        self.joining
    }

    /// Asks to let a member in that holds all that is confirmed, by this master or by those before. From now on records wait for it too, whatever becomes of the proposal.
    /// One that lacks a little joins: under load there is always something on its way to it, but nothing more is confirmed without it now, so it soon has what is.
    ///
    /// `None`: another change is under way, it is in already, it joins, or it does not hold what was there at the epoch's begin.
    pub fn propose_add(&mut self, member: Member) -> Option<&Proposal> {
        if self.proposal.is_some() || self.recorded.state.has(member) {
            return None;
        }
        let held = self.held(member)?;
        let behind = held.received < self.confirmed.received || held.flushed < self.confirmed.flushed;
        let lacks_inherited = held.flushed < self.inherited;
        if lacks_inherited && !broken("growth without the inherited log") {
            return None;
        }
        if behind && !broken("growth without catching up") {
            self.joining.get_or_insert(member);
            return None;
        }
        self.joining = None;
        let mut set = self.recorded.state.in_sync.clone();
        // Another life of the same broker's store is not there any more.
        set.retain(|other| other.id != member.id);
        set.insert(member);
        self.propose(set)
    }

    /// Asks for the one that joins, if it holds enough by now.
    pub fn join(&mut self) -> Option<&Proposal> {
        let member = self.joining?;
        self.propose_add(member)
    }

    /// Records wait for that one no more, if it was joining; whether it was.
    pub fn give_up_joining(&mut self, member: Member) -> bool {
        let was = self.joining == Some(member);
        if was {
            self.joining = None;
            self.advance();
        }
        was
    }

    /// Asks to let a member go. Records wait for it until the coordinator has agreed.
    ///
    /// `None`: another change is under way, it is not in the set, it is the master, or fewer than `min` would be left.
    pub fn propose_remove(&mut self, member: Member, min: usize) -> Option<&Proposal> {
        let mut set = self.recorded.state.in_sync.clone();
        let master = member.id == self.recorded.state.master;
        if master || !set.remove(&member) || set.len() < min {
            return None;
        }
        self.propose(set)
    }

    /// Asks to make another member master, which holds the whole log: it ends at `end`, and the caller lets nothing more in.
    ///
    /// `None`: another change is under way, it is not in the set, or it lacks something.
    pub fn propose_master(&mut self, id: MemberId, end: CommitLogOffset) -> Option<&Proposal> {
        let state = &self.recorded.state;
        let member = state.in_sync.iter().find(|member| member.id == id && id != state.master)?;
        if self.proposal.is_some() || self.held(*member).is_none_or(|held| held.received < end) {
            return None;
        }
        let to = state.with_master(id, true);
        self.proposal = Some(Proposal { from: self.recorded.clone(), to });
        self.proposal.as_ref()
    }

    fn propose(&mut self, set: BTreeSet<Member>) -> Option<&Proposal> {
        if self.proposal.is_some() || set == self.recorded.state.in_sync {
            return None;
        }
        let to = self.recorded.state.with_set(set);
        self.proposal = Some(Proposal { from: self.recorded.clone(), to });
        self.proposal.as_ref()
    }

    /// What the coordinator has now, in this epoch. A proposal is settled when the object is another one than it rests on: then it has been carried out, or never will be.
    /// As long as the object is the same, the request may still be on its way, and both sets count.
    pub fn learn(&mut self, now: Versioned) {
        if now.state.revision < self.recorded.state.revision {
            return;
        }
        if self.proposal.as_ref().is_some_and(|proposal| proposal.from.version != now.version || broken("unknown is failed")) {
            self.proposal = None;
        }
        self.recorded = now;
        self.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, MemberId, Version};

    fn member(id: u32) -> Member {
        Member { id: MemberId(id), store: Incarnation(u128::from(id)) }
    }

    fn versioned(state: GroupState) -> Versioned {
        Versioned { version: Version(state.revision.to_string()), state }
    }

    fn set(ids: &[u32]) -> BTreeSet<Member> {
        ids.iter().map(|id| member(*id)).collect()
    }

    fn in_sync(ids: &[u32]) -> InSync {
        InSync::new(versioned(GroupState::first(member(1)).with_set(set(ids))), CommitLogOffset(0))
    }

    fn held(received: u64, flushed: u64) -> Held {
        Held { received: CommitLogOffset(received), flushed: CommitLogOffset(flushed) }
    }

    fn ack(of: &mut InSync, id: u32, received: u64, flushed: u64) {
        of.ack(member(id), held(received, flushed), CommitLogOffset(1000)).unwrap();
    }

    #[test]
    fn a_record_is_confirmed_when_each_member_holds_it() {
        let mut set = in_sync(&[1, 2]);
        ack(&mut set, 1, 100, 100);
        assert_eq!(set.confirmed(), held(0, 0));
        ack(&mut set, 2, 80, 50);
        assert_eq!(set.confirmed(), held(80, 50));
        // One outside the set changes nothing.
        ack(&mut set, 3, 10, 10);
        assert_eq!(set.confirmed(), held(80, 50));
    }

    #[test]
    fn an_acknowledgement_beyond_the_logs_end_is_refused() {
        let mut set = in_sync(&[1, 2]);
        ack(&mut set, 1, 100, 100);
        let error = set.ack(member(2), held(101, 0), CommitLogOffset(100)).unwrap_err();
        assert!(error.to_string().contains("member 2 says it holds the log up to 101") && error.to_string().contains("ends at 100"), "{error}");
        assert!(set.ack(member(2), held(50, 60), CommitLogOffset(100)).is_err());
        assert_eq!(set.confirmed(), held(0, 0));
    }

    #[test]
    fn while_the_set_grows_records_wait_for_the_old_and_the_new_members() {
        let mut set = in_sync(&[1]);
        ack(&mut set, 1, 100, 100);
        ack(&mut set, 2, 100, 100);
        let proposal = set.propose_add(member(2)).unwrap().clone();
        ack(&mut set, 1, 200, 200);
        assert_eq!(set.confirmed(), held(100, 100));
        set.learn(versioned(proposal.to));
        assert_eq!(set.confirmed(), held(100, 100));
        ack(&mut set, 2, 150, 150);
        assert_eq!(set.confirmed(), held(150, 150));
    }

    #[test]
    fn a_member_that_has_not_caught_up_is_not_let_in() {
        let mut set = in_sync(&[1]);
        ack(&mut set, 1, 100, 100);
        assert!(set.propose_add(member(2)).is_none());
        ack(&mut set, 2, 100, 99);
        assert!(set.propose_add(member(2)).is_none());
        ack(&mut set, 2, 100, 100);
        assert!(set.propose_add(member(2)).is_some());
    }

    #[test]
    fn under_load_a_member_joins_records_wait_for_it_and_it_is_asked_for_when_it_holds_what_is_confirmed() {
        let mut set = in_sync(&[1]);
        ack(&mut set, 1, 100, 100);
        ack(&mut set, 2, 90, 90);
        assert!(set.propose_add(member(2)).is_none() && set.joining() == Some(member(2)));
        assert!(set.propose_add(member(3)).is_none() && set.joining() == Some(member(2)), "one at a time");
        // There is always more, and it always lacks some; but what was confirmed is soon there.
        ack(&mut set, 1, 200, 200);
        assert_eq!(set.confirmed(), held(100, 100));
        assert!(set.join().is_none());
        ack(&mut set, 2, 110, 110);
        assert_eq!(set.confirmed(), held(110, 110));
        assert!(set.join().is_some() && set.joining().is_none());
        ack(&mut set, 1, 300, 300);
        assert_eq!(set.confirmed(), held(110, 110));
        // One that does not come is given up.
        let mut set = in_sync(&[1]);
        ack(&mut set, 1, 100, 100);
        ack(&mut set, 2, 90, 90);
        set.propose_add(member(2));
        ack(&mut set, 1, 200, 200);
        assert!(!set.give_up_joining(member(3)) && set.give_up_joining(member(2)));
        assert_eq!((set.confirmed(), set.joining()), (held(200, 200), None));
    }

    #[test]
    fn a_member_that_lacks_what_earlier_masters_may_have_confirmed_is_not_let_in() {
        let mut set = InSync::new(in_sync(&[1, 2]).recorded, CommitLogOffset(70));
        ack(&mut set, 1, 100, 100);
        // Member 2 has not spoken yet, so nothing is confirmed in this epoch.
        ack(&mut set, 3, 60, 60);
        assert!(set.propose_add(member(3)).is_none());
        ack(&mut set, 3, 80, 70);
        assert!(set.propose_add(member(3)).is_some());
    }

    #[test]
    fn a_member_is_waited_for_until_the_coordinator_has_let_it_go() {
        let mut set = in_sync(&[1, 2]);
        ack(&mut set, 1, 100, 100);
        ack(&mut set, 2, 60, 60);
        let proposal = set.propose_remove(member(2), 1).unwrap().clone();
        ack(&mut set, 1, 200, 200);
        assert_eq!(set.confirmed(), held(60, 60));
        // The answer was lost and the object reads as before: the request may still arrive.
        set.learn(proposal.from.clone());
        assert_eq!(set.confirmed(), held(60, 60));
        assert!(set.propose_remove(member(2), 1).is_none(), "one change at a time");
        set.learn(versioned(proposal.to));
        assert_eq!(set.confirmed(), held(200, 200));
    }

    #[test]
    fn a_set_is_not_made_smaller_than_asked_for_and_never_loses_its_master() {
        let mut set = in_sync(&[1, 2]);
        assert!(set.propose_remove(member(2), 2).is_none());
        assert!(set.propose_remove(member(1), 1).is_none());
        assert!(set.propose_remove(member(3), 1).is_none());
    }

    #[test]
    fn another_life_of_a_store_takes_the_place_of_the_one_before() {
        let mut set = in_sync(&[1, 2]);
        let again = Member { store: Incarnation(22), ..member(2) };
        ack(&mut set, 1, 100, 100);
        set.ack(again, held(100, 100), CommitLogOffset(100)).unwrap();
        // The old life's promises do not count for the new one, nor the other way round.
        assert_eq!(set.confirmed(), held(0, 0));
        let proposal = set.propose_add(again).unwrap().clone();
        assert_eq!(proposal.to.in_sync, BTreeSet::from([member(1), again]));
        set.learn(versioned(proposal.to));
        assert_eq!(set.confirmed(), held(100, 100));
    }
}
