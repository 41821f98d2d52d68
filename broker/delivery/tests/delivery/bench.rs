//! A broker without sockets.

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_delivery::{
    CheckSent, ClientInfo, ClientPush, ConnectionId, ConsumeFromWhere, ConsumeType, ConsumerHeartbeat, Delivery, DeliveryOptions, EndError, EndTransaction,
    MessageModel, OffsetError, PullReply, PullRequest, SendError, SendReceipt, SendRequest, SpawnWork, Subscription, TransactionCheck, Verdict,
};
use sluice_env::{
    Env,
    sim::{self, SimClock, SimDisk},
};
use sluice_protocol::{Language, record::RecordView};
use sluice_store::{FlushMode, Store, StoreOptions};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

/// Longest real time a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Segments small enough for tests.
pub(crate) const SEGMENT: u64 = 1 << 20;

/// A store where nothing counts as stored before it was confirmed.
pub(crate) fn replicated() -> StoreOptions {
    StoreOptions { segment_bytes: SEGMENT, replicated: true, ..StoreOptions::default() }
}

#[derive(Default)]
pub(crate) struct Pushes {
    pub(crate) notified: Mutex<Vec<(Group, Vec<ConnectionId>)>>,
    /// Questions about transactions, by whom they reached.
    pub(crate) checks: Mutex<Vec<(ConnectionId, TransactionCheck)>>,
    /// Connections that cannot be asked, and why.
    pub(crate) deaf: Mutex<Vec<(ConnectionId, CheckSent)>>,
}

impl ClientPush for Pushes {
    fn notify_consumer_ids_changed(&self, group: &Group, connections: &[ConnectionId]) {
        self.notified.lock().push((group.clone(), connections.to_vec()));
    }
    fn check_transaction(&self, connection: ConnectionId, check: &TransactionCheck) -> CheckSent {
        if let Some((_, why)) = self.deaf.lock().iter().find(|(deaf, _)| *deaf == connection) {
            return *why;
        }
        self.checks.lock().push((connection, check.clone()));
        CheckSent::Sent
    }
    fn turn_end(&self) {}
}

pub(crate) struct Bench {
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
    pub(crate) store: Arc<Store>,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) push: Arc<Pushes>,
}

pub(crate) fn host() -> SocketAddr {
    "127.0.0.1:10911".parse().expect("literal")
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("legal")
}

