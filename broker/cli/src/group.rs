//! `sluice group …`

use crate::{Global, changes::Changes, error::CliError, output, time};
use serde::Serialize;
use sluice_client::{Admin, GroupSummary, QueueLag};
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
    /// Create a group; one that exists is left as it is
    Create(Create),
    /// Change what is given of a group, and nothing else
    Update(Update),
    /// Delete a group and its offsets
    Delete {
        /// Group
        group: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Group
    group: String,
    /// How often a message may fail before it is a dead letter
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(i32).range(0..=1000))]
    retry_max: i32,
    /// Members consume in order
    #[arg(long)]
    orderly: bool,
    /// That it exists already is no failure
    #[arg(long)]
    if_not_exists: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
struct Update {
    /// Group
    group: String,
    /// How often a message may fail before it is a dead letter
    #[arg(long, group = "change", value_parser = clap::value_parser!(i32).range(0..=1000))]
    retry_max: Option<i32>,
    /// Whether members consume in order
    #[arg(long, group = "change", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    orderly: Option<bool>,
    /// Whether the group may consume
    #[arg(long, group = "change", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    enabled: Option<bool>,
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
                return Err(unknown(&group));
            }
            output::show(global.output, &summary, describe)
        }
        Command::Create(create) => make(global, &admin, create).await,
        Command::Update(update) => change(global, &admin, &update).await,
        Command::Delete { group, yes } => {
            let brokers = admin.masters(None).await?;
            output::confirmed(yes, &format!("deleting group {group} and its offsets"))?;
            admin.delete_group(&brokers, &group).await?;
            output::show(global.output, &Done { group, brokers, done: "deleted" }, Done::line)
        }
    }
}

/// What was done to a group where.
#[derive(Serialize)]
struct Done {
    group: String,
    brokers: Vec<String>,
    /// `created`, `deleted` or `exists`.
    done: &'static str,
}

impl Done {
    fn line(&self) -> Result<(), CliError> {
        output::line(&format!("group {} {} on {}", self.group, self.done, self.brokers.join(", ")))
    }
}

async fn make(global: &Global, admin: &Admin, create: Create) -> Result<(), CliError> {
    let group = create.group;
    let (mut having, mut lacking) = (Vec::new(), Vec::new());
    for broker in admin.masters(None).await? {
        if admin.group_config(&broker, &group).await?.is_some() { having.push(broker) } else { lacking.push(broker) }
    }
    if !having.is_empty() && !create.if_not_exists {
        let on = having.join(", ");
        return Err(CliError::Failed(format!("the group {group} exists already on {on}; `sluice group update {group}` changes it, --if-not-exists leaves it")));
    }
    if lacking.is_empty() {
        return output::show(global.output, &Done { group, brokers: having, done: "exists" }, Done::line);
    }
    let config = SubscriptionGroupConfig {
        group_name: group.clone(),
        retry_max_times: create.retry_max,
        consume_message_orderly: create.orderly,
        ..SubscriptionGroupConfig::default()
    };
    admin.create_group(&lacking, &config).await?;
    output::show(global.output, &Done { group, brokers: lacking, done: "created" }, Done::line)
}

async fn change(global: &Global, admin: &Admin, update: &Update) -> Result<(), CliError> {
    let (mut known, mut changes) = (false, Changes::new(&format!("group {}", update.group)));
    for broker in admin.masters(None).await? {
        let Some(mut config) = admin.group_config(&broker, &update.group).await? else { continue };
        known = true;
        let count = changes.len();
        changes.set(&broker, "retry-max", &mut config.retry_max_times, update.retry_max);
        changes.set(&broker, "orderly", &mut config.consume_message_orderly, update.orderly);
        changes.set(&broker, "enabled", &mut config.consume_enable, update.enabled);
        if changes.len() > count {
            admin.create_group(std::slice::from_ref(&broker), &config).await?;
        }
    }
    if !known {
        return Err(unknown(&update.group));
    }
    changes.show(global)
}

fn unknown(group: &str) -> CliError {
    CliError::NotFound(format!("no broker knows the group {group}; `sluice group list` shows those there are"))
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
