//! Producers and consumers at the group's address, and a sender beside each broker that speaks to it alone.

use super::{
    bed::SERVICE,
    history::{self, History},
};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use sluice_client::{
    Client, ClientError, ClientOptions, Consumer, Message, Producer, PullRequest, PullStatus, QueueAddress, ReceivedMessage, Request, SendStatus,
};
use sluice_history::{Consumed, Deliver, Drained, Fetched, Kind, Outcome, Queue, SendKind, Sent, Started, Value, Verdict, What};
use sluice_protocol::{
    RequestCode, ResponseCode, TypedHeader,
    headers::{SendMessageRequest, SendMessageResponse},
    message_id::OffsetMessageId,
};
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::{
    future::Future,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Runtime, task::JoinHandle, time::sleep};

pub(super) const TOPIC: &str = "orders";
const GROUP: &str = "readers";
pub(super) const BROKER_PORT: u16 = 10_911;
/// 0 to 2 for messages in no order, 3 to 5 for those with keys, 6 for the senders beside the brokers.
pub(super) const QUEUES: u32 = 7;
const PLAIN_QUEUES: u32 = 3;
const KEYED_QUEUES: u32 = 3;
const DIRECT_QUEUE: u32 = 6;
/// Clients at the group's address: producers of messages in no order, and of such with keys.
const PLAIN: RangeInclusive<u32> = 1..=3;
const KEYED: RangeInclusive<u32> = 4..=5;
/// All of them.
pub(super) const PRODUCERS: RangeInclusive<u32> = 1..=5;
const DIRECT_FIRST: u32 = 11;
const CONSUMER_FIRST: u32 = 21;
const KEYS: u32 = 8;
/// The property with a message's key.
const KEY: &str = "CHAOS_KEY";
const PAUSE: Duration = Duration::from_millis(10);
const DIRECT_PAUSE: Duration = Duration::from_millis(20);
const HOLD: Duration = Duration::from_secs(2);
/// Longest wait of producers and consumers for the end.
const END: Duration = Duration::from_secs(90);

/// The number in the history of the sender beside that broker.
pub(super) fn direct(index: usize) -> u32 {
    DIRECT_FIRST + index as u32
}

/// How clients of a chaotic group are: they give up soon and come back soon.
pub(super) fn options() -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(3),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        send_retries: 0,
        ..ClientOptions::default()
    }
}

/// What all clients of a run share.
#[derive(Clone)]
struct Shared {
    history: History,
    namesrv: String,
    is_over: Arc<AtomicBool>,
    drains: Arc<AtomicBool>,
    findings: Arc<Mutex<Vec<String>>>,
}

/// The clients at work.
pub(super) struct Load {
    shared: Shared,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Hires them; `beside` are the brokers' machines.
    pub(super) fn begin(history: &History, namesrv: &str, clients: &Runtime, beside: &[Runtime]) -> Result<Self> {
        let shared =
            Shared { history: history.clone(), namesrv: namesrv.to_owned(), is_over: Arc::default(), drains: Arc::default(), findings: Arc::default() };
        history.note(What::Started(Started { group: Group::new(GROUP)?, topic: Topic::new(TOPIC)? }));
        let mut producers = Vec::new();
        for process in PRODUCERS {
            producers.push(clients.spawn(told(shared.clone(), produce(shared.clone(), process))));
        }
        for (index, runtime) in beside.iter().enumerate() {
            producers.push(runtime.spawn(told(shared.clone(), send_beside(shared.clone(), direct(index)))));
        }
        let consumers = (0..QUEUES).map(|queue| clients.spawn(told(shared.clone(), consume(shared.clone(), queue)))).collect();
        Ok(Self { shared, producers, consumers })
    }

    /// Lets producers end, then consumers when they have everything; what no check of the history looks for.
    pub(super) fn end(self, clients: &Runtime) -> Result<Vec<String>> {
        self.shared.is_over.store(true, Ordering::SeqCst);
        all(clients, self.producers).context("producers do not end")?;
        self.shared.drains.store(true, Ordering::SeqCst);
        all(clients, self.consumers).context("consumers do not end")?;
        self.shared.history.note(What::Drained(Drained { group: Group::new(GROUP)?, topic: Topic::new(TOPIC)? }));
        let findings = self.shared.findings.lock().clone();
        Ok(findings)
    }
}

fn all(runtime: &Runtime, tasks: Vec<JoinHandle<()>>) -> Result<()> {
    runtime.block_on(async {
        let end = tokio::time::Instant::now() + END;
        for task in tasks {
            tokio::time::timeout_at(end, task).await.with_context(|| format!("not within {END:?}"))?.context("one has panicked")?;
        }
        Ok(())
    })
}

