//! What the model remembers, and how an operation gets its times.

use crate::rng::Rng;
use sluice_history::{By, Config, Drained, Event, Mode, Node, NodeEvent, Queue, Started, Value, What};
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::collections::{BTreeMap, VecDeque};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1000 * MS;
pub(crate) const RETRIES: u32 = 3;

// Queues by number.
pub(crate) const PLAIN: [usize; 2] = [0, 1];
pub(crate) const ORDERS: [usize; 2] = [2, 3];
pub(crate) const DELAYS: usize = 4;
pub(crate) const TX: usize = 5;
pub(crate) const POPS: usize = 6;
pub(crate) const RETRY: usize = 7;
pub(crate) const DEAD: usize = 8;
const TOPICS: [(&str, u32); 9] =
    [("plain", 0), ("plain", 1), ("orders", 0), ("orders", 1), ("delays", 0), ("tx", 0), ("pops", 0), ("%RETRY%g-pull", 0), ("%DLQ%g-pull", 0)];

// Groups by number.
pub(crate) const G_PULL: usize = 0;
pub(crate) const G_LATE: usize = 1;
pub(crate) const G_ORDER: usize = 2;
pub(crate) const G_DELAY: usize = 3;
pub(crate) const G_TX: usize = 4;
pub(crate) const G_POP: usize = 5;
pub(crate) const G_DEAD: usize = 6;
const GROUPS: [&str; 7] = ["g-pull", "g-late", "g-order", "g-delay", "g-tx", "g-pop", "g-dead"];

/// Which queues a pulling group reads.
pub(crate) fn queues_of(group: usize) -> &'static [usize] {
    match group {
        G_PULL => &[0, 1, RETRY],
        G_LATE => &[0, 1],
        G_ORDER => &ORDERS,
        G_DELAY => &[DELAYS],
        G_TX => &[TX],
        G_POP => &[POPS],
        _ => &[DEAD],
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    pub(crate) attempt: u32,
    pub(crate) key: Option<String>,
    pub(crate) at: u64,
}

/// What a process does next, one operation each.
#[derive(Clone, Debug)]
pub(crate) enum Todo {
    Send { queue: usize, value: Value, key: Option<String>, due: Option<u64> },
    Half(Value),
    End { value: Value, commit: Option<bool>, asked: bool },
    Recall(Value),
    Consume { queue: usize, offset: u64, stored: Stored },
    Commit { queue: usize, offset: u64 },
    Ack { offset: u64, lease: u64 },
    Change { offset: u64, lease: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Producer(usize),
    Pull(usize),
    Order,
    Pop,
    Chaos,
    Admin,
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) role: Role,
    pub(crate) next: u64,
    pub(crate) free: u64,
    pub(crate) todo: VecDeque<Todo>,
    pub(crate) number: u32,
    /// Positions of the queues it reads.
    pub(crate) reads: BTreeMap<usize, u64>,
    /// Its locks' ends.
    pub(crate) locks: BTreeMap<usize, u64>,
}

