//! Pulling: reading a queue for a consumer, now or when a message arrives.

use crate::{
    Counters, Delivery,
    clients::{ConnectionId, MessageModel},
    filter::{FilterError, Subscription},
    groups::GroupError,
    held::{HeldPull, Hold},
    replica::{GroupsBrokers, MASTER_ID, is_far_behind, which_broker},
    topics::TopicError,
};
use bytes::Bytes;
use sluice_store::{QueueBounds, ReadError, ReadLimits, queue_index::QueueRef};
use sluice_types::{Group, QueueOffset, Topic};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use thiserror::Error;

/// One pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The consumer's group.
    pub group: Group,
    /// Topic.
    pub topic: Topic,
    /// Queue.
    pub queue_id: i32,
    /// First queue offset wanted. Outside the queue's bounds it is moved.
    pub offset: i64,
    /// Most messages wanted.
    pub max_messages: u32,
    /// Most bytes wanted, if the client says so.
    pub max_bytes: Option<usize>,
    /// An offset to commit for the group on the way.
    pub commit_offset: Option<i64>,
    /// How long to hold the pull when nothing is there; `None` answers at once.
    pub suspend: Option<Duration>,
    /// The subscription, when the request carries one; else the heartbeat's is taken.
    pub subscription: Option<Subscription>,
    /// The version of the subscription that the client means, 0 for any. A heartbeat older than it is refused.
    pub subscription_version: i64,
    /// The connection; its end drops a held pull.
    pub connection: ConnectionId,
}

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages (0).
    Found,
    /// Nothing yet (19).
    NoNewMessage,
    /// Messages, but none that the subscription wants (20): go on at `next`.
    NoMatched,
    /// The offset lay outside the queue, or the group was reset (21): go on at `next`.
    OffsetMoved,
}

/// A pull's result.
#[derive(Clone, Debug)]
pub struct PullOutcome {
    /// What was found.
    pub status: PullStatus,
    /// The status in upstream's words, for the reply's remark: `FOUND`, `OFFSET_TOO_SMALL` …
    pub remark: &'static str,
    /// Where to go on.
    pub next: QueueOffset,
    /// The queue's bounds.
    pub bounds: QueueBounds,
    /// Records as stored. Neighbours are one slice.
    pub slices: Vec<Bytes>,
    /// How many records there are.
    pub messages: u32,
    /// Their bytes.
    pub bytes: usize,
    /// The topic's flag.
    pub topic_sys_flag: i32,
    /// The group's flag.
    pub group_sys_flag: i32,
    /// The number of the broker to read on at; 0 is the master.
    pub suggest: i64,
}

/// Why a pull was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PullError {
    /// No such topic (17).
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// No such group (26).
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Topic not readable, or the group may not consume (16).
    #[error("{0}")]
    NoPermission(String),
    /// The topic has no such queue (29).
    #[error("the topic {topic} has {queues} queues to read, {queue_id} is none of them; look up the route again")]
    QueueId {
        /// The topic.
        topic: Topic,
        /// Its read queues.
        queues: u32,
        /// The queue asked for.
        queue_id: i32,
    },
    /// The group has sent no heartbeat with a subscription for the topic (24).
    #[error("the group {0} has no subscription for {1}; send a heartbeat first")]
    NoSubscription(Group, Topic),
    /// The heartbeat's subscription is older than the one the pull means (25).
    #[error("the group {group}'s subscription has version {have}, the pull means {want}; send a heartbeat")]
    SubscriptionOutdated {
        /// The group.
        group: Group,
        /// Known here.
        have: i64,
        /// Meant by the client.
        want: i64,
    },
    /// The expression is no filter that is served (23).
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Too many pulls are held (209); pull again after a moment.
    #[error("the broker holds {0} pulls, more are not taken; pull again after a moment")]
    PollingFull(usize),
    /// The store could not read (1).
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The broker is stopping (14).
    #[error("the broker is stopping")]
    Stopped,
}

/// What a pull is answered with.
pub type PullReply = Result<PullOutcome, PullError>;
/// Called once with a pull's answer, perhaps much later; dropped uncalled when the pull's connection ends first.
pub type PullDone = Box<dyn FnOnce(PullReply) + Send>;

