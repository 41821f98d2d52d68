//! What messages of a topic wait for, by its attributes and by the broker's own rule.

use crate::{
    bench::{Bench, group, message, pull_of, topic},
    transactions::{half, visible},
};
use sluice_delivery::{
    PullStatus, SendError, SendReceipt, SendRequest, TopicConfig, TopicError, Verdict,
    durability::{FLUSH, REPLICATION},
};
use sluice_env::{Monotonic, sim};
use sluice_store::{FlushMode, Late, StoreOptions};
use sluice_types::CommitLogOffset;
use std::{sync::mpsc, time::Duration};

type Answer = mpsc::Receiver<Result<SendReceipt, SendError>>;

/// A broker whose log is flushed only when somebody waits for it.
fn lazy() -> StoreOptions {
    StoreOptions { segment_bytes: 1 << 20, flush: FlushMode::Async { interval: Duration::from_secs(3600) }, ..StoreOptions::default() }
}

fn open(store: StoreOptions) -> Bench {
    let (_, disk, clock) = sim::env(7);
    Bench::open_with(disk, clock, store, |_| ())
}

/// A master of a group whose replicas confirm nothing by themselves.
fn master(flush: FlushMode, confirm: bool) -> Bench {
    let (_, disk, clock) = sim::env(7);
    let bench = Bench::open_with(disk, clock, StoreOptions { flush, replicated: true, ..lazy() }, |options| options.confirm = confirm);
    bench.store.lead_until(Monotonic(Duration::MAX));
    bench
}

fn put(bench: &Bench, name: &str, attributes: &[(&str, &str)]) -> Result<(), TopicError> {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (sender, receiver) = mpsc::channel();
    bench.delivery.topics().put(TopicConfig { attributes, ..TopicConfig::new(topic(name), 4) }, Box::new(move |result| drop(sender.send(result))));
    let mut answer = None;
    bench.until("an answer", || {
        confirm(bench);
        answer = receiver.try_recv().ok();
        answer.is_some()
    });
    answer.expect("there is one")
}

fn confirm(bench: &Bench) {
    if bench.store.is_replicated() {
        bench.store.flush().expect("flushed");
        bench.store.confirm(bench.store.marks().appended);
    }
}

fn send(bench: &Bench, request: SendRequest<'_>) -> Answer {
    let (sender, receiver) = mpsc::channel();
    bench.delivery.send(request, Box::new(move |result| drop(sender.send(result))));
    receiver
}

fn is_acknowledged(answer: &Answer) -> bool {
    matches!(answer.try_recv(), Ok(Ok(_)))
}

fn shown(bench: &Bench, name: &str) -> Vec<String> {
    bench.contents(name, 0).into_iter().map(|(body, _)| body).collect()
}

#[test]
fn a_topic_that_is_flushed_first_is_acknowledged_and_shown_flushed_by_a_broker_that_flushes_later() {
    let bench = open(lazy());
    put(&bench, "payments", &[(FLUSH, "sync")]).expect("made");
    bench.send(message("logs", "1")).expect("stored");
    assert_eq!((shown(&bench, "logs"), bench.store.marks().flushed), (vec!["1".to_owned()], CommitLogOffset(0)));
    let careful = bench.send(message("payments", "2")).expect("stored");
    assert!(bench.store.marks().flushed > careful.placed[0].log_offset);
    let early = bench.send(SendRequest { properties: "WAIT\u{1}false\u{2}", ..message("payments", "3") }).expect("stored");
    assert!(bench.store.marks().flushed <= early.placed[0].log_offset);
    assert_eq!(shown(&bench, "payments"), ["2"], "shown unflushed");
    // What a topic's messages wait for may change.
    put(&bench, "payments", &[]).expect("changed");
    bench.send(message("payments", "4")).expect("stored");
    assert_eq!(shown(&bench, "payments"), ["2", "3", "4"]);
    put(&bench, "payments", &[(FLUSH, "sync")]).expect("changed");
    bench.send(SendRequest { properties: "WAIT\u{1}false\u{2}", ..message("payments", "5") }).expect("stored");
    assert_eq!(shown(&bench, "payments").len(), 3);
}

#[test]
fn what_has_waited_elsewhere_is_shown_flushed_in_a_topic_that_is_flushed_first() {
    let bench = open(lazy());
    put(&bench, "orders", &[(FLUSH, "sync")]).expect("made");
    let bench = bench.restart_over(lazy());
    let begun = bench.send(half("1")).expect("stored");
    assert!(bench.store.marks().flushed > begun.placed[0].log_offset);
    let end = bench.store.marks().appended;
    bench.end(&begun, Verdict::Commit).expect("ended");
    assert!(visible(&bench) == ["1"] && bench.store.marks().flushed > end, "shown unflushed");
    bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", queue_id: 2, ..message("orders", "2") }).expect("stored");
    let end = bench.store.marks().appended;
    bench.clock.advance(Duration::from_secs(2));
    bench.until("the delayed one", || visible(&bench).len() == 2);
    assert!(bench.store.marks().flushed > end, "shown unflushed");
}

