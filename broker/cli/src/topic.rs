//! `sluice topic …`

use crate::{Global, error::CliError, output, time};
use serde::Serialize;
use sluice_client::{Admin, QueueRange, TopicSettings};

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
    /// Create a topic, or change it
    Create(Create),
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

#[derive(Debug, clap::Args)]
struct Create {
    /// Topic
    topic: String,
    /// Queues on each broker
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65536))]
    queues: u32,
    /// What clients may do: r, w or rw
    #[arg(long, default_value = "rw", value_parser = perm)]
    perm: i32,
    /// Message type: NORMAL, FIFO, DELAY, TRANSACTION
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = ["NORMAL", "FIFO", "DELAY", "TRANSACTION"])]
    message_type: Option<String>,
    /// Another attribute, name=value
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// Note that the order of messages matters
    #[arg(long)]
    order: bool,
    /// Only on the brokers of this cluster
    #[arg(long)]
    cluster: Option<String>,
    /// Only on this broker, host:port
    #[arg(long, conflicts_with = "cluster", value_name = "HOST:PORT")]
    broker: Option<String>,
}

fn perm(text: &str) -> Result<i32, String> {
    match text {
        "r" => Ok(4),
        "w" => Ok(2),
        "rw" | "wr" => Ok(6),
        other => Err(format!("{other:?} is none of r, w, rw")),
    }
}

pub(crate) fn show_perm(perm: i32) -> String {
    let text: String = [(4, 'r'), (2, 'w')].iter().filter(|(bit, _)| perm & bit != 0).map(|(_, c)| *c).collect();
    if text.is_empty() { "-".to_owned() } else { text }
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
        Command::Create(create) => make(global, &admin, create).await,
        Command::Delete { topic, yes } => {
            let brokers = client.refresh_route(&topic).await?.masters();
            output::confirmed(yes, &format!("deleting topic {topic} with all its messages"))?;
            admin.delete_topic(&brokers, &topic).await?;
            output::note(&format!("deleted topic {topic} on {}", brokers.join(", ")));
            Ok(())
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
    let broker = route.masters().into_iter().next().ok_or_else(|| CliError::NotFound(format!("topic {topic} has no broker; start one that has it")))?;
    let config = admin.topic_config(&broker, topic).await?;
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

async fn make(global: &Global, admin: &Admin, create: Create) -> Result<(), CliError> {
    let mut attributes: Vec<String> = create.message_type.iter().map(|t| format!("+message.type={}", t.to_uppercase())).collect();
    for attribute in &create.attributes {
        if !attribute.contains('=') || attribute.contains(',') {
            return Err(CliError::Usage(format!("the attribute {attribute:?} is not of the form name=value")));
        }
        attributes.push(format!("+{attribute}"));
    }
    let brokers = match create.broker {
        Some(broker) => vec![broker],
        None => admin.masters(create.cluster.as_deref()).await?,
    };
    let settings =
        TopicSettings { topic: create.topic, read_queues: create.queues, write_queues: create.queues, perm: create.perm, order: create.order, attributes };
    admin.create_topic(&brokers, &settings).await?;
    output::show(global.output, &settings, |s| {
        output::line(&format!("topic {} with {} queues, permission {}, on {}", s.topic, s.write_queues, show_perm(s.perm), brokers.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_read_and_shown_alike() {
        for text in ["r", "w", "rw"] {
            assert_eq!(show_perm(perm(text).expect("valid")), text);
        }
        assert!(perm("x").is_err());
    }

    #[test]
    fn system_topics_are_told_from_those_of_people() {
        assert!(is_system("%RETRY%g") && is_system("rmq_sys_wheel_timer") && is_system("TBW102"));
        assert!(!is_system("orders"));
    }
}
