//! `sluice consume …`

use crate::{
    Global,
    error::CliError,
    output::{self, Total},
    time::Position,
};
use serde::Serialize;
use sluice_client::{Admin, Client, ClientError, Consumer, PullRequest, PullStatus, Pulled, QueueAddress, ReceivedMessage, Retry};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// How long a broker may hold a pull.
const HOLD: Duration = Duration::from_secs(15);
/// Pause before a failed pull is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a broker may be away before a follower gives up.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// How often a follower's offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Print messages, one a line. All queues are read by this one process: it does not share them with the group's other members.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    /// Topic
    topic: String,
    /// Group whose offsets are used and committed
    #[arg(long)]
    group: String,
    /// Start here instead of at the group's offset: earliest, latest, or a time; a group without an offset starts at the earliest
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    from: Option<Position>,
    /// Stop after so many messages
    #[arg(long)]
    max: Option<u64>,
    /// Wait for more at the end, until interrupted
    #[arg(long)]
    follow: bool,
    /// Only messages with this tag; several with || between
    #[arg(long, default_value = "*")]
    tag: String,
    /// Leave the group's offsets as they are
    #[arg(long)]
    no_commit: bool,
    /// Before each body print queue, offset, tag and keys
    #[arg(long)]
    meta: bool,
}

/// A message for programs.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    topic: &'a str,
    queue_id: i32,
    queue_offset: u64,
    store_timestamp: i64,
    born_timestamp: i64,
    offset_id: &'a str,
    attempts: i32,
    properties: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// A body that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'a> From<&'a ReceivedMessage> for Shown<'a> {
    fn from(m: &'a ReceivedMessage) -> Self {
        let body = std::str::from_utf8(&m.body).ok();
        Self {
            topic: &m.topic,
            queue_id: m.queue_id,
            queue_offset: m.queue_offset,
            store_timestamp: m.store_timestamp,
            born_timestamp: m.born_timestamp,
            offset_id: &m.offset_id,
            attempts: m.reconsume_times,
            properties: m.properties.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            body,
            body_hex: body.is_none().then(|| m.body.iter().map(|b| format!("{b:02x}")).collect()),
        }
    }
}

/// What one queue's task hands over.
type Batch = (usize, Pulled);

struct Reader {
    consumer: Arc<Consumer>,
    topic: String,
    expression: String,
    queue: QueueAddress,
    index: usize,
    follow: bool,
    batch: u32,
    /// It was said where to start: a reset of the group from before does not move us.
    insists: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let client = args.global.client().await?;
    let consumer = Arc::new(Consumer::new(client.clone(), &args.group)?);
    let queues = client.route(&args.topic).await?.readable();
    if queues.is_empty() {
        return Err(ClientError::NoQueue { topic: args.topic, purpose: "read", queue: None }.into());
    }
    let (sender, mut batches) = mpsc::channel::<Batch>(16);
    let mut tasks = JoinSet::new();
    let mut offsets = Vec::new();
    for (index, queue) in queues.iter().enumerate() {
        let start = start(&client, &consumer, &args, queue).await?;
        offsets.push(start);
        let batch = args.max.map_or(32, |max| u32::try_from(max).unwrap_or(32).clamp(1, 32));
        let reader = Reader {
            consumer: Arc::clone(&consumer),
            topic: args.topic.clone(),
            expression: args.tag.clone(),
            queue: queue.clone(),
            index,
            follow: args.follow,
            batch,
            insists: args.from.is_some(),
        };
        tasks.spawn(reader.run(start, sender.clone()));
    }
    drop(sender);
    let mut committed = vec![-1; queues.len()];
    let bar = match args.max {
        // The messages themselves show how far it is.
        _ if output::results_watched() => indicatif::ProgressBar::hidden(),
        Some(max) => output::progress(Total::Steps(max), "messages"),
        None => output::progress(Total::Unknown, "messages"),
    };
    let printed = print_all(&args, &consumer, &queues, &mut batches, &mut offsets, &mut committed, &bar).await;
    bar.finish_and_clear();
    drop(batches);
    if !args.no_commit {
        commit(&consumer, &args.topic, &queues, &offsets, &mut committed).await?;
    }
    let printed = printed?;
    // Readers whose channel is gone end by themselves; one that failed tells why.
    if args.max.is_none_or(|max| printed < max) {
        while let Some(Ok(outcome)) = tasks.try_join_next() {
            outcome?;
        }
    }
    tasks.shutdown().await;
    if printed > 0 && output::watched() && !output::results_watched() {
        output::note(&format!("{printed} messages"));
    }
    if printed == 0 && !args.follow {
        output::note("nothing to consume; --from earliest starts anew, --follow waits for more");
    }
    Ok(())
}

