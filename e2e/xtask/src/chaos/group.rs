//! The processes of the bed: three brokers, each with a disk that can be frozen and cut, and etcd.

use super::{
    bed::{Bed, Manner, Place, SERVICE},
    faults::Fault,
    history::{Epochs, History, node},
    load::{self, BROKER_PORT, QUEUES, TOPIC},
    logs::Log,
    losses::{self, Counted, Sample, Tally},
    watch::Watch,
};
use crate::{
    crash::power::Disk,
    metrics::{self, Metrics},
    process::Background,
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::process::Signal;
use sluice_client::{Admin, Client, TopicSettings};
use sluice_history::{Digest, NodeEvent, What};
use sluice_types::CommitLogOffset;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    time::timeout,
};

/// The group's name.
pub(super) const NAME: &str = "g";
pub(super) const BROKERS: usize = 3;
const NAMING_PORT: u16 = 9_876;
const REPLICATION_PORT: u16 = 10_912;
const HTTP_PORT: u16 = 9_880;
const ETCD_PORT: u16 = 2_379;
const DISK_MEBIBYTES: u64 = 6144;
const ETCD_START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(30);
/// Longest time until all three are there and in sync.
pub(super) const WHOLE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for a whole group's metrics.
const SCRAPE: Duration = Duration::from_secs(5);
/// Sees the same clock as everybody until its file says otherwise.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// What sends wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Replication {
    /// All members of the in-sync set: nothing acknowledged is lost
    Sync,
    /// The master alone: a change of master may take what was acknowledged, up to a bound, and counts it
    Async,
}

/// Everything of a run but its clients.
pub(super) struct Scene {
    pub(super) bed: Bed,
    pub(super) history: History,
    pub(super) watch: Watch,
    pub(super) disks: Vec<Disk>,
    /// Runtimes on the brokers' machines, and on the clients'.
    pub(super) beside: Vec<Runtime>,
    pub(super) clients: Runtime,
    /// Something that is held on to until it ends a fault: a tracer.
    pub(super) tracer: Option<Background>,
    brokers: Vec<Option<Background>>,
    /// How many processes each broker has had.
    starts: [u32; BROKERS],
    replication: Replication,
    tally: Tally,
    /// What was counted after each fault.
    samples: Vec<Sample>,
    etcd: Option<Background>,
    binary: PathBuf,
    folder: PathBuf,
    is_interrupted: Arc<AtomicBool>,
}

impl Scene {
    /// Starts all of it, and waits until the group is whole and has its topic.
    pub(super) fn start(binary: &Path, folder: &Path, manner: Manner, replication: Replication, is_interrupted: &Arc<AtomicBool>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let bed = Bed::make()?;
        let disks = (0..BROKERS).map(|index| Disk::make(folder, &format!("disk-{index}"), DISK_MEBIBYTES)).collect::<Result<Vec<_>>>()?;
        let beside = (0..BROKERS).map(|index| bed.runtime(Place::Broker(index))).collect::<Result<Vec<_>>>()?;
        let clients = bed.runtime(Place::Clients)?;
        let history = History::new();
        let watch = Watch::begin(&history, &beside, bed.mover(manner))?;
        let mut scene = Self {
            bed,
            history,
            watch,
            disks,
            beside,
            clients,
            tracer: None,
            brokers: (0..BROKERS).map(|_| None).collect(),
            starts: [0; BROKERS],
            replication,
            tally: Tally::default(),
            samples: Vec::new(),
            etcd: None,
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            is_interrupted: is_interrupted.clone(),
        };
        scene.start_etcd()?;
        for index in 0..BROKERS {
            scene.start_broker(index)?;
        }
        let master = scene.await_whole().context("the group did not begin")?;
        scene.make_topic(master, TOPIC, QUEUES)?;
        Ok(scene)
    }

    /// The name servers' addresses: each broker's, and the group's.
    pub(super) fn namesrv(&self) -> String {
        let own = (0..BROKERS).map(|index| self.bed.address(Place::Broker(index)));
        own.chain([SERVICE]).map(|address| format!("{address}:{NAMING_PORT}")).collect::<Vec<_>>().join(";")
    }

