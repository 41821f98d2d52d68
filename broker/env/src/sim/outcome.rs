//! What a power cut keeps of the changes that were not synced.

use super::entropy::hash;

/// Decides, by a seed, the fate of each change; the same seed and the same changes end the same way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    seed: u64,
    shape: Shape,
}

/// Separate ways of losing, so that the extremes, which tests want most, do not depend on luck in every single change.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Nothing that was not synced is there.
    LoseAll,
    /// The caches happened to be written out just before.
    KeepAll,
    /// Changes reached the medium in the order in which they were made, up to this one, which is torn.
    Ordered { torn: u64 },
    /// Each change for itself, hence in any order.
    Independent,
}

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped,
    /// Each of its sectors for itself.
    Torn,
}

impl Outcome {
    /// Fates for the changes numbered from `first` (the oldest that is not synced) up to but not including `next`.
    pub(crate) fn new(seed: u64, first: u64, next: u64) -> Self {
        let shape = match hash(&[seed, 0]) % 8 {
            0 => Shape::LoseAll,
            1 => Shape::KeepAll,
            2 | 3 => Shape::Ordered { torn: first + hash(&[seed, 1]) % (next.saturating_sub(first) + 1) },
            _ => Shape::Independent,
        };
        Self { seed, shape }
    }

    fn fate(self, change: u64) -> Fate {
        match self.shape {
            Shape::LoseAll => Fate::Dropped,
            Shape::KeepAll => Fate::Kept,
            Shape::Ordered { torn } if change == torn => Fate::Torn,
            Shape::Ordered { torn } if change < torn => Fate::Kept,
            Shape::Ordered { .. } => Fate::Dropped,
            Shape::Independent => match hash(&[self.seed, 2, change]) % 3 {
                0 => Fate::Kept,
                1 => Fate::Dropped,
                _ => Fate::Torn,
            },
        }
    }

    /// Whether a change that is atomic (a directory entry, a length) is there.
    pub(crate) fn keeps(self, change: u64) -> bool {
        match self.fate(change) {
            Fate::Kept => true,
            Fate::Dropped => false,
            Fate::Torn => hash(&[self.seed, 3, change]).is_multiple_of(2),
        }
    }

    /// Whether that sector of a write is there.
    pub(crate) fn keeps_sector(self, change: u64, sector: u64) -> bool {
        match self.fate(change) {
            Fate::Kept => true,
            Fate::Dropped => false,
            Fate::Torn => hash(&[self.seed, 4, change, sector]).is_multiple_of(2),
        }
    }
}