async fn start(client: &Client, consumer: &Consumer, args: &Args, queue: &QueueAddress) -> Result<i64, CliError> {
    let admin = Admin::new(client.clone());
    Ok(match args.from {
        Some(Position::Earliest) => admin.min_offset(&args.topic, queue).await?,
        Some(Position::Latest) => admin.max_offset(&args.topic, queue).await?,
        Some(Position::Time(ms)) => admin.search_offset(&args.topic, queue, ms).await?,
        None => match consumer.offset(&args.topic, queue).await? {
            Some(offset) => offset,
            None => admin.min_offset(&args.topic, queue).await?,
        },
    })
}

impl Reader {
    /// Pulls until the end the queue has now, or for ever.
    async fn run(self, start: i64, to: mpsc::Sender<Batch>) -> Result<(), ClientError> {
        let mut offset = start;
        let mut end = None;
        let mut insists = self.insists;
        let mut answered = Instant::now();
        loop {
            let hold = if self.follow { HOLD } else { Duration::ZERO };
            let pull =
                PullRequest { queue: &self.queue, topic: &self.topic, offset, messages_max: self.batch, expression: &self.expression, hold, commit: None };
            let pulled = match self.consumer.pull(&pull).await {
                Ok(pulled) => pulled,
                Err(error) if self.follow && error.retry() != Retry::Never && answered.elapsed() < AWAY_MAX => {
                    output::note(&format!("{error}; trying again"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            answered = Instant::now();
            let end = *end.get_or_insert(pulled.max_offset);
            let nothing = pulled.status == PullStatus::Nothing;
            // A broker that sends the offset asked for back would have us ask for ever.
            let stuck = pulled.next_offset <= offset && pulled.status != PullStatus::OffsetMoved;
            // The broker tells of a reset once, and lets who was told read where it likes. An offset that the queue does not have is moved every time.
            let again = std::mem::take(&mut insists) && pulled.status == PullStatus::OffsetMoved && (pulled.min_offset..=pulled.max_offset).contains(&offset);
            if !again {
                offset = pulled.next_offset;
            }
            if to.send((self.index, pulled)).await.is_err() {
                return Ok(());
            }
            if again {
                continue;
            }
            if !self.follow && (nothing || stuck || offset >= end) {
                return Ok(());
            }
        }
    }
}

async fn print_all(
    args: &Args,
    consumer: &Consumer,
    queues: &[QueueAddress],
    batches: &mut mpsc::Receiver<Batch>,
    offsets: &mut [i64],
    committed: &mut [i64],
    bar: &indicatif::ProgressBar,
) -> Result<u64, CliError> {
    let mut printed = 0;
    let mut interval = tokio::time::interval(COMMIT_INTERVAL);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let (index, pulled) = tokio::select! {
            batch = batches.recv() => match batch {
                Some(batch) => batch,
                None => return Ok(printed),
            },
            _ = interval.tick(), if !args.no_commit => {
                commit(consumer, &args.topic, queues, offsets, committed).await?;
                continue;
            }
            _ = &mut interrupted => return Ok(printed),
        };
        for message in &pulled.messages {
            if args.max.is_some_and(|max| printed >= max) {
                return Ok(printed);
            }
            print(args, message)?;
            printed += 1;
            bar.inc(1);
            offsets[index] = i64::try_from(message.queue_offset).unwrap_or(i64::MAX) + 1;
        }
        offsets[index] = pulled.next_offset;
        if pulled.status == PullStatus::OffsetMoved {
            // The group has been moved: what was committed before does not hold any more, even where we come to the same offset again.
            committed[index] = -1;
        }
        if args.max.is_some_and(|max| printed >= max) {
            return Ok(printed);
        }
    }
}

fn print(args: &Args, message: &ReceivedMessage) -> Result<(), CliError> {
    if args.global.output == output::Format::Json {
        return output::json_line(&Shown::from(message));
    }
    if args.meta {
        let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
        let head = format!("{}\t{}\t{}\t{}\t", message.queue_id, message.queue_offset, text(message.tag()), text(message.keys()));
        return output::raw_line(&[head.as_bytes(), &message.body].concat());
    }
    output::raw_line(&message.body)
}

/// Commits what has changed since the last time.
async fn commit(consumer: &Consumer, topic: &str, queues: &[QueueAddress], offsets: &[i64], committed: &mut [i64]) -> Result<(), CliError> {
    for ((queue, offset), committed) in queues.iter().zip(offsets).zip(committed) {
        if *offset != *committed {
            consumer.commit(topic, queue, *offset).await?;
            *committed = *offset;
        }
    }
    Ok(())
}