/// Most queue entries looked at in one read when the filter refuses many.
pub(crate) const SCANNED_MAX: u32 = 8192;
/// The remark of a pull that is sent elsewhere because its group was reset.
const OFFSET_RESET: &str = "OFFSET_RESET";

/// A pull after its checks: what it takes to read.
pub(crate) struct PullWork {
    pub(crate) queue: QueueRef,
    pub(crate) group: Group,
    pub(crate) connection: ConnectionId,
    /// Where to read on. While a pull is held it moves past what the filter refuses.
    position: QueueOffset,
    /// Whether the filter has refused anything so far.
    skipped: bool,
    subscription: Arc<Subscription>,
    limits: ReadLimits,
    topic_sys_flag: i32,
    group_sys_flag: i32,
    brokers: GroupsBrokers,
}

impl PullWork {
    /// Whether there may be something to read.
    fn ready(&self) -> bool {
        self.queue.visible().max > self.position
    }

    fn outcome(&self, status: PullStatus, remark: &'static str, next: QueueOffset, bounds: QueueBounds) -> PullOutcome {
        let (topic_sys_flag, group_sys_flag) = (self.topic_sys_flag, self.group_sys_flag);
        PullOutcome { status, remark, next, bounds, slices: Vec::new(), messages: 0, bytes: 0, topic_sys_flag, group_sys_flag, suggest: MASTER_ID }
    }

    /// The answer when there is nothing to give.
    pub(crate) fn nothing(&self) -> PullOutcome {
        let bounds = self.queue.visible();
        match self.skipped {
            true => self.outcome(PullStatus::NoMatched, "NO_MATCHED_MESSAGE", self.position, bounds),
            false => self.outcome(PullStatus::NoNewMessage, "OFFSET_OVERFLOW_ONE", self.position, bounds),
        }
    }
}

impl Delivery {
    /// Reads a queue for a consumer. `done` comes at once, or when a message arrives, or when the time to hold the pull is over.
    pub fn pull(self: &Arc<Self>, request: PullRequest, done: PullDone) {
        let (mut work, offset) = match self.prepare(&request) {
            Ok(prepared) => prepared,
            Err(error) => return done(Err(error)),
        };
        // The answer is no promise that this stays; a query of the offset is, and waits for it.
        if let Some(commit) = request.commit_offset.and_then(QueueOffset::from_wire) {
            self.offsets().commit(&request.group, &request.topic, work.queue.id(), commit);
        }
        if let Some(moved) = self.redirected(&work).or_else(|| self.moved(&work, offset)) {
            return done(Ok(moved));
        }
        match self.read(&mut work) {
            Ok(Some(found)) => done(Ok(found)),
            Err(error) => done(Err(error)),
            Ok(None) => match request.suspend.filter(|hold| !hold.is_zero() && !work.skipped) {
                None => done(Ok(work.nothing())),
                Some(hold) => {
                    let deadline = self.env.clock.monotonic() + hold.min(self.options().hold_max);
                    Counters::add(&self.counters().pulls_held, 1);
                    self.hold(HeldPull { work, deadline, done });
                }
            },
        }
    }

    fn prepare(&self, request: &PullRequest) -> Result<(PullWork, i64), PullError> {
        let group = self.groups().ensure(&request.group)?;
        if !group.consume_enable {
            return Err(PullError::NoPermission(format!("the group {} may not consume", request.group)));
        }
        let state = self.topics().state(request.topic.as_str()).ok_or_else(|| TopicError::NotFound(request.topic.to_string()))?;
        if !state.config.readable() {
            return Err(PullError::NoPermission(format!("the topic {} may not be read", request.topic)));
        }
        let queues = state.config.read_queues;
        let queue = u32::try_from(request.queue_id).ok().filter(|id| *id < queues).and_then(|id| state.queue(self.store(), id));
        let Some(queue) = queue else {
            return Err(PullError::QueueId { topic: request.topic.clone(), queues, queue_id: request.queue_id });
        };
        let subscription = self.subscription(request, group.consume_broadcast_enable)?;
        let bytes = request.max_bytes.unwrap_or(usize::MAX).min(self.options().pull_bytes_max);
        let messages = request.max_messages.min(self.options().pull_messages_max).max(1);
        let work = PullWork {
            queue: queue.clone(),
            group: request.group.clone(),
            connection: request.connection,
            position: QueueOffset::from_wire(request.offset).unwrap_or_default(),
            skipped: false,
            subscription,
            limits: ReadLimits { messages, bytes, scanned: SCANNED_MAX },
            topic_sys_flag: state.config.sys_flag,
            group_sys_flag: group.group_sys_flag,
            brokers: GroupsBrokers::of(&group),
        };
        Ok((work, request.offset))
    }

