//! Rules of durability other than the log's own: acknowledgements that do not wait for the other brokers, their bound, and how what is lost of them is counted; and topics
//! that are flushed before they are acknowledged and shown, in a log that is flushed later.

use crate::world::*;
use sluice_env::{
    Monotonic,
    sim::{Fault, FaultKind, Op},
};
use sluice_store::{AppendError, Batch, FlushMode, Late, Lost, Placed, ReadError, Rule, Store, StoreOptions, Wait};
use sluice_types::CommitLogOffset;
use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

/// Neither waits for the flush nor for the others.
const AT_ONCE: Rule = Rule { flushed: false, confirmed: false };
const FLUSHED: Rule = Rule { flushed: true, confirmed: true };

type Answer = mpsc::Receiver<Result<Vec<Placed>, AppendError>>;

fn submit(store: &Store, topic: &str, body: &[u8], wait: Wait) -> Answer {
    let (told, answer) = mpsc::channel();
    let mut batch = Batch::new();
    push(&mut batch, store, topic, 0, body, "");
    store.submit(batch, wait, Box::new(move |result| drop(told.send(result))));
    answer
}

fn is_acknowledged(answer: &Answer) -> bool {
    matches!(answer.try_recv(), Ok(Ok(_)))
}

/// The answer may come from another thread.
fn comes_acknowledged(answer: &Answer) -> bool {
    matches!(answer.recv_timeout(Duration::from_secs(20)), Ok(Ok(_)))
}

/// A master that may acknowledge without the others, at most `bytes_max` ahead of them.
fn leading(world: &World) -> Arc<Store> {
    let store = world.open();
    store.lead_until(Monotonic(Duration::MAX));
    store
}

fn bounded(flush: FlushMode, bytes_max: u64) -> StoreOptions {
    StoreOptions { unconfirmed_bytes_max: bytes_max, ..replicated(flush) }
}

#[test]
fn what_need_not_be_confirmed_is_acknowledged_by_the_flush_alone_and_shown_when_it_is_confirmed() {
    for (flush, rule) in [(FlushMode::Sync, Rule { flushed: true, confirmed: false }), (lazy(), AT_ONCE)] {
        let world = World::new(1, replicated(flush));
        let store = leading(&world);
        let (early, patient) = (submit(&store, "orders", b"1", Wait::By(rule)), submit(&store, "orders", b"2", Wait::Durable));
        assert!(comes_acknowledged(&early), "{flush:?}");
        assert!(patient.try_recv().is_err() && read_all(&store, "orders", 0).is_empty(), "{flush:?}");
        assert_eq!(store.marks().flushed == store.marks().appended, flush == FlushMode::Sync);
        store.confirm(store.marks().appended);
        assert!(comes_acknowledged(&patient));
        assert_eq!(read_all(&store, "orders", 0), [b"1", b"2"]);
    }
}

#[test]
fn no_more_is_acknowledged_unconfirmed_than_may_be_and_then_it_waits_for_the_confirmation() {
    let world = World::new(1, bounded(lazy(), 2_000));
    let store = leading(&world);
    let answers: Vec<_> = (0..20).map(|_| (submit(&store, "orders", &[b'x'; 300], Wait::By(AT_ONCE)), store.marks().appended.0)).collect();
    let told: Vec<_> = answers.iter().map(|(answer, end)| (is_acknowledged(answer), *end)).collect();
    assert!(told.iter().all(|(is_told, end)| *is_told == (*end <= 2_000)), "{told:?}");
    // With each step of the confirmation the next may go.
    let step = answers[4].1;
    store.confirm(CommitLogOffset(step));
    for ((answer, end), (was_told, _)) in answers.iter().zip(&told) {
        assert_eq!(is_acknowledged(answer), !was_told && *end <= step + 2_000, "{end}");
    }
    // The rest fails as a send does that nobody confirms.
    world.clock.advance(Duration::from_secs(6));
    let last = answers.last().expect("some").0.recv_timeout(Duration::from_secs(20)).expect("answered");
    assert!(matches!(last, Err(AppendError::Late(Late::Confirmation, _))), "{last:?}");
}

