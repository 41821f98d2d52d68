//! A broker of the simulation: a member of the group, delivery on its log while it is master, and a port for clients.

use crate::{
    coordinator::SimCoordinator,
    history::History,
    talk::{Answer, Came, Mouth, Question, Request, Said, Signed, Talk},
};
use sluice_delivery::{
    CheckSent, ClientInfo, ClientPush, ConnectionId, Delivery, DeliveryOptions, EndError, EndTransaction, OffsetError, PullError, PullOutcome, PullRequest,
    ReplicaReads, SendBackError, SendBackRequest, SendError, SendRequest, Subscription, TransactionCheck, Verdict,
};
use sluice_env::{
    Connection, Env,
    sim::threads::Machine,
    sync::{Mutex, oneshot},
};
use sluice_group::runner::{GroupOptions, Member, Service};
use sluice_history::{Action, NodeEvent};
use sluice_protocol::{Language, properties, record::RecordView};
use sluice_replication::{Epoch, MemberId, Timing};
use sluice_store::{FlushMode, RecoveryProgress, Store, StoreOptions};
use sluice_types::{Group, QueueId, Topic};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// What all brokers of a run have in common.
#[derive(Clone)]
pub struct Settings {
    /// How many brokers.
    pub members: u32,
    /// Fewest members of the in-sync set.
    pub min_in_sync: usize,
    /// When a record counts as stored.
    pub flush: FlushMode,
    /// Whether messages wait for the other brokers before they are acknowledged.
    pub confirm: bool,
    /// Patience.
    pub timing: Timing,
    /// Queues of each topic.
    pub queues: u32,
    /// Bytes of log that retention leaves; `None`: all.
    pub retention: Option<u64>,
    /// Whether calendars jump in this run.
    pub calendars_jump: bool,
}

impl Settings {
    /// Whether what is acknowledged is on stable storage.
    #[must_use]
    pub fn is_sync(&self) -> bool {
        self.flush == FlushMode::Sync
    }
}

/// Most log that is acknowledged before the others have it, where that is allowed.
pub const UNCONFIRMED_BYTES_MAX: u64 = 8 << 10;

/// The name of a broker's machine.
#[must_use]
pub fn name(id: u32) -> String {
    format!("b{id}")
}

/// Where a broker serves clients.
#[must_use]
pub fn place(id: u32) -> String {
    format!("b{id}:10911")
}

/// One broker.
pub struct Node {
    env: Env,
    id: u32,
    settings: Settings,
    history: History,
    master: Mutex<Option<(Epoch, Arc<Delivery>)>>,
    member: Mutex<Option<Arc<Member>>>,
    /// What it gives to read from its own log.
    reads: ReplicaReads,
    connections: AtomicU64,
    /// By which clients are told what they have not asked for.
    mouths: Mutex<BTreeMap<ConnectionId, Arc<Mouth>>>,
    is_stopping: AtomicBool,
}

