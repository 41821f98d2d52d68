//! Who owns a queue, also over restarts and changes of master.

use crate::bench::{Bench, PATIENCE, Pushes, SEGMENT, group, host, orders, replicated};
use parking_lot::Mutex;
use sluice_delivery::{Delivery, DeliveryOptions};
use sluice_env::{
    Monotonic, Rng,
    sim::{
        self, SimClock,
        threads::{self, Machine, Sim},
    },
};
use sluice_store::{FlushMode, MetaTable, Store, StoreOptions};
use sluice_types::{CommitLogOffset, QueueId, Topic};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::Duration,
};

/// How long a lock lasts in the walk, how long a client works on with one that it was granted, and when a record counts as late: a tenth of what they are in life.
const EXPIRY: Duration = Duration::from_secs(6);
const WORKS_ON: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_millis(500);

const NONE: [u32; 0] = [];

fn replicated_bench() -> Bench {
    let (_, disk, clock) = sim::env(3);
    Bench::open_with(disk, clock, replicated(), |_| ())
}

fn confirm(bench: &Bench) {
    bench.store.confirm(bench.store.marks().appended);
}

/// The broker after its process was killed.
fn killed(bench: Bench, store: StoreOptions) -> Bench {
    let (disk, clock) = (bench.disk.kill(), bench.clock.clone());
    bench.delivery.abandon();
    Bench::open_with(disk, clock, store, |_| ())
}

fn told(answer: &Receiver<Vec<u32>>) -> Vec<u32> {
    answer.recv_timeout(PATIENCE).expect("a lock is answered")
}

fn stored(bench: &Bench) -> usize {
    bench.store.meta(MetaTable::Locks).len()
}

fn wait(clock: &SimClock, seconds: u64) {
    clock.advance(Duration::from_secs(seconds));
}

#[test]
fn a_queue_lock_has_one_holder_until_it_is_given_back_or_runs_out() {
    let bench = Bench::new();
    let lock = |client: &str| bench.lock(client, &[0]).len();
    assert_eq!((lock("a"), lock("b"), lock("a")), (1, 0, 1));
    bench.unlock("b", &[0]);
    assert_eq!(lock("b"), 0, "somebody else's lock is not given back");
    bench.delivery.unregister("a", None, Some(&group("readers")));
    assert_eq!(lock("b"), 1);
    wait(&bench.clock, 61);
    assert_eq!(lock("a"), 1);
}

#[test]
fn after_a_start_a_queue_is_its_old_owners_until_the_lock_would_have_run_out() {
    for orderly in [true, false] {
        let mut bench = Bench::new();
        assert_eq!(bench.lock("a", &[0, 1]), [0, 1]);
        // Long ago, but renewed since: the record does not say.
        for _ in 0..4 {
            wait(&bench.clock, 50);
            assert_eq!(bench.lock("a", &[0, 1]), [0, 1]);
        }
        bench = if orderly { bench.restart() } else { killed(bench, StoreOptions { segment_bytes: SEGMENT, ..StoreOptions::default() }) };
        assert_eq!(bench.lock("b", &[0, 1, 2]), [2], "orderly: {orderly}");
        wait(&bench.clock, 60);
        assert_eq!(bench.lock("b", &[0]), NONE, "orderly: {orderly}");
        assert_eq!(bench.lock("a", &[0]), [0], "its owner renews it as ever");
        wait(&bench.clock, 1);
        assert_eq!(bench.lock("b", &[0, 1]), [1], "orderly: {orderly}");
    }
}

#[test]
fn a_lock_is_told_only_when_its_record_is_durable_and_meanwhile_is_nobody_elses() {
    for flush in [FlushMode::Sync, FlushMode::Async { interval: Duration::from_secs(1) }] {
        let (_, disk, clock) = sim::env(3);
        let bench = Bench::open_with(disk, clock, StoreOptions { flush, ..replicated() }, |_| ());
        let first = bench.lock_later("a", &[0, 1]);
        let (second, again) = (bench.lock("b", &[0]), bench.lock("a", &[0]));
        assert_eq!((second, again), (vec![], vec![]), "while the record is on its way");
        bench.until("written", || stored(&bench) == 2);
        bench.store.flush().expect("flushed");
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty), "told before it was confirmed");
        confirm(&bench);
        assert_eq!(told(&first), [0, 1]);
        assert_eq!((bench.lock("b", &[0]), bench.lock("a", &[0])), (vec![], vec![0]));
    }
}

