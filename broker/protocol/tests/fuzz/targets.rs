//! Every decoder with what it is fed, shared by the test that mutates golden bytes and by libFuzzer (`broker/protocol/fuzz`).

use crate::GOLDEN;
use bytes::BytesMut;
use sluice_protocol::body::{self, from_json, to_json};
use sluice_protocol::compress::{Compression, inflate};
use sluice_protocol::headers::*;
use sluice_protocol::message_id::OffsetMessageId;
use sluice_protocol::record::RecordView;
use sluice_protocol::{ExtFields, Frame, FrameError, FrameLimits, HeaderError, Step, TypedHeader, batch, next_frame, properties};
use std::path::PathBuf;

/// Room for what does not depend on the input: lists' first sizes, error texts.
const SLACK_BYTES: usize = 64 * 1024;
/// Most bytes that a compressed body may inflate to here.
const INFLATED_BYTES_MAX: usize = 256 * 1024;

/// A decoder.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Whole inputs to begin with.
    pub(crate) corpus: fn() -> Vec<Vec<u8>>,
    /// Most bytes that it may allocate for an input of so many.
    pub(crate) allowed: fn(usize) -> usize,
    /// Makes an input whole again on the outside, so that the inside is reached.
    pub(crate) repair: fn(&mut [u8]),
    /// Decodes, and panics when what is understood does not survive being written and read again.
    pub(crate) decode: fn(&[u8]),
}

impl Target {
    /// Panics when the decoder does, or allocates too much.
    pub(crate) fn check(&self, input: &[u8]) {
        let used = allocation_counter::measure(|| (self.decode)(input)).bytes_max as usize;
        let allowed = (self.allowed)(input.len());
        assert!(used <= allowed, "{used} bytes allocated for {} received; {allowed} are allowed", input.len());
    }
}

/// All of them.
pub(crate) static TARGETS: [Target; 9] = [
    Target { name: "frame", corpus: || corpus("frame-"), allowed: |len| 16 * len + SLACK_BYTES, repair: repair_frame, decode: frame },
    Target { name: "header", corpus: || corpus("frame-"), allowed: |len| 64 * len + SLACK_BYTES, repair: repair_frame, decode: header },
    Target { name: "body", corpus: json_corpus, allowed: |len| 160 * len + SLACK_BYTES, repair: nothing, decode: json_body },
    // Deflate's best is 1032 to 1.
    Target { name: "registration", corpus: registrations, allowed: |len| 4 * 1032 * len + SLACK_BYTES, repair: nothing, decode: registration },
    Target { name: "batch", corpus: || corpus("batch"), allowed: |len| 8 * len + SLACK_BYTES, repair: repair_total, decode: batch },
    Target { name: "record", corpus: || corpus("record-"), allowed: |_| 0, repair: repair_total, decode: record },
    // Zstandard's window is allocated at once, in a ring of up to twice its size; its tables and LZ4's blocks come on top.
    Target { name: "compressed", corpus: || corpus("compressed-"), allowed: |_| 3 * INFLATED_BYTES_MAX + (32 << 20), repair: nothing, decode: compressed },
    // Nearly all of it is the list of pairs that the target makes, which grows by doubling: 32 bytes for two of input.
    Target { name: "properties", corpus: properties_corpus, allowed: |len| 64 * len + SLACK_BYTES, repair: nothing, decode: all_properties },
    Target { name: "message-id", corpus: message_ids, allowed: |len| 8 * len + SLACK_BYTES, repair: nothing, decode: message_id },
];

