//! What a history was found to hold.

use std::fmt;

/// The checks, by their names in docs/history-checks.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// An acknowledged message never came.
    C1,
    /// A message came that was never sent, was refused, or is not as it was sent.
    C2,
    /// A message is stored twice or came twice without a reason.
    C3,
    /// A queue offset has two values, or a hole.
    C4,
    /// An order was broken.
    C5,
    /// A committed offset went back, or past what is not consumed.
    C6,
    /// A transaction did not end as it was told to.
    C7,
    /// A delayed message came early, late or after its recall.
    C8,
    /// Two POP leases overlap.
    C9,
    /// What was acknowledged by a consumer came again.
    C10,
    /// Two nodes acknowledged in one epoch, or an old one after a new one.
    C11,
    /// Replicas differ.
    C12,
    /// The cluster did not go on in time.
    C13,
    /// A failing message did not go its way to the dead letters.
    C14,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 14] = {
        use Check::{C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14};
        [C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14]
    };

    /// The rule in short.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::C1 => "an acknowledged message comes to every group that had started before",
            Self::C2 => "what comes was sent, was not refused, and is as it was sent",
            Self::C3 => "a message is stored once and comes once, unless a retry, a lease, a rebalance or a lost commit explains more",
            Self::C4 => "a queue offset has one value for all time; a hole is a cut message that nobody acknowledged",
            Self::C5 => "offsets follow a producer's order; a key's messages come in their order, to one consumer at a time",
            Self::C6 => "a committed offset goes back by a reset only, and never past what its consumer has not consumed",
            Self::C7 => "a transaction is visible once if committed, never before its commit and never if rolled back",
            Self::C8 => "a delayed message comes when due, not before, not much later, and not after its recall",
            Self::C9 => "two POP leases of a group on one message never overlap",
            Self::C10 => "what a consumer acknowledged or committed does not come again without a reset",
            Self::C11 => "one node acknowledges in an epoch, and none in an epoch that is over",
            Self::C12 => "after the faults all replicas hold the same bytes, and the index that follows from them",
            Self::C13 => "after the faults writes succeed, everything is seen, and a backlog is consumed, in time",
            Self::C14 => "a failing message goes through all its retries and ends as one dead letter",
        }
    }

    const fn at(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Of which check.
    pub check: Check,
    /// The lines involved, from 1; the one that shows it comes last.
    pub lines: Vec<u32>,
    /// What happened to what.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at lines {:?}: {}", self.check, self.lines, self.text)
    }
}

/// How much there was, so that a run in which nothing happened does not look well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines.
    pub events: u64,
    /// Sends that were acknowledged,
    pub sends_ok: u64,
    /// refused,
    pub sends_failed: u64,
    /// or neither.
    pub sends_unknown: u64,
    /// Messages that came,
    pub delivered: u64,
    /// of them again, as is allowed.
    pub redelivered: u64,
    /// Second copies of messages whose sender tried again, as is allowed.
    pub stored_again: u64,
    /// Acknowledged messages that were lost as an asynchronous mode allows.
    pub lost: u64,
    /// Queue offsets that were given again after such a loss.
    pub offsets_given_again: u64,
    /// Acknowledged consumer offsets and POP acks that were lost as an asynchronous mode allows.
    pub acks_lost: u64,
}

/// So many violations of a check are kept; all are counted.
pub const KEPT_MAX: usize = 100;

/// The judgement.
#[derive(Clone, Debug, Default)]
pub struct Report {
    violations: Vec<Violation>,
    found: [u64; 14],
    judged: [u64; 14],
    /// What there was.
    pub counts: Counts,
}

impl Report {
    /// The violations, by check and line; the first [`KEPT_MAX`] of each check.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many violations of a check there were.
    #[must_use]
    pub fn found(&self, check: Check) -> u64 {
        self.found[check.at()]
    }

    /// How often a check had something to judge.
    #[must_use]
    pub fn judged(&self, check: Check) -> u64 {
        self.judged[check.at()]
    }

    /// Whether nothing is wrong. See [`Self::vacuous`] before believing it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found.iter().all(|found| *found == 0)
    }

    /// The checks that had nothing to judge.
    #[must_use]
    pub fn vacuous(&self) -> Vec<Check> {
        Check::ALL.into_iter().filter(|check| self.judged(*check) == 0).collect()
    }

    pub(crate) fn judge(&mut self, check: Check) {
        self.judge_times(check, 1);
    }

    pub(crate) fn judge_times(&mut self, check: Check, times: u64) {
        self.judged[check.at()] += times;
    }

    pub(crate) fn violate(&mut self, check: Check, lines: &[u32], text: impl FnOnce() -> String) {
        self.found[check.at()] += 1;
        if self.found[check.at()] <= KEPT_MAX as u64 {
            let mut lines = lines.to_vec();
            lines.sort_unstable();
            lines.dedup();
            self.violations.push(Violation { check, lines, text: text() });
        }
    }

    pub(crate) fn sort(&mut self) {
        self.violations.sort();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.counts)?;
        for check in Check::ALL {
            writeln!(f, "{check:>4}: {} violations, judged {} times", self.found(check), self.judged(check))?;
        }
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}
