//! Reading from a replica's log.

use crate::bench::*;
use sluice_delivery::{
    ConnectionId, ConsumeFromWhere, ConsumeType, ConsumerHeartbeat, DeliveryOptions, MessageModel, PullOutcome, PullRequest, PullStatus, ReplicaReads,
    Subscription,
};
use sluice_env::sim::{self, SimClock};
use sluice_store::{Store, StoreOptions};
use sluice_types::{CommitLogOffset, QueueOffset};
use std::{sync::Arc, time::Duration};

/// This replica's number.
const ID: i64 = 2;
/// Everything is far behind.
const EVERYTHING: u64 = 0;

/// A master's log, and a replica that has all of it and knows as much of it to be confirmed as it was told.
struct Pair {
    master: Bench,
    store: Arc<Store>,
    reads: ReplicaReads,
    clock: SimClock,
}

impl Pair {
    fn new(messages: &[&str], behind: u64) -> Self {
        let master = Bench::with(|options| options.read_behind_bytes = behind);
        for body in messages {
            master.send(message("orders", body)).expect("stored");
        }
        let (env, _, clock) = sim::env(8);
        let store = Store::open(env.clone(), StoreOptions { segment_bytes: 1 << 20, replicated: true, ..StoreOptions::default() }).expect("opens");
        let options = DeliveryOptions { read_behind_bytes: behind, ..DeliveryOptions::new(host()) };
        let reads = ReplicaReads::new(ID, options, env.clock);
        let pair = Self { master, store, reads, clock };
        pair.catch_up();
        pair
    }

    /// Record by record, for what came at once is shown at once. The group is made by its first pull.
    fn catch_up(&self) {
        drop(self.master.pull(pull_of("orders", 0)));
        loop {
            let from = self.store.marks().appended;
            let range = self.master.store.range(from, 1).expect("whole");
            if range.is_empty() {
                return;
            }
            self.store.follow(from, &range).expect("it continues the log");
        }
    }

    fn confirm_all(&self) {
        self.store.confirm(self.store.marks().appended);
    }

    fn pull(&self, request: &PullRequest) -> PullOutcome {
        self.reads.pull(Some(&self.store), request)
    }

    fn pull_from(&self, offset: i64) -> PullOutcome {
        self.pull(&pull_of("orders", offset))
    }
}

/// The answer that sends a client to the master, with the offset it asked for and no other.
fn asks_master(outcome: &PullOutcome, offset: u64) -> bool {
    outcome.status == PullStatus::NoMatched && outcome.next == QueueOffset(offset) && outcome.suggest == 0 && outcome.slices.is_empty()
}

#[test]
fn a_replica_gives_what_is_confirmed_and_nothing_beyond() {
    let pair = Pair::new(&["first", "second", "third"], EVERYTHING);
    assert!(asks_master(&pair.pull_from(0), 0), "nothing is known to be confirmed");
    let second = pair.master.pull(pull_of("orders", 1)).expect("found");
    let place = sluice_protocol::record::RecordView::parse(&second.slices[0]).expect("whole").log_offset();
    pair.store.confirm(CommitLogOffset(place));
    let found = pair.pull_from(0);
    assert_eq!((found.status, found.next, found.bounds.max), (PullStatus::Found, QueueOffset(1), QueueOffset(1)));
    assert_eq!(messages(&found.slices)[0].0, "first");
    assert!(pair.reads.view_message(&pair.store, place as i64).is_none(), "not confirmed");
    pair.confirm_all();
    assert_eq!(messages(&pair.pull_from(0).slices).len(), 3);
    assert!(pair.reads.view_message(&pair.store, place as i64).is_some());
    assert_eq!(pair.reads.counted(), (2, 1));
}

#[test]
fn a_replica_that_lags_never_moves_a_consumers_offset() {
    let pair = Pair::new(&["first"], EVERYTHING);
    pair.confirm_all();
    for beyond in [1, 2, 1_000_000] {
        assert!(asks_master(&pair.pull_from(beyond), beyond as u64), "{beyond}");
    }
    assert!(asks_master(&pair.pull_from(-1), 0));
    for unknown in [
        PullRequest { topic: topic("not-here-yet"), ..pull_of("orders", 7) },
        PullRequest { group: group("not-here-yet"), ..pull_of("orders", 7) },
        PullRequest { queue_id: 4000, ..pull_of("orders", 7) },
        PullRequest { subscription: None, ..pull_of("orders", 7) },
    ] {
        assert!(asks_master(&pair.pull(&unknown), 7), "{unknown:?}");
    }
    assert!(asks_master(&pair.reads.pull(None, &pull_of("orders", 7)), 7), "its store is being opened again");
}

