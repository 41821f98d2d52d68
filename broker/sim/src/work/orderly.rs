//! Messages with keys, and two consumers that compete for the queues' order locks: whoever holds a lock reads, and renews it; and gives it back now and then.

use crate::{
    client::{Client, PATIENCE, Reply},
    load::{Crew, KEY, Phase, Reading, Sending, about, property, queue, send},
    node,
    talk::{Answer, Request},
};
use sluice_history::{Kind, Lock, LockResult, Revoked, What};
use std::{sync::Arc, time::Duration};

const TOPIC: &str = "steps";
const GROUP: &str = "orderly";
const KEYS: u64 = 8;
/// How long a lock counts that was not renewed; less than the brokers', as in clients.
const LOCK: Duration = Duration::from_secs(30);
const RENEW: Duration = Duration::from_secs(5);

pub(super) fn hire(crew: &mut Crew<'_>) {
    // Each change of master keeps a dead owner's lock for a whole expiry more: longer than what retention leaves.
    if crew.settings.retention.is_some() {
        return;
    }
    let queues = crew.settings.queues;
    crew.begin(GROUP, TOPIC);
    crew.hire("keyed", move |mut client, phase| {
        let mut number = 0;
        while !phase.is_over() {
            number += 1;
            let key = client.random(KEYS);
            // Sent again it would be out of order.
            let plain = Sending::plain(TOPIC, (key % u64::from(queues)) as u32, number);
            send(&mut client, &Sending { key: Some(format!("k{key}")), properties: property(KEY, &format!("k{key}")), attempts_max: 1, ..plain });
            about(&client, Duration::from_millis(200));
        }
    });
    for id in 0..queues {
        for name in ["left", "right"] {
            let work = move |client: Client, phase: &Arc<Phase>| {
                let name = format!("{name}{id} {}", client.process);
                Holder { client, name, id }.work(phase);
            };
            crew.hire_mortal(name, work);
        }
    }
}

/// A consumer that holds a queue's lock or wants it.
struct Holder {
    client: Client,
    name: String,
    id: u32,
}

impl Holder {
    fn work(mut self, phase: &Phase) {
        while !self.hold(phase) {
            about(&self.client, Duration::from_secs(1));
        }
    }

    /// Reads as long as it has the lock, for a while; whether everything is read.
    fn hold(&mut self, phase: &Phase) -> bool {
        let Some(mut until) = self.lock() else { return false };
        let reading = Reading { group: GROUP, topic: TOPIC, queue: self.id, kind: Kind::Orderly };
        let mut next = reading.begin(&mut self.client);
        let end = self.client.history.now() + (3 + self.client.random(20)) * 1_000_000_000;
        let mut is_all = false;
        // What can't come back within the lock's time is not asked for any more.
        while !is_all && self.client.history.now() < end && self.client.history.now() + nanos(PATIENCE * 3) < until {
            if until - self.client.history.now() < nanos(LOCK - RENEW) {
                until = self.lock().unwrap_or(0);
                continue;
            }
            let Some(pulled) = reading.pull(&mut self.client, next) else { continue };
            pulled.came.iter().for_each(|came| reading.succeed(&self.client, came));
            next = pulled.next;
            if pulled.came.is_empty() {
                is_all = pulled.is_end && phase.drains();
            } else {
                reading.commit(&mut self.client, next);
            }
        }
        let of = queue(TOPIC, self.id);
        self.client.history.op(self.client.history.now(), self.client.process, None, What::Revoked(Revoked { group: node::group(GROUP), queue: of }));
        self.unlock();
        is_all
    }

    fn request(&self, take: bool) -> Request {
        Request::Lock { group: GROUP.to_owned(), client: self.name.clone(), topic: TOPIC.to_owned(), queue: self.id, take }
    }

    /// Until when it has the lock, if it has.
    fn lock(&mut self) -> Option<u64> {
        let invoke = self.client.history.now();
        let until = invoke + nanos(LOCK);
        let request = self.request(true);
        let Reply::Answered(_, Answer::Done(is_mine)) = self.client.ask(&request, PATIENCE) else { return None };
        self.note(invoke, if is_mine { LockResult::Granted { until } } else { LockResult::Refused });
        is_mine.then_some(until)
    }

    fn unlock(&mut self) {
        let (invoke, request) = (self.client.history.now(), self.request(false));
        if !matches!(self.client.ask(&request, PATIENCE), Reply::Answered(..)) {
            // It may still arrive, by the connection that was given up, after a lock that is asked for over the next one: that one has to be another client's.
            self.name = format!("{}'", self.name);
        }
        // Whether it was heard or not, it does not count any more.
        self.note(invoke, LockResult::Released);
    }

    fn note(&self, invoke: u64, result: LockResult) {
        let lock = Lock { group: node::group(GROUP), queue: queue(TOPIC, self.id), result };
        self.client.history.op(invoke, self.client.process, None, What::Lock(lock));
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
