//! What clients do in a run, and how it is written down.

use crate::{
    client::{Client, PATIENCE, Reply},
    node,
    talk::{Answer, Came, Request},
};
use sluice_env::sim::threads::sleep;
use sluice_history::{Consumed, Deliver, Drained, Fetched, Kind, Outcome, Place, Queue, SendKind, Sent, Started, Value, Verdict, What};
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
    /// Producers end.
    pub is_over: AtomicBool,
    /// Consumers end when they have everything.
    pub drains: AtomicBool,
    /// Clients that have not ended.
    pub at_work: AtomicUsize,
}

impl Phase {
    fn over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
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

/// The value that a body names; one that nobody sent, if it names none.
#[must_use]
pub fn value_of(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(u32::MAX));
    let (process, number) = (words.next().unwrap_or(u32::MAX), words.next().unwrap_or(u32::MAX));
    value(process, number, body)
}

/// Sends messages to a topic's queues in turn until the phase is over.
pub fn produce(mut client: Client, topic: &str, queues: u32, pause: Duration, phase: &Arc<Phase>) {
    let mut number = 0;
    while !phase.over() {
        number += 1;
        let to = client.random(queues.into()) as u32;
        send(&mut client, topic, to, number);
        sleep(pause.mul_f64(0.5 + client.random(100) as f64 / 100.0));
    }
    phase.at_work.fetch_sub(1, Ordering::SeqCst);
}

/// Sends one message, several times if it is not known what became of it.
fn send(client: &mut Client, topic: &str, to: u32, number: u32) {
    let body = body(client.process, number);
    let mut sent = Sent {
        queue: queue(topic, to),
        value: value(client.process, number, &body),
        kind: SendKind::Normal,
        key: None,
        message_id: None,
        offset: None,
        attempts: 1,
        outcome: Outcome::Failed,
    };
    let invoke = client.history.now();
    let request = Request::Send { topic: topic.to_owned(), queue: to, group: "producers".to_owned(), properties: String::new(), body };
    let mut by = None;
    for attempt in 1..=3 {
        match client.ask(&request, PATIENCE) {
            Reply::Answered(who, Answer::Sent { offset, .. }) => {
                (by, sent.outcome, sent.offset) = (Some(who), Outcome::Ok, Some(QueueOffset(offset)));
                break;
            }
            Reply::Answered(_, Answer::Refused { is_unknown: false, .. }) | Reply::Nobody => {}
            Reply::Answered(..) | Reply::Lost => {
                sent.outcome = Outcome::Unknown;
                if attempt < 3 {
                    sent.attempts += 1;
                }
            }
        }
    }
    client.history.op(invoke, client.process, by, What::Send(sent));
}

/// Consumes a queue from its begin until everything is there.
pub fn consume(mut client: Client, group: &str, topic: &str, id: u32, phase: &Arc<Phase>) {
    let (of, history) = (queue(topic, id), client.history.clone());
    let owned = (group.to_owned(), topic.to_owned());
    let named = node::group(group);
    let mut next = fetch(&mut client, &owned, id);
    history.op(history.now(), client.process, None, What::Assigned(Fetched { group: named.clone(), queue: of.clone(), offset: QueueOffset(next) }));
    loop {
        let request = Request::Pull { group: owned.0.clone(), topic: owned.1.clone(), queue: id, offset: next, hold_ms: 2000 };
        let invoke = history.now();
        let Reply::Answered(by, Answer::Messages { came, next: after, max, clock }) = client.ask(&request, PATIENCE + Duration::from_secs(4)) else {
            sleep(Duration::from_millis(50));
            continue;
        };
        let (has_any, at_end) = (!came.is_empty(), after >= max);
        for one in came {
            take(&client, invoke, by, &of, group, &one, clock);
        }
        next = after;
        if has_any {
            let commit = Request::Commit { group: owned.0.clone(), topic: owned.1.clone(), queue: id, offset: next };
            let invoke = history.now();
            client.ask(&commit, PATIENCE);
            // It is taken into memory and written soon: nothing is promised yet.
            let place = Place { group: named.clone(), queue: of.clone(), offset: QueueOffset(next), outcome: Outcome::Unknown };
            history.op(invoke, client.process, Some(by), What::Commit(place));
        } else if at_end && phase.drains.load(Ordering::SeqCst) {
            break;
        }
    }
    phase.at_work.fetch_sub(1, Ordering::SeqCst);
}

fn fetch(client: &mut Client, (group, topic): &(String, String), id: u32) -> u64 {
    loop {
        let request = Request::Fetch { group: group.clone(), topic: topic.clone(), queue: id };
        if let Reply::Answered(_, Answer::Offset(offset)) = client.ask(&request, PATIENCE) {
            return offset.unwrap_or_default();
        }
    }
}

fn take(client: &Client, invoke: u64, by: sluice_history::By, of: &Queue, group: &str, came: &Came, clock: i64) {
    let value = value_of(&came.body);
    let (group, offset) = (node::group(group), QueueOffset(came.offset));
    let deliver = Deliver {
        group: group.clone(),
        queue: of.clone(),
        offset,
        record: CommitLogOffset(came.place),
        value,
        kind: Kind::Pull,
        key: None,
        attempt: came.attempt,
        lease: None,
        clock: (clock as u64).saturating_mul(1_000_000),
    };
    client.history.op(invoke, client.process, Some(by), What::Deliver(deliver));
    let consumed = Consumed { group, queue: of.clone(), offset, value, attempt: came.attempt, orderly: false, verdict: Verdict::Success, outcome: Outcome::Ok };
    client.history.op(client.history.now(), client.process, Some(by), What::Consumed(consumed));
}

/// A group begins to consume a topic.
#[must_use]
pub fn started(group: &str, topic: &str) -> What {
    What::Started(Started { group: node::group(group), topic: node::topic(topic) })
}

/// A group has got all that it ever will.
#[must_use]
pub fn drained(group: &str, topic: &str) -> What {
    What::Drained(Drained { group: node::group(group), topic: node::topic(topic) })
}
