//! The well-behaved client.

use crate::generator;
use anyhow::{Context, Result};
use sluice_client::{Admin, Client, ClientOptions, Message, Producer, TopicSettings};
use std::{path::Path, time::Duration};

use super::bytes::{UNREAD_KEY, UNREAD_TOPIC};

/// Messages a second: a broker that is at work, at about half of what a single processor can do, so that a delay is the attack's.
pub(super) const RATE: f64 = 10_000.0;
/// Messages that never-reading clients ask for, and the size of each.
const UNREAD_MESSAGES: usize = 64;
const UNREAD_BYTES: usize = 1 << 20;

/// One measured phase.
pub(super) struct Phase {
    pub(super) p99_us: f64,
    pub(super) rate: f64,
    /// What went wrong, in the generator's words.
    pub(super) errors: Option<String>,
}

/// Sends at a fixed rate and measures from when each message should have gone.
pub(super) fn measure(binary: &Path, namesrv: &str, seconds: u32) -> Result<Phase> {
    let words = format!("produce well-behaved --connections 4 --size 256 --rate {RATE} --warmup 1 --seconds {seconds}");
    let report = generator::run(binary, namesrv, &words, Duration::from_secs(u64::from(seconds) + 60)).context("running the well-behaved load")?;
    Ok(Phase { p99_us: report.latency_us.p99, rate: report.messages_per_second, errors: report.errors() })
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
