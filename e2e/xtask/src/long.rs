//! `cargo xtask flips` and `cargo xtask search`: tests that only a release build ends in time, and that an ordinary run leaves out.

use crate::test;
use anyhow::Result;
use std::time::Duration;

/// Several times what each takes on two processors; the build comes on top.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Each byte of a megabyte of log turned over in turn: reading, recovery, and what follows a start below the checkpoint and beyond the flushed mark.
pub(crate) fn flips() -> Result<()> {
    run(&["-p", "sluice-store", "--test", "store"], &["flips::"], 4)
}

/// The orders of events in small groups of brokers: a killed process, a lost answer, a wiped store, growth without the inherited log, long walks. One after another,
/// for each keeps millions of states in memory.
pub(crate) fn search() -> Result<()> {
    run(&["-p", "sluice-replication", "--lib"], &["search::", "--test-threads=1"], 5)
}

/// Runs so many ignored tests at least.
fn run(target: &[&str], tests: &[&str], least: usize) -> Result<()> {
    let mut command = test::cargo();
    command.args(["test", "--release", "--locked"]).args(target).args(["--", "--ignored"]).args(tests);
    test::run_picked(&mut command, least, DEADLINE)
}
