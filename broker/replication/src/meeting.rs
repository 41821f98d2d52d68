//! How a replica's log meets its master's: what the replica has to do before it may follow, and what the master lets follow.

use crate::{
    EpochMap, GroupState, Member,
    wire::{Follow, Hello, VERSION, Welcome},
};
use sluice_env::broken;
use sluice_types::CommitLogOffset;

/// The replica's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnLog {
    /// Who it is, with the life of its store.
    pub member: Member,
    /// Which epochs it has records of.
    pub epochs: EpochMap,
    /// Where it begins.
    pub min: CommitLogOffset,
    /// Where it ends.
    pub end: CommitLogOffset,
    /// Up to where it knows it to be confirmed.
    pub confirmed: CommitLogOffset,
    /// Bytes of its segments.
    pub segment_bytes: u64,
}

/// What the replica has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask for what comes after its log's end.
    Follow(CommitLogOffset),
    /// End its log here, durably, and begin again: what lies beyond is not the master's.
    Cut(CommitLogOffset),
    /// Give up its log, as another life of its store, and take the master's whole.
    Resync(Why),
    /// Begin another life of its store, for it lacks what this one has said it holds: an older copy of its volume, or a disk that has lost what it had flushed.
    BeginAnotherLife(Shorter),
}

/// A log that is shorter than what its life has said it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this broker's log is its master's up to {common} only, though it counts as in sync and must have it up to {must_hold}: its volume is an older copy, or its disk has lost what \
     it had flushed. It begins another life, out of the in-sync set until it has caught up; look at its disk"
)]
pub struct Shorter {
    /// Up to where it is its master's.
    pub common: CommitLogOffset,
    /// Up to where it should be.
    pub must_hold: CommitLogOffset,
}

/// Why a log can't be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It ends below where the master's begins.
    #[error("it ends at {end}, and the master has removed what lies below {min}")]
    TooOld {
        /// Where the two logs part, or this one ends.
        end: CommitLogOffset,
        /// Where the master's begins.
        min: CommitLogOffset,
    },
    /// Records can't lie at the same places.
    #[error("its segments have {own} bytes, the master's {master}")]
    Segments {
        /// The replica's.
        own: u64,
        /// The master's.
        master: u64,
    },
    /// Nothing says that it is a part of the master's.
    #[error("it has no epoch in common with the master's")]
    Unrelated,
    /// It parts from the master's below its own begin.
    #[error("it parts from the master's at {at}, below its own begin at {min}")]
    AllDiffers {
        /// Where.
        at: CommitLogOffset,
        /// Where it begins.
        min: CommitLogOffset,
    },
}

/// A master that must not be followed: a promise was broken somewhere, and a person has to look.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It lacks what every member of the set held.
    #[error(
        "the master of epoch {epoch} has other records than this replica from {at} on, but they are confirmed up to {confirmed} here: the master lacks confirmed records. Nothing is cut; stop that master and look at both logs"
    )]
    LacksConfirmed {
        /// The master's.
        epoch: crate::Epoch,
        /// Where the logs part.
        at: CommitLogOffset,
        /// What is confirmed.
        confirmed: CommitLogOffset,
    },
    /// A member of the in-sync set would have to give up its log.
    #[error(
        "this replica counts as in sync in epoch {epoch}, but its log can't be continued by the master's: {why}. Nothing is removed; stop that master and look at both logs"
    )]
    InSync {
        /// The master's.
        epoch: crate::Epoch,
        /// What keeps the logs apart.
        why: Why,
    },
}

impl OwnLog {
    /// What to do about a master's welcome.
    pub fn meet(&self, master: &Welcome) -> Result<Next, Wrong> {
        let epoch = master.state.epoch;
        let common = match self.common(master) {
            Ok(common) | Err(Why::TooOld { end: common, .. }) if master.must_hold.is_some_and(|must_hold| common < must_hold) => {
                return Ok(Next::BeginAnotherLife(Shorter { common, must_hold: master.must_hold.unwrap_or_default() }));
            }
            Ok(common) => common,
            // In the set it has said that it holds the log, and its copy may be the last one of something.
            Err(why) if master.state.has(self.member) => return Err(Wrong::InSync { epoch, why }),
            Err(why) => return Ok(Next::Resync(why)),
        };
        if broken("a replica keeps what its master lacks") {
            return Ok(Next::Follow(self.end.min(master.end)));
        }
        if common == self.end {
            return Ok(Next::Follow(common));
        }
        if common < self.confirmed {
            return Err(Wrong::LacksConfirmed { epoch, at: common, confirmed: self.confirmed });
        }
        Ok(Next::Cut(common))
    }