/// A client that can't even begin is a finding.
async fn told(shared: Shared, work: impl Future<Output = Result<()>>) {
    if let Err(error) = work.await {
        shared.findings.lock().push(format!("a client gave up: {error:#}"));
    }
}

fn queue(id: u32) -> Result<Queue> {
    Ok(Queue { shard: 0, topic: Topic::new(TOPIC)?, id: QueueId(id) })
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

/// The value that the official clients' programs make of the two numbers, by the same rule.
pub(super) fn value_made(process: u32, number: u32) -> Value {
    value(process, number, &body(process, number))
}

/// Bytes of the body that the two numbers make.
pub(super) fn body_bytes(process: u32, number: u32) -> u64 {
    body(process, number).len() as u64
}

/// The value that a body names; one that nobody sent, if it names none.
fn value_of(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(u32::MAX));
    let (process, number) = (words.next().unwrap_or(u32::MAX), words.next().unwrap_or(u32::MAX));
    value(process, number, body)
}

/// Whether a send that ended so is not stored, now or later. What a broker says while it loses its role is taken for not known.
fn is_certain(error: &ClientError) -> bool {
    let refused = [ResponseCode::ServiceNotAvailable, ResponseCode::SystemBusy, ResponseCode::TopicNotExist].iter().any(|code| error.is_refusal(*code));
    refused
        || matches!(error, ClientError::Unreachable { .. } | ClientError::Backlogged { .. } | ClientError::TopicNotFound { .. } | ClientError::NoQueue { .. })
}

