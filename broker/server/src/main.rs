//! The binary: parses the command line and hands over.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the server is where the process meets the real clock, files, threads and network")]

use clap::{ArgGroup, CommandFactory, Parser, Subcommand};
use sluice_server::{
    config::{self, ConfigFlags, Loaded, LogConfig, LogFormat},
    run, telemetry,
};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// A message broker for unmodified RocketMQ clients: name server and broker in one process.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true, after_help = sluice_cli::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
// Made once a process: its size costs nothing.
#[allow(clippy::large_enum_variant)]
enum Command {
    /// Runs the name server and the broker.
    Server {
        #[command(flatten)]
        flags: ConfigFlags,
    },
    /// Explains the configuration, or prints the one in effect.
    #[command(group = ArgGroup::new("form").args(["explain", "print", "markdown"]))]
    Config {
        /// Every key with its unit, default, range and reason.
        #[arg(long)]
        explain: bool,
        /// The values in effect and where each came from, as a valid file (this is what is done without a flag).
        #[arg(long)]
        print: bool,
        /// Every key as the page docs/configuration.md.
        #[arg(long)]
        markdown: bool,
        #[command(flatten)]
        flags: ConfigFlags,
    },
    /// Prints a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Client(sluice_cli::Command),
}

/// The configuration is wrong; nothing was started.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Server { flags } => serve(&flags),
        Command::Config { explain: true, .. } => print(&config::explain()),
        Command::Config { markdown: true, .. } => print(&config::markdown()),
        Command::Config { flags, .. } => match Loaded::load(&flags) {
            Ok(loaded) => print(&loaded.print()),
            Err(errors) => refuse(&errors),
        },
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "sluice", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Client(command) => {
            telemetry::start_logging(&LogConfig { filter: "warn".into(), format: LogFormat::Text });
            sluice_cli::run(command)
        }
    }
}

fn serve(flags: &ConfigFlags) -> ExitCode {
    let loaded = match Loaded::load(flags) {
        Ok(loaded) => loaded,
        Err(errors) => return refuse(&errors),
    };
    telemetry::start_logging(&loaded.config.log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match run::run(loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(errors: &config::ConfigErrors) -> ExitCode {
    eprintln!("sluice: {errors}");
    ExitCode::from(EXIT_USAGE)
}

/// A reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
