//! The whole of delivery: what it is made of, how it starts and stops.

use crate::{
    Counters,
    clients::{ClientInfo, Clients, ConnectionId, ConsumerHeartbeat},
    delay::{DelayService, DelaySignal},
    durability::Durability,
    groups::{GroupDone, Groups},
    held::HeldPulls,
    locks::Locks,
    meta::MetaWriter,
    offsets::Offsets,
    rates::Rates,
    stop::{Phase, Stop},
    topics::{AutoCreate, SCHEDULE_TOPIC, TopicDone, Topics},
    transaction::{CheckSent, CheckService, TransactionCheck, TransactionRules, Transactions},
};
use sluice_env::{
    Env, JoinHandle, Monotonic,
    sync::{Mutex, RwLock},
};
use sluice_store::{AppendError, Batch, Hooks, Placed, Store, Wait, queue_index::QueueRef};
use sluice_types::{Group, QueueId, Topic};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use thiserror::Error;

/// Runs work that may touch the disk, soon, on another thread.
pub type SpawnWork = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// What delivery asks of the side that holds the connections. Every method must be quick.
pub trait ClientPush: Send + Sync {
    /// Tell these consumers that their group's members changed (request 40), so that they share out the queues anew.
    fn notify_consumer_ids_changed(&self, group: &Group, connections: &[ConnectionId]);
    /// Ask a producer what became of its transaction (request 39). The answer, if one comes, is an end of the transaction.
    fn check_transaction(&self, connection: ConnectionId, check: &TransactionCheck) -> CheckSent;
    /// All callbacks of one turn of the log's writer have run: the moment to write out the replies that they made. Runs on whatever
    /// thread wrote: a connection's, the writer's, the delay service's.
    fn turn_end(&self);

    /// Runs what answers many clients at once, on whatever thread; what it makes may be written when it has run.
    fn gather(&self, body: &mut dyn FnMut()) {
        body();
    }
}

/// Settings.
#[derive(Clone, Debug)]
pub struct DeliveryOptions {
    /// This broker's address, part of every record and offset message id.
    pub store_host: SocketAddr,
    /// Whether messages wait for the other brokers of a group before they are acknowledged, unless their topic says otherwise ([`crate::durability`]).
    pub confirm: bool,
    /// Whether a send or pull may make its topic.
    pub auto_create_topics: bool,
    /// Whether a heartbeat or pull may make its consumer group.
    pub auto_create_groups: bool,
    /// Most queues of a topic made on demand.
    pub default_topic_queues: u32,
    /// Largest body of a message.
    pub message_bytes_max: usize,
    /// Most bytes in one pull's reply; the first message is returned even if larger.
    pub pull_bytes_max: usize,
    /// Most messages in one pull's reply.
    pub pull_messages_max: u32,
    /// Most pulls held at once.
    pub held_pulls_max: usize,
    /// Longest time a pull is held, whatever the client asks.
    pub hold_max: Duration,
    /// A client silent for so long is dropped.
    pub client_expiry: Duration,
    /// A queue lock not renewed for so long is free; after delivery was opened, no sooner than so long after that.
    pub lock_expiry: Duration,
    /// How often changed offsets are written.
    pub offset_flush_interval: Duration,
    /// A group without an offset starts at 0 when the whole queue lies within that many bytes of the log's end, else where the client chooses.
    pub recent_bytes: u64,
    /// The delay of each level, from level 1.
    pub delay_levels: Vec<Duration>,
    /// From a half message to the first question about its transaction.
    pub transaction_timeout: Duration,
    /// From one question about a transaction to the next.
    pub transaction_check_interval: Duration,
    /// Questions about a transaction before it is given up.
    pub transaction_check_max: u32,
    /// Longest time that a half message may put off the first question by its `CHECK_IMMUNITY_TIME_IN_SECONDS`. Retention of the log waits for it.
    pub transaction_immunity_max: Duration,
    /// Most transactions open at once.
    pub transactions_open_max: usize,
    /// How far before the log's end consumers read that are sent to a replica, if there is one to read from.
    pub read_behind_bytes: u64,
}

/// The delays of levels 1 to 18, in seconds.
const DELAY_SECONDS: [u64; 18] = [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200];
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often silent clients, old locks and resets that nobody follows are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// Longest wait for the last offsets at a stop.
const LAST_FLUSH: Duration = Duration::from_secs(5);

