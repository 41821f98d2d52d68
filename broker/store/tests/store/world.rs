//! A store on a simulated disk, and the ledger of what it acknowledged.

use sluice_env::{
    Env,
    sim::{self, SimClock, SimDisk},
};
use sluice_protocol::record::{RecordFields, RecordView};
use sluice_store::{AppendError, Batch, FlushMode, Placed, QueueRef, ReadLimits, Store, StoreOptions, Wait};
use sluice_types::{QueueId, QueueOffset, Topic};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) const SEGMENT_BYTES: u64 = 256 << 10;

pub(crate) fn options(flush: FlushMode) -> StoreOptions {
    StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        flush,
        // Checkpoints come when a test asks for one.
        checkpoint_bytes: u64::MAX,
        checkpoint_interval: Duration::from_secs(86_400),
        ..StoreOptions::default()
    }
}

pub(crate) fn sync_options() -> StoreOptions {
    options(FlushMode::Sync)
}

/// Asynchronous flush whose time never comes by itself.
pub(crate) fn never_flushing() -> StoreOptions {
    options(FlushMode::Async { interval: Duration::from_secs(3600) })
}

pub(crate) fn replicated(flush: FlushMode) -> StoreOptions {
    StoreOptions { replicated: true, ..options(flush) }
}

pub(crate) fn lazy() -> FlushMode {
    never_flushing().flush
}

/// One life of a store after another, on disks that inherit from each other.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    pub(crate) options: StoreOptions,
    /// Body by (topic, queue, queue offset): what was acknowledged.
    pub(crate) acked: BTreeMap<(String, u32, u64), Vec<u8>>,
    next: u64,
}

impl World {
    pub(crate) fn new(seed: u64, options: StoreOptions) -> Self {
        let (env, disk, clock) = sim::env(seed);
        Self { env, disk, clock, options, acked: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn open(&self) -> Arc<Store> {
        Store::open(self.env.clone(), self.options.clone()).unwrap_or_else(|e| panic!("opening: {e}"))
    }

    /// From now on lives on what another disk holds.
    pub(crate) fn move_to(&mut self, disk: SimDisk) {
        self.env.disk = Arc::new(disk.clone());
        self.disk = disk;
    }

    pub(crate) fn power_cut(&mut self, seed: u64) {
        let disk = self.disk.crash(seed);
        self.move_to(disk);
    }

    pub(crate) fn kill(&mut self) {
        let disk = self.disk.kill();
        self.move_to(disk);
    }

    /// Appends one message and notes it when it is acknowledged.
    pub(crate) fn append(&mut self, store: &Store, topic: &str, queue: u32, len: usize) -> Result<Placed, AppendError> {
        self.next += 1;
        let mut body = format!("{:08} ", self.next).into_bytes();
        body.resize(len.max(body.len()), b'a' + (self.next % 26) as u8);
        let placed = append(store, topic, queue, &body, "", Wait::Durable)?;
        let before = self.acked.insert((topic.to_owned(), queue, placed.queue_offset.0), body);
        assert!(before.is_none(), "queue offset {} of {topic} {queue} acknowledged twice", placed.queue_offset);
        Ok(placed)
    }

    /// Every acknowledged message is there, whole, at its offset.
    pub(crate) fn check(&self, store: &Store) {
        for ((topic, queue, offset), body) in &self.acked {
            let found = read_one(store, topic, *queue, *offset);
            assert_eq!(found.as_deref(), Some(&body[..]), "{topic} {queue} {offset}");
        }
    }
}

pub(crate) fn queue(store: &Store, topic: &str, id: u32) -> QueueRef {
    store.queue(&Topic::new(topic).expect("legal"), QueueId(id))
}

pub(crate) fn push(batch: &mut Batch, store: &Store, topic: &str, id: u32, body: &[u8], properties: &str) {
    let host = "127.0.0.1:10911".parse().expect("literal");
    let fields = RecordFields {
        topic,
        queue_id: id as i32,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    };
    batch.push(&queue(store, topic, id), &fields).expect("encodes");
}

pub(crate) fn append(store: &Store, topic: &str, id: u32, body: &[u8], properties: &str, wait: Wait) -> Result<Placed, AppendError> {
    let mut batch = Batch::new();
    push(&mut batch, store, topic, id, body, properties);
    store.append(batch, wait).map(|placed| placed[0])
}

pub(crate) fn read_one(store: &Store, topic: &str, id: u32, offset: u64) -> Option<Vec<u8>> {
    let limits = ReadLimits { messages: 1, bytes: 1 << 20, scanned: 1 };
    let out = store.read(&queue(store, topic, id), QueueOffset(offset), limits, &mut |_| true).ok()?;
    let bytes = out.slices.first()?;
    Some(RecordView::checked(bytes).expect("served whole").body().to_vec())
}

/// All bodies of a queue, in order.
pub(crate) fn read_all(store: &Store, topic: &str, id: u32) -> Vec<Vec<u8>> {
    let queue = queue(store, topic, id);
    let mut from = store.bounds(&queue).min;
    let mut bodies = Vec::new();
    while from < store.bounds(&queue).max {
        let limits = ReadLimits { messages: 100, bytes: 1 << 20, scanned: 100 };
        let out = store.read(&queue, from, limits, &mut |_| true).expect("readable");
        for slice in &out.slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let view = RecordView::checked(rest).expect("served whole");
                bodies.push(view.body().to_vec());
                rest = &rest[view.bytes().len()..];
            }
        }
        from = out.next;
    }
    bodies
}

/// Waits in real time for what a background thread does, while the store's clock stands still.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Hands over what the replica lacks, in ranges of so many bytes.
pub(crate) fn catch_up(master: &Store, replica: &Store, bytes_max: usize) {
    loop {
        let from = replica.marks().appended;
        let range = master.range(from, bytes_max).expect("readable");
        if range.is_empty() {
            return;
        }
        replica.follow(from, &range).expect("taken");
    }
}

/// The log's bytes from its begin to its end.
pub(crate) fn log_of(store: &Store) -> Vec<u8> {
    let (min, mut bytes) = (store.marks().min, Vec::new());
    while let Ok(range) = store.range(min.plus(bytes.len() as u64), 100_000) {
        if range.is_empty() {
            break;
        }
        bytes.extend_from_slice(&range);
    }
    bytes
}
