//! `cargo xtask search`: the orders of events in small groups of brokers that take minutes to go through. The tests are the replication's own.

use crate::test;
use anyhow::Result;
use std::time::Duration;

/// Several times what it takes on two processors; the build comes on top.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// A killed process, a lost answer, a wiped store, growth without the inherited log, long walks.
const TESTS: usize = 5;

pub(crate) fn run() -> Result<()> {
    let mut command = test::cargo();
    // One after another: each keeps millions of states in memory.
    command.args(["test", "--release", "--locked", "-p", "sluice-replication", "--lib", "--", "--ignored", "--test-threads=1", "search::"]);
    test::run_picked(&mut command, TESTS, DEADLINE)
}
