//! The checks, shown correct histories and broken ones.

mod model;
mod rng;

use sluice_history::{Checker, Counts, Event, Report};

fn judge(events: &[Event]) -> Report {
    let mut checker = Checker::default();
    for event in events {
        checker.push(event).expect("the history is well formed");
    }
    checker.finish()
}

/// How many seeds to try; SLUICE_HISTORY_SEEDS asks for more.
fn seeds() -> u64 {
    std::env::var("SLUICE_HISTORY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(30)
}

#[test]
fn a_correct_history_has_no_violations() {
    let mut all = Counts::default();
    for seed in 0..seeds() {
        let history = model::history(seed);
        let report = judge(&history);
        assert!(report.is_clean(), "seed {seed}: {report}");
        assert!(report.vacuous().is_empty(), "seed {seed}: nothing to judge for {:?}\n{report}", report.vacuous());
        let Counts { events, sends_unknown, redelivered, stored_again, lost, offsets_given_again, acks_lost, .. } = report.counts;
        let sums = [
            (&mut all.events, events),
            (&mut all.sends_unknown, sends_unknown),
            (&mut all.redelivered, redelivered),
            (&mut all.stored_again, stored_again),
            (&mut all.lost, lost),
            (&mut all.offsets_given_again, offsets_given_again),
            (&mut all.acks_lost, acks_lost),
        ];
        for (sum, count) in sums {
            *sum += count;
        }
    }
    assert!(all.events > seeds() * 3000, "{all:?}");
    let anomalies = [all.sends_unknown, all.redelivered, all.stored_again, all.lost, all.offsets_given_again, all.acks_lost];
    assert!(anomalies.iter().all(|count| *count > 0), "what is allowed did not all happen: {all:?}");
}