#[test]
fn nothing_is_acknowledged_unconfirmed_by_one_who_may_not_lead_any_more_or_waits_for_the_others_for_too_long() {
    let world = World::new(1, replicated(lazy()));
    let store = world.open();
    let before = submit(&store, "orders", b"1", Wait::By(AT_ONCE));
    assert!(before.try_recv().is_err(), "nobody has said that it leads");
    store.lead_until(Monotonic(Duration::from_secs(3)));
    until("one that is let go late", || is_acknowledged(&before));
    assert!(comes_acknowledged(&submit(&store, "orders", b"2", Wait::By(AT_ONCE))));
    world.clock.advance(Duration::from_secs(3));
    assert!(!is_acknowledged(&submit(&store, "orders", b"3", Wait::By(AT_ONCE))), "its time is over");
    store.lead_until(Monotonic(Duration::MAX));
    assert!(comes_acknowledged(&submit(&store, "orders", b"4", Wait::By(AT_ONCE))));
    world.clock.advance(Duration::from_millis(2_001));
    assert!(!is_acknowledged(&submit(&store, "orders", b"5", Wait::By(AT_ONCE))), "the first waits for more than five seconds");
    store.confirm(store.marks().appended);
    assert!(comes_acknowledged(&submit(&store, "orders", b"6", Wait::By(AT_ONCE))));
}

#[test]
fn who_need_not_wait_for_the_others_is_not_told_that_they_are_too_few() {
    let world = World::new(1, replicated(lazy()));
    let store = leading(&world);
    store.set_too_few(true);
    let patient = submit(&store, "orders", b"1", Wait::Durable);
    assert!(comes_acknowledged(&submit(&store, "orders", b"2", Wait::By(AT_ONCE))));
    store.confirm(store.marks().appended);
    assert!(matches!(patient.try_recv(), Ok(Err(AppendError::Late(Late::Replicas, _)))));
}

/// Three messages that are acknowledged and confirmed, three acknowledged only, one that waits, and one more of each.
fn acknowledged_and_not(store: &Store) -> CommitLogOffset {
    for body in [b"1", b"2", b"3"] {
        assert!(comes_acknowledged(&submit(store, "orders", body, Wait::By(AT_ONCE))));
    }
    store.confirm(store.marks().appended);
    let end = store.marks().appended;
    for body in [b"4", b"5", b"6"] {
        assert!(comes_acknowledged(&submit(store, "orders", body, Wait::By(AT_ONCE))));
    }
    assert!(!is_acknowledged(&submit(store, "payments", b"7", Wait::Durable)));
    store.begin_epoch(2).expect("noted");
    assert!(comes_acknowledged(&submit(store, "orders", b"8", Wait::By(AT_ONCE))));
    end
}

#[test]
fn what_is_cut_of_the_acknowledged_is_counted_to_the_message() {
    for (kept, lost) in [(0, 4), (2, 2)] {
        let world = World::new(1, replicated(lazy()));
        let store = leading(&world);
        let confirmed = acknowledged_and_not(&store);
        let one = store.range(confirmed, 1).expect("readable").len() as u64;
        // As a broker does that is not master any more: what it had is closed, and the next one says where its log ends.
        store.abandon();
        drop(store);
        let store = world.open();
        assert_eq!(store.lost(), Lost::default());
        store.order_cut(confirmed.plus(kept * one)).expect("ordered");
        store.abandon();
        drop(store);
        let store = world.open();
        assert_eq!(store.lost(), Lost { messages: lost, bytes: lost * one, at_most: false });
        store.abandon();
        drop(store);
        assert_eq!(world.open().lost(), Lost::default(), "counted once");
    }
}

#[test]
fn after_the_end_of_its_process_everything_that_it_may_have_acknowledged_counts() {
    for power in [false, true] {
        let mut world = World::new(1, replicated(if power { FlushMode::Sync } else { lazy() }));
        let store = leading(&world);
        let confirmed = acknowledged_and_not(&store);
        store.flush().expect("flushed");
        drop(store);
        if power {
            world.power_cut(1);
        } else {
            world.kill();
        }
        let store = world.open();
        store.order_cut(confirmed).expect("ordered");
        drop(store);
        let Lost { messages, bytes, at_most } = world.open().lost();
        // Also the one that had no answer.
        assert!(messages == 5 && bytes > 0 && at_most, "{messages} {bytes} {at_most}");
    }
}

