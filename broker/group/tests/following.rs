//! A master and a replica over simulated machines, disks and links: what the master acknowledges the replica has, whatever happens to it and to the link meanwhile.

use sluice_env::{
    Env,
    sim::threads::{Machine, Sim, Timing, sleep},
    sync::Mutex,
};
use sluice_group::{
    link::Link,
    master::{Lead, Master},
    replica::{Ended, Loyalty, Replica},
    yielding::Tail,
};
use sluice_protocol::record::{RecordFields, RecordView};
use sluice_replication::{
    Epoch, GroupState, Held, Incarnation, Member, MemberId, Seen,
    wire::{Ack, Beat, Data, Message, Welcome},
};
use sluice_store::{AppendError, Batch, FlushMode, Placed, ReadLimits, Store, StoreOptions, Wait};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset, Topic};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

const PLACE: &str = "a:10912";
const SEGMENT_BYTES: u64 = 128 << 10;
const QUEUES: u32 = 3;

fn member(id: u32) -> Member {
    Member { id: MemberId(id), store: Incarnation(id.into()) }
}

/// Member 1 is master and waits for member 2.
fn state() -> GroupState {
    let mut state = GroupState::first(member(1));
    state.in_sync.insert(member(2));
    state
}

fn options(flush: FlushMode) -> StoreOptions {
    StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        flush,
        replicated: true,
        checkpoint_interval: Duration::from_secs(2),
        key_index: false,
        ..StoreOptions::default()
    }
}

fn open(env: &Env, flush: FlushMode) -> Arc<Store> {
    Store::open(env.clone(), options(flush)).unwrap_or_else(|error| panic!("opening: {error}"))
}

/// What a master has acknowledged: bodies by queue and queue offset; and whether it has stopped to be one.
#[derive(Default)]
struct Term {
    acked: Mutex<BTreeMap<(u32, u64), Vec<u8>>>,
    is_over: AtomicBool,
    others_write: bool,
    asked: AtomicU64,
}

struct Leader {
    store: Arc<Store>,
    replica: Mutex<Held>,
    term: Arc<Term>,
}

impl Leader {
    /// What both hold by the rule of their flush.
    fn confirm(&self) {
        let (own, other) = (self.store.marks(), *self.replica.lock());
        let both = match self.store.flush_mode() {
            FlushMode::Sync => own.flushed.min(other.flushed),
            FlushMode::Async { .. } => own.appended.min(other.received),
        };
        self.store.confirm(both);
    }
}

impl Lead for Leader {
    fn state(&self) -> Option<GroupState> {
        (!self.term.is_over.load(Ordering::SeqCst)).then(state)
    }

    fn newest(&self) -> Option<GroupState> {
        None
    }

    fn renewal(&self) -> u64 {
        0
    }

    fn tail(&self) -> Option<Tail> {
        // Before the first piece and after the look; then others wait ten times as long.
        let asked = self.term.asked.fetch_add(1, Ordering::SeqCst);
        let millis = if asked < 2 { 1 } else { 10 };
        self.term.others_write.then_some(Tail { wait: Duration::from_millis(millis), growth: 0.0 })
    }

    fn joined(&self, _: Member) {}

    fn left(&self, _: Member) {}

    fn must_hold(&self, _: Member) -> Option<CommitLogOffset> {
        None
    }

    fn acked(&self, from: Member, Ack { epoch, held, .. }: Ack) -> Result<(), String> {
        assert_eq!(epoch, Epoch(1));
        if from != member(2) {
            return Ok(());
        }
        if held.received > self.store.marks().appended {
            return Err(format!("{held:?} is beyond the end"));
        }
        {
            let mut known = self.replica.lock();
            known.received = known.received.max(held.received);
            known.flushed = known.flushed.max(held.flushed);
        }
        self.confirm();
        Ok(())
    }
}

fn master() -> Master {
    Master { cluster: "c".into(), group: "g".into(), place: "a:10911".into(), beat: Duration::from_millis(200), patience: Duration::from_secs(1) }
}

/// Runs the master: listens, serves who comes, appends so many messages by each of two threads and notes what was acknowledged.
fn lead(machine: &Machine, flush: FlushMode, term: &Arc<Term>, messages: u32) {
    let (env, term) = (machine.env(), term.clone());
    machine.spawn("master", move || {
        let store = open(&env, flush);
        store.begin_epoch(1).expect("begun");
        let leader = Arc::new(Leader { store: store.clone(), replica: Mutex::default(), term: term.clone() });
        for producer in 0..2_u32 {
            let (store, term) = (store.clone(), term.clone());
            start(&env, "producer", move || (0..messages).for_each(|number| produce(&store, producer, number, &term)));
        }
        let own = leader.clone();
        start(&env, "own-progress", move || {
            loop {
                let seen = own.store.marks();
                own.confirm();
                own.store.await_progress(flush.mark(), seen, Duration::from_secs(1));
            }
        });
        let listener = env.net.listen(PLACE).expect("free");
        loop {
            let Ok(connection) = listener.accept(Duration::from_secs(1)) else { continue };
            let (inside, store, lead) = (env.clone(), store.clone(), leader.clone() as Arc<dyn Lead>);
            start(&env, "serve", move || {
                let mut link = Link::new(connection);
                let Ok(Message::Hello(hello)) = link.receiver.receive(Duration::from_secs(1)) else { return };
                drop(master().serve(&inside, link, &hello, &store, &lead));
            });
        }
    });
}

