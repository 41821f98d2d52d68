//! `sluice group …`

use crate::{Global, error::CliError, output, time};
use serde::Serialize;
use sluice_client::{GroupSummary, QueueLag};
use sluice_protocol::body::SubscriptionGroupConfig;

/// Consumer groups.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List groups
    List,
    /// A group's members, and its lag in each queue
    Describe {
        /// Group
        group: String,
        /// Only this topic
        #[arg(long)]
        topic: Option<String>,
    },
    /// Create a group, or change it
    Create {
        /// Group
        group: String,
        /// How often a message may fail before it is a dead letter
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(i32).range(0..=1000))]
        retry_max: i32,
        /// Members consume in order
        #[arg(long)]
        orderly: bool,
    },
    /// Delete a group and its offsets
    Delete {
        /// Group
        group: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct Row {
    group: String,
    retry_max: i32,
    orderly: bool,
    enabled: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let global = &args.global;
    let (_, admin) = global.admin().await?;
    match args.command {
        Command::List => {
            let row = |g: SubscriptionGroupConfig| Row {
                group: g.group_name,
                retry_max: g.retry_max_times,
                orderly: g.consume_message_orderly,
                enabled: g.consume_enable,
            };
            let rows: Vec<Row> = admin.groups().await?.into_iter().map(row).collect();
            output::show(global.output, &rows, |rows| {
                let cells = |r: &Row| vec![r.group.clone(), r.retry_max.to_string(), r.orderly.to_string(), r.enabled.to_string()];
                output::table(&["group", "retry max", "orderly", "enabled"], &["retry max"], rows.iter().map(cells).collect())
            })
        }
        Command::Describe { group, topic } => {
            let summary = admin.group(&group, topic.as_deref()).await?;
            if !summary.known {
                return Err(CliError::NotFound(format!("no broker knows the group {group}; `sluice group list` shows those there are")));
            }
            output::show(global.output, &summary, describe)
        }
        Command::Create { group, retry_max, orderly } => {
            let brokers = admin.masters(None).await?;
            let config = SubscriptionGroupConfig {
                group_name: group,
                retry_max_times: retry_max,
                consume_message_orderly: orderly,
                ..SubscriptionGroupConfig::default()
            };
            admin.create_group(&brokers, &config).await?;
            output::note(&format!("group {} on {}", config.group_name, brokers.join(", ")));
            Ok(())
        }
        Command::Delete { group, yes } => {
            let brokers = admin.masters(None).await?;
            output::confirmed(yes, &format!("deleting group {group} and its offsets"))?;
            admin.delete_group(&brokers, &group).await?;
            output::note(&format!("deleted group {group} on {}", brokers.join(", ")));
            Ok(())
        }
    }
}

fn describe(summary: &GroupSummary) -> Result<(), CliError> {
    let lag: i64 = summary.queues.iter().map(|q| q.lag).sum();
    output::line(&format!("group    {}", summary.group))?;
    output::line(&format!("members  {}", summary.clients.len()))?;
    output::line(&format!("rate     {:.1} messages/s", summary.consume_tps))?;
    output::line(&format!("lag      {lag} messages"))?;
    if !summary.clients.is_empty() {
        output::line("")?;
        let cells = |c: &sluice_client::ConsumerClient| vec![c.client_id.clone(), c.addr.clone(), c.language.clone(), c.version.to_string()];
        output::table(&["member", "address", "language", "version"], &["version"], summary.clients.iter().map(cells).collect())?;
    }
    if summary.queues.is_empty() {
        return output::line("\nno offsets have been committed");
    }
    output::line("")?;
    let cells = |q: &QueueLag| {
        vec![
            q.topic.clone(),
            q.broker.clone(),
            q.queue_id.to_string(),
            q.consumer_offset.to_string(),
            q.broker_offset.to_string(),
            q.lag.to_string(),
            time::show(q.last_consumed),
        ]
    };
    let header = ["topic", "broker", "queue", "consumed", "end", "lag", "last consumed"];
    output::table(&header, &["queue", "consumed", "end", "lag"], summary.queues.iter().map(cells).collect())
}
