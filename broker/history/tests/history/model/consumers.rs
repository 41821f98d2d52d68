//! Consumers: pulling, orderly and by POP.

use super::state::{
    DEAD, G_DEAD, G_LATE, G_ORDER, G_POP, G_PULL, MS, Model, ORDERS, POPS, PopState, RETRIES, RETRY, Role, SECOND, Stored, Timer, Todo, name, offset, queue,
    queues_of,
};
use sluice_history::{Ack, Change, Consumed, Deliver, Fetched, Kind, Lease, Lock, LockResult, Outcome, Place, Revoked, Verdict, What};

impl Model {
    fn group_of(&self, at: usize) -> usize {
        match self.processes[at].role {
            Role::Pull(group) => group,
            Role::Order => G_ORDER,
            _ => G_POP,
        }
    }

    fn deliver(&mut self, at: usize, from: usize, place: u64, kind: Kind, lease: Option<Lease>, attempt: u32) {
        let stored = self.logs[from][place as usize].clone();
        let group = name(self.group_of(at));
        let deliver = Deliver {
            group,
            queue: queue(from),
            offset: offset(place),
            record: Default::default(),
            value: stored.value,
            kind,
            key: stored.key,
            attempt,
            lease,
            clock: self.clock(),
        };
        self.op(at, What::Deliver(deliver), true);
    }

    pub(crate) fn pull(&mut self, at: usize, group: usize) {
        if self.is_down() || (group == G_LATE && !self.late_started) {
            return;
        }
        let reads: Vec<_> = queues_of(group).to_vec();
        let Some(from) = self.rng.pick(&reads).copied() else { return };
        let id = self.processes[at].id;
        let owner = self.processes.iter().find(|process| process.role == Role::Pull(group) && process.reads.contains_key(&from)).map(|process| process.id);
        match owner {
            None => self.assign(at, group, from),
            Some(owner) if owner == id => {
                // Sometimes a queue goes to another one, with or without a last commit.
                if group == G_PULL && self.rng.percent(3) {
                    if self.rng.percent(50) {
                        let position = self.processes[at].reads[&from];
                        return self.commit(at, from, position);
                    }
                    self.processes[at].reads.remove(&from);
                    return self.local(at, What::Revoked(Revoked { group: name(group), queue: queue(from) }));
                }
                self.pull_batch(at, from);
            }
            Some(_) => {}
        }
    }

    fn assign(&mut self, at: usize, group: usize, from: usize) {
        let position = self.committed(group, from);
        self.processes[at].reads.insert(from, position);
        self.op(at, What::Assigned(Fetched { group: name(group), queue: queue(from), offset: offset(position) }), true);
    }

    fn pull_batch(&mut self, at: usize, from: usize) {
        let position = self.processes[at].reads[&from];
        let end = self.logs[from].len() as u64;
        if position >= end {
            if self.committed(self.group_of(at), from) != position {
                self.commit(at, from, position);
            }
            return;
        }
        let count = (end - position).min(1 + self.rng.below(3));
        let first = self.events.len();
        for place in position..position + count {
            let stored = self.logs[from][place as usize].clone();
            // One answer for all of them.
            self.processes[at].free = self.processes[at].free.min(self.now);
            self.deliver(at, from, place, Kind::Pull, None, stored.attempt);
            self.processes[at].todo.push_back(Todo::Consume { queue: from, offset: place, stored });
        }
        let (invoke, done) = (self.events[first].invoke, self.events[first].done);
        self.events[first..].iter_mut().for_each(|event| (event.invoke, event.done) = (invoke, done));
        self.processes[at].free = done + 1;
        if self.rng.percent(50) {
            self.processes[at].todo.make_contiguous().reverse();
        }
        self.processes[at].reads.insert(from, position + count);
        if self.rng.percent(70) {
            self.processes[at].todo.push_back(Todo::Commit { queue: from, offset: position + count });
        }
    }

