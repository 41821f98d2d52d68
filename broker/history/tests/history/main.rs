//! The checks, shown correct histories and broken ones.

mod lines;
mod model;
mod mutants;
mod page;
mod rng;
mod speed;

use mutants::Mutation;
use rng::Rng;
use sluice_history::{Check, Checker, Counts, Event, Report};
use std::sync::OnceLock;

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

/// So many histories are broken in each way, and so many broken ones there must be of each check.
const MUTANTS_EACH: u32 = 8;
const MUTANTS_MIN: u32 = 20;

/// Breaks histories in one way: how many were broken, and how many of them the check found.
fn try_mutation(at: usize, (check, name, how): &Mutation) -> (u32, u32) {
    let (mut made, mut found) = (0, 0);
    // In asynchronous modes much is allowed, so the histories are those of synchronous ones.
    for seed in (0..120).filter(|seed| seed % 3 != 2) {
        let correct = model::history_of(seed, 12 * model::SECOND);
        if made == MUTANTS_EACH {
            break;
        }
        let mut broken = correct.clone();
        if !how(&mut broken, &mut Rng::new(seed * 100 + at as u64)) {
            continue;
        }
        made += 1;
        assert!(judge(&correct).is_clean(), "seed {seed} is not correct to begin with");
        assert!(broken != correct, "{check} {name}: seed {seed} changed nothing");
        let report = judge(&broken);
        if report.found(*check) > 0 {
            found += 1;
        } else {
            println!("{check}: {name}: not found with seed {seed}: {report}");
        }
    }
    (made, found)
}

/// A way, how many histories were broken so, and how many of them were found.
type Tried = (&'static str, u32, u32);

/// Each check's mutants, tried once for all tests.
fn try_mutants(check: Check) -> &'static [Tried] {
    static ALL: [OnceLock<Vec<Tried>>; 14] = [const { OnceLock::new() }; 14];
    ALL[check as usize].get_or_init(|| {
        let all = mutants::all();
        let of_check = all.iter().enumerate().filter(|(_, mutation)| mutation.0 == check);
        let tried = |(at, mutation): (usize, &Mutation)| {
            let (made, found) = try_mutation(at, mutation);
            (mutation.1, made, found)
        };
        of_check.map(tried).collect()
    })
}

fn find_each(check: Check) {
    let tried = try_mutants(check);
    for (name, made, found) in tried {
        assert!(*made > 0, "{check}: {name}: no history could be broken so");
        assert_eq!(made, found, "{check}: {name}");
    }
    let made: u32 = tried.iter().map(|tried| tried.1).sum();
    assert!(made >= MUTANTS_MIN, "{check} has {made} mutants");
}

#[test]
fn each_mutant_of_c1_is_found() {
    find_each(Check::C1);
}

#[test]
fn each_mutant_of_c2_is_found() {
    find_each(Check::C2);
}

#[test]
fn each_mutant_of_c3_is_found() {
    find_each(Check::C3);
}

#[test]
fn each_mutant_of_c4_is_found() {
    find_each(Check::C4);
}

#[test]
fn each_mutant_of_c5_is_found() {
    find_each(Check::C5);
}

#[test]
fn each_mutant_of_c6_is_found() {
    find_each(Check::C6);
}

#[test]
fn each_mutant_of_c7_is_found() {
    find_each(Check::C7);
}

#[test]
fn each_mutant_of_c8_is_found() {
    find_each(Check::C8);
}

#[test]
fn each_mutant_of_c9_is_found() {
    find_each(Check::C9);
}

#[test]
fn each_mutant_of_c10_is_found() {
    find_each(Check::C10);
}

#[test]
fn each_mutant_of_c11_is_found() {
    find_each(Check::C11);
}

#[test]
fn each_mutant_of_c12_is_found() {
    find_each(Check::C12);
}

#[test]
fn each_mutant_of_c13_is_found() {
    find_each(Check::C13);
}

#[test]
fn each_mutant_of_c14_is_found() {
    find_each(Check::C14);
}