fn start(env: &Env, name: &str, body: impl FnOnce() + Send + 'static) {
    drop(env.spawn.thread(name, Box::new(body)).expect("the machine lives"));
}

fn append(store: &Store, queue: u32, body: &[u8], wait: Wait) -> Result<Vec<Placed>, AppendError> {
    let host = "127.0.0.1:10911".parse().expect("literal");
    let fields = RecordFields {
        topic: "orders",
        queue_id: queue as i32,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: "",
    };
    let mut batch = Batch::new();
    batch.push(&store.queue(&Topic::new("orders").expect("legal"), QueueId(queue)), &fields).expect("encodes");
    store.append(batch, wait)
}

fn produce(store: &Store, producer: u32, number: u32, term: &Arc<Term>) {
    let queue = number % QUEUES;
    let mut body = format!("{producer} {number} ").into_bytes();
    body.resize(50 + (number as usize * 397) % 3000, b'x');
    if let Ok(placed) = append(store, queue, &body, Wait::Durable) {
        let before = term.acked.lock().insert((queue, placed[0].queue_offset.0), body);
        assert!(before.is_none(), "a queue offset was acknowledged twice");
    }
    sleep(Duration::from_millis(5));
}

fn replica() -> Replica {
    Replica { cluster: "c".into(), group: "g".into(), member: member(2), patience: Duration::from_secs(1) }
}

struct Loyal;

impl Loyalty for Loyal {
    fn seen(&self) -> Seen {
        state().seen()
    }

    fn welcomed(&self, welcome: &Welcome) -> bool {
        welcome.state == state() && welcome.place == "a:10911"
    }

    fn heard(&self, beat: &Beat) -> bool {
        beat.state == state()
    }

    fn while_following(&self, epoch: Epoch, what: &mut dyn FnMut()) -> bool {
        if epoch == Epoch(1) {
            what();
        }
        epoch == Epoch(1)
    }
}

/// Runs the replica, from each end of its connection to the next.
fn follow(machine: &Machine, flush: FlushMode) {
    let env = machine.env();
    machine.spawn("replica", move || {
        let replica = replica();
        let mut store = open(&env, flush);
        loop {
            let Ok(connection) = env.net.connect(PLACE, Duration::from_secs(1)) else {
                sleep(Duration::from_millis(100));
                continue;
            };
            match replica.follow(&connection, &store, &Loyal) {
                Ended::Link(_) => sleep(Duration::from_millis(50)),
                Ended::Cut(to) => {
                    store.order_cut(to).expect("ordered");
                    drop(store);
                    store = open(&env, flush);
                }
                other => panic!("the replica stopped: {other}"),
            }
        }
    });
}

/// What can happen to the replica and to the link, and is over when this comes back.
fn trouble(sim: &Sim, a: &Machine, b: &Machine, flush: FlushMode, kind: u64, seed: u64) {
    let pause = |millis| sim.run_for(Duration::from_millis(millis)).unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
    let network = sim.network();
    match kind {
        0 => network.reset(a, b),
        1 => {
            network.cut(a, b);
            pause(300 + seed % 2000);
            network.heal(a, b);
        }
        2 => {
            network.cut(b, a);
            pause(300 + seed % 2000);
            network.heal(b, a);
        }
        3 => {
            b.stall_disk(Duration::from_millis(200 + seed % 1000));
        }
        4 => {
            b.kill();
            pause(seed % 500);
            follow(b, flush);
        }
        _ => {
            b.power_cut(seed);
            pause(seed % 500);
            follow(b, flush);
        }
    }
}

/// The bodies that a store has.
fn bodies(store: &Store) -> BTreeMap<(u32, u64), Vec<u8>> {
    store.confirm(store.marks().appended);
    let mut all = BTreeMap::new();
    for queue in store.queues_of("orders") {
        let mut from = QueueOffset(0);
        while from < store.bounds(&queue).max {
            let limits = ReadLimits { messages: 1, bytes: 1 << 20, scanned: 1 };
            let read = store.read(&queue, from, limits, &mut |_| true).expect("readable");
            let view = RecordView::checked(&read.slices[0]).expect("whole");
            all.insert((queue.id().0, from.0), view.body().to_vec());
            from = read.next;
        }
    }
    all
}

