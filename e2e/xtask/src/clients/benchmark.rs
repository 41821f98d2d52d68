//! The benchmark programs that RocketMQ itself comes with (`org.apache.rocketmq.example.benchmark`), unmodified. They are endless and print statistics: each
//! runs until it has printed enough, is ended, and has to have told of work and of no failure. What they tell is compared with the broker's own books.

use super::statistics::{self, BATCH_PRODUCER, CONSUMER, Completion, PRODUCER, Program, Report};
use crate::process::Background;
use anyhow::{Context, Result, anyhow, bail, ensure};
use sluice_client::{Admin, Client, ClientOptions, TopicSettings};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::runtime::{Builder, Runtime};

/// A claim about a broker, as the Java ones are.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    run: fn(&Stage<'_>) -> Result<()>,
}

pub(super) static SCENARIOS: [Scenario; 3] = [
    Scenario { name: "benchmark-producer", run: producer },
    Scenario { name: "benchmark-batch-producer", run: batch_producer },
    Scenario { name: "benchmark-consumer", run: consumer },
];

/// Lines that a producer has to print. The first one takes it ten seconds.
const LINES: usize = 5;
const BATCH: u64 = 16;
/// What the consumer gets: some seconds of work.
const CONSUMED: u64 = 10_000;
const QUEUES: u32 = 4;
const POLL: Duration = Duration::from_millis(100);
/// For one question to the broker's books.
const BOOKS: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(30);
/// A Java program that was ended by SIGTERM.
const ENDED: i32 = 128 + 15;

/// What all scenarios of a run share.
pub(super) struct Surroundings<'a> {
    /// The broker's name server.
    pub(super) namesrv: &'a str,
    /// The folder with the jars.
    pub(super) library: &'a Path,
    /// Where outputs and logs go.
    pub(super) folder: &'a Path,
    /// What one scenario may take.
    pub(super) deadline: Duration,
}

/// Where one scenario runs.
struct Stage<'a> {
    around: &'a Surroundings<'a>,
    books: Books,
    /// For the topic and the group: no other run has used it.
    name: String,
    end: Instant,
}

/// Runs them one after another and says PASS or FAIL for each.
pub(super) fn run(scenarios: &[&Scenario], around: &Surroundings<'_>) -> Result<()> {
    let mut failed = 0;
    for scenario in scenarios {
        let start = Instant::now();
        let outcome = Stage::new(scenario, around).and_then(|stage| (scenario.run)(&stage));
        match outcome {
            Ok(()) => println!("PASS {} ({})", scenario.name, start.elapsed().as_millis()),
            Err(error) => {
                failed += 1;
                println!("FAIL {}: {error:#}", scenario.name);
            }
        }
    }
    println!("{} passed, {failed} failed", scenarios.len() - failed);
    ensure!(failed == 0, "{failed} of RocketMQ's benchmark programs failed");
    Ok(())
}

/// Four threads send message by message.
fn producer(stage: &Stage<'_>) -> Result<()> {
    let reports = produce(stage, &PRODUCER, &["-w", "4"])?;
    stage.await_stored(statistics::at_least(&reports))
}

/// Four threads send batches.
fn batch_producer(stage: &Stage<'_>) -> Result<()> {
    let reports = produce(stage, &BATCH_PRODUCER, &["-w", "4", "-b", &BATCH.to_string()])?;
    stage.await_stored(BATCH * statistics::at_least(&reports))
}

/// Runs a producer until it has printed its lines. Its first send makes the topic.
fn produce(stage: &Stage<'_>, program: &'static Program, arguments: &[&str]) -> Result<Vec<Report>> {
    let mut running = stage.start(program, arguments)?;
    let reports = running.await_reports(stage.end, |reports| reports.len() >= LINES)?;
    running.end()?;
    running.blame(statistics::check_busy(&reports))?;
    Ok(reports)
}

/// A group's one member gets all that a producer says it has sent.
///
/// The producer starts with the consumer's first line: before it the consumer counts for some time that no line tells of.
fn consumer(stage: &Stage<'_>) -> Result<()> {
    stage.books.create(&stage.name, stage.end)?;
    let mut running = stage.start(&CONSUMER, &["-w", "4", "-g", &stage.name])?;
    running.await_reports(stage.end, |reports| !reports.is_empty())?;
    let sent = produce_all(stage)?.total;
    let reports = running.await_reports(stage.end, |reports| statistics::at_most(reports) >= sent)?;
    stage.await_consumed(sent)?;
    running.end()?;
    running.blame(statistics::check_busy_once_begun(&reports))
}

/// A producer that has so much to send and ends by itself.
fn produce_all(stage: &Stage<'_>) -> Result<Completion> {
    let mut running = stage.start(&PRODUCER, &["-w", "4", "-q", &CONSUMED.to_string()])?;
    let status = running.process.wait(stage.end.saturating_duration_since(Instant::now()))?;
    let completion = running.blame(PRODUCER.completion(&running.output()?))?;
    ensure!(status.success(), "it ended with {status}; {}", running.shown());
    running.blame(completion.check(CONSUMED))?;
    Ok(completion)
}

impl<'a> Stage<'a> {
    fn new(scenario: &Scenario, around: &'a Surroundings<'a>) -> Result<Self> {
        let run = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_millis();
        let name = format!("{}_{run}", scenario.name.replace('-', "_"));
        Ok(Self { around, books: Books::new(around.namesrv)?, name, end: Instant::now() + around.deadline })
    }

