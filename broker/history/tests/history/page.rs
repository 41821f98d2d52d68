//! docs/history-checks.md: the checks, the ways in which histories are broken, and what was found.
#![allow(clippy::disallowed_methods)]

use sluice_history::Check;
use std::fmt::Write;

const HEAD: &str = "# History checks

`broker/history` judges what clients were told and what nodes did during a run, a line an event, against what the broker promises. It is one pass in
O(n log n), and knows which checks had nothing to judge (`Report::vacuous`). Each check is tried with histories that are correct but for one thing; a way of
breaking them counts only if the history has changed and was clean before. This page is generated; `broker/history/tests/history/page.rs` says how.

## What is promised
| check | rule | mutants | found |
| --- | --- | --- | --- |
";

const LIMITS: &str = "
## What is allowed
- A send without an answer may be stored, also later, and once for each request. A refused one may not.
- A message may come again to a consumer that has not consumed it, to one that was assigned its queue since, after a reset, or when its lease has ended.
- With asynchronous flush or replication, what was acknowledged at most `loss_window` before a fault or during it may be lost, `loss_count_max` messages a fault;
  their offsets may be given again; commits and POP acknowledgements of that time may be lost too. All of it is counted.
- An operation's effect lies anywhere between its two times, so only what contradicts every such moment is a violation. What a later line can explain is
  decided when that line has come, or at the end.

## What is not judged
- A group that filters is held to everything, and one that is reset forwards to what it left out: a run that does either must not start the group in the history.
- The time between retries; what a delayed or half message's inner offset is; which of two answers was right when a transaction was both committed and rolled back
  without an answer.
- The consumers of a queue that the history does not assign (`assigned`) are judged from their first delivery on.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for check in Check::ALL {
        let tried = crate::try_mutants(check);
        let (made, found) = tried.iter().fold((0, 0), |sum, tried| (sum.0 + tried.1, sum.1 + tried.2));
        writeln!(page, "| {check} | {} | {made} | {found} |", check.rule()).expect("a string takes it");
    }
    page.push_str(LIMITS);
    page.push_str("\n## How histories are broken\n| check | what is done | mutants | found |\n| --- | --- | --- | --- |\n");
    for check in Check::ALL {
        for (name, made, found) in crate::try_mutants(check) {
            writeln!(page, "| {check} | {name} | {made} | {found} |").expect("a string takes it");
        }
    }
    page
}

#[test]
fn the_page_says_what_the_mutants_show() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/history-checks.md");
    let page = page();
    if std::env::var_os("SLUICE_HISTORY_WRITE").is_some() {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let written = std::fs::read_to_string(path).expect("docs/history-checks.md is there");
    assert!(
        written == page,
        "docs/history-checks.md differs; run `SLUICE_HISTORY_WRITE=1 cargo test -p sluice-history --test history the_page` and look at the difference"
    );
}
