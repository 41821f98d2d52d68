//! `sluice produce …`

use crate::{
    Global,
    error::CliError,
    output::{self, Total},
};
use bytes::Bytes;
use serde::Serialize;
use sluice_client::{ClientError, Message, Producer, SendReceipt, SendStatus};
use std::{path::PathBuf, sync::Arc};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader},
    task::JoinSet,
    time::Instant,
};

/// Longest line taken as a message: what brokers take by default.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Send messages.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    /// Topic
    topic: String,
    /// The message's body
    #[arg(long, conflicts_with = "file")]
    body: Option<String>,
    /// Send each line of this file; without --body and --file the lines of standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// Key the messages can be found by
    #[arg(long)]
    key: Option<String>,
    /// Tag consumers filter by
    #[arg(long)]
    tag: Option<String>,
    /// Property of the messages, name=value
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Delay level, 1 (1 s) to 18 (2 h)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=18), conflicts_with = "batch")]
    delay_level: u32,
    /// Queue number; without it the queues take turns
    #[arg(long)]
    queue: Option<u32>,
    /// All messages with the same ordering key go to one queue
    #[arg(long, conflicts_with = "queue")]
    ordering_key: Option<String>,
    /// Send so many lines in one request, to one queue
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// So many requests may be under way; above 1 the order of messages is not kept
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    in_flight: u32,
    /// Producer group
    #[arg(long, default_value = "sluice-cli")]
    group: String,
    /// Print where each request was stored; a single --body always does
    #[arg(long)]
    receipts: bool,
}

fn property(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).ok_or_else(|| format!("{text:?} is not of the form name=value"))
}

/// What became of all messages.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Summary {
    /// Stored, in whatever way.
    sent: u64,
    /// Of those: not flushed in time.
    flush_timeout: u64,
    /// Of those: not on a replica in time.
    replica_timeout: u64,
    /// Of those: without any replica that is in step.
    no_replica: u64,
    bytes: u64,
    seconds: f64,
}

impl Summary {
    fn count(&mut self, status: SendStatus, messages: u64, bytes: u64) {
        self.sent += messages;
        self.bytes += bytes;
        match status {
            SendStatus::Stored => {}
            SendStatus::FlushTimeout => self.flush_timeout += messages,
            SendStatus::ReplicaTimeout => self.replica_timeout += messages,
            SendStatus::NoReplica => self.no_replica += messages,
        }
    }

    fn line(&self) -> String {
        let rate = self.sent as f64 / self.seconds.max(1e-9);
        let messages = if self.sent == 1 { "message" } else { "messages" };
        format!("stored {} {messages}, {} bytes, in {:.2} s ({rate:.0} messages/s)", self.sent, self.bytes, self.seconds)
    }

    /// Some are there, but a crash of the machine may still take them: that is less than was asked for.
    fn check_durable(&self) -> Result<(), CliError> {
        let counts = [(self.flush_timeout, "not flushed in time"), (self.replica_timeout, "not on a replica in time"), (self.no_replica, "without a replica")];
        let told: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if told.is_empty() {
            return Ok(());
        }
        Err(CliError::Failed(format!(
            "of {} messages stored, {}: a crash of the broker's machine may still lose them; look at the broker's disk and replicas, and send them again if a \
             duplicate does no harm",
            self.sent,
            told.join(", ")
        )))
    }
}

struct Sender {
    args: Args,
    producer: Arc<Producer>,
    under_way: JoinSet<Result<(SendReceipt, u64, u64), ClientError>>,
    summary: Summary,
    bar: indicatif::ProgressBar,
    /// Whether the bar counts bytes read, not messages stored.
    by_bytes: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let client = args.global.client().await?;
    let producer = Arc::new(Producer::new(client, &args.group)?);
    let started = Instant::now();
    let (single, format) = (args.body.is_some(), args.global.output);
    let mut sender = Sender { args, producer, under_way: JoinSet::new(), summary: Summary::default(), bar: indicatif::ProgressBar::hidden(), by_bytes: false };
    let outcome = sender.all().await;
    // What is under way may have been stored all the same: the summary counts it, whatever went wrong before.
    let rest = sender.drain(single).await;
    sender.bar.finish_and_clear();
    let Sender { args, mut summary, .. } = sender;
    summary.seconds = started.elapsed().as_secs_f64();
    if args.receipts && !single {
        // Standard output has the receipts.
        output::note(&summary.line());
    } else if !single {
        output::show(format, &summary, |s| output::line(&s.line()))?;
    }
    outcome.and(rest)?;
    summary.check_durable()
}

