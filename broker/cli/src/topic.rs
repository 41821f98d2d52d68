//! `sluice topic …`

mod settings;

use crate::{Global, error::CliError, output, time};
use serde::Serialize;
use settings::show_perm;
use sluice_client::{Admin, QueueRange};

/// Topics.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List topics
    List {
        /// Also those of the system, and of retries and dead letters
        #[arg(long)]
        all: bool,
    },
    /// A topic's settings, and first and end offset of each queue
    Describe {
        /// Topic
        topic: String,
    },
    /// Create a topic; one that exists is left as it is
    Create(settings::Create),
    /// Change what is given of a topic, and nothing else
    Update(settings::Update),
    /// Delete a topic with all its messages
    Delete {
        /// Topic
        topic: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Which brokers have a topic
    Route {
        /// Topic
        topic: String,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let global = &args.global;
    let (client, admin) = global.admin().await?;
    match args.command {
        Command::List { all } => {
            let topics: Vec<String> = admin.topics().await?.into_iter().filter(|t| all || !is_system(t)).collect();
            output::show(global.output, &topics, |topics| if topics.is_empty() { none() } else { output::line(&topics.join("\n")) })
        }
        Command::Describe { topic } => describe(global, &client, &admin, &topic).await,
        Command::Create(create) => settings::make(global, &admin, create).await,
        Command::Update(update) => settings::change(global, &client, &admin, &update).await,
        Command::Delete { topic, yes } => {
            let brokers = client.refresh_route(&topic).await?.masters();
            output::confirmed(yes, &format!("deleting topic {topic} with all its messages"))?;
            admin.delete_topic(&brokers, &topic).await?;
            output::show(global.output, &Deleted { topic, brokers, done: "deleted" }, |d| {
                output::line(&format!("topic {} deleted on {}", d.topic, d.brokers.join(", ")))
            })
        }
        Command::Route { topic } => {
            let route = client.refresh_route(&topic).await?;
            output::show(global.output, &*route, |route| {
                let addrs = |b: &sluice_client::BrokerNode| b.addrs.iter().map(|(id, addr)| format!("{id}:{addr}")).collect::<Vec<_>>().join(" ");
                let row = |b: &sluice_client::BrokerNode| {
                    vec![b.cluster.clone(), b.name.clone(), addrs(b), b.read_queues.to_string(), b.write_queues.to_string(), show_perm(b.perm)]
                };
                output::table(&["cluster", "broker", "id:address", "read", "write", "perm"], &["read", "write"], route.brokers.iter().map(row).collect())
            })
        }
    }
}

fn none() -> Result<(), CliError> {
    output::note("there are no topics; create one with `sluice topic create NAME`");
    Ok(())
}

/// Topics that the broker made for itself.
fn is_system(topic: &str) -> bool {
    const NAMES: [&str; 8] = [
        "TBW102",
        "SCHEDULE_TOPIC_XXXX",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "BenchmarkTest",
    ];
    NAMES.contains(&topic) || topic.starts_with('%') || topic.to_ascii_lowercase().starts_with("rmq_sys_") || topic.ends_with("_REPLY_TOPIC")
}

#[derive(Serialize)]
struct Deleted {
    topic: String,
    brokers: Vec<String>,
    done: &'static str,
}

#[derive(Serialize)]
struct Description {
    topic: String,
    perm: String,
    order: bool,
    attributes: std::collections::BTreeMap<String, String>,
    messages: i64,
    groups: Vec<String>,
    queues: Vec<QueueRange>,
}

async fn describe(global: &Global, client: &sluice_client::Client, admin: &Admin, topic: &str) -> Result<(), CliError> {
    let route = client.refresh_route(topic).await?;
    let missing = || CliError::NotFound(format!("topic {topic} has no broker; start one that has it"));
    let broker = route.masters().into_iter().next().ok_or_else(missing)?;
    let config = admin.topic_config(&broker, topic).await?.ok_or_else(missing)?;
    let queues = admin.topic_ranges(topic).await?;
    let description = Description {
        topic: topic.to_owned(),
        perm: show_perm(config.perm),
        order: config.order,
        attributes: config.attributes,
        messages: queues.iter().map(|q| q.max_offset - q.min_offset).sum(),
        groups: admin.topic_groups(topic).await?,
        queues,
    };
    output::show(global.output, &description, |d| {
        let attributes = d.attributes.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ");
        output::line(&format!("topic       {}", d.topic))?;
        output::line(&format!("permission  {}{}", d.perm, if d.order { ", ordered" } else { "" }))?;
        if !attributes.is_empty() {
            output::line(&format!("attributes  {attributes}"))?;
        }
        output::line(&format!("messages    {}", d.messages))?;
        output::line(&format!("groups      {}\n", if d.groups.is_empty() { "-".to_owned() } else { d.groups.join(" ") }))?;
        let row = |q: &QueueRange| {
            vec![
                q.broker.clone(),
                q.queue_id.to_string(),
                q.min_offset.to_string(),
                q.max_offset.to_string(),
                (q.max_offset - q.min_offset).to_string(),
                time::show(q.last_update),
            ]
        };
        output::table(&["broker", "queue", "min", "max", "messages", "last update"], &["queue", "min", "max", "messages"], d.queues.iter().map(row).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_topics_are_told_from_those_of_people() {
        assert!(is_system("%RETRY%g") && is_system("rmq_sys_wheel_timer") && is_system("TBW102"));
        assert!(!is_system("orders"));
    }
}
