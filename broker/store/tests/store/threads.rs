//! The store's own threads, and those of its callers, as simulated threads: the seed decides who runs when, and a run is the same run each time.

use crate::world::{append, options, push, read_one, replicated, sync_options};
use parking_lot::Mutex;
use sluice_env::sim::threads::{self, Halt, Machine, Sim, Timing};
use sluice_protocol::record::RecordView;
use sluice_store::{Batch, FlushMode, Mark, Placed, Store, StoreOptions, Wait};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

/// At most.
const WRITERS: u32 = 4;
const LIVES: u64 = 4;
const SEGMENT_BYTES: u64 = 64 << 10;

/// A record that lies in the log.
#[derive(Clone)]
struct Written {
    placed: Placed,
    queue: u32,
    body: Vec<u8>,
}

/// What must be there whatever happens, by queue and queue offset. Nothing holds it across a point where a thread gives way.
type Ledger = Arc<Mutex<BTreeMap<(u32, u64), Written>>>;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn workload_options(flush: FlushMode) -> StoreOptions {
    StoreOptions { segment_bytes: SEGMENT_BYTES, retention_bytes: Some(256 << 10), ..options(flush) }
}

/// Each seed has disks of its own speed, so that none of the store's waits is always the long one.
fn timing(seed: u64) -> Timing {
    let micros = |what, doublings: u64| Duration::from_micros(1 << (mix(&[seed, what]) % doublings));
    let preempt_one_in = 2 + mix(&[seed, 24]) % 6;
    Timing { write: micros(20, 12), sync: micros(21, 12), other: micros(22, 7), pause_max: micros(23, 14), preempt_one_in, ..Timing::default() }
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    turns: u64,
    promised: usize,
    virtual_time: Duration,
}

/// One life of the machine, as its threads know it.
#[derive(Clone)]
struct Life {
    machine: Machine,
    flush: FlushMode,
    ledger: Ledger,
    /// Appended and not yet promised.
    pending: Arc<Mutex<Vec<Written>>>,
    seed: u64,
    number: u64,
    /// Promises until the power is cut.
    left: Arc<AtomicI64>,
}

impl Life {
    fn dice(&self, of: u64, turn: u64) -> u64 {
        mix(&[self.seed, self.number, of, turn])
    }

    /// How busy the writers are: another longest rest in each life, from half a millisecond to eight.
    fn rest_max(&self) -> u64 {
        512 << (self.dice(13, 0) % 5)
    }

    /// One writer: a message after the other into a queue of its own, one of three without waiting for the flush.
    fn write(&self, store: &Store, queue: u32) {
        for turn in 0u64.. {
            let dice = self.dice(queue.into(), turn);
            let mut body = format!("{} {queue} {turn} ", self.number).into_bytes();
            body.resize(body.len() + (dice % 3000) as usize, b'a' + (dice % 26) as u8);
            let wait = if dice.is_multiple_of(3) { Wait::Appended } else { Wait::Durable };
            let Ok(placed) = append(store, "orders", queue, &body, "", wait) else { continue };
            let written = Written { placed, queue, body };
            match (wait, self.flush) {
                (Wait::Durable, FlushMode::Sync) => self.promise(store, vec![written]),
                _ => self.pending.lock().push(written),
            }
            if dice % 5 < 2 {
                threads::sleep(Duration::from_micros((dice >> 20) % self.rest_max()));
            }
        }
    }

    /// Takes what is said to be flushed at its word.
    fn watch(&self, store: &Store) {
        for turn in 0u64.. {
            threads::sleep(Duration::from_micros(self.dice(12, turn) % 500));
            let flushed = store.status().flushed.0;
            let is_flushed = |written: &mut Written| written.placed.log_offset.0 + u64::from(written.placed.bytes) <= flushed;
            let promised = self.pending.lock().extract_if(.., is_flushed).collect();
            self.promise(store, promised);
        }
    }

