//! What goes wrong, and how it is mended.

use super::{
    bed::{Place, Way},
    group::{BROKERS, Scene, WHOLE},
};
use crate::process::Background;
use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::process::Signal;
use sluice_history::{NodeEvent, What};
use std::{fs, process::Command, thread, time::Duration};

/// Something that is broken on purpose, and mended after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Fault {
    /// SIGKILL for the master
    KillMaster,
    /// The master hears nobody and nobody hears it for a second, and then it is killed
    KillIsolated,
    /// SIGKILL for a replica
    KillReplica,
    /// SIGSTOP for the master
    PauseMaster,
    /// The master hears nobody and nobody hears it
    IsolateMaster,
    /// The master and the replicas do not hear each other; the coordinator and the clients hear all
    CutReplicas,
    /// The master and the coordinator do not hear each other
    CutCoordinator,
    /// What the master sends to replicas and coordinator is lost; what they send comes
    OneWay,
    /// What replicas and coordinator send to the master is lost; what it sends comes
    Deaf,
    /// Each hears two others: the master does not hear one replica, and the coordinator not the other one
    Ring,
    /// Each replica hears the master, and not the other one; then the master hears one of them alone
    Bridge,
    /// The master's link carries 1 Mbit/s
    SlowLink,
    /// The master's disk stands still
    DiskStall,
    /// Every sync of the master's disk takes 200 ms more
    SlowDisk,
    /// Every sync of the master's disk fails
    DiskError,
    /// The master's machine loses power
    PowerCut,
    /// A replica's data is gone when it starts again
    WipeReplica,
    /// A broker comes back with another address
    NewAddress,
    /// The coordinator stops
    CoordinatorStop,
    /// The coordinator is set back to what it held before the last change of master, and gets the newest state back in the end
    CoordinatorBack,
    /// The master's calendar jumps two days ahead, and back
    ClockJump,
    /// Somebody orders another member to be master
    Switchover,
}

/// What ends a fault.
type Mend = Box<dyn FnOnce(&mut Scene) -> Result<()>>;

/// A fault that has begun.
pub(super) struct Struck {
    /// Who it was done to.
    pub(super) index: usize,
    /// When.
    pub(super) at: u64,
    /// The newest epoch then.
    pub(super) epoch: u64,
    mend: Mend,
}

const ATTACH: Duration = Duration::from_millis(300);
/// Shorter than it takes to be let go or replaced.
const ALONE: Duration = Duration::from_secs(1);
const BRIDGE_TURN: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(30);

