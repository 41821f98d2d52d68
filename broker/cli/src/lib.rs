//! The subcommands of sluice for people. They speak to Sluice and to Apache RocketMQ alike.
//!
//! [`run`] ends with 0 when all went well, 1 on a failure, 2 on wrong usage, 3 when something does not exist and 4 when no server can be reached.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the command line runs outside of the broker's seam, on the real clock, files and network")]

mod bench;
mod cluster;
mod consume;
mod context;
mod error;
mod group;
mod offset;
mod output;
mod produce;
mod query;
mod time;
mod topic;

pub use context::Global;

use std::process::ExitCode;

/// What a person can ask for.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Topics: list, describe, create, delete, route
    Topic(topic::Args),
    /// Consumer groups: list, describe with lag, create, delete
    Group(group::Args),
    /// Brokers of the cluster, and what they say of themselves
    Cluster(cluster::Args),
    /// Send messages: one from --body, or one a line from a file or standard input
    Produce(produce::Args),
    /// Print messages of a topic and commit the group's offsets
    Consume(consume::Args),
    /// Find messages by key, unique id or offset message id
    Query(query::Args),
    /// Offsets of queues and groups: show, reset, search
    Offset(offset::Args),
    /// Generate load and measure: produce, consume, idle connections
    Bench(bench::Args),
}

/// Runs a command to its end on a runtime of its own, prints what it has to say, and returns the process's exit code.
pub fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Bench(args) => bench::run(args),
        other => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| error::CliError::Failed(format!("the runtime cannot start: {e}")))
            .and_then(|runtime| runtime.block_on(Box::pin(dispatch(other)))),
    };
    match outcome {
        Ok(()) | Err(error::CliError::PipeClosed) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

async fn dispatch(command: Command) -> Result<(), error::CliError> {
    match command {
        Command::Topic(args) => topic::run(args).await,
        Command::Group(args) => group::run(args).await,
        Command::Cluster(args) => cluster::run(args).await,
        Command::Produce(args) => produce::run(args).await,
        Command::Consume(args) => consume::run(args).await,
        Command::Query(args) => query::run(args).await,
        Command::Offset(args) => offset::run(args).await,
        // It has runtimes of its own.
        Command::Bench(args) => bench::run(args),
    }
}
