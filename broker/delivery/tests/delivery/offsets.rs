//! When a committed offset may be told, and what a told one survives.

use crate::bench::{Bench, PATIENCE, Pushes, group, host, message, pull_of, replicated, topic};
use parking_lot::Mutex;
use sluice_delivery::{
    ConnectionId, Delivery, DeliveryOptions, OffsetError, OffsetReset, PullRequest, PullStatus, ResetError, ResetTo, SubscriptionGroupConfig, TopicConfig,
};
use sluice_env::{
    Rng,
    sim::{
        self,
        threads::{self, Machine, Sim},
    },
};
use sluice_store::{AppendError, FlushMode, Late, MetaTable, Store, StoreOptions};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::Duration,
};

/// A broker of a group, with a message in each queue of `orders`.
fn replicated_bench(flush: FlushMode) -> Bench {
    let (_, disk, clock) = sim::env(3);
    let bench = Bench::open_with(disk, clock, StoreOptions { flush, ..replicated() }, |_| ());
    bench.delivery.topics().put(TopicConfig::new(topic("orders"), 4), Box::new(|_| ()));
    bench.delivery.groups().put(SubscriptionGroupConfig::new(group("readers")), Box::new(|_| ()));
    for queue_id in 0..4 {
        bench.delivery.send(sluice_delivery::SendRequest { queue_id, ..message("orders", "one") }, Box::new(|_| ()));
    }
    bench.until("written", || bench.store.status().appended_records >= 6);
    confirm(&bench);
    bench
}

fn asynchronous() -> FlushMode {
    FlushMode::Async { interval: Duration::from_secs(1) }
}

fn confirm(bench: &Bench) {
    bench.store.flush().expect("flushed");
    bench.store.confirm(bench.store.marks().appended);
}

fn commit(bench: &Bench, queue: i32, offset: i64) {
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), queue, offset).expect("taken");
}

fn commit_stored(bench: &Bench, offset: i64) -> Receiver<Result<(), OffsetError>> {
    let (sender, receiver) = mpsc::channel();
    bench.delivery.commit_offset_stored(&group("readers"), &topic("orders"), 0, offset, Box::new(move |result| drop(sender.send(result))));
    receiver
}

fn answer<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("answered")
}

fn is_waiting<T>(receiver: &Receiver<T>) -> bool {
    matches!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty))
}

fn seen(bench: &Bench) -> Option<QueueOffset> {
    bench.delivery.offsets().get("readers", "orders", QueueId(0))
}

fn records(bench: &Bench) -> u64 {
    bench.store.status().appended_records
}

fn written(bench: &Bench) -> usize {
    bench.store.meta(MetaTable::Offsets).len()
}

const fn at(offset: u64) -> Result<QueueOffset, OffsetError> {
    Ok(QueueOffset(offset))
}

fn back() -> OffsetReset {
    OffsetReset { group: group("readers"), topic: topic("orders"), queue_id: Some(0), to: ResetTo::Offset(0), forward: true }
}

fn reset(bench: &Bench) -> Receiver<Result<BTreeMap<QueueId, QueueOffset>, ResetError>> {
    let (sender, receiver) = mpsc::channel();
    bench.delivery.reset_offsets(&back(), Box::new(move |result| drop(sender.send(result))));
    receiver
}

#[test]
fn an_offset_is_told_only_when_it_is_stored_and_then_at_once() {
    for flush in [FlushMode::Sync, asynchronous()] {
        let bench = replicated_bench(flush);
        commit(&bench, 0, 1);
        let asked = bench.ask_later(0, true, 1);
        bench.until("written for who asks", || written(&bench) == 1);
        bench.store.flush().expect("flushed");
        assert!(is_waiting(&asked), "told before it was confirmed");
        confirm(&bench);
        assert_eq!(answer(&asked), at(1));
        let before = records(&bench);
        assert_eq!(bench.ask_later(0, true, 1).try_recv(), Ok(at(1)));
        commit(&bench, 0, 1);
        assert_eq!(bench.ask_later(0, true, 1).try_recv(), Ok(at(1)), "a commit that changes nothing");
        assert_eq!(records(&bench), before);
    }
}

