//! Where a group's one object is kept: who is master in which epoch, and who must hold a record before it is confirmed.

#[cfg(feature = "etcd")]
mod etcd;
mod file;
#[cfg(feature = "kubernetes")]
mod kubernetes;

#[cfg(feature = "etcd")]
pub use etcd::{BadEndpoints, EtcdCoordinator};
pub use file::FileCoordinator;
#[cfg(feature = "kubernetes")]
pub use kubernetes::{Access, KubernetesCoordinator, NoAccess};

use serde::{Deserialize, Serialize};
use sluice_replication::{Epoch, GroupState, MemberId, Version, Versioned};
use std::time::Duration;

/// Keeps the object of one group. What it must do: a swap that has succeeded is never undone, and of two swaps that rest on one version one succeeds at most.
/// No two objects have one version, though the coordinator be set back to an older copy and count on from there.
pub trait Coordinator: Send + Sync {
    /// The object; `None`: there is none yet.
    fn read(&self, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError>;

    /// Replaces the object if it is still that version (`None`: if there is none).
    ///
    /// After an error it is not known whether it was replaced, nor whether it still will be. No implementation repeats a request on its own; but what lies between may, and
    /// then the answer is `Other` though the first one went through. So the object that comes with it decides, not the word, as in `sluice_replication::Event::Read`.
    fn swap(&self, from: Option<&Version>, to: &GroupState, timeout: Duration) -> Result<Swapped, CoordinatorError>;

    /// Says that the master of the lease's epoch lives, and reads the object. Where the object is of another epoch, nothing is written.
    fn renew(&self, lease: Lease, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError>;

    /// Who last said so; `None`: nobody ever has.
    fn lease(&self, timeout: Duration) -> Result<Option<Lease>, CoordinatorError>;

    /// Where it is, for people.
    fn describe(&self) -> String;
}

/// A sign of life beside the object. It decides when somebody tries to become master, never who may: whoever sees it unchanged for long by his own clock may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The master's.
    pub epoch: Epoch,
    /// Who it is.
    pub master: MemberId,
    /// Rises with each renewal.
    pub renewal: u64,
}

/// How a swap went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The object is what was asked for.
    Done(Versioned),
    /// It was another version, and is as it was.
    Other(Option<Versioned>),
}

/// No answer, or none that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// It does not answer. The data goes on as before; no master and no set can change meanwhile.
    #[error("the coordinator at {place} does not answer: {why}")]
    Away {
        /// Which.
        place: String,
        /// What was seen.
        why: String,
    },
    /// It answers that it will not, until somebody changes something.
    #[error("the coordinator at {place} refuses: {why}")]
    Refused {
        /// Which.
        place: String,
        /// What it lacks, and what to do.
        why: String,
    },
    /// What it has is no group's object.
    #[error("what the coordinator at {place} has can't be used: {why}")]
    Damaged {
        /// Which.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An error and what has led to it, in words, each once.
#[cfg(any(feature = "etcd", feature = "kubernetes"))]
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words: Vec<_> = std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}
