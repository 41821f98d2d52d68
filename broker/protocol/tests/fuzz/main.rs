//! Mutates the golden bytes and feeds every decoder with them: nothing may panic, nothing may allocate more than its input allows, and what is understood
//! must survive being written and read again.
//!
//! `SLUICE_FUZZ_SECONDS` (default 1) is how long each decoder is tried, `SLUICE_FUZZ_SEED` (default 1) where its random numbers start. What fails is printed
//! in hex with its seed.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

mod targets;

use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// Where the bytes are that Java RocketMQ has written.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden");

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

/// Feeds a decoder with mutations of its corpus. Every other one is made whole again on the outside.
fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = (target.corpus)();
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")));
    let seed: u64 = number("SLUICE_FUZZ_SEED").unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(number("SLUICE_FUZZ_SECONDS").unwrap_or(1));
    let mut random = Random(seed);
    for input in &corpus {
        check(target, seed, input);
    }
    let mut inputs = corpus.len();
    while Instant::now() < end {
        for _ in 0..64 {
            let mut input = mutate(&mut random, &corpus);
            if random.below(2) == 0 {
                (target.repair)(&mut input);
            }
            check(target, seed, &input);
            inputs += 1;
        }
    }
    println!("{name}: {inputs} inputs from seed {seed}");
}

fn check(target: &Target, seed: u64, input: &[u8]) {
    let _witness = Witness { name: target.name, seed, input };
    target.check(input);
}

#[test]
fn frames_survive() {
    fuzz("frame");
}

#[test]
fn the_largest_header_survives_growing_sixfold_by_escapes() {
    let target = TARGETS.iter().find(|target| target.name == "frame").unwrap();
    let mut input = br#"????????{"remark":""#.to_vec();
    input.resize(8 + 64 * 1024 - 2, 1);
    input.extend_from_slice(b"\"}");
    let header = input.len() as u32 - 8;
    input[..4].copy_from_slice(&(header + 4).to_be_bytes());
    input[4..8].copy_from_slice(&header.to_be_bytes());
    check(target, 0, &input);
}

#[test]
fn typed_headers_survive() {
    fuzz("header");
}

#[test]
fn bodies_survive() {
    fuzz("body");
}

#[test]
fn registrations_survive() {
    fuzz("registration");
}

#[test]
fn batches_survive() {
    fuzz("batch");
}

#[test]
fn records_survive_without_allocating() {
    fuzz("record");
}

#[test]
fn compressed_bodies_survive() {
    fuzz("compressed");
}

#[test]
fn properties_survive() {
    fuzz("properties");
}

#[test]
fn message_ids_survive() {
    fuzz("message-id");
}
