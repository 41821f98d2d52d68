//! `sluice bench produce`.

use super::{
    HeaderForm,
    driver::{Lane, Load, Part},
    report::{Recorder, Report},
    runtime,
    template::{Shape, Target, Templates},
};
use crate::{
    Global,
    error::CliError,
    output::{self, Total},
};
use sluice_client::{Admin, Client, ClientError, QueueAddress, Route, TopicSettings};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::LocalSet;

/// How long a new topic may take to get its route.
const ROUTE_WAIT: Duration = Duration::from_secs(40);

/// Send load. Closed loop: each connection keeps --in-flight requests under way. Open loop (--rate): requests start by the clock, and latency counts from when
/// each should have started.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    global: Global,
    /// Topic; it is created when it does not exist
    topic: String,
    /// Spread over so many topics, named TOPIC-0, TOPIC-1, …
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// Queues of a topic that is created
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65536))]
    queues: u32,
    /// Connections
    #[arg(long, short = 'c', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Requests under way on each connection; 32 by default, 1024 with --rate
    #[arg(long, short = 'i', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: Option<u32>,
    /// Bytes of a message's body
    #[arg(long, short = 's', default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    size: u32,
    /// Messages in one request
    #[arg(long, short = 'b', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Messages to send, instead of a time
    #[arg(long, conflicts_with = "seconds")]
    count: Option<u64>,
    /// Measured time, after the warm-up; 10 by default
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Seconds that are not measured; 1 by default, 0 with --count
    #[arg(long, value_parser = seconds_or_zero)]
    warmup: Option<f64>,
    /// Open loop: so many messages a second
    #[arg(long, value_parser = seconds)]
    rate: Option<f64>,
    /// Form of the request headers
    #[arg(long, value_enum, default_value = "binary")]
    header: HeaderForm,
    /// Threads of the generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Tag of the messages
    #[arg(long)]
    tag: Option<String>,
    /// Leave out the unique id that clients give each message (it is what fills the key index)
    #[arg(long)]
    no_unique_id: bool,
    /// Producer group
    #[arg(long, default_value = "sluice-bench")]
    group: String,
}

/// A positive number.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0 && *n < 1e12).ok_or_else(|| format!("{text:?} is no positive number"))
}

fn seconds_or_zero(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { seconds(text) }
}

impl Args {
    fn in_flight(&self) -> u32 {
        self.in_flight.unwrap_or(if self.rate.is_some() { 1024 } else { 32 })
    }

    fn warmup(&self) -> f64 {
        self.warmup.unwrap_or(if self.count.is_some() { 0.0 } else { 1.0 })
    }

    fn load(&self) -> Load {
        let begin = Instant::now() + Duration::from_millis(20);
        let warm_end = begin + Duration::from_secs_f64(self.warmup());
        let batch = u64::from(self.batch);
        Load {
            begin,
            warm_end,
            end: self.count.is_none().then(|| warm_end + Duration::from_secs_f64(self.seconds.unwrap_or(10.0))),
            budget: self.count.map(|n| AtomicU64::new(n.div_ceil(batch))),
            interval_ns: self.rate.map(|rate| 1e9 * f64::from(self.batch) / rate),
            connections: self.connections as usize,
            in_flight: self.in_flight() as usize,
            batch,
            body_bytes: self.size.into(),
            timeout: Duration::from_secs(self.global.timeout.max(10)),
            acknowledged: AtomicU64::new(0),
        }
    }

    fn setting(&self) -> BTreeMap<&'static str, serde_json::Value> {
        let mut setting = BTreeMap::new();
        setting.insert("topic", self.topic.clone().into());
        setting.insert("topics", self.topics.into());
        setting.insert("connections", self.connections.into());
        setting.insert("in_flight", self.in_flight().into());
        setting.insert("size", self.size.into());
        setting.insert("batch", self.batch.into());
        setting.insert("threads", self.threads.into());
        setting.insert("header", if self.header == HeaderForm::Binary { "binary" } else { "json" }.into());
        setting.insert("loop", if self.rate.is_some() { "open" } else { "closed" }.into());
        if let Some(rate) = self.rate {
            setting.insert("rate", rate.into());
        }
        setting
    }
}