    pub(crate) fn consume(&mut self, at: usize, from: usize, place: u64, stored: Stored) {
        let group = self.group_of(at);
        if group == G_ORDER {
            return self.consume_orderly(at, from, place, stored);
        }
        let fails = group == G_PULL && self.rng.percent(if stored.attempt > 0 { 50 } else { 8 });
        let attempt = stored.attempt + 1;
        let (to, delay) = if attempt > RETRIES { (DEAD, 0) } else { (RETRY, SECOND / 4 * u64::from(attempt)) };
        let due = (fails && to == RETRY).then_some(self.clock() + delay);
        let consumed = |verdict, outcome| {
            What::Consumed(Consumed {
                group: name(group),
                queue: queue(from),
                offset: offset(place),
                value: stored.value,
                attempt: stored.attempt,
                orderly: false,
                verdict,
                due,
                outcome,
            })
        };
        if !fails {
            return self.local(at, consumed(Verdict::Success, Outcome::Ok));
        }
        let (outcome, done) = self.outcome();
        if done {
            self.timers.push(Timer { at: self.now + delay, queue: to, stored: Stored { attempt: attempt.min(RETRIES), ..stored.clone() } });
        }
        self.op(at, consumed(Verdict::Later, outcome), outcome == Outcome::Ok);
        if outcome != Outcome::Ok {
            // The consumer makes sure.
            self.processes[at].todo.push_front(Todo::Consume { queue: from, offset: place, stored });
        }
    }

    pub(crate) fn commit(&mut self, at: usize, from: usize, place: u64) {
        let group = self.group_of(at);
        let (outcome, done) = self.outcome();
        let set_back = self.processes[at].reads.get(&from).is_none_or(|position| *position < place);
        if done && !set_back && place > self.committed(group, from) {
            let now = self.now;
            self.committed.entry((group, from)).or_default().push((now, place));
        }
        // After a reset the broker leaves out what was committed before it was known.
        let outcome = if set_back { Outcome::Failed } else { outcome };
        self.op(at, What::Commit(Place { group: name(group), queue: queue(from), offset: offset(place), outcome }), outcome == Outcome::Ok);
    }

    pub(crate) fn order(&mut self, at: usize) {
        let from = ORDERS[self.rng.below(2) as usize];
        if self.is_down() {
            return;
        }
        let (id, now) = (self.processes[at].id, self.now);
        let holder = self.locks.get(&from).copied().filter(|(_, until)| *until > now);
        match holder {
            Some((holder, until)) if holder == id && self.processes[at].locks.contains_key(&from) => {
                if until < now + SECOND || self.rng.percent(4) {
                    return self.unlock(at, from);
                }
                self.pull_orderly(at, from);
            }
            Some((holder, _)) if holder != id => self.lock_op(at, from, LockResult::Refused),
            // What a consumer that died held ends by itself.
            Some(_) => {}
            None => {
                let until = now + 10 * SECOND;
                self.locks.insert(from, (id, until));
                self.processes[at].locks.insert(from, until);
                self.lock_op(at, from, LockResult::Granted { until });
                self.now = self.processes[at].free;
                self.assign(at, G_ORDER, from);
            }
        }
    }

    fn lock_op(&mut self, at: usize, from: usize, result: LockResult) {
        self.op(at, What::Lock(Lock { group: name(G_ORDER), queue: queue(from), result }), true);
    }

    pub(crate) fn unlock(&mut self, at: usize, from: usize) {
        self.processes[at].locks.remove(&from);
        self.processes[at].reads.remove(&from);
        self.locks.remove(&from);
        self.lock_op(at, from, LockResult::Released);
    }

    fn pull_orderly(&mut self, at: usize, from: usize) {
        let Some(place) = self.processes[at].reads.get(&from).copied() else { return };
        if place < self.logs[from].len() as u64 {
            let stored = self.logs[from][place as usize].clone();
            self.deliver(at, from, place, Kind::Orderly, None, stored.attempt);
            self.processes[at].todo.push_back(Todo::Consume { queue: from, offset: place, stored });
        } else if self.committed(G_ORDER, from) != place {
            self.commit(at, from, place);
        }
    }

