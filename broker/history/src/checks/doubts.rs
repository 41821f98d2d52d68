//! What looks wrong until a line explains it that comes later: an operation's line comes when it returns, and what it did may be seen before.

use crate::{Check, Report};
use std::collections::BTreeMap;

/// Something that looks wrong.
struct Doubt {
    /// When it was seen.
    at: u64,
    /// By or for whom it happened; only what this process did explains it, if that matters.
    process: u32,
    check: Check,
    lines: Vec<u32>,
    text: String,
}

/// Doubts by what they are about.
pub(super) struct Doubts<K>(BTreeMap<K, Vec<Doubt>>);

impl<K> Default for Doubts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Doubts<K> {
    /// Notes one.
    pub(super) fn push(&mut self, about: K, (at, process): (u64, u32), check: Check, lines: &[u32], text: String) {
        self.0.entry(about).or_default().push(Doubt { at, process, check, lines: lines.to_vec(), text });
    }

    /// What was seen from that time on is explained.
    pub(super) fn explain(&mut self, about: &K, from: u64, process: Option<u32>) {
        if let Some(doubts) = self.0.get_mut(about) {
            doubts.retain(|doubt| doubt.at < from || process.is_some_and(|process| process != doubt.process));
        }
    }

    /// What that process is suspected of, and was seen from that time on, is explained.
    pub(super) fn explain_all(&mut self, from: u64, process: u32) {
        for doubts in self.0.values_mut() {
            doubts.retain(|doubt| doubt.at < from || process != doubt.process);
        }
    }

    /// Nothing explains the rest.
    pub(super) fn report(&mut self, report: &mut Report) {
        for doubt in std::mem::take(&mut self.0).into_values().flatten() {
            report.violate(doubt.check, &doubt.lines, || doubt.text);
        }
    }
}
