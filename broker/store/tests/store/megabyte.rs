//! A megabyte of log with every kind of record in it, and the ledger of what each of its bytes belongs to.

use crate::world::*;
use sluice_protocol::record::{self, RecordFields};
use sluice_store::{Batch, MetaChange, MetaTable, Placed, QueueRef, Store, Wait};
use sluice_types::{QueueOffset, Topic};
use std::{net::SocketAddr, ops::Range};

/// Four whole segments. A fifth is begun, so that all of these bytes lie below the flushed mark.
pub(crate) const LOG_BYTES: u64 = 4 * SEGMENT_BYTES;
/// Bytes between the last record and the end of each segment: the fewest there can be, one more, and some.
const FILLERS: [u64; 4] = [8, 9, 64, 300];
/// The last bytes of a segment that messages do not get while none is ready to follow, and a little more. Metadata gets them.
const METADATA_ONLY_BYTES: u64 = 40 << 10;
pub(crate) const LONGEST_TOPIC: &str =
    "orders-of-a-topic-with-the-longest-name-that-a-topic-may-have------------------------------------------------------------------";

/// A message as it must be served.
pub(crate) struct Message {
    pub(crate) topic: &'static str,
    pub(crate) queue: u32,
    pub(crate) offset: QueueOffset,
    /// The record, made apart from the store.
    pub(crate) bytes: Vec<u8>,
    /// A key that no other record has.
    pub(crate) key: Option<String>,
}

/// What a stretch of the log is.
pub(crate) enum Kind {
    Message(Message),
    Metadata(Vec<MetaChange>),
    /// From the last record to the segment's end.
    Filler,
}

/// A stretch of the log.
pub(crate) struct Stretch {
    pub(crate) range: Range<u64>,
    pub(crate) kind: Kind,
}

