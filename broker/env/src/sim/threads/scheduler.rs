//! Who runs when.

use super::{
    CURRENT, current,
    run::Halt,
    wait::{Ticket, Waits, What},
};
use crate::{
    Rng,
    sim::{
        entropy::{SimRng, fingerprint, hash},
        fault::Op,
    },
};
use generator::{Generator, Gn};
use parking_lot::Mutex;
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

/// Words of a simulated thread's stack: 1 MiB, of which only what is touched takes memory.
const STACK_WORDS: usize = 1 << 17;
/// Stacks of ended threads that are kept for new ones: to map and to touch one anew costs more than what most threads do on it.
const FREE_STACKS_MAX: usize = 256;
/// Waits that the clearing away of one thread may try before it is taken for endless.
const UNWINDING_WAITS_MAX: u64 = 100_000;

/// How long things take in virtual time. A disk call takes between half and one and a half of its time, by the seed.
#[derive(Clone, Debug)]
pub struct Timing {
    /// One turn of a thread, from one point where it gives way to the next.
    pub turn: Duration,
    /// Of how many locks taken one is preceded by giving way; 0: none.
    pub preempt_one_in: u64,
    /// The longest time for which a thread so preempted is not let on again, as on a machine with too few processors. One of four is kept waiting at all, most of them
    /// for much less: the length is halved up to eleven times. Without it no thread is ever overtaken by more than a few turns of the others.
    pub pause_max: Duration,
    /// A read.
    pub read: Duration,
    /// A write.
    pub write: Duration,
    /// A sync of a file or a directory.
    pub sync: Duration,
    /// Everything else that changes the disk.
    pub other: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let micros = Duration::from_micros;
        Self { turn: micros(1), preempt_one_in: 4, pause_max: micros(2000), read: micros(2), write: micros(20), sync: micros(500), other: micros(30) }
    }
}

/// What ends a thread of a killed machine: it unwinds from where it stood.
struct Killed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    /// Its machine was killed: the next time it runs, it unwinds.
    Condemned,
    /// Its stack is being dropped. It waits for locks only; whatever else it does comes back at once.
    Unwinding,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Runnable,
    Running,
    Blocked { waits: Waits, until: Option<Duration> },
    Done,
}

struct Thread {
    name: String,
    machine: usize,
    /// `None` while it runs and when it is done.
    body: Option<Generator<'static, (), ()>>,
    state: State,
    fate: Fate,
    /// Number of its last wait, so that a late notice wakes no later one.
    wait: u64,
    /// Whether that wait ended by a notice.
    woken: bool,
    unwinding_waits: u64,
    /// Who waits for its end: thread and wait.
    joining: Vec<(usize, u64)>,
    outcome: Result<(), String>,
    flags: BTreeMap<usize, bool>,
}

struct Inner {
    now: Duration,
    rng: Arc<SimRng>,
    timing: Timing,
    trace: u64,
    turns: u64,
    machines: Vec<String>,
    /// Machines whose threads stand still, and until when.
    paused: BTreeMap<usize, Duration>,
    threads: Vec<Thread>,
    /// Coroutines of threads that have ended, with their stacks.
    free: Vec<Generator<'static, (), ()>>,
    runnable: Vec<usize>,
    sleeping: BTreeSet<(Duration, usize)>,
    /// Threads have been condemned and still have their stacks.
    reap_due: bool,
    halted: Option<Halt>,
}

/// Kinds of event in the trace.
#[derive(Clone, Copy)]
enum Event {
    Spawn = 1,
    Turn,
    Wake,
    Time,
    Disk,
    Kill,
    End,
    Net,
}

/// All threads of all machines of one simulation.
pub(crate) struct Scheduler {
    /// Coroutines stay on the thread of the operating system on which they began.
    home: thread::ThreadId,
    pub(super) seed: u64,
    rng: Arc<SimRng>,
    preempt_one_in: u64,
    inner: Mutex<Inner>,
}

enum Next {
    Turn(usize),
    Deadline,
    Deadlock,
}

