//! `sluice produce …`

use crate::{Global, error::CliError, output};
use bytes::Bytes;
use serde::Serialize;
use sluice_client::{ClientError, Message, Producer, SendReceipt};
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
    /// Print where each request was stored
    #[arg(long)]
    receipts: bool,
}

fn property(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).ok_or_else(|| format!("{text:?} is not of the form name=value"))
}

#[derive(Serialize)]
struct Summary {
    sent: u64,
    bytes: u64,
    seconds: f64,
}

struct Sender {
    args: Args,
    producer: Arc<Producer>,
    under_way: JoinSet<Result<(SendReceipt, u64, u64), ClientError>>,
    sent: u64,
    bytes: u64,
    bar: indicatif::ProgressBar,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let client = args.global.client().await?;
    let producer = Arc::new(Producer::new(client, &args.group)?);
    let started = Instant::now();
    let bar = if args.body.is_some() { indicatif::ProgressBar::hidden() } else { output::progress(None, "messages") };
    let mut sender = Sender { args, producer, under_way: JoinSet::new(), sent: 0, bytes: 0, bar };
    let outcome = sender.all().await;
    sender.bar.finish_and_clear();
    if outcome.is_err() && sender.sent > 0 {
        output::note(&format!("{} messages were stored before the failure", sender.sent));
    }
    outcome?;
    let summary = Summary { sent: sender.sent, bytes: sender.bytes, seconds: started.elapsed().as_secs_f64() };
    if sender.sent == 1 || sender.args.receipts {
        return Ok(());
    }
    output::show(sender.args.global.output, &summary, |s| {
        output::line(&format!("stored {} messages, {} bytes, in {:.2} s ({:.0} messages/s)", s.sent, s.bytes, s.seconds, s.sent as f64 / s.seconds.max(1e-9)))
    })
}

impl Sender {
    async fn all(&mut self) -> Result<(), CliError> {
        match (self.args.body.clone(), self.args.file.clone()) {
            (Some(body), _) => self.send(vec![body.into()], true).await?,
            (None, Some(path)) if path.as_os_str() != "-" => {
                let file = tokio::fs::File::open(&path).await.map_err(|e| CliError::Failed(format!("{} cannot be opened: {e}", path.display())))?;
                self.lines(BufReader::new(file)).await?;
            }
            _ => self.lines(BufReader::new(tokio::io::stdin())).await?,
        }
        while !self.under_way.is_empty() {
            self.one_done(false).await?;
        }
        Ok(())
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
        self.sent += messages;
        self.bytes += bytes;
        self.bar.inc(messages);
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
