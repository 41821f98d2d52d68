//! Looks all the time at who is master, as each broker says on its own machine, and moves the group's address there, as a service of Kubernetes would.

use super::{
    bed::Mover,
    group::BROKERS,
    history::{History, node},
    load::{self, BROKER_PORT},
};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use sluice_client::{Admin, Client};
use sluice_history::{NodeEvent, What};
use sluice_protocol::body::GroupStatus;
use sluice_types::CommitLogOffset;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, time::sleep};

const EVERY: Duration = Duration::from_millis(100);
/// What was said longer ago tells nothing.
const FRESH: Duration = Duration::from_millis(1500);

/// Of what a broker says when it waits longer before it is master.
const FLAPPING: &str = "changed several times";

/// What a broker said last, and when.
type Said = Option<(GroupStatus, Instant)>;

/// Of each epoch its first known master, and when that was known.
pub(super) type Owners = BTreeMap<u64, (usize, u64)>;

#[derive(Default)]
struct Seen {
    said: [Said; BROKERS],
    owners: Owners,
    /// Somebody has ordered the next change of master: the old one lives and forwards what comes to it.
    is_ordered: bool,
    findings: Vec<String>,
}

/// The watch.
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    is_over: Arc<AtomicBool>,
    mover: Option<thread::JoinHandle<()>>,
}

impl Watch {
    /// Begins to look; the runtimes are on the brokers' machines.
    pub(super) fn begin(history: &History, beside: &[Runtime], mover: Mover) -> Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let is_over: Arc<AtomicBool> = Arc::default();
        for (index, runtime) in beside.iter().enumerate() {
            // It asks its own broker by address: the name server is never used.
            let options = sluice_client::ClientOptions { request_timeout: Duration::from_secs(1), ..load::options() };
            let admin = Admin::new(Client::new("127.0.0.1:9876", options).context("making a client")?);
            runtime.spawn(look(index, admin, history.clone(), seen.clone(), is_over.clone()));
        }
        let (seen_by_mover, ends) = (seen.clone(), is_over.clone());
        let mover = thread::spawn(move || {
            let mut current = None;
            while !ends.load(Ordering::SeqCst) {
                thread::sleep(EVERY);
                let Some((index, _)) = newest_master(&seen_by_mover.lock()) else { continue };
                if current != Some(index) {
                    let is_ordered = std::mem::take(&mut seen_by_mover.lock().is_ordered);
                    if let Err(error) = mover.move_service(index, is_ordered) {
                        seen_by_mover.lock().findings.push(format!("the group's address could not be moved: {error:#}"));
                    }
                    current = Some(index);
                }
            }
        });
        Ok(Self { seen, is_over, mover: Some(mover) })
    }

    /// Looks no more.
    pub(super) fn end(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(mover) = self.mover.take()
            && mover.join().is_err()
        {
            eprintln!("what moves the group's address has panicked");
        }
    }

    /// The next change of master is by order.
    pub(super) fn order(&self) {
        self.seen.lock().is_ordered = true;
    }

    /// What this broker said is no longer so: its process has ended.
    pub(super) fn forget(&self, index: usize) {
        self.seen.lock().said[index] = None;
    }

    /// The master of the newest epoch and that epoch, as far as brokers answer.
    pub(super) fn master(&self) -> Option<(usize, u64)> {
        newest_master(&self.seen.lock())
    }

    /// The master, if all others are in sync with it and know that.
    pub(super) fn whole_master(&self) -> Option<usize> {
        let seen = self.seen.lock();
        let (index, epoch) = newest_master(&seen)?;
        let all: Vec<_> = seen.said.iter().filter_map(fresh).collect();
        let in_sync = fresh(&seen.said[index])?.replicas.iter().filter(|replica| replica.in_sync && replica.connected).count();
        (in_sync + 1 == BROKERS && all.len() == BROKERS && all.iter().all(|status| status.epoch == epoch && status.master.is_some())).then_some(index)
    }

    /// Whether all are well, as they say.
    pub(super) fn is_untroubled(&self) -> bool {
        let seen = self.seen.lock();
        seen.said.iter().all(|said| fresh(said).is_some_and(|status| status.troubles.iter().all(|trouble| trouble.contains(FLAPPING))))
    }

    /// The replicas that will wait longer before one of them is master, because that has changed often.
    pub(super) fn hesitating(&self) -> Vec<usize> {
        let seen = self.seen.lock();
        let hesitates = |status: &GroupStatus| status.role != "master" && status.troubles.iter().any(|trouble| trouble.contains(FLAPPING));
        seen.said.iter().enumerate().filter(|(_, said)| fresh(said).is_some_and(hesitates)).map(|(index, _)| index).collect()
    }

    /// The newest epoch that anybody has been master of.
    pub(super) fn newest_epoch(&self) -> u64 {
        self.seen.lock().owners.keys().next_back().copied().unwrap_or_default()
    }

    /// Up to where all members of the in-sync set hold the master's log, as it said last.
    pub(super) fn confirmed(&self) -> u64 {
        let seen = self.seen.lock();
        seen.said.iter().flatten().filter(|(status, _)| status.role == "master").map(|(status, _)| status.confirmed).max().unwrap_or_default()
    }

    /// Whether what this broker says it has lost may be less.
    pub(super) fn lost_at_most(&self, index: usize) -> bool {
        self.seen.lock().said[index].as_ref().is_some_and(|(status, _)| status.lost_at_most)
    }

    /// Who was master of which epoch.
    pub(super) fn owners(&self) -> Owners {
        self.seen.lock().owners.clone()
    }

    /// What must not be.
    pub(super) fn findings(&self) -> Vec<String> {
        self.seen.lock().findings.clone()
    }

    /// What each broker says of itself.
    pub(super) fn describe(&self) -> String {
        let seen = self.seen.lock();
        let mut text = String::new();
        for (index, said) in seen.said.iter().enumerate() {
            // A string takes everything.
            let _ = match said {
                None => writeln!(text, "b{}: nothing", index + 1),
                Some((status, at)) => writeln!(text, "b{} {:?} ago: {status:?}", index + 1, at.elapsed()),
            };
        }
        text
    }
}

