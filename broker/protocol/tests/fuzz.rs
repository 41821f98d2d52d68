//! Mutates the golden bytes and feeds every decoder with them: nothing may panic, nothing may allocate more than its input allows, and what is understood
//! must survive being written and read again.
//!
//! `SLUICE_FUZZ_SECONDS` (default 1) is how long each decoder is tried, `SLUICE_FUZZ_SEED` (default 1) where its random numbers start. What fails is printed
//! in hex with its seed.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use bytes::BytesMut;
use sluice_protocol::body::{self, from_json, to_json};
use sluice_protocol::compress::{Compression, inflate};
use sluice_protocol::headers::*;
use sluice_protocol::message_id::OffsetMessageId;
use sluice_protocol::record::RecordView;
use sluice_protocol::{ExtFields, Frame, FrameError, FrameLimits, HeaderError, Step, TypedHeader, batch, next_frame, properties};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Room for what does not depend on the input: lists' first sizes, error texts.
const SLACK_BYTES: usize = 64 * 1024;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// Pieces that parsers trip over.
#[rustfmt::skip]
const TOKENS: &[&[u8]] = &[
    b"{", b"}", b"[", b"]", b"\"", b",", b":", b"\\", b"\\u", b"\\ud83d", b"\\udc00", b"\\u0000", b"null", b"true", b"-", b"1e999", b"{0:", b"{{}:", b"99999999999999999999",
    b"\"extFields\":{", b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", b"\x01", b"\x02", b"\xFF", b"\xF0\x9F\x98\x80", b"\xED\xA0\x80", b"\0\0\0\0",
];
const LENGTHS: &[i64] = &[i64::MIN, -1, 0, 1, 3, 4, 127, 128, 255, 256, 32_767, 32_768, 65_535, 0xFF_FFFF, 16 << 20, i32::MAX as i64, i64::MAX];

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        match random.below(9) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            3 | 4 => lie(random, &mut bytes, at),
            5 => bytes.truncate(at),
            6 => drop(bytes.splice(at..end, random.of(TOKENS).iter().copied())),
            7 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                bytes.splice(at.., other[random.below(other.len() + 1)..].iter().copied());
            }
        }
    }
    bytes
}

/// Writes a wrong big-endian length of 2, 4 or 8 bytes.
fn lie(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = [2, 4, 8][random.below(3)];
    let value = (LENGTHS[random.below(LENGTHS.len())] << (64 - 8 * width)).to_be_bytes();
    for (byte, new) in bytes[at..].iter_mut().zip(&value[..width]) {
        *byte = *new;
    }
}

/// Prints the input when the test fails.
struct Witness<'a> {
    name: &'a str,
    seed: u64,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{}: SLUICE_FUZZ_SEED={} input {hex}", self.name, self.seed);
        }
    }
}

/// Feeds `decode` with mutations of `corpus`. `repair` makes every other input whole again on the outside, so that the inside is reached.
fn fuzz(name: &str, corpus: &[Vec<u8>], allowed: impl Fn(usize) -> usize, repair: impl Fn(&mut [u8]), decode: impl Fn(&[u8])) {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")));
    let seed: u64 = number("SLUICE_FUZZ_SEED").unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(number("SLUICE_FUZZ_SECONDS").unwrap_or(1));
    let mut random = Random(seed);
    for input in corpus {
        check(name, seed, input, &allowed, &decode);
    }
    let mut inputs = corpus.len();
    while Instant::now() < end {
        for _ in 0..64 {
            let mut input = mutate(&mut random, corpus);
            if random.below(2) == 0 {
                repair(&mut input);
            }
            check(name, seed, &input, &allowed, &decode);
            inputs += 1;
        }
    }
    println!("{name}: {inputs} inputs from seed {seed}");
}

fn check(name: &str, seed: u64, input: &[u8], allowed: &impl Fn(usize) -> usize, decode: &impl Fn(&[u8])) {
    let _witness = Witness { name, seed, input };
    let used = allocation_counter::measure(|| decode(input)).bytes_max as usize;
    let allowed = allowed(input.len());
    assert!(used <= allowed, "{used} bytes allocated for {} received; {allowed} are allowed", input.len());
}