    /// From now on these must be there. Cuts the power of a copy of the disk at this moment: whatever the cut takes, they are there, whole. And sometimes cuts it in
    /// earnest, now that most is promised.
    fn promise(&self, store: &Store, written: Vec<Written>) {
        let Some(last) = written.last().map(|last| last.placed.log_offset.0) else { return };
        let disk = self.machine.disk();
        let cuts = [0, 1].map(|cut| disk.crash(self.dice(16 + cut, last)));
        let min = store.status().min.0;
        for written in written {
            let at = written.placed.log_offset.0;
            for cut in cuts.iter().filter(|_| at >= min) {
                let segment = cut.file_bytes(&format!("commitlog/{:020}", at - at % SEGMENT_BYTES)).expect("the segment of a promised record is there");
                let record = RecordView::checked(&segment[(at % SEGMENT_BYTES) as usize..]).ok().map(|view| view.log_offset());
                assert_eq!(record, Some(at), "a power cut has taken the record at {at} after the promise, in life {}, {:?}", self.number, self.flush);
            }
            let place = (written.queue, written.placed.queue_offset.0);
            let before = self.ledger.lock().insert(place, written);
            assert!(before.is_none(), "{place:?} promised twice");
            if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.machine.power_cut(self.dice(8, 0));
            }
        }
    }

    fn keep(&self, store: &Store) {
        for turn in 0u64.. {
            threads::sleep(Duration::from_micros(self.dice(9, turn) % (128 << (self.dice(15, 0) % 6))));
            store.checkpoint().expect("checkpoint");
            if turn % 4 == 3 {
                store.retain_now().expect("retention");
            }
        }
    }

    /// Opens the store, checks every promise, then writers, checkpoints and retention at once, until the power is cut.
    fn live(&self, sim: &Sim) -> Result<(), Halt> {
        let store = open(sim, &self.machine, self.flush, &self.ledger)?;
        for writer in 0..1 + (self.dice(14, 0) % u64::from(WRITERS)) as u32 {
            let (life, store) = (self.clone(), store.clone());
            self.machine.spawn(&format!("writer-{writer}"), move || life.write(&store, writer));
        }
        let (life, watched) = (self.clone(), store.clone());
        self.machine.spawn("watcher", move || life.watch(&watched));
        let life = self.clone();
        self.machine.spawn("checkpoints", move || life.keep(&store));
        sim.run_for(Duration::from_micros(1000 + self.dice(7, 0) % 40_000))?;
        if self.left.load(Ordering::SeqCst) > 0 {
            self.machine.power_cut(self.dice(8, 0));
        }
        Ok(())
    }
}

/// Opens the store and checks every promise.
fn open(sim: &Sim, machine: &Machine, flush: FlushMode, ledger: &Ledger) -> Result<Arc<Store>, Halt> {
    let (env, ledger) = (machine.env(), ledger.clone());
    sim.block_on(machine, "opens", move || {
        let store = Store::open(env, workload_options(flush)).unwrap_or_else(|error| panic!("opening: {error}"));
        check(&store, &ledger);
        store
    })
}

/// Every promised message is there, whole, at its offset, unless retention has removed it.
fn check(store: &Store, ledger: &Ledger) {
    let promised = ledger.lock().clone();
    for ((queue, offset), written) in promised {
        if offset < store.bounds(&crate::world::queue(store, "orders", queue)).min.0 {
            continue;
        }
        let found = read_one(store, "orders", queue, offset);
        assert_eq!(found.as_deref(), Some(&written.body[..]), "queue {queue} offset {offset}, {:?}", written.placed);
    }
}

fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let x = (state ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (x >> 32)
    })
}

/// A machine's lives, under synchronous flush for even seeds.
fn run(seed: u64) -> Result<Outcome, Halt> {
    let sim = Sim::with_timing(seed, timing(seed));
    let machine = sim.machine("broker");
    let ledger = Ledger::default();
    let flush = if seed.is_multiple_of(2) { FlushMode::Sync } else { FlushMode::Async { interval: Duration::from_micros(128 << (mix(&[seed, 25]) % 5)) } };
    for number in 0..LIVES {
        let left = Arc::new(AtomicI64::new((1 + mix(&[seed, number, 10]) % 100) as i64));
        Life { machine: machine.clone(), flush, ledger: ledger.clone(), pending: Arc::default(), seed, number, left }.live(&sim)?;
    }
    let store = open(&sim, &machine, flush, &ledger)?;
    sim.block_on(&machine, "closes", move || store.close())?;
    let promised = ledger.lock().len();
    Ok(Outcome { trace: sim.trace(), turns: sim.turns(), promised, virtual_time: sim.now() })
}

/// `SEED=n` runs that one alone, to look at what it found; `SEEDS=n` runs so many.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(count),
    }
}

/// Checked against a bug that the store once had: a file was noted as unsynced before the write to it and not after, so that a flush between the two took the note and
/// the next one found nothing to sync (`commit_log`, `write`). With it put back, seed 19 is the first that fails, within a
/// second; of a thousand seeds some forty do, most of them under asynchronous flush.
#[test]
fn acked_records_of_many_threads_survive_power_cuts_in_any_order_of_threads() {
    let begun = Instant::now();
    let (mut time, mut promised, mut turns) = (Duration::ZERO, 0, 0);
    for seed in seeds(100) {
        let outcome = run(seed).unwrap_or_else(|halt| panic!("SEED={seed}: {halt}"));
        time += outcome.virtual_time;
        promised += outcome.promised;
        turns += outcome.turns;
    }
    let real = begun.elapsed();
    println!("{promised} records promised, {turns} turns, {time:?} simulated in {real:?}: {:.2} s/s", time.as_secs_f64() / real.as_secs_f64());
    assert!(promised > 1000);
}

#[test]
fn the_same_seed_is_the_same_run_of_a_store_and_another_seed_another() {
    let first: Vec<Outcome> = (100..104).map(|seed| run(seed).expect("runs")).collect();
    let second: Vec<Outcome> = (100..104).map(|seed| run(seed).expect("runs")).collect();
    assert_eq!(first, second);
    let traces: std::collections::BTreeSet<u64> = first.iter().map(|outcome| outcome.trace).collect();
    assert_eq!(traces.len(), first.len());
}

