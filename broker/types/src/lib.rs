//! The words every crate of Sluice shares. No I/O, no async, no wire format: a value here is valid by construction.
#![forbid(unsafe_code)]

mod names;
mod offsets;

pub use names::{Group, NameError, Topic};
pub use offsets::{CommitLogOffset, QueueId, QueueOffset};
