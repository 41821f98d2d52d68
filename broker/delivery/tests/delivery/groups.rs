use crate::bench::{Bench, group, message, pull_of, topic};
use sluice_delivery::{ConnectionId, ConsumeFromWhere, OffsetError, SendRequest, Subscription, SubscriptionGroupConfig, TopicConfig};
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
fn committed_offsets_are_there_after_a_restart() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    let (readers, orders) = (group("readers"), topic("orders"));
    bench.delivery.commit_offset(&readers, &orders, 0, 1).expect("taken");
    bench.delivery.commit_offset(&group("gone"), &orders, 0, 1).expect("taken");
    bench.delivery.offsets().remove_group(&group("gone"));
    let bench = bench.restart();
    assert_eq!(bench.ask(0, true, 1), Ok(QueueOffset(1)));
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
    let query = |queue, zero| bench.ask(queue, zero, 1);
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
    bench.flush_offsets();
    let rows = bench.delivery.lag().rows;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].lag, rows[0].oldest_age_ms.is_some_and(|age| age >= 7_000)), (1, true));
}

fn lag_of(bench: &Bench, group_name: &str, topic_name: &str) -> Option<u64> {
    bench.delivery.lag().rows.into_iter().find(|row| row.group.as_str() == group_name && row.topic.as_str() == topic_name).map(|row| row.lag)
}

#[test]
fn a_member_that_has_never_committed_has_a_lag() {
    // Nothing counts as recent: the broker tells nobody to begin at 0.
    let bench = Bench::with(|options| options.recent_bytes = 0);
    bench.send(message("orders", "before")).expect("stored");
    bench.clock.advance(Duration::from_secs(60));
    let wants = || vec![Subscription::all(topic("orders"))];
    bench.heartbeat("from-the-end", "c1", 1, wants());
    assert_eq!(lag_of(&bench, "from-the-end", "orders"), Some(0), "it begins behind what was there before");
    bench.clock.advance(Duration::from_secs(1));
    bench.send(message("orders", "after")).expect("stored");
    assert_eq!(lag_of(&bench, "from-the-end", "orders"), Some(1));
    bench.heartbeat_from("from-a-time", ConsumeFromWhere::Timestamp, wants());
    assert_eq!(lag_of(&bench, "from-a-time", "orders"), Some(2), "clients begin 30 minutes back");
    bench.heartbeat_from("from-the-begin", ConsumeFromWhere::FirstOffset, wants());
    bench.clock.advance(Duration::from_secs(10));
    let rows = bench.delivery.lag().rows;
    let stuck = rows.iter().find(|row| row.group.as_str() == "from-the-begin" && row.topic.as_str() == "orders").expect("listed");
    assert_eq!((stuck.lag, stuck.oldest_age_ms), (2, Some(71_000)));

    bench.delivery.commit_offset(&group("from-the-begin"), &topic("orders"), 0, 2).expect("taken");
    bench.flush_offsets();
    assert_eq!(lag_of(&bench, "from-the-begin", "orders"), Some(0));
    bench.delivery.unregister("c1", None, Some(&group("from-the-end")));
    assert_eq!(lag_of(&bench, "from-the-end", "orders"), None, "nobody waits any more");
}

#[test]
fn a_queue_never_committed_counts_beside_those_that_were() {
    let bench = Bench::new();
    for queue_id in 0..2 {
        bench.send(SendRequest { queue_id, ..message("orders", "one") }).expect("stored");
    }
    bench.heartbeat("readers", "c1", 1, vec![Subscription::all(topic("orders"))]);
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    bench.flush_offsets();
    // Everything in the queue is recent: the broker tells a member without an offset to begin at 0, wherever it is configured to.
    assert_eq!(lag_of(&bench, "readers", "orders"), Some(1));
}

#[test]
fn ages_left_out_of_one_snapshot_come_first_in_the_next() {
    const QUEUES: u32 = 1_000;
    let bench = Bench::new();
    let names = ["a", "b", "c"];
    for name in names {
        bench.delivery.topics().put(TopicConfig::new(topic(name), QUEUES), Box::new(|made| made.expect("stored")));
        for queue_id in 0..QUEUES.cast_signed() {
            bench.send(SendRequest { queue_id, ..message(name, "x") }).expect("stored");
            bench.delivery.offsets().commit(&group("readers"), &topic(name), QueueId(queue_id.cast_unsigned()), QueueOffset(0));
        }
    }
    bench.flush_offsets();
    let mut aged = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let snapshot = bench.delivery.lag();
        assert_eq!(snapshot.rows.iter().map(|row| (row.topic.as_str(), row.lag)).collect::<Vec<_>>(), names.map(|name| (name, u64::from(QUEUES))));
        assert_eq!(snapshot.left_out, 1);
        let with_age: Vec<_> = snapshot.rows.into_iter().filter(|row| row.oldest_age_ms.is_some()).map(|row| row.topic).collect();
        assert_eq!(with_age.len(), 2, "a topic is looked at whole or not at all");
        aged.extend(with_age);
    }
    assert_eq!(aged.len(), 3);
}

#[test]
fn rates_are_of_the_last_minute() {
    let bench = Bench::new();
    for _ in 0..120 {
        bench.send(message("orders", "x")).expect("stored");
    }
    bench.pull(pull_of("orders", 0)).expect("32 messages");
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.delivery.put_rate("orders"), 2.0);
    assert_eq!(bench.delivery.get_rate("readers", "orders"), 32.0 / 60.0);
    assert_eq!((bench.delivery.get_rate("others", "orders"), bench.delivery.put_rate("nothing")), (0.0, 0.0));
    bench.until("what is older than a minute is no rate of now", || {
        bench.clock.advance(Duration::from_secs(10));
        bench.delivery.put_rate("orders") == 0.0 && bench.delivery.get_rate("readers", "orders") == 0.0
    });
    let bench = bench.restart();
    assert_eq!(bench.delivery.put_rate("orders"), 0.0, "what was there at the start has not come since");
    bench.send(message("orders", "x")).expect("stored");
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(bench.delivery.put_rate("orders"), 0.1);
}
