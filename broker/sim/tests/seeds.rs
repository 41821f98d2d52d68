//! Runs that an ordinary test run makes: one seed is one trace, and the seeds that ever found something find it no more.

use clap::ValueEnum;
use sluice_sim::{
    faults::Fault,
    run::{Options, run},
    work,
};

#[test]
fn one_seed_is_one_run() {
    let trace = |seed| run(&Options::new(seed, 1)).unwrap_or_else(|halt| panic!("{halt}")).trace;
    let (one, again, other) = (trace(3), trace(3), trace(4));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

/// What each line of the file says: seed, minutes, faults or `all`, work or `all`, and what it found.
#[test]
fn what_a_seed_has_found_once_it_finds_no_more() {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut runs = 0;
    for line in lines {
        let words: Vec<_> = line.splitn(5, ' ').collect();
        let [seed, minutes, faults, work, found] = words[..] else { panic!("{line}: seed, minutes, faults, work, what it found") };
        let number = |word: &str| word.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        let options = Options {
            faults: (faults != "all")
                .then(|| faults.split(',').map(|name| Fault::from_str(name, false).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()),
            work: (work != "all").then(|| work.split(',').map(|name| work::named(name).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()),
            ..Options::new(number(seed), number(minutes))
        };
        let outcome = run(&options).unwrap_or_else(|halt| panic!("{line}: {halt}"));
        assert!(outcome.violations.is_empty(), "{found}, again: {:?}", outcome.violations);
        runs += 1;
    }
    assert!(runs > 0);
}
