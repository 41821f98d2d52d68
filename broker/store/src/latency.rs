//! How long things take, as a histogram that costs two additions.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets, ns: from 10 µs (a write into the page cache) to 2.5 s (a disk in trouble). What is above is in a last bucket.
const BOUNDS_NS: [u64; BUCKETS] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
];
const BUCKETS: usize = 16;

/// Counts durations.
#[derive(Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    /// Upper bound of each bucket in seconds, growing, with the number of durations up to it; durations above the last are in `count` alone.
    pub buckets: Vec<(f64, u64)>,
    /// How many durations there were.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    pub(crate) fn read(&self) -> Latency {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for (bound, counted) in BOUNDS_NS.iter().zip(&self.counts) {
            count += counted.load(Relaxed);
            buckets.push((*bound as f64 / 1e9, count));
        }
        count += self.counts[BUCKETS].load(Relaxed);
        Latency { buckets, count, sum_seconds: self.sum_ns.load(Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_in_all_above() {
        let histogram = Histogram::default();
        for took in [Duration::ZERO, Duration::from_micros(10), Duration::from_nanos(10_001), Duration::from_secs(3)] {
            histogram.observe(took);
        }
        let read = histogram.read();
        assert_eq!(read.buckets[..3], [(0.000_01, 2), (0.000_025, 3), (0.000_05, 3)]);
        assert_eq!((read.buckets[BUCKETS - 1], read.count), ((2.5, 3), 4));
        assert!((read.sum_seconds - 3.000_020_001).abs() < 1e-9);
    }
}
