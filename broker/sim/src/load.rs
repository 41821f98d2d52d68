//! What the clients of a run have in common: how they are hired and sent home, how messages are sent and read, and how that is written down.

use crate::{
    client::{Client, PATIENCE, Reply},
    guests::Guests,
    history::History,
    node::{self, Settings},
    talk::{Answer, Came, Request},
};
use parking_lot::Mutex;
use sluice_env::sim::threads::{Machine, sleep};
use sluice_history::{By, Consumed, Deliver, Drained, Fetched, Kind, Outcome, Place, Queue, SendKind, Sent, Started, Value, Verdict, What};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What the clients of a run are told, and tell.
#[derive(Default)]
pub struct Phase {
    is_over: AtomicBool,
    drains: AtomicBool,
    at_work: AtomicUsize,
    findings: Mutex<Vec<String>>,
}

impl Phase {
    /// Whether producers end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Lets producers end.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Whether consumers end when they have everything.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    /// Lets consumers end.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::SeqCst);
    }

    /// Whether everybody has ended.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.at_work.load(Ordering::SeqCst) == 0
    }

    /// One has ended.
    pub(crate) fn leave(&self) {
        self.at_work.fetch_sub(1, Ordering::SeqCst);
    }

    /// A client has seen what no history check looks for.
    pub fn found(&self, what: String) {
        self.findings.lock().push(what);
    }

    /// What was found so.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().clone()
    }
}

/// Hires the clients of a run.
pub struct Crew<'a> {
    /// How the brokers are.
    pub settings: &'a Settings,
    /// The history.
    pub history: &'a History,
    /// What the clients are told.
    pub phase: Arc<Phase>,
    machine: &'a Machine,
    guests: &'a Guests,
    groups: Vec<(&'static str, &'static str)>,
}

impl<'a> Crew<'a> {
    /// Nobody yet; all will be on that machine, or guests.
    #[must_use]
    pub fn new(machine: &'a Machine, guests: &'a Guests, settings: &'a Settings, history: &'a History) -> Self {
        Self { settings, history, phase: Arc::default(), machine, guests, groups: Vec::new() }
    }

    /// A group begins to consume a topic: it gets everything.
    pub fn begin(&mut self, group: &'static str, topic: &'static str) {
        self.history.note(What::Started(Started { group: node::group(group), topic: node::topic(topic) }));
        self.groups.push((group, topic));
    }

    /// The groups have got all that they ever will.
    pub fn note_drained(&self) {
        for (group, topic) in &self.groups {
            self.history.note(What::Drained(Drained { group: node::group(group), topic: node::topic(topic) }));
        }
    }

    /// A client at work.
    pub fn hire(&mut self, name: &str, work: impl FnOnce(Client, &Arc<Phase>) + Send + 'static) {
        let client = Client::new(self.machine.env(), self.guests.next_process(), self.settings.members, self.history);
        let phase = self.phase.clone();
        phase.at_work.fetch_add(1, Ordering::SeqCst);
        self.machine.spawn(name, move || {
            work(client, &phase);
            phase.leave();
        });
    }

    /// A client at work that may be killed: then the next one begins the work anew.
    pub fn hire_mortal(&mut self, name: &str, work: impl Fn(Client, &Arc<Phase>) + Send + Sync + 'static) {
        self.phase.at_work.fetch_add(1, Ordering::SeqCst);
        self.guests.take_in(name, &self.phase, Arc::new(work));
    }
}

/// A queue as histories call it.
#[must_use]
pub fn queue(topic: &str, id: u32) -> Queue {
    Queue { shard: 0, topic: node::topic(topic), id: QueueId(id) }
}

/// The body that names a value, of a size that its number decides.
fn body(process: u32, number: u32) -> Vec<u8> {
    let mut body = format!("{process} {number} ").into_bytes();
    body.resize(body.len() + (number as usize * 397 + process as usize) % 2000, b'x');
    body
}

fn value(process: u32, number: u32, body: &[u8]) -> Value {
    Value { process, number, body: crc32fast::hash(body), properties: 0 }
}

/// Two numbers, and a space behind each.
const NAME_BYTES_MAX: usize = 22;

/// The value that a body names; one that nobody sent, if it names none.
#[must_use]
pub fn value_of(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(&body[..body.len().min(NAME_BYTES_MAX)]);
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(u32::MAX));
    let (process, number) = (words.next().unwrap_or(u32::MAX), words.next().unwrap_or(u32::MAX));
    value(process, number, body)
}

/// Half to one and a half of that time, by the seed.
pub fn about(client: &Client, pause: Duration) {
    sleep(pause.mul_f64(0.5 + client.random(100) as f64 / 100.0));
}

/// A message to be sent.
pub struct Sending<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Queue.
    pub queue: u32,
    /// The message's number among its client's.
    pub number: u32,
    /// How it is to be visible.
    pub kind: SendKind,
    /// The sharding key of an ordered message.
    pub key: Option<String>,
    /// Properties, as on the wire.
    pub properties: String,
    /// Requests at most.
    pub attempts_max: u32,
}