/// What it means that no thread can run and none ever will by itself.
#[derive(Clone, Copy)]
enum Idle {
    /// Whoever drives the simulation may do something later.
    Waits,
    /// What is waited for can't come.
    Deadlock,
}

impl Inner {
    fn note(&mut self, event: Event, parts: [u64; 3]) {
        self.trace = fingerprint(self.trace, [event as u64, self.now.as_nanos() as u64].into_iter().chain(parts));
    }

    fn wake(&mut self, id: usize, woken: bool) {
        let thread = &mut self.threads[id];
        if let State::Blocked { until: Some(until), .. } = thread.state {
            self.sleeping.remove(&(until, id));
        }
        thread.state = State::Runnable;
        thread.woken = woken;
        self.runnable.push(id);
        self.note(Event::Wake, [id as u64, woken.into(), 0]);
    }

    fn wake_due(&mut self) {
        while let Some(&(until, id)) = self.sleeping.first()
            && until <= self.now
        {
            self.wake(id, false);
        }
    }

    fn next(&mut self, deadline: Duration, idle: Idle) -> Next {
        loop {
            self.wake_due();
            if deadline <= self.now {
                return Next::Deadline;
            }
            if let Some(at) = self.choose() {
                let id = self.runnable.swap_remove(at);
                self.now += self.timing.turn;
                self.turns += 1;
                self.note(Event::Turn, [id as u64, 0, 0]);
                return Next::Turn(id);
            }
            let next = self.sleeping.first().map(|(until, _)| *until).into_iter().chain(self.paused.values().copied()).min();
            self.now = match (next, idle) {
                (Some(until), _) => until.min(deadline),
                (None, Idle::Waits) => deadline,
                (None, Idle::Deadlock) => return Next::Deadlock,
            };
            self.note(Event::Time, [0; 3]);
        }
    }

    /// A thread that can run, by its place.
    fn choose(&mut self) -> Option<usize> {
        let now = self.now;
        self.paused.retain(|_, until| *until > now);
        let able = if self.paused.is_empty() { self.runnable.len() } else { self.runnable.iter().filter(|id| self.is_able(**id)).count() };
        let at = (able > 0).then(|| (self.rng.next_u64() % able as u64) as usize)?;
        match self.paused.is_empty() {
            true => Some(at),
            false => self.runnable.iter().enumerate().filter(|(_, id)| self.is_able(**id)).nth(at).map(|(place, _)| place),
        }
    }

    fn is_able(&self, id: usize) -> bool {
        !self.paused.contains_key(&self.threads[id].machine)
    }

    /// Follows who waits for whose lock, and halts when that comes back to the thread.
    fn look_for_circle(&mut self, id: usize) {
        let mut at = id;
        for _ in 0..self.threads.len() {
            let State::Blocked { waits: Waits { what: What::Lock { holder: Some(holder) }, .. }, .. } = self.threads[at].state else { return };
            if holder == id {
                self.halted = Some(Halt::Deadlock(self.report()));
                return;
            }
            at = holder;
        }
    }

    fn title(&self, id: usize) -> String {
        let thread = &self.threads[id];
        format!("{}/{}", self.machines[thread.machine], thread.name)
    }

    /// Each thread that waits, and for what.
    fn report(&self) -> String {
        let mut out = format!("at {:?} of virtual time", self.now);
        for (id, thread) in self.threads.iter().enumerate() {
            let State::Blocked { waits, until } = thread.state else { continue };
            let _ = write!(out, "\n  {} waits for ", self.title(id));
            let _ = match waits.what {
                What::Lock { holder: Some(holder) } => write!(out, "a lock that {} holds", self.title(holder)),
                What::Lock { holder: None } => write!(out, "a lock"),
                What::Notice => write!(out, "a notice"),
                What::Sleep => write!(out, "time to pass"),
                What::Turn => write!(out, "its turn"),
                What::Disk => write!(out, "its disk"),
                What::End { of } => write!(out, "the end of {}", self.title(of)),
            };
            let _ = waits.place.map_or(Ok(()), |place| write!(out, ", at {}:{}", place.file(), place.line()));
            let _ = until.map_or(Ok(()), |until| write!(out, ", until {until:?}"));
        }
        out
    }

