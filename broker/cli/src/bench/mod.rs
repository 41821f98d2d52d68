//! `sluice bench …`: a load generator that speaks to Sluice and to Apache RocketMQ alike and costs little itself.
//!
//! Requests are encoded once and patched where they differ; many go out in one write and many answers come in with one read; nothing is allocated per request.

mod consume;
mod driver;
mod idle;
mod pacer;
mod produce;
mod report;
mod scan;
mod template;

use crate::error::CliError;
use sluice_protocol::Serialization;

/// Load.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send as fast as possible, or at a rate, and report throughput and latency
    Produce(produce::Args),
    /// Drain a topic's backlog with pulls and report throughput
    Consume(consume::Args),
    /// Open many connections and hold them
    Idle(idle::Args),
}

/// Form of the request headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HeaderForm {
    /// RocketMQ's binary form
    Binary,
    /// JSON, the default of the official clients
    Json,
}

impl From<HeaderForm> for Serialization {
    fn from(form: HeaderForm) -> Self {
        match form {
            HeaderForm::Binary => Self::Binary,
            HeaderForm::Json => Self::Json,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<(), CliError> {
    raise_file_limit();
    match args.command {
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Idle(args) => idle::run(args),
    }
}

/// Each connection is an open file: allow as many as the system lets us have.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not allowed the old limit stays, and a connection too many says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A runtime for one thread.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| CliError::Failed(format!("the runtime cannot start: {e}")))
}