impl Node {
    /// Starts the broker's process on its machine.
    pub fn start(machine: &Machine, id: u32, settings: &Settings, coordinator: &SimCoordinator, history: &History) -> Arc<Self> {
        let env = machine.env();
        // Every message is far behind.
        let options = DeliveryOptions { read_behind_bytes: 0, ..DeliveryOptions::new(host()) };
        let node = Arc::new(Self {
            reads: ReplicaReads::new(id.into(), options, env.clock.clone()),
            env,
            id,
            settings: settings.clone(),
            history: history.clone(),
            master: Mutex::default(),
            member: Mutex::default(),
            connections: AtomicU64::new(1),
            mouths: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let (inside, coordinator) = (node.clone(), coordinator.of(id));
        machine.spawn("broker", move || inside.run(coordinator));
        node
    }

    fn options(&self) -> GroupOptions {
        let settings = &self.settings;
        GroupOptions {
            cluster: "c".to_owned(),
            group: "g".to_owned(),
            id: MemberId(self.id),
            members: (1..=settings.members).map(|id| (MemberId(id), format!("{}:10912", name(id)))).collect::<BTreeMap<_, _>>(),
            listen: format!("{}:10912", name(self.id)),
            place: place(self.id),
            min_in_sync: settings.min_in_sync,
            timing: settings.timing,
            store: StoreOptions {
                segment_bytes: 256 << 10,
                flush: settings.flush,
                flush_deadline: Duration::from_secs(3),
                unconfirmed_bytes_max: UNCONFIRMED_BYTES_MAX,
                checkpoint_interval: Duration::from_secs(5),
                checkpoint_bytes: 256 << 10,
                key_index: false,
                retention_bytes: settings.retention,
                // Calendars jump.
                retention_age: Duration::from_secs(10 * 365 * 86_400),
                ..StoreOptions::default()
            },
        }
    }

    fn run(self: &Arc<Self>, coordinator: Arc<dyn sluice_group::coordinator::Coordinator>) {
        let service: Arc<dyn Service> = Arc::new(Serving(Arc::downgrade(self)));
        let member = loop {
            match Member::start(self.env.clone(), self.options(), coordinator.clone(), service.clone(), &RecoveryProgress::default()) {
                Ok(member) => break member,
                Err(error) => {
                    tracing::error!(node = self.id, %error, "a broker did not start");
                    sluice_env::sim::threads::sleep(Duration::from_secs(1));
                }
            }
        };
        *self.member.lock() = Some(member);
        let listener = match self.env.net.listen(&place(self.id)) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(node = self.id, %error, "no port for clients"),
        };
        while !self.is_stopping.load(Ordering::SeqCst) {
            let Ok(connection) = listener.accept(Duration::from_secs(1)) else { continue };
            let node = self.clone();
            let number = ConnectionId(self.connections.fetch_add(1, Ordering::SeqCst));
            drop(self.env.spawn.thread("client", Box::new(move || node.serve(connection, number))));
        }
    }

    /// Its member of the group, once it has started.
    #[must_use]
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.lock().clone()
    }

    fn serve(&self, connection: Arc<dyn Connection>, number: ConnectionId) {
        let mut talk = Talk::new(connection);
        self.mouths.lock().insert(number, talk.mouth());
        while let Ok(request) = talk.hear::<Request>(SILENCE_MAX) {
            let signed = self.answer(request, number);
            if talk.say(&Said::Answer(signed), Duration::from_secs(5)).is_err() {
                break;
            }
        }
        talk.close();
        self.mouths.lock().remove(&number);
        let delivery = self.master.lock().as_ref().map(|(_, delivery)| delivery.clone());
        if let Some(delivery) = delivery {
            delivery.connection_closed(number);
        }
    }

    /// Asks a client what has become of its transaction.
    fn ask(&self, connection: ConnectionId, check: &TransactionCheck) -> CheckSent {
        let Some(mouth) = self.mouths.lock().get(&connection).cloned() else { return CheckSent::Gone };
        let Ok(view) = RecordView::checked(&check.record) else { panic!("a question about a record that is none") };
        let times = properties::get(view.properties(), "TRANSACTION_CHECK_TIMES").and_then(|times| times.parse().ok()).unwrap_or(0);
        let question = Question {
            offset: check.queue_offset.0,
            place: check.log_offset.to_wire(),
            id: check.unique_key.clone().unwrap_or_default(),
            body: view.body().to_vec(),
            times,
        };
        match mouth.say(&Said::Question(question), Duration::from_millis(50)) {
            Ok(()) => CheckSent::Sent,
            Err(_) => CheckSent::Gone,
        }
    }

    fn answer(&self, request: Request, connection: ConnectionId) -> Signed {
        let refused = |epoch, why: &str| Signed { node: self.id, epoch, answer: Answer::Refused { is_unknown: false, why: why.to_owned() } };
        if let Request::Read { group, topic, queue, offset } = request {
            let store = self.member().and_then(|member| member.store());
            let outcome = self.reads.pull(store.as_ref(), &pull_request((&group, &topic, queue), offset, 0, connection));
            return Signed { node: self.id, epoch: 0, answer: self.messages(&outcome) };
        }
        let Some((epoch, delivery)) = self.master.lock().clone() else { return refused(0, "not master") };
        if self.serves() != Some(epoch) {
            return refused(epoch.0, "not master any more");
        }
        let is_read = matches!(request, Request::Pull { .. } | Request::Fetch { .. } | Request::Commit { .. } | Request::Lock { .. } | Request::End { .. });
        let answer = self.handle(&delivery, request, connection);
        // What was read while another one may have become master is not told.
        if is_read && self.serves() != Some(epoch) {
            return refused(epoch.0, "not master any more");
        }
        Signed { node: self.id, epoch: epoch.0, answer }
    }

