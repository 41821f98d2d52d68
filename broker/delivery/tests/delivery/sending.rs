use crate::bench::{Bench, message, topic};
use sluice_delivery::{SendError, SendRequest, TopicConfig, TopicError};
use sluice_protocol::{batch, properties};
use std::sync::mpsc;

#[test]
fn a_topic_made_on_demand_is_there_after_a_restart() {
    let bench = Bench::new();
    let receipt = bench.send(message("orders", "one")).expect("stored");
    assert_eq!((receipt.queue_id, receipt.first_queue_offset.0), (0, 0));
    assert_eq!(receipt.message_ids.len(), 32);
    let bench = bench.restart();
    assert_eq!(bench.delivery.topics().get("orders").expect("kept").write_queues, 4);
    assert_eq!(bench.contents("orders", 0)[0].0, "one");
}

#[test]
fn without_automatic_creation_a_topic_that_is_missing_is_refused() {
    let bench = Bench::with(|options| options.auto_create_topics = false);
    let refused = bench.send(message("orders", "one"));
    assert_eq!(refused, Err(SendError::Topic(TopicError::NotFound("orders".into()))));
    assert!(bench.delivery.topics().get("TBW102").is_none());
}

#[test]
fn a_queue_that_is_left_open_is_chosen_in_turn() {
    let bench = Bench::new();
    let queues: Vec<i32> = (0..8).map(|_| bench.send(SendRequest { queue_id: -1, ..message("orders", "x") }).expect("stored").queue_id).collect();
    assert_eq!(queues, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn what_may_not_be_sent_is_refused_by_its_own_reason() {
    let bench = Bench::with(|options| options.message_bytes_max = 10);
    let big = bench.send(message("orders", "more than ten"));
    assert!(matches!(big, Err(SendError::Illegal(_))), "{big:?}");
    bench.send(message("orders", "x")).expect("stored");
    let wrong = bench.send(SendRequest { queue_id: 4, ..message("orders", "x") });
    assert!(matches!(wrong, Err(SendError::QueueId { queues: 4, queue_id: 4, .. })), "{wrong:?}");
    let system = bench.send(message("SCHEDULE_TOPIC_XXXX", "x"));
    assert!(matches!(system, Err(SendError::Topic(TopicError::Reserved(_)))), "{system:?}");
    let (sender, receiver) = mpsc::channel();
    let read_only = TopicConfig { perm: 4, ..TopicConfig::new(topic("orders"), 4) };
    bench.delivery.topics().put(read_only, Box::new(move |result| sender.send(result).expect("waits")));
    receiver.recv().expect("answered").expect("stored");
    assert_eq!(bench.send(message("orders", "x")), Err(SendError::NoPermission("orders".into())));
}

#[test]
fn each_message_of_a_batch_is_a_record_with_its_own_properties() {
    let bench = Bench::new();
    let mut body = Vec::new();
    for i in 0..3 {
        let own = format!("UNIQ_KEY\u{1}K{i}\u{2}");
        batch::encode(&batch::BatchMessage { flag: 0, body: format!("b{i}").as_bytes(), properties: &own }, &mut body).expect("fits");
    }
    let receipt = bench.send(SendRequest { batch: true, body: body.into(), ..message("orders", "") }).expect("stored");
    assert_eq!((receipt.placed.len(), receipt.message_ids.split(',').count()), (3, 3));
    let contents = bench.contents("orders", 0);
    assert_eq!(contents.iter().map(|(b, _)| b.as_str()).collect::<Vec<_>>(), ["b0", "b1", "b2"]);
    assert_eq!(properties::get(&contents[2].1, "UNIQ_KEY"), Some("K2"));
    let cut = bench.send(SendRequest { batch: true, body: vec![0, 0, 0, 9, 1].into(), ..message("orders", "") });
    assert!(matches!(cut, Err(SendError::Illegal(_))), "{cut:?}");
}

#[test]
fn a_group_that_consumes_in_order_sends_to_its_dead_letters() {
    let bench = Bench::new();
    assert_eq!(bench.lock("me", &[0]), [0]);
    bench.send(SendRequest { properties: "DELAY\u{1}3\u{2}", ..message("%RETRY%readers", "bad") }).expect("stored");
    assert_eq!(bench.contents("%DLQ%readers", 0)[0].0, "bad");
}

#[test]
fn a_retry_beyond_the_limit_goes_to_the_dead_letters() {
    let bench = Bench::new();
    bench.send(SendRequest { reconsume_times: 3, max_reconsume_times: Some(3), ..message("%RETRY%readers", "again") }).expect("stored");
    bench.send(SendRequest { reconsume_times: 4, max_reconsume_times: Some(3), ..message("%RETRY%readers", "over") }).expect("stored");
    assert_eq!(bench.contents("%RETRY%readers", 0)[0].0, "again");
    assert_eq!(bench.contents("%DLQ%readers", 0)[0].0, "over");
}

#[test]
fn a_deleted_topic_made_anew_does_not_use_an_offset_twice() {
    let bench = Bench::new();
    bench.send(message("orders", "old")).expect("stored");
    let (sender, receiver) = mpsc::channel();
    bench.delivery.delete_topic(&topic("orders"), Box::new(move |result| sender.send(result).expect("waits")));
    receiver.recv().expect("answered").expect("deleted");
    assert!(bench.delivery.topics().get("orders").is_none());
    assert_eq!(bench.send(message("orders", "new")).expect("stored").first_queue_offset.0, 1);
    let bounds = bench.delivery.bounds(&topic("orders"), 0).expect("there");
    assert_eq!((bounds.min.0, bounds.max.0), (1, 2));
}
