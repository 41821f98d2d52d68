//! The words every crate of Sluice shares. No I/O, no async, no wire format: a value here is valid by construction.
#![forbid(unsafe_code)]

mod names;
mod offsets;

pub use names::{GROUP_BYTES_MAX, Group, NameError, TOPIC_BYTES_MAX, Topic};
pub use offsets::{CommitLogOffset, QueueId, QueueOffset};