#[test]
fn what_another_master_writes_behind_is_never_counted() {
    let mut world = World::new(1, replicated(lazy()));
    let store = leading(&world);
    acknowledged_and_not(&store);
    drop(store);
    world.kill();
    let store = world.open();
    let end = store.marks().appended;
    // It follows now, and all that it had is in the other one's log.
    for body in [b"9", b"a"] {
        append(&store, "orders", 0, body, "", Wait::Appended).expect("appended");
    }
    store.order_cut(end).expect("ordered");
    drop(store);
    assert_eq!(world.open().lost().messages, 0);
}

#[test]
fn a_log_that_acknowledges_nothing_unconfirmed_counts_nothing() {
    let world = World::new(1, replicated(lazy()));
    let store = leading(&world);
    for body in [b"1", b"2"] {
        submit(&store, "orders", body, Wait::Durable);
    }
    store.order_cut(CommitLogOffset(0)).expect("ordered");
    drop(store);
    let store = world.open();
    assert_eq!((store.marks().appended.0, store.lost()), (0, Lost::default()));
}

#[test]
fn when_it_cannot_be_noted_nothing_is_acknowledged_unconfirmed() {
    let world = World::new(1, replicated(lazy()));
    let store = leading(&world);
    world.disk.inject(Fault::once(Op::Rename, FaultKind::Eio).on("unconfirmed").forever());
    let answer = submit(&store, "orders", b"1", Wait::By(AT_ONCE));
    assert!(answer.try_recv().is_err());
    world.disk.heal();
    until("noted and acknowledged", || is_acknowledged(&answer));
}

#[test]
fn in_a_log_that_is_flushed_later_a_topic_that_is_flushed_first_is_acknowledged_and_shown_flushed() {
    let world = World::new(1, never_flushing());
    let store = world.open();
    queue(&store, "payments", 0).show_flushed_only(true);
    let careless = append(&store, "orders", 0, b"1", "", Wait::Durable).expect("appended");
    assert_eq!((read_all(&store, "orders", 0).len(), store.marks().flushed.0), (1, 0));
    // Without waiting it is hidden all the same.
    let early = append(&store, "payments", 0, b"2", "KEYS\u{1}k1\u{2}", Wait::Appended).expect("appended");
    assert!(read_all(&store, "payments", 0).is_empty(), "shown unflushed");
    assert_eq!(store.record_at(early.log_offset), Err(ReadError::NotFound(early.log_offset)));
    assert_eq!(store.query("payments", "k1", 10, 0, i64::MAX), Ok(Vec::new()));
    assert!(store.record_at(careless.log_offset).is_ok());
    let careful = append(&store, "payments", 0, b"3", "", Wait::By(FLUSHED)).expect("flushed");
    assert!(store.marks().flushed > careful.log_offset);
    assert_eq!(read_all(&store, "payments", 0), [b"2", b"3"]);
    assert!(store.record_at(early.log_offset).is_ok());
}

#[test]
fn what_was_flushed_first_survives_power_cuts_beside_what_was_not() {
    for seed in 0..40 {
        let mut world = World::new(seed, never_flushing());
        let store = world.open();
        queue(&store, "payments", 0).show_flushed_only(true);
        for i in 0..6_u8 {
            append(&store, "orders", 0, &[i; 700], "", Wait::Durable).expect("appended");
            append(&store, "payments", 0, &[i; 700], "", Wait::By(FLUSHED)).expect("flushed");
        }
        append(&store, "orders", 0, b"last", "", Wait::Durable).expect("appended");
        append(&store, "payments", 0, b"last", "", Wait::Appended).expect("appended");
        let shown = read_all(&store, "payments", 0);
        assert_eq!(shown.len(), 6);
        drop(store);
        world.power_cut(seed);
        let store = world.open();
        let found = read_all(&store, "payments", 0);
        assert!(found.starts_with(&shown), "seed {seed}: {} of {}", found.len(), shown.len());
    }
}

#[test]
fn a_flush_that_fails_acknowledges_nobody_who_waits_for_it() {
    let world = World::new(1, never_flushing());
    let store = world.open();
    queue(&store, "payments", 0).show_flushed_only(true);
    world.disk.inject(Fault::once(Op::Sync, FaultKind::Eio).on("commitlog/0"));
    let answer = append(&store, "payments", 0, b"1", "", Wait::By(FLUSHED));
    assert!(matches!(answer, Err(AppendError::Poisoned(_))), "{answer:?}");
    assert!(read_all(&store, "payments", 0).is_empty());
}