    fn subscription(&self, request: &PullRequest, broadcast_allowed: bool) -> Result<Arc<Subscription>, PullError> {
        if let Some(own) = &request.subscription {
            return Ok(Arc::new(own.clone()));
        }
        let missing = || PullError::NoSubscription(request.group.clone(), request.topic.clone());
        let (model, known) = self.clients().subscription(request.group.as_str(), request.topic.as_str()).ok_or_else(missing)?;
        if model == MessageModel::Broadcasting && !broadcast_allowed {
            return Err(PullError::NoPermission(format!("the group {} may not consume by broadcast", request.group)));
        }
        let known = known.ok_or_else(missing)?;
        if known.version < request.subscription_version {
            return Err(PullError::SubscriptionOutdated { group: request.group.clone(), have: known.version, want: request.subscription_version });
        }
        Ok(known)
    }

    /// Reads on from the work's position; `None` when nothing is there that the subscription wants.
    fn read(&self, work: &mut PullWork) -> Result<Option<PullOutcome>, PullError> {
        if !work.ready() {
            return Ok(None);
        }
        let subscription = work.subscription.clone();
        let read = self.store().read(&work.queue, work.position, work.limits, &mut |hash| subscription.accepts(hash))?;
        if read.messages == 0 {
            work.skipped |= read.next > work.position;
            work.position = read.next;
            return Ok(None);
        }
        let counters = self.counters();
        Counters::add(&counters.messages_out, u64::from(read.messages));
        Counters::add(&counters.bytes_out, read.bytes as u64);
        self.rates.given(&work.group, work.queue.topic(), u64::from(read.messages));
        let mut found = work.outcome(PullStatus::Found, "FOUND", read.next, read.bounds);
        (found.slices, found.messages, found.bytes) = (read.slices, read.messages, read.bytes);
        found.suggest = self.suggestion(work.brokers, &found);
        Ok(Some(found))
    }

    /// Which brokers besides this one may be read from now: replicas that hold all that is confirmed, by their numbers, ascending.
    pub fn set_replicas_to_read(&self, replicas: Vec<i64>) {
        self.has_replicas.store(!replicas.is_empty(), Ordering::Release);
        *self.replicas.write() = replicas;
    }

    fn suggestion(&self, group: GroupsBrokers, found: &PullOutcome) -> i64 {
        if !self.has_replicas.load(Ordering::Acquire) {
            return MASTER_ID;
        }
        let is_far = is_far_behind(&found.slices, self.store().marks().appended, self.options().read_behind_bytes);
        which_broker(group, is_far, &self.replicas.read())
    }

    /// The answer to a pull of a group that was told to go on elsewhere.
    fn redirected(&self, work: &PullWork) -> Option<PullOutcome> {
        let to = self.offsets().redirect(&work.group, work.queue.topic(), work.queue.id(), work.connection)?;
        Some(self.sent_to(work, OFFSET_RESET, to))
    }

    /// The answer to an offset outside the queue's bounds.
    fn moved(&self, work: &PullWork, offset: i64) -> Option<PullOutcome> {
        let (next, remark) = moved_to(work.queue.visible(), work.queue.next_offset(), offset)?;
        Some(self.sent_to(work, remark, next))
    }

    fn sent_to(&self, work: &PullWork, remark: &'static str, next: QueueOffset) -> PullOutcome {
        Counters::add(&self.counters().offsets_moved, 1);
        work.outcome(PullStatus::OffsetMoved, remark, next, work.queue.visible())
    }

