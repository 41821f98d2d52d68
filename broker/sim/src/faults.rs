//! What goes wrong in a run.

use crate::run::World;
use sluice_env::{Rng, sim::SimRng, sim::threads::Halt};
use sluice_history::{NodeEvent, What};
use std::time::Duration;

/// Something that is broken on purpose, and mended after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A broker's process is killed and started again.
    Kill,
    /// The master's is.
    KillMaster,
    /// A broker's machine loses power.
    PowerCut,
    /// The master's does.
    PowerCutMaster,
    /// Two brokers don't hear each other.
    Cut,
    /// One broker does not hear another one.
    CutOneWay,
    /// A broker is cut off from all others, and from the coordinator.
    Isolate,
    /// The master is.
    IsolateMaster,
    /// Each broker hears just one other.
    Bridge,
    /// A broker does not reach the coordinator.
    CoordinatorAway,
    /// Nobody does.
    CoordinatorDown,
    /// The coordinator's answers are lost now and then.
    LostAnswers,
    /// A broker's disk stands still.
    Stall,
    /// The master's does.
    StallMaster,
    /// All connections of two brokers are reset.
    Reset,
    /// A link is slow.
    Slow,
    /// A broker's calendar jumps.
    Jump,
    /// A broker's clients don't reach it.
    ClientsCut,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::KillMaster,
        Self::PowerCut,
        Self::PowerCutMaster,
        Self::Cut,
        Self::CutOneWay,
        Self::Isolate,
        Self::IsolateMaster,
        Self::Bridge,
        Self::CoordinatorAway,
        Self::CoordinatorDown,
        Self::LostAnswers,
        Self::Stall,
        Self::StallMaster,
        Self::Reset,
        Self::Slow,
        Self::Jump,
        Self::ClientsCut,
    ];
}

/// Which faults, when.
pub struct Plan {
    rng: SimRng,
    kinds: Vec<Fault>,
}

impl Plan {
    /// Of these kinds, or of all.
    #[must_use]
    pub fn new(seed: u64, kinds: Option<Vec<Fault>>) -> Self {
        Self { rng: SimRng::new(seed ^ 0xFA17), kinds: kinds.unwrap_or_else(|| Fault::ALL.to_vec()) }
    }