    /// Up to where the two logs are one, if they can be.
    fn common(&self, master: &Welcome) -> Result<CommitLogOffset, Why> {
        let is_empty = self.end == CommitLogOffset::ZERO;
        if self.segment_bytes != master.segment_bytes {
            return Err(Why::Segments { own: self.segment_bytes, master: master.segment_bytes });
        }
        // Which epochs its end lies in the master may have forgotten.
        if self.end < master.min {
            return Err(Why::TooOld { end: self.end, min: master.min });
        }
        let common = if is_empty { CommitLogOffset::ZERO } else { self.epochs.common_end(self.end, &master.epochs, master.end).ok_or(Why::Unrelated)? };
        if common < master.min {
            return Err(Why::TooOld { end: common, min: master.min });
        }
        if common < self.min {
            return Err(Why::AllDiffers { at: common, min: self.min });
        }
        Ok(common)
    }
}

/// Why a master lets somebody not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another version of the protocol.
    #[error("this broker speaks version {VERSION} of the replication protocol, not {0}; upgrade the replicas first, then the master")]
    Version(u16),
    /// Somebody else's.
    #[error("this is group {group} of cluster {cluster}, not what was asked for; check the replica's configuration")]
    Group {
        /// The master's cluster.
        cluster: String,
        /// Its group.
        group: String,
    },
    /// Two brokers have one number.
    #[error("the master itself is member {0}; give each broker of the group a number of its own")]
    Myself(crate::MemberId),
    /// The replica knows better than this master.
    #[error("the replica has seen epoch {seen}, this is the master of epoch {own}")]
    Newer {
        /// The replica's.
        seen: crate::Epoch,
        /// The master's.
        own: crate::Epoch,
    },
    /// It follows somebody else.
    #[error("asked for the log of epoch {asked}, this is the master of epoch {own}")]
    Epoch {
        /// The replica's.
        asked: crate::Epoch,
        /// The master's.
        own: crate::Epoch,
    },
    /// There is nothing to give.
    #[error("asked for the log from {from} on; it goes from {min} to {end}")]
    Range {
        /// Asked for.
        from: CommitLogOffset,
        /// Where the master's log begins.
        min: CommitLogOffset,
        /// Where it ends.
        end: CommitLogOffset,
    },
    /// It counts for more than it has.
    #[error("asked for the log from {from} on, but this life of its store must hold it up to {must_hold}; it has to begin another one")]
    Shorter {
        /// Asked for.
        from: CommitLogOffset,
        /// What it must hold.
        must_hold: CommitLogOffset,
    },
}

/// Whether a master lets that broker in.
pub fn check_hello(cluster: &str, group: &str, state: &GroupState, hello: &Hello) -> Result<(), Refused> {
    if hello.version != VERSION {
        return Err(Refused::Version(hello.version));
    }
    if (hello.cluster.as_str(), hello.group.as_str()) != (cluster, group) {
        return Err(Refused::Group { cluster: cluster.to_owned(), group: group.to_owned() });
    }
    if hello.member.id == state.master {
        return Err(Refused::Myself(state.master));
    }
    // One who has seen a later revision of this epoch is not refused: the master may not have heard yet of its own change.
    if hello.seen.epoch > state.epoch {
        return Err(Refused::Newer { seen: hello.seen.epoch, own: state.epoch });
    }
    Ok(())
}

