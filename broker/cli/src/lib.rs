//! The subcommands of sluice for people. They speak to Sluice and to Apache RocketMQ alike.
//!
//! [`run`] ends with 0 when all went well, 1 on a failure, 2 on wrong usage, 3 when something does not exist and 4 when no server can be reached.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the command line runs outside of the broker's seam, on the real clock, files and network")]

mod bench;
mod broker;
mod changes;
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

/// What the exit codes mean, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  all went well
  1  a failure, or a result that is less than what was asked for
  2  wrong usage
  3  the topic, group or message does not exist
  4  no server can be reached";

/// What a person can ask for.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Topics: list, describe, create, update, delete, route
    #[command(after_help = EXIT_CODES)]
    Topic(topic::Args),
    /// Consumer groups: list, describe with lag, create, update, delete
    #[command(after_help = EXIT_CODES)]
    Group(group::Args),
    /// Brokers of the cluster, and what they say of themselves
    #[command(after_help = EXIT_CODES)]
    Cluster(cluster::Args),
    /// Members of replicating groups: status, epochs, switchover
    #[command(after_help = EXIT_CODES)]
    Broker(broker::Args),
    /// Send messages: one from --body, or one a line from a file or standard input
    #[command(after_help = EXIT_CODES)]
    Produce(produce::Args),
    /// Print messages of a topic and commit the group's offsets
    #[command(after_help = EXIT_CODES)]
    Consume(consume::Args),
    /// Find messages by key, unique id or offset message id
    #[command(after_help = EXIT_CODES)]
    Query(query::Args),
    /// Offsets of queues and groups: show, reset, search
    #[command(after_help = EXIT_CODES)]
    Offset(offset::Args),
    /// Generate load and measure: produce, consume, idle connections
    #[command(after_help = EXIT_CODES)]
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
        Command::Broker(args) => broker::run(args).await,
        Command::Produce(args) => produce::run(args).await,
        Command::Consume(args) => consume::run(args).await,
        Command::Query(args) => query::run(args).await,
        Command::Offset(args) => offset::run(args).await,
        // It has runtimes of its own.
        Command::Bench(args) => bench::run(args),
    }
}