    /// A group was told to go on elsewhere: its pulls that wait for the queue's next message would otherwise learn of it only at their end.
    pub(crate) fn redirect_held(&self, queue: &QueueRef, group: &Group) {
        for pull in self.held.take_group(queue, group) {
            let to = self.offsets().redirect_held(group, queue.topic(), queue.id(), pull.work.connection);
            match to.map(|to| self.sent_to(&pull.work, OFFSET_RESET, to)) {
                Some(moved) => (pull.done)(Ok(moved)),
                None => self.hold(pull),
            }
        }
    }

    /// Holds a pull, or answers it when something has come in between.
    fn hold(&self, mut pull: HeldPull) {
        loop {
            let (queue, group) = (pull.work.queue.clone(), pull.work.group.clone());
            let (position, connection) = (pull.work.position, pull.work.connection);
            let id = match self.held.hold(pull) {
                Hold::Waits(id) => id,
                Hold::Refused(refused) => {
                    Counters::add(&self.counters().pulls_refused, 1);
                    let full = PullError::PollingFull(self.options().held_pulls_max);
                    return (refused.done)(Err(if self.stopped() { PullError::Stopped } else { full }));
                }
            };
            if queue.visible().max <= position && !self.offsets().would_redirect(&group, queue.topic(), queue.id(), connection) {
                return;
            }
            // Something came between the read and the registration. If the pull is gone already, whoever took it answers it.
            let Some(mut taken) = self.held.take(id) else { return };
            if let Some(moved) = self.redirected(&taken.work) {
                return (taken.done)(Ok(moved));
            }
            match self.read(&mut taken.work) {
                Ok(None) => pull = taken,
                Ok(Some(found)) => return (taken.done)(Ok(found)),
                Err(error) => return (taken.done)(Err(error)),
            }
        }
    }

    /// A queue has new messages: those who wait for it are served on another thread.
    pub(crate) fn wake(self: &Arc<Self>, queue: &QueueRef) {
        let woken = self.held.take_arrived(queue);
        if woken.is_empty() {
            return;
        }
        Counters::add(&self.counters().pulls_woken, woken.len() as u64);
        let (delivery, stop) = (Arc::downgrade(self), self.stop.clone());
        (self.spawn_work)(Box::new(move || {
            let inside = stop.enter();
            let delivery = inside.as_ref().and_then(|_| delivery.upgrade());
            for pull in woken {
                match &delivery {
                    Some(delivery) => delivery.resume(pull),
                    None => pull.end(),
                }
            }
        }));
    }

    fn resume(&self, mut pull: HeldPull) {
        match self.read(&mut pull.work) {
            Ok(Some(found)) => (pull.done)(Ok(found)),
            Err(error) => (pull.done)(Err(error)),
            Ok(None) => self.hold(pull),
        }
    }

    /// Answers pulls that have waited long enough.
    pub(crate) fn end_due_pulls(&self) {
        for pull in self.held.take_due(self.env.clock.monotonic()) {
            Counters::add(&self.counters().pulls_timed_out, 1);
            pull.end();
        }
    }

    /// Answers everything that waits, as if its time were over, and holds nothing any more.
    pub(crate) fn end_all_pulls(&self) {
        self.held.stop().into_iter().for_each(HeldPull::end);
    }

    /// Pulls that are held at the moment.
    #[must_use]
    pub fn held_pulls(&self) -> usize {
        self.held.len()
    }
}