    fn consume_orderly(&mut self, at: usize, from: usize, place: u64, stored: Stored) {
        let later = stored.attempt < RETRIES && self.rng.percent(8);
        let verdict = if later { Verdict::Later } else { Verdict::Success };
        let consumed = Consumed {
            group: name(G_ORDER),
            queue: queue(from),
            offset: offset(place),
            value: stored.value,
            attempt: stored.attempt,
            orderly: true,
            verdict,
            due: None,
            outcome: Outcome::Ok,
        };
        self.local(at, What::Consumed(consumed));
        if later {
            // Tried again in place.
            self.now = self.processes[at].free;
            self.deliver(at, from, place, Kind::Orderly, None, stored.attempt + 1);
            let stored = Stored { attempt: stored.attempt + 1, ..stored };
            self.processes[at].todo.push_back(Todo::Consume { queue: from, offset: place, stored });
            return;
        }
        self.processes[at].reads.insert(from, place + 1);
        if self.rng.percent(60) {
            self.processes[at].todo.push_back(Todo::Commit { queue: from, offset: place + 1 });
        }
    }

    pub(crate) fn pop(&mut self, at: usize) {
        self.pops.resize(self.logs[POPS].len(), PopState::default());
        if self.is_down() {
            return;
        }
        let now = self.now;
        let Some(place) = self.pops.iter().position(|pop| !pop.acked && pop.until <= now) else { return };
        let invisible = SECOND / 2 + self.rng.below(SECOND);
        self.leases += 1;
        let pop = &mut self.pops[place];
        let attempt = pop.attempt;
        pop.attempt = (attempt + 1).min(RETRIES);
        (pop.until, pop.lease) = (now + invisible, self.leases);
        let clock = self.clock();
        self.deliver(at, POPS, place as u64, Kind::Pop, Some(Lease { from: clock, until: clock + invisible }), attempt);
        let (offset, lease) = (place as u64, self.leases);
        match self.rng.below(100) {
            0..8 if attempt < RETRIES => {}
            8..16 => self.processes[at].todo.push_back(Todo::Change { offset, lease }),
            _ => self.processes[at].todo.push_back(Todo::Ack { offset, lease }),
        }
    }

    pub(crate) fn ack(&mut self, at: usize, place: u64, lease: u64) {
        let (mut outcome, mut done) = self.outcome();
        let pop = &mut self.pops[place as usize];
        if pop.lease != lease || pop.until <= self.now || pop.acked {
            (outcome, done) = (if outcome == Outcome::Ok { Outcome::Failed } else { outcome }, false);
        }
        pop.acked |= done;
        let ack = Ack { group: name(G_POP), queue: queue(POPS), offset: offset(place), clock: self.clock(), outcome };
        self.op(at, What::Ack(ack), outcome == Outcome::Ok);
    }

    pub(crate) fn change(&mut self, at: usize, place: u64, lease: u64) {
        let (mut outcome, mut done) = self.outcome();
        // Longer, or at once visible again.
        let length = if self.rng.percent(50) { 0 } else { SECOND + self.rng.below(500 * MS) };
        let (now, clock) = (self.now, self.clock());
        let pop = &mut self.pops[place as usize];
        if pop.lease != lease || pop.until <= now {
            (outcome, done) = (if outcome == Outcome::Ok { Outcome::Failed } else { outcome }, false);
        }
        if done {
            pop.until = now + length;
        }
        let lease_now = Lease { from: clock, until: clock + length };
        self.op(at, What::Change(Change { group: name(G_POP), queue: queue(POPS), offset: offset(place), lease: lease_now, outcome }), outcome == Outcome::Ok);
        if length > 0 {
            self.processes[at].todo.push_back(Todo::Ack { offset: place, lease });
        }
    }

    /// A consumer process dies with what it had in hand.
    pub(crate) fn kill(&mut self, at: usize) {
        self.processes[at].todo.clear();
        self.processes[at].reads.clear();
        self.processes[at].locks.clear();
        self.local(at, What::Stopped);
    }

    pub(crate) fn is_consumer(&self, at: usize) -> bool {
        matches!(self.processes[at].role, Role::Pull(group) if group != G_DEAD) || matches!(self.processes[at].role, Role::Order | Role::Pop)
    }
}