    fn condemn(&mut self, of: impl Fn(&Thread) -> bool) {
        for id in 0..self.threads.len() {
            let thread = &mut self.threads[id];
            if matches!(thread.state, State::Done) || thread.fate != Fate::Lives || !of(thread) {
                continue;
            }
            thread.fate = Fate::Condemned;
            self.reap_due = true;
            if let State::Blocked { until, .. } = thread.state {
                thread.state = State::Runnable;
                until.map(|until| self.sleeping.remove(&(until, id)));
            }
        }
        let threads = &self.threads;
        self.runnable.retain(|&id| threads[id].fate == Fate::Lives);
    }

    fn finish(&mut self, id: usize) {
        let thread = &mut self.threads[id];
        thread.state = State::Done;
        let joining = std::mem::take(&mut thread.joining);
        self.note(Event::End, [id as u64, 0, 0]);
        for (waiter, wait) in joining {
            self.wake_if_waiting(waiter, wait);
        }
    }

    /// Lets a thread that still waits do so until then at most.
    fn hasten(&mut self, id: usize, wait: u64, at: Duration) {
        let thread = &mut self.threads[id];
        let State::Blocked { until, .. } = &mut thread.state else { return };
        if thread.wait == wait && until.is_none_or(|until| at < until) {
            until.replace(at).map(|until| self.sleeping.remove(&(until, id)));
            self.sleeping.insert((at, id));
        }
    }

    fn wake_if_waiting(&mut self, id: usize, wait: u64) -> bool {
        let waits = self.threads[id].wait == wait && matches!(self.threads[id].state, State::Blocked { .. });
        if waits {
            self.wake(id, true);
        }
        waits
    }
}

impl Scheduler {
    pub(super) fn new(seed: u64, timing: Timing) -> Arc<Self> {
        let (rng, preempt_one_in) = (Arc::new(SimRng::new(hash(&[seed, 1]))), timing.preempt_one_in);
        let inner = Inner {
            now: Duration::ZERO,
            rng: rng.clone(),
            timing,
            trace: 0,
            turns: 0,
            machines: Vec::new(),
            paused: BTreeMap::new(),
            threads: Vec::new(),
            free: Vec::new(),
            runnable: Vec::new(),
            sleeping: BTreeSet::new(),
            reap_due: false,
            halted: None,
        };
        Arc::new(Self { home: thread::current().id(), seed, rng, preempt_one_in, inner: Mutex::new(inner) })
    }

    pub(super) fn add_machine(&self, name: &str) -> usize {
        let mut inner = self.inner.lock();
        inner.machines.push(name.to_owned());
        inner.machines.len() - 1
    }

    pub(super) fn machine_name(&self, machine: usize) -> String {
        self.inner.lock().machines[machine].clone()
    }

    /// A time between the two, by the seed.
    pub(super) fn between(&self, min: Duration, max: Duration) -> Duration {
        let span = max.saturating_sub(min).as_nanos() as u64;
        min + Duration::from_nanos(self.inner.lock().rng.next_u64() % span.saturating_add(1))
    }

    pub(super) fn pause(&self, machine: usize, time: Duration) {
        let mut inner = self.inner.lock();
        let until = inner.now.saturating_add(time);
        inner.paused.insert(machine, until);
    }

    pub(super) fn note_net(&self, from: usize, to: usize, what: u64) {
        self.inner.lock().note(Event::Net, [from as u64, to as u64, what]);
    }

    pub(super) fn now(&self) -> Duration {
        self.inner.lock().now
    }

    pub(super) fn trace(&self) -> u64 {
        self.inner.lock().trace
    }

    pub(super) fn turns(&self) -> u64 {
        self.inner.lock().turns
    }

