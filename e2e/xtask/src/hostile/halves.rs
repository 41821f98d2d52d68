//! Processors for the broker alone, and others for load and attackers.
//!
//! On the same ones they wait for each other: a thread that has begun keeps its processor for some 3 ms, and that would be the p99 that is measured.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use, in two parts.
pub(super) struct Halves {
    broker: CpuSet,
    others: CpuSet,
}

impl Halves {
    /// None when there is a single one.
    pub(super) fn of_this_machine() -> Result<Option<Self>> {
        let all = sched_getaffinity(None).context("asking which processors this process may use")?;
        Ok(Self::of(&all))
    }

    fn of(all: &CpuSet) -> Option<Self> {
        let (mut broker, mut others) = (CpuSet::new(), CpuSet::new());
        for (number, processor) in (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)).enumerate() {
            let half = if number % 2 == 0 { &mut others } else { &mut broker };
            half.set(processor);
        }
        (broker.count() > 0).then_some(Self { broker, others })
    }

    /// What this thread starts from now on is the broker.
    pub(super) fn enter_brokers(&self) -> Result<()> {
        sched_setaffinity(None, &self.broker).context("keeping the broker on its processors")
    }

    /// What this thread starts from now on is load and attackers.
    pub(super) fn enter_others(&self) -> Result<()> {
        sched_setaffinity(None, &self.others).context("keeping load and attackers on their processors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_and_others_share_no_processor_and_leave_none_out() {
        let mut all = CpuSet::new();
        for processor in [1, 2, 5] {
            all.set(processor);
        }
        let halves = Halves::of(&all).unwrap();
        let of = |set: &CpuSet| (0..8).filter(|processor| set.is_set(*processor)).collect::<Vec<_>>();
        assert_eq!((of(&halves.broker), of(&halves.others)), (vec![2], vec![1, 5]));
        all.unset(1);
        all.unset(2);
        assert!(Halves::of(&all).is_none());
    }
}
