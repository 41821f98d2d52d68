//! The well-behaved client.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use sluice_client::{Admin, Client, ClientOptions, Message, Producer, TopicSettings};
use std::{path::Path, process::Command, time::Duration};

use super::bytes::{UNREAD_KEY, UNREAD_TOPIC};

/// Messages a second: a broker that is at work, at a part of what two processors can do together with generator and attackers, so that a delay is the attack's.
pub(super) const RATE: f64 = 20_000.0;
/// Messages that never-reading clients ask for, and the size of each.
const UNREAD_MESSAGES: usize = 64;
const UNREAD_BYTES: usize = 1 << 20;

/// What `sluice bench produce --output json` prints, as far as it is used.
#[derive(Deserialize)]
struct Printed {
    messages_per_second: f64,
    latency_us: PrintedLatency,
    error_count: u64,
    errors: serde_json::Value,
}

#[derive(Deserialize)]
struct PrintedLatency {
    p99: f64,
}

/// One measured phase.
pub(super) struct Phase {
    pub(super) p99_us: f64,
    pub(super) rate: f64,
    /// What went wrong, in the generator's words.
    pub(super) errors: Option<String>,
}

/// Sends at a fixed rate and measures from when each message should have gone.
pub(super) fn measure(binary: &Path, namesrv: &str, seconds: u32) -> Result<Phase> {
    let mut command = Command::new(binary);
    command.args(["bench", "produce", "well-behaved", "--namesrv", namesrv, "--output", "json", "--connections", "4", "--size", "256"]);
    command.args(["--rate", &RATE.to_string(), "--warmup", "1", "--seconds", &seconds.to_string()]);
    let text = process::output(&mut command, Duration::from_secs(u64::from(seconds) + 60)).context("running the well-behaved load")?;
    let printed: Printed = serde_json::from_str(&text).with_context(|| format!("reading what sluice bench printed: {text}"))?;
    let errors = (printed.error_count > 0).then(|| printed.errors.to_string());
    Ok(Phase { p99_us: printed.latency_us.p99, rate: printed.messages_per_second, errors })
}

/// Stores what never-reading clients will ask for.
pub(super) async fn fill(namesrv: &str) -> Result<()> {
    let client = Client::new(namesrv, ClientOptions::default()).context("making a client")?;
    let admin = Admin::new(client.clone());
    let settings = TopicSettings { topic: UNREAD_TOPIC.into(), read_queues: 1, write_queues: 1, perm: 6, order: false, attributes: Vec::new() };
    admin.create_topic(&admin.masters(None).await?, &settings).await.context("creating the topic that is never read")?;
    let producer = Producer::new(client, "hostile-fill")?;
    let message = Message { keys: Some(UNREAD_KEY.into()), queue_id: Some(0), ..Message::new(UNREAD_TOPIC, vec![b'x'; UNREAD_BYTES]) };
    for _ in 0..UNREAD_MESSAGES {
        producer.send(&message).await.context("filling the topic that is never read")?;
    }
    Ok(())
}