#[test]
fn a_lock_whose_record_is_not_confirmed_in_time_is_not_told_and_free() {
    let bench = replicated_bench();
    let late = bench.lock_later("a", &[0]);
    wait(&bench.clock, 6);
    assert_eq!(told(&late), NONE);
    let other = bench.lock_later("b", &[0]);
    confirm(&bench);
    assert_eq!(told(&other), [0]);
    assert_eq!(bench.lock("a", &[0]), NONE);
}

#[test]
fn a_lock_whose_record_the_store_refuses_is_not_told_and_free() {
    let (_, disk, clock) = sim::env(3);
    let small = StoreOptions { segment_bytes: SEGMENT, append_queue_bytes_max: 500, ..StoreOptions::default() };
    let bench = Bench::open_with(disk, clock, small, |_| ());
    assert_eq!(bench.lock("a", &[7]), [7]);
    let many: Vec<u32> = (0..20).collect();
    assert_eq!(bench.lock("a", &many), [7], "what it has it keeps");
    assert_eq!(bench.lock("b", &[1]), [1]);
    assert_eq!((bench.lock("b", &[7]), bench.lock("a", &[1])), (vec![], vec![]));
}

#[test]
fn a_renewal_writes_nothing() {
    let bench = Bench::new();
    let written = || bench.store.status().appended;
    assert_eq!(bench.lock("a", &[0, 1]), [0, 1]);
    let before = written();
    for _ in 0..3 {
        wait(&bench.clock, 20);
        assert_eq!(bench.lock("a", &[1, 0]), [1, 0]);
    }
    assert_eq!(written(), before);
    // Also the first one after a start, where all that was read is durable.
    let bench = bench.restart();
    let before = bench.store.status().appended;
    assert_eq!(bench.lock("a", &[0, 1]), [0, 1]);
    assert_eq!(bench.store.status().appended, before);
}

#[test]
fn a_request_is_one_record_however_many_queues_it_claims() {
    let bench = Bench::new();
    let records = || bench.store.status().appended_records;
    let before = records();
    let many: Vec<u32> = (0..200).collect();
    assert_eq!(bench.lock("a", &many), many);
    assert_eq!(records(), before + 1);
    bench.unlock("a", &many);
    assert_eq!((records(), stored(&bench)), (before + 2, 0));
}

#[test]
fn what_is_given_back_is_free_at_once_and_after_a_start() {
    let bench = Bench::new();
    assert_eq!(bench.lock("a", &[0, 1, 2, 3]), [0, 1, 2, 3]);
    bench.unlock("a", &[0, 1]);
    assert_eq!(bench.lock("b", &[0]), [0]);
    bench.delivery.unregister("a", None, Some(&group("readers")));
    assert_eq!(bench.lock("b", &[2]), [2]);
    assert_eq!(stored(&bench), 2);
    let bench = bench.restart();
    assert_eq!(bench.lock("c", &[0, 1, 2, 3]), [1, 3]);
}

#[test]
fn what_is_given_back_while_its_record_is_on_its_way_is_not_told() {
    let bench = replicated_bench();
    let first = bench.lock_later("a", &[0]);
    bench.unlock("a", &[0]);
    let second = bench.lock_later("b", &[0]);
    confirm(&bench);
    assert_eq!((told(&first), told(&second)), (vec![], vec![0]));
}

/// What a client gives back and another one asks for, in one read of the network or on two threads, lies in the log together.
#[test]
fn a_lock_claimed_while_its_deletion_is_on_its_way_stays() {
    let bench = Bench::new();
    assert_eq!(bench.lock("a", &[0]), [0]);
    let next = bench.store.corked(|| {
        bench.unlock("a", &[0]);
        bench.lock_later("b", &[0])
    });
    assert_eq!(told(&next), [0]);
    assert_eq!(bench.lock("a", &[0]), NONE);
}