/// Something that the broker does at its time: append, unless the key has gone.
pub(crate) struct Timer {
    pub(crate) at: u64,
    pub(crate) queue: usize,
    pub(crate) stored: Stored,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PopState {
    pub(crate) until: u64,
    pub(crate) lease: u64,
    pub(crate) acked: bool,
    pub(crate) attempt: u32,
}

pub(crate) struct Model {
    pub(crate) rng: Rng,
    pub(crate) events: Vec<Event>,
    pub(crate) now: u64,
    pub(crate) end: u64,
    pub(crate) config: Config,
    pub(crate) processes: Vec<Process>,
    pub(crate) logs: Vec<Vec<Stored>>,
    pub(crate) timers: Vec<Timer>,
    /// Per group and queue: commits with their times, the last one counts.
    pub(crate) committed: BTreeMap<(usize, usize), Vec<(u64, u64)>>,
    pub(crate) pops: Vec<PopState>,
    pub(crate) leases: u64,
    /// Half messages that are not ended, and what their producer means to do.
    pub(crate) open: BTreeMap<u32, (Value, bool, u64)>,
    pub(crate) locks: BTreeMap<usize, (u32, u64)>,
    pub(crate) epoch: u64,
    pub(crate) master: u32,
    /// Until when there is no master.
    pub(crate) down_until: u64,
    pub(crate) broken: bool,
    pub(crate) fault_at: u64,
    pub(crate) skew: u64,
    pub(crate) late_started: bool,
}

impl Model {
    pub(crate) fn new(seed: u64, length: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mode = if seed % 3 == 2 { Mode::Async } else { Mode::Sync };
        let config = Config { flush: mode, loss_window: 200 * MS, loss_count_max: 50, retries_max: RETRIES, drain_rate_min: 5, ..Config::default() };
        let roles = [
            (1, Role::Producer(0)),
            (2, Role::Producer(0)),
            (3, Role::Producer(2)),
            (4, Role::Producer(DELAYS)),
            (5, Role::Producer(TX)),
            (6, Role::Producer(POPS)),
            (11, Role::Pull(G_PULL)),
            (12, Role::Pull(G_PULL)),
            (13, Role::Pull(G_LATE)),
            (21, Role::Order),
            (22, Role::Order),
            (31, Role::Pull(G_DELAY)),
            (41, Role::Pull(G_TX)),
            (51, Role::Pop),
            (52, Role::Pop),
            (61, Role::Pull(G_DEAD)),
            (90, Role::Chaos),
            (91, Role::Admin),
        ];
        let process = |(id, role)| {
            let (todo, reads, locks) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
            let next = SECOND + rng.below(SECOND);
            Process { id, role, next, free: 0, todo, number: 0, reads, locks }
        };
        let processes = roles.map(process).to_vec();
        let committed = (0..GROUPS.len()).flat_map(|group| queues_of(group).iter().map(move |queue| ((group, *queue), vec![(0, 0)]))).collect();
        Self {
            rng,
            events: Vec::new(),
            now: 0,
            end: length,
            config,
            processes,
            logs: vec![Vec::new(); TOPICS.len()],
            timers: Vec::new(),
            committed,
            pops: Vec::new(),
            leases: 0,
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            epoch: 1,
            master: 0,
            down_until: 0,
            broken: false,
            fault_at: 0,
            skew: 0,
            late_started: false,
        }
    }

    pub(crate) fn run(&mut self) {
        self.begin();
        let mut quiet_since = None;
        loop {
            let at = (0..self.processes.len()).min_by_key(|at| self.processes[*at].next).expect("there are processes");
            self.now = self.processes[at].next;
            self.fire();
            self.step(at);
            let process = &mut self.processes[at];
            process.next = process.next.max(process.free) + 1 + self.rng.below(20 * MS);
            if self.is_quiet() {
                // What is still held by a lease or a dead consumer's lock comes meanwhile.
                if self.now > *quiet_since.get_or_insert(self.now) + SECOND {
                    break;
                }
            } else {
                quiet_since = None;
            }
            assert!(self.now < self.end + 1000 * SECOND, "the model does not come to an end");
        }
        self.finish();
    }

    fn begin(&mut self) {
        self.mark(What::Configure(self.config.clone()));
        self.node(0, NodeEvent::Master { epoch: 1, start: CommitLogOffset(0) });
        for group in (0..GROUPS.len()).filter(|group| *group != G_LATE) {
            self.start(group);
        }
        self.now = SECOND / 2;
    }

    pub(crate) fn start(&mut self, group: usize) {
        let mut topics: Vec<_> = queues_of(group).iter().map(|queue| topic(*queue)).filter(|topic| topic.retry_group().is_none()).collect();
        topics.dedup();
        for topic in topics {
            self.mark(What::Started(Started { group: name(group), topic }));
        }
    }