pub(crate) fn group(name: &str) -> Group {
    Group::new(name).expect("legal")
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut DeliveryOptions)) -> Self {
        let (_, disk, clock) = sim::env(7);
        Self::open(disk, clock, change)
    }

    pub(crate) fn open(disk: SimDisk, clock: SimClock, change: impl FnOnce(&mut DeliveryOptions)) -> Self {
        Self::open_with(disk, clock, StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() }, change)
    }

    /// A broker that flushes before it answers.
    pub(crate) fn open_sync(disk: SimDisk, clock: SimClock) -> Self {
        Self::open_with(disk, clock, StoreOptions { segment_bytes: 1 << 20, flush: FlushMode::Sync, ..StoreOptions::default() }, |_| ())
    }

    pub(crate) fn open_with(disk: SimDisk, clock: SimClock, store: StoreOptions, change: impl FnOnce(&mut DeliveryOptions)) -> Self {
        let env = sim::env_over(7, &disk, &clock);
        Self::open_env(env, disk, clock, store, change)
    }

    /// A broker in a world that is not all simulated.
    pub(crate) fn open_env(env: Env, disk: SimDisk, clock: SimClock, store: StoreOptions, change: impl FnOnce(&mut DeliveryOptions)) -> Self {
        Self::open_spawning(env, disk, clock, store, change, Arc::new(|work| drop(std::thread::spawn(work))))
    }

    /// A broker whose work for other threads is done in that way.
    pub(crate) fn open_spawning(
        env: Env,
        disk: SimDisk,
        clock: SimClock,
        store: StoreOptions,
        change: impl FnOnce(&mut DeliveryOptions),
        spawn: SpawnWork,
    ) -> Self {
        let store = Store::open(env.clone(), store).expect("opens");
        Self::open_over(env, disk, clock, store, change, spawn)
    }

    /// A broker over a store that is open.
    pub(crate) fn open_over(env: Env, disk: SimDisk, clock: SimClock, store: Arc<Store>, change: impl FnOnce(&mut DeliveryOptions), spawn: SpawnWork) -> Self {
        let push = Arc::new(Pushes::default());
        let mut options = DeliveryOptions::new(host());
        change(&mut options);
        let delivery = Delivery::open(store.clone(), env, options, push.clone(), spawn).expect("opens");
        Self { disk, clock, store, delivery, push }
    }

    /// Stops in order and starts anew.
    pub(crate) fn restart(self) -> Self {
        self.restart_with(|_| ())
    }

    pub(crate) fn restart_with(self, change: impl FnOnce(&mut DeliveryOptions)) -> Self {
        self.delivery.close();
        self.store.close();
        let Self { disk, clock, store, delivery, .. } = self;
        drop(delivery);
        drop(store);
        Self::open(disk, clock, change)
    }

    /// The same over a store with these options.
    pub(crate) fn restart_over(self, options: StoreOptions) -> Self {
        self.delivery.close();
        self.store.close();
        let Self { disk, clock, store, delivery, .. } = self;
        drop(delivery);
        drop(store);
        Self::open_with(disk, clock, options, |_| ())
    }

    pub(crate) fn send(&self, request: SendRequest<'_>) -> Result<SendReceipt, SendError> {
        let (sender, receiver) = mpsc::channel();
        self.delivery.send(request, Box::new(move |result| sender.send(result).expect("somebody waits")));
        receiver.recv_timeout(PATIENCE).expect("a send is answered")
    }

    /// Ends a transaction as the producer of that half message would.
    pub(crate) fn end(&self, half: &SendReceipt, verdict: Verdict) -> Result<(), EndError> {
        let (queue_offset, log_offset) = (half.first_queue_offset.to_wire(), half.placed[0].log_offset.to_wire());
        let transaction_id = half.transaction_id.as_deref().unwrap_or_default();
        self.end_as(EndTransaction { group: "producers", queue_offset, log_offset, transaction_id, verdict })
    }

    pub(crate) fn end_as(&self, request: EndTransaction<'_>) -> Result<(), EndError> {
        let (sender, receiver) = mpsc::channel();
        self.delivery.end_transaction(request, Box::new(move |result| sender.send(result).expect("somebody waits")));
        receiver.recv_timeout(PATIENCE).expect("the end of a transaction is answered")
    }

    /// Asks for locks of queues of `orders` for a member of `readers`.
    pub(crate) fn lock_later(&self, client_id: &str, queues: &[u32]) -> mpsc::Receiver<Vec<u32>> {
        let (sender, receiver) = mpsc::channel();
        let done = move |held: Vec<(Topic, QueueId)>| drop(sender.send(held.into_iter().map(|(_, queue)| queue.0).collect()));
        self.delivery.locks().lock(&group("readers"), client_id, &orders(queues), Box::new(done));
        receiver
    }

    pub(crate) fn lock(&self, client_id: &str, queues: &[u32]) -> Vec<u32> {
        self.lock_later(client_id, queues).recv_timeout(PATIENCE).expect("a lock is answered")
    }

    /// Asks where `readers` go on in a queue of `orders`.
    pub(crate) fn ask_later(&self, queue: i32, zero: bool, connection: u64) -> mpsc::Receiver<Result<QueueOffset, OffsetError>> {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.delivery.query_offset(&group("readers"), &topic("orders"), queue, zero, ConnectionId(connection), done);
        receiver
    }

    pub(crate) fn ask(&self, queue: i32, zero: bool, connection: u64) -> Result<QueueOffset, OffsetError> {
        self.ask_later(queue, zero, connection).recv_timeout(PATIENCE).expect("a question for an offset is answered")
    }

    /// Writes changed offsets now.
    pub(crate) fn flush_offsets(&self) {
        let (sender, receiver) = mpsc::channel();
        self.delivery.offsets().flush(Box::new(move |result| drop(sender.send(result))));
        receiver.recv_timeout(PATIENCE).expect("answered").expect("written");
    }

    /// What a group has committed in queue 0 of `orders`, for who looks on: when that is written.
    pub(crate) fn committed(&self, name: &str) -> Option<QueueOffset> {
        self.flush_offsets();
        self.delivery.offsets().get(name, "orders", QueueId(0))
    }

    pub(crate) fn unlock(&self, client_id: &str, queues: &[u32]) {
        self.delivery.locks().unlock(&group("readers"), client_id, &orders(queues));
    }

    pub(crate) fn pull_later(&self, request: PullRequest) -> mpsc::Receiver<PullReply> {
        let (sender, receiver) = mpsc::channel();
        self.delivery.pull(request, Box::new(move |reply| drop(sender.send(reply))));
        receiver
    }

    pub(crate) fn pull(&self, request: PullRequest) -> PullReply {
        self.pull_later(request).recv_timeout(PATIENCE).expect("a pull is answered")
    }

    /// Waits in real time until something is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !so() {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bodies and properties of a queue's messages.
    pub(crate) fn contents(&self, name: &str, queue_id: i32) -> Vec<(String, String)> {
        let request = PullRequest { queue_id, ..pull_of(name, 0) };
        let found = self.pull(request).expect("answered");
        messages(&found.slices)
    }

    pub(crate) fn heartbeat(&self, group_name: &str, client_id: &str, connection: u64, subscriptions: Vec<Subscription>) {
        self.beat(group_name, client(client_id, connection), ConsumeFromWhere::LastOffset, subscriptions);
    }

    /// A member of a group that begins somewhere else than at the end.
    pub(crate) fn heartbeat_from(&self, group_name: &str, from_where: ConsumeFromWhere, subscriptions: Vec<Subscription>) {
        self.beat(group_name, client(group_name, 100), from_where, subscriptions);
    }

    fn beat(&self, group_name: &str, client: ClientInfo, from_where: ConsumeFromWhere, subscriptions: Vec<Subscription>) {
        let beat =
            ConsumerHeartbeat { group: group(group_name), consume_type: ConsumeType::Passively, model: MessageModel::Clustering, from_where, subscriptions };
        self.delivery.heartbeat(client, &[], vec![beat]);
    }
}

