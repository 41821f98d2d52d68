//! Writers and readers on several connections, until the broker dies.

use super::ledger::{Ledger, Place, Value, body, value, value_of};
use anyhow::{Context, Result, bail};
use sluice_client::{Admin, Client, ClientOptions, Consumer, Message, Producer, PullRequest, PullStatus, QueueAddress, SendStatus, TopicSettings};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};

const TOPIC: &str = "crash";
const QUEUES: u32 = 8;
const CONNECTIONS: u32 = 4;
const WRITERS: u32 = 32;
/// Longest wait for writers and readers to notice that the broker is gone.
const END: Duration = Duration::from_secs(30);
/// Longest time a comparison may take.
const VERIFY: Duration = Duration::from_secs(300);

/// What all sessions share.
pub(super) struct Load {
    namesrv: String,
    /// Per writer the number of its next message; a number that was sent is never used again, whatever became of it.
    next: Vec<u32>,
}

/// Writers and readers at work.
pub(super) struct Session {
    writers: Vec<JoinHandle<Result<Written>>>,
    reader: JoinHandle<Result<Vec<Told>>>,
    stop: Arc<AtomicBool>,
}

struct Written {
    writer: u32,
    next: u32,
    acked: Vec<Told>,
}

/// What a writer or reader was told, and when.
struct Told {
    place: Place,
    value: Value,
    at: Instant,
}

impl Told {
    /// Whether it binds the broker. Power that is gone takes the network along, so what comes after a cut has no counterpart in the world; and it proves nothing, because
    /// ext4 lets a sync succeed whose blocks it can no longer mark as written.
    fn binds(&self, cut: Option<Instant>) -> bool {
        cut.is_none_or(|cut| self.at < cut)
    }
}

impl Load {
    /// A load for the broker behind that name server.
    pub(super) fn new(namesrv: String) -> Self {
        Self { namesrv, next: vec![0; WRITERS as usize] }
    }

    fn client(&self) -> Result<Client> {
        // Each message is sent once, so that any value that is there twice is the broker's doing.
        let options = ClientOptions { send_retries: 0, request_timeout: Duration::from_secs(3), ..ClientOptions::default() };
        Client::new(&self.namesrv, options).context("making a client")
    }

    /// Starts writing and reading.
    pub(super) fn begin(&self, runtime: &Runtime) -> Session {
        let stop = Arc::new(AtomicBool::new(false));
        let _inside = runtime.enter();
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| self.client()).collect();
        let writers = (0..WRITERS)
            .map(|writer| {
                let client = match &clients[(writer % CONNECTIONS) as usize] {
                    Ok(client) => Ok(client.clone()),
                    Err(error) => Err(anyhow::anyhow!("{error:#}")),
                };
                tokio::spawn(write(client, writer, self.next[writer as usize], Arc::clone(&stop)))
            })
            .collect();
        let reader = tokio::spawn(tail(self.client(), Arc::clone(&stop)));
        Session { writers, reader, stop }
    }

    /// Compares what the broker holds with all promises; `all`: from the first message on, not only what is new.
    pub(super) async fn verify(&self, ledger: &mut Ledger, all: bool) -> Result<()> {
        timeout(VERIFY, self.verify_unbounded(ledger, all)).await.context("comparing takes too long")?
    }

    async fn verify_unbounded(&self, ledger: &mut Ledger, all: bool) -> Result<()> {
        let client = self.client()?;
        let admin = Admin::new(client.clone());
        let brokers = admin.masters(None).await?;
        let settings = TopicSettings { topic: TOPIC.into(), read_queues: QUEUES, write_queues: QUEUES, perm: 6, order: false, attributes: Vec::new() };
        // Again after each restart: the topic may be as lost as anything that was not flushed when the crash came, but its messages may not.
        admin.create_topic(&brokers, &settings).await?;
        if all {
            ledger.begin_full();
        }
        let route = client.refresh_route(TOPIC).await?;
        let consumer = Consumer::new(client.clone(), "crash-verify")?;
        for queue in route.readable() {
            let id = i32::try_from(queue.queue_id)?;
            let start = ledger.start(id, all);
            let content = read_to_end(&consumer, &queue, start).await?;
            ledger.compare(id, start, &content)?;
        }
        Ok(())
    }
}