/// The queues of all topics at one broker.
type Targets = BTreeMap<String, Vec<Target>>;

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let targets = runtime()?.block_on(Box::pin(prepare(&args)))?;
    let load = Arc::new(args.load());
    let finished = AtomicBool::new(false);
    let parts: Vec<Part> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads as usize)
            .map(|thread| {
                scope.spawn({
                    let (args, targets, load) = (&args, &targets, Arc::clone(&load));
                    move || part(args, targets, &load, thread)
                })
            })
            .collect();
        let progress = scope.spawn(|| show_progress(&args, &load, &finished));
        let parts = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(CliError::Failed("a thread of the generator has panicked".to_owned()))))
            .collect::<Result<_, _>>();
        finished.store(true, Ordering::Release);
        progress.thread().unpark();
        parts
    })?;
    let mut total = Recorder::new()?;
    let mut last = load.warm_end;
    for part in &parts {
        total.merge(&part.recorder);
        last = part.last.map_or(last, |at| last.max(at));
    }
    Report::new("produce", args.setting(), &total, last.saturating_duration_since(load.warm_end)).print(args.global.output)
}

fn show_progress(args: &Args, load: &Load, finished: &AtomicBool) {
    let total = match (args.count, load.end) {
        (Some(count), _) => Total::Steps(count),
        (None, Some(end)) => Total::Millis(millis(end.saturating_duration_since(load.begin))),
        (None, None) => Total::Unknown,
    };
    let bar = output::progress(total, "messages");
    while !finished.load(Ordering::Acquire) {
        let acknowledged = load.acknowledged.load(Ordering::Relaxed);
        if let Total::Millis(all) = total {
            bar.set_message(format!("{} messages", indicatif::HumanCount(acknowledged)));
            bar.set_position(millis(load.begin.elapsed()).min(all));
        } else {
            bar.set_position(acknowledged);
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    bar.finish_and_clear();
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The connections of one thread.
fn part(args: &Args, targets: &Targets, load: &Arc<Load>, thread: usize) -> Result<Part, CliError> {
    let shape = Shape {
        group: args.group.clone(),
        body_bytes: args.size as usize,
        batch: args.batch as usize,
        tag: args.tag.clone(),
        unique_ids: !args.no_unique_id,
        serialization: args.header.into(),
    };
    let brokers: Vec<_> = targets.iter().collect();
    let part = Rc::new(RefCell::new(Part { recorder: Recorder::new()?, last: None }));
    let local = LocalSet::new();
    let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
    let mut lanes = Vec::new();
    for index in (thread..args.connections as usize).step_by(args.threads as usize) {
        let (addr, queues) = brokers[index % brokers.len()];
        let templates = Templates::new(&shape, queues, start << 20 | index as u64, index)?;
        if templates.frame_bytes() > 16 * 1024 * 1024 {
            return Err(CliError::Usage(format!("a request would have {} bytes; give a smaller --size or --batch", templates.frame_bytes())));
        }
        let lane = Lane::new(index, addr.clone(), templates, Arc::clone(load), Rc::clone(&part));
        lanes.push(local.spawn_local(lane.run()));
    }
    runtime()?.block_on(local.run_until(async {
        for lane in lanes {
            lane.await.map_err(|e| CliError::Failed(format!("a connection's task ended by itself: {e}")))??;
        }
        Ok::<_, CliError>(())
    }))?;
    // The tasks have ended and with them their shares.
    drop(local);
    Rc::try_unwrap(part).map(RefCell::into_inner).map_err(|_| CliError::Failed("a connection's task has not ended".to_owned()))
}

async fn prepare(args: &Args) -> Result<Targets, CliError> {
    let (client, admin) = args.global.admin().await?;
    let mut targets = Targets::new();
    let bar = output::progress(Total::Steps(args.topics.into()), "topics");
    for index in 0..args.topics {
        let topic = if args.topics == 1 { args.topic.clone() } else { format!("{}-{index}", args.topic) };
        for QueueAddress { addr, queue_id, .. } in ensure(&client, &admin, &topic, args.queues).await?.writable() {
            targets.entry(addr).or_default().push(Target { topic: topic.clone(), queue_id });
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if targets.is_empty() {
        return Err(ClientError::NoQueue { topic: args.topic.clone(), purpose: "write", queue: None }.into());
    }
    Ok(targets)
}

/// The topic's route; a missing topic is created and its route waited for.
async fn ensure(client: &Client, admin: &Admin, topic: &str, queues: u32) -> Result<Arc<Route>, CliError> {
    match client.refresh_route(topic).await {
        Err(ClientError::TopicNotFound { .. }) => {}
        other => return Ok(other?),
    }
    let brokers = admin.masters(None).await?;
    let settings = TopicSettings { topic: topic.to_owned(), read_queues: queues, write_queues: queues, perm: 6, order: false, attributes: Vec::new() };
    admin.create_topic(&brokers, &settings).await?;
    let deadline = Instant::now() + ROUTE_WAIT;
    loop {
        match client.refresh_route(topic).await {
            Err(ClientError::TopicNotFound { .. }) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return Ok(other?),
        }
    }
}
