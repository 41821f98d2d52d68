//! The official clients, unmodified and with their default settings, as load beside our own: programs in `e2e/clients`, one a client, that send and consume all
//! the time and tell of each operation in a line.

use super::history::{Acked, History, silence};
use crate::{clients, places, process, process::Background};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use parking_lot::Mutex;
use sluice_history::{Consumed, Deliver, Drained, Kind, Outcome, Queue, SendKind, Sent, Started, Value, Verdict, What};
use sluice_protocol::message_id::OffsetMessageId;
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command},
    str::{FromStr, SplitWhitespace},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Sends of a client that may hang at the same time.
const SENDERS: u32 = 400;
/// A client begins a send each so many milliseconds, whether those before it have ended or not.
const EVERY_MILLIS: u32 = 15;
const BUILD: Duration = Duration::from_secs(600);
const START: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for what is on its way when senders stop, and for consumers to have everything.
const END: Duration = Duration::from_secs(120);

/// Whose client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Maker {
    /// Our own; it is always there
    Ours,
    /// org.apache.rocketmq:rocketmq-client
    Java,
    /// github.com/apache/rocketmq-client-go/v2
    Go,
}

impl Maker {
    /// The topic and the word for its column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Java => "java",
            Self::Go => "go",
        }
    }

    /// Requests that it makes for a send by default: what Java counts are tries again, and so does Go count three of them, beside the first.
    fn attempts(self) -> u32 {
        match self {
            Self::Ours => 1,
            Self::Java => 3,
            Self::Go => 4,
        }
    }

    /// The numbers that its senders have in the history.
    pub(super) fn senders(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Ours => super::load::PRODUCERS,
            Self::Java => 1001..=1000 + SENDERS,
            Self::Go => 2001..=2000 + SENDERS,
        }
    }

    fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Ours => &[],
            Self::Java => &["java-push", "java-pull"],
            Self::Go => &["go-push"],
        }
    }
}

/// The official clients' programs, built.
pub(super) struct Programs {
    folder: PathBuf,
    commands: Vec<(Maker, Vec<String>)>,
}

impl Programs {
    /// Builds what these makers need; what this machine can't build is left out, or is an error under CI.
    pub(super) fn build(makers: &[Maker], folder: &Path) -> Result<Self> {
        let mut commands = Vec::new();
        if makers.contains(&Maker::Java) && places::has_tool("java", "openjdk-17-jdk-headless")? && places::has_tool("mvn", "maven")? {
            let logs = folder.join("client-logs").display().to_string();
            let mut words: Vec<String> = ["java", "-Xmx256m", "-XX:+UseSerialGC"].map(str::to_owned).to_vec();
            words.extend([format!("-Drocketmq.log.root={logs}"), "-cp".into(), clients::class_path()?, "sluice.clients.Load".into()]);
            commands.push((Maker::Java, words));
        }
        if makers.contains(&Maker::Go) && places::has_tool("go", "golang-go")? {
            commands.push((Maker::Go, vec![build_go()?.display().to_string()]));
        }
        Ok(Self { folder: folder.to_path_buf(), commands })
    }

    /// The makers whose client is there.
    pub(super) fn makers(&self) -> impl Iterator<Item = Maker> {
        self.commands.iter().map(|(maker, _)| *maker)
    }
}

fn build_go() -> Result<PathBuf> {
    let program = places::cache()?.join("clients-go");
    let mut command = Command::new("go");
    command.current_dir(places::root().join("e2e/clients/go")).args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".");
    process::run(&mut command, BUILD)?;
    Ok(program)
}

/// What a client's program has said.
#[derive(Default)]
struct Said {
    is_ready: bool,
    is_quiet: bool,
    /// What was acknowledged, and its offset.
    acked: BTreeMap<(u32, u32), u64>,
    /// By group.
    came: BTreeMap<String, Came>,
    wrong: Option<String>,
}

/// What a group got.
#[derive(Default)]
struct Came {
    values: BTreeSet<(u32, u32)>,
    offsets: BTreeSet<u64>,
}