#[test]
fn on_a_broker_alone_an_offset_is_told_when_it_is_flushed_or_without_that_appended() {
    let bench = Bench::new();
    bench.send(message("orders", "one")).expect("stored");
    commit(&bench, 0, 1);
    assert_eq!(bench.ask_later(0, true, 1).try_recv(), Ok(at(1)), "within the call");
    assert_eq!(written(&bench), 1);

    let (_, disk, clock) = sim::env(3);
    let bench = Bench::open_sync(disk, clock);
    bench.send(message("orders", "one")).expect("stored");
    commit(&bench, 0, 1);
    assert_eq!(bench.ask(0, true, 1), at(1));
    let crashed = Bench::open_sync(bench.disk.crash(1), bench.clock.clone());
    let before = records(&crashed);
    assert_eq!(crashed.ask(0, true, 1), at(1));
    assert_eq!(records(&crashed), before, "what recovery has found is stored");
}

#[test]
fn questions_share_writes() {
    let bench = replicated_bench(asynchronous());
    (0..4).for_each(|queue| commit(&bench, queue, 1));
    bench.delivery.offsets().commit(&group("others"), &topic("orders"), QueueId(0), QueueOffset(1));
    let before = records(&bench);
    let asked: Vec<_> = (0..12).map(|number| bench.ask_later(number % 4, true, 1)).collect();
    assert_eq!((records(&bench), written(&bench)), (before + 1, 4), "one write for all that the group has changed, and for nobody else's");
    // Commits meanwhile: the first question after them takes all of them along.
    (0..4).for_each(|queue| commit(&bench, queue, 0));
    let later: Vec<_> = (0..12).map(|number| bench.ask_later(number % 4, true, 1)).collect();
    assert_eq!(records(&bench), before + 2);
    confirm(&bench);
    assert!(asked.iter().all(|asked| answer(asked) == at(1)) && later.iter().all(|asked| answer(asked) == at(0)));
}

#[test]
fn a_question_is_answered_by_the_write_that_it_waits_for_whatever_is_committed_meanwhile() {
    let bench = replicated_bench(asynchronous());
    commit(&bench, 0, 1);
    let first = bench.ask_later(0, true, 1);
    let mark = bench.store.marks().appended;
    commit(&bench, 0, 0);
    let second = bench.ask_later(0, true, 1);
    bench.store.confirm(mark);
    assert_eq!(answer(&first), at(1));
    assert!(is_waiting(&second));
    assert_eq!(seen(&bench), Some(QueueOffset(1)));
    confirm(&bench);
    assert_eq!(answer(&second), at(0));
}

#[test]
fn a_question_whose_write_is_late_gets_an_error_and_the_offset_is_written_again() {
    let bench = replicated_bench(asynchronous());
    commit(&bench, 0, 1);
    let (asked, stored) = (bench.ask_later(0, true, 1), commit_stored(&bench, 1));
    bench.until("its time is over", || {
        bench.clock.advance(Duration::from_millis(100));
        !is_waiting(&stored)
    });
    let late = answer(&asked).expect_err("not confirmed");
    assert!(matches!(late, OffsetError::Store { error: AppendError::Late(Late::Confirmation, _), .. }), "{late}");
    assert_eq!(seen(&bench), None, "nothing was ever stored");
    let before = records(&bench);
    bench.until("written again", || {
        bench.clock.advance(Duration::from_millis(100));
        records(&bench) > before
    });
    confirm(&bench);
    assert_eq!(bench.ask(0, true, 1), at(1));
}

#[test]
fn with_fewer_replicas_than_there_should_be_offsets_are_told_all_the_same() {
    let bench = replicated_bench(asynchronous());
    bench.store.set_too_few(true);
    commit(&bench, 0, 1);
    let asked = bench.ask_later(0, true, 1);
    confirm(&bench);
    assert_eq!(answer(&asked), at(1));
    let before = records(&bench);
    bench.flush_offsets();
    assert_eq!(records(&bench), before, "what all members of the set hold needs no second write");
}

#[test]
fn a_commit_is_told_to_be_stored_when_it_is() {
    for flush in [FlushMode::Sync, asynchronous()] {
        let bench = replicated_bench(flush);
        let stored = commit_stored(&bench, 1);
        bench.until("written for who waits", || written(&bench) == 1);
        bench.store.flush().expect("flushed");
        assert!(is_waiting(&stored));
        confirm(&bench);
        assert_eq!(answer(&stored), Ok(()));
        assert_eq!(commit_stored(&bench, 1).try_recv(), Ok(Ok(())), "the same again");
        assert_eq!(answer(&commit_stored(&bench, -1)), Err(OffsetError::Negative(-1)));
    }
}