impl Session {
    /// Waits until everyone has noticed the end and notes what they were told, before `cut` if there was one; the number of acknowledgements noted.
    pub(super) async fn end(self, load: &mut Load, ledger: &mut Ledger, cut: Option<Instant>) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acked = 0;
        for writer in self.writers {
            let written = timeout(END, writer).await.context("a writer does not end")?.context("a writer panicked")??;
            load.next[written.writer as usize] = written.next;
            for told in written.acked.iter().filter(|told| told.binds(cut)) {
                acked += 1;
                ledger.acknowledge(told.place, told.value)?;
            }
        }
        let seen = timeout(END, self.reader).await.context("the reader does not end")?.context("the reader panicked")??;
        for told in seen.iter().filter(|told| told.binds(cut)) {
            ledger.see(told.place, told.value)?;
        }
        Ok(acked)
    }
}

/// One message after another to one queue; ends at the first error: the broker is gone, or has said that its disk is.
async fn write(client: Result<Client>, writer: u32, first: u32, stop: Arc<AtomicBool>) -> Result<Written> {
    let producer = Producer::new(client?, "crash-writer")?;
    let mut written = Written { writer, next: first, acked: Vec::new() };
    while !stop.load(Ordering::Relaxed) {
        let value = value(writer, written.next);
        written.next += 1;
        let message = Message { queue_id: Some(writer % QUEUES), ..Message::new(TOPIC, body(value)) };
        match producer.send(&message).await {
            // Any other status says that it may be lost.
            Ok(receipt) if receipt.status == SendStatus::Stored => {
                written.acked.push(Told { place: (receipt.queue_id, receipt.queue_offset), value, at: Instant::now() });
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(written)
}

/// Follows one queue's end: what it sees may not be gone after the crash.
async fn tail(client: Result<Client>, stop: Arc<AtomicBool>) -> Result<Vec<Told>> {
    let client = client?;
    let consumer = Consumer::new(client.clone(), "crash-tail")?;
    let mut seen = Vec::new();
    let Ok(route) = client.route(TOPIC).await else { return Ok(seen) };
    let Some(queue) = route.readable().into_iter().next() else { bail!("the topic has no queue to read") };
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(pulled) = consumer.pull(&request(&queue, offset, Duration::from_millis(100))).await else { break };
        for message in &pulled.messages {
            let Some(value) = value_of(&message.body) else { bail!("queue {} offset {} is damaged", message.queue_id, message.queue_offset) };
            seen.push(Told { place: (message.queue_id, i64::try_from(message.queue_offset)?), value, at: Instant::now() });
        }
        offset = pulled.next_offset;
    }
    Ok(seen)
}

async fn read_to_end(consumer: &Consumer, queue: &QueueAddress, start: i64) -> Result<Vec<(i64, Value)>> {
    let mut content = Vec::new();
    let mut offset = start;
    loop {
        let pulled = consumer.pull(&request(queue, offset, Duration::ZERO)).await?;
        for message in &pulled.messages {
            let Some(value) = value_of(&message.body) else { bail!("queue {} offset {} is damaged", message.queue_id, message.queue_offset) };
            content.push((i64::try_from(message.queue_offset)?, value));
        }
        // A queue that has become shorter than where we begin is a loss, which the comparison will name.
        if pulled.status != PullStatus::Found && (pulled.next_offset >= pulled.max_offset || pulled.next_offset <= offset) {
            return Ok(content);
        }
        offset = pulled.next_offset;
    }
}

fn request(queue: &QueueAddress, offset: i64, hold: Duration) -> PullRequest<'_> {
    PullRequest { queue, topic: TOPIC, offset, messages_max: 256, expression: "*", hold, commit: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_the_cut_binds_and_without_a_cut_everything_does() {
        let cut = Instant::now();
        let told = |at| Told { place: (0, 0), value: 0, at };
        assert!(told(cut - Duration::from_nanos(1)).binds(Some(cut)));
        assert!(!told(cut).binds(Some(cut)));
        assert!(told(cut).binds(None));
    }
}
