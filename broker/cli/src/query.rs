//! `sluice query …`

use crate::{Global, consume::Shown, error::CliError, output, time};
use sluice_client::ReceivedMessage;

/// Messages by key or id.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Messages with a key that the producer gave
    Key {
        /// Topic
        topic: String,
        /// Key
        key: String,
        #[command(flatten)]
        range: Range,
    },
    /// The message with a unique id (what a send printed)
    Unique {
        /// Topic
        topic: String,
        /// Unique id
        id: String,
        #[command(flatten)]
        range: Range,
    },
    /// The message with an offset message id, which names broker and place
    Id {
        /// Offset message id, 32 or 56 hex digits
        id: String,
        /// Topic, for brokers that want to know
        #[arg(long)]
        topic: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Range {
    /// Most messages
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max: u32,
    /// Stored at or after this time
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    begin: Option<i64>,
    /// Stored before this time
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    end: Option<i64>,
}

impl Range {
    fn between(&self) -> (i64, i64) {
        (self.begin.unwrap_or(0), self.end.unwrap_or(i64::MAX))
    }
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let global = &args.global;
    let (_, admin) = global.admin().await?;
    let found = match args.command {
        Command::Key { topic, key, range } => admin.query(&topic, &key, false, range.max, range.between()).await?,
        Command::Unique { topic, id, range } => admin.query(&topic, &id, true, range.max, range.between()).await?,
        Command::Id { id, topic } => vec![admin.message(topic.as_deref(), &id).await?],
    };
    let shown: Vec<Shown<'_>> = found.iter().map(Shown::from).collect();
    output::show(global.output, &shown, |_| found.iter().try_for_each(print))
}

fn print(message: &ReceivedMessage) -> Result<(), CliError> {
    let names = ["topic", "queue", "offset", "stored", "born", "from", "offset id", "attempts"];
    let values = [
        message.topic.clone(),
        message.queue_id.to_string(),
        message.queue_offset.to_string(),
        time::show(message.store_timestamp),
        time::show(message.born_timestamp),
        message.born_host.clone(),
        message.offset_id.clone(),
        message.reconsume_times.to_string(),
    ];
    for (name, value) in names.iter().zip(values) {
        output::line(&format!("{name:<10}{value}"))?;
    }
    for (name, value) in &message.properties {
        output::line(&format!("{name:<10}{value}"))?;
    }
    output::line("")?;
    output::raw_line(&message.body)?;
    output::line("")
}
