//! Master and replicas without a consensus of our own: one object per group, changed by compare-and-swap, says who is master in which epoch and who must hold a record
//! before it is confirmed. The argument why that loses nothing is in ARCHITECTURE.md; the module `search` tries every order of events for small groups.
//!
//! | module | decides |
//! | --- | --- |
//! | `epoch` | epochs, and up to where two logs are the same |
//! | `group` | what the coordinator keeps, and what a broker remembers of it |
//! | `in_sync` | whom a record waits for |
//! | `core` | what one broker may do |
//! | `pace` | when it tries |
//! | `meeting` | how a replica's log meets its master's |
//! | `wire` | what master and replica say to each other, byte for byte |
#![forbid(unsafe_code)]

mod core;
mod epoch;
mod group;
mod in_sync;
pub mod meeting;
mod pace;
#[cfg(test)]
mod search;
pub mod wire;

pub use crate::core::{Action, Candidacy, Core, Event, Role};
pub use epoch::{Epoch, EpochMap, EpochStart, OutOfOrder};
pub use group::{GroupState, Incarnation, Member, MemberId, Seen, SetBack, Version, Versioned};
pub use in_sync::{BeyondTheEnd, Held, InSync, Proposal};
pub use pace::{LogHealth, Pace, Retired, Signs, Timing, Wish};