    pub(super) fn report(&self) -> String {
        self.inner.lock().report()
    }

    pub(super) fn spawn(self: &Arc<Self>, machine: usize, name: &str, body: Box<dyn FnOnce() + Send>) -> usize {
        let mut inner = self.inner.lock();
        let id = inner.threads.len();
        let me = Current { scheduler: self.clone(), id };
        let live = move || me.live(body);
        let mut body = match inner.free.pop() {
            Some(mut free) => {
                free.init_code(live);
                free
            }
            None => Gn::<()>::new_opt(STACK_WORDS, live),
        };
        // Any address but null: it makes the coroutine keep its panics to itself, and lets it give way from within calls.
        body.set_local_data(std::ptr::dangling_mut());
        inner.threads.push(Thread {
            name: name.to_owned(),
            machine,
            body: Some(body),
            state: State::Runnable,
            fate: Fate::Lives,
            wait: 0,
            woken: false,
            unwinding_waits: 0,
            joining: Vec::new(),
            outcome: Ok(()),
            flags: BTreeMap::new(),
        });
        inner.runnable.push(id);
        inner.note(Event::Spawn, [id as u64, machine as u64, 0]);
        id
    }

    pub(super) fn wake(&self, id: usize, wait: u64) -> bool {
        self.inner.lock().wake_if_waiting(id, wait)
    }

    pub(super) fn hasten(&self, id: usize, wait: u64, at: Duration) {
        self.inner.lock().hasten(id, wait, at);
    }

    /// How it ended, once it has.
    pub(super) fn outcome(&self, id: usize) -> Option<Result<(), String>> {
        let inner = self.inner.lock();
        let thread = &inner.threads[id];
        matches!(thread.state, State::Done).then(|| thread.outcome.clone())
    }

    /// Runs threads until `so` holds; too late after that time.
    pub(super) fn run_until(self: &Arc<Self>, limit: Duration, so: impl FnMut() -> bool) -> Result<(), Halt> {
        let deadline = self.now().saturating_add(limit);
        match self.run(deadline, Idle::Deadlock, so)? {
            true => Ok(()),
            false => Err(Halt::Late(self.report())),
        }
    }

    /// Runs threads for that time; that none can run before it is over is no harm.
    pub(super) fn run_for(self: &Arc<Self>, time: Duration) -> Result<(), Halt> {
        let deadline = self.now().saturating_add(time);
        self.run(deadline, Idle::Waits, || false).map(drop)
    }

    /// Runs threads until `stop` says so (true) or the deadline has come (false).
    fn run(self: &Arc<Self>, deadline: Duration, idle: Idle, mut stop: impl FnMut() -> bool) -> Result<bool, Halt> {
        assert_eq!(self.home, thread::current().id(), "a simulation stays on the thread on which it was made");
        assert!(current().is_none(), "a simulated thread cannot drive the simulation that it is part of");
        loop {
            if std::mem::take(&mut self.inner.lock().reap_due) {
                self.reap();
            }
            if let Some(halt) = self.inner.lock().halted.clone() {
                return Err(halt);
            }
            if stop() {
                return Ok(true);
            }
            let next = self.inner.lock().next(deadline, idle);
            match next {
                Next::Turn(id) => self.turn(id),
                Next::Deadline => return Ok(false),
                Next::Deadlock => return Err(Halt::Deadlock(self.report())),
            }
        }
    }

    /// Lets a thread run until it gives way.
    fn turn(self: &Arc<Self>, id: usize) {
        let body = {
            let thread = &mut self.inner.lock().threads[id];
            thread.state = State::Running;
            thread.body.take()
        };
        let Some(mut body) = body else { return };
        CURRENT.set(Some(Current { scheduler: self.clone(), id }));
        body.resume();
        CURRENT.set(None);
        let mut inner = self.inner.lock();
        if body.is_done() {
            inner.finish(id);
            if inner.free.len() < FREE_STACKS_MAX {
                inner.free.push(body);
            }
        } else {
            inner.threads[id].body = Some(body);
        }
    }

