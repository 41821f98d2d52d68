//! Producers, and what every process does step by step.

use super::state::{DELAYS, MS, Model, ORDERS, PLAIN, POPS, Role, SECOND, Stored, TX, Timer, Todo, offset, queue};
use sluice_history::{Action, End, Outcome, Recall, SendKind, Sent, Value, What};

impl Model {
    pub(crate) fn step(&mut self, at: usize) {
        if self.processes[at].free > self.now {
            return;
        }
        if let Some(todo) = self.processes[at].todo.pop_front() {
            return self.work(at, todo);
        }
        match self.processes[at].role {
            Role::Producer(queue) if self.now < self.end => self.produce(at, queue),
            Role::Producer(TX) => self.check_back(at),
            Role::Producer(_) => {}
            Role::Pull(group) => self.pull(at, group),
            Role::Order => self.order(at),
            Role::Pop => self.pop(at),
            Role::Chaos => self.chaos(at),
            Role::Admin => self.administer(at),
        }
    }

    fn work(&mut self, at: usize, todo: Todo) {
        match todo {
            Todo::Send { queue, value, key, due } => self.send(at, queue, value, key, due),
            Todo::Half(value) => self.half(at, value),
            Todo::End { value, commit, asked } => self.end_transaction(at, value, commit, asked),
            Todo::Recall(value) => self.recall(at, value),
            Todo::Consume { queue, offset, stored } => self.consume(at, queue, offset, stored),
            Todo::Commit { queue, offset } => self.commit(at, queue, offset),
            Todo::Ack { offset, lease } => self.ack(at, offset, lease),
            Todo::Change { offset, lease } => self.change(at, offset, lease),
        }
    }

    fn produce(&mut self, at: usize, first: usize) {
        let value = self.value(at);
        let todo = match first {
            0 => Todo::Send { queue: PLAIN[self.rng.below(2) as usize], value, key: None, due: None },
            2 => {
                let key = self.rng.below(4);
                Todo::Send { queue: ORDERS[key as usize % 2], value, key: Some(format!("key{key}")), due: None }
            }
            DELAYS => Todo::Send { queue: DELAYS, value, key: None, due: Some(self.clock() + 500 * MS + self.rng.below(3 * SECOND)) },
            TX if self.rng.percent(30) => return self.check_back(at),
            TX => Todo::Half(value),
            _ => Todo::Send { queue: POPS, value, key: None, due: None },
        };
        self.work(at, todo);
        self.processes[at].next += self.rng.below(100 * MS);
    }

    /// What becomes of a request: how its client sees it, and whether it takes effect.
    pub(crate) fn outcome(&mut self) -> (Outcome, bool) {
        if self.is_down() {
            return if self.rng.percent(50) { (Outcome::Unknown, false) } else { (Outcome::Failed, false) };
        }
        if !self.goes_wrong() {
            return (Outcome::Ok, true);
        }
        match self.rng.below(3) {
            0 => (Outcome::Failed, false),
            _ => (Outcome::Unknown, self.rng.percent(50)),
        }
    }

    fn send(&mut self, at: usize, to: usize, value: Value, key: Option<String>, due: Option<u64>) {
        let (outcome, stored) = self.outcome();
        let place = self.logs[to].len() as u64;
        if stored {
            let message = Stored { value, attempt: 0, key: key.clone(), at: self.now };
            match due {
                Some(due) => self.timers.push(Timer { at: (due - self.skew).max(self.now) + self.rng.below(50 * MS), queue: to, stored: message }),
                // Without an answer it may also be stored after the client has given up.
                None if outcome == Outcome::Unknown && self.rng.percent(30) && !ORDERS.contains(&to) => {
                    self.timers.push(Timer { at: self.now + self.rng.below(2 * SECOND), queue: to, stored: message });
                }
                None => self.logs[to].push(message),
            }
        }
        let kind = due.map_or(SendKind::Normal, |due| SendKind::Delayed { due });
        let given = (outcome == Outcome::Ok && due.is_none()).then(|| offset(place));
        let message_id = given.map(|offset| format!("{:08X}{:08X}", value.process, offset.0));
        self.op(
            at,
            What::Send(Sent { queue: queue(to), value, kind, key: key.clone(), message_id, offset: given, attempts: 1, outcome }),
            outcome == Outcome::Ok,
        );
        if outcome != Outcome::Ok && self.rng.percent(70) {
            self.processes[at].todo.push_back(Todo::Send { queue: to, value, key, due });
        } else if outcome == Outcome::Ok && due.is_some() && self.rng.percent(15) {
            self.processes[at].todo.push_back(Todo::Recall(value));
        }
    }

    fn recall(&mut self, at: usize, value: Value) {
        let (mut outcome, done) = self.outcome();
        // A message that was sent twice without an answer may lie there twice.
        let there = self.timers.iter().filter(|timer| timer.queue == DELAYS && timer.stored.value == value).count();
        let was_seen = self.logs[DELAYS].iter().any(|stored| stored.value == value);
        if outcome == Outcome::Ok && (there == 0 || was_seen) {
            outcome = Outcome::Failed;
        } else if done {
            self.timers.retain(|timer| timer.queue != DELAYS || timer.stored.value != value);
        }
        self.op(at, What::Recall(Recall { value, outcome }), outcome == Outcome::Ok);
    }

    fn half(&mut self, at: usize, value: Value) {
        let (outcome, stored) = self.outcome();
        let commits = self.rng.percent(60);
        if stored {
            // The producer that has no answer does not do its part.
            self.open.insert(value.number, (value, commits && outcome == Outcome::Ok, self.now));
        }
        let sent = Sent { queue: queue(TX), value, kind: SendKind::Half, key: None, message_id: None, offset: None, attempts: 1, outcome };
        self.op(at, What::Send(sent), outcome == Outcome::Ok);
        if outcome == Outcome::Ok {
            let commit = self.rng.percent(80).then_some(commits);
            self.processes[at].todo.push_back(Todo::End { value, commit, asked: false });
        }
    }

    fn check_back(&mut self, at: usize) {
        let asked: Vec<_> = self.open.values().filter(|(_, _, since)| since + 3 * SECOND < self.now).cloned().collect();
        if let Some((value, commits, _)) = self.rng.pick(&asked).copied() {
            let commit = self.rng.percent(90).then_some(commits);
            self.end_transaction(at, value, commit, true);
        }
    }

    fn end_transaction(&mut self, at: usize, value: Value, commit: Option<bool>, asked: bool) {
        let (outcome, done) = self.outcome();
        let action = match commit {
            Some(true) => Action::Commit,
            Some(false) => Action::Rollback,
            None => Action::Unknown,
        };
        if done
            && let Some(commit) = commit
            && self.open.remove(&value.number).is_some()
            && commit
        {
            self.logs[TX].push(Stored { value, attempt: 0, key: None, at: self.now });
        }
        self.op(at, What::End(End { value, action, asked, outcome }), outcome == Outcome::Ok);
    }
}