#[test]
fn locks_that_have_run_out_leave_the_log() {
    let bench = Bench::new();
    let many: Vec<u32> = (0..1_500).collect();
    assert_eq!(bench.lock("a", &many), many);
    wait(&bench.clock, 50);
    assert_eq!(bench.lock("a", &[1]), [1]);
    wait(&bench.clock, 20);
    bench.until("all but one are gone", || stored(&bench) == 1);
    assert_eq!(bench.lock("b", &[0, 1]), [0]);
}

#[test]
fn a_deletion_that_the_store_refused_comes_later() {
    let (_, disk, clock) = sim::env(3);
    let small = StoreOptions { segment_bytes: SEGMENT, append_queue_bytes_max: 500, ..StoreOptions::default() };
    let bench = Bench::open_with(disk, clock, small, |_| ());
    for queue in 0..30 {
        assert_eq!(bench.lock("a", &[queue]), [queue]);
    }
    let many: Vec<u32> = (0..30).collect();
    bench.unlock("a", &many);
    assert_eq!(stored(&bench), 30, "too much for the queue");
    for queue in 3..30 {
        assert_eq!(bench.lock("b", &[queue]), [queue]);
    }
    wait(&bench.clock, 10);
    bench.until("the others are gone", || stored(&bench) == 27);
    assert_eq!(bench.lock("a", &many), [0, 1, 2]);
}

/// Whoever was master before may have known better: with the log cut at what is confirmed the record is gone.
#[test]
fn a_lock_from_before_the_opening_is_renewed_only_when_its_record_is_known_to_be_durable() {
    let bench = replicated_bench();
    let first = bench.lock_later("a", &[0]);
    confirm(&bench);
    assert_eq!(told(&first), [0]);
    // What was confirmed is not known any more.
    let bench = killed(bench, replicated());
    assert_eq!(stored(&bench), 1);
    assert!(bench.store.marks().confirmed < bench.store.marks().appended);
    let renewal = bench.lock_later("a", &[0]);
    assert_eq!(bench.lock("b", &[0]), NONE);
    assert_eq!(renewal.try_recv(), Err(TryRecvError::Empty));
    wait(&bench.clock, 6);
    assert_eq!(told(&renewal), NONE, "not confirmed in time");
    assert_eq!(bench.lock("b", &[0]), NONE, "its owner may still be at work");
    let renewal = bench.lock_later("a", &[0]);
    confirm(&bench);
    assert_eq!(told(&renewal), [0]);
    let before = bench.store.status().appended;
    assert_eq!(bench.lock("a", &[0]), [0]);
    assert_eq!(bench.store.status().appended, before);
}

#[test]
fn one_request_claims_no_more_than_a_batch_can_carry_and_the_rest_comes_with_the_next() {
    let (_, disk, clock) = sim::env(3);
    let bench = Bench::open_with(disk, clock, StoreOptions { segment_bytes: 8 << 20, ..StoreOptions::default() }, |_| ());
    let many: Vec<u32> = (0..2_500).collect();
    let client = "x".repeat(1_000);
    let first = bench.lock(&client, &many);
    assert!((900..1_100).contains(&first.len()), "{}", first.len());
    assert!(bench.lock(&client, &many).len() > 1_900);
    assert_eq!(bench.lock(&client, &many), many);
}

#[test]
fn a_broker_that_has_ended_grants_and_renews_nothing() {
    for end in [Delivery::close, Delivery::abandon] {
        let bench = Bench::new();
        assert_eq!(bench.lock("a", &[0]), [0]);
        end(&bench.delivery);
        let before = bench.store.status().appended;
        assert_eq!((bench.lock("a", &[0]), bench.lock("b", &[1])), (vec![], vec![]));
        bench.unlock("a", &[0]);
        bench.delivery.unregister("a", None, Some(&group("readers")));
        assert_eq!((stored(&bench), bench.store.status().appended), (1, before));
    }
}

/// What clients believe to own, each until when; and what went wrong.
#[derive(Default)]
struct Beliefs {
    queues: BTreeMap<(QueueId, String), Monotonic>,
    told: usize,
    taken_over: usize,
    wrong: Vec<String>,
}

impl Beliefs {
    fn told(&mut self, client: &str, queues: Vec<(Topic, QueueId)>, now: Monotonic) {
        for (_, queue) in queues {
            self.told += 1;
            let others: Vec<_> = self.queues.iter().filter(|((of, owner), _)| *of == queue && owner != client).collect();
            self.taken_over += others.len();
            self.wrong.extend(others.iter().filter(|(_, until)| **until > now).map(|((_, owner), _)| format!("{queue}: {owner} and {client} at {now:?}")));
            self.queues.retain(|(of, _), _| *of != queue);
            self.queues.insert((queue, client.to_owned()), now + WORKS_ON);
        }
    }
}

