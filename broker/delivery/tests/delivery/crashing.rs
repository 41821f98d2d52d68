use crate::bench::{Bench, group, message, topic};
use sluice_delivery::{SendError, SendRequest, TopicChange, TopicConfig, TopicError};
use sluice_env::sim::{self, Fault, FaultKind, Op};
use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc},
    time::Duration,
};

fn sync_bench() -> Bench {
    let (_, disk, clock) = sim::env(11);
    Bench::open_sync(disk, clock)
}

#[test]
fn a_power_cut_takes_no_acknowledged_message_no_topic_and_no_delay() {
    for seed in 0..8 {
        let bench = sync_bench();
        for i in 0..20 {
            let name = format!("topic-{}", i % 4);
            bench.send(message(&name, &i.to_string())).expect("stored");
            bench.send(SendRequest { properties: "DELAY\u{1}1\u{2}", ..message("waiting", &i.to_string()) }).expect("stored");
        }
        let crashed = Bench::open_sync(bench.disk.crash(seed), bench.clock.clone());
        let kept: usize = (0..4).map(|i| crashed.contents(&format!("topic-{i}"), 0).len()).sum();
        assert_eq!(kept, 20, "seed {seed}");
        crashed.clock.advance(Duration::from_secs(1));
        crashed.until("all delayed messages", || crashed.delivery.bounds(&topic("waiting"), 0).is_ok_and(|b| b.max.0 >= 20));
        let bodies: BTreeSet<String> = crashed.contents("waiting", 0).into_iter().map(|(body, _)| body).collect();
        assert_eq!(bodies.len(), 20, "seed {seed}");
        bench.delivery.close();
        crashed.delivery.close();
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_no_topic_is_promised() {
    let bench = sync_bench();
    bench.send(message("orders", "one")).expect("stored");
    bench.disk.inject(Fault::once(Op::Sync, FaultKind::Eio).forever());
    let refused = bench.send(message("other", "two"));
    assert!(matches!(refused, Err(SendError::Store(_) | SendError::Topic(TopicError::Store { .. }))), "{refused:?}");
    bench.until("the topic is taken back", || bench.delivery.topics().get("other").is_none());
    let (sender, receiver) = mpsc::channel();
    bench.delivery.topics().put(TopicConfig::new(topic("third"), 1), Box::new(move |result| sender.send(result).expect("waits")));
    assert!(matches!(receiver.recv().expect("answered"), Err(TopicError::Store { .. })));
    assert!(bench.delivery.topics().get("third").is_none());
}

#[test]
fn whoever_listens_hears_of_a_topic_before_its_maker_does() {
    let bench = Bench::new();
    let (heard, hears) = mpsc::channel();
    bench.delivery.topics().set_listener(Arc::new(move |change, version| heard.send((change.clone(), version.counter)).expect("waits")));
    bench.send(message("orders", "one")).expect("stored");
    let (change, version) = hears.try_recv().expect("heard before the answer");
    assert!(matches!(change, TopicChange::Put(config) if config.name == topic("orders")));
    assert_eq!(version, bench.delivery.topics().version().counter);
}

/// apache/rocketmq#3503 and #5408: groups began at 0 again after a restart.
#[test]
fn a_committed_offset_that_reached_the_log_is_not_lowered_by_a_power_cut() {
    for seed in 0..8 {
        let bench = sync_bench();
        for i in 0..9 {
            bench.send(message("orders", &i.to_string())).expect("stored");
        }
        let (readers, orders) = (group("readers"), topic("orders"));
        bench.delivery.commit_offset(&readers, &orders, 0, 5).expect("taken");
        let (flushed, waits) = mpsc::channel();
        bench.delivery.offsets().flush(Box::new(move |result| flushed.send(result).expect("waits")));
        waits.recv().expect("answered").expect("written");
        bench.delivery.commit_offset(&readers, &orders, 0, 9).expect("taken");
        let crashed = Bench::open_sync(bench.disk.crash(seed), bench.clock.clone());
        let found = crashed.ask(0, true, 1).map(|offset| offset.0);
        assert!(matches!(found, Ok(5 | 9)), "seed {seed}: {found:?}");
        bench.delivery.close();
        crashed.delivery.close();
    }
}
