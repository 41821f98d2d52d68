use crate::bench::{Bench, message, topic};
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
