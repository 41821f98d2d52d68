//! Seeded numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Rng;

/// What each step adds to the state; odd, so that the state visits every value.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finisher of SplitMix64: every bit of the answer depends on every bit of `x`.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One number from several: the same for the same numbers in the same order.
pub(crate) fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(STEP, |state, &part| mix(state.wrapping_add(STEP) ^ mix(part.wrapping_add(STEP))))
}

/// Adds numbers to a fingerprint: far quicker than `hash`, and enough to tell two runs apart.
#[cfg(feature = "sim-threads")]
pub(crate) fn fingerprint(state: u64, parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(state, |state, part| (state.rotate_left(23) ^ part).wrapping_mul(STEP))
}

/// Bytes of a long message that count in its hash. The rest would cost more than it tells.
#[cfg(feature = "sim-threads")]
const HASHED_BYTES: usize = 512;

/// A number for bytes, by their length and their first ones.
#[cfg(feature = "sim-threads")]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| match <[u8; 8]>::try_from(chunk) {
        Ok(whole) => u64::from_be_bytes(whole),
        Err(_) => chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    fingerprint(bytes.len() as u64, bytes[..bytes.len().min(HASHED_BYTES)].chunks(8).map(word))
}

/// The SplitMix64 generator. The same seed gives the same numbers.
#[derive(Debug)]
pub struct SimRng {
    state: AtomicU64,
}

impl SimRng {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Rng for SimRng {
    fn next_u64(&self) -> u64 {
        mix(self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_another_seed_another() {
        let draw = |seed| {
            let rng = SimRng::new(seed);
            [rng.next_u64(), rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // The published first output of SplitMix64 for seed 0.
        assert_eq!(draw(0)[0], 0xe220_a839_7b1d_cdaf);
    }
}