#[test]
fn who_looks_on_is_told_at_once_what_was_stored_last() {
    let bench = replicated_bench(asynchronous());
    let told = |bench: &Bench| {
        let listed = bench.delivery.offsets().list("readers").first().map(|committed| committed.offset);
        (seen(bench), listed, bench.delivery.lag().rows.iter().map(|row| row.lag).sum::<u64>())
    };
    commit(&bench, 0, 0);
    assert_eq!(told(&bench), (None, None, 0), "the first commit is not stored yet");
    let asked = bench.ask_later(0, true, 1);
    confirm(&bench);
    answer(&asked).expect("stored");
    assert_eq!(told(&bench), (Some(QueueOffset(0)), Some(QueueOffset(0)), 1));
    commit(&bench, 0, 1);
    let asked = bench.ask_later(0, true, 1);
    assert_eq!(told(&bench), (Some(QueueOffset(0)), Some(QueueOffset(0)), 1));
    confirm(&bench);
    answer(&asked).expect("stored");
    assert_eq!(told(&bench), (Some(QueueOffset(1)), Some(QueueOffset(1)), 0));
}

#[test]
fn offsets_from_before_a_start_are_told_when_what_the_log_holds_is_confirmed() {
    let bench = replicated_bench(asynchronous());
    commit(&bench, 0, 1);
    let asked = bench.ask_later(0, true, 1);
    confirm(&bench);
    answer(&asked).expect("stored");
    commit(&bench, 0, 0);
    drop(bench.ask_later(0, true, 1));
    let (disk, clock) = (bench.disk.kill(), bench.clock.clone());
    bench.delivery.abandon();
    let bench = Bench::open_with(disk, clock, replicated(), |_| ());
    let asked = bench.ask_later(0, true, 1);
    assert!(is_waiting(&asked), "its record may still be cut");
    assert_eq!(seen(&bench), None);
    confirm(&bench);
    assert_eq!(answer(&asked), at(0));
}

#[test]
fn who_asked_before_a_reset_does_not_know_of_it() {
    let bench = replicated_bench(asynchronous());
    commit(&bench, 0, 1);
    let asked = bench.ask_later(0, true, 2);
    let done = reset(&bench);
    assert!(is_waiting(&asked) && is_waiting(&done));
    confirm(&bench);
    assert_eq!(answer(&asked), at(1));
    answer(&done).expect("reset");
    let pull = |connection, offset| bench.pull(PullRequest { connection: ConnectionId(connection), ..pull_of("orders", offset) }).expect("answered").status;
    assert_eq!(pull(2, 1), PullStatus::OffsetMoved);
    // One that gets no answer does not know either.
    let done = reset(&bench);
    commit(&bench, 0, 0);
    confirm(&bench);
    answer(&done).expect("reset");
    assert_eq!(bench.ask(0, true, 3), at(0));
    assert_eq!(pull(3, 0), PullStatus::Found);
}

#[test]
fn who_asked_in_vain_does_not_know_of_a_reset() {
    let bench = replicated_bench(asynchronous());
    commit(&bench, 0, 1);
    let (done, asked) = (reset(&bench), bench.ask_later(0, true, 2));
    bench.until("their time is over", || {
        bench.clock.advance(Duration::from_millis(100));
        !is_waiting(&done)
    });
    answer(&asked).expect_err("not confirmed");
    let pull = |offset| bench.pull(PullRequest { connection: ConnectionId(2), ..pull_of("orders", offset) }).expect("answered").status;
    assert_eq!(pull(1), PullStatus::OffsetMoved);
}