/// Both for some seconds, with trouble of these kinds; then the master is gone for good. What it had acknowledged, and what the replica has.
fn run(seed: u64, flush: FlushMode, kinds: &[u64]) -> (usize, usize) {
    let sim = Sim::with_timing(seed, Timing { pause_max: Duration::from_micros(200), ..Timing::default() });
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    let term = Arc::<Term>::default();
    lead(&a, flush, &term, u32::MAX);
    follow(&b, flush);
    for (turn, kind) in (0..).zip(kinds) {
        sim.run_for(Duration::from_millis(200 + (seed * 37 + turn * 101) % 400)).unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
        trouble(&sim, &a, &b, flush, *kind, seed * 31 + turn * 7);
    }
    sim.run_for(Duration::from_millis(500)).unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
    a.power_cut(seed);
    match flush {
        FlushMode::Sync => b.power_cut(seed),
        FlushMode::Async { .. } => b.kill(),
    }
    let env = b.env();
    let found = sim.block_on(&b, "reader", move || bodies(&open(&env, flush))).unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
    let acked = std::mem::take(&mut *term.acked.lock());
    for (place, body) in &acked {
        assert_eq!(found.get(place), Some(body), "seed {seed}, {kinds:?}: acknowledged at {place:?}");
    }
    (acked.len(), found.len())
}

const LAZY: FlushMode = FlushMode::Async { interval: Duration::from_millis(500) };

#[test]
fn what_is_acknowledged_is_there_when_the_master_is_gone() {
    for seed in 0..24 {
        for (flush, last) in [(FlushMode::Sync, 6), (LAZY, 5)] {
            let kinds: Vec<u64> = (0..3).map(|turn| (seed / 6_u64.pow(turn) + u64::from(turn)) % last).collect();
            let (acked, _) = run(seed, flush, &kinds);
            assert!(acked > 30, "seed {seed}, {kinds:?} under {flush:?}: only {acked} were acknowledged");
        }
    }
}

#[test]
fn without_trouble_the_replica_keeps_up() {
    let (acked, found) = run(7, FlushMode::Sync, &[]);
    assert!(acked > 50 && found - acked <= 4, "{acked} acknowledged, {found} there");
}

#[test]
fn a_replica_hears_of_the_last_confirmation_too() {
    let sim = Sim::new(1);
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    let term = Arc::<Term>::default();
    lead(&a, FlushMode::Sync, &term, 10);
    let env = b.env();
    let shown = sim.block_on(&b, "replica", move || {
        let store = open(&env, FlushMode::Sync);
        let (following, inside) = (store.clone(), env.clone());
        start(&env, "follow", move || {
            sleep(Duration::from_millis(10));
            let connection = inside.net.connect(PLACE, Duration::from_secs(1)).expect("it listens");
            replica().follow(&connection, &following, &Loyal);
        });
        sleep(Duration::from_secs(2));
        store.queues_of("orders").iter().map(|queue| store.bounds(queue).max.0).sum::<u64>()
    });
    assert_eq!((shown.expect("no deadlock"), term.acked.lock().len()), (20, 20));
}

#[test]
fn a_replica_is_let_go_by_who_leads_no_more_and_not_let_in_again() {
    let sim = Sim::new(1);
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    let term = Arc::<Term>::default();
    lead(&a, FlushMode::Sync, &term, 10);
    let env = b.env();
    let ends = sim.block_on(&b, "replica", move || {
        let store = open(&env, FlushMode::Sync);
        let (switch, connect) = (term.clone(), || env.net.connect(PLACE, Duration::from_secs(1)).expect("it listens"));
        sleep(Duration::from_millis(10));
        start(&env, "switch", move || {
            sleep(Duration::from_secs(3));
            switch.is_over.store(true, Ordering::SeqCst);
        });
        let (before, first) = (env.clock.monotonic(), replica().follow(&connect(), &store, &Loyal));
        let took = env.clock.monotonic().since(before);
        (first.to_string(), took, replica().follow(&connect(), &store, &Loyal).to_string())
    });
    let (first, took, second) = ends.expect("no deadlock");
    // Long before the replica would have lost its patience.
    assert!(first.contains("not master any more") && took < Duration::from_millis(3500), "{first} after {took:?}");
    assert!(second.contains("this broker is not master"), "{second}");
}

