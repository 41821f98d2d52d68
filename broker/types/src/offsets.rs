//! Positions. A byte position in the commit log and an entry number in a queue are different types, so that one can never be passed for the other.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first position.
            pub const ZERO: Self = Self(0);

            /// The position `n` further on. Running out of 64 bits is a broken invariant, not trouble.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                match self.0.checked_add(n) {
                    Some(sum) => Self(sum),
                    None => panic!("offset overflow"),
                }
            }

            /// How far `self` lies behind `end`; zero when it does not.
            #[must_use]
            pub const fn distance_to(self, end: Self) -> u64 {
                end.0.saturating_sub(self.0)
            }

            /// The form the wire uses: a signed 64-bit number.
            #[must_use]
            pub const fn to_wire(self) -> i64 {
                if self.0 > i64::MAX as u64 { i64::MAX } else { self.0 as i64 }
            }

            /// Reads the wire's form; a negative number is no position.
            #[must_use]
            pub const fn from_wire(value: i64) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value as u64)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

offset! {
    /// Byte position in the commit log of one store.
    CommitLogOffset
}
offset! {
    /// Entry number in one queue.
    QueueOffset
}

/// Number of a queue within its topic, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub u32);

impl QueueId {
    /// Reads the wire's form; a negative number is no queue.
    #[must_use]
    pub const fn from_wire(value: i32) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value as u32)) }
    }

    /// The form the wire uses: a signed 32-bit number.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_wire_numbers_are_no_positions() {
        assert_eq!(QueueOffset::from_wire(-1), None);
        assert_eq!(CommitLogOffset::from_wire(7), Some(CommitLogOffset(7)));
        assert_eq!(QueueId::from_wire(-1), None);
    }

    #[test]
    #[should_panic(expected = "offset overflow")]
    fn an_offset_never_wraps_round() {
        let _ = CommitLogOffset(u64::MAX).plus(1);
    }
}
