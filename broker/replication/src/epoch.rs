//! Epochs, and where in the log each began.

use serde::{Deserialize, Serialize};
use sluice_types::CommitLogOffset;
use std::fmt;

/// The number of a master's tenure. Each is given to one master once, by the coordinator's compare-and-swap; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an epoch's first record lies: the record by which its master began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochStart {
    /// Whose.
    pub epoch: Epoch,
    /// The first byte of its first record.
    pub start: CommitLogOffset,
}

/// A list that is no epoch map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {} at {} does not come after epoch {} at {}", after.epoch, after.start.0, before.epoch, before.start.0)]
pub struct OutOfOrder {
    before: EpochStart,
    after: EpochStart,
}

/// Which epochs a log has, oldest first: epochs rise, and so do their starts. An epoch without a record has no entry.
///
/// Two logs whose maps share an epoch's start hold the same bytes from there to where the shorter of the two has its end or its next epoch, and below: one master wrote
/// them, and replicas copy without gaps. That is what [`EpochMap::common_end`] rests on (Kafka's KIP-101 has the idea, RocketMQ's `EpochFileCache` too).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<EpochStart>", into = "Vec<EpochStart>")]
pub struct EpochMap(Vec<EpochStart>);

impl TryFrom<Vec<EpochStart>> for EpochMap {
    type Error = OutOfOrder;
    fn try_from(entries: Vec<EpochStart>) -> Result<Self, OutOfOrder> {
        Self::new(entries)
    }
}

impl From<EpochMap> for Vec<EpochStart> {
    fn from(map: EpochMap) -> Self {
        map.0
    }
}

impl EpochMap {
    /// A map of these entries; for what came from a disk or a peer.
    pub fn new(entries: Vec<EpochStart>) -> Result<Self, OutOfOrder> {
        match entries.windows(2).find(|w| w[0].epoch >= w[1].epoch || w[0].start >= w[1].start) {
            Some(w) => Err(OutOfOrder { before: w[0], after: w[1] }),
            None => Ok(Self(entries)),
        }
    }

    /// Oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The newest epoch that the log has a record of.
    #[must_use]
    pub fn last(&self) -> Option<Epoch> {
        self.0.last().map(|entry| entry.epoch)
    }

    /// An epoch's first record is at `start`.
    pub fn begin(&mut self, epoch: Epoch, start: CommitLogOffset) -> Result<(), OutOfOrder> {
        let after = EpochStart { epoch, start };
        if let Some(before) = self.0.last().filter(|before| before.epoch >= epoch || before.start >= start) {
            return Err(OutOfOrder { before: *before, after });
        }
        self.0.push(after);
        Ok(())
    }

    /// The log ends at `end` from now on.
    pub fn cut(&mut self, end: CommitLogOffset) {
        self.0.retain(|entry| entry.start < end);
    }

    /// The epoch that the byte at `offset` was written in.
    #[must_use]
    pub fn at(&self, offset: CommitLogOffset) -> Option<Epoch> {
        self.0.iter().rev().find(|entry| entry.start <= offset).map(|entry| entry.epoch)
    }

    /// Up to where a log with this map and another hold the same bytes. `None`: they have no epoch in common, and nothing may be assumed.
    #[must_use]
    pub fn common_end(&self, end: CommitLogOffset, other: &Self, other_end: CommitLogOffset) -> Option<CommitLogOffset> {
        let shared = self.0.iter().rev().find(|entry| other.0.contains(entry))?;
        Some(self.end_of(shared.epoch, end).min(other.end_of(shared.epoch, other_end)))
    }