fn fresh(said: &Said) -> Option<&GroupStatus> {
    said.as_ref().filter(|(_, at)| at.elapsed() < FRESH).map(|(status, _)| status)
}

fn newest_master(seen: &Seen) -> Option<(usize, u64)> {
    let masters =
        seen.said.iter().enumerate().filter_map(|(index, said)| fresh(said).filter(|status| status.role == "master").map(|status| (index, status.epoch)));
    masters.max_by_key(|(_, epoch)| *epoch)
}

async fn look(index: usize, admin: Admin, history: History, seen: Arc<Mutex<Seen>>, is_over: Arc<AtomicBool>) {
    let address = format!("127.0.0.1:{BROKER_PORT}");
    while !is_over.load(Ordering::SeqCst) {
        if let Ok(status) = admin.group_status(&address).await {
            let mut seen = seen.lock();
            if status.role == "master" {
                note_master(&mut seen, index, &status, &history);
            }
            seen.said[index] = Some((status, Instant::now()));
        }
        sleep(EVERY).await;
    }
}

fn note_master(seen: &mut Seen, index: usize, status: &GroupStatus, history: &History) {
    let first = *seen.owners.entry(status.epoch).or_insert_with(|| {
        let event = NodeEvent::Master { epoch: status.epoch, start: CommitLogOffset(status.appended) };
        history.note(What::Node { node: node(index), event });
        (index, history.now())
    });
    if first.0 != index {
        seen.findings.push(format!("b{} and b{} both say that they are master of epoch {}", first.0 + 1, index + 1, status.epoch));
    }
}
