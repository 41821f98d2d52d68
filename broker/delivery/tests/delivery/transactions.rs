use crate::bench::{Bench, client, group, host, message, messages, pull_of};
use bytes::Bytes;
use sluice_delivery::{
    CheckSent, ConnectionId, DeliveryOptions, EndError, EndTransaction, PullRequest, SendError, SendReceipt, SendRequest, TransactionCheck, Verdict,
};
use sluice_protocol::{
    batch, properties,
    record::{RecordView, sys_flag},
};
use sluice_store::{AppendError, FlushMode, StoreOptions};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub(crate) const HALF: &str = "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}producers\u{2}UNIQ_KEY\u{1}id-1\u{2}TAGS\u{1}blue\u{2}";
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

pub(crate) fn half(body: &str) -> SendRequest<'_> {
    SendRequest { properties: HALF, sys_flag: sys_flag::TRANSACTION_PREPARED, queue_id: 2, ..message("orders", body) }
}

fn quick(options: &mut DeliveryOptions) {
    options.transaction_timeout = Duration::from_secs(6);
    options.transaction_check_interval = Duration::from_secs(30);
    options.transaction_check_max = 3;
    // No test says that its producers are still there.
    options.client_expiry = Duration::from_secs(86_400);
}

fn begin(bench: &Bench, body: &str) -> SendReceipt {
    bench.send(half(body)).expect("stored")
}

pub(crate) fn visible(bench: &Bench) -> Vec<String> {
    bench.contents("orders", 2).into_iter().map(|(body, _)| body).collect()
}

