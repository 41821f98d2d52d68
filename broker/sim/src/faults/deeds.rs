//! How each fault is brought about, and how it is mended.

use super::{Fault, Plan};
use crate::{guests, run::World};
use sluice_env::{
    Rng,
    sim::{
        self, FaultKind, Op,
        threads::{Halt, Machine},
    },
};
use sluice_history::NodeEvent;
use std::time::Duration;

/// What mends a fault.
pub(super) type Mend = Box<dyn FnOnce(&World<'_>)>;

/// A fault that is not mended.
pub(super) struct Broken {
    pub(super) until: Duration,
    pub(super) kind: Fault,
    pub(super) name: String,
    pub(super) mend: Mend,
}

/// What is to be done after which time.
type Mends = Vec<(Duration, Mend)>;

/// Less than any broker's disk holds.
const FULL_BYTES: u64 = 64 << 10;

/// How a broker comes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    Killed,
    WithoutPower,
    Wiped,
}

/// How long a change of the set is waited for.
const CHANGE_MAX: Duration = Duration::from_secs(10);

impl Plan {
    /// Breaks something now. `None`: it can't be broken now without losing what nobody has promised to keep.
    pub(super) fn begin(&self, world: &World<'_>, kind: Fault, is_well: bool) -> Result<Option<Mends>, Halt> {
        let n = world.brokers.len();
        let any = self.below(n as u64) as usize;
        let other = (any + 1 + self.below(n as u64 - 1) as usize) % n;
        let master = world.master().unwrap_or(any);
        let replica = (master + 1 + self.below(n as u64 - 1) as usize) % n;
        let all: Vec<usize> = (0..n).collect();
        Ok(Some(match kind {
            Fault::Kill => return Ok(self.down(world, &[any], Down::Killed, is_well)),
            Fault::KillMaster => return Ok(self.down(world, &[master], Down::Killed, is_well)),
            Fault::KillAll => return Ok(self.down(world, &all, Down::Killed, is_well)),
            Fault::PowerCut => return Ok(self.down(world, &[any], Down::WithoutPower, is_well)),
            Fault::PowerCutMaster => return Ok(self.down(world, &[master], Down::WithoutPower, is_well)),
            Fault::PowerCutTwo => return Ok(self.down(world, &[any, other], Down::WithoutPower, is_well)),
            Fault::PowerCutAll => return Ok(self.down(world, &all, Down::WithoutPower, is_well)),
            Fault::Wipe => return Ok(self.down(world, &[any], Down::Wiped, is_well)),
            Fault::WipeMaster => return Ok(self.down(world, &[master], Down::Wiped, is_well)),
            Fault::WipeThenKill => return self.wipe_then_kill(world, master, is_well),
            Fault::KillAtChange => return self.at_change(world, master, replica, Down::Killed),
            Fault::PowerCutAtChange => return self.at_change(world, master, replica, Down::WithoutPower),
            Fault::Pause => self.pause(world, any),
            Fault::PauseMaster => self.pause(world, master),
            Fault::Cut => self.cut(world, vec![(any, other), (other, any)], &[]),
            Fault::CutOneWay => self.cut(world, vec![(any, other)], &[]),
            Fault::Isolate => self.cut(world, around(any, n), &[any]),
            Fault::IsolateMaster => self.cut(world, around(master, n), &[master]),
            Fault::Forsake => self.cut(world, vec![(master, replica), (replica, master)], &[master]),
            Fault::Bridge => {
                let third = 3 - any - other;
                self.cut(world, vec![(other, third), (third, other)], &[])
            }
            Fault::CoordinatorAway => self.cut(world, Vec::new(), &[any]),
            Fault::CoordinatorDown => self.cut(world, Vec::new(), &all),
            Fault::LostAnswers => {
                world.coordinator.lose_answers(400);
                self.one(|world| world.coordinator.lose_answers(0))
            }
            Fault::LateChange => return self.late_change(world, master, replica),
            Fault::SetBack => {
                let changes = 1 + self.below(3) as usize;
                if !is_well || !self.is_whole(world) || world.coordinator.set_back(changes).is_none() {
                    return Ok(None);
                }
                self.one(|world| world.coordinator.restore())
            }
            Fault::Stall => self.stall(world, any),
            Fault::StallMaster => self.stall(world, master),
            Fault::SlowDisk => {
                world.brokers[any].slow_disk(2 << self.below(8));
                self.one(move |world| world.brokers[any].slow_disk(1))
            }
            Fault::DiskError => return self.disk_error(world, any, is_well, FaultKind::Eio),
            Fault::ShortWrite => return self.disk_error(world, any, is_well, FaultKind::ShortWrite(self.below(600) as usize)),
            Fault::Reset => {
                world.sim.network().reset(&world.brokers[any], &world.brokers[other]);
                Vec::new()
            }
            Fault::Slow => self.slow(world, vec![(any, other)]),
            Fault::Jitter => self.slow(world, all.iter().flat_map(|index| around(*index, n)).collect()),
            Fault::Jump => self.jump(world, any, 3_600_000),
            Fault::JumpDays => self.jump(world, any, 2 * 24 * 3_600_000),
            Fault::ClientsCut => self.cut_clients(world, any),
            Fault::ClientsCutMaster => self.cut_clients(world, master),
            Fault::ClientsKilled => return Ok(self.end_clients(world, None)),
            Fault::ClientsLost => return Ok(self.end_clients(world, Some(self.rng.next_u64()))),
            Fault::DiskFull => {
                if !world.settings.is_sync() && !self.may_lose(world, &[any], is_well) {
                    return Ok(None);
                }
                world.brokers[any].disk().set_capacity(Some(FULL_BYTES));
                self.one(move |world| world.brokers[any].disk().set_capacity(None))
            }
            Fault::SeenError => return Ok(self.seen_error(world, any, is_well)),
        }))
    }