impl<'a> Sending<'a> {
    /// An ordinary one.
    #[must_use]
    pub fn plain(topic: &'a str, queue: u32, number: u32) -> Self {
        Self { topic, queue, number, kind: SendKind::Normal, key: None, properties: String::new(), attempts_max: 3 }
    }

    /// Its value.
    #[must_use]
    pub fn value(&self, client: &Client) -> Value {
        value(client.process, self.number, &body(client.process, self.number))
    }
}

/// Sends one message, several times if it is not known what became of it; the answer, if there was a good one.
pub fn send(client: &mut Client, what: &Sending<'_>) -> Option<Answer> {
    let mut sent = Sent {
        queue: queue(what.topic, what.queue),
        value: what.value(client),
        kind: what.kind,
        key: what.key.clone(),
        message_id: None,
        offset: None,
        attempts: 1,
        outcome: Outcome::Failed,
    };
    // Nobody knows how many requests it was when it was killed.
    let invoke = client.begins(What::Send(Sent { attempts: what.attempts_max, outcome: Outcome::Unknown, ..sent.clone() }));
    let (topic, properties) = (what.topic.to_owned(), what.properties.clone());
    let request = Request::Send { topic, queue: what.queue, group: "producers".to_owned(), properties, body: body(client.process, what.number) };
    let (mut by, mut answered) = (None, None);
    for attempt in 1..=what.attempts_max {
        match client.ask(&request, PATIENCE) {
            Reply::Answered(who, answer @ Answer::Sent { offset, .. }) => {
                (by, sent.outcome, sent.offset) = (Some(who), Outcome::Ok, Some(QueueOffset(offset)));
                answered = Some(answer);
                break;
            }
            Reply::Answered(_, Answer::Refused { is_unknown: false, .. }) | Reply::Nobody => {}
            Reply::Answered(..) | Reply::Lost => {
                sent.outcome = Outcome::Unknown;
                if attempt < what.attempts_max {
                    sent.attempts += 1;
                }
            }
        }
    }
    if what.kind != SendKind::Normal {
        // It is one of an inner topic.
        sent.offset = None;
    }
    client.ends(invoke, by, What::Send(sent));
    answered
}

/// Sends ordinary messages to queues by chance until producers end.
pub fn send_on(client: &mut Client, phase: &Phase, topic: &str, queues: u32) {
    let mut number = 0;
    while !phase.is_over() {
        number += 1;
        let queue = client.random(queues.into()) as u32;
        send(client, &Sending::plain(topic, queue, number));
        about(client, Duration::from_millis(150));
    }
}

/// What a consumer reads, and how.
pub struct Reading<'a> {
    /// Its group.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The queue.
    pub queue: u32,
    /// By which way.
    pub kind: Kind,
}