    /// Makes a topic with so many queues.
    pub(super) fn make_topic(&self, master: usize, topic: &str, queues: u32) -> Result<()> {
        let settings = TopicSettings { topic: topic.to_owned(), read_queues: queues, write_queues: queues, perm: 6, order: false, attributes: Vec::new() };
        let admin = Admin::new(Client::new(&self.namesrv(), load::options())?);
        let made = async move { admin.create_topic(&[format!("127.0.0.1:{BROKER_PORT}")], &settings).await };
        let runtime = &self.beside[master];
        Ok(runtime.block_on(runtime.spawn(made)).context("making the topic")??)
    }

    /// What begins the command of a client's program.
    pub(super) fn client_command(&self) -> Command {
        let mut command = self.bed.command(Place::Clients);
        command.args(["sh", "-c", &own_mounts(None), "sh"]);
        command
    }

    /// Lets time pass, unless somebody wants the run to end.
    pub(super) fn pass(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            ensure!(!self.is_interrupted.load(Ordering::SeqCst), "interrupted");
            thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Waits until `found` has something.
    pub(super) fn wait<T>(&self, what: &str, at_most: Duration, mut found: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            if begun.elapsed() > at_most {
                bail!("{what}: not within {at_most:?}; the members say:\n{}", self.watch.describe());
            }
            self.pass(POLL)?;
        }
    }

    /// Waits until there is a master with all others in sync.
    pub(super) fn await_whole(&self) -> Result<usize> {
        self.wait("all members in sync", WHOLE, |scene| scene.watch.whole_master())
    }

