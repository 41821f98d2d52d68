use super::*;
use crate::Incarnation;
use sluice_types::CommitLogOffset;
use std::collections::BTreeSet;

fn member(id: u32) -> Member {
    Member { id: MemberId(id), store: Incarnation(u128::from(id)) }
}

fn held(end: u64) -> Held {
    Held { received: CommitLogOffset(end), flushed: CommitLogOffset(end) }
}

fn versioned(state: GroupState) -> Versioned {
    Versioned { version: Version(format!("v{}", state.revision)), state }
}

/// Member 1 is master of members 1, 2 and 3.
fn group() -> GroupState {
    GroupState::first(member(1)).with_set(BTreeSet::from([member(1), member(2), member(3)]))
}

fn started(id: u32, seen: Seen) -> Core {
    Core::new(member(id), 1, seen, held(100))
}

fn read(core: &mut Core, state: &GroupState) -> Vec<Action> {
    let asked = core.seen();
    core.on(Event::Read { asked, now: Some(versioned(state.clone())) })
}

/// A broker that has read that state for the first time.
fn in_group(id: u32, state: &GroupState) -> Core {
    let mut core = started(id, Seen::default());
    read(&mut core, state);
    core
}

const STAND: Event = Event::Stand { heard: Seen { epoch: Epoch(0), revision: 0 } };

#[test]
fn the_first_of_a_group_makes_its_object_and_begins() {
    let mut core = started(1, Seen::default());
    assert_eq!(core.on(STAND), [Action::Read]);
    assert_eq!(core.on(Event::Read { asked: Seen::default(), now: None }), []);
    let first = GroupState::first(member(1));
    assert_eq!(core.on(STAND), [Action::Swap { from: None, to: first.clone() }]);
    assert_eq!(read(&mut core, &first), [Action::Remember(first.seen()), Action::Begin(Epoch(1))]);
    assert_eq!(core.on(Event::Own(held(120))), [Action::Confirm(held(120))]);
}

#[test]
fn one_that_has_seen_an_epoch_makes_no_new_group() {
    let mut core = started(1, group().seen());
    core.on(Event::Read { asked: group().seen(), now: None });
    assert_eq!(core.on(STAND), [Action::Read]);
}

#[test]
fn an_elected_broker_remembers_its_epoch_before_it_begins_and_the_old_master_ceases() {
    let mut core = in_group(2, &group());
    let next = group().with_master(MemberId(2), false);
    assert_eq!(core.on(STAND), [Action::Swap { from: Some(Version("v2".into())), to: next.clone() }]);
    assert_eq!(read(&mut core, &next), [Action::Remember(next.seen()), Action::Begin(Epoch(2))]);
    assert_eq!(core.master_of(), Some(Epoch(2)));

    let mut old = in_group(1, &group());
    assert_eq!(old.master_of(), Some(Epoch(1)));
    assert_eq!(read(&mut old, &next), [Action::Remember(next.seen()), Action::Cease(Epoch(1)), Action::Follow(MemberId(2), Epoch(2))]);
    assert!(old.follows(Epoch(2)) && !old.follows(Epoch(1)));
}

#[test]
fn a_master_that_hears_of_a_newer_epoch_from_a_member_ceases() {
    let mut old = in_group(1, &group());
    let next = group().with_master(MemberId(2), false);
    assert_eq!(old.on(Event::Heard(next.clone())), [Action::Remember(next.seen()), Action::Cease(Epoch(1)), Action::Follow(MemberId(2), Epoch(2))]);
    // What is older is neither followed nor believed.
    assert_eq!(old.on(Event::Heard(group())), []);
}

#[test]
fn a_member_that_says_who_is_master_makes_nobody_master() {
    let mut core = in_group(2, &group());
    let next = group().with_master(MemberId(2), false);
    assert_eq!(core.on(Event::Heard(next.clone())), [Action::Read]);
    assert_eq!(core.master_of(), None);
    assert!(read(&mut core, &next).contains(&Action::Begin(Epoch(2))));
}

#[test]
fn a_master_that_was_restarted_begins_no_epoch_again_but_stands_for_the_next() {
    let mut core = started(1, group().seen());
    assert_eq!(read(&mut core, &group()), []);
    assert_eq!(core.master_of(), None);
    let next = group().with_master(MemberId(1), false);
    assert_eq!(core.on(STAND), [Action::Swap { from: Some(Version("v2".into())), to: next.clone() }]);
    assert!(read(&mut core, &next).contains(&Action::Begin(Epoch(2))));
}

#[test]
fn one_outside_the_set_and_a_wiped_store_neither_stand_nor_begin() {
    let mut outside = in_group(4, &group());
    assert_eq!(outside.on(STAND), [Action::Read]);
    let wiped = Member { store: Incarnation(99), ..member(1) };
    let mut core = Core::new(wiped, 1, Seen::default(), held(0));
    assert_eq!(read(&mut core, &group()), [Action::Remember(group().seen())]);
    assert_eq!(core.on(STAND), [Action::Read]);
    assert_eq!(core.master_of(), None);
}

#[test]
fn a_candidate_that_hears_of_something_newer_reads_first() {
    let mut core = in_group(2, &group());
    let heard = Seen { revision: 3, ..group().seen() };
    assert_eq!(core.on(Event::Stand { heard }), [Action::Read]);
}

