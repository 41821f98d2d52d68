//! What every coordinator has to do, whatever it is: run by the tests of each.
#![allow(dead_code, reason = "each takes what it needs")]

pub(crate) mod wire;

use sluice_group::coordinator::{Coordinator, CoordinatorError, Lease, Swapped};
use sluice_replication::{Epoch, GroupState, Incarnation, Member, MemberId, Version, Versioned};
use std::{
    any::Any,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

/// What a call may take where the coordinator answers.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Two ways to one group that is not founded, and what has to live meanwhile.
pub(crate) struct Ways(pub(crate) [Arc<dyn Coordinator>; 2], pub(crate) Box<dyn Any>);

/// The tests, over a function that makes the two ways; `None`: not on this machine.
macro_rules! tests {
    ($ways:path) => {
        #[test]
        fn of_two_swaps_that_rest_on_one_version_one_succeeds() {
            if let Some(ways) = $ways() {
                $crate::contract::two_swaps(&ways);
            }
        }

        #[test]
        fn of_eight_that_race_one_wins_each_time_and_the_others_see_who() {
            if let Some(ways) = $ways() {
                $crate::contract::eight_race(&ways);
            }
        }

        #[test]
        fn a_renewal_writes_nothing_where_the_epoch_is_another_one() {
            if let Some(ways) = $ways() {
                $crate::contract::renewals(&ways);
            }
        }
    };
}
pub(crate) use tests;

pub(crate) fn first() -> GroupState {
    let member = |id| Member { id: MemberId(id), store: Incarnation(u128::from(id)) };
    GroupState { in_sync: (0..8).map(member).collect(), ..GroupState::first(member(0)) }
}

#[track_caller]
pub(crate) fn made(coordinator: &dyn Coordinator) -> Versioned {
    done(coordinator.swap(None, &first(), SOON))
}

#[track_caller]
pub(crate) fn done(swapped: Result<Swapped, CoordinatorError>) -> Versioned {
    match swapped {
        Ok(Swapped::Done(now)) => now,
        other => panic!("not done: {other:?}"),
    }
}

pub(crate) fn elect(now: &Versioned, id: u32) -> GroupState {
    now.state.with_master(MemberId(id), true)
}

/// A change within the epoch.
pub(crate) fn touch(now: &Versioned) -> GroupState {
    now.state.with_set(now.state.in_sync.clone())
}

pub(crate) fn two_swaps(Ways([one, two], _): &Ways) {
    assert_eq!(one.read(SOON), Ok(None));
    let made = made(&**one);
    assert_eq!(two.read(SOON), Ok(Some(made.clone())), "what is read has the version that was told to who wrote it");
    assert_eq!(two.swap(None, &first(), SOON), Ok(Swapped::Other(Some(made.clone()))));
    let second = done(two.swap(Some(&made.version), &elect(&made, 1), SOON));
    assert_eq!(second.state.epoch, Epoch(2));
    assert_eq!(one.swap(Some(&made.version), &elect(&made, 2), SOON), Ok(Swapped::Other(Some(second.clone()))));
    // No versions at all, and the right text at another revision.
    for alien in ["", "7", "seven {}", "99999999999999999999 {}", "u 7 {}", &format!("1{}", second.version.0)] {
        assert_eq!(one.swap(Some(&Version(alien.into())), &elect(&made, 2), SOON), Ok(Swapped::Other(Some(second.clone()))), "{alien}");
    }
    assert_eq!(one.read(SOON), Ok(Some(second)));
}

pub(crate) fn eight_race(Ways(shared, _): &Ways) {
    let mut now = made(&*shared[0]);
    for round in 0..50 {
        let barrier = Barrier::new(8);
        let race = |id: u32| {
            barrier.wait();
            shared[id as usize % 2].swap(Some(&now.version), &elect(&now, id), SOON).expect("it answers")
        };
        let ended: Vec<_> = thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|id| scope.spawn(move || race(id))).collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
        });
        let winners: Vec<_> = ended.iter().filter_map(|swapped| if let Swapped::Done(now) = swapped { Some(now) } else { None }).collect();
        assert_eq!(winners.len(), 1, "round {round}: {ended:?}");
        let others = ended.iter().filter(|swapped| matches!(swapped, Swapped::Other(Some(now)) if now == winners[0])).count();
        assert_eq!(others, 7, "round {round}: {ended:?}");
        assert_eq!(shared[1].read(SOON).as_ref(), Ok(&Some(winners[0].clone())));
        now = winners[0].clone();
    }
}

pub(crate) fn renewals(Ways([master, other], _): &Ways) {
    let lease = |epoch, renewal| Lease { epoch: Epoch(epoch), master: MemberId(0), renewal };
    assert_eq!(master.renew(lease(1, 1), SOON), Ok(None));
    assert_eq!(master.lease(SOON), Ok(None), "without an object there is no lease");
    let made = made(&**master);
    assert_eq!(master.renew(lease(1, 2), SOON), Ok(Some(made.clone())));
    assert_eq!(other.lease(SOON), Ok(Some(lease(1, 2))));
    // A change within the epoch, which this one has not seen.
    let touched = done(other.swap(Some(&made.version), &touch(&made), SOON));
    assert_eq!(master.renew(lease(1, 3), SOON), Ok(Some(touched.clone())));
    assert_eq!(other.lease(SOON), Ok(Some(lease(1, 3))));
    // Renewals are not changes of the object.
    assert_eq!(other.read(SOON), Ok(Some(touched.clone())));
    // The next epoch, which it has not seen either; then one that it has, and one that is not there yet.
    let elected = done(other.swap(Some(&touched.version), &elect(&touched, 1), SOON));
    for (epoch, renewal) in [(1, 4), (1, 5), (3, 6)] {
        assert_eq!(master.renew(lease(epoch, renewal), SOON), Ok(Some(elected.clone())));
        assert_eq!(other.lease(SOON), Ok(Some(lease(1, 3))));
    }
    assert_eq!(other.renew(lease(2, 1), SOON), Ok(Some(elected.clone())));
    assert_eq!(master.lease(SOON), Ok(Some(lease(2, 1))));
    // And the one who has renewed before comes back with a later epoch.
    let third = done(master.swap(Some(&elected.version), &elect(&elected, 0), SOON));
    assert_eq!(master.renew(lease(3, 7), SOON), Ok(Some(third)));
    assert_eq!(other.lease(SOON), Ok(Some(lease(3, 7))));
}
