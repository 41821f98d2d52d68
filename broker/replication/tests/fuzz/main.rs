//! Mutates frames of a group and feeds them to the decoder: it may not panic, nor allocate more than its input allows, and what it understands has to survive being
//! written and read again. `SLUICE_FUZZ_SECONDS` (default 1) is how long. `cargo xtask fuzz` does the same, led by the code that is reached.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

mod target;

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use std::time::{Duration, Instant};

/// A piece of one frame over a piece of another one, if any, and some bytes that are other ones.
fn mutate(mut bytes: Vec<u8>, other: &[u8], at: Option<[Index; 3]>, changes: Vec<(Index, u8)>, is_whole: bool) -> Vec<u8> {
    if let Some(at) = at {
        let [begin, end, from] = at.map(|index| index.index(bytes.len().min(other.len()) + 1));
        bytes.splice(begin.min(end)..begin.max(end), other[from..].iter().copied());
    }
    for (index, byte) in changes {
        if !bytes.is_empty() {
            let place = index.index(bytes.len());
            bytes[place] = byte;
        }
    }
    if is_whole {
        target::repair(&mut bytes);
    }
    bytes
}

#[test]
fn frames_between_master_and_replica_survive() {
    let seconds = std::env::var("SLUICE_FUZZ_SECONDS").map_or(1, |text| text.parse().unwrap_or_else(|_| panic!("SLUICE_FUZZ_SECONDS is no number: {text}")));
    let corpus = target::corpus();
    corpus.iter().for_each(|frame| target::decode(frame));
    let inputs = (any::<[Index; 2]>(), any::<Option<[Index; 3]>>(), proptest::collection::vec(any::<(Index, u8)>(), 0..4), any::<bool>());
    let (end, mut runner) = (Instant::now() + Duration::from_secs(seconds), TestRunner::default());
    while Instant::now() < end {
        let ran = runner.run(&inputs, |([one, other], at, changes, is_whole)| {
            let input = mutate(corpus[one.index(corpus.len())].clone(), &corpus[other.index(corpus.len())], at, changes, is_whole);
            let used = allocation_counter::measure(|| target::decode(&input)).bytes_max as usize;
            let allowed = target::allowed(input.len());
            prop_assert!(used <= allowed, "{} bytes allocated for {} received; {} are allowed: {:02x?}", used, input.len(), allowed, input);
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{error}"));
    }
}
