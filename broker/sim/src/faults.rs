//! What goes wrong in a run, and when: one thing after another, or several at once.

mod deeds;

use crate::run::World;
use clap::ValueEnum;
use deeds::Broken;
use sluice_env::{Rng, sim::SimRng, sim::threads::Halt};
use sluice_history::What;
use sluice_replication::Incarnation;
use std::{cell::RefCell, collections::BTreeMap, time::Duration};

/// Something that is broken on purpose, and mended after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Fault {
    /// A broker's process is killed and started again.
    Kill,
    /// The master's is.
    KillMaster,
    /// All are, at once.
    KillAll,
    /// A replica is let go from the in-sync set, and right at the change brokers are killed.
    KillAtChange,
    /// A broker's machine loses power.
    PowerCut,
    /// The master's does.
    PowerCutMaster,
    /// Two do, at once. Only under synchronous flush: else nobody would be left to be master.
    PowerCutTwo,
    /// All do, at once. Only under synchronous flush.
    PowerCutAll,
    /// A replica is let go from the in-sync set, and right at the change brokers lose power. Only under synchronous flush.
    PowerCutAtChange,
    /// A broker's disk is replaced by an empty one. Only while the set is whole.
    Wipe,
    /// The master's is.
    WipeMaster,
    /// The master's is while the others don't hear each other; once the next one has let it in again, that one is killed.
    WipeThenKill,
    /// A broker's process stands still.
    Pause,
    /// The master's does.
    PauseMaster,
    /// Two brokers don't hear each other.
    Cut,
    /// One broker does not hear another one.
    CutOneWay,
    /// A broker is cut off from all others, and from the coordinator.
    Isolate,
    /// The master is.
    IsolateMaster,
    /// The master does not reach the coordinator, and one replica.
    Forsake,
    /// Each broker hears just one other.
    Bridge,
    /// A broker does not reach the coordinator.
    CoordinatorAway,
    /// Nobody does.
    CoordinatorDown,
    /// The coordinator's answers are lost now and then.
    LostAnswers,
    /// A replica is to be let into the set, but the request is late; meanwhile the master is cut off from the coordinator and from that replica. Only while the set is whole.
    LateChange,
    /// The coordinator is set back to an object of before, and gets the newest one back in the end. Nothing else is broken meanwhile.
    SetBack,
    /// A broker's disk stands still.
    Stall,
    /// The master's does.
    StallMaster,
    /// A broker's disk is slow.
    SlowDisk,
    /// A call to a broker's disk fails.
    DiskError,
    /// A write to a broker's disk is cut short.
    ShortWrite,
    /// All connections of two brokers are reset.
    Reset,
    /// A link is slow.
    Slow,
    /// All links are, now more, now less.
    Jitter,
    /// A broker's calendar jumps by up to an hour.
    Jump,
    /// A broker's calendar jumps by up to two days.
    JumpDays,
    /// A broker's clients don't reach it.
    ClientsCut,
    /// The master's don't.
    ClientsCutMaster,
    /// Processes of clients are killed, and others come for them.
    ClientsKilled,
    /// The same, and no broker is told that they have gone.
    ClientsLost,
    /// A broker's disk is full.
    DiskFull,
    /// A broker can't write down what it has seen: the write is cut short, or a call fails.
    SeenError,
}

impl Fault {
    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }
}

/// Those by which most of what is broken is found: they come more often than the others.
const POINTED: [Fault; 7] =
    [Fault::KillAtChange, Fault::PowerCutAtChange, Fault::LateChange, Fault::WipeThenKill, Fault::Forsake, Fault::DiskError, Fault::PowerCutAll];
/// So many faults at once at most.
const AT_ONCE_MAX: usize = 3;

/// Which faults, when.
pub struct Plan {
    rng: SimRng,
    kinds: Vec<Fault>,
    /// Brokers whose stores have lost what they held, and the life that ended so, as far as the coordinator knew of one.
    lost: RefCell<BTreeMap<usize, Option<Incarnation>>>,
}

impl Plan {
    /// Of these kinds, or of all.
    #[must_use]
    pub fn new(seed: u64, kinds: Option<Vec<Fault>>, calendars_jump: bool) -> Self {
        let mut kinds = kinds.unwrap_or_else(|| Fault::all().to_vec());
        kinds.retain(|kind| calendars_jump || !matches!(kind, Fault::Jump | Fault::JumpDays));
        Self { rng: SimRng::new(seed ^ 0xFA17), kinds, lost: RefCell::default() }
    }

    fn below(&self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    /// Faults for that time, until all are mended; how many there were.
    pub fn carry_out(&self, world: &World<'_>, time: Duration) -> Result<usize, Halt> {
        let until = world.sim.now() + time;
        let (mut faults, mut open) = (0, Vec::<Broken>::new());
        let mut next = world.sim.now() + self.gap();
        while !self.kinds.is_empty() && world.sim.now() < until || !open.is_empty() {
            let due = open.iter().map(|broken| broken.until).min();
            let at = due.map_or(next, |due| due.min(next));
            world.pass(at.saturating_sub(world.sim.now()))?;
            mend(world, &mut open);
            if world.sim.now() < next {
                continue;
            }
            if world.sim.now() < until && open.len() < AT_ONCE_MAX && !open.iter().any(|broken| broken.kind == Fault::SetBack) {
                faults += usize::from(self.break_one(world, faults, &mut open)?);
            }
            next = world.sim.now() + self.gap();
        }
        Ok(faults)
    }

    /// Short ones, so that several faults meet, and long ones, so that the group is whole again.
    fn gap(&self) -> Duration {
        Duration::from_millis(if self.below(2) == 0 { self.below(1_500) } else { 500 + self.below(14_000) })
    }

    /// How long something is broken: short ones are over before anybody is patient no more; long ones are not.
    fn length(&self) -> Duration {
        Duration::from_millis(if self.below(2) == 0 { 100 + self.below(2_000) } else { 3_000 + self.below(15_000) })
    }

    fn break_one(&self, world: &World<'_>, number: usize, open: &mut Vec<Broken>) -> Result<bool, Halt> {
        let pointed: Vec<_> = self.kinds.iter().filter(|kind| POINTED.contains(kind)).collect();
        let kind = match self.below(4) {
            0 if !pointed.is_empty() => *pointed[self.below(pointed.len() as u64) as usize],
            _ => self.kinds[self.below(self.kinds.len() as u64) as usize],
        };
        let name = format!("{kind:?} {number}");
        let begun = world.history.now();
        let Some(mends) = self.begin(world, kind, open.is_empty())? else { return Ok(false) };
        tracing::info!(at = ?world.sim.now(), name, "fault");
        world.history.op(begun, 0, None, What::FaultBegin { name: name.clone() });
        if mends.is_empty() {
            // Over as soon as it is done. Left open, it would be the cause of all that comes after it.
            world.history.note(What::FaultEnd { name: name.clone() });
        }
        for (after, mend) in mends {
            open.push(Broken { until: world.sim.now() + after, kind, name: name.clone(), mend });
        }
        Ok(true)
    }
}

fn mend(world: &World<'_>, open: &mut Vec<Broken>) {
    let now = world.sim.now();
    let (due, left): (Vec<_>, Vec<_>) = std::mem::take(open).into_iter().partition(|broken| broken.until <= now);
    *open = left;
    for broken in due {
        (broken.mend)(world);
        tracing::info!(at = ?now, name = broken.name, "mended");
        if !open.iter().any(|other| other.name == broken.name) {
            world.history.note(What::FaultEnd { name: broken.name });
        }
    }
}