pub(crate) fn orders(queues: &[u32]) -> Vec<(Topic, QueueId)> {
    queues.iter().map(|queue| (topic("orders"), QueueId(*queue))).collect()
}

pub(crate) fn client(id: &str, connection: u64) -> ClientInfo {
    ClientInfo { client_id: id.to_owned(), connection: ConnectionId(connection), address: host(), language: Language::Java, version: 477 }
}

pub(crate) fn messages(slices: &[Bytes]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for slice in slices {
        let mut rest = &slice[..];
        while !rest.is_empty() {
            let view = RecordView::checked(rest).expect("a whole record");
            all.push((String::from_utf8_lossy(view.body()).into_owned(), view.user_properties().to_owned()));
            rest = &rest[view.bytes().len()..];
        }
    }
    all
}

pub(crate) fn message<'a>(topic: &'a str, body: &str) -> SendRequest<'a> {
    SendRequest {
        topic,
        queue_id: 0,
        group: "producers",
        default_topic: "TBW102",
        default_queue_count: 4,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host(),
        flag: 0,
        properties: "",
        body: Bytes::copy_from_slice(body.as_bytes()),
        reconsume_times: 0,
        max_reconsume_times: None,
        batch: false,
        unit_mode: false,
    }
}

pub(crate) fn pull_of(name: &str, offset: i64) -> PullRequest {
    PullRequest {
        group: group("readers"),
        topic: topic(name),
        queue_id: 0,
        offset,
        max_messages: 32,
        max_bytes: None,
        commit_offset: None,
        suspend: None,
        subscription: Some(Subscription::all(topic(name))),
        subscription_version: 0,
        connection: ConnectionId(1),
    }
}
