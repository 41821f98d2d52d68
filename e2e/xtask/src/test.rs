//! `cargo xtask test`.

use crate::{fuzz, places, process, tidy};
use anyhow::{Result, ensure};
use std::{env, process::Command, time::Duration};

const MINUTES_15: Duration = Duration::from_secs(15 * 60);
const MINUTES_25: Duration = Duration::from_secs(25 * 60);

/// Whatever the crates of the workspace turn on.
const COORDINATORS: &str = "sluice-group/etcd,sluice-group/kubernetes";

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(places::root());
    command
}

/// Runs a `cargo test` that picks some tests. Fewer of them than `least` are an error: cargo itself is content when a filter, gone stale, matches no test.
pub(crate) fn run_picked(command: &mut Command, least: usize, deadline: Duration) -> Result<()> {
    check_count(&process::run_and_keep(command, deadline)?, least)
}

fn check_count(printed: &str, least: usize) -> Result<()> {
    let run = passed(printed);
    ensure!(run >= least, "{run} tests have run where at least {least} were meant to: have they been renamed, moved or lost their #[ignore]?");
    Ok(())
}

/// How many tests have passed, by the lines with which each test binary ends.
fn passed(printed: &str) -> usize {
    printed.lines().filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed;")?.0.parse::<usize>().ok()).sum()
}

pub(crate) fn run() -> Result<()> {
    process::run(cargo().args(["fmt", "--all", "--check"]), Duration::from_secs(120))?;
    // A workspace of its own, with a lock file of its own.
    process::run(cargo().args(["fmt", "--check", "--manifest-path", fuzz::MANIFEST]), Duration::from_secs(120))?;
    process::output(cargo().args(["metadata", "--locked", "--format-version", "1", "--manifest-path", fuzz::MANIFEST]), Duration::from_secs(120))?;
    tidy::run()?;
    if places::has_tool("cargo-deny", "cargo-deny, by `cargo install --locked cargo-deny`")? {
        // Advisories need a data base from the network that may be out of reach: they are no part of this.
        process::run(cargo().args(["deny", "--all-features", "--log-level", "error", "check", "licenses", "bans", "sources"]), Duration::from_secs(120))?;
    }
    process::run(cargo().args(["clippy", "--workspace", "--features", COORDINATORS, "--all-targets", "--locked", "--", "-D", "warnings"]), MINUTES_15)?;
    process::run(cargo().args(["test", "--workspace", "--features", COORDINATORS, "--locked"]), MINUTES_25)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cargo prints it.
    fn result(passed: usize) -> String {
        format!("\nrunning {passed} tests\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 26 filtered out; finished in 0.00s\n\n")
    }

    #[test]
    fn tests_run_are_counted_over_all_binaries() {
        assert_eq!(passed(&format!("{}{}", result(4), result(3))), 7);
    }

    #[test]
    fn a_filter_that_matches_too_few_tests_is_an_error() {
        check_count(&result(4), 4).unwrap();
        assert!(check_count(&result(3), 4).unwrap_err().to_string().starts_with("3 tests have run"));
        assert!(check_count(&result(0), 1).is_err());
        assert!(check_count("", 1).is_err());
    }
}
