//! Apache RocketMQ in controller mode on the same machines: what the same clients see of the same faults. It is measured, not judged.

use super::{
    bed::{Bed, Place},
    faults::Fault,
    group::BROKERS,
    history::History,
    load,
    official::{self, Maker, Official, Programs, View},
    report,
};
use crate::{peer, process::Background};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sluice_client::{Admin, Client, Cluster, TopicSettings};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What can be done to it.
pub(super) const FAULTS: [Fault; 3] = [Fault::KillMaster, Fault::PauseMaster, Fault::IsolateMaster];
/// How often each is done when the page is written: a run takes up to two minutes.
pub(super) const RUNS: u32 = 10;
const NAMING: u16 = 9_876;
const CONTROLLER: u16 = 9_878;
const BROKER: u16 = 10_911;
const START: Duration = Duration::from_secs(120);
/// Longest wait for clients to send again.
const BACK: Duration = Duration::from_secs(180);
/// A slave that has come back is in the in-sync set after that; and clients have noticed a fault.
const SYNC: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// Its processes; those who use others end first.
struct Site<'a> {
    brokers: Vec<Option<Background>>,
    _naming: Background,
    clients: Runtime,
    bed: Bed,
    folder: PathBuf,
    is_interrupted: &'a AtomicBool,
}

/// The lines of a fault, a kind of client each.
pub(super) fn measure(fault: Fault, runs: u32, programs: &Programs, folder: &Path, is_interrupted: &AtomicBool) -> Result<Vec<String>> {
    ensure!(FAULTS.contains(&fault), "{} is not done to RocketMQ", fault.name());
    let site = &mut Site::start(folder, is_interrupted)?;
    let master = site.await_whole()?;
    for maker in programs.makers() {
        site.make_topic(master, maker)?;
    }
    let history = History::new();
    let _load = Official::begin(programs, || site.bed.command(Place::Clients), &site.namesrv(), &history, folder)?;
    let mut views = Vec::new();
    for _ in 0..runs {
        let seen = site.once(fault, programs, &history)?;
        println!("chaos: RocketMQ: {}: without a send {}", fault.name(), seen.iter().map(report::shown).collect::<Vec<_>>().join(", "));
        views.extend(seen);
    }
    let line = |maker: Maker| {
        let views: Vec<View> = views.iter().copied().filter(|view| view.maker == maker).collect();
        report::client_line(&fault.name(), &format!("{} with RocketMQ", maker.name()), &views, None)
    };
    Ok(programs.makers().map(line).collect())
}

impl<'a> Site<'a> {
    fn start(folder: &Path, is_interrupted: &'a AtomicBool) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let bed = Bed::make()?;
        let clients = bed.runtime(Place::Clients)?;
        let address = bed.address(Place::Etcd);
        let naming = peer::start_controller(bed.command(Place::Etcd), &folder.join("naming"), address, NAMING, CONTROLLER)?;
        let mut site = Self { brokers: (0..BROKERS).map(|_| None).collect(), _naming: naming, clients, bed, folder: folder.to_path_buf(), is_interrupted };
        site.wait("its name server answers", START, |site| site.cluster().ok())?;
        for index in 0..BROKERS {
            site.start_broker(index)?;
        }
        Ok(site)
    }

    fn namesrv(&self) -> String {
        format!("{}:{NAMING}", self.bed.address(Place::Etcd))
    }

    fn start_broker(&mut self, index: usize) -> Result<()> {
        let (own, controller) = (self.bed.address(Place::Broker(index)), format!("{}:{CONTROLLER}", self.bed.address(Place::Etcd)));
        let folder = self.folder.join(Place::Broker(index).name());
        let by = self.bed.command(Place::Broker(index));
        self.brokers[index] = Some(peer::start_controlled(by, &folder, own, BROKER, &self.namesrv(), &controller)?);
        Ok(())
    }

    /// The brokers that the name server knows, asked from the clients' machine.
    fn cluster(&self) -> Result<Cluster> {
        let client = Client::new(&self.namesrv(), load::options())?;
        Ok(self.clients.block_on(self.clients.spawn(async move { client.cluster().await }))??)
    }

    /// Waits until all are registered and one of them is master; which.
    fn await_whole(&self) -> Result<usize> {
        self.wait("all brokers are registered, one of them as master", START, |site| {
            let known = site.cluster().ok()?;
            let masters: Vec<_> = known.masters(None).collect();
            let [master] = masters.as_slice() else { return None };
            let at = |index: &usize| master.addr == format!("{}:{BROKER}", site.bed.address(Place::Broker(*index)));
            (0..BROKERS).find(at).filter(|_| known.brokers.len() == BROKERS)
        })
    }

    fn make_topic(&self, master: usize, maker: Maker) -> Result<()> {
        let settings = TopicSettings { topic: maker.name().to_owned(), read_queues: 1, write_queues: 1, perm: 6, order: false, attributes: Vec::new() };
        let admin = Admin::new(Client::new(&self.namesrv(), load::options())?);
        let brokers = [format!("{}:{BROKER}", self.bed.address(Place::Broker(master)))];
        Ok(self.clients.block_on(self.clients.spawn(async move { admin.create_topic(&brokers, &settings).await }))??)
    }

    /// One fault: it lasts until clients send again.
    fn once(&mut self, fault: Fault, programs: &Programs, history: &History) -> Result<Vec<View>> {
        self.await_whole()?;
        self.await_clients(programs, history)?;
        self.pass(SYNC)?;
        let master = self.await_whole()?;
        let at = history.now();
        self.strike(fault, master)?;
        let back = self.pass(SYNC).and_then(|()| self.await_clients(programs, history));
        let seen = programs.makers().map(|maker| View::new(maker, history, at, history.now())).collect();
        self.mend(fault, master)?;
        back.map(|()| seen)
    }

    fn pass(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        self.wait("time passes", time + START, |_| (Instant::now() > end).then_some(()))
    }

    fn await_clients(&self, programs: &Programs, history: &History) -> Result<()> {
        let since = history.now();
        self.wait("each client sends", BACK, |_| official::all_send(programs.makers(), history, since).then_some(()))
    }

    fn strike(&mut self, fault: Fault, master: usize) -> Result<()> {
        match fault {
            Fault::KillMaster => self.brokers[master] = None,
            Fault::PauseMaster => self.broker(master)?.signal(Signal::STOP),
            _ => self.bed.isolate(Place::Broker(master))?,
        }
        Ok(())
    }

    fn mend(&mut self, fault: Fault, master: usize) -> Result<()> {
        match fault {
            Fault::KillMaster => self.start_broker(master)?,
            Fault::PauseMaster => self.broker(master)?.signal(Signal::CONT),
            _ => self.bed.join(Place::Broker(master))?,
        }
        Ok(())
    }

    fn broker(&self, index: usize) -> Result<&Background> {
        self.brokers[index].as_ref().with_context(|| format!("broker {} is not running", index + 1))
    }

    fn wait<T>(&self, what: &str, at_most: Duration, found: impl Fn(&Self) -> Option<T>) -> Result<T> {
        let end = Instant::now() + at_most;
        loop {
            ensure!(!self.is_interrupted.load(Ordering::SeqCst), "interrupted");
            if let Some(found) = found(self) {
                return Ok(found);
            }
            if Instant::now() > end {
                bail!("{what}: not within {at_most:?}; its logs are in {}", self.folder.display());
            }
            thread::sleep(POLL);
        }
    }
}
