use crate::bench::{Bench, PATIENCE, group, message, pull_of};
use sluice_delivery::{PullRequest, PullStatus, SendBackRequest, SendRequest};
use sluice_protocol::properties;
use sluice_types::CommitLogOffset;
use std::{sync::mpsc, time::Duration};

fn give_back(bench: &Bench, offset: CommitLogOffset, delay_level: i32, max: Option<i32>) {
    let (sender, receiver) = mpsc::channel();
    let request = SendBackRequest { group: group("readers"), offset: offset.to_wire(), delay_level, max_reconsume_times: max, unit_mode: false };
    bench.delivery.send_back(request, Box::new(move |result| sender.send(result).expect("waits")));
    receiver.recv_timeout(PATIENCE).expect("answered").expect("taken back");
}

#[test]
fn a_delayed_message_comes_at_its_time_and_not_before() {
    let bench = Bench::new();
    bench.send(message("orders", "now")).expect("stored");
    let receipt = bench.send(SendRequest { queue_id: 1, properties: "DELAY\u{1}3\u{2}k\u{1}v\u{2}", ..message("orders", "later") }).expect("stored");
    assert_eq!(receipt.queue_id, 1);
    let waiting = bench.pull_later(PullRequest { queue_id: 1, suspend: Some(Duration::from_secs(25)), ..pull_of("orders", 0) });
    bench.clock.advance(Duration::from_millis(9_999));
    assert!(waiting.recv_timeout(Duration::from_millis(600)).is_err(), "early");
    bench.clock.advance(Duration::from_millis(1));
    let found = waiting.recv_timeout(PATIENCE).expect("woken").expect("found");
    let (body, own) = crate::bench::messages(&found.slices).remove(0);
    assert_eq!((body.as_str(), properties::get(&own, "DELAY"), properties::get(&own, "k")), ("later", None, Some("v")));
}

#[test]
fn what_was_due_during_a_stop_comes_once_after_it() {
    let bench = Bench::new();
    for i in 0..5 {
        bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", ..message("orders", &i.to_string()) }).expect("stored");
    }
    let bench = bench.restart();
    bench.clock.advance(Duration::from_secs(60));
    bench.until("five messages", || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|b| b.max.0 == 5));
    let bench = bench.restart();
    std::thread::sleep(Duration::from_millis(400));
    let bodies: Vec<String> = bench.contents("orders", 0).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
}

#[test]
fn a_level_above_the_last_counts_as_the_last() {
    let bench = Bench::with(|options| options.delay_levels = vec![Duration::from_secs(1), Duration::from_secs(2)]);
    bench.send(SendRequest { properties: "DELAY\u{1}99\u{2}", ..message("orders", "x") }).expect("stored");
    bench.clock.advance(Duration::from_secs(2));
    bench.until("the message", || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|b| b.max.0 == 1));
}

#[test]
fn a_message_given_back_returns_after_the_level_of_its_attempt() {
    let bench = Bench::new();
    let first = bench.send(SendRequest { properties: "KEYS\u{1}k\u{2}", ..message("orders", "hard") }).expect("stored");
    give_back(&bench, first.placed[0].log_offset, 0, None);
    bench.clock.advance(Duration::from_secs(10));
    let request = || PullRequest { suspend: Some(Duration::from_secs(20)), ..pull_of("%RETRY%readers", 0) };
    let found = bench.pull(request()).expect("answered");
    assert_eq!(found.status, PullStatus::Found);
    let record = sluice_protocol::record::RecordView::checked(&found.slices[0]).expect("whole");
    let own = record.user_properties();
    assert_eq!((record.reconsume_times(), record.body()), (1, &b"hard"[..]));
    assert_eq!(properties::get(own, "RETRY_TOPIC"), Some("orders"));
    assert_eq!(properties::get(own, "ORIGIN_MESSAGE_ID"), Some(first.message_ids.as_str()));
    assert_eq!(properties::get(own, "KEYS"), Some("k"));
}

#[test]
fn a_message_given_up_lies_among_the_dead_letters() {
    let bench = Bench::new();
    let first = bench.send(message("orders", "bad")).expect("stored");
    give_back(&bench, first.placed[0].log_offset, -1, None);
    give_back(&bench, first.placed[0].log_offset, 0, Some(0));
    let dead = bench.contents("%DLQ%readers", 0);
    assert_eq!(dead.len(), 2);
    assert_eq!(properties::get(&dead[0].1, "DELAY"), None);
}

