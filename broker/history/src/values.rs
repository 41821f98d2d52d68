//! What was sent, by value, for all time.

use crate::{Outcome, SendKind, Sent, Value};
use ahash::AHasher;
use std::{collections::HashMap, hash::BuildHasherDefault};

/// A map that is the same in every run. Nothing iterates one without sorting.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<AHasher>>;

/// A value's name as one number.
pub(crate) type Id = u64;

pub(crate) const fn id(value: &Value) -> Id {
    (value.process as u64) << 32 | value.number as u64
}

/// A value as people read it.
pub(crate) fn name(id: Id) -> String {
    format!("value {}·{}", id >> 32, id & 0xffff_ffff)
}

/// The kinds of messages, without their particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Plain,
    Delayed,
    Half,
}

/// What is known of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The line of its first send that was not refused, or of its first.
    pub(crate) line: u32,
    pub(crate) topic: u32,
    body: u32,
    properties: u32,
    /// Requests that may have stored it.
    pub(crate) tries: u8,
    /// Places in its topic where it was found.
    pub(crate) copies: u8,
    pub(crate) sort: Sort,
    /// Every group that must see it has.
    pub(crate) settled: bool,
}

impl Entry {
    /// Whether what came is what was sent.
    pub(crate) const fn is_like(&self, body: u32, properties: u32) -> bool {
        self.body == body && self.properties == properties
    }

    /// Copies that its sender's tries explain.
    pub(crate) fn copies_max(&self) -> u8 {
        self.tries.max(1)
    }
}

const PAGE: usize = 256;

/// All values, in pages, since each client numbers its own without holes.
#[derive(Default)]
pub(crate) struct Values {
    pages: Map<u64, Box<[Option<Entry>]>>,
}

impl Values {
    pub(crate) fn get(&self, id: Id) -> Option<&Entry> {
        self.pages.get(&(id / PAGE as u64))?[id as usize % PAGE].as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Entry> {
        self.pages.get_mut(&(id / PAGE as u64))?[id as usize % PAGE].as_mut()
    }

    /// Notes a send; the value's entry after it.
    pub(crate) fn sent(&mut self, line: u32, topic: u32, sent: &Sent) -> &mut Entry {
        let id = id(&sent.value);
        let page = self.pages.entry(id / PAGE as u64).or_insert_with(|| vec![None; PAGE].into());
        let sort = match sent.kind {
            SendKind::Normal => Sort::Plain,
            SendKind::Delayed { .. } => Sort::Delayed,
            SendKind::Half => Sort::Half,
        };
        let Value { body, properties, .. } = sent.value;
        let entry = page[id as usize % PAGE].get_or_insert(Entry { line, topic, body, properties, tries: 0, copies: 0, sort, settled: false });
        let tries = if sent.outcome == Outcome::Failed { sent.attempts.saturating_sub(1) } else { sent.attempts.max(1) };
        if entry.tries == 0 && tries > 0 {
            entry.line = line;
        }
        entry.tries = entry.tries.saturating_add(u8::try_from(tries).unwrap_or(u8::MAX));
        entry
    }
}