#[test]
fn a_coordinator_that_was_set_back_alarms_and_changes_nothing_but_an_overtaken_answer_is_asked_for_again() {
    let newer = group().with_set(BTreeSet::from([member(1), member(2)]));
    let mut core = in_group(2, &newer);
    let told = core.on(Event::Read { asked: newer.seen(), now: Some(versioned(group())) });
    assert!(matches!(told[..], [Action::Alarm(_)]), "{told:?}");
    let overtaken = core.on(Event::Read { asked: group().seen(), now: Some(versioned(group())) });
    assert_eq!(overtaken, [Action::Read]);
    assert_eq!(core.seen(), newer.seen());
}

#[test]
fn a_change_whose_answer_was_lost_is_asked_for_again_as_long_as_the_object_is_the_same() {
    let mut core = in_group(1, &group());
    core.on(Event::Own(held(100)));
    let smaller = group().with_set(BTreeSet::from([member(1), member(2)]));
    let swap = Action::Swap { from: Some(Version("v2".into())), to: smaller.clone() };
    assert_eq!(core.on(Event::Dismiss(member(3))), std::slice::from_ref(&swap));
    assert_eq!(core.on(Event::SwapUnknown), [Action::Read]);
    assert_eq!(read(&mut core, &group()), [swap]);
    assert_eq!(read(&mut core, &smaller), [Action::Remember(smaller.seen())]);
    // Settled: the next change may come.
    assert!(matches!(core.on(Event::Dismiss(member(2)))[..], [Action::Swap { .. }]));
}

#[test]
fn a_hand_over_waits_until_the_other_holds_everything_and_keeps_the_set() {
    let mut core = in_group(1, &group());
    core.on(Event::Own(held(150)));
    assert_eq!(core.on(Event::HandOver(MemberId(2))), []);
    core.on(Event::Ack { from: member(2), epoch: Epoch(1), held: held(150) });
    let next = group().with_master(MemberId(2), true);
    assert_eq!(next.in_sync.len(), 3);
    assert_eq!(core.on(Event::HandOver(MemberId(2))), [Action::Swap { from: Some(Version("v2".into())), to: next.clone() }]);
    assert!(read(&mut core, &next).contains(&Action::Cease(Epoch(1))));
    // The other learns of it by a read, and begins without standing.
    assert!(read(&mut in_group(2, &group()), &next).contains(&Action::Begin(Epoch(2))));
}

#[test]
fn only_acknowledgements_of_the_own_epoch_count() {
    let alone = group().with_set(BTreeSet::from([member(1), member(2)]));
    let mut core = in_group(1, &alone);
    core.on(Event::Own(held(150)));
    for epoch in [Epoch(0), Epoch(2)] {
        assert_eq!(core.on(Event::Ack { from: member(2), epoch, held: held(150) }), []);
    }
    assert_eq!(core.on(Event::Ack { from: member(2), epoch: Epoch(1), held: held(140) }), [Action::Confirm(held(140))]);
}

#[test]
fn one_outside_the_set_becomes_master_uncleanly_by_order_and_that_is_counted_and_one_inside_never() {
    let mut inside = in_group(2, &group());
    assert_eq!(inside.on(Event::StandUnclean), [Action::Read]);
    let anew = Member { store: Incarnation(99), ..member(2) };
    let mut core = Core::new(anew, 1, Seen::default(), held(100));
    assert_eq!(core.on(Event::StandUnclean), [Action::Read], "it has not asked");
    read(&mut core, &group());
    let to = group().unclean_under(anew);
    assert_eq!(core.on(Event::StandUnclean), [Action::Swap { from: Some(versioned(group()).version), to: to.clone() }]);
    assert_eq!((to.epoch, to.unclean, to.in_sync.len()), (Epoch(2), 1, 1));
    assert_eq!(read(&mut core, &to), [Action::Remember(to.seen()), Action::Begin(Epoch(2))]);
    assert_eq!(to.with_master(MemberId(2), false).unclean, 1, "it stays known");
}

#[test]
fn one_that_retires_is_as_one_that_was_restarted() {
    let mut master = in_group(1, &group());
    assert_eq!(master.on(Event::Retire), [Action::Cease(Epoch(1))]);
    assert_eq!(master.on(Event::Retire), []);
    let mut restarted = Core::new(member(1), 1, group().seen(), held(100));
    assert_eq!(master, restarted);
    for core in [&mut master, &mut restarted] {
        assert_eq!(read(core, &group()), [], "an epoch is begun once");
        assert!(matches!(core.on(STAND)[..], [Action::Swap { .. }]));
    }
}

#[test]
fn a_restarted_broker_follows_the_master_that_it_has_seen_when_that_one_says_so_and_no_older_one() {
    let state = group();
    let mut core = started(2, state.seen());
    assert_eq!(core.on(Event::Heard(state.clone())), [Action::Follow(MemberId(1), Epoch(1))]);
    let mut newer = started(2, Seen { revision: state.revision + 1, ..state.seen() });
    assert_eq!(newer.on(Event::Heard(state.clone())), []);
    // Its own epoch from before is nothing to follow, and a master follows nobody.
    let mut own = started(1, state.seen());
    assert_eq!(own.on(Event::Heard(state.clone())), []);
    let mut master = in_group(1, &state);
    assert_eq!(master.on(Event::Heard(state)), []);
}