impl Stretch {
    pub(crate) fn message(&self) -> Option<&Message> {
        match &self.kind {
            Kind::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// A message before it has its place.
#[derive(Clone)]
struct Draft {
    topic: &'static str,
    queue: u32,
    body: Vec<u8>,
    properties: String,
    key: Option<String>,
    host: SocketAddr,
}

impl Draft {
    fn new(topic: &'static str, queue: u32, body: usize, number: u32) -> Self {
        let body = (0..body).map(|i| (i as u32 * 7 + number) as u8).collect();
        Self { topic, queue, body, properties: String::new(), key: None, host: "127.0.0.1:10911".parse().expect("literal") }
    }

    fn keyed(mut self, number: u32) -> Self {
        let key = format!("unique-{number}");
        self.properties = format!("TAGS\u{1}tag{}\u{2}KEYS\u{1}shared k{number}\u{2}UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}", number % 3);
        self.key = Some(key);
        self
    }

    fn over_ipv6(mut self) -> Self {
        self.host = "[2001:db8::1]:10911".parse().expect("literal");
        self
    }

    fn fields(&self) -> RecordFields<'_> {
        RecordFields {
            topic: self.topic,
            queue_id: self.queue as i32,
            flag: self.body.len() as i32,
            sys_flag: 0,
            born_timestamp: 1_700_000_000_123,
            born_host: self.host,
            store_host: self.host,
            reconsume_times: 1,
            prepared_transaction_offset: 0,
            body: &self.body,
            properties: &self.properties,
        }
    }

    fn placed(self, placed: Placed) -> Stretch {
        let mut bytes = Vec::new();
        record::encode(&self.fields(), &mut bytes).expect("encodes");
        record::seal(&mut bytes, placed.queue_offset.0, placed.log_offset.0, placed.store_timestamp);
        let range = placed.log_offset.0..placed.log_offset.0 + u64::from(placed.bytes);
        Stretch { range, kind: Kind::Message(Message { topic: self.topic, queue: self.queue, offset: placed.queue_offset, bytes, key: self.key }) }
    }
}

/// Writes the log; what `after` does after each append must not change it.
pub(crate) fn write(store: &Store, mut after: impl FnMut(&Store)) -> Vec<Stretch> {
    let mut log = Vec::new();
    for (segment, filler) in FILLERS.into_iter().enumerate() {
        let end = (segment as u64 + 1) * SEGMENT_BYTES;
        // Larger than any filler, so that it does not fit into the segment before.
        append_all(store, vec![Draft::new("orders", 0, 600, 0)], None, &mut log);
        while store.status().appended.0 < end - METADATA_ONLY_BYTES {
            append_next(store, &mut log);
            after(store);
        }
        pad_with_metadata(store, end - filler, &mut log);
        after(store);
        log.push(Stretch { range: end - filler..end, kind: Kind::Filler });
    }
    append_all(store, vec![Draft::new("orders", 0, 600, 0)], None, &mut log);
    after(store);
    assert_is_whole(&log);
    log
}

/// One turn's worth, of the kind whose turn it is. Sizes differ from turn to turn, the same in every run.
fn append_next(store: &Store, log: &mut Vec<Stretch>) {
    let number = log.len() as u32;
    let body = (number as usize * 397) % 1500;
    let single = |topic, body| Draft::new(topic, number % 4, body, number);
    let (drafts, changes) = match number % 7 {
        0 => (vec![single("orders", body).keyed(number)], None),
        1 => (vec![single("orders", 0)], None),
        2 => ((0..5).map(|i| Draft::new("orders", number % 4, 40 + i, number).keyed(number + i as u32)).collect(), None),
        3 => (vec![single(LONGEST_TOPIC, body).over_ipv6().keyed(number)], None),
        4 => (vec![], Some(vec![change(number, Some(&vec![number as u8; body])), change(number / 2, None)])),
        5 => (vec![single("payments", body), single("payments", 30).keyed(number)], Some(vec![change(number, Some(b"with messages"))])),
        _ => (vec![single("payments", 3 * body).keyed(number)], None),
    };
    append_all(store, drafts, changes.as_deref(), log);
}

fn change(number: u32, value: Option<&[u8]>) -> MetaChange {
    MetaChange { table: MetaTable::Topics, key: format!("topic-{number}"), value: value.map(<[u8]>::to_vec) }
}

fn append_all(store: &Store, drafts: Vec<Draft>, changes: Option<&[MetaChange]>, log: &mut Vec<Stretch>) {
    let mut batch = Batch::new();
    for draft in &drafts {
        batch.push(&queue(store, draft.topic, draft.queue), &draft.fields()).expect("encodes");
    }
    if let Some(changes) = changes {
        batch.meta(changes).expect("encodes");
    }
    let placed = store.append(batch, Wait::Durable).expect("acknowledged");
    let metadata = placed[drafts.len()..].iter().map(|p| p.log_offset.0..p.log_offset.0 + u64::from(p.bytes));
    let metadata: Vec<Stretch> = metadata.map(|range| Stretch { range, kind: Kind::Metadata(changes.unwrap_or_default().to_vec()) }).collect();
    log.extend(drafts.into_iter().zip(&placed).map(|(draft, placed)| draft.placed(*placed)));
    log.extend(metadata);
}

/// Metadata up to exactly `end`.
fn pad_with_metadata(store: &Store, end: u64, log: &mut Vec<Stretch>) {
    const PIECE_BYTES: u64 = 7000;
    let number = log.len() as u32;
    let mut empty = Batch::new();
    empty.meta(&[change(number, Some(&[]))]).expect("encodes");
    loop {
        let left = end - store.status().appended.0;
        // What remains after this piece must have room for a record.
        let piece = if left <= PIECE_BYTES { left } else { PIECE_BYTES.min(left - PIECE_BYTES / 2) };
        if piece == 0 {
            return;
        }
        append_all(store, vec![], Some(&[change(number, Some(&vec![b'm'; piece as usize - empty.bytes()]))]), log);
    }
}

fn assert_is_whole(log: &[Stretch]) {
    let mut end = 0;
    for stretch in log {
        assert_eq!(stretch.range.start, end, "the ledger leaves out a part of the log");
        end = stretch.range.end;
        assert!(stretch.message().is_none_or(|m| m.bytes.len() as u64 == stretch.range.end - stretch.range.start));
    }
    assert!(end > LOG_BYTES);
}

/// The queue of a message.
pub(crate) fn queue_of(store: &Store, message: &Message) -> QueueRef {
    store.queue(&Topic::new(message.topic).expect("legal"), sluice_types::QueueId(message.queue))
}
