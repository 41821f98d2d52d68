use crate::bench::{Bench, PATIENCE, group, message, messages, pull_of, topic};
use sluice_delivery::{ConnectionId, PullError, PullRequest, PullStatus, SendRequest, Subscription};
use std::time::Duration;

const HOLD: Option<Duration> = Some(Duration::from_secs(15));

#[test]
fn a_held_pull_is_answered_by_the_message_it_waited_for() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 1) });
    assert_eq!(bench.delivery.held_pulls(), 1);
    bench.send(message("orders", "two")).expect("stored");
    let found = waiting.recv_timeout(PATIENCE).expect("woken").expect("found");
    assert_eq!((found.status, found.next.0), (PullStatus::Found, 2));
    assert_eq!(messages(&found.slices)[0].0, "two");
    assert_eq!(bench.delivery.held_pulls(), 0);
}

#[test]
fn a_held_pull_ends_at_its_deadline() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 1) });
    bench.clock.advance(Duration::from_secs(14));
    assert!(waiting.recv_timeout(Duration::from_millis(200)).is_err(), "too early");
    bench.clock.advance(Duration::from_secs(2));
    let nothing = waiting.recv_timeout(PATIENCE).expect("ended").expect("answered");
    assert_eq!((nothing.status, nothing.next.0), (PullStatus::NoNewMessage, 1));
}

#[test]
fn a_held_pull_sleeps_on_through_messages_it_does_not_want() {
    let bench = Bench::new();
    bench.send(SendRequest { properties: "TAGS\u{1}A\u{2}", ..message("orders", "a") }).expect("stored");
    let only_b = Subscription::parse(topic("orders"), "B", "TAG", 1).expect("legal");
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, subscription: Some(only_b.clone()), ..pull_of("orders", 1) });
    bench.send(SendRequest { properties: "TAGS\u{1}A\u{2}", ..message("orders", "a") }).expect("stored");
    assert!(waiting.recv_timeout(Duration::from_millis(200)).is_err(), "woken by the wrong tag");
    bench.send(SendRequest { properties: "TAGS\u{1}B\u{2}", ..message("orders", "b") }).expect("stored");
    let found = waiting.recv_timeout(PATIENCE).expect("woken").expect("found");
    assert_eq!((found.messages, found.next.0), (1, 3));
    let none = bench.pull(PullRequest { suspend: HOLD, subscription: Some(Subscription { codes: vec![1], ..only_b }), ..pull_of("orders", 0) });
    assert_eq!(none.map(|o| (o.status, o.next.0)), Ok((PullStatus::NoMatched, 3)));
}

#[test]
fn no_wakeup_is_lost_between_many_senders_and_many_pulls() {
    let bench = Bench::new();
    bench.send(message("orders", "0")).expect("stored");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut next = 1;
                while next < 301 {
                    let found = bench.pull(PullRequest { suspend: HOLD, ..pull_of("orders", next) }).expect("answered");
                    assert_eq!(found.status, PullStatus::Found);
                    next = found.next.to_wire();
                }
            });
        }
        for i in 0..300 {
            bench.send(message("orders", &i.to_string())).expect("stored");
        }
    });
    assert_eq!(bench.delivery.held_pulls(), 0);
}

#[test]
fn an_offset_outside_the_queue_is_moved_into_it() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    for (offset, next) in [(9, 1), (-1, 0)] {
        let moved = bench.pull(pull_of("orders", offset)).expect("answered");
        assert_eq!((moved.status, moved.next.0), (PullStatus::OffsetMoved, next), "{offset}");
    }
    let empty = bench.pull(PullRequest { queue_id: 1, ..pull_of("orders", 5) }).expect("answered");
    assert_eq!((empty.status, empty.next.0), (PullStatus::OffsetMoved, 0));
}

#[test]
fn held_pulls_are_bounded_and_end_with_their_connection() {
    let bench = Bench::with(|options| options.held_pulls_max = 1);
    bench.send(message("orders", "one")).expect("stored");
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, connection: ConnectionId(5), ..pull_of("orders", 1) });
    let refused = bench.pull(PullRequest { suspend: HOLD, ..pull_of("orders", 1) });
    assert_eq!(refused.map(|_| ()), Err(PullError::PollingFull(1)));
    bench.delivery.connection_closed(ConnectionId(5));
    assert!(waiting.recv_timeout(PATIENCE).is_err(), "an answer to nobody");
    assert_eq!(bench.delivery.held_pulls(), 0);
}

#[test]
fn a_pull_without_its_own_subscription_takes_the_heartbeats() {
    let bench = Bench::new();
    bench.send(SendRequest { properties: "TAGS\u{1}A\u{2}", ..message("orders", "a") }).expect("stored");
    let bare = || PullRequest { subscription: None, subscription_version: 2, ..pull_of("orders", 0) };
    assert_eq!(bench.pull(bare()).map(|_| ()), Err(PullError::NoSubscription(group("readers"), topic("orders"))));
    bench.heartbeat("readers", "c1", 1, vec![Subscription::parse(topic("orders"), "A", "TAG", 1).expect("legal")]);
    assert!(matches!(bench.pull(bare()), Err(PullError::SubscriptionOutdated { have: 1, want: 2, .. })));
    bench.heartbeat("readers", "c1", 1, vec![Subscription::parse(topic("orders"), "A", "TAG", 2).expect("legal")]);
    assert_eq!(bench.pull(bare()).map(|o| o.messages), Ok(1));
}

#[test]
fn stopping_answers_what_is_held() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 1) });
    bench.delivery.close();
    assert_eq!(waiting.recv_timeout(PATIENCE).expect("answered").map(|o| o.status), Ok(PullStatus::NoNewMessage));
}