/// One message after another, each again and again until it is acknowledged.
async fn produce(shared: Shared, process: u32) -> Result<()> {
    let producer = Producer::new(Client::new(&shared.namesrv, options())?, "producers")?;
    let mut number = 0;
    while !shared.is_over.load(Ordering::SeqCst) {
        number += 1;
        let (target, key) = if KEYED.contains(&process) {
            let key = number % KEYS;
            (PLAIN_QUEUES + key % KEYED_QUEUES, Some(format!("{process}-{key}")))
        } else {
            debug_assert!(PLAIN.contains(&process), "all others have keys");
            (number % PLAIN_QUEUES, None)
        };
        send(&shared, &producer, process, number, target, key).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn send(shared: &Shared, producer: &Producer, process: u32, number: u32, target: u32, key: Option<String>) -> Result<()> {
    let body = body(process, number);
    let properties = key.iter().map(|key| (KEY.to_owned(), key.clone())).collect();
    let message = Message { queue_id: Some(target), properties, ..Message::new(TOPIC, body.clone()) };
    let mut sent = Sent {
        queue: queue(target)?,
        value: value(process, number, &body),
        kind: SendKind::Normal,
        key,
        message_id: None,
        offset: None,
        attempts: 1,
        outcome: Outcome::Failed,
    };
    let (invoke, mut log) = (shared.history.now(), None);
    let mut is_open = false;
    loop {
        sent.attempts += u32::from(std::mem::take(&mut is_open));
        match producer.send(&message).await {
            Ok(receipt) if receipt.status == SendStatus::Stored => {
                (sent.outcome, sent.offset) = (Outcome::Ok, Some(QueueOffset(u64::try_from(receipt.queue_offset)?)));
                log = u64::try_from(OffsetMessageId::decode(&receipt.offset_id)?.log_offset).ok();
                break;
            }
            Err(error) if is_certain(&error) => {}
            _ => {
                sent.outcome = Outcome::Unknown;
                is_open = true;
            }
        }
        if shared.is_over.load(Ordering::SeqCst) {
            break;
        }
        sleep(PAUSE).await;
    }
    shared.history.sent(invoke, process, log, sent);
    Ok(())
}

/// Sends on the broker's own machine, where no cut of the network comes between: what an old master still acknowledges is seen here.
async fn send_beside(shared: Shared, process: u32) -> Result<()> {
    let client = Client::new(&shared.namesrv, options())?;
    let address = format!("127.0.0.1:{BROKER_PORT}");
    let mut number = 0;
    while !shared.is_over.load(Ordering::SeqCst) {
        number += 1;
        let body = body(process, number);
        let invoke = shared.history.now();
        let answer = send_to(&client, &address, body.clone()).await;
        let (outcome, found) = match answer {
            Ok(found) => (Outcome::Ok, Some(found)),
            // Nothing was stored: not worth a line.
            Err(error) if is_certain(&error) => {
                shared.history.refused(invoke, process);
                sleep(DIRECT_PAUSE).await;
                continue;
            }
            Err(_) => (Outcome::Unknown, None),
        };
        let sent = Sent {
            queue: queue(DIRECT_QUEUE)?,
            value: value(process, number, &body),
            kind: SendKind::Normal,
            key: None,
            message_id: None,
            offset: found.as_ref().map(|(offset, _)| QueueOffset(*offset)),
            attempts: 1,
            outcome,
        };
        shared.history.sent(invoke, process, found.map(|(_, log)| log), sent);
        sleep(DIRECT_PAUSE).await;
    }
    Ok(())
}

/// One send to that address, whatever routes say: the queue offset and the log's.
async fn send_to(client: &Client, address: &str, body: Vec<u8>) -> Result<(u64, u64), ClientError> {
    let header = SendMessageRequest {
        producer_group: "beside".into(),
        topic: TOPIC.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        queue_id: DIRECT_QUEUE as i32,
        ..SendMessageRequest::default()
    };
    let request = Request { code: RequestCode::SendMessageV2.to_wire(), ext: header.encode_v2(), body: body.into() };
    let frame = client.call(address, request).await?;
    let wrong = |reason: String| ClientError::Malformed { addr: address.to_owned(), request: "SendMessageV2".to_owned(), reason };
    let answer = SendMessageResponse::decode(&frame.header.ext).map_err(|error| wrong(error.to_string()))?;
    let id = OffsetMessageId::decode(&answer.msg_id).map_err(|error| wrong(error.to_string()))?;
    let natural = |number: i64| u64::try_from(number).map_err(|error| wrong(error.to_string()));
    Ok((natural(answer.queue_offset)?, natural(id.log_offset)?))
}

/// Where clients find a queue.
fn at(queue: u32) -> QueueAddress {
    QueueAddress { broker: super::group::NAME.to_owned(), addr: format!("{SERVICE}:{BROKER_PORT}"), queue_id: queue }
}

/// Reads one queue, from where the group is to the end of the run.
async fn consume(shared: Shared, id: u32) -> Result<()> {
    let consumer = Consumer::new(Client::new(&shared.namesrv, options())?, GROUP)?;
    let (at, process) = (at(id), CONSUMER_FIRST + id);
    let invoke = shared.history.now();
    let mut next = loop {
        match consumer.offset(TOPIC, &at).await {
            Ok(offset) => break offset.unwrap_or_default(),
            Err(_) => sleep(PAUSE).await,
        }
    };
    let fetched = Fetched { group: Group::new(GROUP)?, queue: queue(id)?, offset: QueueOffset(u64::try_from(next)?) };
    shared.history.op(invoke, process, What::Assigned(fetched));
    loop {
        let pull = PullRequest { queue: &at, topic: TOPIC, offset: next, messages_max: 64, expression: "*", hold: HOLD, commit: None };
        let invoke = shared.history.now();
        let Ok(pulled) = consumer.pull(&pull).await else {
            sleep(PAUSE).await;
            continue;
        };
        if pulled.status == PullStatus::OffsetMoved {
            let text = format!("queue {id} was read up to {next}, and then the broker had it from {} to {}", pulled.min_offset, pulled.max_offset);
            shared.findings.lock().push(text);
        }
        for message in &pulled.messages {
            note_came(&shared, invoke, process, id, message)?;
        }
        next = pulled.next_offset;
        if !pulled.messages.is_empty() {
            commit(&shared, &consumer, process, &at, next).await?;
        } else if next >= pulled.max_offset && shared.drains.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

fn note_came(shared: &Shared, invoke: u64, process: u32, id: u32, message: &ReceivedMessage) -> Result<()> {
    let key = message.property(KEY).map(str::to_owned);
    let is_keyed = key.is_some();
    let (queue, value, offset) = (queue(id)?, value_of(&message.body), QueueOffset(message.queue_offset));
    let deliver = Deliver {
        group: Group::new(GROUP)?,
        queue: queue.clone(),
        offset,
        record: CommitLogOffset(message.log_offset),
        value,
        kind: if is_keyed { Kind::Orderly } else { Kind::Pull },
        key,
        attempt: 0,
        lease: None,
        clock: history::nanos(Duration::from_millis(u64::try_from(message.store_timestamp).unwrap_or_default())),
    };
    shared.history.op(invoke, process, What::Deliver(deliver));
    let consumed =
        Consumed { group: Group::new(GROUP)?, queue, offset, value, attempt: 0, orderly: is_keyed, verdict: Verdict::Success, due: None, outcome: Outcome::Ok };
    shared.history.op(shared.history.now(), process, What::Consumed(consumed));
    Ok(())
}

async fn commit(shared: &Shared, consumer: &Consumer, process: u32, at: &QueueAddress, next: i64) -> Result<()> {
    let invoke = shared.history.now();
    // It is taken into memory and written soon: whatever the answer is, nothing is promised yet.
    let _ = consumer.commit(TOPIC, at, next).await;
    let place =
        sluice_history::Place { group: Group::new(GROUP)?, queue: queue(at.queue_id)?, offset: QueueOffset(u64::try_from(next)?), outcome: Outcome::Unknown };
    shared.history.op(invoke, process, What::Commit(place));
    Ok(())
}