impl Sender {
    async fn all(&mut self) -> Result<(), CliError> {
        match (self.args.body.clone(), self.args.file.clone()) {
            (Some(body), _) => self.send(vec![body.into()], true).await,
            (None, Some(path)) if path.as_os_str() != "-" => {
                let failed = |e: std::io::Error| CliError::Failed(format!("{} cannot be opened: {e}", path.display()));
                let file = tokio::fs::File::open(&path).await.map_err(failed)?;
                let about = file.metadata().await.map_err(failed)?;
                // A pipe has no length.
                self.by_bytes = about.is_file();
                self.bar = if self.by_bytes { output::progress(Total::Bytes(about.len()), "read") } else { output::progress(Total::Unknown, "messages") };
                self.lines(BufReader::new(file)).await
            }
            _ => {
                self.bar = output::progress(Total::Unknown, "messages");
                self.lines(BufReader::new(tokio::io::stdin())).await
            }
        }
    }

    /// Waits for all that is under way; the first failure is told.
    async fn drain(&mut self, receipt: bool) -> Result<(), CliError> {
        let mut outcome = Ok(());
        while !self.under_way.is_empty() {
            let one = self.one_done(receipt).await;
            outcome = outcome.and(one);
        }
        outcome
    }

    async fn lines(&mut self, mut input: impl AsyncBufRead + Unpin) -> Result<(), CliError> {
        let mut batch: Vec<Bytes> = Vec::new();
        let mut number = 0u64;
        loop {
            let mut line = Vec::new();
            number += 1;
            let read = (&mut input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).await;
            if read.map_err(|e| CliError::Failed(format!("line {number} cannot be read: {e}")))? == 0 {
                break;
            }
            if self.by_bytes {
                self.bar.inc(line.len() as u64);
            }
            if line.len() as u64 > LINE_BYTES_MAX {
                return Err(CliError::Usage(format!("line {number} has more than {LINE_BYTES_MAX} bytes, the most a message may have")));
            }
            while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            batch.push(line.into());
            if batch.len() >= self.args.batch as usize {
                self.send(std::mem::take(&mut batch), false).await?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.send(batch, false).await }
    }

    fn message(&self, body: Bytes) -> Message {
        Message {
            tag: self.args.tag.clone(),
            keys: self.args.key.clone(),
            delay_level: self.args.delay_level,
            queue_id: self.args.queue,
            ordering_key: self.args.ordering_key.clone(),
            properties: self.args.properties.clone(),
            ..Message::new(&self.args.topic, body)
        }
    }

    async fn send(&mut self, bodies: Vec<Bytes>, receipt: bool) -> Result<(), CliError> {
        let bytes = bodies.iter().map(|b| b.len() as u64).sum();
        let messages: Vec<Message> = bodies.into_iter().map(|b| self.message(b)).collect();
        let producer = Arc::clone(&self.producer);
        self.under_way.spawn(async move {
            let stored = match messages.as_slice() {
                [message] => producer.send(message).await?,
                several => producer.send_batch(several).await?,
            };
            Ok((stored, messages.len() as u64, bytes))
        });
        while self.under_way.len() >= self.args.in_flight as usize {
            self.one_done(receipt).await?;
        }
        Ok(())
    }

    async fn one_done(&mut self, receipt: bool) -> Result<(), CliError> {
        let Some(done) = self.under_way.join_next().await else { return Ok(()) };
        let (stored, messages, bytes) = done.map_err(|e| CliError::Failed(format!("a send ended by itself: {e}")))??;
        self.summary.count(stored.status, messages, bytes);
        if !self.by_bytes {
            self.bar.inc(messages);
        }
        if !(receipt || self.args.receipts) {
            return Ok(());
        }
        match self.args.global.output {
            output::Format::Json => output::json_line(&stored),
            output::Format::Table => {
                let status = serde_json::to_value(stored.status).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
                output::line(&format!(
                    "{status} {} queue {} offset {} unique {} id {}",
                    stored.broker, stored.queue_id, stored.queue_offset, stored.unique_id, stored.offset_id
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_less_safely_is_counted_and_is_a_failure() {
        let mut summary = Summary::default();
        summary.count(SendStatus::Stored, 3, 30);
        assert!(summary.check_durable().is_ok());
        summary.count(SendStatus::FlushTimeout, 2, 20);
        summary.count(SendStatus::NoReplica, 1, 10);
        assert_eq!((summary.sent, summary.bytes, summary.flush_timeout, summary.no_replica), (6, 60, 2, 1));
        let told = summary.check_durable().expect_err("less than asked for").to_string();
        assert!(told.starts_with("of 6 messages stored, 2 not flushed in time, 1 without a replica"), "{told}");
    }
}
