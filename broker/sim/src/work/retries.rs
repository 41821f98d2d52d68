//! Consumers that fail: what they fail on they send back, and it comes again, after a longer while each time, until they succeed or it is a dead letter.

use super::SETTLE_NANOS;
use crate::{
    client::{Client, PATIENCE, Reply},
    load::{Crew, Phase, Reading, Sending, about, queue, send, value_of},
    node::{self, DELAYS},
    talk::{Answer, Came, Request},
};
use parking_lot::Mutex;
use sluice_env::sim::threads::sleep;
use sluice_history::{Consumed, Kind, Outcome, Value, Verdict, What};
use sluice_types::QueueOffset;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Retries before a message is a dead letter.
pub const RETRIES_MAX: u32 = 3;
const TOPIC: &str = "tasks";
const GROUP: &str = "workers";
const RETRY: &str = "%RETRY%workers";
const DEAD: &str = "%DLQ%workers";
const BURIERS: &str = "buriers";
const QUEUES: u32 = 2;

/// How often a message fails.
fn failures(value: &Value) -> u32 {
    match value.number % 6 {
        0 => u32::MAX,
        1 => 1,
        2 => RETRIES_MAX,
        _ => 0,
    }
}

/// What has failed and has yet to come again.
#[derive(Default)]
struct Ledger {
    awaited: Mutex<BTreeSet<(u32, u32, u32)>>,
    /// Who reads the topic itself.
    workers: AtomicUsize,
    /// When nothing was awaited any more but this.
    since: AtomicU64,
}

impl Ledger {
    fn has_come(&self, came: &Came) {
        let value = value_of(&came.body);
        self.awaited.lock().remove(&(value.process, value.number, came.attempt));
    }

    /// Whether nothing comes any more. What has not come after so long is the judge's to find.
    fn is_done(&self, phase: &Phase, now: u64) -> bool {
        if !phase.drains() || self.workers.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let since = self.since.load(Ordering::SeqCst);
        if since == 0 {
            self.since.store(now, Ordering::SeqCst);
            return false;
        }
        self.awaited.lock().is_empty() || now > since + SETTLE_NANOS
    }
}

pub(super) fn hire(crew: &mut Crew<'_>) {
    crew.begin(GROUP, TOPIC);
    crew.begin(BURIERS, DEAD);
    let ledger = Arc::<Ledger>::default();
    let calendars_jump = crew.settings.calendars_jump;
    crew.hire("tasking", |mut client, phase| {
        let mut number = 0;
        while !phase.is_over() {
            number += 1;
            let queue = client.random(QUEUES.into()) as u32;
            send(&mut client, &Sending::plain(TOPIC, queue, number));
            about(&client, Duration::from_millis(500));
        }
    });
    for queue in 0..QUEUES {
        let ledger = ledger.clone();
        ledger.workers.fetch_add(1, Ordering::SeqCst);
        crew.hire_mortal("worker", move |mut client, phase| {
            let worker = Worker { reading: Reading { group: GROUP, topic: TOPIC, queue, kind: Kind::Pull }, ledger: &ledger, calendars_jump };
            worker.reading.work_until(&mut client, || phase.drains(), |client, came| worker.work(client, came));
            ledger.workers.fetch_sub(1, Ordering::SeqCst);
        });
    }
    let (again, dead) = (ledger.clone(), ledger);
    crew.hire_mortal("worker again", move |mut client, phase| {
        let worker = Worker { reading: Reading { group: GROUP, topic: RETRY, queue: 0, kind: Kind::Pull }, ledger: &again, calendars_jump };
        let history = client.history.clone();
        worker.reading.work_until(&mut client, || again.is_done(phase, history.now()), |client, came| worker.work(client, came));
    });
    crew.hire_mortal("burier", move |mut client, phase| {
        let reading = Reading { group: BURIERS, topic: DEAD, queue: 0, kind: Kind::Pull };
        let history = client.history.clone();
        let bury = |client: &mut Client, came: &Came| {
            dead.has_come(came);
            reading.succeed(client, came);
        };
        reading.work_until(&mut client, || dead.is_done(phase, history.now()), bury);
    });
}

/// A consumer of one queue.
struct Worker<'a> {
    reading: Reading<'a>,
    ledger: &'a Ledger,
    calendars_jump: bool,
}

impl Worker<'_> {
    fn work(&self, client: &mut Client, came: &Came) {
        self.ledger.has_come(came);
        let value = value_of(&came.body);
        if came.attempt >= failures(&value) {
            return self.reading.succeed(client, came);
        }
        self.ledger.awaited.lock().insert((value.process, value.number, came.attempt + 1));
        while !self.send_back(client, came, value) {
            sleep(Duration::from_millis(100));
        }
    }

    /// Whether a broker has taken it back.
    fn send_back(&self, client: &mut Client, came: &Came, value: Value) -> bool {
        let attempt = came.attempt;
        let delay = DELAYS.get(attempt as usize + 2).filter(|_| attempt < RETRIES_MAX && !self.calendars_jump);
        let due = delay.map(|seconds| client.wall_nanos() + seconds * 1_000_000_000);
        let later = |outcome| {
            What::Consumed(Consumed {
                group: node::group(GROUP),
                queue: queue(self.reading.topic, self.reading.queue),
                offset: QueueOffset(came.offset),
                value,
                attempt,
                orderly: false,
                verdict: Verdict::Later,
                due,
                outcome,
            })
        };
        let invoke = client.begins(later(Outcome::Unknown));
        let request = Request::Back { group: GROUP.to_owned(), place: came.place, retries_max: RETRIES_MAX };
        let (by, outcome) = match client.ask(&request, PATIENCE) {
            Reply::Answered(by, Answer::Done(_)) => (Some(by), Outcome::Ok),
            Reply::Answered(_, Answer::Refused { is_unknown: false, .. }) | Reply::Nobody => (None, Outcome::Failed),
            Reply::Answered(..) | Reply::Lost => (None, Outcome::Unknown),
        };
        client.ends(invoke, by, later(outcome));
        outcome == Outcome::Ok
    }
}
