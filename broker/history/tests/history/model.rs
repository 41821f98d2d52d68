//! A model broker and its clients, which keep every promise and show every anomaly that is allowed: sends without an answer that are stored or not, now or
//! later, and are tried again; crashes and failovers; rebalances; consumers that die; redeliveries; retries and dead letters; expired leases; check-backs;
//! in asynchronous mode a lost tail and lost offsets. One operation after the other takes effect; their times overlap.

mod clients;
mod consumers;
mod faults;
mod state;

pub(crate) use state::{Model, SECOND};

use sluice_history::Event;

/// A correct history of some thousand events.
pub(crate) fn history(seed: u64) -> Vec<Event> {
    history_of(seed, 60 * SECOND)
}

/// One whose producers are at work for so long.
pub(crate) fn history_of(seed: u64, length: u64) -> Vec<Event> {
    let mut model = Model::new(seed, length);
    model.run();
    let mut events = model.events;
    events.sort_by_key(|event| event.done);
    events
}