/// Where a pull from an offset outside the queue's bounds goes on, and why in upstream's words. Up to `end` there are messages that are not shown yet: a replica may have
/// shown them to this consumer already, for it is told what is confirmed before it is shown here. They are waited for, and not read again.
fn moved_to(bounds: QueueBounds, end: QueueOffset, offset: i64) -> Option<(QueueOffset, &'static str)> {
    match QueueOffset::from_wire(offset) {
        Some(QueueOffset::ZERO) if bounds.max == QueueOffset::ZERO => None,
        Some(offset) if (bounds.max..=end).contains(&offset) => None,
        _ if bounds.max == QueueOffset::ZERO => Some((QueueOffset::ZERO, "NO_MESSAGE_IN_QUEUE")),
        None => Some((bounds.min, "OFFSET_TOO_SMALL")),
        Some(offset) if offset < bounds.min => Some((bounds.min, "OFFSET_TOO_SMALL")),
        Some(offset) if offset > bounds.max => Some((bounds.max, "OFFSET_OVERFLOW_BADLY")),
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test holds a pull on a real thread")]
mod tests {
    use super::*;
    use crate::{ClientPush, DeliveryOptions, OffsetReset, ResetTo, SendRequest, SpawnWork};
    use bytes::Bytes;
    use sluice_env::sim;
    use sluice_store::{Store, StoreOptions};
    use std::{net::SocketAddr, sync::mpsc};

    struct Nobody;
    impl ClientPush for Nobody {
        fn notify_consumer_ids_changed(&self, _: &Group, _: &[ConnectionId]) {}
        fn check_transaction(&self, _: ConnectionId, _: &crate::TransactionCheck) -> crate::CheckSent {
            crate::CheckSent::Gone
        }
        fn turn_end(&self) {}
    }

    fn send(delivery: &Delivery, host: SocketAddr) {
        let (sender, receiver) = mpsc::channel();
        let request = SendRequest {
            topic: "orders",
            queue_id: 0,
            group: "producers",
            default_topic: "TBW102",
            default_queue_count: 4,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: host,
            flag: 0,
            properties: "",
            body: Bytes::from_static(b"x"),
            reconsume_times: 0,
            max_reconsume_times: None,
            batch: false,
            unit_mode: false,
        };
        delivery.send(request, Box::new(move |result| drop(sender.send(result))));
        receiver.recv().expect("answered").expect("stored");
    }

    /// The answer to a pull from the end of a queue with one message, when something happens between its read and its registration: the moment that a real
    /// race would have to hit.
    fn pulled_while(moment: impl FnOnce(&Arc<Delivery>, SocketAddr)) -> (PullStatus, QueueOffset) {
        let host: SocketAddr = "127.0.0.1:10911".parse().expect("literal");
        let (env, _, _) = sim::env(3);
        let store = Store::open(env.clone(), StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() }).expect("opens");
        let spawn: SpawnWork = Arc::new(|work| drop(std::thread::spawn(work)));
        let delivery = Delivery::open(store, env, DeliveryOptions::new(host), Arc::new(Nobody), spawn).expect("opens");
        send(&delivery, host);
        let topic = Topic::new("orders").expect("legal");
        let request = PullRequest {
            group: Group::new("readers").expect("legal"),
            topic: topic.clone(),
            queue_id: 0,
            offset: 1,
            max_messages: 32,
            max_bytes: None,
            commit_offset: None,
            suspend: Some(Duration::from_secs(15)),
            subscription: Some(Subscription::all(topic)),
            subscription_version: 0,
            connection: ConnectionId(1),
        };
        let (mut work, _) = delivery.prepare(&request).expect("legal");
        assert!(delivery.redirected(&work).is_none() && delivery.read(&mut work).expect("reads").is_none());
        moment(&delivery, host);
        let (sender, receiver) = mpsc::channel();
        let deadline = delivery.env.clock.monotonic() + Duration::from_secs(15);
        delivery.hold(HeldPull { work, deadline, done: Box::new(move |reply| drop(sender.send(reply))) });
        let found = receiver.recv_timeout(Duration::from_secs(5)).expect("answered at once").expect("found");
        assert_eq!(delivery.held_pulls(), 0);
        delivery.close();
        (found.status, found.next)
    }

    #[test]
    fn a_message_between_the_read_and_the_registration_is_not_missed() {
        assert_eq!(pulled_while(|delivery, host| send(delivery, host)), (PullStatus::Found, QueueOffset(2)));
    }

    #[test]
    fn a_reset_between_the_read_and_the_registration_is_not_missed() {
        let reset = |delivery: &Arc<Delivery>, _| {
            let (group, topic) = (Group::new("readers").expect("legal"), Topic::new("orders").expect("legal"));
            let order = OffsetReset { group, topic, queue_id: None, to: ResetTo::Time(0), forward: true };
            let (sender, receiver) = mpsc::channel();
            delivery.reset_offsets(&order, Box::new(move |result| drop(sender.send(result))));
            receiver.recv().expect("answered").expect("reset");
        };
        assert_eq!(pulled_while(reset), (PullStatus::OffsetMoved, QueueOffset(0)));
    }
}