impl Said {
    /// Whether each group has got all that was acknowledged, or another message from its offset: whether that may be is for the judge to say.
    fn has_all(&self, groups: &[&str]) -> bool {
        let has = |came: &Came| self.acked.iter().all(|(value, offset)| came.values.contains(value) || came.offsets.contains(offset));
        groups.iter().all(|group| self.came.get(*group).is_some_and(has))
    }
}

/// A client at work.
struct Client {
    maker: Maker,
    told: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
    running: Background,
    log: PathBuf,
}

/// All of them.
pub(super) struct Official {
    clients: Vec<Client>,
}

impl Official {
    /// Starts them by commands that `place` begins, and waits until each has sent and got something.
    pub(super) fn begin(programs: &Programs, place: impl Fn() -> Command, namesrv: &str, history: &History, folder: &Path) -> Result<Self> {
        let mut clients = Vec::new();
        for (maker, words) in &programs.commands {
            for group in maker.groups() {
                history.note(What::Started(Started { group: Group::new(group)?, topic: Topic::new(maker.name())? }));
            }
            let mut command = place();
            command.args(words).args([namesrv, maker.name(), &maker.senders().start().to_string()]);
            command.args([SENDERS.to_string(), EVERY_MILLIS.to_string()]).env("HOME", &programs.folder);
            let log = folder.join(format!("{}.log", maker.name()));
            let (running, told, says) = Background::start_talking(&mut command, &log)?;
            let said: Arc<Mutex<Said>> = Arc::default();
            let lines = File::create(folder.join(format!("{}.lines", maker.name()))).context("making a file for a client's words")?;
            let (maker, history, heard) = (*maker, history.clone(), said.clone());
            thread::spawn(move || {
                if let Err(error) = listen(maker, says, lines, &history, &heard) {
                    heard.lock().wrong = Some(format!("{error:#}"));
                }
            });
            clients.push(Client { maker, told: Some(told), said, running, log });
        }
        let official = Self { clients };
        let is_busy = |said: &Said, maker: Maker| said.is_ready && !said.acked.is_empty() && said.came.len() == maker.groups().len();
        official.wait("did not begin to send and to consume", START, is_busy)?;
        Ok(official)
    }

