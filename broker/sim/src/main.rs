//! Runs seeds: `cargo xtask sim` calls it.

#![forbid(unsafe_code)]

use clap::Parser;
use sluice_sim::{
    broken::{self, Broken},
    faults::Fault,
    run::{Options, run},
    work::{self, Work},
};
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
    /// Only these faults
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<Fault>>,
    /// Only this work of clients
    #[arg(long, value_delimiter = ',', value_parser = work::named)]
    work: Option<Vec<&'static Work>>,
    /// Break a rule on purpose
    #[arg(long = "break", value_parser = broken::named)]
    broken: Option<&'static Broken>,
    /// End with the first seed that finds something
    #[arg(long)]
    until_found: bool,
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
        let options = Options {
            seed,
            minutes: arguments.minutes,
            faults: arguments.faults.clone(),
            work: arguments.work.clone(),
            broken: arguments.broken.map(|broken| broken.rule),
        };
        let violations = match run(&options) {
            Ok(outcome) => {
                let counts = &outcome.report.counts;
                println!(
                    "seed {seed}: {:.0} s, {} faults, {} epochs, {} acknowledged, {} unknown, {} delivered, trace {:016x}",
                    outcome.time.as_secs_f64(),
                    outcome.faults,
                    outcome.epochs,
                    counts.sends_ok,
                    counts.sends_unknown,
                    counts.delivered,
                    outcome.trace
                );
                outcome.violations
            }
            Err(why) => {
                println!("seed {seed}: halted");
                vec![format!("halt: {why}")]
            }
        };
        violations.iter().for_each(|violation| println!("  {violation}"));
        bad += violations.len();
        if bad > 0 && arguments.until_found {
            break;
        }
    }
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