fn producer(bench: &Bench, id: &str, connection: u64) {
    bench.delivery.heartbeat(client(id, connection), &[group("producers")], vec![]);
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn checks(bench: &Bench) -> Vec<(u64, TransactionCheck)> {
    bench.push.checks.lock().iter().map(|(connection, check)| (connection.0, check.clone())).collect()
}

/// Lets the service have its turns: it looks at the clock every 100 ms of real time.
fn turns() {
    std::thread::sleep(Duration::from_millis(350));
}

#[test]
fn a_half_message_is_invisible_until_it_is_committed_and_says_where_it_came_from() {
    let bench = Bench::new();
    let receipt = begin(&bench, "later");
    assert_eq!((receipt.queue_id, receipt.first_queue_offset.0, receipt.transaction_id.as_deref()), (2, 0, Some("id-1")));
    assert_eq!((visible(&bench).len(), bench.delivery.open_transactions()), (0, 1));
    let waiting = bench.pull_later(PullRequest { queue_id: 2, suspend: Some(Duration::from_secs(25)), ..pull_of("orders", 0) });

    bench.end(&receipt, Verdict::Commit).expect("committed");
    let found = waiting.recv_timeout(crate::bench::PATIENCE).expect("woken").expect("found");
    let view = RecordView::checked(&found.slices[0]).expect("whole");
    assert_eq!((view.body(), view.topic(), view.queue_id()), (&b"later"[..], "orders", 2));
    assert_eq!(view.prepared_transaction_offset(), receipt.placed[0].log_offset.to_wire());
    assert_eq!(view.sys_flag() & sys_flag::TRANSACTION_MASK, sys_flag::TRANSACTION_COMMIT);
    let own = view.user_properties();
    for (name, value) in [("TRAN_MSG", Some("true")), ("REAL_TOPIC", None), ("REAL_QID", None), ("TAGS", Some("blue")), ("__transactionId__", Some("id-1"))] {
        assert_eq!(properties::get(own, name), value, "{name}");
    }
    assert_eq!((bench.delivery.open_transactions(), count(&bench.delivery.counters().transactions_committed)), (0, 1));
}

/// What else reads these topics finds RocketMQ's records.
#[test]
fn half_and_op_records_are_laid_out_as_rocketmqs() {
    let bench = Bench::new();
    let receipts = [begin(&bench, "a"), begin(&bench, "b")];
    bench.end(&receipts[1], Verdict::Commit).expect("committed");
    bench.end(&receipts[0], Verdict::Rollback).expect("rolled back");
    let halves = bench.contents("RMQ_SYS_TRANS_HALF_TOPIC", 0);
    assert_eq!(halves.len(), 2);
    for (name, value) in [("REAL_TOPIC", "orders"), ("REAL_QID", "2"), ("TRAN_MSG", "true"), ("PGROUP", "producers"), ("UNIQ_KEY", "id-1")] {
        assert_eq!(properties::get(&halves[0].1, name), Some(value));
    }
    let found = bench.pull(pull_of("RMQ_SYS_TRANS_HALF_TOPIC", 0)).expect("found");
    let view = RecordView::checked(&found.slices[0]).expect("whole");
    assert_eq!((view.sys_flag() & sys_flag::TRANSACTION_MASK, view.queue_offset()), (0, 0));
    let ops = bench.contents("RMQ_SYS_TRANS_OP_HALF_TOPIC", 0);
    let expected = ["1,", "0,"].map(|body| (body.to_owned(), "TAGS\u{1}d\u{2}".to_owned()));
    assert_eq!(ops, expected);
}

#[test]
fn a_rolled_back_message_is_never_visible() {
    let bench = Bench::new();
    let receipt = begin(&bench, "never");
    bench.end(&receipt, Verdict::Rollback).expect("rolled back");
    // A commit that comes late changes nothing.
    assert_eq!(bench.end(&receipt, Verdict::Commit), Err(EndError::Ended(receipt.first_queue_offset)));
    let bench = bench.restart();
    assert_eq!(bench.end(&receipt, Verdict::Commit), Err(EndError::Ended(receipt.first_queue_offset)));
    producer(&bench, "p", 1);
    bench.clock.advance(Duration::from_secs(3600));
    turns();
    assert_eq!((visible(&bench).len(), checks(&bench).len(), bench.delivery.open_transactions()), (0, 0, 0));
}

/// RocketMQ writes the message again for each commit that it gets.
#[test]
fn a_commit_that_is_repeated_is_written_once() {
    let bench = Bench::new();
    let receipt = begin(&bench, "once");
    bench.end(&receipt, Verdict::Commit).expect("committed");
    let bench = [0, 1].into_iter().fold(bench, |bench, _| {
        for verdict in [Verdict::Commit, Verdict::Rollback, Verdict::Commit] {
            assert_eq!(bench.end(&receipt, verdict), Err(EndError::Ended(receipt.first_queue_offset)));
        }
        bench.restart()
    });
    assert_eq!(visible(&bench), ["once"]);
}

#[test]
fn of_many_ends_at_once_one_is_written() {
    let bench = Bench::new();
    for round in 0..30 {
        let receipt = begin(&bench, &round.to_string());
        let ended = std::thread::scope(|scope| {
            let ends: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.end(&receipt, Verdict::Commit).is_ok())).collect();
            ends.into_iter().map(|end| end.join().expect("no panic")).filter(|ended| *ended).count()
        });
        assert_eq!(ended, 1, "round {round}");
    }
    let found = bench.pull(PullRequest { queue_id: 2, max_messages: 100, ..pull_of("orders", 0) }).expect("found");
    let bodies: Vec<String> = messages(&found.slices).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, (0..30).map(|round| round.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_end_must_name_a_half_message_its_group_both_of_its_offsets_and_no_other_id() {
    let bench = Bench::new();
    let plain = bench.send(message("orders", "plain")).expect("stored");
    let receipt = begin(&bench, "half");
    let (queue_offset, log_offset) = (receipt.first_queue_offset.to_wire(), receipt.placed[0].log_offset.to_wire());
    let right = EndTransaction { group: "producers", queue_offset, log_offset, transaction_id: "id-1", verdict: Verdict::Commit };
    let wrong = [
        EndTransaction { group: "others", ..right },
        EndTransaction { queue_offset: queue_offset + 1, ..right },
        EndTransaction { queue_offset: -1, ..right },
        EndTransaction { log_offset: log_offset + 1, ..right },
        EndTransaction { log_offset: -1, ..right },
        EndTransaction { log_offset: i64::MAX, ..right },
        EndTransaction { log_offset: plain.placed[0].log_offset.to_wire(), ..right },
        EndTransaction { transaction_id: "id-2", ..right },
    ];
    for request in wrong {
        let refused = bench.end_as(request);
        assert!(
            matches!(refused, Err(EndError::Group { .. } | EndError::QueueOffset { .. } | EndError::Id { .. } | EndError::NotHalf(_) | EndError::Read(_))),
            "{request:?}: {refused:?}"
        );
    }
    assert_eq!((visible(&bench).len(), bench.delivery.open_transactions()), (0, 1));
    bench.end_as(EndTransaction { verdict: Verdict::Unknown, ..right }).expect("noted");
    assert_eq!((visible(&bench).len(), bench.delivery.open_transactions()), (0, 1));
    // Not every client says the id, and not every message has one.
    bench.end_as(EndTransaction { transaction_id: "", ..right }).expect("committed");
    let nameless = bench.send(SendRequest { properties: "TRAN_MSG\u{1}true\u{2}", ..half("nameless") }).expect("stored");
    let (queue_offset, log_offset) = (nameless.first_queue_offset.to_wire(), nameless.placed[0].log_offset.to_wire());
    bench.end_as(EndTransaction { queue_offset, log_offset, ..right }).expect("committed");
    assert_eq!(visible(&bench), ["half", "nameless"]);
}

#[test]
fn topics_and_messages_are_checked_as_those_of_ordinary_sends() {
    let bench = Bench::with(|options| options.message_bytes_max = 100_000);
    let refused = bench.send(SendRequest { queue_id: 9, ..half("x") });
    assert!(matches!(refused, Err(SendError::QueueId { .. })), "{refused:?}");
    let refused = bench.send(SendRequest { topic: "RMQ_SYS_TRANS_HALF_TOPIC", ..half("x") });
    assert!(matches!(refused, Err(SendError::Topic(_))), "{refused:?}");
    let body = Bytes::from(vec![0; 100_001]);
    assert!(matches!(bench.send(SendRequest { body, ..half("") }), Err(SendError::Illegal(_))));
    let mut inner = Vec::new();
    batch::encode(&batch::BatchMessage { flag: 0, body: b"x", properties: HALF }, &mut inner).expect("fits");
    let inner = Bytes::from(inner);
    for properties in ["", HALF] {
        let refused = bench.send(SendRequest { batch: true, body: inner.clone(), properties, ..message("orders", "") });
        assert!(matches!(refused, Err(SendError::Illegal(_))), "{refused:?}");
    }
    let nobody = bench.send(SendRequest { group: "", properties: "TRAN_MSG\u{1}true\u{2}", ..half("x") });
    assert!(matches!(nobody, Err(SendError::Illegal(_))), "{nobody:?}");
    assert_eq!(bench.delivery.open_transactions(), 0);
}

#[test]
fn a_delay_level_does_not_count_for_a_half_message() {
    let bench = Bench::new();
    let own = format!("{HALF}DELAY\u{1}18\u{2}");
    let receipt = bench.send(SendRequest { properties: &own, ..half("now") }).expect("stored");
    bench.end(&receipt, Verdict::Commit).expect("committed");
    let found = bench.contents("orders", 2);
    assert_eq!((found[0].0.as_str(), properties::get(&found[0].1, "DELAY")), ("now", None));
}

#[test]
fn a_message_as_large_as_is_taken_can_be_checked_committed_and_given_up() {
    let bench = Bench::with(|options| {
        quick(options);
        options.transaction_check_max = 1;
    });
    producer(&bench, "p", 1);
    // The segments hold 1 MiB: half of it is the most that one batch may have.
    let mut bytes = 512 << 10;
    let largest = loop {
        match bench.send(SendRequest { body: vec![7; bytes].into(), ..half("") }) {
            Ok(receipt) => break receipt,
            Err(SendError::Illegal(_) | SendError::Store(_)) => bytes -= 32,
            Err(other) => panic!("{other}"),
        }
    };
    let text = "x".repeat(32_767);
    let mut length = text.len();
    let full = loop {
        length -= 1;
        let own = format!("{HALF}p\u{1}{}", &text[..length - HALF.len()]);
        if let Ok(receipt) = bench.send(SendRequest { properties: &own, ..half("full") }) {
            break receipt;
        }
    };
    bench.clock.advance(Duration::from_secs(6));
    bench.until("both are asked about", || checks(&bench).len() == 2);
    bench.end(&full, Verdict::Commit).expect("committed");
    assert_eq!(bench.contents("orders", 2).len(), 1);
    bench.clock.advance(Duration::from_secs(30));
    bench.until("the other is given up", || bench.delivery.open_transactions() == 0);
    assert_eq!(bench.contents(GIVEN_UP, 0)[0].0.len(), bytes);
    assert!(bench.end(&largest, Verdict::Commit).is_err());
}

#[test]
fn beyond_the_bound_a_half_message_is_refused_and_an_ordinary_one_is_not() {
    let bench = Bench::with(|options| options.transactions_open_max = 2);
    let first = begin(&bench, "1");
    begin(&bench, "2");
    assert_eq!(bench.send(half("3")), Err(SendError::TransactionsFull(2)));
    bench.send(message("orders", "plain")).expect("stored");
    bench.end(&first, Verdict::Rollback).expect("rolled back");
    begin(&bench, "3");
    assert_eq!(bench.delivery.open_transactions(), 2);
}

#[test]
fn a_place_is_free_again_when_the_store_has_refused_the_half_message() {
    let bench = Bench::with(|options| options.transactions_open_max = 1);
    bench.send(message("orders", "x")).expect("stored");
    let (free, total) = sluice_env::Disk::space(&bench.disk).expect("known");
    bench.disk.set_capacity(Some(total - free));
    bench.clock.advance(Duration::from_secs(2));
    bench.until("the broker notices", || bench.store.status().writable.is_err());
    for _ in 0..3 {
        assert!(matches!(bench.send(half("x")), Err(SendError::Store(_))));
    }
    bench.disk.set_capacity(None);
    bench.clock.advance(Duration::from_secs(5));
    bench.until("space again", || bench.store.status().writable.is_ok());
    begin(&bench, "x");
}

#[test]
fn a_producer_is_asked_after_the_timeout_then_at_each_interval_and_told_how_often() {
    let bench = Bench::with(quick);
    producer(&bench, "p", 7);
    let receipt = begin(&bench, "asked");
    bench.clock.advance(Duration::from_millis(5_999));
    turns();
    assert!(checks(&bench).is_empty(), "early");
    bench.clock.advance(Duration::from_millis(1));
    bench.until("the first question", || checks(&bench).len() == 1);
    bench.clock.advance(Duration::from_millis(29_999));
    turns();
    assert_eq!(checks(&bench).len(), 1, "early");
    bench.clock.advance(Duration::from_millis(1));
    bench.until("the second question", || checks(&bench).len() == 2);

    for (n, (connection, check)) in checks(&bench).into_iter().enumerate() {
        assert_eq!((connection, check.topic.as_str(), check.unique_key.as_deref()), (7, "orders", Some("id-1")));
        assert_eq!((check.queue_offset, check.log_offset), (receipt.first_queue_offset, receipt.placed[0].log_offset));
        assert_eq!(check.message_id, receipt.message_ids);
        let view = RecordView::checked(&check.record).expect("whole");
        assert_eq!((view.body(), view.topic(), view.queue_id()), (&b"asked"[..], "orders", 2));
        assert_eq!((view.queue_offset(), view.log_offset()), (receipt.first_queue_offset.0, receipt.placed[0].log_offset.0));
        assert_eq!(properties::get(view.user_properties(), "TRANSACTION_CHECK_TIMES"), Some((n + 1).to_string().as_str()));
    }
    bench.end(&receipt, Verdict::Commit).expect("committed");
    assert_eq!(properties::get(&bench.contents("orders", 2)[0].1, "TRANSACTION_CHECK_TIMES"), Some("2"));
    bench.clock.advance(Duration::from_secs(300));
    turns();
    assert_eq!(checks(&bench).len(), 2, "asked about what has ended");
}

#[test]
fn an_immunity_puts_the_first_check_off_and_no_other() {
    let bench = Bench::with(quick);
    producer(&bench, "p", 7);
    let own = format!("{HALF}CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}100\u{2}");
    bench.send(SendRequest { properties: &own, ..half("x") }).expect("stored");
    bench.clock.advance(Duration::from_millis(99_999));
    turns();
    assert!(checks(&bench).is_empty(), "early");
    bench.clock.advance(Duration::from_millis(1));
    bench.until("the first question", || checks(&bench).len() == 1);
    bench.clock.advance(Duration::from_secs(30));
    bench.until("the second question", || checks(&bench).len() == 2);
}

#[test]
fn its_sender_is_asked_at_first_then_the_next_and_the_next_when_one_is_gone() {
    let bench = Bench::with(|options| {
        quick(options);
        options.transaction_check_max = 100;
    });
    for (id, connection) in [("a", 1), ("b", 2), ("c", 3)] {
        let mut info = client(id, connection);
        info.address.set_port(20_000 + connection as u16);
        bench.delivery.heartbeat(info, &[group("producers")], vec![]);
    }
    let mut from = host();
    from.set_port(20_002);
    bench.send(SendRequest { born_host: from, ..half("x") }).expect("stored");
    let asked = |wait: u64| {
        let before = checks(&bench).len();
        bench.clock.advance(Duration::from_secs(wait));
        bench.until("one more question", || checks(&bench).len() > before);
        checks(&bench)[before].0
    };
    assert_eq!([asked(6), asked(30), asked(30), asked(30)], [2, 3, 1, 2]);
    bench.push.deaf.lock().push((ConnectionId(3), CheckSent::Gone));
    assert_eq!(asked(30), 1, "the third is gone");
    bench.delivery.connection_closed(ConnectionId(2));
    bench.delivery.connection_closed(ConnectionId(3));
    assert_eq!([asked(30), asked(30)], [1, 1], "the first is left");
}

#[test]
fn a_producer_that_does_not_read_is_asked_again_soon_and_that_is_no_check() {
    let bench = Bench::with(quick);
    producer(&bench, "p", 7);
    bench.push.deaf.lock().push((ConnectionId(7), CheckSent::Busy));
    begin(&bench, "x");
    bench.clock.advance(Duration::from_secs(6));
    for _ in 0..10 {
        turns();
        bench.clock.advance(Duration::from_millis(500));
    }
    bench.push.deaf.lock().clear();
    bench.until("asked", || checks(&bench).len() == 1);
    let view_times = |check: &TransactionCheck| {
        properties::get(RecordView::checked(&check.record).expect("whole").user_properties(), "TRANSACTION_CHECK_TIMES").map(str::to_owned)
    };
    assert_eq!(view_times(&checks(&bench)[0].1).as_deref(), Some("1"));
}

#[test]
fn after_the_last_check_a_transaction_is_given_up_and_its_message_lies_where_people_can_find_it() {
    let bench = Bench::with(quick);
    producer(&bench, "p", 7);
    let receipt = begin(&bench, "vain");
    bench.clock.advance(Duration::from_secs(6));
    for n in 1..=3 {
        bench.until("one more question", || checks(&bench).len() == n);
        assert_eq!(bench.contents(GIVEN_UP, 0).len(), 0, "after {n} checks");
        bench.clock.advance(Duration::from_secs(30));
    }
    bench.until("given up", || bench.delivery.open_transactions() == 0);
    let found = bench.contents(GIVEN_UP, 0);
    assert_eq!((found.len(), found[0].0.as_str()), (1, "vain"));
    for (name, value) in [("REAL_TOPIC", "orders"), ("REAL_QID", "2"), ("PGROUP", "producers"), ("TRANSACTION_CHECK_TIMES", "3")] {
        assert_eq!(properties::get(&found[0].1, name), Some(value), "{name}");
    }
    assert_eq!((checks(&bench).len(), count(&bench.delivery.counters().transactions_given_up)), (3, 1));
    assert_eq!(bench.end(&receipt, Verdict::Commit), Err(EndError::Ended(receipt.first_queue_offset)));
    let bench = bench.restart();
    bench.clock.advance(Duration::from_secs(3600));
    turns();
    assert_eq!((visible(&bench).len(), bench.contents(GIVEN_UP, 0).len()), (0, 1));
}

/// A check counts when it brings no decision. One that the full disk kept from being written is a decision all the same.
#[test]
fn a_commit_that_the_full_disk_refuses_is_asked_for_again_and_the_transaction_is_not_given_up() {
    let bench = Bench::with(quick);
    producer(&bench, "p", 7);
    let receipt = begin(&bench, "paid");
    // The queues have their files by then, as on a disk that has filled up in use.
    bench.store.checkpoint().expect("written");
    let (free, total) = sluice_env::Disk::space(&bench.disk).expect("known");
    bench.disk.set_capacity(Some(total - free));
    bench.clock.advance(Duration::from_secs(6));
    bench.until("the broker notices", || bench.store.status().writable.is_err());
    for n in 1..=5 {
        bench.until("one more question", || checks(&bench).len() == n);
        let refused = bench.end(&receipt, Verdict::Commit);
        assert!(matches!(refused, Err(EndError::Store(AppendError::DiskFull(_)))), "{refused:?}");
        bench.clock.advance(Duration::from_secs(30));
    }
    bench.until("one more question", || checks(&bench).len() == 6);
    bench.disk.set_capacity(None);
    bench.clock.advance(Duration::from_secs(5));
    bench.until("space again", || bench.store.status().writable.is_ok());
    bench.clock.advance(Duration::from_secs(25));
    bench.until("one more question", || checks(&bench).len() == 7);
    bench.end(&receipt, Verdict::Commit).expect("committed");
    assert_eq!((visible(&bench), bench.contents(GIVEN_UP, 0).len()), (vec!["paid".to_owned()], 0));
}

/// As in RocketMQ; else a group that is gone would hold the log back for ever.
#[test]
fn checks_that_find_nobody_to_ask_count_too() {
    let bench = Bench::with(quick);
    begin(&bench, "alone");
    bench.clock.advance(Duration::from_secs(6));
    for n in 1..=3 {
        bench.until("one more check", || count(&bench.delivery.counters().transaction_checks_unasked) == n);
        bench.clock.advance(Duration::from_secs(30));
    }
    bench.until("given up", || bench.contents(GIVEN_UP, 0).len() == 1);
}

#[test]
fn checks_and_their_number_go_on_after_a_restart() {
    let bench = Bench::with(quick);
    producer(&bench, "p", 7);
    begin(&bench, "asked");
    let ended = begin(&bench, "ended");
    bench.end(&ended, Verdict::Rollback).expect("rolled back");
    bench.clock.advance(Duration::from_secs(6));
    bench.until("the first question", || checks(&bench).len() == 1);
    bench.clock.advance(Duration::from_secs(10));

    let bench = bench.restart_with(quick);
    assert_eq!(bench.delivery.open_transactions(), 1);
    producer(&bench, "p", 8);
    bench.clock.advance(Duration::from_millis(19_999));
    turns();
    assert!(checks(&bench).is_empty(), "early");
    bench.clock.advance(Duration::from_millis(1));
    bench.until("the second question", || checks(&bench).len() == 1);
    let record = checks(&bench)[0].1.record.clone();
    let view = RecordView::checked(&record).expect("whole");
    assert_eq!((view.body(), properties::get(view.user_properties(), "TRANSACTION_CHECK_TIMES")), (&b"asked"[..], Some("2")));
}

/// A start reads what came after the last note, not the history.
#[test]
fn a_start_reads_no_half_message_that_had_ended_before_the_last_note() {
    let bench = Bench::new();
    let open = begin(&bench, "open");
    let mut first_damaged = None;
    for i in 0..3_000 {
        let receipt = begin(&bench, &i.to_string());
        first_damaged.get_or_insert(receipt.placed[0].log_offset.0);
        bench.end(&receipt, if i % 2 == 0 { Verdict::Commit } else { Verdict::Rollback }).expect("ended");
    }
    let bench = bench.restart();
    // What is read is checked: with the history damaged, a start that reads it would count a loss.
    bench.disk.flip_byte("commitlog/00000000000000000000", first_damaged.expect("some") + 90, 4);
    let bench = bench.restart();
    assert_eq!((bench.delivery.open_transactions(), count(&bench.delivery.counters().transactions_lost)), (1, 0));
    bench.end(&open, Verdict::Commit).expect("committed");
}

#[test]
fn retention_keeps_an_open_half_message_and_all_behind_it() {
    let (_, disk, clock) = sluice_env::sim::env(7);
    let store = StoreOptions { segment_bytes: 1 << 20, retention_bytes: Some(2 << 20), flush: FlushMode::Sync, ..StoreOptions::default() };
    let bench = Bench::open_with(disk, clock, store, |_| ());
    bench.send(SendRequest { body: vec![1; 900_000 / 2].into(), ..message("orders", "") }).expect("stored");
    let receipt = begin(&bench, "old");
    let fill = || (0..20).for_each(|_| drop(bench.send(SendRequest { body: vec![1; 450_000].into(), ..message("orders", "") }).expect("stored")));
    fill();
    bench.store.retain_now().expect("retention");
    assert!(bench.store.status().min <= receipt.placed[0].log_offset);
    bench.end(&receipt, Verdict::Commit).expect("committed");
    assert_eq!(visible(&bench), ["old"]);
    bench.store.retain_now().expect("retention");
    assert!(bench.store.status().min > receipt.placed[0].log_offset, "held back by what has ended");
}

#[test]
fn on_a_full_disk_retention_goes_on_and_what_is_lost_is_told() {
    let (_, disk, clock) = sluice_env::sim::env(7);
    let store = StoreOptions { segment_bytes: 1 << 20, retention_bytes: Some(2 << 20), flush: FlushMode::Sync, ..StoreOptions::default() };
    let bench = Bench::open_with(disk, clock, store, quick);
    let receipt = begin(&bench, "old");
    (0..20).for_each(|_| drop(bench.send(SendRequest { body: vec![1; 450_000].into(), ..message("orders", "") }).expect("stored")));
    // The queue index has its file by then, as on a disk that has filled up in use.
    bench.store.checkpoint().expect("written");
    let (free, total) = sluice_env::Disk::space(&bench.disk).expect("known");
    // Above the share from which on writes are refused, but with room for what retention notes.
    bench.disk.set_capacity(Some((total - free) / 96 * 100));
    bench.clock.advance(Duration::from_secs(2));
    bench.until("the broker notices", || bench.store.status().writable.is_err());
    bench.store.retain_now().expect("retention");
    assert!(bench.store.status().min > receipt.placed[0].log_offset);
    assert!(matches!(bench.end(&receipt, Verdict::Commit), Err(EndError::NotHalf(_))));
    bench.clock.advance(Duration::from_secs(6));
    bench.until("it is told", || count(&bench.delivery.counters().transactions_lost) == 1);
    assert_eq!(bench.delivery.open_transactions(), 0);
}

#[test]
fn the_oldest_open_half_message_tells_its_age() {
    let bench = Bench::new();
    assert_eq!(bench.delivery.oldest_transaction_age(), None);
    let first = begin(&bench, "1");
    bench.clock.advance(Duration::from_secs(3));
    begin(&bench, "2");
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.delivery.oldest_transaction_age(), Some(Duration::from_secs(4)));
    bench.end(&first, Verdict::Rollback).expect("rolled back");
    assert_eq!(bench.delivery.oldest_transaction_age(), Some(Duration::from_secs(1)));
}

/// The chunks of the notes, with what is asked about in several of them.
#[test]
fn open_ones_among_thousands_are_found_again_and_no_other() {
    let bench = Bench::new();
    let mut open = BTreeSet::new();
    for i in 0..5_000u64 {
        let receipt = begin(&bench, "x");
        if i % 777 == 0 {
            open.insert(receipt.first_queue_offset.0);
        } else {
            bench.end(&receipt, Verdict::Rollback).expect("rolled back");
        }
        if i % 1_500 == 0 {
            // Notes are written in between, too.
            bench.clock.advance(Duration::from_secs(5));
            turns();
        }
    }
    let mut bench = bench.restart();
    for life in 0..3 {
        assert_eq!(bench.delivery.open_transactions(), open.len(), "life {life}");
        bench = bench.restart();
    }
    producer(&bench, "p", 1);
    bench.clock.advance(Duration::from_secs(30));
    bench.until("all are asked about", || checks(&bench).len() == open.len());
    assert_eq!(checks(&bench).iter().map(|(_, check)| check.queue_offset.0).collect::<BTreeSet<_>>(), open);
}