impl DeliveryOptions {
    /// The defaults for a broker at that address.
    #[must_use]
    pub fn new(store_host: SocketAddr) -> Self {
        Self {
            store_host,
            confirm: true,
            auto_create_topics: true,
            auto_create_groups: true,
            default_topic_queues: 8,
            message_bytes_max: 4 << 20,
            pull_bytes_max: 1 << 20,
            pull_messages_max: 1024,
            held_pulls_max: 10_000,
            hold_max: Duration::from_secs(30),
            client_expiry: Duration::from_secs(120),
            lock_expiry: Duration::from_secs(60),
            offset_flush_interval: Duration::from_millis(500),
            recent_bytes: 4 << 30,
            delay_levels: DELAY_SECONDS.into_iter().map(Duration::from_secs).collect(),
            transaction_timeout: Duration::from_secs(6),
            transaction_check_interval: Duration::from_secs(30),
            transaction_check_max: 15,
            transaction_immunity_max: Duration::from_secs(72 * 3600),
            transactions_open_max: 200_000,
            read_behind_bytes: 4 << 30,
        }
    }

    fn transaction_rules(&self) -> TransactionRules {
        TransactionRules {
            timeout: self.transaction_timeout,
            check_interval: self.transaction_check_interval,
            check_max: self.transaction_check_max,
            immunity_max: self.transaction_immunity_max,
            open_max: self.transactions_open_max,
        }
    }
}

/// Why delivery did not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Metadata in the log that this version cannot read.
    #[error("the metadata in the log cannot be read: {0}; start the version that wrote it")]
    Metadata(String),
    /// No delay level, or more than the schedule topic has queues.
    #[error("{0} delay levels were given; 1 to 18 are possible")]
    DelayLevels(usize),
    /// The open transactions could not be found in the log, or their state not be noted there.
    #[error("the transactions in the log: {0}")]
    Transactions(String),
    /// A thread could not be started.
    #[error("the thread {name} could not be started: {error}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Everything that decides about messages.
pub struct Delivery {
    store: Arc<Store>,
    pub(crate) env: Env,
    options: DeliveryOptions,
    topics: Topics,
    groups: Groups,
    clients: Clients,
    offsets: Offsets,
    locks: Locks,
    pub(crate) held: HeldPulls,
    pub(crate) counters: Arc<Counters>,
    pub(crate) rates: Rates,
    /// With which group and topic the next snapshot of lags begins.
    pub(crate) lag_next: Mutex<Option<(Group, Topic)>>,
    /// The schedule topic's queues, level 1 first.
    pub(crate) delay_queues: Vec<QueueRef>,
    pub(crate) delay_signal: DelaySignal,
    pub(crate) transactions: Arc<Transactions>,
    pub(crate) push: Arc<dyn ClientPush>,
    pub(crate) spawn_work: SpawnWork,
    pub(crate) stop: Arc<Stop>,
    /// The replicas that may be read from. Whether there is one is known without the lock.
    pub(crate) replicas: RwLock<Vec<i64>>,
    pub(crate) has_replicas: AtomicBool,
    /// Held while it is being ended.
    ended: Mutex<bool>,
    threads: Mutex<Vec<Box<dyn JoinHandle>>>,
}

impl Delivery {
    /// Reads what the log holds, takes the store's hooks, starts its three threads.
    pub fn open(store: Arc<Store>, env: Env, options: DeliveryOptions, push: Arc<dyn ClientPush>, spawn_work: SpawnWork) -> Result<Arc<Self>, OpenError> {
        if !(1..=DELAY_SECONDS.len()).contains(&options.delay_levels.len()) {
            return Err(OpenError::DelayLevels(options.delay_levels.len()));
        }
        let (counters, stop) = (Arc::new(Counters::default()), Arc::<Stop>::default());
        // First: it looks at the log's last record.
        let transactions = Transactions::load(&store, &env, options.transaction_rules(), &stop, &counters).map_err(OpenError::Transactions)?;
        let meta = Arc::new(MetaWriter::new(store.clone()));
        let auto = AutoCreate { enabled: options.auto_create_topics, queues: options.default_topic_queues };
        let schedule = Topic::new(SCHEDULE_TOPIC).map_err(|e| OpenError::Metadata(e.to_string()))?;
        let delay_queues: Vec<QueueRef> = (0..options.delay_levels.len()).map(|i| store.queue(&schedule, QueueId(i as u32))).collect();
        let service = DelayService::load(&store, &delay_queues, &options.delay_levels).map_err(OpenError::Metadata)?;
        let delivery = Arc::new(Self {
            topics: Topics::load(&store, &meta, &env, auto, Durability::of(&store, options.confirm)).map_err(OpenError::Metadata)?,
            groups: Groups::load(&store, &meta, &env, options.auto_create_groups).map_err(OpenError::Metadata)?,
            clients: Clients::new(env.clock.clone(), push.clone(), options.client_expiry),
            offsets: Offsets::load(&store, &meta, &counters).map_err(OpenError::Metadata)?,
            locks: Locks::load(&store, &meta, &env, options.lock_expiry).map_err(OpenError::Metadata)?,
            held: HeldPulls::new(options.held_pulls_max),
            counters,
            rates: Rates::new(env.clock.monotonic()),
            lag_next: Mutex::default(),
            delay_queues,
            delay_signal: DelaySignal::default(),
            transactions,
            push: push.clone(),
            spawn_work,
            stop,
            replicas: RwLock::default(),
            has_replicas: AtomicBool::new(false),
            ended: Mutex::default(),
            threads: Mutex::default(),
            store,
            env,
            options,
        });
        delivery.start_rates();
        delivery.set_hooks(push);
        delivery.start_threads(service)?;
        Ok(delivery)
    }

