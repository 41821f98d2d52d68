//! What a replica gives consumers to read from its own log, so that who reads what is long past does not take memory and disk from the master.
//!
//! Only what is confirmed is given, and that never changes: who gives it may be late, cut off, or a master of former days. Whatever else a pull may need (a queue's end, an
//! offset outside the queue, a group that was reset, a reason to refuse) is the master's to say: the answer is then to ask there, from the very offset that was asked for.

use crate::{
    clients::{ClientInfo, Clients, ConnectionId, ConsumerHeartbeat, MessageModel},
    counters::Counters,
    delivery::{ClientPush, DeliveryOptions},
    filter::Subscription,
    groups::SubscriptionGroupConfig,
    pull::{PullOutcome, PullRequest, PullStatus, SCANNED_MAX},
    topics::TopicConfig,
    transaction::{CheckSent, TransactionCheck},
};
use ahash::AHashMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use sluice_env::{Clock, Monotonic, sync::Mutex};
use sluice_protocol::record::RecordView;
use sluice_store::{MetaTable, QueueBounds, ReadLimits, ReadOutcome, Store};
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The master's number, whoever it is.
pub const MASTER_ID: i64 = 0;
/// For how long a consumer reads a queue here before it asks the master once: by then it hears of a reset of its group, and a master that has let this replica go sends it elsewhere.
const HERE_MAX: Duration = Duration::from_secs(2);
/// Most consumers' queues read at once. Further ones ask the master at every other pull.
const PLACES_MAX: usize = 100_000;
/// How often silent clients are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// Where a group reads on: its usual broker, or, when it is so far behind that the master would have to read its disk, the one that it names for that. The next higher number
/// stands in for one that can't be read from, as it does for RocketMQ's clients. A group that names the master does not want to read anywhere else.
pub(crate) fn which_broker(group: GroupsBrokers, is_far_behind: bool, replicas: &[i64]) -> i64 {
    let wanted = if is_far_behind { group.when_far_behind } else { group.usually };
    if wanted <= MASTER_ID {
        return MASTER_ID;
    }
    replicas.iter().find(|id| **id >= wanted).or(replicas.first()).copied().unwrap_or(MASTER_ID)
}

/// The brokers that a group's settings name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupsBrokers {
    pub(crate) usually: i64,
    pub(crate) when_far_behind: i64,
}

impl GroupsBrokers {
    pub(crate) const fn of(group: &SubscriptionGroupConfig) -> Self {
        Self { usually: group.broker_id, when_far_behind: group.which_broker_when_consume_slowly }
    }
}

/// Whether the first of these records lies that far before the log's end.
pub(crate) fn is_far_behind(slices: &[Bytes], end: CommitLogOffset, behind_bytes: u64) -> bool {
    let first = slices.first().and_then(|slice| RecordView::parse(slice).ok());
    first.is_some_and(|record| CommitLogOffset(record.log_offset()).distance_to(end) > behind_bytes)
}

/// A replica has nobody to tell anything.
struct NoPush;

impl ClientPush for NoPush {
    fn notify_consumer_ids_changed(&self, _: &Group, _: &[ConnectionId]) {}
    fn check_transaction(&self, _: ConnectionId, _: &TransactionCheck) -> CheckSent {
        CheckSent::Gone
    }
    fn turn_end(&self) {}
}

type Place = (ConnectionId, Topic, QueueId);

/// The reading side of a replica, as long as its process lives, whatever happens to its store.
pub struct ReplicaReads {
    /// Its number among the group's brokers.
    id: i64,
    options: DeliveryOptions,
    clock: Arc<dyn Clock>,
    clients: Clients,
    /// Since when a queue is read here.
    since: Mutex<AHashMap<Place, Monotonic>>,
    swept: Mutex<Monotonic>,
    given: AtomicU64,
    sent_on: AtomicU64,
}

impl ReplicaReads {
    /// Of the broker with that number, which is not 0.
    #[must_use]
    pub fn new(id: i64, options: DeliveryOptions, clock: Arc<dyn Clock>) -> Self {
        let clients = Clients::new(clock.clone(), Arc::new(NoPush), options.client_expiry);
        let (swept, given, sent_on) = (Mutex::new(clock.monotonic()), AtomicU64::new(0), AtomicU64::new(0));
        Self { id, options, clock, clients, since: Mutex::default(), swept, given, sent_on }
    }

    /// A client tells its subscriptions.
    pub fn heartbeat(&self, client: &ClientInfo, consumers: Vec<ConsumerHeartbeat>) {
        for consumer in consumers {
            self.clients.heartbeat_consumer(consumer, client.clone(), &|_| false);
        }
        self.sweep();
    }

    /// A client leaves a group.
    pub fn unregister(&self, client_id: &str, consumer: &Group) {
        self.clients.unregister_consumer(consumer, client_id, &|_| false);
    }

    /// A connection has ended.
    pub fn connection_closed(&self, connection: ConnectionId) {
        self.clients.connection_closed(connection, &|_| false);
        self.since.lock().retain(|(of, _, _), _| *of != connection);
    }

    /// Pulls answered with messages, and pulls that were told to ask the master.
    #[must_use]
    pub fn counted(&self) -> (u64, u64) {
        (self.given.load(Ordering::Relaxed), self.sent_on.load(Ordering::Relaxed))
    }

    /// Answers a pull, at once: with messages, or with the offset at which to ask the master.
    pub fn pull(&self, store: Option<&Arc<Store>>, request: &PullRequest) -> PullOutcome {
        let outcome = store.and_then(|store| self.read(store, request));
        Counters::add(if outcome.is_some() { &self.given } else { &self.sent_on }, 1);
        outcome.unwrap_or_else(|| ask_master(request))
    }

