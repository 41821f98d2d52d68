//! A broker of the simulation: a member of the group, delivery on its log while it is master, and a port for clients.

use crate::{
    coordinator::SimCoordinator,
    history::History,
    talk::{Answer, Came, Request, Signed, Talk},
};
use sluice_delivery::{
    CheckSent, ClientPush, ConnectionId, Delivery, DeliveryOptions, EndTransaction, PullRequest, SendError, SendRequest, Subscription, TransactionCheck,
    Verdict,
};
use sluice_env::{
    Connection, Env,
    sim::threads::Machine,
    sync::{Mutex, oneshot},
};
use sluice_group::runner::{GroupOptions, Member, Service};
use sluice_history::NodeEvent;
use sluice_protocol::record::RecordView;
use sluice_replication::{Epoch, MemberId, Timing};
use sluice_store::{FlushMode, RecoveryProgress, Store, StoreOptions};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
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
    connections: AtomicU64,
    is_stopping: AtomicBool,
}

impl Node {
    /// Starts the broker's process on its machine.
    pub fn start(machine: &Machine, id: u32, settings: &Settings, coordinator: &SimCoordinator, history: &History) -> Arc<Self> {
        let node = Arc::new(Self {
            env: machine.env(),
            id,
            settings: settings.clone(),
            history: history.clone(),
            master: Mutex::default(),
            member: Mutex::default(),
            connections: AtomicU64::new(1),
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
                // Calendars jump, and a log that begins later can't be given to a broker with an empty disk.
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
        while let Ok(request) = talk.hear::<Request>(Duration::from_secs(60)) {
            let signed = self.answer(request, number);
            if talk.say(&signed, Duration::from_secs(5)).is_err() {
                break;
            }
        }
        talk.close();
    }

    fn answer(&self, request: Request, connection: ConnectionId) -> Signed {
        let refused = |epoch, why: &str| Signed { node: self.id, epoch, answer: Answer::Refused { is_unknown: false, why: why.to_owned() } };
        let Some((epoch, delivery)) = self.master.lock().clone() else { return refused(0, "not master") };
        if self.serves() != Some(epoch) {
            return refused(epoch.0, "not master any more");
        }
        let is_read = matches!(request, Request::Pull { .. } | Request::Fetch { .. } | Request::Lock { .. } | Request::End { .. });
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
            Request::Send { topic, queue, group, properties, body } => send(delivery, &topic, queue, &group, &properties, body),
            Request::Finish { group, offset, place, id, commit } => end(delivery, &group, offset, place, &id, commit),
            Request::Pull { group, topic, queue, offset, hold_ms } => self.pull(delivery, (&group, &topic, queue), offset, hold_ms, connection),
            Request::End { topic, queue } => Answer::Offset(delivery.bounds(&self::topic(&topic), queue as i32).ok().map(|bounds| bounds.max.0)),
            Request::Fetch { group, topic, queue } => Answer::Offset(delivery.offsets().get(&group, &topic, QueueId(queue)).map(|offset| offset.0)),
            Request::Commit { group, topic, queue, offset } => {
                delivery.offsets().commit(&self::group(&group), &self::topic(&topic), QueueId(queue), QueueOffset(offset));
                Answer::Done(true)
            }
            Request::Lock { group, client, topic, queue, take } => lock(delivery, &group, &client, &topic, queue, take),
        }
    }

    fn pull(&self, delivery: &Arc<Delivery>, (group, topic, queue): (&str, &str, u32), offset: u64, hold_ms: u64, connection: ConnectionId) -> Answer {
        let request = PullRequest {
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
        };
        let (sender, receiver) = oneshot();
        delivery.pull(request, Box::new(move |reply| sender.send(reply)));
        let outcome = match receiver.recv_timeout(Duration::from_millis(hold_ms) + Duration::from_secs(5)) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => return Answer::Refused { is_unknown: false, why: error.to_string() },
            Err(_) => return Answer::Refused { is_unknown: false, why: "no answer in time".to_owned() },
        };
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
        Answer::Messages { came, next: outcome.next.0, max: outcome.bounds.max.0, clock: self.env.clock.wall().0 }
    }
}

