//! Half messages that their producers commit or roll back, at once or when they are asked, or say nothing of. What becomes of a message lies in its number, so any of
//! the producers can answer for it. One more client looks that each half message is asked about until its transaction ends (R2).

use super::SETTLE_NANOS;
use crate::{
    client::{Client, PATIENCE, Reply},
    load::{Crew, Phase, Reading, Sending, property, send, value_of},
    talk::{Answer, Question, Request},
};
use parking_lot::Mutex;
use sluice_env::sim::threads::sleep;
use sluice_history::{Action, End, Kind, Outcome, SendKind, Value, What};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const TOPIC: &str = "deals";
const GROUP: &str = "settlers";
const PRODUCERS: &str = "dealers";
/// Where a broker puts what it has asked about in vain.
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
const QUEUES: u32 = 2;
const PAUSE: Duration = Duration::from_millis(400);
const BEAT: Duration = Duration::from_secs(3);

/// What a producer says about its half message.
struct Plan {
    /// What becomes of it.
    action: Action,
    /// Whether the producer says so unasked.
    is_said: bool,
    /// Questions that are answered with "not known yet".
    unknown: u32,
}

fn plan(value: &Value) -> Plan {
    let plan = |action, is_said, unknown| Plan { action, is_said, unknown };
    match value.number % 10 {
        0..=2 => plan(Action::Commit, true, 0),
        3 | 4 => plan(Action::Rollback, true, 0),
        5 => plan(Action::Commit, false, 0),
        6 => plan(Action::Rollback, false, 0),
        7 => plan(Action::Commit, false, 1),
        8 => plan(Action::Rollback, false, 2),
        _ => plan(Action::Unknown, false, u32::MAX),
    }
}

/// What is known of all the half messages together.
#[derive(Default)]
struct Ledger {
    all: Mutex<BTreeMap<(u32, u32), Deal>>,
    /// Nobody is asked any more.
    is_closed: AtomicBool,
    dealers: AtomicUsize,
}

#[derive(Default)]
struct Deal {
    /// When its half message was acknowledged.
    acknowledged: Option<u64>,
    /// Somebody has tried to end it.
    is_tried: bool,
}

impl Ledger {
    fn with(&self, value: &Value, change: impl FnOnce(&mut Deal)) {
        change(self.all.lock().entry((value.process, value.number)).or_default());
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }
}

pub(super) fn hire(crew: &mut Crew<'_>) {
    crew.begin(GROUP, TOPIC);
    let ledger = Arc::<Ledger>::default();
    for _ in 0..2 {
        let ledger = ledger.clone();
        ledger.dealers.fetch_add(1, Ordering::SeqCst);
        crew.hire_mortal("dealer", move |client, phase| {
            Dealer { client, ledger: &ledger, beaten: None }.work(phase);
            ledger.dealers.fetch_sub(1, Ordering::SeqCst);
        });
    }
    for queue in 0..QUEUES {
        let ledger = ledger.clone();
        crew.hire_mortal("settler", move |mut client, phase| {
            let reading = Reading { group: GROUP, topic: TOPIC, queue, kind: Kind::Pull };
            reading.consume_until(&mut client, || phase.drains() && ledger.dealers.load(Ordering::SeqCst) == 0);
        });
    }
    crew.hire("notary", move |mut client, phase| {
        // All the time, for retention removes what is old.
        let mut next = 0;
        while !phase.drains() {
            read_given_up(&mut client, &mut next, &ledger);
            sleep(Duration::from_secs(1));
        }
        look_for_forgotten(&mut client, phase, &ledger, next);
        ledger.is_closed.store(true, Ordering::SeqCst);
    });
}

/// A producer.
struct Dealer<'a> {
    client: Client,
    ledger: &'a Ledger,
    /// When it has sent its last heartbeat, and over which connection.
    beaten: Option<(u64, u64)>,
}

