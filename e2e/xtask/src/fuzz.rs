//! `cargo xtask fuzz`: the decoders under random and mutated input.

use crate::{process, test};
use anyhow::Result;
use clap::Args;
use std::time::Duration;

/// How long.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds for each decoder
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut command = test::cargo();
    command.args(["test", "--release", "--locked", "-p", "sluice-protocol", "--test", "fuzz", "--", "--nocapture"]);
    command.env("SLUICE_FUZZ_SECONDS", arguments.seconds.to_string());
    // There are a dozen decoders at most; the build comes on top.
    process::run(&mut command, Duration::from_secs(arguments.seconds.saturating_mul(12).saturating_add(600)))
}