impl Fault {
    /// All of them.
    pub(super) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Those that take what a master has acknowledged by itself, if anything does, and the change of master that must not.
    pub(super) const FOR_LOSS: [Self; 6] = [Self::IsolateMaster, Self::KillMaster, Self::KillIsolated, Self::PauseMaster, Self::PowerCut, Self::Switchover];

    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is.
    pub(super) fn about(self) -> String {
        self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// How long it lasts, when it is done once, and when it is one of many.
    pub(super) fn lasts(self, is_alone: bool) -> Duration {
        let (alone, mixed) = match self {
            Self::KillMaster | Self::KillReplica | Self::WipeReplica | Self::NewAddress => (3, 2),
            Self::PauseMaster => (60, 10),
            Self::IsolateMaster => (15, 12),
            Self::KillIsolated => (15, 10),
            Self::CoordinatorStop => (30, 10),
            Self::Switchover => (3, 2),
            Self::SlowLink | Self::SlowDisk | Self::ClockJump | Self::OneWay | Self::Deaf | Self::Ring | Self::CutCoordinator => (15, 8),
            Self::PowerCut | Self::CutReplicas | Self::DiskStall | Self::DiskError | Self::Bridge | Self::CoordinatorBack => (15, 9),
        };
        Duration::from_secs(if is_alone { alone } else { mixed })
    }

    /// How often it is done when the distribution is written.
    pub(super) fn runs(self) -> u32 {
        match self {
            Self::KillMaster | Self::PauseMaster | Self::IsolateMaster | Self::PowerCut | Self::Switchover => 50,
            _ => 3,
        }
    }

    /// Whether clients must not notice: it touches nobody who serves them.
    pub(super) fn is_replicas_own(self) -> bool {
        matches!(self, Self::KillReplica | Self::WipeReplica)
    }

    /// Begins; the group is whole.
    pub(super) fn strike(self, scene: &mut Scene) -> Result<Struck> {
        let master = scene.await_whole()?;
        let replica = (master + 1) % BROKERS;
        let index = match self {
            Self::KillReplica | Self::WipeReplica => replica,
            _ => master,
        };
        // The new calendar and the old coordinator need something done first, which is no part of the fault.
        let index = match self {
            Self::CoordinatorBack => prepare_coordinator_back(scene, index)?,
            Self::ClockJump => prepare_clock(scene, index)?,
            _ => index,
        };
        scene.history.note(What::FaultBegin { name: self.name() });
        let (at, epoch) = (scene.history.now(), scene.watch.newest_epoch());
        let mend = self.do_it(scene, index)?;
        Ok(Struck { index, at, epoch, mend })
    }

    fn do_it(self, scene: &mut Scene, index: usize) -> Result<Mend> {
        let others: Vec<Place> = (0..BROKERS).filter(|other| *other != index).map(Place::Broker).collect();
        let own = Place::Broker(index);
        Ok(match self {
            Self::KillMaster | Self::KillReplica => {
                scene.kill(index);
                Box::new(move |scene| scene.restart(index))
            }
            Self::PauseMaster => {
                scene.signal(index, Signal::STOP)?;
                Box::new(move |scene| scene.signal(index, Signal::CONT))
            }
            Self::IsolateMaster => {
                scene.bed.isolate(own)?;
                joined(own)
            }
            Self::KillIsolated => {
                scene.bed.isolate(own)?;
                scene.pass(ALONE)?;
                scene.kill(index);
                Box::new(move |scene| {
                    scene.bed.join(own)?;
                    scene.restart(index)
                })
            }
            Self::CutReplicas => {
                scene.bed.cut(own, &others, Way::Both)?;
                joined(own)
            }
            Self::CutCoordinator => {
                scene.bed.cut(own, &[Place::Etcd], Way::Both)?;
                joined(own)
            }
            Self::OneWay => {
                scene.bed.cut(own, &[others.as_slice(), &[Place::Etcd]].concat(), Way::Out)?;
                joined(own)
            }
            Self::Deaf => {
                scene.bed.cut(own, &[others.as_slice(), &[Place::Etcd]].concat(), Way::In)?;
                joined(own)
            }
            Self::Ring => {
                scene.bed.cut(others[0], &[own], Way::Both)?;
                scene.bed.cut(others[1], &[Place::Etcd], Way::Both)?;
                Box::new(move |scene| others.iter().try_for_each(|place| scene.bed.join(*place)))
            }
            Self::Bridge => bridge(scene, own, &others)?,
            Self::SlowLink => {
                scene.bed.throttle(own, 1000)?;
                Box::new(move |scene| scene.bed.unthrottle(own))
            }
            Self::DiskStall => {
                scene.disks[index].freeze()?;
                Box::new(move |scene| scene.disks[index].thaw())
            }
            // From the fifth on: the first ones succeed, so that it comes in the middle of something.
            Self::DiskError => tamper(scene, index, "error=EIO:when=5+")?,
            Self::SlowDisk => tamper(scene, index, "delay_exit=200000")?,
            Self::PowerCut => cut_power(scene, index)?,
            Self::WipeReplica => {
                scene.kill(index);
                scene.wipe(index)?;
                Box::new(move |scene| scene.restart(index))
            }
            Self::NewAddress => {
                scene.kill(index);
                scene.bed.readdress(own)?;
                Box::new(move |scene| scene.restart(index))
            }
            Self::CoordinatorStop => {
                scene.stop_etcd()?;
                Box::new(Scene::start_etcd)
            }
            Self::CoordinatorBack => {
                scene.stop_etcd()?;
                scene.keep_etcd("etcd-newest")?;
                scene.set_etcd_to("etcd-older")?;
                scene.start_etcd()?;
                Box::new(|scene| {
                    scene.stop_etcd()?;
                    scene.set_etcd_to("etcd-newest")?;
                    scene.start_etcd()
                })
            }
            Self::ClockJump => jump(scene, index)?,
            Self::Switchover => {
                scene.switch_over(index, None)?;
                Box::new(|_| Ok(()))
            }
        })
    }
}

impl Struck {
    /// Ends it.
    pub(super) fn mend(self, fault: Fault, scene: &mut Scene) -> Result<()> {
        (self.mend)(scene)?;
        scene.history.note(What::FaultEnd { name: fault.name() });
        scene.history.note(What::Heal);
        Ok(())
    }
}

fn joined(place: Place) -> Mend {
    Box::new(move |scene| scene.bed.join(place))
}

/// First the replicas are apart, and the master hears both; then the master hears one replica, which hears both.
fn bridge(scene: &Scene, own: Place, others: &[Place]) -> Result<Mend> {
    let (near, far) = (others[0], others[1]);
    scene.bed.cut(far, &[near], Way::Both)?;
    scene.pass(BRIDGE_TURN)?;
    scene.bed.join(far)?;
    scene.bed.cut(own, &[far], Way::Both)?;
    Ok(joined(own))
}

/// What happens to the syncs of that broker from now on, in strace's words.
fn tamper(scene: &mut Scene, index: usize, how: &str) -> Result<Mend> {
    let pid = scene.broker(index)?.id().to_string();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=fdatasync", "-e", &format!("inject=fdatasync:{how}"), "-o", "/dev/null", "-p", &pid]);
    scene.tracer = Some(Background::start(&mut command, &scene.broker_log(index))?);
    thread::sleep(ATTACH);
    Ok(Box::new(|scene| {
        scene.tracer = None;
        Ok(())
    }))
}

fn cut_power(scene: &mut Scene, index: usize) -> Result<Mend> {
    // Power that is gone takes the network along; what the broker says after the cut has no counterpart in the world.
    scene.bed.isolate(Place::Broker(index))?;
    scene.disks[index].cut()?;
    scene.history.node(index, NodeEvent::PowerCut);
    scene.kill(index);
    Ok(Box::new(move |scene| {
        scene.disks[index].restore()?;
        scene.bed.join(Place::Broker(index))?;
        scene.restart(index)
    }))
}

/// Keeps what the coordinator holds, and lets a change follow that it will have forgotten. The new master.
fn prepare_coordinator_back(scene: &mut Scene, master: usize) -> Result<usize> {
    scene.stop_etcd()?;
    scene.keep_etcd("etcd-older")?;
    scene.start_etcd()?;
    scene.wait("the coordinator is reached again", DEADLINE, |scene| scene.watch.is_untroubled().then_some(()))?;
    scene.await_whole()?;
    scene.switch_over(master, None)?;
    await_other(scene, |index| index != master)
}

/// Waits until the group is whole under such a master: right after an order the brokers' last words still name the old one.
fn await_other(scene: &Scene, is_one: impl Fn(usize) -> bool) -> Result<usize> {
    scene.wait("another master with all members in sync", WHOLE, |scene| scene.watch.whole_master().filter(|index| is_one(*index)))
}

/// A replica is started with a clock of its own, and made master.
fn prepare_clock(scene: &mut Scene, master: usize) -> Result<usize> {
    let index = (master + 1) % BROKERS;
    let file = scene.clock_file(index);
    fs::write(&file, "+0d").with_context(|| format!("writing {}", file.display()))?;
    scene.kill(index);
    scene.start_broker_with_own_clock(index)?;
    scene.history.node(index, NodeEvent::Restart);
    let master = scene.await_whole()?;
    if master != index {
        scene.switch_over(master, Some(index))?;
    }
    await_other(scene, |now| now == index)
}

fn jump(scene: &mut Scene, index: usize) -> Result<Mend> {
    let file = scene.clock_file(index);
    fs::write(&file, "+2d").with_context(|| format!("writing {}", file.display()))?;
    Ok(Box::new(move |scene| {
        let file = scene.clock_file(index);
        fs::write(&file, "+0d").with_context(|| format!("writing {}", file.display()))
    }))
}