    fn serves(&self) -> Option<Epoch> {
        self.member.lock().as_ref()?.serves()
    }

    fn handle(&self, delivery: &Arc<Delivery>, request: Request, connection: ConnectionId) -> Answer {
        match request {
            Request::Read { .. } => Answer::Refused { is_unknown: false, why: "it is no question to a master".to_owned() },
            Request::Send { topic, queue, group, properties, body } => send(delivery, (&topic, queue), &group, &properties, body, address(connection)),
            Request::Finish { group, offset, place, id, action } => end(delivery, &group, offset, place, &id, action),
            Request::Back { group, place, retries_max } => back(delivery, &group, place, retries_max),
            Request::Beat { group, client } => {
                let info = ClientInfo { client_id: client, connection, address: address(connection), language: Language::Java, version: 0 };
                delivery.heartbeat(info, &[self::group(&group)], Vec::new());
                Answer::Done(true)
            }
            Request::Pull { group, topic, queue, offset, hold_ms } => self.pull(delivery, (&group, &topic, queue), offset, hold_ms, connection),
            Request::End { topic, queue } => Answer::Offset(delivery.bounds(&self::topic(&topic), queue as i32).ok().map(|bounds| bounds.max.0)),
            Request::Fetch { group, topic, queue } => fetch(delivery, &group, &topic, queue, connection),
            Request::Commit { group, topic, queue, offset, stored } => commit(delivery, (&group, &topic, queue), offset, stored),
            Request::Lock { group, client, topic, queue, take } => lock(delivery, &group, &client, &topic, queue, take),
        }
    }

    fn pull(&self, delivery: &Arc<Delivery>, (group, topic, queue): (&str, &str, u32), offset: u64, hold_ms: u64, connection: ConnectionId) -> Answer {
        let (sender, receiver) = oneshot();
        delivery.pull(pull_request((group, topic, queue), offset, hold_ms, connection), Box::new(move |reply| sender.send(reply)));
        let outcome = match receiver.recv_timeout(Duration::from_millis(hold_ms) + Duration::from_secs(5)) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(PullError::Topic(_))) => return Answer::Messages { came: Vec::new(), next: offset, min: 0, max: 0, clock: self.env.clock.wall().0 },
            Ok(Err(error)) => return Answer::Refused { is_unknown: false, why: error.to_string() },
            Err(_) => return Answer::Refused { is_unknown: false, why: "no answer in time".to_owned() },
        };
        self.messages(&outcome)
    }

    fn messages(&self, outcome: &PullOutcome) -> Answer {
        let mut came = Vec::new();
        for slice in &outcome.slices {
            let mut rest = &slice[..];
            while let Ok(view) = RecordView::checked(rest) {
                came.push(Came {
                    offset: view.queue_offset(),
                    place: view.log_offset(),
                    body: view.body().to_vec(),
                    properties: view.properties().to_owned(),
                    attempt: view.reconsume_times() as u32,
                });
                rest = &rest[view.bytes().len()..];
            }
        }
        Answer::Messages { came, next: outcome.next.0, min: outcome.bounds.min.0, max: outcome.bounds.max.0, clock: self.env.clock.wall().0 }
    }
}

/// A client that says nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// When producers are asked what has become of their transactions, and how often: within a run's minutes some are given up.
const CHECK_AFTER: Duration = Duration::from_secs(1);
const CHECK_EVERY: Duration = Duration::from_secs(2);
const CHECKS_MAX: u32 = 8;
/// The delays of levels 1 to 5, in seconds: two for delayed messages, three for those that failed.
pub(crate) const DELAYS: [u64; 5] = [1, 5, 2, 4, 8];

