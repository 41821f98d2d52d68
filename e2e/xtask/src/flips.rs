//! `cargo xtask flips`: each byte of a megabyte of log turned over in turn. The tests are the store's own; only a release build runs all of them in time.

use crate::{process, test};
use anyhow::Result;
use std::time::Duration;

/// Several times what it takes on two processors; the build comes on top.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

pub(crate) fn run() -> Result<()> {
    process::run(test::cargo().args(["test", "--release", "--locked", "-p", "sluice-store", "--test", "store", "--", "--ignored", "flips::"]), DEADLINE)
}