    /// Where an epoch's records end.
    fn end_of(&self, epoch: Epoch, log_end: CommitLogOffset) -> CommitLogOffset {
        self.0.iter().find(|entry| entry.epoch > epoch).map_or(log_end, |next| next.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(entries: &[(u64, u64)]) -> EpochMap {
        EpochMap::new(entries.iter().map(|&(epoch, start)| EpochStart { epoch: Epoch(epoch), start: CommitLogOffset(start) }).collect()).unwrap()
    }

    fn common(a: &[(u64, u64)], a_end: u64, b: &[(u64, u64)], b_end: u64) -> Option<u64> {
        map(a).common_end(CommitLogOffset(a_end), &map(b), CommitLogOffset(b_end)).map(|offset| offset.0)
    }

    #[test]
    fn logs_diverge_where_the_last_common_epoch_ends_first() {
        type Log = &'static [(u64, u64)];
        let cases: [(Log, u64, Log, u64, Option<u64>); 8] = [
            // The same log, one shorter.
            (&[(1, 0)], 50, &[(1, 0)], 80, Some(50)),
            (&[(1, 0), (2, 40)], 50, &[(1, 0), (2, 40)], 50, Some(50)),
            // The old master wrote on after the new one began.
            (&[(1, 0)], 100, &[(1, 0), (2, 80)], 120, Some(80)),
            // Each wrote an epoch that the other never saw.
            (&[(1, 0), (2, 100)], 130, &[(1, 0), (3, 80)], 90, Some(80)),
            // An epoch in between that only one has.
            (&[(1, 0), (2, 30), (3, 60)], 90, &[(1, 0), (3, 60)], 70, Some(70)),
            // The same number begun at two places is not the same epoch (a coordinator that was set back).
            (&[(1, 0), (2, 30)], 90, &[(1, 0), (2, 40)], 90, Some(30)),
            // Nothing in common.
            (&[(2, 500)], 900, &[(1, 0)], 400, None),
            (&[], 0, &[(1, 0)], 400, None),
        ];
        for (a, a_end, b, b_end, expected) in cases {
            assert_eq!(common(a, a_end, b, b_end), expected, "{a:?} to {a_end}, {b:?} to {b_end}");
            assert_eq!(common(b, b_end, a, a_end), expected, "{b:?} to {b_end}, {a:?} to {a_end}");
        }
    }

    #[test]
    fn a_cut_takes_epochs_that_begin_behind_it_and_a_byte_is_of_the_epoch_before_it() {
        let mut cut = map(&[(1, 0), (2, 40), (5, 90)]);
        cut.cut(CommitLogOffset(40));
        assert_eq!(cut, map(&[(1, 0)]));
        let trimmed = map(&[(2, 40), (5, 90)]);
        assert_eq!(trimmed.at(CommitLogOffset(89)), Some(Epoch(2)));
        assert_eq!(trimmed.at(CommitLogOffset(90)), Some(Epoch(5)));
        assert_eq!(trimmed.at(CommitLogOffset(39)), None);
    }

    #[test]
    fn a_map_out_of_order_is_refused() {
        let entry = |epoch, start| EpochStart { epoch: Epoch(epoch), start: CommitLogOffset(start) };
        for wrong in [[entry(2, 0), entry(1, 10)], [entry(1, 0), entry(1, 10)], [entry(1, 10), entry(2, 10)]] {
            assert!(EpochMap::new(wrong.to_vec()).is_err(), "{wrong:?}");
        }
        let error = map(&[(3, 50)]).begin(Epoch(3), CommitLogOffset(60)).unwrap_err();
        assert_eq!(error.to_string(), "epoch 3 at 60 does not come after epoch 3 at 50");
    }

    /// A log as the epoch of each of its bytes; the byte's writer is its epoch's one master, so equal epochs at equal places are equal bytes only below a divergence.
    fn map_of(log: &[u64]) -> EpochMap {
        let mut map = EpochMap::default();
        for (at, epoch) in log.iter().enumerate() {
            if map.last() != Some(Epoch(*epoch)) {
                map.begin(Epoch(*epoch), CommitLogOffset(at as u64)).unwrap();
            }
        }
        map
    }

    proptest! {
        /// Two logs that share a prefix and then go on in epochs of their own.
        #[test]
        fn the_common_end_is_where_the_bytes_begin_to_differ(
            prefix in proptest::collection::vec(1_u64..4, 1..20),
            ours in proptest::collection::vec(0_u64..3, 0..10),
            theirs in proptest::collection::vec(0_u64..3, 0..10),
        ) {
            let mut prefix = prefix;
            prefix.sort_unstable();
            let extend = |tail: &[u64], parity: u64| {
                let mut tail: Vec<u64> = tail.iter().map(|n| 10 + 2 * n + parity).collect();
                tail.sort_unstable();
                prefix.iter().copied().chain(tail).collect::<Vec<u64>>()
            };
            let (a, b) = (extend(&ours, 0), extend(&theirs, 1));
            let found = map_of(&a).common_end(CommitLogOffset(a.len() as u64), &map_of(&b), CommitLogOffset(b.len() as u64));
            prop_assert_eq!(found, Some(CommitLogOffset(prefix.len() as u64)));
        }
    }
}