    /// A record by its place in the log, if it is there and confirmed.
    #[must_use]
    pub fn view_message(&self, store: &Store, log_offset: i64) -> Option<Bytes> {
        store.record_at(CommitLogOffset::from_wire(log_offset)?).ok()
    }

    fn read(&self, store: &Arc<Store>, request: &PullRequest) -> Option<PullOutcome> {
        let group: SubscriptionGroupConfig = setting(store, MetaTable::Groups, request.group.as_str())?;
        let topic: TopicConfig = setting(store, MetaTable::Topics, request.topic.as_str())?;
        if !group.consume_enable || !topic.readable() {
            return None;
        }
        let id = u32::try_from(request.queue_id).ok().filter(|id| *id < topic.read_queues).map(QueueId)?;
        let subscription = self.subscription(request, group.consume_broadcast_enable)?;
        let from = QueueOffset::from_wire(request.offset)?;
        let bytes = request.max_bytes.unwrap_or(usize::MAX).min(self.options.pull_bytes_max);
        let limits = ReadLimits { messages: request.max_messages.min(self.options.pull_messages_max).max(1), bytes, scanned: SCANNED_MAX };
        let read = store.read(&store.queue(&request.topic, id), from, limits, &mut |hash| subscription.accepts(hash)).ok()?;
        if read.next == from {
            return None;
        }
        let place = (request.connection, request.topic.clone(), id);
        let suggest = if self.goes_on_here(store, &group, &read, place) { self.id } else { MASTER_ID };
        let (status, remark) = if read.messages > 0 { (PullStatus::Found, "FOUND") } else { (PullStatus::NoMatched, "NO_MATCHED_MESSAGE") };
        let ReadOutcome { slices, messages, bytes, next, bounds, .. } = read;
        let (topic_sys_flag, group_sys_flag) = (topic.sys_flag, group.group_sys_flag);
        Some(PullOutcome { status, remark, next, bounds, slices, messages, bytes, topic_sys_flag, group_sys_flag, suggest })
    }

    fn subscription(&self, request: &PullRequest, broadcast_allowed: bool) -> Option<Arc<Subscription>> {
        if let Some(own) = &request.subscription {
            return Some(Arc::new(own.clone()));
        }
        let (model, known) = self.clients.subscription(request.group.as_str(), request.topic.as_str())?;
        let known = known.filter(|known| known.version >= request.subscription_version)?;
        (model != MessageModel::Broadcasting || broadcast_allowed).then_some(known)
    }

    /// Whether the next pull may come here too.
    fn goes_on_here(&self, store: &Store, group: &SubscriptionGroupConfig, read: &ReadOutcome, place: Place) -> bool {
        let is_far = match read.messages {
            // The filter has refused all of them; what comes next is not known to be near.
            0 => true,
            _ => is_far_behind(&read.slices, store.marks().appended, self.options.read_behind_bytes),
        };
        let is_more = read.next < read.bounds.max;
        is_more && which_broker(GroupsBrokers::of(group), is_far, &[self.id]) == self.id && self.stays(place)
    }

    fn stays(&self, place: Place) -> bool {
        let now = self.clock.monotonic();
        let mut since = self.since.lock();
        if since.len() >= PLACES_MAX && !since.contains_key(&place) {
            return false;
        }
        if now.since(*since.entry(place.clone()).or_insert(now)) < HERE_MAX {
            return true;
        }
        since.remove(&place);
        false
    }

    /// Forgets clients that have been silent for too long.
    fn sweep(&self) {
        let now = self.clock.monotonic();
        let mut swept = self.swept.lock();
        if now.since(*swept) >= SWEEP {
            *swept = now;
            drop(swept);
            self.clients.expire(&|_| false);
        }
    }
}

/// What the log says of a topic or a group. One that can't be read is the master's to complain about.
fn setting<T: DeserializeOwned>(store: &Store, table: MetaTable, name: &str) -> Option<T> {
    serde_json::from_slice(&store.meta_value(table, name)?).ok()
}

/// No error: clients stay with the broker that gave them one, and this one may only be late. And no other offset: whether this one is legal, the master says.
fn ask_master(request: &PullRequest) -> PullOutcome {
    let next = QueueOffset::from_wire(request.offset).unwrap_or_default();
    PullOutcome {
        status: PullStatus::NoMatched,
        remark: "ASK_MASTER",
        next,
        bounds: QueueBounds { min: QueueOffset::ZERO, max: next },
        slices: Vec::new(),
        messages: 0,
        bytes: 0,
        topic_sys_flag: 0,
        group_sys_flag: 0,
        suggest: MASTER_ID,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_where_its_settings_say_if_that_broker_can_be_read_from_and_else_at_the_next_one() {
        let default = GroupsBrokers::of(&SubscriptionGroupConfig::new(Group::new("readers").expect("legal")));
        assert_eq!(default, GroupsBrokers { usually: 0, when_far_behind: 1 });
        for (group, is_far, replicas, expected) in [
            (default, false, &[1, 2][..], 0),
            (default, true, &[1, 2], 1),
            (default, true, &[2, 3], 2),
            (default, true, &[], 0),
            (GroupsBrokers { usually: 0, when_far_behind: 0 }, true, &[1, 2], 0),
            (GroupsBrokers { usually: 0, when_far_behind: 3 }, true, &[1, 2], 1),
            (GroupsBrokers { usually: 2, when_far_behind: 1 }, false, &[1, 2], 2),
            (GroupsBrokers { usually: -1, when_far_behind: -1 }, true, &[1, 2], 0),
        ] {
            assert_eq!(which_broker(group, is_far, replicas), expected, "{group:?} far {is_far} {replicas:?}");
        }
    }
}