    fn one(&self, mend: impl FnOnce(&World<'_>) + 'static) -> Mends {
        vec![(self.length(), Box::new(mend))]
    }

    /// Whether every broker runs and has its place in the set with the life that its store is in.
    fn is_whole(&self, world: &World<'_>) -> bool {
        let Some(state) = world.coordinator.state() else { return false };
        let lost = self.lost.borrow();
        (0..world.brokers.len()).all(|index| {
            let member = state.in_sync.iter().find(|member| member.id.0 as usize == index + 1);
            world.node(index).is_some() && member.is_some_and(|member| lost.get(&index).is_none_or(|lost| *lost != Some(member.store)))
        })
    }

    /// Notes that a store loses what it held, if enough others hold it.
    fn may_lose(&self, world: &World<'_>, indexes: &[usize], is_well: bool) -> bool {
        let may = indexes.len() == 1 && is_well && self.is_whole(world);
        if may {
            let state = world.coordinator.state();
            for index in indexes {
                let life = state.as_ref().and_then(|state| state.in_sync.iter().find(|member| member.id.0 as usize == index + 1)).map(|member| member.store);
                self.lost.borrow_mut().insert(*index, life);
            }
        }
        may
    }

    fn down(&self, world: &World<'_>, indexes: &[usize], how: Down, is_well: bool) -> Option<Mends> {
        let loses = how == Down::Wiped || how == Down::WithoutPower && !world.settings.is_sync();
        if indexes.iter().any(|index| world.node(*index).is_none()) || loses && !self.may_lose(world, indexes, is_well) {
            return None;
        }
        let mends = indexes.iter().map(|index| {
            let (index, machine, id) = (*index, &world.brokers[*index], *index as u32 + 1);
            world.forget(index);
            tracing::info!(id, ?how, "down");
            let event = match how {
                Down::Killed => {
                    machine.kill();
                    NodeEvent::Crash
                }
                Down::WithoutPower => {
                    machine.power_cut(self.rng.next_u64());
                    NodeEvent::PowerCut
                }
                Down::Wiped => {
                    machine.wipe();
                    NodeEvent::Wiped
                }
            };
            world.history.node(id, event);
            let restart: Mend = Box::new(move |world| {
                world.start(index);
                world.history.node(id, NodeEvent::Restart);
            });
            (self.length(), restart)
        });
        Some(mends.collect())
    }

    /// Waits for somebody to be let into the set or, if all are there, cuts a replica off from the master; once the set changes, the master goes down, or the other
    /// replica, or both.
    fn at_change(&self, world: &World<'_>, master: usize, replica: usize, how: Down) -> Result<Option<Mends>, Halt> {
        let third = 3 - master - replica;
        if how == Down::WithoutPower && !world.settings.is_sync() {
            return Ok(None);
        }
        let links = if self.is_whole(world) { vec![(master, replica), (replica, master)] } else { Vec::new() };
        let mut mends = self.cut(world, links, &[]);
        let changes = world.coordinator.changes();
        if !await_so(world, || world.coordinator.changes() > changes)? {
            return Ok(Some(mends));
        }
        world.pass(Duration::from_micros(self.below(20_000)))?;
        let indexes = [vec![master], vec![third], vec![master, third]];
        mends.extend(self.down(world, &indexes[self.below(3) as usize], how, true).unwrap_or_default());
        Ok(Some(mends))
    }

    fn wipe_then_kill(&self, world: &World<'_>, master: usize, is_well: bool) -> Result<Option<Mends>, Halt> {
        let n = world.brokers.len();
        let Some(down) = self.down(world, &[master], Down::Wiped, is_well) else { return Ok(None) };
        let others: Vec<_> = (0..n).filter(|index| *index != master).collect();
        let links = others.iter().flat_map(|one| others.iter().map(|other| (*one, *other))).filter(|(one, other)| one != other).collect();
        let mut mends = self.cut(world, links, &[]);
        mends.iter_mut().for_each(|(after, _)| *after += CHANGE_MAX);
        world.pass(Duration::from_millis(self.below(2_000)))?;
        down.into_iter().for_each(|(_, restart)| restart(world));
        let is_in = || {
            world.coordinator.state().is_some_and(|state| state.master.0 as usize != master + 1 && state.in_sync.iter().any(|m| m.id.0 as usize == master + 1))
        };
        if await_so(world, is_in)? {
            let next = world.master().unwrap_or(master);
            mends.extend(self.down(world, &[next], Down::Killed, true).unwrap_or_default());
        }
        Ok(Some(mends))
    }

    /// A replica is cut off until it is let go; then it comes back, and that it is let in is late.
    fn late_change(&self, world: &World<'_>, master: usize, replica: usize) -> Result<Option<Mends>, Halt> {
        if !self.is_whole(world) {
            return Ok(None);
        }
        let links = vec![(master, replica), (replica, master)];
        let is_in = || world.coordinator.state().is_some_and(|state| state.in_sync.iter().any(|member| member.id.0 as usize == replica + 1));
        let cut = self.cut(world, links.clone(), &[]);
        let is_let_go = await_so(world, || !is_in())?;
        cut.into_iter().for_each(|(_, heal)| heal(world));
        if !is_let_go || world.master() != Some(master) {
            return Ok(None);
        }
        world.coordinator.hold_swaps();
        if !await_so(world, || world.coordinator.held_swaps() > 0)? {
            world.coordinator.deliver();
            return Ok(None);
        }
        let mut mends = self.cut(world, links, &[]);
        // Who has asked looks, sees nothing changed, and after a while has no reason any more to ask again.
        world.pass(Duration::from_millis(3_000 + self.below(3_000)))?;
        mends.extend(self.cut(world, Vec::new(), &[master]));
        world.pass(Duration::from_millis(self.below(1_000)))?;
        world.coordinator.deliver();
        // Time for an election.
        mends.iter_mut().for_each(|(after, _)| *after += Duration::from_secs(8));
        Ok(Some(mends))
    }

    fn pause(&self, world: &World<'_>, index: usize) -> Mends {
        let time = self.length();
        world.brokers[index].pause(time);
        vec![(time, Box::new(|_| {}))]
    }

    fn cut(&self, world: &World<'_>, links: Vec<(usize, usize)>, without_coordinator: &[usize]) -> Mends {
        let network = world.sim.network();
        links.iter().for_each(|(from, to)| network.cut(&world.brokers[*from], &world.brokers[*to]));
        let away = without_coordinator.to_vec();
        away.iter().for_each(|index| world.coordinator.set_away(*index as u32 + 1, true));
        self.one(move |world| {
            links.iter().for_each(|(from, to)| world.sim.network().heal(&world.brokers[*from], &world.brokers[*to]));
            away.iter().for_each(|index| world.coordinator.set_away(*index as u32 + 1, false));
        })
    }

    fn cut_clients(&self, world: &World<'_>, index: usize) -> Mends {
        fn each(world: &World<'_>, what: impl Fn(&Machine)) {
            std::iter::once(&world.clients).chain(world.guests.machines()).for_each(what);
        }
        let network = world.sim.network();
        each(world, |clients| {
            network.cut(&world.brokers[index], clients);
            network.cut(clients, &world.brokers[index]);
        });
        self.one(move |world| {
            let network = world.sim.network();
            each(world, |clients| {
                network.heal(&world.brokers[index], clients);
                network.heal(clients, &world.brokers[index]);
            });
        })
    }

    fn end_clients(&self, world: &World<'_>, power_cut: Option<u64>) -> Option<Mends> {
        let machine = self.below(guests::MACHINES as u64) as usize;
        world.guests.kill(machine, power_cut).then(|| self.one(move |world| world.guests.replace(machine)))
    }

    /// What lies beside the log fails, wherever its replacement by a new version may.
    fn seen_error(&self, world: &World<'_>, index: usize, is_well: bool) -> Option<Mends> {
        if !world.settings.is_sync() && !self.may_lose(world, &[index], is_well) {
            return None;
        }
        let short = FaultKind::ShortWrite(self.below(40) as usize);
        let eio = FaultKind::Eio;
        let (op, kind) = [(Op::Write, short), (Op::Write, eio), (Op::Sync, eio), (Op::Rename, eio), (Op::Open, eio)][self.below(5) as usize];
        tracing::info!(id = index + 1, ?op, ?kind, "a call for what was seen will fail");
        world.brokers[index].disk().inject(sim::Fault::once(op, kind).on("seen"));
        Some(self.one(move |world| world.brokers[index].disk().heal()))
    }

    fn stall(&self, world: &World<'_>, index: usize) -> Mends {
        let time = Duration::from_millis(200 + self.below(8_000));
        world.brokers[index].stall_disk(time);
        vec![(time, Box::new(|_| {}))]
    }

    /// One call fails, the next of its kind or one soon after. Under asynchronous flush what had not been flushed may be lost by that. After a failed sync the power may
    /// go: only then is what it left undone seen to be missing.
    fn disk_error(&self, world: &World<'_>, index: usize, is_well: bool, kind: FaultKind) -> Result<Option<Mends>, Halt> {
        if !world.settings.is_sync() && !self.may_lose(world, &[index], is_well) {
            return Ok(None);
        }
        let op = match kind {
            FaultKind::ShortWrite(_) => Op::Write,
            _ => [Op::Write, Op::Sync, Op::Sync, Op::SyncDir, Op::Rename, Op::Open, Op::Allocate][self.below(7) as usize],
        };
        tracing::info!(id = index + 1, ?op, ?kind, "a call to the disk will fail");
        world.brokers[index].disk().inject(sim::Fault::once(op, kind).after(self.below(20)));
        let mut mends = self.one(move |world| world.brokers[index].disk().heal());
        if op == Op::Sync && world.settings.is_sync() && self.below(2) == 0 {
            world.pass(Duration::from_millis(self.below(500)))?;
            mends.extend(self.down(world, &[index], Down::WithoutPower, is_well).unwrap_or_default());
        }
        Ok(Some(mends))
    }

    fn slow(&self, world: &World<'_>, links: Vec<(usize, usize)>) -> Mends {
        let set = |world: &World<'_>, links: &[(usize, usize)], (min, max): (u64, u64)| {
            for (from, to) in links {
                world.sim.network().set_delay(&world.brokers[*from], &world.brokers[*to], Duration::from_micros(min), Duration::from_micros(max));
            }
        };
        set(world, &links, (1_000 * (1 + self.below(20)), 1_000 * (21 + self.below(400))));
        self.one(move |world| set(world, &links, (50, 500)))
    }

    fn jump(&self, world: &World<'_>, index: usize, millis_max: u64) -> Mends {
        world.brokers[index].jump_wall(self.below(2 * millis_max) as i64 - millis_max as i64);
        Vec::new()
    }
}

/// Lets time pass until something is so; false if it is not so in time.
fn await_so(world: &World<'_>, so: impl FnMut() -> bool) -> Result<bool, Halt> {
    match world.sim.run_until(CHANGE_MAX, so) {
        Ok(()) => Ok(true),
        Err(Halt::Late(_)) => Ok(false),
        Err(halt) => Err(halt),
    }
}

/// The links between one broker and the others, both ways.
fn around(index: usize, n: usize) -> Vec<(usize, usize)> {
    (0..n).filter(|other| *other != index).flat_map(|other| [(index, other), (other, index)]).collect()
}