#[test]
fn a_topic_that_is_flushed_later_does_not_wait_for_the_disk_of_a_broker_that_flushes_first() {
    let bench = open(StoreOptions { flush: FlushMode::Sync, ..lazy() });
    put(&bench, "logs", &[(FLUSH, "async")]).expect("made");
    // Somebody flushes soon all the same.
    let is_flushed = |name| bench.send(message(name, "1")).is_ok_and(|receipt| bench.store.marks().flushed > receipt.placed[0].log_offset);
    assert!((0..50).any(|_| !is_flushed("logs")));
    assert!((0..50).all(|_| is_flushed("orders")));
}

#[test]
fn each_topic_of_a_group_waits_for_the_other_brokers_or_not_as_it_says() {
    for by_default in [true, false] {
        let bench = master(FlushMode::Sync, by_default);
        put(&bench, "logs", &[(REPLICATION, "async")]).expect("made");
        put(&bench, "payments", &[(REPLICATION, "sync")]).expect("made");
        put(&bench, "orders", &[]).expect("made");
        let answers = ["logs", "orders", "payments"].map(|name| send(&bench, message(name, "1")));
        assert_eq!([&answers[0], &answers[1], &answers[2]].map(is_acknowledged), [true, !by_default, false]);
        for name in ["logs", "orders", "payments"] {
            assert!(shown(&bench, name).is_empty(), "shown unconfirmed");
        }
        confirm(&bench);
        assert!(is_acknowledged(&answers[2]));
        assert_eq!(shown(&bench, "logs"), ["1"]);
    }
}

/// A replica is told what is confirmed before its master shows it, and may have given it already to a consumer that goes on here. It was sent back, and read it again.
#[test]
fn what_is_stored_and_not_shown_yet_is_waited_for_and_not_read_again() {
    let bench = master(FlushMode::Sync, true);
    put(&bench, "orders", &[]).expect("made");
    for (shown, end) in [(0, 1), (1, 2)] {
        let sent = send(&bench, message("orders", "1"));
        let (ahead, beyond) = (bench.pull(pull_of("orders", end)).expect("answered"), bench.pull(pull_of("orders", end + 1)).expect("answered"));
        assert_eq!((ahead.status, ahead.next.0), (PullStatus::NoNewMessage, end as u64));
        assert_eq!((beyond.status, beyond.next.0), (PullStatus::OffsetMoved, shown));
        confirm(&bench);
        assert!(is_acknowledged(&sent));
    }
}

#[test]
fn half_messages_and_consumers_messages_wait_for_the_other_brokers_whatever_the_topic_says() {
    let bench = master(FlushMode::Sync, false);
    put(&bench, "orders", &[(REPLICATION, "async")]).expect("made");
    let begun = send(&bench, half("1"));
    assert!(begun.try_recv().is_err());
    let stored = send(&bench, message("orders", "2")).recv().expect("answered").expect("acknowledged");
    confirm(&bench);
    assert!(is_acknowledged(&begun));
    let (sender, back) = mpsc::channel();
    let request = sluice_delivery::SendBackRequest {
        group: group("readers"),
        offset: stored.placed[0].log_offset.to_wire(),
        delay_level: 0,
        max_reconsume_times: None,
        unit_mode: false,
    };
    bench.delivery.send_back(request, Box::new(move |result| drop(sender.send(result))));
    assert!(back.try_recv().is_err());
    confirm(&bench);
    back.recv_timeout(Duration::from_secs(20)).expect("answered").expect("taken back");
}

#[test]
fn who_does_not_want_to_wait_is_answered_early_only_as_long_as_the_broker_leads() {
    let bench = master(FlushMode::Sync, true);
    put(&bench, "orders", &[]).expect("made");
    let early = || send(&bench, SendRequest { properties: "WAIT\u{1}false\u{2}", ..message("orders", "1") });
    assert!(is_acknowledged(&early()));
    bench.store.lead_until(Monotonic(Duration::ZERO));
    let waits = early();
    assert!(waits.try_recv().is_err());
    bench.clock.advance(Duration::from_secs(6));
    let late = waits.recv_timeout(Duration::from_secs(20)).expect("answered");
    assert!(matches!(late, Err(SendError::Late(Late::Confirmation, _))), "{late:?}");
}

#[test]
fn a_durability_that_the_group_does_not_have_is_refused_and_one_that_it_has_not_any_more_takes_no_messages() {
    let group = master(lazy().flush, true);
    let refused = put(&group, "payments", &[(FLUSH, "sync")]).expect_err("its brokers flush later");
    assert!(refused.to_string().contains("Set storage.flush to sync"), "{refused}");
    assert!(group.delivery.topics().get("payments").is_none());
    let alone = open(lazy());
    put(&alone, "payments", &[(FLUSH, "sync")]).expect("made");
    alone.send(message("payments", "1")).expect("stored");
    // The same data directory as a member of a group.
    let group = alone.restart_over(StoreOptions { replicated: true, ..lazy() });
    let refused = send(&group, message("payments", "2")).recv().expect("answered");
    assert!(matches!(refused, Err(SendError::Topic(TopicError::Durability { .. }))), "{refused:?}");
    assert_eq!(shown(&group, "payments"), ["1"], "what is there is there");
}