/// Random clients of one broker after another, each of which has the log of the one before: all of it, or only what was confirmed.
struct Walk {
    machine: Machine,
    /// Empty between two masters.
    delivery: Option<Arc<Delivery>>,
    /// What was confirmed to any master.
    confirmed: CommitLogOffset,
    beliefs: Arc<Mutex<Beliefs>>,
    rng: Arc<dyn Rng>,
}

fn master(machine: &Machine) -> Arc<Delivery> {
    let env = machine.env();
    let store = Store::open(env.clone(), StoreOptions { flush_deadline: DEADLINE, ..replicated() }).expect("the one before has let go of it");
    let worker = machine.clone();
    let spawn: sluice_delivery::SpawnWork = Arc::new(move |work| worker.spawn("work", work));
    let options = DeliveryOptions { lock_expiry: EXPIRY, client_expiry: Duration::from_secs(2), ..DeliveryOptions::new(host()) };
    Delivery::open(store, env, options, Arc::new(Pushes::default()), spawn).expect("opens")
}

impl Walk {
    fn begin(machine: &Machine) -> Self {
        Self { machine: machine.clone(), delivery: Some(master(machine)), confirmed: CommitLogOffset(0), beliefs: Arc::default(), rng: machine.env().rng }
    }

    fn delivery(&self) -> &Delivery {
        self.delivery.as_ref().expect("a master")
    }

    fn random(&self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    fn lock(&self, client: String, queues: &[u32]) {
        let (beliefs, clock, name) = (self.beliefs.clone(), self.machine.env().clock, client.clone());
        let done = move |held| beliefs.lock().told(&name, held, clock.monotonic());
        self.delivery().locks().lock(&group("readers"), &client, &orders(queues), Box::new(done));
    }

    fn confirm(&mut self) {
        self.confirmed = self.delivery().store().marks().appended;
        self.delivery().store().confirm(self.confirmed);
    }

    fn change_of_master(&mut self) {
        self.delivery().abandon();
        if self.random(2) == 0 {
            self.delivery().store().order_cut(self.confirmed).expect("nothing confirmed is cut");
        }
        self.delivery = None;
        self.delivery = Some(master(&self.machine));
    }

    fn step(&mut self, number: u64) {
        // Each falls silent for a while.
        let client = format!("client-{}", (number / 50 + self.random(2)) % 3);
        let first = self.random(4) as u32;
        match self.random(20) {
            0..8 => self.lock(client, &[first, (first + 1) % 4]),
            8 => {
                self.beliefs.lock().queues.retain(|(queue, owner), _| queue.0 != first || *owner != client);
                self.delivery().locks().unlock(&group("readers"), &client, &orders(&[first]));
            }
            9 => {
                self.beliefs.lock().queues.retain(|(_, owner), _| *owner != client);
                self.delivery().unregister(&client, None, Some(&group("readers")));
            }
            10..15 => self.confirm(),
            15..19 => threads::sleep(Duration::from_millis(self.random(2_000))),
            _ => self.change_of_master(),
        }
    }
}

#[test]
fn no_queue_ever_has_two_clients_that_believe_to_own_it() {
    let (mut told, mut taken_over) = (0, 0);
    for seed in 0..12 {
        let sim = Sim::new(seed);
        let machine = sim.machine("broker");
        let here = machine.clone();
        let walk = move || {
            let mut walk = Walk::begin(&here);
            (0..600).for_each(|number| walk.step(number));
            walk.delivery().abandon();
            std::mem::take(&mut *walk.beliefs.lock())
        };
        let beliefs = sim.block_on(&machine, "clients", walk).expect("goes on");
        assert_eq!(beliefs.wrong, Vec::<String>::new(), "seed {seed}");
        told += beliefs.told;
        taken_over += beliefs.taken_over;
    }
    println!("{told} locks told, {taken_over} of them taken over");
    assert!(told > 1_000 && taken_over > 50, "{told} {taken_over}");
}