    /// The store outlives delivery in a test that opens it anew: the hooks hold it weakly.
    fn set_hooks(self: &Arc<Self>, push: Arc<dyn ClientPush>) {
        let (weak, stop) = (Arc::downgrade(self), self.stop.clone());
        let arrived = move |queue: &QueueRef| {
            let Some(_inside) = stop.enter() else { return };
            let Some(delivery) = weak.upgrade() else { return };
            if queue.topic().as_str() == SCHEDULE_TOPIC {
                delivery.delay_signal.arrived();
            }
            delivery.wake(queue);
        };
        let gathering = push.clone();
        let gather = move |body: &mut dyn FnMut()| gathering.gather(body);
        self.store.set_hooks(Hooks { arrived: Arc::new(arrived), gather: Arc::new(gather), turn_end: Arc::new(move || push.turn_end()) });
    }

    fn start_threads(self: &Arc<Self>, service: DelayService) -> Result<(), OpenError> {
        let (ticker, start) = (self.clone(), self.env.clock.monotonic());
        self.start("delivery-ticker", Box::new(move || ticker.tick_until_stopped(start)))?;
        let (delay, checks) = (self.clone(), self.clone());
        self.start("delivery-delay", Box::new(move || service.run(&delay)))
            .and_then(|()| self.start("delivery-checks", Box::new(move || CheckService::new(start).run(&checks))))
            .inspect_err(|_| self.close())
    }

    fn start(&self, name: &'static str, body: Box<dyn FnOnce() + Send>) -> Result<(), OpenError> {
        let thread = self.env.spawn.thread(name, body).map_err(|error| OpenError::Thread { name, error })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn tick_until_stopped(&self, start: Monotonic) {
        let (mut flushed, mut swept, mut sampled) = (start, start, start);
        while self.stop.pause(TICK) {
            let now = self.env.clock.monotonic();
            self.end_due_pulls();
            if now.since(flushed) >= self.options.offset_flush_interval {
                flushed = now;
                self.offsets.flush(Box::new(|result| {
                    if let Err(error) = result {
                        tracing::warn!(%error, "committed offsets were not stored; they are tried again");
                    }
                }));
            }
            swept = self.sweep(now, swept);
            sampled = self.sample_rates(now, sampled);
        }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.phase() != Phase::Works
    }

    /// Appends and blocks until it is stored, or nobody may wait for that any more: for delivery's own threads.
    pub(crate) fn append(&self, batch: Batch) -> Result<Vec<Placed>, AppendError> {
        if self.stop.phase() == Phase::Abandoned {
            return Err(AppendError::Stopped);
        }
        self.stop.answer_of(|done| self.store.submit(batch, Wait::Durable, done), None).unwrap_or(Err(AppendError::Stopped))
    }

    pub(crate) fn note_transactions(&self) -> Result<(), AppendError> {
        self.transactions.note(|batch| self.append(batch))
    }

    fn sweep(&self, now: Monotonic, swept: Monotonic) -> Monotonic {
        if now.since(swept) < SWEEP.min(self.options.client_expiry / 2) {
            return swept;
        }
        let expired = self.clients.expire(&|group| self.wants_notice(group));
        Counters::add(&self.counters.clients_expired, expired as u64);
        self.locks.sweep();
        self.offsets.sweep_resets(now, |group| self.clients.is_live(group.as_str()));
        now
    }

    /// Answers what is held, ends the threads, writes the last offsets. Blocks; call it before the store is closed. A second time it does nothing.
    pub fn close(&self) {
        let mut ended = self.ended.lock();
        if std::mem::replace(&mut *ended, true) {
            return;
        }
        self.end(Phase::Closes);
        if let Err(error) = self.note_transactions() {
            tracing::warn!(%error, "the open transactions were not noted at the stop; the next start has more to read");
        }
        if self.stop.phase() == Phase::Abandoned {
            return;
        }
        match self.stop.answer_of(|done| self.offsets.flush(done), Some(LAST_FLUSH)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::error!(%error, "the last committed offsets were not stored: groups will see some messages again"),
            None => tracing::error!("the last committed offsets were not stored in time: groups may see some messages again"),
        }
    }

    /// Ends as [`close`](Self::close) does, but at once: it writes nothing, and waits for nothing that the store has not answered yet. For a broker that is not master
    /// any more, whose log others may already be writing. A close that is under way is cut short.
    pub fn abandon(&self) {
        self.stop.request(Phase::Abandoned);
        let mut ended = self.ended.lock();
        if !std::mem::replace(&mut *ended, true) {
            self.end(Phase::Abandoned);
        }
    }

    /// From here on nothing is held, no lock granted, and nothing done but what is asked for.
    fn end(&self, phase: Phase) {
        self.stop.request(phase);
        self.delay_signal.stop();
        self.locks.stop();
        self.end_all_pulls();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if let Err(what) = thread.join() {
                tracing::error!(what, "a thread of delivery had failed");
            }
        }
        self.stop.wait_until_left();
    }