    fn wait(&self, what: &str, at_most: Duration, is_so: impl Fn(&Said, Maker) -> bool) -> Result<()> {
        let end = Instant::now() + at_most;
        for client in &self.clients {
            loop {
                let said = client.said.lock();
                if let Some(wrong) = &said.wrong {
                    bail!("the {} client: {wrong}; its log is {}", client.maker.name(), client.log.display());
                }
                if is_so(&said, client.maker) {
                    break;
                }
                drop(said);
                ensure!(Instant::now() < end, "the {} client {what} within {at_most:?}; its log is {}", client.maker.name(), client.log.display());
                thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// Senders end, then consumers when they have everything; who has not is a matter for the judge.
    pub(super) fn end(mut self, history: &History) -> Result<Vec<String>> {
        self.clients.iter_mut().for_each(|client| client.told = None);
        self.wait("did not stop to send", END, |said, _| said.is_quiet)?;
        let late = self.wait("has not got all that was acknowledged to it", END, |said, maker| said.has_all(maker.groups())).err();
        for client in &mut self.clients {
            client.running.kill();
            for group in client.maker.groups() {
                history.note(What::Drained(Drained { group: Group::new(group)?, topic: Topic::new(client.maker.name())? }));
            }
        }
        Ok(late.iter().map(|error| format!("{error:#}")).collect())
    }
}

/// Writes down what the program says until it ends.
fn listen(maker: Maker, says: ChildStdout, lines: File, history: &History, heard: &Mutex<Said>) -> Result<()> {
    let mut lines = BufWriter::new(lines);
    for line in BufReader::new(says).lines() {
        let line = line.context("reading what it says")?;
        writeln!(lines, "{line}").context("keeping what it says")?;
        note(maker, &line, history, heard).with_context(|| format!("in its line {line:?}"))?;
    }
    lines.flush().context("keeping what it says")?;
    // The harness kills it after it was quiet.
    ensure!(heard.lock().is_quiet, "it ended by itself");
    Ok(())
}

fn note(maker: Maker, line: &str, history: &History, heard: &Mutex<Said>) -> Result<()> {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("ready") => heard.lock().is_ready = true,
        Some("quiet") => heard.lock().is_quiet = true,
        Some("sent") => note_sent(maker, &mut words, history, heard)?,
        Some("came") => note_came(maker, &mut words, history, heard)?,
        // A library prints what it likes.
        _ => {}
    }
    Ok(())
}

fn word<T: FromStr>(words: &mut SplitWhitespace<'_>, what: &str) -> Result<T> {
    let word = words.next().with_context(|| format!("{what} is missing"))?;
    word.parse().map_err(|_| anyhow!("{word:?} is no {what}"))
}

fn queue(maker: Maker) -> Result<Queue> {
    Ok(Queue { shard: 0, topic: Topic::new(maker.name())?, id: QueueId(0) })
}

fn note_sent(maker: Maker, words: &mut SplitWhitespace<'_>, history: &History, heard: &Mutex<Said>) -> Result<()> {
    let (process, number): (u32, u32) = (word(words, "sender")?, word(words, "number")?);
    let (begin, end): (u64, u64) = (word(words, "time")?, word(words, "time")?);
    let is_acked = word::<String>(words, "outcome")? == "ok";
    let offset = if is_acked { Some(word(words, "offset")?) } else { None };
    let log = match offset {
        Some(_) => u64::try_from(OffsetMessageId::decode(&word::<String>(words, "offset id")?)?.log_offset).ok(),
        None => None,
    };
    let sent = Sent {
        queue: queue(maker)?,
        value: super::load::value_made(process, number),
        kind: SendKind::Normal,
        key: None,
        message_id: None,
        offset: offset.map(QueueOffset),
        attempts: maker.attempts(),
        outcome: if is_acked { Outcome::Ok } else { Outcome::Unknown },
    };
    history.told(begin, end, process, log, What::Send(sent));
    if let Some(offset) = offset {
        heard.lock().acked.insert((process, number), offset);
    }
    Ok(())
}

fn note_came(maker: Maker, words: &mut SplitWhitespace<'_>, history: &History, heard: &Mutex<Said>) -> Result<()> {
    let (process, group): (u32, String) = (word(words, "consumer")?, word(words, "group")?);
    let (at, offset, record): (u64, u64, u64) = (word(words, "time")?, word(words, "offset")?, word(words, "log offset")?);
    let (attempt, stored): (u32, u64) = (word(words, "attempt")?, word(words, "time of storing")?);
    // A body that names no value is one that nobody sent.
    let (of, number) = (words.next().and_then(|word| word.parse().ok()), words.next().and_then(|word| word.parse().ok()));
    let body = word(words, "checksum")?;
    let value = Value { process: of.unwrap_or(u32::MAX), number: number.unwrap_or(u32::MAX), body, properties: 0 };
    let (queue, offset) = (queue(maker)?, QueueOffset(offset));
    let deliver = Deliver {
        group: Group::new(group.as_str())?,
        queue: queue.clone(),
        offset,
        record: CommitLogOffset(record),
        value,
        kind: Kind::Pull,
        key: None,
        attempt,
        lease: None,
        clock: stored.saturating_mul(1_000_000),
    };
    history.told(at, at, process, None, What::Deliver(deliver));
    let consumed = Consumed {
        group: Group::new(group.as_str())?,
        queue,
        offset,
        value,
        attempt,
        orderly: false,
        due: None,
        verdict: Verdict::Success,
        outcome: Outcome::Ok,
    };
    history.told(at, at, process, None, What::Consumed(consumed));
    let mut heard = heard.lock();
    let came = heard.came.entry(group).or_default();
    came.values.insert((value.process, value.number));
    came.offsets.insert(offset.0);
    Ok(())
}

/// What one client has seen of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) maker: Maker,
    /// The longest time without a successful send.
    pub(super) gap: Duration,
    /// The longest time that one send took, successful or not.
    pub(super) slowest: Duration,
    /// Sends that failed past the client's own retries.
    pub(super) errors: usize,
}

impl View {
    /// Of what came between `from` and `until`; a silence that has not ended counts up to `now`.
    pub(super) fn new(maker: Maker, history: &History, from: u64, until: u64) -> Self {
        let now = history.now();
        let is_own = |end: &Acked| maker.senders().contains(&end.process);
        let acks: Vec<Acked> = history.acks().into_iter().filter(is_own).collect();
        let errors: Vec<Acked> = history.errors().into_iter().filter(|end| is_own(end) && end.done > from && end.invoke < until).collect();
        let slowest = acks.iter().chain(&errors).filter(|end| end.done > from && end.invoke < until).map(|end| end.done - end.invoke).max();
        let open = acks.last().map(|last| Acked { done: now, ..*last });
        let all: Vec<Acked> = acks.into_iter().chain(open).collect();
        let gap = silence(&all, from, until).map(|(gap, _)| gap).unwrap_or_default();
        Self { maker, gap, slowest: Duration::from_nanos(slowest.unwrap_or_default()), errors: errors.len() }
    }
}

/// Whether all of these clients have had something acknowledged since `from`.
pub(super) fn all_send(mut makers: impl Iterator<Item = Maker>, history: &History, from: u64) -> bool {
    let recent = history.acked_since(from);
    makers.all(|maker| maker.senders().any(|sender| recent.contains(&sender)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> (History, Said) {
        let (history, said) = (History::new(), Mutex::default());
        for line in lines {
            note(Maker::Java, line, &history, &said).unwrap();
        }
        (history, said.into_inner())
    }

    #[test]
    fn what_a_client_says_becomes_lines_of_the_history() {
        let id = "C612006400002A9F00000000000000FF";
        let (history, said) = heard(&[
            "ready",
            &format!("sent 1001 7 5 9 ok 3 {id}"),
            "sent 1002 1 5 9 error of some kind",
            "came 1401 java-push 12 3 255 0 1 1001 7 99",
            "a library's own words",
        ]);
        assert!(said.is_ready && !said.is_quiet);
        assert_eq!(said.acked, BTreeMap::from([((1001, 7), 3)]));
        assert_eq!(said.came["java-push"].values, BTreeSet::from([(1001, 7)]));
        assert_eq!((history.acks().len(), history.errors().len()), (1, 1));
        assert_eq!((history.acks()[0].process, history.errors()[0].process), (1001, 1002));
    }

    #[test]
    fn a_group_has_all_when_it_has_each_acknowledged_message_or_another_one_from_its_offset() {
        let id = "C612006400002A9F00000000000000FF";
        let (acked, came) = (format!("sent 1001 7 5 9 ok 3 {id}"), "came 1401 g 12 3 255 0 1 1001 7 99");
        let has_all = |lines: &[&str]| heard(lines).1.has_all(&["g"]);
        assert!(has_all(&[&acked, came]));
        assert!(!has_all(&[&acked]));
        assert!(!has_all(&[&acked, "came 1401 g 12 2 255 0 1 1001 6 99"]));
        assert!(has_all(&[&acked, "came 1401 g 12 3 255 0 1 1001 8 99"]));
    }

    #[test]
    fn a_line_that_is_cut_short_is_an_error_that_says_what_is_missing() {
        let error = note(Maker::Go, "sent 2001 1 5", &History::new(), &Mutex::default()).unwrap_err();
        assert_eq!(error.to_string(), "time is missing");
    }

    #[test]
    fn a_silence_that_has_not_ended_counts() {
        let (history, _) = heard(&["sent 1001 1 1 2 ok 0 C612006400002A9F0000000000000000"]);
        thread::sleep(Duration::from_millis(20));
        let view = View::new(Maker::Java, &history, 1, history.now());
        assert!(view.gap >= Duration::from_millis(20), "{view:?}");
        assert_eq!(view.errors, 0);
    }
}