#[test]
fn giving_back_what_is_not_there_is_an_error() {
    let bench = Bench::new();
    let (sender, receiver) = mpsc::channel();
    let request = SendBackRequest { group: group("readers"), offset: 1 << 40, delay_level: 0, max_reconsume_times: None, unit_mode: false };
    bench.delivery.send_back(request, Box::new(move |result| sender.send(result).expect("waits")));
    assert!(receiver.recv_timeout(PATIENCE).expect("answered").is_err());
}

#[test]
fn a_calendar_clock_put_back_neither_hurries_nor_loses_a_delay() {
    let bench = Bench::new();
    bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", ..message("orders", "x") }).expect("stored");
    let there = || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|b| b.max.0 == 1);
    std::thread::sleep(Duration::from_millis(600));
    bench.clock.jump_wall(-3_600_000);
    std::thread::sleep(Duration::from_millis(600));
    assert!(!there(), "early");
    bench.clock.advance(Duration::from_secs(1));
    bench.until("the message", there);
}

#[test]
fn messages_that_wait_when_the_calendar_clock_is_put_back_come_together_and_not_one_after_the_other() {
    let bench = Bench::new();
    for body in ["a", "b", "c"] {
        bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", ..message("orders", body) }).expect("stored");
    }
    bench.clock.jump_wall(-3_600_000);
    // The service has seen that the first one is to wait.
    std::thread::sleep(Duration::from_millis(600));
    bench.clock.advance(Duration::from_secs(1));
    bench.until("all of them", || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|bounds| bounds.max.0 == 3));
}

#[test]
fn many_delayed_messages_keep_their_order_and_come_once_each() {
    let bench = Bench::new();
    for i in 0..1_500 {
        bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", ..message("orders", &i.to_string()) }).expect("stored");
    }
    bench.clock.advance(Duration::from_secs(1));
    bench.until("all of them", || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|b| b.max.0 == 1_500));
    let (mut bodies, mut next) = (Vec::new(), 0);
    while next < 1_500 {
        let found = bench.pull(PullRequest { max_messages: 1_000, ..pull_of("orders", next) }).expect("answered");
        bodies.extend(crate::bench::messages(&found.slices).into_iter().map(|(body, _)| body));
        next = found.next.to_wire();
    }
    assert_eq!(bodies, (0..1_500).map(|i: i32| i.to_string()).collect::<Vec<_>>());
}

/// A record that rots is lost, but nothing around it.
#[test]
fn a_damaged_delayed_message_costs_no_other() {
    let bench = Bench::new();
    let send = |i: u32| bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", ..message("orders", &i.to_string()) }).expect("stored");
    let placed: Vec<_> = (0..10).map(|i| send(i).placed[0].log_offset.0).collect();
    bench.disk.flip_byte("commitlog/00000000000000000000", placed[6] + 90, 4);
    bench.clock.advance(Duration::from_secs(1));
    bench.until("nine messages", || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|b| b.max.0 >= 9));
    let bodies: Vec<String> = bench.contents("orders", 0).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5", "7", "8", "9"]);
}

/// apache/rocketmq#7923: delayed messages whose delivery failed four times were given up.
#[test]
fn delayed_messages_that_the_store_refuses_again_and_again_come_when_it_takes_them() {
    let bench = Bench::new();
    for i in 0..5 {
        bench.send(SendRequest { properties: "DELAY\u{1}2\u{2}", ..message("orders", &i.to_string()) }).expect("stored");
    }
    let (free, total) = sluice_env::Disk::space(&bench.disk).expect("known");
    bench.disk.set_capacity(Some(total - free));
    // Long before they are due, after five seconds.
    bench.clock.advance(Duration::from_secs(2));
    bench.until("the broker notices", || bench.store.status().writable.is_err());
    bench.clock.advance(Duration::from_secs(60));
    bench.until("more than four refusals", || bench.delivery.counters().delay_retries.load(std::sync::atomic::Ordering::Relaxed) > 4);
    assert_eq!(bench.delivery.bounds(&crate::bench::topic("orders"), 0).map(|b| b.max.0), Ok(0));
    bench.disk.set_capacity(None);
    bench.clock.advance(Duration::from_secs(5));
    bench.until("five messages", || bench.delivery.bounds(&crate::bench::topic("orders"), 0).is_ok_and(|b| b.max.0 >= 5));
    std::thread::sleep(Duration::from_millis(600));
    let bodies: Vec<String> = bench.contents("orders", 0).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
}