/// Whether a master whose log goes from `min` to `end` can give what is asked for to one that must hold so much.
pub fn check_follow(state: &GroupState, min: CommitLogOffset, end: CommitLogOffset, must_hold: Option<CommitLogOffset>, follow: Follow) -> Result<(), Refused> {
    if follow.epoch != state.epoch {
        return Err(Refused::Epoch { asked: follow.epoch, own: state.epoch });
    }
    if !(min..=end).contains(&follow.from) {
        return Err(Refused::Range { from: follow.from, min, end });
    }
    if let Some(must_hold) = must_hold.filter(|must_hold| follow.from < *must_hold) {
        return Err(Refused::Shorter { from: follow.from, must_hold });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, EpochStart, Incarnation, MemberId, Seen};
    use proptest::prelude::*;

    const SEGMENT: u64 = 1000;

    fn member(id: u32) -> Member {
        Member { id: MemberId(id), store: Incarnation(id.into()) }
    }

    fn map(entries: &[(u64, u64)]) -> EpochMap {
        EpochMap::new(entries.iter().map(|&(epoch, start)| EpochStart { epoch: Epoch(epoch), start: CommitLogOffset(start) }).collect()).unwrap()
    }

    fn welcome(epochs: &[(u64, u64)], min: u64, end: u64) -> Welcome {
        let state = GroupState { epoch: Epoch(9), ..GroupState::first(member(1)) };
        Welcome {
            state,
            epochs: map(epochs),
            min: CommitLogOffset(min),
            end: CommitLogOffset(end),
            segment_bytes: SEGMENT,
            place: String::new(),
            must_hold: None,
        }
    }

    fn own(epochs: &[(u64, u64)], min: u64, end: u64, confirmed: u64) -> OwnLog {
        let [min, end, confirmed] = [min, end, confirmed].map(CommitLogOffset);
        OwnLog { member: member(2), epochs: map(epochs), min, end, confirmed, segment_bytes: SEGMENT }
    }

    #[test]
    fn a_replica_follows_cuts_or_begins_anew_by_how_the_logs_part() {
        let at = CommitLogOffset;
        let master = welcome(&[(1, 0), (3, 40), (9, 70)], 20, 100);
        let cases = [
            ("the same, shorter", own(&[(1, 0), (3, 40)], 0, 60, 60), Next::Follow(at(60))),
            ("the same", own(&[(1, 0), (3, 40), (9, 70)], 0, 100, 80), Next::Follow(at(100))),
            ("more of an older epoch", own(&[(1, 0), (3, 40)], 0, 75, 60), Next::Cut(at(70))),
            ("more of the same epoch, which a master that lost its tail no longer has", own(&[(1, 0), (3, 40), (9, 70)], 0, 120, 60), Next::Cut(at(100))),
            ("an epoch of its own", own(&[(1, 0), (2, 30)], 0, 60, 30), Next::Cut(at(30))),
            ("empty, and the master has removed its begin", own(&[], 0, 0, 0), Next::Resync(Why::TooOld { end: at(0), min: at(20) })),
            ("older than what the master has", own(&[(1, 0)], 0, 10, 10), Next::Resync(Why::TooOld { end: at(10), min: at(20) })),
            ("older, and of an epoch that the master has forgotten", own(&[(0, 0)], 0, 10, 10), Next::Resync(Why::TooOld { end: at(10), min: at(20) })),
            ("nothing in common", own(&[(2, 0)], 0, 60, 0), Next::Resync(Why::Unrelated)),
            ("it parts below its own begin", own(&[(1, 0), (2, 30)], 35, 60, 30), Next::Resync(Why::AllDiffers { at: at(30), min: at(35) })),
        ];
        for (what, own, next) in cases {
            assert_eq!(own.meet(&master), Ok(next), "{what}");
        }
        assert_eq!(own(&[], 0, 0, 0).meet(&welcome(&[(9, 0)], 0, 100)), Ok(Next::Follow(at(0))));
        let other = OwnLog { segment_bytes: 1, ..own(&[(1, 0)], 0, 50, 0) };
        assert_eq!(other.meet(&master), Ok(Next::Resync(Why::Segments { own: 1, master: SEGMENT })));
    }

    #[test]
    fn nothing_confirmed_is_cut_and_no_member_of_the_set_gives_up_its_log() {
        let mut master = welcome(&[(1, 0), (9, 70)], 20, 100);
        let more = own(&[(1, 0)], 0, 80, 71);
        let refused = more.meet(&master).unwrap_err();
        assert_eq!(refused, Wrong::LacksConfirmed { epoch: Epoch(9), at: CommitLogOffset(70), confirmed: CommitLogOffset(71) });
        assert!(refused.to_string().contains("Nothing is cut"), "{refused}");
        let unrelated = own(&[(2, 0)], 0, 60, 0);
        assert!(unrelated.meet(&master).is_ok());
        master.state.in_sync.insert(member(2));
        assert_eq!(unrelated.meet(&master), Err(Wrong::InSync { epoch: Epoch(9), why: Why::Unrelated }));
        // Another life of the same broker's store is not in it.
        let anew = OwnLog { member: Member { store: Incarnation(77), ..member(2) }, ..unrelated };
        assert_eq!(anew.meet(&master), Ok(Next::Resync(Why::Unrelated)));
    }

    #[test]
    fn a_log_that_is_shorter_than_what_its_life_has_said_it_holds_begins_another_life() {
        let at = CommitLogOffset;
        let mut master = welcome(&[(1, 0), (9, 70)], 20, 100);
        master.state.in_sync.insert(member(2));
        master.must_hold = Some(at(90));
        let anew = |common| Ok(Next::BeginAnotherLife(Shorter { common: at(common), must_hold: at(90) }));
        assert_eq!(own(&[(1, 0), (9, 70)], 0, 90, 0).meet(&master), Ok(Next::Follow(at(90))));
        assert_eq!(own(&[(1, 0), (9, 70)], 0, 89, 89).meet(&master), anew(89));
        assert_eq!(own(&[(1, 0)], 0, 80, 10).meet(&master), anew(70), "long enough, but not the master's");
        assert_eq!(own(&[(1, 0)], 0, 10, 10).meet(&master), anew(10), "older than what the master has");
        // Where the logs have nothing in common, or something confirmed is other than the master's, a person has to look all the same.
        assert!(matches!(own(&[(2, 0)], 0, 60, 0).meet(&master), Err(Wrong::InSync { why: Why::Unrelated, .. })));
        let (min, end) = (at(20), at(100));
        let follow = |from| check_follow(&master.state, min, end, master.must_hold, Follow { epoch: Epoch(9), from: at(from) });
        assert_eq!((follow(90), follow(89)), (Ok(()), Err(Refused::Shorter { from: at(89), must_hold: at(90) })));
    }

    #[test]
    fn a_master_lets_in_who_belongs_to_it_and_knows_no_better() {
        let state = welcome(&[], 0, 0).state;
        let hello = |change: &dyn Fn(&mut Hello)| {
            let seen = Seen { epoch: Epoch(9), revision: 99 };
            let mut hello = Hello { version: VERSION, cluster: "c".into(), group: "g".into(), member: member(2), seen };
            change(&mut hello);
            check_hello("c", "g", &state, &hello)
        };
        assert_eq!(hello(&|_| {}), Ok(()));
        assert_eq!(hello(&|hello| hello.version = 2), Err(Refused::Version(2)));
        assert!(matches!(hello(&|hello| hello.cluster = "d".into()), Err(Refused::Group { .. })));
        assert!(matches!(hello(&|hello| hello.group = "d".into()), Err(Refused::Group { .. })));
        assert_eq!(hello(&|hello| hello.member = member(1)), Err(Refused::Myself(MemberId(1))));
        assert_eq!(hello(&|hello| hello.seen.epoch = Epoch(10)), Err(Refused::Newer { seen: Epoch(10), own: Epoch(9) }));
        let follow =
            |epoch, from| check_follow(&state, CommitLogOffset(20), CommitLogOffset(100), None, Follow { epoch: Epoch(epoch), from: CommitLogOffset(from) });
        assert_eq!((follow(9, 20), follow(9, 100)), (Ok(()), Ok(())));
        assert!(matches!((follow(9, 19), follow(9, 101)), (Err(Refused::Range { .. }), Err(Refused::Range { .. }))));
        assert_eq!(follow(8, 50), Err(Refused::Epoch { asked: Epoch(8), own: Epoch(9) }));
    }

    proptest! {
        /// Two logs that share a prefix: after what the replica is told to do, its log is a prefix of the master's.
        #[test]
        fn what_a_replica_keeps_is_a_prefix_of_its_masters_log(shared in 0_u64..40, own_more in 0_u64..20, master_more in 0_u64..20, epochs in 1_u64..4, min in 0_u64..30) {
            // The shared part in some epochs of equal length; then each goes on in an epoch of its own.
            let mut common: Vec<(u64, u64)> = (0..epochs).map(|i| (i + 1, i * shared / epochs)).collect();
            common.dedup_by_key(|(_, start)| *start);
            if shared == 0 {
                common.clear();
            }
            let with = |epoch: u64, more: u64| {
                let mut all = common.clone();
                if more > 0 {
                    all.push((epoch, shared));
                }
                all
            };
            let master = welcome(&with(11, master_more), min.min(shared + master_more), shared + master_more);
            let own = own(&with(10, own_more), 0, shared + own_more, 0);
            match own.meet(&master) {
                Ok(Next::Follow(from)) => prop_assert!(from == own.end && from.0 <= shared && from >= master.min),
                Ok(Next::Cut(to)) => prop_assert!(to < own.end && to.0 <= shared && to >= master.min),
                // Its own end, if that is enough to tell; else where the logs part.
                Ok(Next::Resync(Why::TooOld { end, min })) => prop_assert!(end < min && (end == own.end || end.0 <= shared)),
                Ok(Next::Resync(Why::Unrelated)) => prop_assert_eq!(shared, 0),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
