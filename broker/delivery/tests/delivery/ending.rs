//! The end of delivery, in order and at once.

use crate::{
    bench::{Bench, PATIENCE, group, message, pull_of, topic},
    transactions::half,
};
use sluice_delivery::{Delivery, EndTransaction, PullRequest, PullStatus, SendReceipt, SendRequest, SpawnWork, Verdict};
use sluice_env::sim;
use sluice_store::{FlushMode, MetaTable, Store, StoreOptions};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Far less than any wait for the store or of a client, and enough for a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);

fn options() -> StoreOptions {
    StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() }
}

fn replicated() -> StoreOptions {
    StoreOptions { replicated: true, ..options() }
}

fn held(name: &str, offset: i64) -> PullRequest {
    PullRequest { suspend: Some(Duration::from_secs(15)), ..pull_of(name, offset) }
}

fn confirm(bench: &Bench) {
    bench.store.confirm(bench.store.marks().appended);
}

/// Opens the directory of a broker that has ended but whose store nobody has closed.
fn open_again(bench: Bench) {
    let Bench { disk, clock, store, delivery, .. } = bench;
    drop(delivery);
    drop(store);
    Store::open(sim::env_over(7, &disk, &clock), options()).map(drop).expect("nothing holds the store any more");
}

/// Hands in a send of which the answer may take long.
fn send_later(bench: &Bench, request: SendRequest<'_>) -> mpsc::Receiver<SendReceipt> {
    let (sender, receiver) = mpsc::channel();
    bench.delivery.send(request, Box::new(move |result| drop(result.map(|receipt| sender.send(receipt)))));
    receiver
}

/// A send to a store that confirms nothing by itself.
fn send_confirmed(bench: &Bench, request: SendRequest<'_>) -> SendReceipt {
    let answer = send_later(bench, request);
    confirm(bench);
    answer.recv_timeout(PATIENCE).expect("confirmed")
}

#[test]
fn a_broker_that_has_ended_has_answered_what_it_held_and_lets_go_of_its_store() {
    for end in [Delivery::close, Delivery::abandon] {
        let bench = Bench::with(|options| options.transaction_timeout = Duration::from_secs(60));
        bench.send(message("orders", "one")).expect("stored");
        bench.send(SendRequest { properties: "DELAY\u{1}3\u{2}", ..message("orders", "late") }).expect("stored");
        let halves = [0, 1].map(|_| bench.send(half("money")).expect("stored"));
        bench.end(&halves[0], Verdict::Commit).expect("committed");
        assert_eq!(bench.lock("a", &[0]), [0]);
        bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
        let pull = bench.pull_later(held("orders", 1));
        bench.until("held", || bench.delivery.held_pulls() == 1);
        end(&bench.delivery);
        let answer = pull.try_recv().expect("answered at the end").expect("as if its time were over");
        assert_eq!(answer.status, PullStatus::NoNewMessage);
        let refused = bench.pull(held("orders", 1));
        assert_eq!(refused.err(), Some(sluice_delivery::PullError::Stopped), "nothing is held any more");
        open_again(bench);
    }
}

/// A broker whose own threads wait for a confirmation that never comes: of a delayed message that is due, and of a transaction that is given up. Another one is open.
fn stuck_broker() -> (Bench, SendReceipt) {
    let (_, disk, clock) = sim::env(7);
    let bench = Bench::open_with(disk, clock, replicated(), |options| {
        options.transaction_check_max = 1;
        options.transaction_check_interval = Duration::from_secs(30);
    });
    send_confirmed(&bench, message("orders", "one"));
    send_confirmed(&bench, half("in vain"));
    bench.clock.advance(Duration::from_secs(6));
    bench.until("checked", || bench.delivery.counters().transaction_checks_unasked.load(std::sync::atomic::Ordering::Relaxed) == 1);
    send_confirmed(&bench, SendRequest { properties: "DELAY\u{1}4\u{2}", ..message("orders", "late") });
    let open = send_confirmed(&bench, half("money"));
    bench.until("noted", || !bench.store.meta(MetaTable::Transactions).is_empty());
    confirm(&bench);
    let before = bench.store.status().appended_records;
    bench.clock.advance(Duration::from_secs(30));
    bench.until("the delayed message goes out and the transaction is given up", || bench.store.status().appended_records >= before + 4);
    (bench, open)
}

#[test]
fn an_abandoned_broker_waits_for_nothing_writes_nothing_and_lets_go_of_its_store() {
    let (bench, open) = stuck_broker();
    let (sent, begun, locked) = (send_later(&bench, message("orders", "two")), send_later(&bench, half("more")), bench.lock_later("a", &[0]));
    let (queue_offset, log_offset) = (open.first_queue_offset.to_wire(), open.placed[0].log_offset.to_wire());
    let (ended, end) = mpsc::channel();
    let commit = EndTransaction { group: "producers", queue_offset, log_offset, transaction_id: "", verdict: Verdict::Commit };
    bench.delivery.end_transaction(commit, Box::new(move |result| drop(ended.send(result))));
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    let pull = bench.pull_later(held("orders", 1));
    let (begin, written) = (Instant::now(), bench.store.status().appended);
    bench.delivery.abandon();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_eq!(pull.try_recv().expect("answered").expect("as if its time were over").status, PullStatus::NoNewMessage);
    bench.clock.advance(Duration::from_secs(3));
    // What would be due would come within this time.
    std::thread::sleep(Duration::from_millis(300));
    bench.delivery.close();
    bench.delivery.abandon();
    assert_eq!(bench.store.status().appended, written);
    assert_eq!(bench.store.meta(MetaTable::Offsets), []);
    assert!(sent.try_recv().is_err() && begun.try_recv().is_err() && locked.try_recv().is_err() && end.try_recv().is_err(), "not confirmed");
    open_again(bench);
}

