//! What goes wrong, and what an administrator does meanwhile.

use super::state::{G_LATE, G_PULL, MS, Model, PLAIN, Role, SECOND, name, offset, queue, queues_of};
use sluice_history::{Digest, Fetched, Node, NodeEvent, Outcome, Place, What};
use sluice_types::CommitLogOffset;

impl Model {
    pub(crate) fn chaos(&mut self, at: usize) {
        self.processes[at].next += SECOND / 2 + self.rng.below(SECOND);
        if self.broken {
            if self.now > self.fault_at + 3 * SECOND {
                self.repair();
            }
            return;
        }
        if self.now > self.end {
            return;
        }
        if !self.late_started && self.now > self.end / 3 {
            self.start(G_LATE);
            self.late_started = true;
        }
        match self.rng.below(10) {
            0..2 => self.fail_over(),
            2..5 => {
                let consumers: Vec<_> = (0..self.processes.len()).filter(|at| self.is_consumer(*at) && self.processes[*at].free <= self.now).collect();
                if let Some(at) = self.rng.pick(&consumers).copied() {
                    self.kill(at);
                }
            }
            5 => {
                let to = CommitLogOffset(self.log_end());
                self.node(self.master, NodeEvent::Confirmed { to });
            }
            _ => {}
        }
    }

    fn fail_over(&mut self) {
        (self.broken, self.fault_at) = (true, self.now);
        let (old, name) = (self.master, "power cut of the master".to_owned());
        self.mark(What::FaultBegin { name });
        self.node(old, NodeEvent::PowerCut);
        if self.config.flush == sluice_history::Mode::Async {
            self.lose();
        }
        self.down_until = self.now + 200 * MS + self.rng.below(SECOND);
        self.epoch += 1;
        self.master = (old + 1 + self.rng.below(2) as u32) % 3;
        self.skew += self.rng.below(20 * MS);
        let (master, epoch, to) = (self.master, self.epoch, CommitLogOffset(self.log_end()));
        self.node(old, NodeEvent::Cut { to });
        self.node(master, NodeEvent::Master { epoch, start: to });
    }

    /// The end of the plain queues that nobody has seen, and what was committed there last.
    fn lose(&mut self) {
        let since = self.now - 150 * MS;
        for at in PLAIN {
            let read = self.processes.iter().filter_map(|process| process.reads.get(&at)).copied();
            let committed = [G_PULL, G_LATE].map(|group| self.committed[&(group, at)].iter().map(|commit| commit.1).max().unwrap_or(0));
            let seen = read.chain(committed).max().unwrap_or(0).max(self.seen_up_to(at));
            let keep = self.logs[at].iter().position(|stored| stored.at >= since).unwrap_or(self.logs[at].len()).max(seen as usize);
            self.logs[at].truncate(keep);
            let commits = self.committed.get_mut(&(G_PULL, at)).expect("is read");
            while commits.len() > 1 && commits.last().is_some_and(|commit| commit.0 >= since) {
                commits.pop();
            }
        }
        // Who reads on does so from what is committed now.
        for process in self.processes.iter_mut().filter(|process| process.role == Role::Pull(G_PULL) && process.todo.is_empty()) {
            process.reads.clear();
        }
    }

    fn seen_up_to(&self, at: usize) -> u64 {
        let queue = queue(at);
        let seen = self.events.iter().rev().take(5000).filter_map(|event| match &event.what {
            What::Deliver(deliver) if deliver.queue == queue => Some(deliver.offset.0 + 1),
            _ => None,
        });
        seen.max().unwrap_or(0)
    }

    fn repair(&mut self) {
        self.broken = false;
        let name = "power cut of the master".to_owned();
        self.mark(What::FaultEnd { name });
        self.mark(What::Heal);
    }

    pub(crate) fn administer(&mut self, at: usize) {
        self.processes[at].next += SECOND;
        if self.is_down() {
            return;
        }
        let group = self.rng.below(5) as usize;
        let Some(from) = self.rng.pick(queues_of(group)).copied() else { return };
        let committed = self.committed(group, from);
        if group == G_PULL && self.now < self.end && self.rng.percent(20) {
            let back = self.rng.below(10);
            return self.reset(at, from, committed.saturating_sub(back));
        }
        self.op(at, What::Fetched(Fetched { group: name(group), queue: queue(from), offset: offset(committed) }), true);
    }

    fn reset(&mut self, at: usize, from: usize, to: u64) {
        let now = self.now;
        self.committed.entry((G_PULL, from)).or_default().push((now, to));
        for process in self.processes.iter_mut().filter(|process| process.role == Role::Pull(G_PULL)) {
            if let Some(position) = process.reads.get_mut(&from) {
                *position = to;
            }
        }
        let outcome = if self.rng.percent(30) { Outcome::Unknown } else { Outcome::Ok };
        self.op(at, What::Reset(Place { group: name(G_PULL), queue: queue(from), offset: offset(to), outcome }), outcome == Outcome::Ok);
    }

    /// All nodes hold the same.
    pub(crate) fn digests(&mut self) {
        let end = self.log_end();
        for (from, to) in [(0, end / 2), (end / 2, end)] {
            let (log, index) = (self.rng.next(), self.rng.next());
            for id in 0..3 {
                let node = Node { shard: 0, id };
                let (from, to) = (CommitLogOffset(from), CommitLogOffset(to));
                self.mark(What::Digest(Digest { node, from, to, log, index_stored: index, index_rebuilt: index }));
            }
        }
    }
}
