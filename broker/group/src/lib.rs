//! A broker's part in its group: what `replication` decides, carried out over a store, connections to the other brokers and a coordinator.
//!
//! | module | does |
//! | --- | --- |
//! | `coordinator` | keeps the group's one object, changed by compare-and-swap only |
//! | `link` | messages over a connection |
//! | `master`, `replica` | the two ends of one |
//! | `yielding` | lets a replica that catches up yield to those who keep up |
//! | `life` | knows whether a store still has what its broker ever said it held |
//! | `runner` | runs a member of a group |
//! | `kept` | keeps a value in a file of the store directory, whole or not at all |
#![forbid(unsafe_code)]

pub mod coordinator;
mod kept;
mod life;
pub mod link;
pub mod master;
pub mod replica;
pub mod runner;
pub mod yielding;

pub use kept::{Kept, KeptError};

use sluice_replication::{Epoch, EpochMap, EpochStart, OutOfOrder};
use sluice_store::Store;

/// The epochs of a store's log.
fn epochs_of(store: &Store) -> Result<EpochMap, OutOfOrder> {
    EpochMap::new(store.epochs().into_iter().map(|(epoch, start)| EpochStart { epoch: Epoch(epoch), start }).collect())
}