#[test]
fn who_asks_the_wrong_master_is_told_why() {
    let sim = Sim::new(3);
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    lead(&a, FlushMode::Sync, &Arc::default(), u32::MAX);
    let env = b.env();
    let refusals = sim.block_on(&b, "asks", move || {
        sleep(Duration::from_millis(100));
        let store = open(&env, FlushMode::Sync);
        let ask = |change: &dyn Fn(&mut Replica)| {
            let mut replica = replica();
            change(&mut replica);
            let connection = env.net.connect(PLACE, Duration::from_secs(1)).expect("it listens");
            replica.follow(&connection, &store, &Loyal).to_string()
        };
        vec![ask(&|replica| replica.cluster = "d".into()), ask(&|replica| replica.group = "h".into()), ask(&|replica| replica.member = member(1))]
    });
    let refusals = refusals.expect("no deadlock");
    assert!(refusals[..2].iter().all(|why| why.contains("this is group g of cluster c")), "{refusals:?}");
    assert!(refusals[2].contains("give each broker of the group a number of its own"), "{refusals:?}");
}

#[test]
fn one_seed_is_one_run() {
    let trace = |seed| {
        let sim = Sim::new(seed);
        let (a, b) = (sim.machine("a"), sim.machine("b"));
        lead(&a, FlushMode::Sync, &Arc::default(), u32::MAX);
        follow(&b, FlushMode::Sync);
        sim.run_for(Duration::from_millis(300)).expect("no deadlock");
        sim.trace()
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn a_replica_that_is_behind_takes_nothing_for_confirmed_that_it_does_not_have() {
    let sim = Sim::new(1);
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    let env = a.env();
    a.spawn("master", move || {
        let listener = env.net.listen(PLACE).expect("free");
        let mut link = Link::new(listener.accept(Duration::from_secs(5)).expect("it comes"));
        let soon = Duration::from_secs(1);
        assert!(matches!(link.receiver.receive(soon), Ok(Message::Hello(_))));
        let (min, end) = (CommitLogOffset(0), CommitLogOffset(90_000));
        let welcome =
            Welcome { state: state(), epochs: Default::default(), min, end, segment_bytes: SEGMENT_BYTES, place: "a:10911".to_owned(), must_hold: None };
        link.sender.send(&Message::Welcome(welcome), soon).expect("sent");
        assert!(matches!(link.receiver.receive(soon), Ok(Message::Follow(_))));
        link.sender.send(&Message::Data(Data { epoch: Epoch(1), from: min, confirmed: end, log: Default::default() }), soon).expect("sent");
        sleep(soon);
    });
    let env = b.env();
    let marks = sim.block_on(&b, "replica", move || {
        let store = open(&env, FlushMode::Sync);
        sleep(Duration::from_millis(10));
        let connection = env.net.connect(PLACE, Duration::from_secs(1)).expect("it listens");
        replica().follow(&connection, &store, &Loyal);
        store.marks()
    });
    let marks = marks.expect("no deadlock");
    assert!(marks.confirmed <= marks.appended, "{marks:?}");
}

/// How long a replica that is outside of the set takes for 16 MiB, while others write or not.
fn catching_up(others_write: bool) -> Duration {
    const BYTES: u64 = 16 << 20;
    let sim = Sim::new(1);
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    let env = a.env();
    a.spawn("master", move || {
        let store = open(&env, LAZY);
        store.begin_epoch(1).expect("begun");
        let term = Arc::new(Term { others_write, ..Term::default() });
        while store.marks().appended.0 <= BYTES {
            append(&store, 0, &[b'x'; 50_000], Wait::Appended).expect("appended");
        }
        let lead: Arc<dyn Lead> = Arc::new(Leader { store: store.clone(), replica: Mutex::default(), term });
        let listener = env.net.listen(PLACE).expect("free");
        let mut link = Link::new(listener.accept(Duration::from_secs(60)).expect("it comes"));
        let Ok(Message::Hello(mut hello)) = link.receiver.receive(Duration::from_secs(1)) else { panic!("no hello") };
        hello.member = member(3);
        drop(master().serve(&env, link, &hello, &store, &lead));
    });
    let env = b.env();
    let took = sim.block_on(&b, "replica", move || {
        let store = open(&env, LAZY);
        let connection = loop {
            match env.net.connect(PLACE, Duration::from_secs(1)) {
                Ok(connection) => break connection,
                Err(_) => sleep(Duration::from_millis(10)),
            }
        };
        let (following, begun) = (store.clone(), env.clock.monotonic());
        start(&env, "follow", move || drop(replica().follow(&connection, &following, &Loyal)));
        while store.marks().appended.0 <= BYTES {
            sleep(Duration::from_millis(1));
        }
        env.clock.monotonic().since(begun)
    });
    took.expect("no deadlock")
}

#[test]
fn a_replica_that_catches_up_gives_way_to_those_who_write() {
    let (alone, beside) = (catching_up(false), catching_up(true));
    // 12 MiB at less and less, and the last 4 MiB as they come.
    assert!(beside > alone * 5 && beside < Duration::from_secs(5), "{alone:?} alone, {beside:?} beside others");
}
