use super::*;
use crate::{Event, Held, Incarnation, Seen, Version, Versioned};
use std::collections::BTreeSet;

const LEASE: Duration = Duration::from_secs(5);

fn member(id: u32) -> Member {
    Member { id: MemberId(id), store: Incarnation(id.into()) }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Member 1 is master of members 1, 2 and 3.
fn group() -> GroupState {
    GroupState::first(member(1)).with_set(BTreeSet::from([member(1), member(2), member(3)]))
}

fn read(core: &mut Core, state: &GroupState) {
    let now = Versioned { version: Version(state.revision.to_string()), state: state.clone() };
    core.on(Event::Read { asked: core.seen(), now: Some(now) });
}

fn core(id: u32, state: &GroupState) -> Core {
    let mut core = Core::new(member(id), 1, Seen::default(), Held::default());
    read(&mut core, state);
    core
}

fn signs(now: u64, heard: u64) -> Signs {
    Signs { now: at(now), heard: at(heard), log: LogHealth::Good, is_founder: false, is_last_resort: false }
}

/// A replica that follows member 1 from time 0 on.
fn replica(id: u32) -> (Core, Pace) {
    let mut pace = Pace::new(Timing::new(LEASE), at(0));
    pace.follows(at(0), MemberId(1), Epoch(1));
    (core(id, &group()), pace)
}

fn master() -> (Core, Pace) {
    let mut pace = Pace::new(Timing::new(LEASE), at(0));
    pace.begins(at(0));
    (core(1, &group()), pace)
}

/// Every member of the set has been heard, and was promised to, at that time.
fn all_acked(pace: &mut Pace, millis: u64) {
    for id in [2, 3] {
        pace.acked(at(millis), member(id), Some(at(millis)), CommitLogOffset(100), CommitLogOffset(100));
    }
}

#[test]
fn a_replica_that_hears_its_master_leaves_the_coordinator_alone_and_does_not_stand() {
    let (core, mut pace) = replica(2);
    for now in (0..60_000).step_by(100) {
        assert_eq!(pace.wishes(signs(now, now), &core), [], "at {now}");
    }
}

#[test]
fn a_replica_stands_when_master_and_lease_have_been_silent_for_the_lease_and_each_at_its_own_time() {
    let first = |id| {
        let (core, mut pace) = replica(id);
        (0..20_000).step_by(10).find(|now| {
            pace.saw_lease(at(*now), None);
            pace.wishes(signs(*now, 1000), &core).contains(&Wish::Stand)
        })
    };
    assert_eq!((first(2), first(3)), (Some(6000), Some(6250)));
}

#[test]
fn as_long_as_the_lease_is_renewed_nobody_stands() {
    let (core, mut pace) = replica(2);
    for now in (0..60_000).step_by(100) {
        pace.saw_lease(at(now), Some((Epoch(1), now / 4000)));
        assert!(!pace.wishes(signs(now, 0), &core).contains(&Wish::Stand), "at {now}");
    }
    // The last renewal was seen at 56,000; but as long as the coordinator does not answer, there may have been later ones.
    let mut away = pace.clone();
    assert!((60_000..90_000).step_by(10).all(|now| !away.wishes(signs(now, 0), &core).contains(&Wish::Stand)));
    away.saw_lease(at(90_000), Some((Epoch(1), 99)));
    assert!(!away.wishes(signs(90_010, 0), &core).contains(&Wish::Stand), "so it was");
    let stands = (60_000..).step_by(10).find(|now| {
        pace.saw_lease(at(*now), Some((Epoch(1), 14)));
        pace.wishes(signs(*now, 0), &core).contains(&Wish::Stand)
    });
    assert_eq!(stands, Some(61_000));
}

#[test]
fn one_whose_masters_process_is_gone_stands_at_once_but_gives_a_master_to_be_a_chance() {
    let (core, mut pace) = replica(2);
    pace.gone(at(500), at(0));
    assert_eq!(pace.wishes(signs(500, 0), &core), [], "it was never heard: it may be on its way");
    pace.gone(at(2000), at(1900));
    assert_eq!(pace.wishes(signs(2000, 1900), &core), [Wish::Look, Wish::Stand]);
    assert_eq!(pace.wishes(signs(2010, 1900), &core), [], "not every moment");
    assert_eq!(pace.wishes(signs(2700, 2600), &core), [], "it is there again");
    let (core, mut pace) = replica(2);
    pace.gone(at(1000), at(0));
    assert!(pace.wishes(signs(1000, 0), &core).contains(&Wish::Stand), "it has had its time");
}

#[test]
fn one_whose_log_does_not_take_writes_does_not_stand_and_neither_does_one_outside_the_set() {
    for log in [LogHealth::Hung, LogHealth::Failed] {
        let (core, mut pace) = replica(2);
        pace.gone(at(2000), at(1900));
        assert_eq!(pace.wishes(Signs { log, ..signs(9000, 1900) }, &core), [Wish::Look]);
    }
    let (core, mut pace) = replica(4);
    pace.gone(at(2000), at(1900));
    assert_eq!(pace.wishes(signs(9000, 1900), &core), [Wish::Look]);
}

#[test]
fn who_was_master_before_its_restart_stands_again_at_once() {
    let mut core = Core::new(member(1), 1, group().seen(), Held::default());
    let mut pace = Pace::new(Timing::new(LEASE), at(0));
    assert_eq!(pace.wishes(signs(0, 0), &core), [Wish::Look]);
    read(&mut core, &group());
    assert!(pace.wishes(signs(10, 0), &core).contains(&Wish::Stand));
}

#[test]
fn a_group_is_founded_by_its_founder_alone() {
    let mut core = Core::new(member(1), 1, Seen::default(), Held::default());
    core.on(Event::Read { asked: Seen::default(), now: None });
    let mut pace = Pace::new(Timing::new(LEASE), at(0));
    assert_eq!(pace.wishes(signs(0, 0), &core), [Wish::Look]);
    assert_eq!(pace.wishes(Signs { is_founder: true, ..signs(10, 0) }, &core), [Wish::Stand]);
}

#[test]
fn after_two_changes_of_master_in_five_minutes_the_next_one_waits_and_longer_each_time() {
    let delay = |changes: u64| {
        let (mut core, mut pace) = replica(2);
        let mut state = group();
        for change in 1..=changes {
            // Between members 1 and 3.
            let next = if change % 2 == 1 { MemberId(3) } else { MemberId(1) };
            state = state.with_master(next, true);
            read(&mut core, &state);
            pace.follows(at(change * 1000), next, state.epoch);
        }
        pace.gone(at(20_000), at(19_000));
        // Beside member 1, which has the lower number, it comes second.
        let rank = if changes % 2 == 1 { 250 } else { 0 };
        (20_000..200_000).step_by(50).find(|now| pace.wishes(signs(*now, 19_000), &core).contains(&Wish::Stand)).map(|now| now - 20_000 - rank)
    };
    assert_eq!([0, 1, 2, 3, 4].map(delay), [Some(0), Some(0), Some(5000), Some(10_000), Some(20_000)]);
}

#[test]
fn a_master_renews_each_fifth_of_the_lease_while_its_disk_takes_writes() {
    let (core, mut pace) = master();
    [2, 3].into_iter().for_each(|id| pace.connected(at(0), member(id)));
    let mut renewals = Vec::new();
    for now in (0..5000).step_by(10) {
        all_acked(&mut pace, now);
        renewals.extend(pace.wishes(signs(now, 0), &core).into_iter().map(|wish| (now, wish)));
    }
    let renewal = |now, renewal| (now, Wish::Renew { epoch: Epoch(1), renewal });
    assert_eq!(renewals, [renewal(0, 1), renewal(1000, 2), renewal(2000, 3), renewal(3000, 4), renewal(4000, 5)]);
    all_acked(&mut pace, 5000);
    assert_eq!(pace.wishes(Signs { log: LogHealth::Hung, ..signs(5000, 0) }, &core), [Wish::Retire(Retired::Hung)]);
    assert_eq!(pace.wishes(Signs { log: LogHealth::Failed, ..signs(5000, 0) }, &core), [Wish::Retire(Retired::Failed)]);
}

#[test]
fn a_master_serves_until_three_quarters_of_the_lease_after_its_renewal_or_the_oldest_of_all_promises() {
    let (core, mut pace) = master();
    assert_eq!(pace.serves_until(&core), Some(at(3750)));
    pace.renewed(at(2000));
    assert_eq!(pace.serves_until(&core), Some(at(5750)));
    pace.acked(at(9000), member(2), Some(at(8000)), CommitLogOffset(0), CommitLogOffset(0));
    assert_eq!(pace.serves_until(&core), Some(at(5750)), "one of two has promised");
    pace.acked(at(9000), member(3), Some(at(7000)), CommitLogOffset(0), CommitLogOffset(0));
    assert_eq!(pace.serves_until(&core), Some(at(10_750)));
    let retires = |now| {
        let mut pace = pace.clone();
        pace.wishes(signs(now, 0), &core).contains(&Wish::Retire(Retired::Fenced))
    };
    assert!(!retires(10_749) && retires(10_750));
}

#[test]
fn a_master_that_is_alone_in_the_set_serves_on_whatever_the_coordinator_does() {
    let alone = GroupState::first(member(1));
    let (core, mut pace) = (core(1, &alone), master().1);
    assert_eq!(pace.serves_until(&core), None);
    let wishes = pace.wishes(Signs { log: LogHealth::Hung, ..signs(3_600_000, 0) }, &core);
    assert_eq!(wishes, [], "nobody could take over");
}

#[test]
fn a_member_leaves_when_it_is_away_silent_or_slow_for_too_long_and_not_before() {
    // What member 3 does, and when it is to be dismissed; member 2 does well.
    let dismissed = |three: &dyn Fn(&mut Pace, u64)| {
        let (core, mut pace) = master();
        [2, 3].into_iter().for_each(|id| pace.connected(at(0), member(id)));
        (0..60_000).step_by(100).find(|now| {
            pace.renewed(at(*now));
            pace.acked(at(*now), member(2), None, CommitLogOffset(*now), CommitLogOffset(*now));
            three(&mut pace, *now);
            pace.wishes(signs(*now, 0), &core).contains(&Wish::Dismiss(member(3)))
        })
    };
    let acks = |pace: &mut Pace, now: u64, behind: u64| {
        pace.acked(at(now), member(3), None, CommitLogOffset(now.saturating_sub(behind)), CommitLogOffset(now));
    };
    assert_eq!(dismissed(&|pace, now| acks(pace, now, 0)), None);
    // Always a little behind, but where the log ended a moment ago.
    assert_eq!(dismissed(&|pace, now| acks(pace, now, 50)), None);
    assert_eq!(dismissed(&|pace, now| acks(pace, now, 5000)), Some(10_000), "never where the log ended");
    assert_eq!(
        dismissed(&|pace, now| if now <= 7000 {
            acks(pace, now, 0)
        }),
        Some(9000),
        "silent since 7000"
    );
    let ends = |pace: &mut Pace, now: u64| {
        acks(pace, now, 0);
        if now == 7000 {
            pace.disconnected(at(now), member(3));
        }
    };
    assert_eq!(dismissed(&ends), Some(8000));
    let again = |pace: &mut Pace, now: u64| {
        ends(pace, now);
        if now == 7500 {
            pace.connected(at(now), member(3));
        }
    };
    assert_eq!(dismissed(&again), None);
}

#[test]
fn a_member_whose_process_is_gone_leaves_at_once_and_one_that_merely_reconnects_stays() {
    // When member 3, whose connection ends at 7000, is to be dismissed.
    let dismissed = |min: usize, three: &dyn Fn(&mut Pace, u64)| {
        let mut core = Core::new(member(1), min, Seen::default(), Held::default());
        read(&mut core, &group());
        let mut pace = master().1;
        [2, 3].into_iter().for_each(|id| pace.connected(at(0), member(id)));
        (0..20_000).step_by(100).find(|now| {
            pace.renewed(at(*now));
            all_acked(&mut pace, *now);
            if *now == 7000 {
                pace.disconnected(at(*now), member(3));
            }
            three(&mut pace, *now);
            pace.wishes(signs(*now, 0), &core).contains(&Wish::Dismiss(member(3)))
        })
    };
    let refuses = |pace: &mut Pace, now: u64| pace.listens(at(now), MemberId(3), now != 7000);
    assert_eq!(dismissed(1, &|_, _| ()), Some(8000), "nobody has asked");
    assert_eq!(
        dismissed(1, &|pace, now| if now == 7000 {
            refuses(pace, now)
        }),
        Some(7000)
    );
    assert_eq!(
        dismissed(3, &|pace, now| if now == 7000 {
            refuses(pace, now)
        }),
        None,
        "below the least"
    );
    let comes_back = |pace: &mut Pace, now: u64| match now {
        7100 => pace.connected(at(now), member(3)),
        // Asked before it came, refused, and told late.
        7200 => pace.listens(at(7050), MemberId(3), false),
        7300 => pace.disconnected(at(now), member(3)),
        7400 => pace.connected(at(now), member(3)),
        _ => {}
    };
    assert_eq!(dismissed(1, &comes_back), None);
    assert_eq!(
        dismissed(1, &|pace, now| if now >= 7000 {
            pace.listens(at(now), MemberId(3), true)
        }),
        Some(8000),
        "it lives, and has its time"
    );
    let anew = Member { store: Incarnation(33), ..member(3) };
    assert_eq!(
        dismissed(1, &|pace, now| if now == 7200 {
            pace.connected(at(now), anew)
        }),
        Some(7200),
        "its broker is there with another life"
    );
}

#[test]
fn a_member_that_never_came_leaves_after_two_fifths_of_the_lease_but_not_below_the_least() {
    for (min, expected) in [(1, Some(2000)), (3, None)] {
        let mut core = Core::new(member(1), min, Seen::default(), Held::default());
        read(&mut core, &group());
        let mut pace = master().1;
        let found = (0..20_000).step_by(100).find(|now| {
            pace.renewed(at(*now));
            pace.wishes(signs(*now, 0), &core).iter().any(|wish| matches!(wish, Wish::Dismiss(_)))
        });
        assert_eq!(found, expected, "{min}");
    }
}

#[test]
fn a_replica_is_let_in_when_it_has_caught_up_and_later_each_time_that_it_was_let_go() {
    let (core, mut pace) = (core(1, &GroupState::first(member(1))), master().1);
    let admitted = |pace: &mut Pace, from: u64| {
        (from..from + 60_000).step_by(100).find(|now| {
            pace.acked(at(*now), member(2), None, CommitLogOffset(9), CommitLogOffset(9));
            pace.wishes(signs(*now, 0), &core).contains(&Wish::Admit(member(2)))
        })
    };
    pace.connected(at(1000), member(2));
    let mut behind = pace.clone();
    behind.acked(at(1000), member(2), None, CommitLogOffset(5), CommitLogOffset(9));
    assert_eq!(behind.wishes(signs(1000, 0), &core), [Wish::Renew { epoch: Epoch(1), renewal: 1 }]);
    assert_eq!(admitted(&mut pace, 1000), Some(1000));
    for (times, delay) in [(1, 2000), (2, 4000), (3, 8000)] {
        let mut again = pace.clone();
        again.follower(at(0), member(2)).dismissed = (times, at(100_000));
        assert_eq!(admitted(&mut again, 100_000), Some(100_000 + delay), "{times}");
    }
}

#[test]
fn one_that_is_the_last_resort_stands_uncleanly_once_a_second() {
    let (core, mut pace) = replica(4);
    let signs = |now| Signs { is_last_resort: true, ..signs(now, now) };
    let stands: Vec<_> = (0..3000).step_by(100).filter(|now| pace.wishes(signs(*now), &core).contains(&Wish::StandUnclean)).collect();
    assert_eq!(stands, [0, 1000, 2000]);
    assert!(!pace.wishes(Signs { log: LogHealth::Hung, ..signs(9000) }, &core).contains(&Wish::StandUnclean));
}