fn pull_request((group, topic, queue): (&str, &str, u32), offset: u64, hold_ms: u64, connection: ConnectionId) -> PullRequest {
    PullRequest {
        group: self::group(group),
        topic: self::topic(topic),
        queue_id: queue as i32,
        offset: offset as i64,
        max_messages: 32,
        max_bytes: None,
        commit_offset: None,
        suspend: (hold_ms > 0).then(|| Duration::from_millis(hold_ms)),
        subscription: Some(Subscription::all(self::topic(topic))),
        subscription_version: 0,
        connection,
    }
}

/// Waits for an answer that the store owes within its deadline.
const STORE_ANSWER: Duration = Duration::from_secs(30);

fn send(delivery: &Arc<Delivery>, (topic, queue): (&str, u32), group: &str, properties: &str, body: Vec<u8>, born_host: SocketAddr) -> Answer {
    let request = SendRequest {
        topic,
        queue_id: queue as i32,
        group,
        default_topic: "TBW102",
        default_queue_count: 8,
        sys_flag: 0,
        born_timestamp: 1,
        born_host,
        flag: 0,
        properties,
        body: body.into(),
        reconsume_times: 0,
        max_reconsume_times: None,
        batch: false,
        unit_mode: false,
    };
    match told(|done| delivery.send(request, done)) {
        Some(Ok(receipt)) => Answer::Sent {
            offset: receipt.first_queue_offset.0,
            place: receipt.placed.first().map(|placed| placed.log_offset.to_wire()).unwrap_or_default(),
            id: receipt.transaction_id,
        },
        Some(Err(error)) => Answer::Refused { is_unknown: matches!(error, SendError::Late(..) | SendError::Store(_)), why: error.to_string() },
        None => Answer::Refused { is_unknown: true, why: "no answer in time".to_owned() },
    }
}

/// What is told when it is done; `None`: nothing in time.
fn told<T: Send + 'static>(begin: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> Option<T> {
    let (sender, receiver) = oneshot();
    begin(Box::new(move |result| sender.send(result)));
    receiver.recv_timeout(STORE_ANSWER).ok()
}

fn fetch(delivery: &Arc<Delivery>, group: &str, topic: &str, queue: u32, connection: ConnectionId) -> Answer {
    match told(|done| delivery.query_offset(&self::group(group), &self::topic(topic), queue as i32, true, connection, done)) {
        Some(Ok(offset)) => Answer::Offset(Some(offset.0)),
        Some(Err(OffsetError::NotFound(..))) => Answer::Offset(None),
        Some(Err(error)) => Answer::Refused { is_unknown: false, why: error.to_string() },
        None => Answer::Refused { is_unknown: false, why: "no answer in time".to_owned() },
    }
}

fn commit(delivery: &Arc<Delivery>, (group, topic, queue): (&str, &str, u32), offset: u64, stored: bool) -> Answer {
    let (group, topic) = (self::group(group), self::topic(topic));
    let refused = |is_unknown, why: &dyn ToString| Answer::Refused { is_unknown, why: why.to_string() };
    if !stored {
        return match delivery.commit_offset(&group, &topic, queue as i32, offset as i64) {
            Ok(()) => Answer::Done(true),
            Err(error) => refused(false, &error),
        };
    }
    match told(|done| delivery.commit_offset_stored(&group, &topic, queue as i32, offset as i64, done)) {
        Some(Ok(())) => Answer::Done(true),
        Some(Err(error)) => refused(true, &error),
        None => refused(true, &"no answer in time"),
    }
}

fn end(delivery: &Arc<Delivery>, group: &str, offset: u64, place: i64, id: &str, action: Action) -> Answer {
    let verdict = match action {
        Action::Commit => Verdict::Commit,
        Action::Rollback => Verdict::Rollback,
        Action::Unknown => Verdict::Unknown,
    };
    let request = EndTransaction { group, queue_offset: offset as i64, log_offset: place, transaction_id: id, verdict };
    match told(|done| delivery.end_transaction(request, done)) {
        Some(Ok(())) => Answer::Done(true),
        Some(Err(EndError::Ended(_))) => Answer::Done(false),
        Some(Err(error)) => Answer::Refused { is_unknown: true, why: error.to_string() },
        None => Answer::Refused { is_unknown: true, why: "no answer in time".to_owned() },
    }
}