#[test]
fn a_replica_filters_by_the_subscription_of_the_pull_or_of_the_heartbeat() {
    let pair = Pair::new(&[], EVERYTHING);
    for (body, tag) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        let properties = format!("TAGS\u{1}{tag}\u{2}");
        pair.master.send(sluice_delivery::SendRequest { properties: &properties, ..message("orders", body) }).expect("stored");
    }
    pair.catch_up();
    pair.confirm_all();
    let red = Subscription::parse(topic("orders"), "red", "TAG", 5).expect("legal");
    let bodies = |outcome: &PullOutcome| messages(&outcome.slices).into_iter().map(|(body, _)| body).collect::<Vec<_>>();
    assert_eq!(bodies(&pair.pull(&PullRequest { subscription: Some(red.clone()), ..pull_of("orders", 0) })), ["a", "c"]);
    let green = Subscription::parse(topic("orders"), "green", "TAG", 5).expect("legal");
    let none = pair.pull(&PullRequest { subscription: Some(green), ..pull_of("orders", 0) });
    assert_eq!((none.status, none.next, none.suggest), (PullStatus::NoMatched, QueueOffset(3), 0), "it goes on behind what it does not want");
    let beat = ConsumerHeartbeat {
        group: group("readers"),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        from_where: ConsumeFromWhere::LastOffset,
        subscriptions: vec![red],
    };
    pair.reads.heartbeat(&client("c", 1), vec![beat]);
    let by_heartbeat = PullRequest { subscription: None, subscription_version: 5, ..pull_of("orders", 0) };
    assert_eq!(bodies(&pair.pull(&by_heartbeat)), ["a", "c"]);
    assert!(asks_master(&pair.pull(&PullRequest { subscription_version: 6, ..by_heartbeat.clone() }), 0), "the heartbeat is older");
    pair.reads.connection_closed(ConnectionId(1));
    assert!(asks_master(&pair.pull(&by_heartbeat), 0), "nobody is there any more");
}

#[test]
fn a_consumer_far_behind_is_sent_to_a_replica_and_back_when_it_is_near_or_at_the_end() {
    let pair = Pair::new(&["first", "second", "third"], 1 << 10);
    let one = |offset| PullRequest { max_messages: 1, ..pull_of("orders", offset) };
    assert_eq!(pair.master.pull(one(0)).expect("found").suggest, 0, "there is no replica to read from");
    pair.master.delivery.set_replicas_to_read(vec![2, 3]);
    assert_eq!(pair.master.pull(one(0)).expect("found").suggest, 0, "the log's end is near");
    pair.master.send(message("others", &"x".repeat(4096))).expect("stored");
    assert_eq!(pair.master.pull(one(0)).expect("found").suggest, 2);
    pair.catch_up();
    pair.confirm_all();
    assert_eq!(pair.pull(&one(0)).suggest, ID);
    assert_eq!(pair.pull(&one(2)).suggest, 0, "it was the last");
    let near = Pair::new(&["first", "second", "third"], 1 << 20);
    near.confirm_all();
    assert_eq!(near.pull(&one(0)).suggest, 0);
    // What the group says is a part of the log.
    let mut settings = sluice_delivery::SubscriptionGroupConfig::new(group("readers"));
    settings.which_broker_when_consume_slowly = 0;
    pair.master.delivery.groups().put(settings.clone(), Box::new(|_| ()));
    pair.master.until("written", || {
        pair.catch_up();
        pair.confirm_all();
        pair.pull(&one(0)).suggest == 0
    });
    assert_eq!(pair.master.pull(one(0)).expect("found").suggest, 0, "the group does not allow it");
    settings.consume_enable = false;
    pair.master.delivery.groups().put(settings, Box::new(|_| ()));
    pair.master.until("written", || {
        pair.catch_up();
        pair.confirm_all();
        asks_master(&pair.pull(&one(0)), 0)
    });
}

#[test]
fn who_reads_at_a_replica_asks_the_master_every_two_seconds() {
    let pair = Pair::new(&["first", "second", "third"], EVERYTHING);
    pair.confirm_all();
    let one = || pair.pull(&PullRequest { max_messages: 1, ..pull_of("orders", 0) }).suggest;
    assert_eq!(one(), ID);
    pair.clock.advance(Duration::from_millis(1900));
    assert_eq!(one(), ID);
    pair.clock.advance(Duration::from_millis(200));
    assert_eq!(one(), 0, "a reset of its group is to be heard of");
    assert_eq!(one(), ID, "it may come back");
}