impl Reading<'_> {
    fn of(&self) -> Queue {
        queue(self.topic, self.queue)
    }

    /// Takes the queue over and says where to begin.
    pub fn begin(&self, client: &mut Client) -> u64 {
        let invoke = client.history.now();
        let next = loop {
            let request = Request::Fetch { group: self.group.to_owned(), topic: self.topic.to_owned(), queue: self.queue };
            if let Reply::Answered(_, Answer::Offset(offset)) = client.ask(&request, PATIENCE) {
                break offset.unwrap_or_default();
            }
        };
        let fetched = Fetched { group: node::group(self.group), queue: self.of(), offset: QueueOffset(next) };
        client.history.op(invoke, client.process, None, What::Assigned(fetched));
        next
    }

    /// Pulls once: what came, who gave it, where to go on, and whether that is the queue's end. `None`: there was no answer.
    pub fn pull(&self, client: &mut Client, from: u64) -> Option<Pulled> {
        let request = Request::Pull { group: self.group.to_owned(), topic: self.topic.to_owned(), queue: self.queue, offset: from, hold_ms: 2000 };
        let invoke = client.history.now();
        let Reply::Answered(by, Answer::Messages { came, next, min, max, clock }) = client.ask(&request, PATIENCE + Duration::from_secs(4)) else {
            sleep(Duration::from_millis(50));
            return None;
        };
        for one in &came {
            self.note_came(client, invoke, by, one, clock);
        }
        if min > from {
            panic!("queue {} of {} begins at {min}, and {from} is to be read: what retention keeps is too little for such a run", self.queue, self.topic);
        }
        if max == 0 {
            // There is no such topic yet, so nothing is waited for there.
            sleep(Duration::from_millis(50));
        }
        Some(Pulled { came, next, is_end: next >= max })
    }

    /// Reads once at that very member, whatever it is. Nothing comes of it if that one is away or does not have it.
    pub fn read_at(&self, client: &mut Client, member: u32, from: u64) -> Option<Pulled> {
        let request = Request::Read { group: self.group.to_owned(), topic: self.topic.to_owned(), queue: self.queue, offset: from };
        let invoke = client.history.now();
        let Reply::Answered(by, Answer::Messages { came, next, clock, .. }) = client.ask_of(member, &request, Duration::from_secs(1)) else { return None };
        for one in &came {
            self.note_came(client, invoke, by, one, clock);
        }
        (!came.is_empty()).then_some(Pulled { came, next, is_end: false })
    }

    fn note_came(&self, client: &Client, invoke: u64, by: By, came: &Came, clock: i64) {
        let deliver = Deliver {
            group: node::group(self.group),
            queue: self.of(),
            offset: QueueOffset(came.offset),
            record: CommitLogOffset(came.place),
            value: value_of(&came.body),
            kind: self.kind,
            key: key_of(&came.properties),
            attempt: came.attempt,
            lease: None,
            clock: (clock as u64).saturating_mul(1_000_000),
        };
        client.history.op(invoke, client.process, Some(by), What::Deliver(deliver));
    }

    /// Notes that a message is consumed. No broker is told, and so none has acknowledged it.
    pub fn succeed(&self, client: &Client, came: &Came) {
        let consumed = Consumed {
            group: node::group(self.group),
            queue: self.of(),
            offset: QueueOffset(came.offset),
            value: value_of(&came.body),
            attempt: came.attempt,
            orderly: self.kind == Kind::Orderly,
            verdict: Verdict::Success,
            due: None,
            outcome: Outcome::Ok,
        };
        client.history.op(client.history.now(), client.process, None, What::Consumed(consumed));
    }

    /// Commits: half of the time as RocketMQ's clients do, who want no answer, and else so that the answer says that it is stored.
    pub fn commit(&self, client: &mut Client, next: u64) {
        let stored = client.random(2) == 0;
        let request = Request::Commit { group: self.group.to_owned(), topic: self.topic.to_owned(), queue: self.queue, offset: next, stored };
        let place = Place { group: node::group(self.group), queue: self.of(), offset: QueueOffset(next), outcome: Outcome::Unknown };
        let invoke = client.begins(What::Commit(place.clone()));
        let (by, outcome) = match client.ask(&request, PATIENCE) {
            Reply::Answered(by, Answer::Done(true)) if stored => (Some(by), Outcome::Ok),
            // It is taken into memory and written soon: nothing is promised yet.
            _ => (None, Outcome::Unknown),
        };
        client.ends(invoke, by, What::Commit(Place { outcome, ..place }));
    }

    /// Consumes the queue until everything is there.
    pub fn consume(&self, client: &mut Client, phase: &Phase) {
        self.consume_until(client, || phase.drains());
    }

    /// The same by another way of pulling.
    pub fn consume_by(&self, client: &mut Client, phase: &Phase, pull: impl FnMut(&mut Client, u64) -> Option<Pulled>) {
        self.read_until(client, || phase.drains(), pull, |client, came| self.succeed(client, came));
    }

    /// Consumes the queue until it is at an end that was asked for when nothing more came.
    pub fn consume_until(&self, client: &mut Client, nothing_comes: impl Fn() -> bool) {
        self.work_until(client, nothing_comes, |client, came| self.succeed(client, came));
    }

    /// The same with each message given to `work`, whose end is its end.
    pub fn work_until(&self, client: &mut Client, nothing_comes: impl Fn() -> bool, work: impl Fn(&mut Client, &Came)) {
        self.read_until(client, nothing_comes, |client, next| self.pull(client, next), work);
    }

    fn read_until(
        &self,
        client: &mut Client,
        nothing_comes: impl Fn() -> bool,
        mut pull: impl FnMut(&mut Client, u64) -> Option<Pulled>,
        work: impl Fn(&mut Client, &Came),
    ) {
        let mut next = self.begin(client);
        loop {
            let is_last = nothing_comes();
            let Some(pulled) = pull(client, next) else { continue };
            pulled.came.iter().for_each(|came| work(client, came));
            next = pulled.next;
            if !pulled.came.is_empty() {
                self.commit(client, next);
            } else if pulled.is_end && is_last {
                return;
            }
        }
    }
}

/// What a pull brought.
pub struct Pulled {
    /// The messages.
    pub came: Vec<Came>,
    /// Where to go on.
    pub next: u64,
    /// Whether that is the queue's end.
    pub is_end: bool,
}

/// The name of the property with a message's sharding key.
pub const KEY: &str = "SIM_KEY";

/// A property as it is on the wire.
#[must_use]
pub fn property(name: &str, value: &str) -> String {
    format!("{name}\u{1}{value}\u{2}")
}

fn key_of(properties: &str) -> Option<String> {
    properties.split('\u{2}').find_map(|one| one.strip_prefix(KEY)?.strip_prefix('\u{1}')).map(str::to_owned)
}
