//! Thousands of pulls that wait for messages, over a few connections: what they cost while nothing comes, and that each is answered when something does.

use super::watch::Broker;
use anyhow::{Context, Result, anyhow, ensure};
use sluice_client::{Admin, Client, ClientOptions, Connection, Message, Producer, Request, TopicSettings};
use sluice_protocol::{
    Frame, RequestCode, ResponseCode, TypedHeader,
    headers::{PullMessageRequest, pull_flag},
    record::RecordView,
};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{sleep, timeout},
};

const TOPICS: u32 = 10;
const QUEUES: u32 = 250;
const CONNECTIONS: u32 = 8;
/// Sends under way at the same time.
const SENDERS: usize = 32;
/// The broker ends a wait after 30 s; all that follows has to happen within them.
const HOLD: Duration = Duration::from_secs(30);
/// Longest time until all pulls are held.
const ARRIVAL: Duration = Duration::from_secs(10);
/// What is freed or kept after a burst is so after this time.
const SETTLED: Duration = Duration::from_secs(1);
/// For so long nothing comes, and the broker's work is measured.
const QUIET: Duration = Duration::from_secs(5);
/// Longest time until a pull beyond the limit is refused.
const REFUSAL: Duration = Duration::from_secs(1);
/// Longest time from the begin of a message's send to the last answer that carries it.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Longest time for sending to all queues.
const SENDING: Duration = Duration::from_secs(10);
/// Most bytes of the broker's own memory that a held pull may cost.
pub(super) const BYTES_MAX: f64 = 2_000.0;
/// Largest part of a processor that the broker may need while the pulls wait: it looks for those whose time is over ten times a second, and flushes.
pub(super) const PROCESSOR_MAX: f64 = 0.05;

/// What was measured.
pub(super) struct Held {
    pub(super) bytes_per_pull: f64,
    pub(super) processor: f64,
    pub(super) slowest_answer: Duration,
}

impl Held {
    /// Every rule that was broken; none is good.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.bytes_per_pull > BYTES_MAX {
            complaints.push(format!("held: a pull costs {:.0} bytes of the broker's own memory; {BYTES_MAX:.0} are allowed", self.bytes_per_pull));
        }
        if self.processor > PROCESSOR_MAX {
            complaints.push(format!("held: waiting pulls keep {:.3} of a processor busy; {PROCESSOR_MAX} are allowed", self.processor));
        }
        if self.slowest_answer > ANSWER_MAX {
            complaints.push(format!("held: a pull was answered {:?} after its message's send began; {ANSWER_MAX:?} are allowed", self.slowest_answer));
        }
        complaints
    }
}

/// A queue by its number among all.
fn topic(queue: u32) -> String {
    format!("held-{}", queue % TOPICS)
}

fn queue_id(queue: u32) -> i32 {
    (queue / TOPICS % QUEUES).cast_signed()
}

fn queues(count: u32) -> u32 {
    count.min(TOPICS * QUEUES)
}

/// Holds `count` pulls, which have to be as many as the broker allows, and sends a message to each queue.
pub(super) fn measure(count: u32, broker: Broker, namesrv: &str, runtime: &Runtime) -> Result<Held> {
    let (client, connections) = runtime.block_on(prepare(broker, namesrv))?;
    thread::sleep(SETTLED);
    let before = broker.memory()?;
    let mut waiting = JoinSet::new();
    let asked = Instant::now();
    for number in 0..count {
        let connection = connections[(number % CONNECTIONS) as usize].clone();
        waiting.spawn_on(async move { (number % queues(count), pull(&connection, number % queues(count)).await, Instant::now()) }, runtime.handle());
    }
    await_held(broker, count)?;
    println!("hostile: {count} pulls of {} queues are held after {:?}", queues(count), asked.elapsed());
    thread::sleep(SETTLED);
    let after = broker.memory()?;
    let worked = broker.processor_time()?;
    thread::sleep(QUIET);
    let processor = (broker.processor_time()? - worked).as_secs_f64() / QUIET.as_secs_f64();
    if let Some(early) = waiting.try_join_next() {
        let (queue, answer, _) = early.context("a client panicked")?;
        anyhow::bail!("a pull of queue {queue} was answered with {:?} before a message came", answer.map(|frame| frame.header.code));
    }
    await_held(broker, count)?;
    runtime.block_on(refused(&connections[0]))?;
    let slowest_answer = runtime.block_on(wake(&client, &mut waiting, count))?;
    await_held(broker, 0)?;
    let bytes_per_pull = after.own.saturating_sub(before.own) as f64 / f64::from(count);
    println!("hostile: {} MiB of own memory before, {} MiB with them", before.own >> 20, after.own >> 20);
    Ok(Held { bytes_per_pull, processor, slowest_answer })
}

/// Makes the topics and the connections.
async fn prepare(broker: Broker, namesrv: &str) -> Result<(Client, Vec<Connection>)> {
    let client = Client::new(namesrv, ClientOptions::default()).context("making a client")?;
    let admin = Admin::new(client.clone());
    let brokers = admin.masters(None).await?;
    for number in 0..TOPICS {
        let settings = TopicSettings { topic: topic(number), read_queues: QUEUES, write_queues: QUEUES, perm: 6, order: false, attributes: Vec::new() };
        admin.create_topic(&brokers, &settings).await.context("creating a topic to wait for")?;
    }
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let options = ClientOptions { in_flight_max: 1 << 20, ..ClientOptions::default() };
        connections.push(Connection::open(&broker.address.to_string(), &options, None).await.context("connecting")?);
    }
    Ok((client, connections))
}

