use crate::bench::{Bench, group, message, topic};
use sluice_delivery::{ConnectionId, OffsetError, Subscription, SubscriptionGroupConfig};
use sluice_types::{QueueId, QueueOffset};
use std::{sync::mpsc, time::Duration};

#[test]
fn members_are_told_of_each_others_coming_and_going() {
    let bench = Bench::new();
    let wants = || vec![Subscription::all(topic("orders"))];
    bench.heartbeat("readers", "c1", 1, wants());
    bench.heartbeat("readers", "c2", 2, wants());
    assert_eq!(bench.delivery.clients().consumer_ids("readers"), Some(vec!["c1".into(), "c2".into()]));
    assert_eq!(bench.push.notified.lock().last(), Some(&(group("readers"), vec![ConnectionId(1), ConnectionId(2)])));
    let before = bench.push.notified.lock().len();
    bench.heartbeat("readers", "c2", 2, wants());
    assert_eq!(bench.push.notified.lock().len(), before, "nothing changed");
    bench.delivery.connection_closed(ConnectionId(1));
    assert_eq!(bench.push.notified.lock().last(), Some(&(group("readers"), vec![ConnectionId(2)])));
    bench.delivery.unregister("c2", None, Some(&group("readers")));
    assert_eq!(bench.delivery.clients().consumer_ids("readers"), None);
    assert!(bench.delivery.topics().get("%RETRY%readers").is_some());
}

#[test]
fn a_silent_client_is_dropped() {
    let bench = Bench::new();
    bench.heartbeat("readers", "c1", 1, vec![Subscription::all(topic("orders"))]);
    bench.clock.advance(Duration::from_secs(121));
    bench.until("the client is gone", || bench.delivery.clients().consumer_ids("readers").is_none());
}

#[test]
fn a_queue_lock_has_one_holder_until_it_is_given_back_or_runs_out() {
    let bench = Bench::new();
    let (readers, queue) = (group("readers"), (topic("orders"), QueueId(0)));
    let lock = |client: &str| bench.delivery.locks().lock(&readers, client, std::slice::from_ref(&queue)).len();
    assert_eq!((lock("a"), lock("b"), lock("a")), (1, 0, 1));
    bench.delivery.locks().unlock(&readers, "b", std::slice::from_ref(&queue));
    assert_eq!(lock("b"), 0, "somebody else's lock is not given back");
    bench.delivery.unregister("a", None, Some(&readers));
    assert_eq!(lock("b"), 1);
    bench.clock.advance(Duration::from_secs(61));
    assert_eq!(lock("a"), 1);
}

#[test]
fn committed_offsets_are_there_after_a_restart() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    let (readers, orders) = (group("readers"), topic("orders"));
    bench.delivery.commit_offset(&readers, &orders, 0, 1).expect("taken");
    bench.delivery.commit_offset(&group("gone"), &orders, 0, 1).expect("taken");
    bench.delivery.offsets().remove_group(&group("gone"));
    let bench = bench.restart();
    assert_eq!(bench.delivery.query_offset(&readers, &orders, 0, true), Ok(QueueOffset(1)));
    assert_eq!(bench.delivery.offsets().groups(), [readers]);
}

#[test]
fn offsets_reach_the_log_by_themselves() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    bench.clock.advance(Duration::from_millis(500));
    bench.until("the offset is in the log", || !bench.store.meta(sluice_store::MetaTable::Offsets).is_empty());
}

#[test]
fn a_new_group_starts_at_zero_only_where_the_whole_queue_is_recent() {
    let bench = Bench::with(|options| options.recent_bytes = 1_000);
    let (readers, orders) = (group("readers"), topic("orders"));
    bench.send(message("orders", "one")).expect("stored");
    let query = |queue, zero| bench.delivery.query_offset(&readers, &orders, queue, zero);
    assert_eq!(query(0, true), Ok(QueueOffset(0)));
    let not_found = |queue| Err(OffsetError::NotFound(readers.clone(), orders.clone(), queue));
    assert_eq!((query(0, false), query(1, true)), (not_found(0), not_found(1)));
    bench.send(message("orders", &"x".repeat(2_000))).expect("stored");
    assert_eq!(query(0, true), not_found(0));
}

#[test]
fn a_groups_settings_are_there_after_a_restart() {
    let bench = Bench::new();
    let (sender, receiver) = mpsc::channel();
    let config = SubscriptionGroupConfig { retry_max_times: 3, ..SubscriptionGroupConfig::new(group("readers")) };
    bench.delivery.groups().put(config.clone(), Box::new(move |result| sender.send(result).expect("waits")));
    receiver.recv().expect("answered").expect("stored");
    let bench = bench.restart();
    assert_eq!(bench.delivery.groups().get("readers").as_deref(), Some(&config));
}

#[test]
fn lag_is_what_lies_between_the_commit_and_the_end() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    bench.send(message("orders", "two")).expect("stored");
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    bench.clock.advance(Duration::from_secs(7));
    let rows = bench.delivery.lag();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].lag, rows[0].oldest_age_ms.is_some_and(|age| age >= 7_000)), (1, true));
}
