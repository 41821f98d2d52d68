//! `sluice offset …`

use crate::{
    Global,
    error::CliError,
    output,
    time::{self, Position},
};
use serde::Serialize;
use sluice_client::{Admin, Client, Consumer, QueueReset};

/// Offsets.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// First and end offset of a topic's queues, and a group's place between them
    Show {
        /// Topic
        topic: String,
        /// Group
        #[arg(long)]
        group: Option<String>,
    },
    /// Move a group to another place in all queues of a topic
    Reset {
        /// Topic
        topic: String,
        /// Group
        #[arg(long)]
        group: String,
        /// earliest, latest, or a time
        #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
        to: Position,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// The first offset stored at or after a time, queue by queue
    Search {
        /// Topic
        topic: String,
        /// The time
        #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
        time: i64,
    },
}

#[derive(Serialize)]
struct Row {
    broker: String,
    queue_id: u32,
    min_offset: Option<i64>,
    max_offset: Option<i64>,
    offset: Option<i64>,
    lag: Option<i64>,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let global = &args.global;
    let (client, admin) = global.admin().await?;
    let rows = match args.command {
        Command::Show { topic, group } => show(&client, &admin, &topic, group.as_deref()).await?,
        Command::Reset { topic, group, to, yes } => {
            output::confirmed(yes, &format!("moving group {group} in topic {topic}"))?;
            let moved = admin.reset_offset(&topic, &group, to.timestamp()).await?;
            return output::show(global.output, &moved, |moved| {
                let before = |q: &QueueReset| q.before.map_or_else(|| "-".to_owned(), |n| n.to_string());
                let cells = |q: &QueueReset| vec![q.queue.broker.clone(), q.queue.queue_id.to_string(), before(q), q.offset.to_string()];
                output::table(&["broker", "queue", "before", "offset"], &["queue", "before", "offset"], moved.iter().map(cells).collect())
            });
        }
        Command::Search { topic, time } => {
            let mut rows = Vec::new();
            for q in client.refresh_route(&topic).await?.readable() {
                let offset = Some(admin.search_offset(&topic, &q, time).await?);
                rows.push(Row { broker: q.broker, queue_id: q.queue_id, min_offset: None, max_offset: None, offset, lag: None });
            }
            rows
        }
    };
    output::show(global.output, &rows, |rows| {
        let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let cells = |r: &Row| vec![r.broker.clone(), r.queue_id.to_string(), number(r.min_offset), number(r.max_offset), number(r.offset), number(r.lag)];
        output::table(&["broker", "queue", "min", "max", "offset", "lag"], &["queue", "min", "max", "offset", "lag"], rows.iter().map(cells).collect())
    })
}

async fn show(client: &Client, admin: &Admin, topic: &str, group: Option<&str>) -> Result<Vec<Row>, CliError> {
    let consumer = group.map(|g| Consumer::new(client.clone(), g)).transpose()?;
    let mut rows = Vec::new();
    for queue in client.refresh_route(topic).await?.readable() {
        let (min, max) = (admin.min_offset(topic, &queue).await?, admin.max_offset(topic, &queue).await?);
        let offset = match &consumer {
            Some(consumer) => consumer.offset(topic, &queue).await?,
            None => None,
        };
        let lag = offset.map(|at| (max - at).max(0));
        rows.push(Row { broker: queue.broker, queue_id: queue.queue_id, min_offset: Some(min), max_offset: Some(max), offset, lag });
    }
    if let Some(group) = group
        && rows.iter().all(|row| row.offset.is_none())
        && !admin.group(group, Some(topic)).await?.known
    {
        return Err(CliError::NotFound(format!("no broker knows the group {group}; `sluice group list` shows those there are")));
    }
    rows.sort_by(|a, b| (&a.broker, a.queue_id).cmp(&(&b.broker, b.queue_id)));
    Ok(rows)
}