    fn wants_notice(&self, group: &Group) -> bool {
        self.groups.get(group.as_str()).is_none_or(|config| config.notify_consumer_ids_changed_enable)
    }

    /// Takes a client's heartbeat. Consumer groups and their retry topics are made on demand; a group that may not be made is left out.
    pub fn heartbeat(&self, client: ClientInfo, producer_groups: &[Group], consumers: Vec<ConsumerHeartbeat>) {
        for group in producer_groups {
            self.clients.heartbeat_producer(group, client.clone());
        }
        for beat in consumers {
            let config = match self.groups.ensure(&beat.group) {
                Ok(config) => config,
                Err(error) => {
                    tracing::warn!(group = %beat.group, %error, "a consumer's heartbeat is not taken");
                    continue;
                }
            };
            if config.retry_queue_nums > 0
                && let Err(error) = self.topics.retry_topic(&beat.group, config.retry_queue_nums, false)
            {
                tracing::warn!(group = %beat.group, %error, "the group has no retry topic");
            }
            self.clients.heartbeat_consumer(beat, client.clone(), &|group| self.wants_notice(group));
        }
    }

    /// A client leaves a group by its own will; its queue locks are free at once.
    pub fn unregister(&self, client_id: &str, producer_group: Option<&Group>, consumer_group: Option<&Group>) {
        if let Some(group) = producer_group {
            self.clients.unregister_producer(group, client_id);
        }
        if let Some(group) = consumer_group {
            self.locks.release(group, client_id);
            self.clients.unregister_consumer(group, client_id, &|group| self.wants_notice(group));
        }
    }

    /// A connection has ended: its held pulls are dropped, its clients have left. Queue locks run out by themselves, for the client may be back in a moment and go
    /// on with the messages it is working on.
    pub fn connection_closed(&self, connection: ConnectionId) {
        drop(self.held.take_connection(connection));
        self.clients.connection_closed(connection, &|group| self.wants_notice(group));
    }

    /// Removes a topic, its messages and the offsets in it. Offsets in its queues are never used again, even if it is made anew.
    pub fn delete_topic(&self, topic: &Topic, done: TopicDone) {
        if self.topics.get(topic.as_str()).is_some() && !crate::topics::is_system(topic.as_str()) {
            for queue in self.store.queues_of(topic.as_str()) {
                self.store.trim_queue(&queue, queue.visible().max);
            }
            self.offsets.remove_topic(topic);
        }
        self.topics.delete(topic, done);
    }

    /// Removes a group, and its offsets if asked to. Resets that wait for its members end.
    pub fn delete_group(&self, group: &Group, clean_offsets: bool, done: GroupDone) {
        if clean_offsets {
            self.offsets.remove_group(group);
        } else {
            self.offsets.end_resets_of(group);
        }
        self.groups.delete(group, done);
    }

    /// Topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Consumer groups.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Who is connected.
    #[must_use]
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Committed offsets.
    #[must_use]
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// Queue locks.
    #[must_use]
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Counters for telemetry.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &DeliveryOptions {
        &self.options
    }
}
