//! What a run writes down for its judge.

use parking_lot::Mutex;
use sluice_env::Clock;
use sluice_history::{By, Event, Node, NodeEvent, What};
use std::sync::Arc;

/// The lines of a run. Clones are one history.
#[derive(Clone)]
pub struct History {
    lines: Arc<Mutex<Vec<Event>>>,
    clock: Arc<dyn Clock>,
}

impl History {
    /// An empty one; `clock` is any machine's: their monotonic time is one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { lines: Arc::default(), clock }
    }

    /// Now, as the history has it.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Something that was asked for at `invoke` and is over now.
    pub fn op(&self, invoke: u64, process: u32, by: Option<By>, what: What) {
        let done = self.now();
        self.lines.lock().push(Event { invoke, done, process, by, what });
    }

    /// Something that takes no time.
    pub fn note(&self, what: What) {
        self.op(self.now(), 0, None, what);
    }

    /// What a node did or suffered.
    pub fn node(&self, id: u32, event: NodeEvent) {
        self.note(What::Node { node: node(id), event });
    }

    /// Takes out what was written down.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.lines.lock())
    }
}

/// A broker as histories call it: there is one group.
#[must_use]
pub fn node(id: u32) -> Node {
    Node { shard: 0, id }
}

#[cfg(test)]
impl History {
    /// When sends that began at `since` or later were acknowledged, and by whom, in order.
    pub(crate) fn acknowledged(&self, since: u64) -> Vec<(u64, By)> {
        let is_ok = |event: &&Event| event.invoke >= since && matches!(&event.what, What::Send(sent) if sent.outcome == sluice_history::Outcome::Ok);
        let mut all: Vec<_> = self.lines.lock().iter().filter(is_ok).filter_map(|event| Some((event.done, event.by?))).collect();
        all.sort_by_key(|(done, _)| *done);
        all
    }

    /// Whether a node has ceased to be master of that epoch.
    pub(crate) fn has_ceased(&self, id: u32, epoch: u64) -> bool {
        self.lines.lock().iter().any(|event| event.what == What::Node { node: node(id), event: NodeEvent::Ceased { epoch } })
    }

    /// How many sends that began at `since` or later were not acknowledged.
    pub(crate) fn not_acknowledged(&self, since: u64) -> usize {
        let is_not = |event: &&Event| event.invoke >= since && matches!(&event.what, What::Send(sent) if sent.outcome != sluice_history::Outcome::Ok);
        self.lines.lock().iter().filter(is_not).count()
    }
}