    fn below(&self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    /// One fault after another for that time; how many there were.
    pub fn carry_out(&self, world: &World<'_>, time: Duration) -> Result<usize, Halt> {
        let until = world.sim.now() + time;
        let mut faults = 0;
        while world.sim.now() < until {
            world.pass(Duration::from_millis(500 + self.below(14_000)))?;
            let kind = self.kinds[self.below(self.kinds.len() as u64) as usize];
            let name = format!("{kind:?} {faults}");
            tracing::info!(at = ?world.sim.now(), name, "fault");
            world.history.note(What::FaultBegin { name: name.clone() });
            self.break_and_mend(world, kind)?;
            world.history.note(What::FaultEnd { name });
            faults += 1;
        }
        Ok(faults)
    }

    fn pause(&self, world: &World<'_>) -> Result<(), Halt> {
        // Short ones are over before anybody is patient no more; long ones are not.
        let millis = if self.below(2) == 0 { 100 + self.below(2_000) } else { 3_000 + self.below(15_000) };
        world.pass(Duration::from_millis(millis))
    }

    fn break_and_mend(&self, world: &World<'_>, kind: Fault) -> Result<(), Halt> {
        let n = world.brokers.len();
        let any = self.below(n as u64) as usize;
        let other = (any + 1 + self.below(n as u64 - 1) as usize) % n;
        let master = world.master().unwrap_or(any);
        let network = world.sim.network();
        let (a, b) = (&world.brokers[any], &world.brokers[other]);
        match kind {
            Fault::Kill => self.kill(world, any)?,
            Fault::KillMaster => self.kill(world, master)?,
            Fault::PowerCut => self.power_cut(world, any)?,
            Fault::PowerCutMaster => self.power_cut(world, master)?,
            Fault::Cut => {
                network.cut(a, b);
                network.cut(b, a);
                self.pause(world)?;
                network.heal(a, b);
                network.heal(b, a);
            }
            Fault::CutOneWay => {
                network.cut(a, b);
                self.pause(world)?;
                network.heal(a, b);
            }
            Fault::Isolate => self.isolate(world, any)?,
            Fault::IsolateMaster => self.isolate(world, master)?,
            Fault::Bridge => {
                // Everybody hears `any` alone.
                let ends: Vec<_> = world.brokers.iter().enumerate().filter(|(index, _)| *index != any).map(|(_, machine)| machine).collect();
                for (one, two) in ends.iter().zip(ends.iter().skip(1)) {
                    network.cut(one, two);
                    network.cut(two, one);
                }
                self.pause(world)?;
                for (one, two) in ends.iter().zip(ends.iter().skip(1)) {
                    network.heal(one, two);
                    network.heal(two, one);
                }
            }
            Fault::CoordinatorAway => self.without_coordinator(world, &[any])?,
            Fault::CoordinatorDown => self.without_coordinator(world, &(0..n).collect::<Vec<_>>())?,
            Fault::LostAnswers => {
                world.coordinator.lose_answers(400);
                self.pause(world)?;
                world.coordinator.lose_answers(0);
            }
            Fault::Stall => self.stall(world, any)?,
            Fault::StallMaster => self.stall(world, master)?,
            Fault::Reset => network.reset(a, b),
            Fault::Slow => {
                network.set_delay(a, b, Duration::from_millis(20), Duration::from_millis(200));
                self.pause(world)?;
                network.set_delay(a, b, Duration::from_micros(50), Duration::from_micros(500));
            }
            Fault::Jump => a.jump_wall(self.below(7_200_000) as i64 - 3_600_000),
            Fault::ClientsCut => {
                network.cut(a, &world.clients);
                network.cut(&world.clients, a);
                self.pause(world)?;
                network.heal(a, &world.clients);
                network.heal(&world.clients, a);
            }
        }
        Ok(())
    }

    fn kill(&self, world: &World<'_>, index: usize) -> Result<(), Halt> {
        world.forget(index);
        world.brokers[index].kill();
        world.history.node(index as u32 + 1, NodeEvent::Crash);
        self.pause(world)?;
        self.restart(world, index);
        Ok(())
    }

    fn power_cut(&self, world: &World<'_>, index: usize) -> Result<(), Halt> {
        world.forget(index);
        world.brokers[index].power_cut(self.rng.next_u64());
        world.history.node(index as u32 + 1, NodeEvent::PowerCut);
        self.pause(world)?;
        self.restart(world, index);
        Ok(())
    }

    fn restart(&self, world: &World<'_>, index: usize) {
        world.start(index);
        world.history.node(index as u32 + 1, NodeEvent::Restart);
    }

    fn isolate(&self, world: &World<'_>, index: usize) -> Result<(), Halt> {
        let network = world.sim.network();
        let others: Vec<_> = world.brokers.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, machine)| machine).collect();
        for other in &others {
            network.cut(&world.brokers[index], other);
            network.cut(other, &world.brokers[index]);
        }
        world.coordinator.set_away(index as u32 + 1, true);
        self.pause(world)?;
        world.coordinator.set_away(index as u32 + 1, false);
        for other in &others {
            network.heal(&world.brokers[index], other);
            network.heal(other, &world.brokers[index]);
        }
        Ok(())
    }

    fn without_coordinator(&self, world: &World<'_>, indexes: &[usize]) -> Result<(), Halt> {
        indexes.iter().for_each(|index| world.coordinator.set_away(*index as u32 + 1, true));
        self.pause(world)?;
        indexes.iter().for_each(|index| world.coordinator.set_away(*index as u32 + 1, false));
        Ok(())
    }

    fn stall(&self, world: &World<'_>, index: usize) -> Result<(), Halt> {
        world.brokers[index].stall_disk(Duration::from_millis(200 + self.below(8_000)));
        self.pause(world)
    }
}
