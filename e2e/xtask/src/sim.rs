//! `cargo xtask sim`: a whole group of brokers in a simulation, a run a seed, in as many processes as there are processors.

use crate::{places, process, test};
use anyhow::{Result, bail, ensure};
use clap::Args;
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

const BUILD: Duration = Duration::from_secs(15 * 60);
/// Several times what it takes on two processors.
const BROKEN: Duration = Duration::from_secs(60 * 60);
/// Real time within which a run of so many virtual minutes has to end, with the others of its process before it.
const SECONDS_PER_MINUTE_MAX: u64 = 10;

/// Which runs.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 200, value_name = "N")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, value_name = "N")]
    from: u64,
    /// Virtual minutes with faults, of each run
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,
    /// Go on with further seeds for so many hours
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    hours: Option<u64>,
    /// Only these faults, separated by commas
    #[arg(long, value_name = "LIST")]
    faults: Option<String>,
    /// Only this work of the clients, separated by commas
    #[arg(long, value_name = "LIST")]
    work: Option<String>,
    /// Break the rules one by one: each has to be found
    #[arg(long, conflicts_with_all = ["seeds", "from", "minutes", "hours", "faults", "work", "verbose"])]
    broken: bool,
    /// Tell what happens in a run, on standard error
    #[arg(long)]
    verbose: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.broken {
        let mut command = test::cargo();
        command.args(["test", "--profile", "sim", "--locked", "-p", "sluice-sim", "--test", "broken", "--", "--ignored", "--nocapture"]);
        return test::run_picked(&mut command, 1, BROKEN + BUILD);
    }
    process::run(test::cargo().args(["build", "--profile", "sim", "--locked", "-p", "sluice-sim"]), BUILD)?;
    let begun = Instant::now();
    let at_once = (thread::available_parallelism().map_or(1, usize::from) as u64).min(arguments.seeds);
    let running: Vec<_> = (0..at_once)
        .map(|number| {
            let (mut command, deadline) = command(arguments, number, at_once);
            thread::spawn(move || process::run_and_keep(&mut command, deadline))
        })
        .collect();
    let mut ended = Vec::new();
    for one in running {
        ended.push(one.join().map_err(|_| anyhow::anyhow!("waiting for a process panicked"))?);
    }
    let bad: Vec<_> = ended.iter().filter_map(|ended| ended.as_ref().err()).map(|error| format!("{error:#}")).collect();
    if !bad.is_empty() {
        bail!("violations, each with its seed and the command that repeats it, are above:\n{}", bad.join("\n"));
    }
    let seconds: Vec<u64> = ended.iter().flatten().flat_map(|told| told.lines()).filter_map(virtual_seconds).collect();
    ensure!(arguments.hours.is_some() || seconds.len() as u64 == arguments.seeds, "{} seeds have ended of {}", seconds.len(), arguments.seeds);
    let (real, sum) = (begun.elapsed(), seconds.iter().sum::<u64>());
    println!(
        "sim: {} seeds without a violation, {} virtual minutes in {:.0} s: {:.0} times as fast as time",
        seconds.len(),
        sum / 60,
        real.as_secs_f64(),
        sum as f64 / real.as_secs_f64()
    );
    Ok(())
}

/// One process's: each so-manieth seed.
fn command(arguments: &Arguments, number: u64, at_once: u64) -> (Command, Duration) {
    let mut command = Command::new(places::target().join("sim/sluice-sim"));
    let own = arguments.seeds.saturating_sub(number).div_ceil(at_once);
    command.args(["--from", &(arguments.from + number).to_string(), "--step", &at_once.to_string(), "--minutes", &arguments.minutes.to_string()]);
    let least = Duration::from_secs((arguments.minutes + 5) * SECONDS_PER_MINUTE_MAX);
    let deadline = match arguments.hours {
        Some(hours) => {
            command.args(["--seconds", &(hours * 3600).to_string()]);
            Duration::from_secs(hours * 3600) + least
        }
        None => {
            command.args(["--seeds", &own.to_string()]);
            least * u32::try_from(own).unwrap_or(u32::MAX)
        }
    };
    for (name, list) in [("--faults", &arguments.faults), ("--work", &arguments.work)] {
        if let Some(list) = list {
            command.args([name, list]);
        }
    }
    if arguments.verbose {
        command.arg("--verbose");
    }
    (command, deadline)
}

/// How long a run took in virtual time, by its line: `seed 7: 742 s, 33 faults, …`.
fn virtual_seconds(line: &str) -> Option<u64> {
    line.strip_prefix("seed ")?.split_once(": ")?.1.split_once(" s,")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_virtual_time_is_read_from_its_line() {
        assert_eq!(virtual_seconds("seed 7: 742 s, 33 faults, 8 epochs"), Some(742));
        assert_eq!(virtual_seconds("  C1 at lines [1]: value 1·2"), None);
    }
}
