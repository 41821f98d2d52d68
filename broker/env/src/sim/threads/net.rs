//! The network between a simulation's machines: streams that take their time, links that are cut and healed, ends of connections as processes and machines end.
//!
//! What is lost, doubled or overtaken on a real wire, TCP makes good; so what is simulated is what is left of it: bytes come late, in order, or not before the link is
//! healed, and connections break. A killed process's connections are ended by its kernel, and its peers hear of it; a machine without power says nothing, and they don't.

use super::{Machine, current, scheduler::Scheduler};
use crate::{
    Connection, Listener, Net,
    sim::entropy::hash_bytes,
    sync::{Condvar, Mutex},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{Arc, Weak},
    time::Duration,
};

/// Bytes on their way in one direction of a connection before its writer has to wait, as in a socket's buffers.
const WINDOW_BYTES: usize = 1 << 20;
/// Connections that wait to be accepted before more are refused.
const BACKLOG_MAX: usize = 128;
/// Ports that are given out for port 0.
const FIRST_FREE_PORT: u16 = 40_000;

/// All links of a simulation. Machines are called by their names: `name:port`. Clones are one network.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    scheduler: Arc<Scheduler>,
    // Never held where a thread gives way.
    state: parking_lot::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Machines by name; those without power are silent.
    names: BTreeMap<String, usize>,
    silent: BTreeSet<usize>,
    /// One-way links over which nothing comes.
    cut: BTreeSet<(usize, usize)>,
    delays: BTreeMap<(usize, usize), (Duration, Duration)>,
    listening: BTreeMap<String, Arc<Backlog>>,
    pipes: Vec<Weak<Pipe>>,
    next_port: u16,
}

/// Shortest and longest time of a piece of bytes on a link that nothing else was said of.
const DELAY: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(500));

impl Network {
    pub(super) fn new(scheduler: Arc<Scheduler>) -> Self {
        Self(Arc::new(Shared { scheduler, state: parking_lot::Mutex::new(State { next_port: FIRST_FREE_PORT, ..State::default() }) }))
    }

    pub(super) fn add(&self, name: &str, machine: usize) {
        let before = self.0.state.lock().names.insert(name.to_owned(), machine);
        assert!(before.is_none(), "two machines are called {name}");
    }

    /// Lets nothing through from one machine to the other, in that direction. What is on its way arrives after the link is healed.
    pub fn cut(&self, from: &Machine, to: &Machine) {
        self.0.state.lock().cut.insert((from.id, to.id));
    }

    /// Lets it through again.
    pub fn heal(&self, from: &Machine, to: &Machine) {
        let pipes = {
            let mut state = self.0.state.lock();
            state.cut.remove(&(from.id, to.id));
            state.pipes()
        };
        // Readers look again.
        pipes.iter().for_each(|pipe| {
            pipe.changed.notify_all();
        });
    }

    /// Bytes from one machine to the other take between `min` and `max`.
    pub fn set_delay(&self, from: &Machine, to: &Machine, min: Duration, max: Duration) {
        assert!(min <= max, "a delay of at least {min:?} and at most {max:?}");
        self.0.state.lock().delays.insert((from.id, to.id), (min, max));
    }

    /// Breaks the connections between two machines, as a firewall that has forgotten them does.
    pub fn reset(&self, one: &Machine, other: &Machine) {
        let ends = BTreeSet::from([one.id, other.id]);
        for pipe in self.pipes_where(|pipe| BTreeSet::from([pipe.from, pipe.to]) == ends) {
            pipe.end(End::Broken, None);
        }
    }

    fn pipes_where(&self, of: impl Fn(&Pipe) -> bool) -> Vec<Arc<Pipe>> {
        let mut pipes = self.0.state.lock().pipes();
        pipes.retain(|pipe| of(pipe));
        pipes
    }

    /// The machine's processes have ended, and its kernel tells whoever they were connected with; a kernel without power does not.
    pub(super) fn machine_ended(&self, machine: usize, has_power: bool) {
        // Dropped when the state is free again: who waits in them has connections to end.
        let _gone = {
            let mut state = self.0.state.lock();
            if !has_power {
                state.silent.insert(machine);
            }
            let (gone, left): (BTreeMap<_, _>, _) = std::mem::take(&mut state.listening).into_iter().partition(|(_, backlog)| backlog.machine == machine);
            state.listening = left;
            gone
        };
        for pipe in self.pipes_where(|pipe| pipe.from == machine || pipe.to == machine) {
            pipe.end(if has_power { End::Broken } else { End::Silent }, None);
        }
    }