    /// Starts a program on the scenario's topic that prints each second.
    fn start(&self, program: &'static Program, arguments: &[&str]) -> Result<Running> {
        let class = program.class.rsplit('.').next().unwrap_or(program.class);
        let log = self.around.folder.join(format!("{}-{class}.log", self.name));
        let mut command = Command::new("java");
        // Its own log goes to the user's home.
        command.arg("-Xmx256m").arg(format!("-Duser.home={}", self.around.folder.display())).arg("-cp").arg(self.around.library.join("*"));
        command.args([program.class, "-n", self.around.namesrv, "-t", &self.name, "-ri", "1000"]).args(arguments);
        Ok(Running { program, process: Background::start(&mut command, &log)?, log })
    }

    /// The broker has as many messages as a producer told of. Its indexes may be a moment behind.
    fn await_stored(&self, wanted: u64) -> Result<()> {
        await_until(self.end, || {
            let stored = self.books.stored(&self.name)?;
            Ok(if stored >= wanted { Ok(()) } else { Err(format!("at least {wanted} messages were sent, but {stored} are stored")) })
        })
    }

    /// The group has committed all that is stored. The client does it each five seconds.
    fn await_consumed(&self, wanted: u64) -> Result<()> {
        await_until(self.end, || {
            let Consumed { total, lag } = self.books.consumed(&self.name, &self.name)?;
            let done = total >= wanted && lag == 0;
            Ok(if done { Ok(()) } else { Err(format!("{wanted} messages were sent; consumed are {total}, and {lag} are left")) })
        })
    }
}

/// Tries until it is true, or says at the end why it is not.
fn await_until(end: Instant, mut holds: impl FnMut() -> Result<Result<(), String>>) -> Result<()> {
    loop {
        match holds()? {
            Ok(()) => return Ok(()),
            Err(reason) if Instant::now() > end => bail!(reason),
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// A program that runs, or has run.
struct Running {
    program: &'static Program,
    process: Background,
    log: PathBuf,
}

impl Running {
    fn output(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// Waits until its lines are enough.
    fn await_reports(&self, end: Instant, enough: impl Fn(&[Report]) -> bool) -> Result<Vec<Report>> {
        loop {
            let reports = self.blame(self.program.reports(&self.output()?))?;
            if enough(&reports) {
                return Ok(reports);
            }
            ensure!(Instant::now() < end, "its {} lines of statistics are not enough; {}", reports.len(), self.shown());
            thread::sleep(POLL);
        }
    }

    /// Ends it; it must not have ended before.
    fn end(&mut self) -> Result<()> {
        let status = self.process.stop(STOP)?;
        ensure!(status.code() == Some(ENDED), "it was endless but ended with {status}; {}", self.shown());
        Ok(())
    }

    /// Adds to an error what the program has printed, behind the reason: the first line is what people see.
    fn blame<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| anyhow!("{error:#}; {}", self.shown()))
    }

    /// Which program it is and what it has printed, for people.
    fn shown(&self) -> String {
        let output = self.output().unwrap_or_else(|error| format!("{error:#}"));
        format!("{} printed:\n{output}", self.program.class)
    }
}

/// What the broker itself knows of topics and groups.
struct Books {
    admin: Admin,
    client: Client,
    runtime: Runtime,
}

/// How far a group is.
struct Consumed {
    total: u64,
    lag: u64,
}

impl Books {
    fn new(namesrv: &str) -> Result<Self> {
        let client = Client::new(namesrv, ClientOptions::default())?;
        let runtime = Builder::new_current_thread().enable_all().build().context("starting tokio")?;
        Ok(Self { admin: Admin::new(client.clone()), client, runtime })
    }

    /// Makes a topic and waits for its route.
    fn create(&self, topic: &str, end: Instant) -> Result<()> {
        let settings = TopicSettings { topic: topic.to_owned(), read_queues: QUEUES, write_queues: QUEUES, perm: 6, order: false, attributes: Vec::new() };
        self.ask(async {
            let brokers = self.admin.masters(None).await?;
            Ok(self.admin.create_topic(&brokers, &settings).await?)
        })?;
        await_until(end, || {
            let route = self.ask(async { Ok(self.client.refresh_route(topic).await) })?;
            Ok(route.map(|_| ()).map_err(|error| format!("the new topic has no route: {error}")))
        })
    }

    /// Messages that a topic has ever got.
    fn stored(&self, topic: &str) -> Result<u64> {
        let ranges = self.ask(async { Ok(self.admin.topic_ranges(topic).await?) }).context("asking for the topic's offsets")?;
        sum(ranges.iter().map(|queue| queue.max_offset))
    }

    fn consumed(&self, group: &str, topic: &str) -> Result<Consumed> {
        let summary = self.ask(async { Ok(self.admin.group(group, Some(topic)).await?) }).context("asking for the group's offsets")?;
        // A queue that the group has committed nothing of may be told with the offset -1.
        let total = sum(summary.queues.iter().map(|queue| queue.consumer_offset.max(0)))?;
        Ok(Consumed { total, lag: sum(summary.queues.iter().map(|queue| queue.lag))? })
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async { tokio::time::timeout(BOOKS, question).await }).context("the broker does not answer")?
    }
}

fn sum(numbers: impl Iterator<Item = i64>) -> Result<u64> {
    u64::try_from(numbers.sum::<i64>()).context("an offset is negative")
}
