//! Which groups have yet to see which message. A message is forgotten once all that must see it have.

use crate::values::{Id, Map};

/// Why groups must see a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its send was acknowledged.
    Acked,
    /// It is delayed, and its send was acknowledged.
    Delayed,
    /// Its transaction was committed.
    Committed,
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    /// Bits of the groups that must see it, and of those that have.
    pub(crate) required: u64,
    pub(crate) seen: u64,
    /// The line and time of the promise, while there is one.
    pub(crate) line: u32,
    pub(crate) promised: u64,
    pub(crate) why: Why,
}

impl Live {
    pub(crate) const fn missing(&self) -> u64 {
        self.required & !self.seen
    }
}

/// All messages on their way.
#[derive(Default)]
pub(crate) struct Unseen {
    live: Map<Id, Live>,
}

impl Unseen {
    /// A promise was made that these groups see it; true when they have all done so.
    pub(crate) fn require(&mut self, id: Id, groups: u64, line: u32, promised: u64, why: Why) -> bool {
        let live = self.live.entry(id).or_insert(Live { required: 0, seen: 0, line, promised, why });
        if live.required == 0 {
            (live.line, live.promised, live.why) = (line, promised, why);
        }
        live.required |= groups;
        self.forget_if_seen(id)
    }

    /// Keeps an eye on who sees it although nothing was promised yet.
    pub(crate) fn watch(&mut self, id: Id, line: u32) {
        self.live.entry(id).or_insert(Live { required: 0, seen: 0, line, promised: u64::MAX, why: Why::Acked });
    }

    /// A group has seen it. Whether for the first time, as far as is remembered, and its state before.
    pub(crate) fn see(&mut self, id: Id, group: u64) -> Option<Live> {
        let live = self.live.get_mut(&id)?;
        let before = *live;
        live.seen |= group;
        (before.seen & group == 0).then_some(before)
    }

    /// Forgets it when nobody has to see it any more.
    pub(crate) fn forget_if_seen(&mut self, id: Id) -> bool {
        let through = self.live.get(&id).is_some_and(|live| live.missing() == 0 && live.promised != u64::MAX);
        if through {
            self.live.remove(&id);
        }
        through
    }

    /// Nobody has to see it.
    pub(crate) fn release(&mut self, id: Id) {
        self.live.remove(&id);
    }

    /// What some group still has to see, by line.
    pub(crate) fn missing(&self) -> Vec<(Id, Live)> {
        let mut missing: Vec<_> = self.live.iter().filter(|(_, live)| live.missing() != 0).map(|(id, live)| (*id, *live)).collect();
        missing.sort_unstable_by_key(|(id, live)| (live.line, *id));
        missing
    }
}
