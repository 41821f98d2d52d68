//! `cargo xtask test`.

use crate::{places, process, tidy};
use anyhow::Result;
use std::{env, process::Command, time::Duration};

const MINUTES_15: Duration = Duration::from_secs(15 * 60);

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(places::root());
    command
}

pub(crate) fn run() -> Result<()> {
    process::run(cargo().args(["fmt", "--all", "--check"]), Duration::from_secs(120))?;
    tidy::run()?;
    if places::has_tool("cargo-deny", "cargo-deny, by `cargo install --locked cargo-deny`")? {
        // Advisories need a data base from the network that may be out of reach: they are no part of this.
        process::run(cargo().args(["deny", "--all-features", "--log-level", "error", "check", "licenses", "bans", "sources"]), Duration::from_secs(120))?;
    }
    process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]), MINUTES_15)?;
    process::run(cargo().args(["test", "--workspace", "--locked"]), MINUTES_15)
}