fn corpus(prefix: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(GOLDEN).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    paths.sort();
    assert!(!paths.is_empty(), "no golden file starts with {prefix}");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The JSON bodies, also those inside frames.
fn json_corpus() -> Vec<Vec<u8>> {
    let mut all = corpus("body-");
    for frame in corpus("frame-") {
        let frame = whole(&frame).unwrap();
        if frame.body.first() == Some(&b'{') {
            all.push(frame.body.to_vec());
        }
    }
    all
}

fn registrations() -> Vec<Vec<u8>> {
    corpus("frame-register").iter().map(|frame| whole(frame).unwrap().body.to_vec()).collect()
}

fn message_ids() -> Vec<Vec<u8>> {
    corpus("message-ids")[0].split(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

/// The properties of the golden records and batches, and of messages that senders have in header fields.
fn properties_corpus() -> Vec<Vec<u8>> {
    let records = corpus("record-").iter().map(|record| RecordView::parse(record).unwrap().properties().as_bytes().to_vec()).collect::<Vec<_>>();
    let batches = corpus("batch");
    let batched = batches.iter().flat_map(|body| batch::decode(body, 100)).map(|message| message.unwrap().properties.as_bytes().to_vec());
    let frames = corpus("frame-send");
    let sent = frames.iter().filter_map(|frame| whole(frame).unwrap().header.ext.get("properties").map(|text| text.as_bytes().to_vec()));
    let all: Vec<_> = records.into_iter().chain(batched).chain(sent).filter(|properties| !properties.is_empty()).collect();
    assert!(all.len() >= 4, "the golden bytes have {} texts of properties", all.len());
    all
}

fn whole(bytes: &[u8]) -> Result<Frame, Option<FrameError>> {
    whole_within(bytes.into(), &FrameLimits::default())
}

fn whole_within(mut bytes: BytesMut, limits: &FrameLimits) -> Result<Frame, Option<FrameError>> {
    match next_frame(&mut bytes, limits) {
        Ok(Step::Frame(frame)) => Ok(frame),
        Ok(Step::Need(_)) => Err(None),
        Err(error) => Err(Some(error)),
    }
}

/// Makes the total length true, and the header's when it leads out of the frame.
fn repair_frame(bytes: &mut [u8]) {
    if bytes.len() < 8 {
        return;
    }
    let total = bytes.len() as u32 - 4;
    bytes[..4].copy_from_slice(&total.to_be_bytes());
    bytes[4] &= 1;
    let header = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]).min(total - 4);
    bytes[5..8].copy_from_slice(&header.to_be_bytes()[1..]);
}

/// Makes the length in the first four bytes true.
fn repair_total(bytes: &mut [u8]) {
    let total = (bytes.len() as u32).to_be_bytes();
    if let Some(length) = bytes.first_chunk_mut() {
        *length = total;
    }
}

fn nothing(_: &mut [u8]) {}

fn frame(input: &[u8]) {
    let once = whole(input);
    if !input.is_empty() {
        // A half frame is waited for, or refused for the same reason as the whole.
        let half = whole(&input[..input.len() / 2]);
        assert!(half == Err(None) || half == once, "{half:?}");
    }
    let Ok(frame) = once else { return };
    let mut out = BytesMut::new();
    frame.encode(&mut out).unwrap();
    // Control characters are let in unescaped, and each is written as six bytes; keys that were absent are written too.
    let limits = FrameLimits::default();
    let grown = 6 * limits.header_bytes_max + 256;
    assert_eq!(whole_within(out, &FrameLimits { header_bytes_max: grown, frame_bytes_max: limits.frame_bytes_max + grown, ..limits }), Ok(frame));
}

fn survives<T: TypedHeader + PartialEq + std::fmt::Debug>(ext: &ExtFields) {
    if let Ok(header) = T::decode(ext) {
        assert_eq!(T::decode(&header.encode()), Ok(header));
    }
}

fn header(input: &[u8]) {
    let Ok(frame) = whole(input) else { return };
    let ext = &frame.header.ext;
    survives::<SendMessageRequest>(ext);
    survives::<SendMessageResponse>(ext);
    survives::<PullMessageRequest>(ext);
    survives::<QueryConsumerOffsetRequest>(ext);
    survives::<EndTransactionRequest>(ext);
    survives::<RegisterBrokerRequest>(ext);
    match SendMessageRequest::decode_v2(ext) {
        Ok(send) => assert_eq!(SendMessageRequest::decode_v2(&send.encode_v2()), Ok(send)),
        Err(HeaderError::Missing { field }) => assert!(ext.get(field).is_none()),
        Err(HeaderError::Malformed { field, value }) => assert!(ext.get(field).unwrap().starts_with(&value)),
    }
}

fn json_body(input: &[u8]) {
    if let Ok(value) = from_json::<serde_json::Value>(input) {
        from_json::<serde_json::Value>(&to_json(&value)).unwrap();
    }
    if let Ok(heartbeat) = from_json::<body::HeartbeatData>(input) {
        assert_eq!(from_json::<body::HeartbeatData>(&to_json(&heartbeat)).unwrap(), heartbeat);
    }
    if let Ok(stats) = from_json::<body::ConsumeStats>(input) {
        assert_eq!(from_json::<body::ConsumeStats>(&body::to_fastjson(&stats)).unwrap().offset_table, stats.offset_table);
    }
    let _ = from_json::<body::LockBatchRequestBody>(input);
    let _ = from_json::<body::ClusterInfo>(input);
    if let Ok(route) = from_json::<body::TopicRouteData>(input) {
        assert_eq!(from_json::<body::TopicRouteData>(&to_json(&route)).unwrap(), route);
    }
}

fn registration(input: &[u8]) {
    for compressed in [false, true] {
        if let Ok(body) = body::RegisterBrokerBody::decode(input, compressed) {
            assert_eq!(body::RegisterBrokerBody::decode(&body.encode(), false).unwrap(), body);
        }
    }
}

fn batch(input: &[u8]) {
    let mut out = Vec::new();
    let mut read = 0;
    for message in batch::decode(input, 100) {
        let Ok(message) = message else { return };
        let start = out.len();
        batch::encode(&message, &mut out).unwrap();
        assert_eq!(batch::decode(&out[start..], 1).next(), Some(Ok(message)));
        read += 1;
    }
    assert_eq!((out.len(), batch::decode(&out, 100).count()), (input.len(), read));
}

fn record(input: &[u8]) {
    let _ = RecordView::checked(input);
    let Ok(view) = RecordView::parse(input) else { return };
    assert!(view.bytes().len() <= input.len());
    assert!(view.body().len() + view.topic().len() + view.properties().len() < input.len());
    let _ = (view.body_crc(), view.queue_id(), view.flag(), view.queue_offset(), view.log_offset(), view.sys_flag(), view.born_timestamp());
    let _ = (view.born_host(), view.store_timestamp(), view.store_host(), view.reconsume_times(), view.prepared_transaction_offset());
    let _ = (view.user_properties(), properties::get(view.properties(), properties::TAGS));
}

fn compressed(input: &[u8]) {
    for compression in [Compression::Zlib, Compression::Lz4, Compression::Zstd] {
        if let Ok(body) = inflate(input, compression, INFLATED_BYTES_MAX) {
            assert!(body.len() <= INFLATED_BYTES_MAX);
        }
    }
}

fn all_properties(input: &[u8]) {
    let Ok(text) = properties::from_bytes(input) else { return };
    let all: Vec<(&str, &str)> = properties::iter(text).collect();
    let last = |name: &str| all.iter().rfind(|(other, _)| *other == name).map(|(_, value)| *value);
    // The first names are enough: a text of nothing but separators has thousands.
    for (name, _) in all.iter().take(8) {
        assert_eq!(properties::get(text, name), last(name));
    }
    let mut written = String::new();
    all.iter().for_each(|(name, value)| properties::push(&mut written, name, value));
    assert!(properties::iter(&written).eq(all.iter().copied()), "written anew the properties are others");
    let mut changed = text.to_owned();
    properties::set(&mut changed, properties::TAGS, "new");
    assert_eq!(properties::get(&changed, properties::TAGS), Some("new"));
    properties::remove(&mut changed, properties::TAGS);
    assert!(properties::iter(&changed).eq(all.iter().copied().filter(|(name, _)| *name != properties::TAGS)), "another property has gone too");
}

fn message_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = OffsetMessageId::decode(text) {
        assert_eq!(id.encode(), text.to_uppercase());
    }
}