    /// Condemns a machine's threads: none of them does anything more. Their stacks are dropped before the next turn of any other thread.
    pub(super) fn kill(self: &Arc<Self>, machine: usize) {
        {
            let mut inner = self.inner.lock();
            inner.note(Event::Kill, [machine as u64, 0, 0]);
            inner.paused.remove(&machine);
            inner.condemn(|thread| thread.machine == machine);
        }
        match current() {
            Some(me) => {
                me.end_if_condemned();
                me.yield_now();
            }
            None => self.reap(),
        }
    }

    /// Drops the stacks of condemned threads. What their destructors do reaches nothing that lives: their disk is dead, and they wait for each other's locks only.
    fn reap(self: &Arc<Self>) {
        loop {
            let ready = |thread: &Thread| thread.fate != Fate::Lives && matches!(thread.state, State::Runnable);
            let ready: Vec<usize> = self.inner.lock().threads.iter().enumerate().filter(|(_, thread)| ready(thread)).map(|(id, _)| id).collect();
            if ready.is_empty() {
                break;
            }
            ready.into_iter().for_each(|id| self.turn(id));
        }
        let mut inner = self.inner.lock();
        inner.reap_due = false;
        let stuck = inner.threads.iter().any(|thread| thread.fate != Fate::Lives && !matches!(thread.state, State::Done));
        assert!(!stuck, "destructors of a killed machine's threads wait for each other, {}", inner.report());
        let threads = &inner.threads;
        let alive: Vec<usize> = inner.runnable.iter().copied().filter(|&id| threads[id].fate == Fate::Lives).collect();
        inner.runnable = alive;
    }

    /// Ends everything.
    pub(super) fn clear(self: &Arc<Self>) {
        self.inner.lock().condemn(|_| true);
        if thread::panicking() {
            // Unwinding coroutines amid a panic may abort, and the panic's message is worth more than the memory.
            let bodies: Vec<_> = self.inner.lock().threads.iter_mut().filter_map(|thread| thread.body.take()).collect();
            bodies.into_iter().for_each(std::mem::forget);
            return;
        }
        self.reap();
    }
}

/// The calling simulated thread.
#[derive(Clone)]
pub(crate) struct Current {
    scheduler: Arc<Scheduler>,
    id: usize,
}

impl Current {
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    /// The whole of its life, on its own stack.
    fn live(&self, body: Box<dyn FnOnce() + Send>) {
        let end = catch_unwind(AssertUnwindSafe(|| {
            self.end_if_condemned();
            body();
        }));
        let Err(payload) = end else { return };
        let mut inner = self.scheduler.inner.lock();
        if payload.is::<Killed>() {
            inner.threads[self.id].outcome = Err("its machine was killed".to_owned());
            return;
        }
        let what = format!("thread {} panicked: {}", inner.title(self.id), message(payload.as_ref()));
        inner.threads[self.id].outcome = Err(what.clone());
        let seed = self.scheduler.seed;
        inner.halted.get_or_insert_with(|| Halt::Panicked(format!("{what} (seed {seed})")));
    }

    fn switch(&self) {
        generator::co_yield_with(());
        self.end_if_condemned();
    }

    fn end_if_condemned(&self) {
        {
            let fate = &mut self.scheduler.inner.lock().threads[self.id].fate;
            if *fate != Fate::Condemned {
                return;
            }
            *fate = Fate::Unwinding;
        }
        // No panic: nothing is printed.
        resume_unwind(Box::new(Killed));
    }

    /// Whether its machine was killed and only its stack is being dropped.
    pub(crate) fn is_unwinding(&self) -> bool {
        let thread = &mut self.scheduler.inner.lock().threads[self.id];
        if thread.fate != Fate::Unwinding {
            return false;
        }
        thread.unwinding_waits += 1;
        assert!(thread.unwinding_waits < UNWINDING_WAITS_MAX, "a destructor of {} waits for what never comes, for its machine was killed", thread.name);
        true
    }