/// Waits for an answer that the store owes within its deadline.
const STORE_ANSWER: Duration = Duration::from_secs(30);

fn send(delivery: &Arc<Delivery>, topic: &str, queue: u32, group: &str, properties: &str, body: Vec<u8>) -> Answer {
    let request = SendRequest {
        topic,
        queue_id: queue as i32,
        group,
        default_topic: "TBW102",
        default_queue_count: 8,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host(),
        flag: 0,
        properties,
        body: body.into(),
        reconsume_times: 0,
        max_reconsume_times: None,
        batch: false,
        unit_mode: false,
    };
    let (sender, receiver) = oneshot();
    delivery.send(request, Box::new(move |result| sender.send(result)));
    match receiver.recv_timeout(STORE_ANSWER) {
        Ok(Ok(receipt)) => Answer::Sent {
            offset: receipt.first_queue_offset.0,
            place: receipt.placed.first().map(|placed| placed.log_offset.to_wire()).unwrap_or_default(),
            id: receipt.transaction_id,
        },
        Ok(Err(error)) => Answer::Refused { is_unknown: matches!(error, SendError::Late(..) | SendError::Store(_)), why: error.to_string() },
        Err(_) => Answer::Refused { is_unknown: true, why: "no answer in time".to_owned() },
    }
}

fn end(delivery: &Arc<Delivery>, group: &str, offset: u64, place: i64, id: &str, commit: bool) -> Answer {
    let verdict = if commit { Verdict::Commit } else { Verdict::Rollback };
    let (sender, receiver) = oneshot();
    let request = EndTransaction { group, queue_offset: offset as i64, log_offset: place, transaction_id: id, verdict };
    delivery.end_transaction(request, Box::new(move |result| sender.send(result)));
    match receiver.recv_timeout(STORE_ANSWER) {
        Ok(Ok(())) => Answer::Done(true),
        Ok(Err(error)) => Answer::Refused { is_unknown: true, why: error.to_string() },
        Err(_) => Answer::Refused { is_unknown: true, why: "no answer in time".to_owned() },
    }
}

fn lock(delivery: &Arc<Delivery>, group: &str, client: &str, topic: &str, queue: u32, take: bool) -> Answer {
    let queues = [(self::topic(topic), QueueId(queue))];
    if !take {
        delivery.locks().unlock(&self::group(group), client, &queues);
        return Answer::Done(true);
    }
    let (sender, receiver) = oneshot();
    delivery.locks().lock(&self::group(group), client, &queues, Box::new(move |granted| sender.send(granted)));
    Answer::Done(receiver.recv_timeout(STORE_ANSWER).is_ok_and(|granted| !granted.is_empty()))
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

struct NoPushes;

impl ClientPush for NoPushes {
    fn notify_consumer_ids_changed(&self, _: &Group, _: &[ConnectionId]) {}
    fn check_transaction(&self, _: ConnectionId, _: &TransactionCheck) -> CheckSent {
        CheckSent::Gone
    }
    fn turn_end(&self) {}
}

impl Service for Serving {
    fn open(&self, epoch: Epoch, store: &Arc<Store>) -> Result<(), String> {
        let Some(node) = self.0.upgrade() else { return Err("the broker has ended".to_owned()) };
        let env = node.env.clone();
        let spawn = env.spawn.clone();
        let work = Arc::new(move |work: Box<dyn FnOnce() + Send>| drop(spawn.thread("work", work)));
        let options = DeliveryOptions { default_topic_queues: node.settings.queues, confirm: node.settings.confirm, ..DeliveryOptions::new(host()) };
        let delivery = Delivery::open(store.clone(), env, options, Arc::new(NoPushes), work).map_err(|error| error.to_string())?;
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
