//! `cargo xtask`: the one front door for tests, official clients, crash and power-cut runs, benchmarks and fuzzing.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a tool for developers lives outside of the product's seam: it uses the real clock, disk and processes")]

mod apiserver;
mod bench;
mod chaos;
mod clients;
mod crash;
mod crds;
mod fuzz;
mod generator;
mod group;
mod hostile;
mod long;
mod memory;
mod metrics;
mod peer;
mod places;
mod process;
mod promises;
mod sim;
mod sluice;
mod test;
mod text;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks of this repository, from formatting to power cuts.")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Formatting, lints, the repository's own rules and all tests of the workspace
    Test,
    /// The repository's own rules only: crate arrows, unsafe code, file length, unfinished code, tests that documents name
    Tidy,
    /// The official Java clients against Sluice (or, with --peer, against Apache RocketMQ)
    Clients(clients::Arguments),
    /// Kills and power cuts under load: nothing acknowledged may be lost
    Crash(crash::Arguments),
    /// Brokers of a group that are killed, paused, cut off, set back, …, under load: nothing acknowledged is lost, and writes go on soon
    Chaos(chaos::Arguments),
    /// Clients that trickle, lie, inflate and never read: the others must not notice
    Hostile(hostile::Arguments),
    /// Sluice and Apache RocketMQ in turn under the same load; writes docs/benchmark.md
    Bench(bench::Arguments),
    /// Each byte of a megabyte of log turned over in turn: told, and never served
    Flips,
    /// Every order of events in small groups of brokers: none loses what was confirmed
    Search,
    /// A whole group of brokers, its clients and its coordinator in a simulation, with faults: the history is judged
    Sim(sim::Arguments),
    /// The custom resources of Kubernetes, from the code: writes crds/
    Crds,
    /// Builds Kubernetes' API server, once, for the tests that need a real one
    Apiserver,
    /// The protocol's decoders under input that is led by the coverage it reaches
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Cli::parse().task {
        Task::Test => test::run(),
        Task::Tidy => tidy::run(),
        Task::Clients(arguments) => clients::run(&arguments),
        Task::Crash(arguments) => crash::run(&arguments),
        Task::Chaos(arguments) => chaos::run(&arguments),
        Task::Hostile(arguments) => hostile::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Flips => long::flips(),
        Task::Search => long::search(),
        Task::Sim(arguments) => sim::run(&arguments),
        Task::Crds => crds::run(),
        Task::Apiserver => apiserver::run(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
    }
}