#[test]
fn an_append_whose_disk_stalls_is_answered_at_its_deadline_whatever_the_keeper_is_doing() {
    let begun = Instant::now();
    // Soon after the start the keeper makes the next segment ready, and then hangs in a call to the disk itself.
    for after in [0, 1, 3, 10, 500] {
        let (answer, at) = append_to_a_stalled_disk(after);
        assert!(matches!(answer, Err(sluice_store::AppendError::QueueFull(_))), "stalled after {after} ms: {answer:?}");
        assert!((5..7).contains(&at.as_secs()), "stalled after {after} ms: answered after {at:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// The answer of an append that waits behind one that hangs in the disk, and how long it took.
fn append_to_a_stalled_disk(after: u64) -> (Result<sluice_store::Placed, sluice_store::AppendError>, Duration) {
    let sim = Sim::new(5);
    let machine = sim.machine("broker");
    let env = machine.env();
    let store = sim.block_on(&machine, "opens", move || Store::open(env, sync_options()).expect("opens")).expect("opens");
    let (writer, stalls) = (store.clone(), machine.clone());
    let clock = machine.env().clock;
    let answer = sim.block_on(&machine, "writes", move || {
        append(&writer, "orders", 0, b"one", "", Wait::Durable).expect("acknowledged");
        threads::sleep(millis(after));
        stalls.stall_disk(Duration::from_secs(60));
        let mut batch = Batch::new();
        push(&mut batch, &writer, "orders", 0, b"two", "");
        let other = writer.clone();
        stalls.spawn("stuck", move || other.submit(batch, Wait::Durable, Box::new(drop)));
        // Until that one is in the disk: whoever gets there first does not come back.
        threads::sleep(millis(20));
        let asked = clock.monotonic();
        let answer = append(&writer, "orders", 0, b"three", "", Wait::Durable);
        (answer, clock.monotonic().since(asked))
    });
    answer.expect("answered")
}

/// The one who writes a checkpoint holds the log for a moment, and whoever comes meanwhile is not forgotten.
#[test]
fn an_append_that_meets_a_checkpoint_waits_for_no_longer_than_that_holds_the_log() {
    for seed in 0..8 {
        let timing = Timing { write: millis(4), sync: millis(1), ..Timing::default() };
        let sim = Sim::with_timing(seed, timing);
        let machine = sim.machine("a");
        let env = machine.env();
        let options = StoreOptions { checkpoint_interval: Duration::from_secs(3600), ..options(FlushMode::Async { interval: Duration::from_secs(60) }) };
        let longest = sim.block_on(&machine, "appends", move || {
            let store = Store::open(env.clone(), options).expect("opens");
            let checkpoints = store.clone();
            let body = Box::new(move || (0..40).for_each(|_| checkpoints.checkpoint().expect("written")));
            let _thread = env.spawn.thread("checkpoints", body).expect("starts");
            let append = |turn| {
                let begun = env.clock.monotonic();
                append(&store, "orders", 0, b"x", "", Wait::Appended).expect("appended");
                threads::sleep(Duration::from_micros(700 * (turn % 5)));
                env.clock.monotonic().since(begun)
            };
            (0..300_u64).map(append).max()
        });
        let longest = longest.expect("no deadlock").expect("some");
        assert!(longest < millis(150), "seed {seed}: {longest:?}");
    }
}

#[test]
fn what_is_said_to_be_shown_is_visible_while_its_confirmation_is_under_way_on_another_thread() {
    const RECORDS: u64 = 3;
    for seed in 0..100 {
        let sim = Sim::with_timing(seed, timing(seed));
        let machine = sim.machine("b");
        let env = machine.env();
        let visible = sim.block_on(&machine, "opener", move || {
            let store = Store::open(env.clone(), replicated(FlushMode::Sync)).unwrap_or_else(|error| panic!("{error}"));
            for _ in 0..RECORDS {
                append(&store, "orders", 0, b"inherited", "", Wait::Appended).unwrap_or_else(|error| panic!("{error}"));
            }
            store.flush().unwrap_or_else(|error| panic!("{error}"));
            let (confirming, end) = (store.clone(), store.marks().appended);
            let confirms = env.spawn.thread("confirms", Box::new(move || confirming.confirm(end))).unwrap_or_else(|error| panic!("{error}"));
            while !store.show(end) {
                store.await_progress(Mark::Confirmed, store.marks(), millis(1));
            }
            let visible = store.queues_of("orders").iter().map(|queue| store.bounds(queue).max.0).sum::<u64>();
            confirms.join().unwrap_or_else(|why| panic!("{why}"));
            visible
        });
        assert_eq!(visible.unwrap_or_else(|halt| panic!("seed {seed}: {halt}")), RECORDS, "seed {seed}");
    }
}
