//! Making topics and changing them.

use crate::{Global, changes::Changes, error::CliError, output};
use serde::Serialize;
use sluice_client::{Admin, BrokerNode, Client, Consumer, QueueAddress, TopicSettings};
use sluice_protocol::body::TopicConfig;

/// Where.
#[derive(Debug, clap::Args)]
struct Place {
    /// Only on the brokers of this cluster
    #[arg(long)]
    cluster: Option<String>,
    /// Only on this broker, host:port
    #[arg(long, conflicts_with = "cluster", value_name = "HOST:PORT")]
    broker: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
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
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<String>,
    /// Note that the order of messages matters
    #[arg(long)]
    order: bool,
    /// That it exists already is no failure
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(super) struct Update {
    /// Topic
    topic: String,
    /// Queues on each broker, to read and to write
    #[arg(long, group = "change", value_parser = clap::value_parser!(i32).range(1..=65536))]
    queues: Option<i32>,
    /// Queues that producers write. To shrink a topic, lower these first
    #[arg(long, group = "change", conflicts_with = "queues", value_parser = clap::value_parser!(i32).range(1..=65536))]
    write_queues: Option<i32>,
    /// Queues that consumers read. To shrink a topic, lower these when all is read
    #[arg(long, group = "change", conflicts_with = "queues", value_parser = clap::value_parser!(i32).range(1..=65536))]
    read_queues: Option<i32>,
    /// What clients may do: r, w or rw
    #[arg(long, group = "change", value_parser = perm)]
    perm: Option<i32>,
    /// Message type: NORMAL, FIFO, DELAY, TRANSACTION
    #[arg(long, group = "change", value_name = "TYPE", ignore_case = true, value_parser = ["NORMAL", "FIFO", "DELAY", "TRANSACTION"])]
    message_type: Option<String>,
    /// Another attribute, name=value
    #[arg(long = "attribute", group = "change", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<String>,
    /// Take this attribute away
    #[arg(long = "remove-attribute", group = "change", value_name = "NAME")]
    removed: Vec<String>,
    /// Whether the order of messages matters
    #[arg(long, group = "change", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    order: Option<bool>,
    /// Lower the number of queues even if messages can't be read any more then
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

fn attribute(text: &str) -> Result<String, String> {
    let legal = text.split_once('=').is_some_and(|(name, _)| !name.is_empty()) && !text.contains(',');
    if legal { Ok(text.to_owned()) } else { Err(format!("{text:?} is not of the form name=value")) }
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

#[derive(Serialize)]
struct Created {
    topic: String,
    queues: u32,
    perm: String,
    order: bool,
    attributes: Vec<String>,
    brokers: Vec<String>,
    done: &'static str,
}

pub(super) async fn make(global: &Global, admin: &Admin, create: Create) -> Result<(), CliError> {
    let Create { topic, queues, perm, order, .. } = create;
    let brokers = match create.place.broker {
        Some(broker) => vec![broker],
        None => admin.masters(create.place.cluster.as_deref()).await?,
    };
    let (mut having, mut lacking) = (Vec::new(), Vec::new());
    for broker in brokers {
        if admin.topic_config(&broker, &topic).await?.is_some() { having.push(broker) } else { lacking.push(broker) }
    }
    if !having.is_empty() && !create.if_not_exists {
        let on = having.join(", ");
        return Err(CliError::Failed(format!("the topic {topic} exists already on {on}; `sluice topic update {topic}` changes it, --if-not-exists leaves it")));
    }
    if lacking.is_empty() {
        let exists = Exists { topic, brokers: having, done: "exists" };
        return output::show(global.output, &exists, |e| output::line(&format!("topic {} exists on {}", e.topic, e.brokers.join(", "))));
    }
    let attributes: Vec<String> = create.message_type.iter().map(|t| format!("message.type={}", t.to_uppercase())).chain(create.attributes).collect();
    let added = attributes.iter().map(|a| format!("+{a}")).collect();
    let settings = TopicSettings { topic: topic.clone(), read_queues: queues, write_queues: queues, perm, order, attributes: added };
    admin.create_topic(&lacking, &settings).await?;
    let created = Created { topic, queues, perm: show_perm(perm), order, attributes, brokers: lacking, done: "created" };
    output::show(global.output, &created, |c| {
        output::line(&format!("topic {} created with {} queues, permission {}, on {}", c.topic, c.queues, c.perm, c.brokers.join(", ")))
    })
}

#[derive(Serialize)]
struct Exists {
    topic: String,
    brokers: Vec<String>,
    done: &'static str,
}

pub(super) async fn change(global: &Global, client: &Client, admin: &Admin, update: &Update) -> Result<(), CliError> {
    let route = client.refresh_route(&update.topic).await?;
    let chosen = |b: &&BrokerNode| {
        let master = b.master();
        update.place.broker.as_deref().is_none_or(|wanted| master == Some(wanted)) && update.place.cluster.as_deref().is_none_or(|wanted| b.cluster == wanted)
    };
    let mut changes = Changes::new(&format!("topic {}", update.topic));
    let mut wanted = Vec::new();
    for node in route.brokers.iter().filter(chosen) {
        let Some(broker) = node.master() else { continue };
        let Some(before) = admin.topic_config(broker, &update.topic).await? else { continue };
        let (after, attributes) = applied(update, broker, &before, &mut changes);
        if !update.force {
            refuse_loss(client, admin, node, broker, &before, &after).await?;
        }
        wanted.push((broker, before, after, attributes));
    }
    if wanted.is_empty() {
        return Err(CliError::NotFound(format!(
            "the topic {} is on none of these brokers; `sluice topic route {}` shows where it is",
            update.topic, update.topic
        )));
    }
    // Refused as a whole or done as a whole, as far as can be known before.
    for (broker, before, after, attributes) in wanted {
        if before != after {
            admin.put_topic(broker, &after, &attributes).await?;
        }
    }
    changes.show(global)
}

/// The settings with what is to change, and the changes of attributes as brokers take them.
fn applied(update: &Update, broker: &str, before: &TopicConfig, changes: &mut Changes) -> (TopicConfig, Vec<String>) {
    let (mut after, mut attributes) = (before.clone(), Vec::new());
    changes.set(broker, "read-queues", &mut after.read_queue_nums, update.queues.or(update.read_queues));
    changes.set(broker, "write-queues", &mut after.write_queue_nums, update.queues.or(update.write_queues));
    changes.set(broker, "order", &mut after.order, update.order);
    if let Some(perm) = update.perm {
        changes.push(broker, "perm", show_perm(before.perm), show_perm(perm));
        after.perm = perm;
    }
    let typed = update.message_type.iter().map(|t| format!("message.type={}", t.to_uppercase()));
    for (name, value) in typed.chain(update.attributes.iter().cloned()).filter_map(|a| a.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()))) {
        let old = after.attributes.insert(name.clone(), value.clone());
        changes.push(broker, &name, old.unwrap_or_else(|| "-".to_owned()), value.clone());
        attributes.push(format!("+{name}={value}"));
    }
    for name in &update.removed {
        if let Some(old) = after.attributes.remove(name) {
            changes.push(broker, name, old, "-".to_owned());
            attributes.push(format!("-{name}"));
        }
    }
    (after, attributes)
}

/// Refuses what would leave messages in queues that nobody reads.
async fn refuse_loss(client: &Client, admin: &Admin, node: &BrokerNode, broker: &str, before: &TopicConfig, after: &TopicConfig) -> Result<(), CliError> {
    let (topic, read) = (&after.topic_name, after.read_queue_nums);
    if read >= before.read_queue_nums {
        return Ok(());
    }
    if read < after.write_queue_nums {
        let write = after.write_queue_nums;
        return Err(CliError::Failed(format!(
            "with {read} queues to read and {write} to write, what is written into the others is never read; lower --write-queues first"
        )));
    }
    let groups = admin.topic_groups(topic).await?;
    for queue_id in read.unsigned_abs()..before.read_queue_nums.unsigned_abs() {
        let queue = QueueAddress { broker: node.name.clone(), addr: broker.to_owned(), queue_id };
        if let Some((unread, who)) = unread(client, admin, topic, &queue, &groups).await? {
            return Err(CliError::Failed(format!(
                "queue {queue_id} of topic {topic} on {broker} has {unread} messages that {who} has not read, and with {read} queues nobody could; lower \
                 --write-queues first, let the groups read on, then lower --read-queues; or pass --force to leave the messages behind"
            )));
        }
    }
    Ok(())
}

/// How many messages of a queue somebody has not read, and who.
async fn unread(client: &Client, admin: &Admin, topic: &str, queue: &QueueAddress, groups: &[String]) -> Result<Option<(i64, String)>, CliError> {
    let (min, max) = (admin.min_offset(topic, queue).await?, admin.max_offset(topic, queue).await?);
    if max <= min {
        return Ok(None);
    }
    if groups.is_empty() {
        return Ok(Some((max - min, "any group".to_owned())));
    }
    for group in groups {
        let at = Consumer::new(client.clone(), group)?.offset(topic, queue).await?.unwrap_or(min).max(min);
        if at < max {
            return Ok(Some((max - at, format!("group {group}"))));
        }
    }
    Ok(None)
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
    fn an_attribute_needs_a_name_and_no_comma() {
        assert!(attribute("a=b").is_ok());
        assert!(["a", "=b", "a=b,c=d"].iter().all(|text| attribute(text).is_err()));
    }
}