    /// The machine's network for one life.
    pub(super) fn of(&self, machine: &Machine) -> Arc<dyn Net> {
        self.0.state.lock().silent.remove(&machine.id);
        Arc::new(MachineNet { network: self.clone(), machine: machine.id })
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.0.state.lock().cut.contains(&(from, to))
    }

    /// How long the next bytes on that link take.
    fn delay(&self, from: usize, to: usize) -> Duration {
        let (min, max) = self.0.state.lock().delays.get(&(from, to)).copied().unwrap_or(DELAY);
        self.0.scheduler.between(min, max)
    }

    fn pipe(&self, from: usize, to: usize) -> Arc<Pipe> {
        let pipe = Arc::new(Pipe { network: self.clone(), from, to, state: Mutex::default(), changed: Condvar::new() });
        let mut state = self.0.state.lock();
        state.pipes.retain(|pipe| pipe.strong_count() > 0);
        state.pipes.push(Arc::downgrade(&pipe));
        pipe
    }
}

impl State {
    fn pipes(&self) -> Vec<Arc<Pipe>> {
        self.pipes.iter().filter_map(Weak::upgrade).collect()
    }
}

/// One direction of a connection.
struct Pipe {
    network: Network,
    from: usize,
    to: usize,
    state: Mutex<Flow>,
    changed: Condvar,
}

#[derive(Default)]
struct Flow {
    /// What is on its way, each with when it is there.
    pieces: VecDeque<(Duration, Vec<u8>)>,
    /// How much of the first piece has been read.
    taken: usize,
    /// All that has not been read.
    bytes: usize,
    /// Nothing is there before what was sent before it.
    newest: Duration,
    end: Option<End>,
    /// By which of its own ends: that one need not hear of it over the link.
    ended_by: Option<Side>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Writer,
    Reader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After what is on its way the reader is told that there is no more.
    Finished,
    /// Both ends get errors.
    Broken,
    /// Nothing comes and nobody tells: what is written fills the window.
    Silent,
}

impl Pipe {
    fn end(&self, end: End, by: Option<Side>) {
        let mut flow = self.state.lock();
        // A finished stream may still break; a broken one stays so.
        if flow.end != Some(End::Broken) && flow.end != Some(End::Silent) {
            flow.end = Some(end);
            flow.ended_by = flow.ended_by.or(by);
        }
        drop(flow);
        self.changed.notify_all();
    }

    fn now(&self) -> Duration {
        self.network.0.scheduler.now()
    }

    fn read(&self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        let until = self.now().saturating_add(timeout);
        let mut flow = self.state.lock();
        loop {
            let now = self.now();
            let open = !self.network.is_cut(self.from, self.to);
            if flow.end == Some(End::Broken) && (open || flow.ended_by == Some(Side::Reader)) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            match flow.pieces.front().map(|(due, _)| *due) {
                Some(due) if open && due <= now => {
                    let read = flow.take(into);
                    drop(flow);
                    self.changed.notify_all();
                    self.network.0.scheduler.note_net(self.from, self.to, read as u64);
                    return Ok(read);
                }
                None if open && flow.end == Some(End::Finished) => return Ok(0),
                _ => {}
            }
            let left = until.saturating_sub(now);
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let due = flow.pieces.front().filter(|_| open).map_or(Duration::MAX, |(due, _)| due.saturating_sub(now));
            self.changed.wait_for(&mut flow, left.min(due));
        }
    }