fn back(delivery: &Arc<Delivery>, group: &str, place: u64, retries_max: u32) -> Answer {
    let max_reconsume_times = Some(retries_max as i32);
    let request = SendBackRequest { group: self::group(group), offset: place as i64, delay_level: 0, max_reconsume_times, unit_mode: false };
    match told(|done| delivery.send_back(request, done)) {
        Some(Ok(())) => Answer::Done(true),
        Some(Err(error)) => Answer::Refused { is_unknown: matches!(error, SendBackError::Store(_)), why: error.to_string() },
        None => Answer::Refused { is_unknown: true, why: "no answer in time".to_owned() },
    }
}

fn lock(delivery: &Arc<Delivery>, group: &str, client: &str, topic: &str, queue: u32, take: bool) -> Answer {
    let queues = [(self::topic(topic), QueueId(queue))];
    if !take {
        delivery.locks().unlock(&self::group(group), client, &queues);
        return Answer::Done(true);
    }
    Answer::Done(told(|done| delivery.locks().lock(&self::group(group), client, &queues, done)).is_some_and(|granted| !granted.is_empty()))
}

/// Where a client is, as records and heartbeats have it.
fn address(connection: ConnectionId) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 2], connection.0 as u16))
}

fn host() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10911))
}

/// A group's name; those of the simulation are legal.
pub(crate) fn group(name: &str) -> Group {
    Group::new(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A topic's name.
pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a master does with its log here.
///
/// Weak: the node has the member, and the member this; a run's disks would never be given back.
struct Serving(Weak<Node>);

struct Pushes(Weak<Node>);

impl ClientPush for Pushes {
    /// Here nobody waits for it.
    fn notify_consumer_ids_changed(&self, _: &Group, _: &[ConnectionId]) {}
    fn check_transaction(&self, connection: ConnectionId, check: &TransactionCheck) -> CheckSent {
        self.0.upgrade().map_or(CheckSent::Gone, |node| node.ask(connection, check))
    }
    fn turn_end(&self) {}
}

impl Service for Serving {
    fn open(&self, epoch: Epoch, store: &Arc<Store>) -> Result<(), String> {
        let Some(node) = self.0.upgrade() else { return Err("the broker has ended".to_owned()) };
        let env = node.env.clone();
        let spawn = env.spawn.clone();
        let work = Arc::new(move |work: Box<dyn FnOnce() + Send>| drop(spawn.thread("work", work)));
        let options = DeliveryOptions {
            default_topic_queues: node.settings.queues,
            confirm: node.settings.confirm,
            client_expiry: Duration::from_secs(20),
            delay_levels: DELAYS.into_iter().map(Duration::from_secs).collect(),
            transaction_timeout: CHECK_AFTER,
            transaction_check_interval: CHECK_EVERY,
            transaction_check_max: CHECKS_MAX,
            ..DeliveryOptions::new(host())
        };
        let delivery = Delivery::open(store.clone(), env, options, Arc::new(Pushes(self.0.clone())), work).map_err(|error| error.to_string())?;
        let start = store.epochs().last().map(|(_, start)| *start).unwrap_or_default();
        node.history.node(node.id, NodeEvent::Master { epoch: epoch.0, start });
        *node.master.lock() = Some((epoch, delivery));
        Ok(())
    }

    fn close(&self, epoch: Epoch) {
        let Some(node) = self.0.upgrade() else { return };
        let Some((_, delivery)) = node.master.lock().take() else { return };
        node.history.node(node.id, NodeEvent::Ceased { epoch: epoch.0 });
        delivery.abandon();
    }

    fn hand_over(&self, epoch: Epoch) {
        let Some(node) = self.0.upgrade() else { return };
        let Some((_, delivery)) = node.master.lock().take() else { return };
        node.history.node(node.id, NodeEvent::Ceased { epoch: epoch.0 });
        delivery.close();
    }

    fn master_is(&self, _: Option<&(MemberId, String)>) {}
}
