//! The way of metadata into the log: changes reach the log in the order in which they took effect in memory.

use parking_lot::Mutex;
use sluice_store::{AppendError, Batch, MetaChange, Store, Wait};
use std::sync::Arc;

/// Version of a set of configuration, as name servers compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataVersion {
    /// Epoch of the broker's role; 0 on a broker without one.
    pub state_version: i64,
    /// Time of the last change, ms since 1970.
    pub timestamp: i64,
    /// Changes so far.
    pub counter: i64,
}

impl DataVersion {
    pub(crate) fn next(&mut self, now_ms: i64) {
        self.timestamp = now_ms;
        self.counter += 1;
    }
}

/// Called once with what became of a change of metadata.
pub(crate) type MetaDone = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// Writes metadata.
pub(crate) struct MetaWriter {
    store: Arc<Store>,
    /// Held from the change in memory to its hand-over to the writer.
    order: Mutex<()>,
}

impl MetaWriter {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, order: Mutex::new(()) }
    }

    /// Runs `apply`, which changes memory and says what to write, and submits that. `done` may run on this thread, after `apply` has returned; it must not start
    /// another change itself.
    pub(crate) fn change(&self, apply: impl FnOnce() -> Vec<MetaChange>, done: MetaDone) {
        let _order = self.order.lock();
        let changes = apply();
        if changes.is_empty() {
            return done(Ok(()));
        }
        let mut batch = Batch::new();
        match batch.meta(&changes) {
            Ok(()) => self.store.submit(batch, Wait::Durable, Box::new(move |result| done(result.map(|_| ())))),
            Err(_) => done(Err(AppendError::TooLarge(changes.iter().map(|c| c.key.len() + c.value.as_ref().map_or(0, Vec::len)).sum()))),
        }
    }
}