    fn write_all(&self, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let until = self.now().saturating_add(timeout);
        let mut flow = self.state.lock();
        while !bytes.is_empty() {
            // That the reader is gone comes over the other link.
            let heard = flow.ended_by == Some(Side::Writer) || !self.network.is_cut(self.to, self.from);
            if heard && matches!(flow.end, Some(End::Broken | End::Finished)) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let room = WINDOW_BYTES.saturating_sub(flow.bytes).min(bytes.len());
            if room > 0 {
                let (now, later) = bytes.split_at(room);
                self.network.0.scheduler.note_net(self.from, self.to, hash_bytes(now));
                // Without power nothing is received, and so nothing leaves the window.
                let due = if flow.end == Some(End::Silent) { Duration::MAX } else { self.now().saturating_add(self.network.delay(self.from, self.to)) };
                let there = flow.put(due, now);
                self.changed.hasten(there);
                bytes = later;
                continue;
            }
            let left = until.saturating_sub(self.now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.changed.wait_for(&mut flow, left);
        }
        Ok(())
    }
}

impl Flow {
    /// When it will be there.
    fn put(&mut self, due: Duration, bytes: &[u8]) -> Duration {
        self.newest = self.newest.max(due);
        self.bytes += bytes.len();
        self.pieces.push_back((self.newest, bytes.to_vec()));
        self.newest
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let Some((_, piece)) = self.pieces.front() else { return 0 };
        let left = &piece[self.taken..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        if self.taken == piece.len() {
            self.pieces.pop_front();
            self.taken = 0;
        }
        self.bytes -= count;
        count
    }
}

/// One end of a connection.
struct SimConnection {
    peer: String,
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl Connection for SimConnection {
    fn peer(&self) -> String {
        self.peer.clone()
    }

    fn read(&self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        alive()?;
        self.incoming.read(into, timeout)
    }

    fn write_all(&self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        alive()?;
        self.outgoing.write_all(bytes, timeout)
    }

    fn close(&self) {
        if alive().is_ok() {
            self.outgoing.end(End::Finished, Some(Side::Writer));
            self.incoming.end(End::Broken, Some(Side::Reader));
        }
    }
}

impl Drop for SimConnection {
    fn drop(&mut self) {
        self.close();
    }
}

/// A dead machine's kernel has ended its connections already, or cannot.
fn alive() -> io::Result<()> {
    if current().is_some_and(|me| me.is_unwinding()) {
        return Err(io::Error::other("the simulated machine was killed"));
    }
    Ok(())
}

/// Connections that are there and not accepted yet.
struct Backlog {
    machine: usize,
    waiting: Mutex<VecDeque<Arc<dyn Connection>>>,
    changed: Condvar,
}

struct SimListener {
    network: Network,
    address: String,
    backlog: Arc<Backlog>,
}

impl Listener for SimListener {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn accept(&self, timeout: Duration) -> io::Result<Arc<dyn Connection>> {
        alive()?;
        let until = self.network.0.scheduler.now().saturating_add(timeout);
        let mut waiting = self.backlog.waiting.lock();
        loop {
            if let Some(next) = waiting.pop_front() {
                return Ok(next);
            }
            let left = until.saturating_sub(self.network.0.scheduler.now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.backlog.changed.wait_for(&mut waiting, left);
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        // One that was killed is gone already, and another life may listen there.
        if alive().is_ok() {
            self.network.0.state.lock().listening.remove(&self.address);
        }
    }
}

struct MachineNet {
    network: Network,
    machine: usize,
}

impl MachineNet {
    fn refused(address: &str) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens at {address}"))
    }

    /// Who has that name, if he answers.
    fn target(&self, address: &str) -> io::Result<Option<usize>> {
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        let state = self.network.0.state.lock();
        let to = state.names.get(name).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no machine is called {name}")))?;
        let out_of_reach = state.silent.contains(&to) || state.cut.contains(&(self.machine, to)) || state.cut.contains(&(to, self.machine));
        Ok((!out_of_reach).then_some(to))
    }
}

impl Net for MachineNet {
    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        alive()?;
        let mut state = self.network.0.state.lock();
        let (name, port) = address.rsplit_once(':').ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{address} has no port")))?;
        let address = match port {
            "0" => {
                state.next_port += 1;
                format!("{name}:{}", state.next_port)
            }
            _ => address.to_owned(),
        };
        if state.listening.contains_key(&address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("somebody listens at {address} already")));
        }
        let backlog = Arc::new(Backlog { machine: self.machine, waiting: Mutex::default(), changed: Condvar::new() });
        state.listening.insert(address.clone(), backlog.clone());
        drop(state);
        Ok(Box::new(SimListener { network: self.network.clone(), address, backlog }))
    }

    fn connect(&self, address: &str, timeout: Duration) -> io::Result<Arc<dyn Connection>> {
        alive()?;
        let network = &self.network;
        let Some(to) = self.target(address)? else {
            super::sleep(timeout);
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")));
        };
        let there_and_back = network.delay(self.machine, to) + network.delay(to, self.machine);
        super::sleep(there_and_back.min(timeout));
        alive()?;
        if there_and_back > timeout {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")));
        }
        let backlog = network.0.state.lock().listening.get(address).cloned().ok_or_else(|| Self::refused(address))?;
        let (there, back) = (network.pipe(self.machine, to), network.pipe(to, self.machine));
        let here = Arc::new(SimConnection { peer: address.to_owned(), incoming: back.clone(), outgoing: there.clone() });
        let mut waiting = backlog.waiting.lock();
        if waiting.len() >= BACKLOG_MAX {
            return Err(Self::refused(address));
        }
        waiting.push_back(Arc::new(SimConnection { peer: network.0.scheduler.machine_name(self.machine), incoming: there, outgoing: back }));
        drop(waiting);
        backlog.changed.notify_one();
        Ok(here)
    }
}
