//! The store on the machine's own disk: memory maps, positioned writes, real syncs.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use sluice_env::real;
use sluice_protocol::record::{RecordFields, RecordView};
use sluice_store::{
    Batch, FlushMode, ReadLimits, Store, StoreOptions, Wait,
    resync::{self, Filling},
};
use sluice_types::{QueueId, QueueOffset, Topic};
use std::{
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

fn open(directory: &std::path::Path, flush: FlushMode) -> Arc<Store> {
    let options = StoreOptions { segment_bytes: 4 << 20, flush, ..StoreOptions::default() };
    Store::open(real::env(directory).expect("environment"), options).expect("opens")
}

fn one(store: &Store, topic: &Topic, queue: u32, body: &[u8]) -> Batch {
    let host = "127.0.0.1:10911".parse().expect("literal");
    let fields = RecordFields {
        topic: topic.as_str(),
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
    batch.push(&store.queue(topic, QueueId(queue)), &fields).expect("encodes");
    batch
}

#[test]
fn concurrent_submitters_get_each_offset_once_and_readers_get_every_record() {
    for flush in [FlushMode::Sync, FlushMode::Async { interval: Duration::from_millis(50) }] {
        let directory = tempfile::tempdir().expect("directory");
        let store = open(directory.path(), flush);
        let topic = Topic::new("orders").expect("legal");
        let answered = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (store, topic, answered) = (&store, &topic, &answered);
                scope.spawn(move || {
                    let (send, receive) = mpsc::channel();
                    for i in 0..500u32 {
                        let batch = one(store, topic, thread % 2, &vec![(thread * 50 + i % 50) as u8; 1 + (i as usize * 37) % 9000]);
                        let send = send.clone();
                        store.submit(batch, Wait::Durable, Box::new(move |result| send.send(result).expect("receiver lives")));
                    }
                    for _ in 0..500 {
                        receive.recv_timeout(Duration::from_secs(20)).expect("answered").expect("acknowledged");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(answered.load(Ordering::Relaxed), 2000);
        for _ in 0..2 {
            assert_eq!(count(&store, &topic, 0) + count(&store, &topic, 1), 2000);
        }
        store.close();
        drop(store);
        let store = open(directory.path(), flush);
        assert_eq!(count(&store, &topic, 0) + count(&store, &topic, 1), 2000);
    }
}

#[test]
fn a_segment_is_recycled_when_nobody_reads_it_and_never_while_somebody_does() {
    for held in [false, true] {
        let directory = tempfile::tempdir().expect("directory");
        let options = StoreOptions { segment_bytes: 4 << 20, flush: FlushMode::Sync, retention_bytes: Some(1 << 20), ..StoreOptions::default() };
        let store = Store::open(real::env(directory.path()).expect("environment"), options).expect("opens");
        let topic = Topic::new("orders").expect("legal");
        let append = |byte: u8| store.append(one(&store, &topic, 0, &vec![byte; 1 << 20]), Wait::Durable).expect("acknowledged");
        (0..6).for_each(|byte| _ = append(byte));
        let file = |name: &str| std::fs::metadata(directory.path().join("commitlog").join(name)).ok().map(|file| file.ino());
        let first = file("00000000000000000000").expect("there");
        // The keeper makes one ready after a roll; were that still going on, it would take the recycled one's place.
        let begun = Instant::now();
        while file("next").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no segment is made ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        let limits = ReadLimits { messages: 1, bytes: 2 << 20, scanned: 1 };
        let slice = store.read(&store.queue(&topic, QueueId(0)), QueueOffset(0), limits, &mut |_| true).expect("readable").slices.remove(0);
        let kept = held.then_some(slice);
        store.retain_now().expect("retention");
        assert_eq!(file("next") == Some(first), !held, "the file of the first segment");
        // Over the end of the segment, so that the recycled one is written into.
        (6..12).for_each(|byte| _ = append(byte));
        if let Some(slice) = kept {
            assert!(RecordView::checked(&slice).expect("still whole").body().iter().all(|byte| *byte == 0));
        }
        store.close();
    }
}

fn count(store: &Store, topic: &Topic, queue: u32) -> u32 {
    let queue = store.queue(topic, QueueId(queue));
    let mut next = QueueOffset(0);
    let mut messages = 0;
    loop {
        let limits = ReadLimits { messages: 64, bytes: 1 << 20, scanned: 1000 };
        let out = store.read(&queue, next, limits, &mut |_| true).expect("readable");
        if out.messages == 0 {
            return messages;
        }
        let mut seen = 0;
        for slice in &out.slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let view = RecordView::checked(rest).expect("whole");
                assert_eq!(view.queue_offset(), next.0 + seen);
                seen += 1;
                rest = &rest[view.bytes().len()..];
            }
        }
        assert_eq!(seen, u64::from(out.messages));
        messages += out.messages;
        next = out.next;
    }
}

#[test]
fn a_log_is_taken_whole_from_one_disk_to_another() {
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("directory"));
    let lazy = FlushMode::Async { interval: Duration::from_millis(50) };
    let [master, replica] = [&directories[0], &directories[1]].map(|directory| open(directory.path(), lazy));
    let topic = Topic::new("orders").expect("legal");
    for i in 0..200_u32 {
        master.append(one(&master, &topic, i % 2, &vec![i as u8; 100_000]), Wait::Durable).expect("acknowledged");
    }
    replica.append(one(&replica, &topic, 0, b"another history"), Wait::Durable).expect("acknowledged");
    drop(replica);
    let (env, seed) = (real::env(directories[1].path()).expect("environment"), master.seed().expect("seed"));
    resync::order(&env, master.segment_bytes()).expect("ordered");
    let mut filling = Filling::begin(&env, &seed.bytes).expect("begun");
    while !filling.filled().is_complete() {
        let next = filling.filled().next;
        filling.take(next, &master.range(next, 1 << 20).expect("readable")).expect("taken");
    }
    filling.finish().expect("filled");
    let replica = open(directories[1].path(), lazy);
    assert_eq!(replica.marks().appended, seed.end);
    let limits = ReadLimits { messages: 100, bytes: 64 << 20, scanned: 100 };
    for queue in 0..2 {
        let [ours, theirs] =
            [&master, &replica].map(|store| store.read(&store.queue(&topic, QueueId(queue)), QueueOffset(0), limits, &mut |_| true).expect("readable"));
        assert_eq!((theirs.messages, theirs.slices.concat()), (100, ours.slices.concat()));
    }
}
