//! A set of offsets as ranges. Offsets come nearly in order, so there are few ranges however many offsets there are.

use std::collections::BTreeMap;

/// Ranges by their starts, with their ends; no two touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    ends: BTreeMap<u64, u64>,
}

impl Spans {
    /// Whether it is in.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.ends.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// Adds one; false when it was there.
    pub(crate) fn insert(&mut self, offset: u64) -> bool {
        let (mut start, mut end) = (offset, offset + 1);
        if let Some((&before, &until)) = self.ends.range(..=offset).next_back() {
            if offset < until {
                return false;
            }
            if until == offset {
                start = before;
            }
        }
        if let Some(until) = self.ends.remove(&end) {
            end = until;
        }
        self.ends.insert(start, end);
        true
    }

    /// Forgets everything below.
    pub(crate) fn forget_below(&mut self, offset: u64) {
        while let Some((&start, &end)) = self.ends.first_key_value() {
            if start >= offset {
                return;
            }
            self.ends.remove(&start);
            if end > offset {
                self.ends.insert(offset, end);
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn spans_are_a_set(steps in prop::collection::vec((0u64..40, 0u8..8), 0..200)) {
            let (mut spans, mut set) = (Spans::default(), BTreeSet::new());
            for (offset, what) in steps {
                if what == 0 {
                    spans.forget_below(offset);
                    set = set.split_off(&offset);
                } else {
                    prop_assert_eq!(spans.insert(offset), set.insert(offset));
                }
                for at in 0..41 {
                    prop_assert_eq!(spans.contains(at), set.contains(&at));
                }
            }
        }
    }
}