/// Asks for a queue's first message and waits for it.
async fn pull(connection: &Connection, queue: u32) -> Result<Frame> {
    let fields = PullMessageRequest {
        consumer_group: "held".into(),
        topic: topic(queue).into(),
        queue_id: queue_id(queue),
        max_msg_nums: 1,
        sys_flag: pull_flag::SUSPEND | pull_flag::SUBSCRIPTION,
        suspend_timeout_millis: HOLD.as_millis() as i64,
        subscription: Some("*".into()),
        ..PullMessageRequest::default()
    };
    Ok(connection.request(Request::new(RequestCode::PullMessage, fields.encode()), HOLD * 2).await?)
}

fn await_held(broker: Broker, wanted: u32) -> Result<()> {
    let end = Instant::now() + ARRIVAL;
    loop {
        let held = broker.metrics()?.value("sluice_held_pulls");
        if held == f64::from(wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the broker holds {held} pulls after {ARRIVAL:?}, not {wanted}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// One more than the broker may hold is told so at once.
async fn refused(connection: &Connection) -> Result<()> {
    let answer = timeout(REFUSAL, pull(connection, 0)).await.with_context(|| format!("a pull beyond the limit has no answer after {REFUSAL:?}"))??;
    let wanted = ResponseCode::PollingFull.to_wire();
    ensure!(answer.header.code == wanted, "a pull beyond the limit was answered with {}, not {wanted}", answer.header.code);
    Ok(())
}

/// Sends a message to each queue; the longest time from the begin of a send to the answer of a pull that waited for it.
async fn wake(client: &Client, waiting: &mut JoinSet<(u32, Result<Frame>, Instant)>, count: u32) -> Result<Duration> {
    let sent = timeout(SENDING, send_to_all(client, count)).await.with_context(|| format!("sending to all queues takes longer than {SENDING:?}"))??;
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    let collect = async {
        while let Some(ended) = waiting.join_next().await {
            let (queue, answer, at) = ended.context("a client panicked")?;
            check(queue, &answer.with_context(|| format!("pulling queue {queue}"))?)?;
            slowest = slowest.max(at.saturating_duration_since(sent[queue as usize]));
            answered += 1;
        }
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = collect => outcome,
        () = sleep(ANSWER_MAX * 5) => Err(anyhow!("not every pull has an answer {:?} after all messages were sent", ANSWER_MAX * 5)),
    };
    outcome.with_context(|| format!("of {count} held pulls {answered} were answered with their message"))?;
    ensure!(answered == count, "{answered} of {count} pulls were answered");
    Ok(slowest)
}

/// When each queue's send began.
async fn send_to_all(client: &Client, count: u32) -> Result<Vec<Instant>> {
    let producer = Arc::new(Producer::new(client.clone(), "held-sender")?);
    let mut began = vec![Instant::now(); queues(count) as usize];
    let mut sending = JoinSet::new();
    for queue in 0..queues(count) {
        if sending.len() >= SENDERS {
            note(&mut began, sending.join_next().await)?;
        }
        let producer = Arc::clone(&producer);
        sending.spawn(async move {
            let message = Message { queue_id: Some(queue_id(queue).cast_unsigned()), ..Message::new(&topic(queue), body(queue)) };
            let start = Instant::now();
            producer.send(&message).await.with_context(|| format!("sending to queue {queue}"))?;
            anyhow::Ok((queue, start))
        });
    }
    while let Some(ended) = sending.join_next().await {
        note(&mut began, Some(ended))?;
    }
    Ok(began)
}

type Sent = std::result::Result<Result<(u32, Instant)>, tokio::task::JoinError>;

fn note(began: &mut [Instant], ended: Option<Sent>) -> Result<()> {
    if let Some(ended) = ended {
        let (queue, start) = ended.context("a sender panicked")??;
        began[queue as usize] = start;
    }
    Ok(())
}

fn body(queue: u32) -> Vec<u8> {
    format!("for queue {queue}").into_bytes()
}

/// The answer carries the one message of its queue.
fn check(queue: u32, answer: &Frame) -> Result<()> {
    let code = answer.header.code;
    ensure!(code == ResponseCode::Success.to_wire(), "a pull of queue {queue} was answered with {code}: {:?}", answer.header.remark);
    let record = RecordView::checked(&answer.body).with_context(|| format!("a pull of queue {queue} was answered with what is no record"))?;
    let found = (record.topic(), record.queue_id(), record.body());
    ensure!(found == (topic(queue).as_str(), queue_id(queue), &body(queue)[..]), "a pull of queue {queue} was answered with another queue's message");
    ensure!(record.bytes().len() == answer.body.len(), "a pull of one message was answered with more");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_has_a_number_of_its_own() {
        let places: std::collections::HashSet<_> = (0..queues(u32::MAX)).map(|queue| (topic(queue), queue_id(queue))).collect();
        assert_eq!(places.len(), (TOPICS * QUEUES) as usize);
        assert!(places.iter().all(|(_, id)| (0..QUEUES.cast_signed()).contains(id)));
    }

    #[test]
    fn what_costs_too_much_or_comes_too_late_is_told() {
        let good = Held { bytes_per_pull: BYTES_MAX, processor: PROCESSOR_MAX, slowest_answer: ANSWER_MAX };
        assert!(good.complaints().is_empty());
        let bad = Held { bytes_per_pull: BYTES_MAX * 1.1, processor: PROCESSOR_MAX * 1.1, slowest_answer: ANSWER_MAX * 2 };
        assert_eq!(bad.complaints().len(), 3);
    }
}