impl Dealer<'_> {
    fn work(mut self, phase: &Phase) {
        let mut number = 0;
        while !self.ledger.is_closed() {
            self.beat();
            if !phase.is_over() {
                number += 1;
                self.deal(number);
            }
            self.answer_for(PAUSE.mul_f64(0.5 + self.client.random(100) as f64 / 100.0));
        }
    }

    /// Tells who it is, to a broker that does not know it or has not heard it for a while.
    fn beat(&mut self) {
        let now = self.client.history.now();
        if self.beaten.is_some_and(|(at, over)| over == self.client.connections() && now < at + BEAT.as_nanos() as u64) {
            return;
        }
        let beat = Request::Beat { group: PRODUCERS.to_owned(), client: format!("dealer{}", self.client.process) };
        if let Reply::Answered(_, Answer::Done(_)) = self.client.ask(&beat, PATIENCE) {
            self.beaten = Some((self.client.history.now(), self.client.connections()));
        }
    }

    fn deal(&mut self, number: u32) {
        let queue = self.client.random(QUEUES.into()) as u32;
        let id = format!("{}-{number}", self.client.process);
        let properties = property("TRAN_MSG", "true") + &property("PGROUP", PRODUCERS) + &property("UNIQ_KEY", &id);
        let half = Sending { kind: SendKind::Half, properties, ..Sending::plain(TOPIC, queue, number) };
        let Some(Answer::Sent { offset, place, .. }) = send(&mut self.client, &half) else { return };
        let (value, now) = (half.value(&self.client), self.client.history.now());
        self.ledger.with(&value, |deal| deal.acknowledged = Some(now));
        let plan = plan(&value);
        if plan.is_said {
            self.end(value, (offset, place, id), plan.action, false);
        }
    }

    /// Answers questions for that time.
    fn answer_for(&mut self, time: Duration) {
        let until = self.client.history.now() + time.as_nanos() as u64;
        loop {
            let left = until.saturating_sub(self.client.history.now());
            let Some(Question { offset, place, id, body, times }) = self.client.listen(Duration::from_nanos(left)) else { return };
            let value = value_of(&body);
            let plan = plan(&value);
            let action = if times <= plan.unknown { Action::Unknown } else { plan.action };
            self.end(value, (offset, place, id), action, true);
        }
    }

    fn end(&mut self, value: Value, (offset, place, id): (u64, i64, String), action: Action, asked: bool) {
        if action != Action::Unknown {
            self.ledger.with(&value, |deal| deal.is_tried = true);
        }
        let end = |outcome| What::End(End { value, action, asked, outcome });
        let invoke = self.client.begins(end(Outcome::Unknown));
        let request = Request::Finish { group: PRODUCERS.to_owned(), offset, place, id, action };
        let (by, outcome) = match self.client.ask(&request, PATIENCE) {
            Reply::Answered(by, Answer::Done(true)) => (Some(by), Outcome::Ok),
            Reply::Answered(_, Answer::Refused { is_unknown: false, .. }) | Reply::Nobody => (None, Outcome::Failed),
            // By an end whose answer was lost, or given up: that it had ended before says nothing of how.
            Reply::Answered(by, _) => (Some(by), Outcome::Unknown),
            Reply::Lost => (None, Outcome::Unknown),
        };
        self.client.ends(invoke, by, end(outcome));
    }
}

/// R2: a half message that is acknowledged is asked about until somebody ends its transaction, or it is given up.
fn look_for_forgotten(client: &mut Client, phase: &Phase, ledger: &Ledger, mut next: u64) {
    let until = client.history.now() + SETTLE_NANOS;
    loop {
        read_given_up(client, &mut next, ledger);
        let left: Vec<_> = {
            let all = ledger.all.lock();
            all.iter().filter(|(_, deal)| !deal.is_tried).filter_map(|(value, deal)| Some((*value, deal.acknowledged?))).collect()
        };
        let Some(((process, number), at)) = left.first().copied() else { return };
        if client.history.now() > until {
            let count = left.len();
            phase.found(format!("R2: the half message {process}·{number} was acknowledged at {at} ns and never asked about nor given up, as {count} in all"));
            return;
        }
        sleep(Duration::from_secs(1));
    }
}

/// What a broker has given up need not be asked about.
fn read_given_up(client: &mut Client, next: &mut u64, ledger: &Ledger) {
    loop {
        let request = Request::Pull { group: "notary".to_owned(), topic: GIVEN_UP.to_owned(), queue: 0, offset: *next, hold_ms: 0 };
        let Reply::Answered(_, Answer::Messages { came, next: then, .. }) = client.ask(&request, PATIENCE) else { return };
        came.iter().for_each(|came| ledger.with(&value_of(&came.body), |deal| deal.is_tried = true));
        if came.is_empty() && then == *next {
            return;
        }
        *next = then;
    }
}
