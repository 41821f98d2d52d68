//! The highest offset known at a time. Answers "how far was it before this moment?", which is what real-time order asks of overlapping operations.

use std::collections::VecDeque;

/// So many steps are remembered; older ones become one. Only an operation that was overtaken by more than half as many others is then judged too mildly.
const STEPS_MAX: usize = 1024;

/// An offset that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// When.
    pub(crate) done: u64,
    /// Which.
    pub(crate) offset: u64,
    /// The line that says so.
    pub(crate) line: u32,
}

/// Steps by time, each higher than the one before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rising {
    steps: VecDeque<Step>,
}

impl Rising {
    /// Notes an offset; steps come in the order of their times. A lower one changes nothing.
    pub(crate) fn push(&mut self, step: Step) {
        if self.steps.back().is_some_and(|last| last.offset >= step.offset) {
            return;
        }
        if self.steps.len() == STEPS_MAX {
            self.steps.drain(..STEPS_MAX / 2);
        }
        self.steps.push_back(step);
    }

    /// The highest step that was done before that time.
    pub(crate) fn before(&self, time: u64) -> Option<Step> {
        let at = self.steps.partition_point(|step| step.done < time);
        at.checked_sub(1).map(|at| self.steps[at])
    }

    /// The highest step before that time that is not forgiven, newest first.
    pub(crate) fn before_unless(&self, time: u64, forgiven: impl Fn(u64) -> bool) -> Option<Step> {
        self.steps.iter().rev().filter(|step| step.done < time).find(|step| !forgiven(step.done)).copied()
    }

    /// Starts anew.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_before_a_time_is_found_also_after_many() {
        let mut rising = Rising::default();
        for at in 1..5000 {
            rising.push(Step { done: at, offset: at * 2, line: 0 });
            rising.push(Step { done: at, offset: at, line: 0 });
        }
        assert_eq!(rising.before(4999).map(|step| step.offset), Some(2 * 4998));
        assert_eq!(rising.before(1), None);
        assert_eq!(rising.before_unless(4999, |done| done > 4990).map(|step| step.offset), Some(2 * 4990));
        assert!(rising.steps.len() <= STEPS_MAX);
    }
}