#[test]
fn a_reset_is_done_when_its_offsets_are_stored_also_by_another_write() {
    let bench = replicated_bench(asynchronous());
    commit(&bench, 0, 1);
    // Its held pull is answered in the middle of the reset, and everything is written then.
    let delivery = bench.delivery.clone();
    let held = PullRequest { suspend: Some(Duration::from_secs(30)), ..pull_of("orders", 1) };
    bench.delivery.pull(held, Box::new(move |_| delivery.offsets().flush(Box::new(|_| ()))));
    bench.until("held", || bench.delivery.held_pulls() == 1);
    let done = reset(&bench);
    assert_eq!(written(&bench), 1);
    assert!(is_waiting(&done), "told to be done before it was stored");
    confirm(&bench);
    assert_eq!(answer(&done).expect("reset"), BTreeMap::from([(QueueId(0), QueueOffset(0))]));
}

#[test]
fn copied_offsets_are_told_to_be_there_when_they_are_stored() {
    let bench = replicated_bench(asynchronous());
    (0..3).for_each(|queue| commit(&bench, queue, 1));
    for topic in [None, Some(topic("orders"))] {
        let to = group(if topic.is_none() { "all" } else { "one" });
        let (sender, receiver) = mpsc::channel();
        bench.delivery.offsets().copy_group(&group("readers"), &to, topic.as_ref(), Box::new(move |result| drop(sender.send(result))));
        assert!(is_waiting(&receiver));
        confirm(&bench);
        assert_eq!(answer(&receiver), Ok(()));
        assert_eq!(bench.delivery.offsets().list(to.as_str()).len(), 3);
    }
}

#[test]
fn a_deleted_groups_or_topics_offsets_are_gone_when_the_deletion_is_told() {
    for of_topic in [false, true] {
        let bench = replicated_bench(asynchronous());
        commit(&bench, 0, 1);
        let asked = bench.ask_later(0, true, 1);
        confirm(&bench);
        assert_eq!(answer(&asked), at(1));
        let (sender, receiver) = mpsc::channel();
        if of_topic {
            bench.delivery.delete_topic(&topic("orders"), Box::new(move |result| drop(sender.send(result.map_err(|error| error.to_string())))));
        } else {
            bench.delivery.delete_group(&group("readers"), true, Box::new(move |result| drop(sender.send(result.map_err(|error| error.to_string())))));
        }
        assert_eq!((seen(&bench), written(&bench)), (None, 0), "of a topic: {of_topic}");
        assert!(is_waiting(&receiver));
        confirm(&bench);
        answer(&receiver).expect("deleted");
        assert_eq!(bench.delivery.offsets().groups(), []);
    }
}

/// What clients were told, and what went wrong.
#[derive(Default)]
struct Told {
    /// Of each queue the furthest offset that anybody was told or whose commit was told to be stored.
    furthest: BTreeMap<u32, u64>,
    answers: usize,
    refused: usize,
    wrong: Vec<String>,
}

/// Random commits and questions to one broker after another, each of which has the log of the one before: all of it, or only what was confirmed.
struct Walk {
    machine: Machine,
    /// Empty between two masters.
    delivery: Option<Arc<Delivery>>,
    /// What was confirmed to any master.
    confirmed: CommitLogOffset,
    /// What members have consumed: only ever more.
    consumed: [u64; 2],
    told: Arc<Mutex<Told>>,
    rng: Arc<dyn Rng>,
    changes: usize,
}

fn master(machine: &Machine) -> Arc<Delivery> {
    let env = machine.env();
    let store = StoreOptions { flush_deadline: Duration::from_millis(500), ..replicated() };
    let store = Store::open(env.clone(), store).expect("the one before has let go of it");
    // As a master does before it lets clients in.
    store.confirm(store.marks().appended);
    let worker = machine.clone();
    let spawn: sluice_delivery::SpawnWork = Arc::new(move |work| worker.spawn("work", work));
    Delivery::open(store, env, DeliveryOptions::new(host()), Arc::new(Pushes::default()), spawn).expect("opens")
}

impl Walk {
    fn begin(machine: &Machine) -> Self {
        let (rng, delivery) = (machine.env().rng, Some(master(machine)));
        let mut walk = Self { machine: machine.clone(), delivery, confirmed: CommitLogOffset(0), consumed: [1; 2], told: Arc::default(), rng, changes: 0 };
        walk.delivery().topics().put(TopicConfig::new(topic("orders"), 2), Box::new(|_| ()));
        walk.delivery().groups().put(SubscriptionGroupConfig::new(group("readers")), Box::new(|_| ()));
        walk.confirm();
        walk
    }

