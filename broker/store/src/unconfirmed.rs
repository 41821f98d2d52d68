//! Acknowledgements that have not waited for the other brokers ([`Rule`](crate::Rule)): how many there may be, and of which records they were, so that what a change of
//! master takes of them can be counted.
//!
//! The file `unconfirmed` knows it when this process does not any more. Before the first of them since the store was opened it is said there, durably, that from here on any
//! record may have been acknowledged; when the broker ceases to be master, which ones were. Recovery counts what it cuts, and forgets what is confirmed.

use crate::recovery::{read, remove_anew};
use sluice_env::{Disk, Monotonic, sync::Mutex};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) const FILE: &str = "unconfirmed";
/// No end: whatever comes after.
const OPEN: u64 = u64::MAX;
/// Bytes of a range: where it begins 8 · where it ends 8.
const RANGE_BYTES: usize = 16;

/// What was acknowledged, not confirmed, and cut from the log's end when the store was opened, because another broker has become master without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Messages.
    pub messages: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Whether these may be too many: the process that has acknowledged them has ended without saying which they were.
    pub at_most: bool,
}

impl std::ops::AddAssign for Lost {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.at_most |= other.at_most && other.messages > 0;
    }
}

/// Places in the log of what was acknowledged without having been confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// End by begin; none touch each other.
    all: BTreeMap<u64, u64>,
    /// Whether not everything in them may have been acknowledged.
    at_most: bool,
}

