//! `cargo xtask flips`: each byte of a megabyte of log turned over in turn. The tests are the store's own; only a release build runs all of them in time.

use crate::test;
use anyhow::Result;
use std::time::Duration;

/// Several times what it takes on two processors; the build comes on top.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Reading, recovery, and what follows a start below the checkpoint and beyond the flushed mark.
const TESTS: usize = 4;

pub(crate) fn run() -> Result<()> {
    let mut command = test::cargo();
    command.args(["test", "--release", "--locked", "-p", "sluice-store", "--test", "store", "--", "--ignored", "flips::"]);
    test::run_picked(&mut command, TESTS, DEADLINE)
}
