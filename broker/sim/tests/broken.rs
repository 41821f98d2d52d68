//! Each rule broken on purpose is found. What is not found shows where the simulation is too weak.

#![allow(clippy::disallowed_methods, reason = "the page is a file of the repository")]

use sluice_sim::{
    broken::{self, Broken, MINUTES},
    run::{Options, run},
};
use std::collections::BTreeSet;

/// The first seed that finds something, and which checks do.
fn find(broken: &Broken) -> Option<(u64, BTreeSet<String>)> {
    (1..=broken.seeds).find_map(|seed| {
        let options = Options { broken: Some(broken.rule), ..Options::new(seed, MINUTES) };
        let found: BTreeSet<_> = match run(&options) {
            Ok(outcome) => outcome.violations.iter().map(|violation| violation.chars().take_while(char::is_ascii_alphanumeric).collect()).collect(),
            Err(_) => BTreeSet::from(["halt".to_owned()]),
        };
        (!found.is_empty()).then_some((seed, found))
    })
}

#[test]
#[ignore = "minutes of a build that is optimised: cargo xtask sim --broken"]
fn each_broken_rule_is_found() {
    let mut missed = Vec::new();
    for broken in broken::ALL {
        match find(broken) {
            Some((seed, checks)) => println!("{}: seed {seed} of {}, by {}", broken.rule, broken.seeds, checks.into_iter().collect::<Vec<_>>().join(" ")),
            None => missed.push(broken.rule),
        }
    }
    assert!(missed.is_empty(), "not found within the seeds that docs/simulation.md states: {missed:?}");
}

/// `SLUICE_SIM_WRITE=1` writes it.
#[test]
fn the_page_has_the_table_of_broken_rules() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/simulation.md");
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}"));
    let (begin, end) = ("| broken rule | found within |\n| --- | --- |\n", "\n\n");
    let at = text.find(begin).unwrap_or_else(|| panic!("{page} has no table that begins with {begin}")) + begin.len();
    let length = text[at..].find(end).unwrap_or(text.len() - at);
    let rows: Vec<_> = broken::ALL.iter().map(|broken| format!("| {} | {} seeds |", broken.rule, broken.seeds)).collect();
    if std::env::var_os("SLUICE_SIM_WRITE").is_some() {
        let new = format!("{}{}{}", &text[..at], rows.join("\n"), &text[at + length..]);
        std::fs::write(page, new).unwrap_or_else(|error| panic!("{page}: {error}"));
        return;
    }
    assert_eq!(text[at..at + length].trim_end(), rows.join("\n"), "write it anew by SLUICE_SIM_WRITE=1 cargo test -p sluice-sim --test broken");
}
