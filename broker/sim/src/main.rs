//! Runs seeds: `cargo xtask sim` calls it.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the program around the simulations lives in real time")]

use clap::Parser;
use sluice_sim::{
    broken::{self, Broken},
    faults::Fault,
    run::{Options, run},
    work::{self, Work},
};
use std::{process::ExitCode, thread};

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

/// A sixth of a run is spent on memory.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Violations of one seed that are shown: what comes after the first few follows from them.
const SHOWN_MAX: usize = 8;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.verbose {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).without_time().with_writer(std::io::stderr).init();
    }
    let mut bad = false;
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let violations = one(&arguments, seed);
        violations.iter().take(SHOWN_MAX).for_each(|violation| println!("  {violation}"));
        bad |= !violations.is_empty();
        if bad && arguments.until_found {
            break;
        }
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a seed, tells how it went and what repeats it if it went wrong, and returns what is wrong.
fn one(arguments: &Arguments, seed: u64) -> Vec<String> {
    let options = Options {
        faults: arguments.faults.clone(),
        work: arguments.work.clone(),
        broken: arguments.broken.map(|broken| broken.rule),
        ..Options::new(seed, arguments.minutes)
    };
    // On a thread of its own, so that a panic ends this seed alone.
    let ended = thread::spawn(move || run(&options)).join();
    let (told, violations) = match ended {
        Ok(Ok(outcome)) => (outcome.to_string(), outcome.violations),
        Ok(Err(why)) => ("it stands still".to_owned(), vec![format!("halt: {why}")]),
        Err(_) => ("it has panicked, see above".to_owned(), vec!["panic".to_owned()]),
    };
    println!("seed {seed}: {told}");
    if !violations.is_empty() {
        println!("  VIOLATED; to repeat it: cargo xtask sim --from {seed} --seeds 1 --minutes {}{}", arguments.minutes, lists());
    }
    violations
}

/// The options that decide a run beside seed and minutes, as they were given.
fn lists() -> String {
    let words: Vec<_> = std::env::args().collect();
    words.windows(2).filter(|pair| pair[0] == "--faults" || pair[0] == "--work").map(|pair| format!(" {} {}", pair[0], pair[1])).collect()
}