    /// Stands for the next wait.
    pub(crate) fn ticket(&self) -> Ticket {
        let wait = self.scheduler.inner.lock().threads[self.id].wait + 1;
        Ticket::new(&self.scheduler, self.id, wait)
    }

    /// Waits to be woken by the ticket made before, at most that long. Whether it was woken.
    pub(crate) fn block(&self, waits: Waits, timeout: Option<Duration>) -> bool {
        let waits_for_thread = matches!(waits.what, What::Lock { .. } | What::End { .. });
        if !waits_for_thread && self.is_unwinding() {
            return false;
        }
        {
            let mut inner = self.scheduler.inner.lock();
            let until = timeout.map(|timeout| inner.now.saturating_add(timeout));
            let thread = &mut inner.threads[self.id];
            thread.wait += 1;
            thread.woken = false;
            thread.state = State::Blocked { waits, until };
            if let Some(until) = until {
                inner.sleeping.insert((until, self.id));
            }
            inner.look_for_circle(self.id);
        }
        self.switch();
        self.scheduler.inner.lock().threads[self.id].woken
    }

    pub(crate) fn yield_now(&self) {
        if self.is_unwinding() {
            return;
        }
        {
            let mut inner = self.scheduler.inner.lock();
            inner.threads[self.id].state = State::Runnable;
            inner.runnable.push(self.id);
        }
        self.switch();
    }

    /// Whether it is to give way here, by the seed.
    pub(crate) fn draws_to_yield(&self) -> bool {
        let one_in = self.scheduler.preempt_one_in;
        one_in > 0 && self.scheduler.rng.next_u64().is_multiple_of(one_in)
    }

    /// Gives way, one time in four for longer than others need.
    pub(crate) fn yield_or_pause(&self) {
        let pause = {
            let inner = self.scheduler.inner.lock();
            if inner.threads[self.id].fate != Fate::Lives {
                return;
            }
            let dice = inner.rng.next_u64();
            dice.is_multiple_of(4).then(|| inner.timing.pause_max / (1 << ((dice >> 32) % 12)))
        };
        match pause {
            Some(pause) => drop(self.block(Waits::turn(), Some(pause))),
            None => self.yield_now(),
        }
    }

    pub(super) fn join(&self, of: usize) -> Result<(), String> {
        loop {
            if let Some(outcome) = self.scheduler.outcome(of) {
                return outcome;
            }
            {
                let mut inner = self.scheduler.inner.lock();
                let wait = inner.threads[self.id].wait + 1;
                inner.threads[of].joining.push((self.id, wait));
            }
            self.block(Waits::end(of), None);
        }
    }

    /// How long a call to the disk takes until it happens, and from then until it comes back.
    pub(super) fn disk_time(&self, op: Op, times: u32) -> (Duration, Duration) {
        let inner = self.scheduler.inner.lock();
        let base = match op {
            Op::Read => inner.timing.read,
            Op::Write => inner.timing.write,
            Op::Sync | Op::SyncDir => inner.timing.sync,
            Op::SetLen | Op::Allocate | Op::Open | Op::Rename | Op::Remove | Op::CreateDir => inner.timing.other,
        };
        let base = base.as_nanos() as u64;
        let total = (base / 2 + inner.rng.next_u64() % (base + 1)) * u64::from(times);
        let before = inner.rng.next_u64() % (total + 1);
        (Duration::from_nanos(before), Duration::from_nanos(total - before))
    }

    pub(super) fn note_disk(&self, op: Op, what: u64) {
        self.scheduler.inner.lock().note(Event::Disk, [self.id as u64, op as u64, what]);
    }

    pub(crate) fn flag(&self, place: usize) -> bool {
        self.scheduler.inner.lock().threads[self.id].flags.get(&place).copied().unwrap_or(false)
    }

    pub(crate) fn replace_flag(&self, place: usize, value: bool) -> bool {
        self.scheduler.inner.lock().threads[self.id].flags.insert(place, value).unwrap_or(false)
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