    fn is_quiet(&self) -> bool {
        let consumed = self
            .committed
            .iter()
            .all(|((group, queue), commits)| *group == G_POP || commits.last().expect("begins with one").1 == self.logs[*queue].len() as u64);
        let popped = self.pops.len() == self.logs[POPS].len() && self.pops.iter().all(|pop| pop.acked);
        let idle = self.processes.iter().all(|process| process.todo.is_empty());
        self.now > self.end + SECOND && !self.broken && consumed && popped && idle && self.timers.is_empty() && self.open.is_empty()
    }

    /// Does what is due at the broker.
    fn fire(&mut self) {
        if self.is_down() {
            return;
        }
        let (due, later) = std::mem::take(&mut self.timers).into_iter().partition(|timer| timer.at <= self.now);
        self.timers = later;
        let due: Vec<Timer> = due;
        for mut timer in due {
            timer.stored.at = self.now;
            self.logs[timer.queue].push(timer.stored);
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.now < self.down_until
    }

    /// Whether an operation meets no answer, more often while something is broken.
    pub(crate) fn goes_wrong(&mut self) -> bool {
        let percent = if self.broken { 30 } else { 3 };
        self.rng.percent(percent)
    }

    pub(crate) fn clock(&self) -> u64 {
        self.now + self.skew
    }

    /// Writes an operation that takes effect now, and returns when it is done.
    pub(crate) fn op(&mut self, at: usize, what: What, answered: bool) -> u64 {
        let slow = if answered { 3 * MS } else { SECOND };
        let before = self.rng.below(3 * MS);
        let done = self.now + 1 + self.rng.below(slow);
        let by = answered.then_some(By { node: Node { shard: 0, id: self.master }, epoch: self.epoch });
        let process = &mut self.processes[at];
        assert!(process.free <= self.now, "one thing at a time");
        let invoke = (self.now - before).max(process.free);
        process.free = done + 1;
        self.events.push(Event { invoke, done, process: process.id, by, what });
        done
    }

    /// Writes what takes no time and asks nobody.
    pub(crate) fn local(&mut self, at: usize, what: What) {
        let process = &mut self.processes[at];
        let now = self.now.max(process.free);
        process.free = now + 1;
        self.events.push(Event { invoke: now, done: now, process: process.id, by: None, what });
    }

    pub(crate) fn mark(&mut self, what: What) {
        self.events.push(Event { invoke: self.now, done: self.now, process: 0, by: None, what });
    }

    pub(crate) fn node(&mut self, id: u32, event: NodeEvent) {
        self.mark(What::Node { node: Node { shard: 0, id }, event });
    }

    pub(crate) fn value(&mut self, at: usize) -> Value {
        let process = &mut self.processes[at];
        process.number += 1;
        let (process, number) = (process.id, process.number);
        Value { process, number, body: self.rng.next() as u32, properties: self.rng.next() as u32 }
    }

    pub(crate) fn committed(&self, group: usize, queue: usize) -> u64 {
        self.committed[&(group, queue)].last().expect("begins with one").1
    }

    pub(crate) fn log_end(&self) -> u64 {
        self.logs.iter().map(Vec::len).sum::<usize>() as u64 * 100
    }

    fn finish(&mut self) {
        self.now += 10 * SECOND;
        if !self.late_started {
            self.start(G_LATE);
        }
        for group in 0..GROUPS.len() {
            let mut topics: Vec<_> = queues_of(group).iter().map(|queue| topic(*queue)).collect();
            topics.dedup();
            for topic in topics {
                self.now += 1;
                self.mark(What::Drained(Drained { group: name(group), topic }));
            }
        }
        self.digests();
    }
}

pub(crate) fn topic(queue: usize) -> Topic {
    Topic::new(TOPICS[queue].0).expect("legal")
}

pub(crate) fn queue(queue: usize) -> Queue {
    Queue { shard: 0, topic: topic(queue), id: QueueId(TOPICS[queue].1) }
}

pub(crate) fn name(group: usize) -> Group {
    Group::new(GROUPS[group]).expect("legal")
}

pub(crate) fn offset(offset: u64) -> QueueOffset {
    QueueOffset(offset)
}