    fn delivery(&self) -> &Delivery {
        self.delivery.as_ref().expect("a master")
    }

    fn random(&self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    fn confirm(&mut self) {
        self.confirmed = self.delivery().store().marks().appended;
        self.delivery().store().confirm(self.confirmed);
    }

    fn ask(&self, queue: u32) {
        let told = self.told.clone();
        let before = told.lock().furthest.get(&queue).copied();
        let done = move |result: Result<QueueOffset, OffsetError>| {
            let mut told = told.lock();
            match result {
                Ok(offset) => {
                    told.answers += 1;
                    if before.is_some_and(|before| offset.0 < before) {
                        told.wrong.push(format!("{queue}: {offset} after {before:?}"));
                    }
                    let furthest = told.furthest.entry(queue).or_default();
                    *furthest = offset.0.max(*furthest);
                }
                Err(OffsetError::NotFound(..)) if before.is_none() => {}
                Err(OffsetError::Store { .. }) => told.refused += 1,
                Err(error) => told.wrong.push(format!("{queue}: {error} after {before:?}")),
            }
        };
        self.delivery().query_offset(&group("readers"), &topic("orders"), queue as i32, false, ConnectionId(1), Box::new(done));
    }

    fn commit(&mut self, queue: u32, wants_answer: bool) {
        self.consumed[queue as usize] += 1 + self.random(3);
        let offset = self.consumed[queue as usize];
        let (readers, orders, told) = (group("readers"), topic("orders"), self.told.clone());
        if !wants_answer {
            return self.delivery().commit_offset(&readers, &orders, queue as i32, offset as i64).expect("taken");
        }
        let done = move |result: Result<(), OffsetError>| {
            if result.is_ok() {
                let mut told = told.lock();
                told.answers += 1;
                let furthest = told.furthest.entry(queue).or_default();
                *furthest = offset.max(*furthest);
            }
        };
        self.delivery().commit_offset_stored(&readers, &orders, queue as i32, offset as i64, Box::new(done));
    }

    /// What a statistic shows is no promise, but never more than what stays.
    fn look(&self, queue: u32) {
        let mut told = self.told.lock();
        let shown = self.delivery().offsets().get("readers", "orders", QueueId(queue)).map(|offset| offset.0);
        let furthest = told.furthest.get(&queue).copied();
        if shown < furthest {
            told.wrong.push(format!("{queue}: {shown:?} is shown after {furthest:?}"));
        }
        if let Some(shown) = shown {
            told.furthest.insert(queue, furthest.unwrap_or_default().max(shown));
        }
    }

    fn change_of_master(&mut self) {
        self.delivery().abandon();
        if self.random(2) == 0 {
            self.delivery().store().order_cut(self.confirmed).expect("nothing confirmed is cut");
        }
        self.delivery = None;
        self.delivery = Some(master(&self.machine));
        self.confirmed = self.delivery().store().marks().confirmed;
        self.changes += 1;
    }

    fn step(&mut self) {
        let queue = self.random(2) as u32;
        match self.random(24) {
            0..6 => self.commit(queue, false),
            6..9 => self.commit(queue, true),
            9..15 => self.ask(queue),
            15..17 => self.look(queue),
            17..20 => self.confirm(),
            20..23 => threads::sleep(Duration::from_millis(self.random(400))),
            _ => self.change_of_master(),
        }
    }
}

#[test]
fn no_offset_that_was_told_ever_goes_back() {
    let (mut answers, mut refused, mut changes) = (0, 0, 0);
    for seed in 0..12 {
        let sim = Sim::new(seed);
        let machine = sim.machine("broker");
        let here = machine.clone();
        let walk = move || {
            let mut walk = Walk::begin(&here);
            (0..600).for_each(|_| walk.step());
            walk.delivery().abandon();
            (std::mem::take(&mut *walk.told.lock()), walk.changes)
        };
        let (told, changed) = sim.block_on(&machine, "clients", walk).expect("goes on");
        assert_eq!(told.wrong, Vec::<String>::new(), "seed {seed}");
        (answers, refused, changes) = (answers + told.answers, refused + told.refused, changes + changed);
    }
    println!("{answers} answers, {refused} refused, {changes} changes of master");
    assert!(answers > 1_000 && refused > 20 && changes > 100, "{answers} {refused} {changes}");
}