#[test]
fn a_close_that_waits_for_the_store_is_cut_short_when_the_broker_is_abandoned() {
    let (_, disk, clock) = sim::env(7);
    let bench = Bench::open_with(disk, clock, replicated(), |_| ());
    send_confirmed(&bench, message("orders", "one"));
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| bench.delivery.close());
        bench.until("it waits", || !bench.store.meta(MetaTable::Offsets).is_empty());
        bench.delivery.abandon();
    });
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    open_again(bench);
}

#[test]
fn only_the_first_close_writes() {
    let bench = Bench::new();
    let dirty = |offset| bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, offset).expect("taken");
    bench.send(message("orders", "one")).expect("stored");
    dirty(1);
    bench.delivery.close();
    assert_eq!(bench.store.meta(MetaTable::Offsets).len(), 1);
    let written = bench.store.status().appended;
    dirty(0);
    bench.delivery.close();
    bench.delivery.abandon();
    bench.delivery.close();
    assert_eq!(bench.store.status().appended, written);
    open_again(bench);
}

/// A broker with a pull that waits for a message which the log's own thread is going to show, and whose work for other threads goes by `spawn`.
fn waiting_broker(spawn: SpawnWork, answered: impl FnOnce() + Send + 'static) -> Bench {
    let (env, disk, clock) = sim::env(7);
    let store = StoreOptions { flush: FlushMode::Sync, ..options() };
    let bench = Bench::open_spawning(env, disk, clock, store, |_| (), spawn);
    bench.send(message("orders", "one")).expect("stored");
    bench.delivery.pull(held("orders", 1), Box::new(move |_| answered()));
    bench.send(SendRequest { properties: "WAIT\u{1}false\u{2}", ..message("orders", "two") }).expect("appended");
    bench.until("the log's thread has flushed and shown it", || {
        bench.clock.advance(Duration::from_millis(20));
        bench.delivery.held_pulls() == 0
    });
    bench
}

/// Long enough for the other thread to come to its end if it does not wait.
const LINGER: Duration = Duration::from_millis(300);

#[test]
fn the_end_waits_for_who_is_just_waking_a_pull() {
    let (begun, begins) = mpsc::channel();
    // On the log's own thread, which could not wait for itself if it were the last to hold the store.
    let spawn: SpawnWork = Arc::new(move |work| {
        begun.send(()).expect("awaited");
        std::thread::sleep(LINGER);
        drop(std::thread::spawn(work));
    });
    let (answered, answers) = mpsc::channel();
    let bench = waiting_broker(spawn, move || answered.send(()).expect("awaited"));
    begins.recv_timeout(PATIENCE).expect("woken");
    bench.delivery.abandon();
    open_again(bench);
    answers.recv_timeout(PATIENCE).expect("answered though its broker is gone");
}

#[test]
fn work_that_comes_to_its_turn_after_the_end_holds_nothing_and_answers() {
    let (late, works) = mpsc::channel();
    let spawn: SpawnWork = Arc::new(move |work| late.send(work).expect("awaited"));
    let (answered, answers) = mpsc::channel();
    let bench = waiting_broker(spawn, move || answered.send(()).expect("awaited"));
    let work = works.recv_timeout(PATIENCE).expect("woken");
    bench.delivery.abandon();
    open_again(bench);
    work();
    answers.try_recv().expect("answered");
}

#[test]
fn the_end_waits_for_work_that_is_under_way() {
    let (begun, begins) = mpsc::channel();
    let slow = move || {
        begun.send(()).expect("awaited");
        std::thread::sleep(LINGER);
    };
    let bench = waiting_broker(Arc::new(|work| drop(std::thread::spawn(work))), slow);
    begins.recv_timeout(PATIENCE).expect("woken");
    bench.delivery.abandon();
    open_again(bench);
}

#[test]
fn a_close_that_has_written_nothing_yet_writes_nothing_once_the_broker_is_abandoned() {
    let (begun, begins) = mpsc::channel();
    let slow = move || {
        begun.send(()).expect("awaited");
        std::thread::sleep(LINGER);
    };
    let bench = waiting_broker(Arc::new(|work| drop(std::thread::spawn(work))), slow);
    begins.recv_timeout(PATIENCE).expect("woken");
    bench.send(half("money")).expect("stored");
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    let written = bench.store.status().appended;
    std::thread::scope(|scope| {
        scope.spawn(|| bench.delivery.close());
        bench.until("it has begun", || bench.pull(held("orders", 2)).is_err());
        bench.delivery.abandon();
    });
    assert_eq!(bench.store.status().appended, written);
    open_again(bench);
}