impl Ranges {
    /// What the file says; nothing if there is none.
    pub(crate) fn load(disk: &Arc<dyn Disk>) -> io::Result<Self> {
        // An empty one: the end of a process between the two steps of `remove_anew`.
        let Some(bytes) = read(&**disk, FILE)?.filter(|bytes| !bytes.is_empty()) else { return Ok(Self::default()) };
        Ok(Self::decode(&bytes).unwrap_or_else(|| {
            tracing::warn!("the file {FILE} is damaged: if the log is cut, everything cut counts as acknowledged");
            Self { all: BTreeMap::from([(0, OPEN)]), at_most: true }
        }))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(content).to_be_bytes() != *checksum {
            return None;
        }
        let (at_most, ranges) = content.split_first()?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).unwrap_or_default();
        let all = ranges.chunks_exact(RANGE_BYTES).map(|range| (number(&range[..8]), number(&range[8..]))).collect();
        Some(Self { all, at_most: *at_most != 0 })
    }

    /// At most 1 · ranges · CRC-32 of all that 4.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.at_most)];
        for (from, to) in &self.all {
            bytes.extend_from_slice(&from.to_be_bytes());
            bytes.extend_from_slice(&to.to_be_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn store(&self, disk: &Arc<dyn Disk>) -> io::Result<()> {
        if !self.all.is_empty() {
            return disk.replace(FILE, &self.encode());
        }
        disk.change_names("", || remove_anew(disk, FILE))
    }

    fn add(&mut self, from: u64, to: u64) {
        // Neighbours are one range: mostly there is no more than one.
        let to = self.all.remove(&to).unwrap_or(to);
        match self.all.range_mut(..=from).next_back() {
            Some((_, end)) if *end >= from => *end = to.max(*end),
            _ => drop(self.all.insert(from, to)),
        }
    }

    /// Nothing confirmed is ever cut.
    fn forget_confirmed(&mut self, confirmed: u64) {
        while self.all.first_entry().is_some_and(|first| *first.get() <= confirmed) {
            self.all.pop_first();
        }
        // What is added after that is known.
        self.at_most &= !self.all.is_empty();
    }

    /// Whether the record there was acknowledged, as far as is known.
    pub(crate) fn has(&self, at: u64) -> bool {
        self.all.range(..=at).next_back().is_some_and(|(_, end)| at < *end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn is_at_most(&self) -> bool {
        self.at_most
    }

    /// The log ends at `end` now, and is known to be confirmed up to there: says so in the file, if that changes something.
    pub(crate) fn end_at(&mut self, disk: &Arc<dyn Disk>, end: u64, confirmed: u64) -> io::Result<()> {
        let before = self.clone();
        self.all.retain(|from, _| *from < end);
        self.all.values_mut().for_each(|to| *to = (*to).min(end));
        self.forget_confirmed(confirmed);
        if *self == before { Ok(()) } else { self.store(disk) }
    }
}

/// What a store knows of its own.
pub(crate) struct Unconfirmed {
    state: Mutex<State>,
    /// Nanoseconds by the clock until which this broker may be sure that it is the only master.
    lead_until: AtomicU64,
}

struct State {
    ranges: Ranges,
    /// Whether the file says that there may be more.
    is_open: bool,
    has_failed: bool,
}

impl Unconfirmed {
    pub(crate) fn new(ranges: Ranges) -> Self {
        Self { state: Mutex::new(State { ranges, is_open: false, has_failed: false }), lead_until: AtomicU64::new(0) }
    }

    pub(crate) fn lead_until(&self, until: Monotonic) {
        self.lead_until.store(u64::try_from(until.0.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    pub(crate) fn leads(&self, now: Monotonic) -> bool {
        now.0.as_nanos() < u128::from(self.lead_until.load(Ordering::SeqCst))
    }

    /// Makes the file say that records from `from` on may have been acknowledged; false if it can't be written: then none may be.
    pub(crate) fn open(&self, disk: &Arc<dyn Disk>, from: u64) -> bool {
        let mut state = self.state.lock();
        if !state.is_open {
            let mut ranges = Ranges { at_most: true, ..state.ranges.clone() };
            ranges.all.retain(|begin, _| *begin < from);
            ranges.all.insert(from, OPEN);
            match ranges.store(disk) {
                Ok(()) => (state.is_open, state.has_failed) = (true, false),
                Err(error) => {
                    if !std::mem::replace(&mut state.has_failed, true) {
                        tracing::warn!(%error, "that records are acknowledged unconfirmed could not be noted: they wait for the other brokers");
                    }
                }
            }
        }
        state.is_open
    }

    /// A batch between these places is acknowledged, while the log is confirmed up to there.
    pub(crate) fn note(&self, from: u64, to: u64, confirmed: u64) {
        let mut state = self.state.lock();
        state.ranges.forget_confirmed(confirmed);
        state.ranges.add(from, to);
    }

    /// Nothing more is acknowledged: the file shall say what was.
    pub(crate) fn settle(&self, disk: &Arc<dyn Disk>, confirmed: u64) {
        let mut state = self.state.lock();
        state.ranges.forget_confirmed(confirmed);
        if std::mem::replace(&mut state.is_open, false)
            && let Err(error) = state.ranges.store(disk)
        {
            tracing::warn!(%error, "which records were acknowledged unconfirmed could not be noted: what is cut of the log counts as acknowledged");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::{OpenMode, sim};

    #[test]
    fn ranges_that_touch_are_one_and_what_is_confirmed_is_forgotten() {
        let mut ranges = Ranges::default();
        for (from, to) in [(100, 200), (300, 400), (200, 300), (500, 600)] {
            ranges.add(from, to);
        }
        assert_eq!(ranges.all, BTreeMap::from([(100, 400), (500, 600)]));
        let has = |ranges: &Ranges| [99, 100, 399, 400, 500, 600].map(|at| ranges.has(at));
        assert_eq!(has(&ranges), [false, true, true, false, true, false]);
        ranges.forget_confirmed(399);
        assert_eq!(ranges.all.len(), 2);
        ranges.forget_confirmed(400);
        assert_eq!(ranges.all, BTreeMap::from([(500, 600)]));
    }

    #[test]
    fn what_the_file_says_is_read_again_closed_at_the_logs_end_and_gone_when_it_is_confirmed() {
        let (env, ..) = sim::env(1);
        let unconfirmed = Unconfirmed::new(Ranges::default());
        assert!(unconfirmed.open(&env.disk, 100));
        unconfirmed.note(100, 200, 100);
        let mut after_a_kill = Ranges::load(&env.disk).unwrap();
        assert!(after_a_kill.is_at_most() && after_a_kill.has(100) && after_a_kill.has(5_000));
        after_a_kill.end_at(&env.disk, 300, 0).unwrap();
        let closed = Ranges::load(&env.disk).unwrap();
        assert!(closed.is_at_most() && closed.has(299) && !closed.has(300));
        unconfirmed.settle(&env.disk, 100);
        let mut settled = Ranges::load(&env.disk).unwrap();
        assert!(!settled.is_at_most() && settled.has(199) && !settled.has(200), "{settled:?}");
        settled.end_at(&env.disk, 300, 200).unwrap();
        assert!(Ranges::load(&env.disk).unwrap().is_empty());
        assert!(env.disk.open(FILE, OpenMode::Read).is_err());
    }

    #[test]
    fn once_what_a_killed_process_had_left_open_is_confirmed_the_count_is_exact_again() {
        let (env, ..) = sim::env(1);
        assert!(Unconfirmed::new(Ranges::default()).open(&env.disk, 100));
        let mut left_open = Ranges::load(&env.disk).unwrap();
        left_open.end_at(&env.disk, 300, 0).unwrap();
        let told = |confirmed: u64| {
            let unconfirmed = Unconfirmed::new(left_open.clone());
            assert!(unconfirmed.open(&env.disk, 300));
            unconfirmed.note(300, 400, confirmed);
            unconfirmed.settle(&env.disk, confirmed);
            let ranges = Ranges::load(&env.disk).unwrap();
            (ranges.is_at_most(), [200, 300, 399].map(|at| ranges.has(at)))
        };
        assert_eq!(told(299), (true, [true, true, true]));
        assert_eq!(told(300), (false, [false, true, true]));
    }

    #[test]
    fn a_damaged_file_counts_everything() {
        let (env, ..) = sim::env(1);
        let unconfirmed = Unconfirmed::new(Ranges::default());
        assert!(unconfirmed.open(&env.disk, 100));
        let file = env.disk.open(FILE, OpenMode::Write).unwrap();
        file.write_all_at(&[7], 3).unwrap();
        let ranges = Ranges::load(&env.disk).unwrap();
        assert!(ranges.is_at_most() && ranges.has(0));
    }
}
