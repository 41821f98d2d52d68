//! Runs seeds: `cargo xtask sim` calls it.

#![forbid(unsafe_code)]

use clap::Parser;
use sluice_sim::run::{Options, run};
use std::process::ExitCode;

/// Runs a group of brokers in a simulation, one run a seed.
#[derive(Parser)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Virtual minutes with faults, of each run
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Tell what happens
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.verbose {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).without_time().with_writer(std::io::stderr).init();
    }
    let mut bad = 0;
    for seed in arguments.from..arguments.from + arguments.seeds {
        match run(&Options { seed, minutes: arguments.minutes, faults: None }) {
            Ok(outcome) => {
                let counts = &outcome.report.counts;
                println!(
                    "seed {seed}: {:?}, {} faults, {} epochs, {} acknowledged, {} unknown, {} delivered, trace {:016x}",
                    outcome.time, outcome.faults, outcome.epochs, counts.sends_ok, counts.sends_unknown, counts.delivered, outcome.trace
                );
                for violation in outcome.report.violations() {
                    println!("  {violation}");
                    bad += 1;
                }
            }
            Err(why) => {
                println!("{why}");
                bad += 1;
            }
        }
    }
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
