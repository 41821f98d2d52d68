//! What the coordinator keeps of a group of brokers: one object, changed by compare-and-swap only.

use crate::Epoch;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::{collections::BTreeSet, fmt};

/// A broker's number within its group; fixed by where it is deployed, whatever role it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u32);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A store, and one life of it. A new one is drawn when a store directory is made, and when one is opened that may have lost bytes that its broker had said it held: what
/// the old incarnation promised does not bind the new one, so it counts nowhere until it has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

// Hexadecimal: many readers of JSON take numbers for 64-bit floats.
impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(|_| D::Error::custom(format!("an incarnation is a hexadecimal number of 128 bits, not {text:?}")))
    }
}

/// A broker with the store that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Which broker.
    pub id: MemberId,
    /// Which life of its store.
    pub store: Incarnation,
}

/// Who is master, and who must hold a record before it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupState {
    /// Rises by one with each master.
    pub epoch: Epoch,
    /// The epoch's master.
    pub master: MemberId,
    /// The in-sync set; the master is one of them.
    pub in_sync: BTreeSet<Member>,
    /// Rises by one with each change of this object, whatever it changes, and never begins anew.
    pub revision: u64,
    /// How many epochs have begun without any member of the set before, so that acknowledged records may be missing since.
    #[serde(default)]
    pub unclean: u64,
    /// The revision at which the epoch began. One who has seen an older epoch at this revision or a later one knows that the coordinator was set back in between.
    pub since: u64,
}

impl GroupState {
    /// The first state of a group: its first master, alone.
    #[must_use]
    pub fn first(master: Member) -> Self {
        Self { epoch: Epoch(1), master: master.id, in_sync: BTreeSet::from([master]), revision: 1, unclean: 0, since: 1 }
    }

    /// The same epoch with another in-sync set.
    #[must_use]
    pub fn with_set(&self, in_sync: BTreeSet<Member>) -> Self {
        Self { in_sync, revision: self.revision + 1, ..self.clone() }
    }

    /// The next epoch under that member of the set.
    ///
    /// The old master leaves the set unless it hands over or goes on itself: kept, it would hold up the first confirmation. Each of the others holds every confirmed
    /// record, so each may still be elected.
    #[must_use]
    pub fn with_master(&self, master: MemberId, keep_old: bool) -> Self {
        let revision = self.revision + 1;
        let mut in_sync = self.in_sync.clone();
        if !keep_old && master != self.master {
            in_sync.retain(|member| member.id != self.master);
        }
        Self { epoch: self.epoch.next(), master, in_sync, revision, since: revision, ..*self }
    }

    /// The next epoch under one who is not in the set: what the set's members held and this one does not is given up.
    #[must_use]
    pub fn unclean_under(&self, master: Member) -> Self {
        let revision = self.revision + 1;
        let (epoch, in_sync) = (self.epoch.next(), BTreeSet::from([master]));
        Self { epoch, master: master.id, in_sync, revision, since: revision, unclean: self.unclean + 1 }
    }

    /// Whether this member, with this life of its store, is in the set.
    #[must_use]
    pub fn has(&self, member: Member) -> bool {
        self.in_sync.contains(&member)
    }

    /// What one remembers of it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen { epoch: self.epoch, revision: self.revision }
    }
}

/// The newest state that a broker has seen, kept on its disk: what it refuses older ones by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// Highest epoch.
    pub epoch: Epoch,
    /// Highest revision within it.
    pub revision: u64,
}

/// A coordinator's object is older than what this broker has seen: it was restored from an older copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the coordinator was set back: it says epoch {} at revision {}, begun at revision {since}, but epoch {} at revision {} was seen here; \
     nobody may be elected by it. Restore its newer state, or order a recovery by hand",
    said.epoch, said.revision, seen.epoch, seen.revision
)]
pub struct SetBack {
    said: Seen,
    since: u64,
    seen: Seen,
}

impl Seen {
    /// What is to be remembered after that state, or that the coordinator was set back.
    ///
    /// A state that is merely older, such as a peer's that has not heard of a change yet, must not come here: this is for what the coordinator itself says.
    pub fn after(self, state: &GroupState) -> Result<Self, SetBack> {
        let said = state.seen();
        let older = said < self;
        // A new epoch that branched off before what was seen here: the states between are lost to the coordinator, and what rested on them with them.
        let branched = said.epoch > self.epoch && self.epoch > Epoch(0) && state.since <= self.revision;
        if older || branched {
            return Err(SetBack { said, since: state.since, seen: self });
        }
        Ok(said)
    }
}

/// What a coordinator compares when it swaps; its own words (an etcd revision with the object's text, a Kubernetes resourceVersion).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub String);

/// A state as the coordinator has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Versioned {
    /// To be handed back by who changes it.
    pub version: Version,
    /// The state.
    pub state: GroupState,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u32) -> Member {
        Member { id: MemberId(id), store: Incarnation(u128::from(id)) }
    }

    fn group() -> GroupState {
        let first = GroupState::first(member(1));
        first.with_set(BTreeSet::from([member(1), member(2), member(3)]))
    }

    #[test]
    fn a_new_master_leaves_the_old_one_out_unless_it_was_handed_over_to() {
        let elected = group().with_master(MemberId(2), false);
        assert_eq!(elected.in_sync, BTreeSet::from([member(2), member(3)]));
        assert_eq!((elected.epoch, elected.revision, elected.since), (Epoch(2), 3, 3));
        assert_eq!(group().with_master(MemberId(2), true).in_sync.len(), 3);
        // One that goes on after its own restart stays.
        assert_eq!(group().with_master(MemberId(1), false).in_sync.len(), 3);
    }

    #[test]
    fn a_coordinator_that_was_set_back_is_found_out() {
        let old = group();
        let shrunk = old.with_set(BTreeSet::from([member(1), member(2)]));
        let seen = shrunk.seen();
        assert_eq!(seen.after(&shrunk), Ok(seen));
        // The very state of before.
        assert!(seen.after(&old).is_err());
        // Somebody was elected by the state of before, and went on changing it beyond what was seen here.
        let mut branch = old.with_master(MemberId(3), false);
        for _ in 0..5 {
            assert!(seen.after(&branch).is_err(), "{branch:?}");
            branch = branch.with_set(branch.in_sync.clone());
        }
        // A broker that has seen nothing takes what there is.
        assert_eq!(Seen::default().after(&branch), Ok(branch.seen()));
        // And the state that rightly came after is taken.
        let next = shrunk.with_master(MemberId(2), false);
        assert_eq!(seen.after(&next), Ok(next.seen()));
    }

    #[test]
    fn the_error_says_what_was_seen_and_what_to_do() {
        let error = Seen { epoch: Epoch(7), revision: 20 }.after(&group()).unwrap_err().to_string();
        assert!(error.contains("says epoch 1 at revision 2") && error.contains("epoch 7 at revision 20 was seen") && error.contains("Restore"), "{error}");
    }
}