    /// The master, once there is one.
    pub(super) fn master(&self) -> Result<usize> {
        self.wait("a master", WHOLE, |scene| scene.watch.master().map(|(index, _)| index))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    pub(super) fn broker_log(&self, index: usize) -> PathBuf {
        self.log(Place::Broker(index).name())
    }

    /// Starts a broker's process.
    pub(super) fn start_broker(&mut self, index: usize) -> Result<()> {
        self.start_broker_with(index, &[])
    }

    /// The same, seeing the clock that the file of [`Self::clock_file`] tells of.
    pub(super) fn start_broker_with_own_clock(&mut self, index: usize) -> Result<()> {
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", self.clock_file(index).display());
        let preload = format!("LD_PRELOAD={FAKETIME}");
        self.start_broker_with(index, &["env", &preload, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"])
    }

    /// How far a broker's calendar is off.
    pub(super) fn clock_file(&self, index: usize) -> PathBuf {
        self.folder.join(format!("clock-{index}"))
    }

    fn start_broker_with(&mut self, index: usize, before: &[&str]) -> Result<()> {
        let mut command = self.bed.command(Place::Broker(index));
        command.args(["sh", "-c", &own_mounts(Some(&self.disks[index])), "sh"]).args(before).arg(&self.binary);
        command.args(["server", "--roles", "naming,broker", "--broker-vip-port", "off", "--storage-segment-size", "16MiB"]);
        command.args(self.replication_words());
        command.args(["--listen-address", "0.0.0.0", "--advertise-address", &SERVICE.to_string(), "--storage-flush", "sync", "--broker-name", NAME]);
        let all = |form: &dyn Fn(usize, &str) -> String, separator: &str| {
            (0..BROKERS).map(|index| form(index, Place::Broker(index).name())).collect::<Vec<_>>().join(separator)
        };
        command.args(["--naming-addresses", &all(&|_, name| format!("{name}:{NAMING_PORT}"), ";"), "--naming-port", &NAMING_PORT.to_string()]);
        command.args(["--broker-port", &BROKER_PORT.to_string(), "--replication-member", &(index + 1).to_string()]);
        command.args(["--replication-members", &all(&|index, name| format!("{}={name}:{REPLICATION_PORT}", index + 1), ",")]);
        command.args(["--replication-coordinator", &format!("etcd://{}:{ETCD_PORT}", Place::Etcd.name())]);
        command.arg("--data-dir").arg(self.data(index));
        self.brokers[index] = Some(Background::start(&mut command, &self.broker_log(index))?);
        self.starts[index] += 1;
        Ok(())
    }

    fn replication_words(&self) -> Vec<String> {
        let port = HTTP_PORT.to_string();
        let words: &[&str] = match self.replication {
            Replication::Sync => &["--http-port", "off"],
            Replication::Async => &["--http-port", &port, "--replication-acknowledge", "async", "--replication-unconfirmed-size", losses::BOUND_WORD],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Asks each broker of a whole group what it has lost, if it can lose anything: before a process ends, since its counters end with it.
    pub(super) fn scrape(&mut self) -> Result<()> {
        if self.replication == Replication::Sync {
            return Ok(());
        }
        for index in 0..BROKERS {
            let runtime = &self.beside[index];
            let text = runtime.block_on(runtime.spawn(async { timeout(SCRAPE, scraped()).await })).context("asking for metrics")?;
            let metrics = text.with_context(|| format!("b{} tells no metrics within {SCRAPE:?}", index + 1))??;
            let value = |name: &str| metrics.get(name).map(|value| value as u64).with_context(|| format!("b{} has no {name}", index + 1));
            let messages = value("sluice_replication_lost_messages_total")?;
            let bytes = value("sluice_replication_lost_bytes_total")?;
            self.tally.note((index, self.starts[index]), Counted { messages, bytes, is_at_most: self.watch.lost_at_most(index) });
        }
        Ok(())
    }

    /// The fault is over, or the run without one, and the group is whole: what was counted by now.
    pub(super) fn count(&mut self, fault: Option<Fault>) -> Result<()> {
        self.scrape()?;
        self.samples.push(Sample::new(self.history.now(), fault, &self.tally));
        Ok(())
    }

    /// What was counted, by fault.
    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Whether a change of master may take what was acknowledged.
    pub(super) fn may_lose(&self) -> bool {
        self.replication == Replication::Async
    }

    fn data(&self, index: usize) -> PathBuf {
        self.disks[index].mount_point().join("data")
    }

    /// SIGKILL for a broker.
    pub(super) fn kill(&mut self, index: usize) {
        if let Some(mut broker) = self.brokers[index].take() {
            broker.kill();
            self.history.node(index, NodeEvent::Crash);
        }
        self.watch.forget(index);
    }

    /// A killed broker's process is there again.
    pub(super) fn restart(&mut self, index: usize) -> Result<()> {
        self.start_broker(index)?;
        self.history.node(index, NodeEvent::Restart);
        Ok(())
    }

    /// A broker's process.
    pub(super) fn broker(&self, index: usize) -> Result<&Background> {
        self.brokers[index].as_ref().with_context(|| format!("broker {} is not running", index + 1))
    }

    /// SIGSTOP or SIGCONT.
    pub(super) fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        self.broker(index)?.signal(signal);
        Ok(())
    }

    /// All of a dead broker's data is gone.
    pub(super) fn wipe(&self, index: usize) -> Result<()> {
        let data = self.data(index);
        fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        self.history.node(index, NodeEvent::Wiped);
        Ok(())
    }

    /// Another member becomes master, as somebody has ordered.
    pub(super) fn switch_over(&self, master: usize, to: Option<usize>) -> Result<()> {
        let admin = Admin::new(Client::new(&self.namesrv(), load::options())?);
        let to = to.map(|index| index as u32 + 1);
        let work = async move { admin.switch_over(&format!("127.0.0.1:{BROKER_PORT}"), to).await };
        let runtime = &self.beside[master];
        self.watch.order();
        runtime.block_on(runtime.spawn(work)).context("switching over")??;
        Ok(())
    }

    /// The epochs of the master's log, with who was master of each.
    pub(super) fn epochs(&self) -> Result<Epochs> {
        let master = self.master()?;
        let admin = Admin::new(Client::new(&self.namesrv(), load::options())?);
        let work = async move { admin.epochs(&format!("127.0.0.1:{BROKER_PORT}")).await };
        let runtime = &self.beside[master];
        let cache = runtime.block_on(runtime.spawn(work)).context("asking for the epochs")??;
        let owners = self.watch.owners();
        let mut epochs = Epochs::new();
        for entry in cache.epoch_list {
            let (epoch, start) = (u64::try_from(entry.epoch)?, u64::try_from(entry.start_offset)?);
            // An epoch that was over before anybody looked has no records of clients either.
            let owner = owners.get(&epoch).map_or(BROKERS, |(owner, _)| *owner);
            epochs.insert(epoch, (start, node(owner)));
        }
        Ok(epochs)
    }

    /// Stops all brokers in an orderly way, and tells what is in their logs up to the last master's confirmed mark.
    pub(super) fn digest(&mut self) -> Result<()> {
        let to = self.watch.confirmed();
        for broker in &mut self.brokers {
            broker.take().context("a broker is not running")?.stop(STOP)?;
        }
        let logs = (0..BROKERS).map(|index| Log::open(&self.data(index))).collect::<Result<Vec<_>>>()?;
        let from = logs.iter().map(Log::begin).max().unwrap_or_default();
        for (index, log) in logs.iter().enumerate() {
            let sum = log.checksum(from, to).with_context(|| format!("in the log of b{}, which has to reach {to}", index + 1))?;
            // Indexes can't be looked at from outside.
            let digest = Digest { node: node(index), from: CommitLogOffset(from), to: CommitLogOffset(to), log: sum, index_stored: 0, index_rebuilt: 0 };
            self.history.note(What::Digest(digest));
        }
        Ok(())
    }

    fn etcd_data(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    /// Starts etcd with what it had before.
    pub(super) fn start_etcd(&mut self) -> Result<()> {
        let address = self.bed.address(Place::Etcd);
        let (client, peer) = (format!("http://{address}:{ETCD_PORT}"), format!("http://{address}:2380"));
        let mut command = self.bed.command(Place::Etcd);
        command.args(["sh", "-c", &own_mounts(None), "sh", "etcd", "--name", "m", "--initial-cluster", &format!("m={peer}")]);
        command.args([
            "--initial-advertise-peer-urls",
            &peer,
            "--listen-peer-urls",
            &peer,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.arg("--data-dir").arg(self.etcd_data());
        self.etcd = Some(Background::start(&mut command, &self.log("etcd"))?);
        self.wait("etcd answers", ETCD_START, |scene| {
            let mut ask = scene.bed.command(Place::Etcd);
            crate::process::output(ask.args(["bash", "-c", &format!("exec 3<>/dev/tcp/{address}/{ETCD_PORT}")]).stderr(std::process::Stdio::null()), STOP).ok()
        })
        .map(drop)
    }

    /// Stops etcd in an orderly way.
    pub(super) fn stop_etcd(&mut self) -> Result<()> {
        if let Some(mut etcd) = self.etcd.take() {
            etcd.stop(STOP)?;
        }
        Ok(())
    }

    /// Keeps what a stopped etcd holds under that name.
    pub(super) fn keep_etcd(&self, name: &str) -> Result<()> {
        copy(&self.etcd_data(), &self.folder.join(name))
    }

    /// A stopped etcd holds what was kept under that name.
    pub(super) fn set_etcd_to(&self, name: &str) -> Result<()> {
        copy(&self.folder.join(name), &self.etcd_data())
    }
}

/// The metrics of the broker on this machine.
async fn scraped() -> Result<Metrics> {
    const PATH: &str = "/metrics";
    let mut stream = TcpStream::connect(("127.0.0.1", HTTP_PORT)).await.context("connecting for metrics")?;
    stream.write_all(metrics::request(PATH).as_bytes()).await.context("asking for metrics")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("reading metrics")?;
    metrics::body(PATH, &answer).map(Metrics)
}

/// Whether a broker's calendar can be made to jump.
pub(super) fn has_own_clocks() -> Result<bool> {
    if Path::new(FAKETIME).exists() {
        return Ok(true);
    }
    ensure!(!crate::places::ci(), "{FAKETIME} is missing: install the package faketime");
    eprintln!("skipped: {FAKETIME} is missing (package faketime)");
    Ok(false)
}

/// A script that runs its arguments without the mounts of others. `ip netns exec` gives each process mounts of its own, copied; a file system that is mounted there,
/// by this run or another one, would be the same after its power was cut and is back.
fn own_mounts(disk: Option<&Disk>) -> String {
    let own = disk.map_or_else(|| "/".into(), |disk| disk.mount_point().display().to_string());
    format!(
        "while read -r _ at _; do case \"$at\" in '{own}') ;; */sluice-chaos-*|*/sluice-crash-*) umount \"$at\" 2>/dev/null;; esac; done </proc/mounts; exec \"$@\""
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("removing {}", to.display()))?;
    }
    crate::process::output(Command::new("cp").arg("-a").arg(from).arg(to), STOP).map(drop)
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watch.end();
        self.tracer = None;
        // A process that waits for a frozen disk can't be killed.
        for disk in &mut self.disks {
            if let Err(error) = disk.thaw() {
                eprintln!("{error:#}");
            }
        }
        self.brokers.clear();
        self.etcd = None;
        self.disks.clear();
    }
}