fn corpus(prefix: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
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

fn whole(bytes: &[u8]) -> Result<Frame, Option<FrameError>> {
    match next_frame(&mut BytesMut::from(bytes), &FrameLimits::default()) {
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

#[test]
fn frames_survive() {
    fuzz(
        "frame",
        &corpus("frame-"),
        |len| 16 * len + SLACK_BYTES,
        repair_frame,
        |input| {
            let once = whole(input);
            if !input.is_empty() {
                // A half frame is waited for, or refused for the same reason as the whole.
                let half = whole(&input[..input.len() / 2]);
                assert!(half == Err(None) || half == once, "{half:?}");
            }
            let Ok(frame) = once else { return };
            let mut out = BytesMut::new();
            frame.encode(&mut out).unwrap();
            assert_eq!(whole(&out), Ok(frame));
        },
    );
}

fn survives<T: TypedHeader + PartialEq + std::fmt::Debug>(ext: &ExtFields) {
    if let Ok(header) = T::decode(ext) {
        assert_eq!(T::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn typed_headers_survive() {
    fuzz(
        "headers",
        &corpus("frame-"),
        |len| 64 * len + SLACK_BYTES,
        repair_frame,
        |input| {
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
        },
    );
}

#[test]
fn bodies_survive() {
    fuzz(
        "body",
        &json_corpus(),
        |len| 160 * len + SLACK_BYTES,
        nothing,
        |input| {
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
        },
    );
}

#[test]
fn registrations_survive() {
    let bodies: Vec<Vec<u8>> = corpus("frame-register").iter().map(|frame| whole(frame).unwrap().body.to_vec()).collect();
    // Deflate's best is 1032 to 1.
    fuzz(
        "registration",
        &bodies,
        |len| 4 * 1032 * len + SLACK_BYTES,
        nothing,
        |input| {
            for compressed in [false, true] {
                if let Ok(body) = body::RegisterBrokerBody::decode(input, compressed) {
                    assert_eq!(body::RegisterBrokerBody::decode(&body.encode(), false).unwrap(), body);
                }
            }
        },
    );
}

#[test]
fn batches_survive() {
    fuzz(
        "batch",
        &corpus("batch"),
        |len| 8 * len + SLACK_BYTES,
        repair_total,
        |input| {
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
        },
    );
}

#[test]
fn records_survive_without_allocating() {
    fuzz(
        "record",
        &corpus("record-"),
        |_| 0,
        repair_total,
        |input| {
            let _ = RecordView::checked(input);
            let Ok(view) = RecordView::parse(input) else { return };
            assert!(view.bytes().len() <= input.len());
            assert!(view.body().len() + view.topic().len() + view.properties().len() < input.len());
            let _ = (view.body_crc(), view.queue_id(), view.flag(), view.queue_offset(), view.log_offset(), view.sys_flag(), view.born_timestamp());
            let _ = (view.born_host(), view.store_timestamp(), view.store_host(), view.reconsume_times(), view.prepared_transaction_offset());
            let _ = (view.user_properties(), properties::get(view.properties(), properties::TAGS));
        },
    );
}

#[test]
fn compressed_bodies_survive() {
    const CAP: usize = 256 * 1024;
    // Zstandard's window is allocated at once, in a ring of up to twice its size; its tables and LZ4's blocks come on top.
    fuzz(
        "compressed",
        &corpus("compressed-"),
        |_| 3 * CAP + (32 << 20),
        nothing,
        |input| {
            for compression in [Compression::Zlib, Compression::Lz4, Compression::Zstd] {
                if let Ok(body) = inflate(input, compression, CAP) {
                    assert!(body.len() <= CAP);
                }
            }
        },
    );
}

#[test]
fn message_ids_survive() {
    let ids: Vec<Vec<u8>> = corpus("message-ids")[0].split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    fuzz(
        "message id",
        &ids,
        |len| 8 * len + SLACK_BYTES,
        nothing,
        |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            if let Ok(id) = OffsetMessageId::decode(text) {
                assert_eq!(id.encode(), text.to_uppercase());
            }
        },
    );
}
