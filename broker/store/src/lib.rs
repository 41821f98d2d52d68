//! The log that keeps its word: commit log, queue index, key index, checkpoint, recovery and retention of one store directory. See `FORMAT.md`.
//!
//! No async and no sockets here: work is handed in with [`Store::submit`] and comes back through a callback; reads are plain calls that touch page cache.
#![deny(unsafe_code)]

mod api;
mod batch;
mod checkpoint;
mod commit_log;
mod flush_mark;
mod follow;
pub mod key_index;
mod latency;
mod maintenance;
mod mmap;
mod prepare;
pub mod queue_index;
mod read;
mod recovery;
pub mod resync;
mod segment;
mod store;
mod unconfirmed;
mod watermarks;
mod writer;

pub use api::*;
pub use batch::Batch;
pub use follow::{CutError, FollowError, Mark, Marks};
pub use latency::Latency;
pub use queue_index::{Queue, QueueRef};
pub use recovery::{OpenError, RecoveryProgress};
pub use store::{Store, StoreOptions, StoreStatus};
pub use unconfirmed::Lost;
