//! Who is connected: producers and consumers by group, from their heartbeats.

use crate::{delivery::ClientPush, filter::Subscription};
use ahash::AHashMap;
use sluice_env::{Clock, Monotonic, sync::Mutex};
use sluice_protocol::Language;
use sluice_types::{Group, Topic};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// A connection, numbered by the server and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A client, as its heartbeat and its connection describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The id it gave itself.
    pub client_id: String,
    /// Its connection.
    pub connection: ConnectionId,
    /// Its address.
    pub address: SocketAddr,
    /// Its language.
    pub language: Language,
    /// Its version's number.
    pub version: i32,
}

/// How a group consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeType {
    /// The application pulls.
    Actively,
    /// The client pulls for a listener.
    Passively,
    /// The broker hands messages out.
    Pop,
}

/// Whether a group shares the messages or each member gets all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageModel {
    /// Each member gets all messages and keeps its own offsets.
    Broadcasting,
    /// The members share the queues.
    Clustering,
}

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFromWhere {
    /// At the end.
    LastOffset,
    /// At the beginning.
    FirstOffset,
    /// At a time.
    Timestamp,
}

impl ConsumeType {
    /// Reads the wire's name (`CONSUME_PASSIVELY`); what is not known counts as passive.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "CONSUME_ACTIVELY" => Self::Actively,
            "CONSUME_POP" => Self::Pop,
            _ => Self::Passively,
        }
    }

    /// The wire's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Actively => "CONSUME_ACTIVELY",
            Self::Passively => "CONSUME_PASSIVELY",
            Self::Pop => "CONSUME_POP",
        }
    }
}

impl MessageModel {
    /// Reads the wire's name; what is not known counts as clustering.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name == "BROADCASTING" { Self::Broadcasting } else { Self::Clustering }
    }

    /// The wire's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcasting => "BROADCASTING",
            Self::Clustering => "CLUSTERING",
        }
    }
}

impl ConsumeFromWhere {
    /// Reads the wire's name; what is not known counts as the end.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "CONSUME_FROM_FIRST_OFFSET" | "CONSUME_FROM_MIN_OFFSET" => Self::FirstOffset,
            "CONSUME_FROM_TIMESTAMP" => Self::Timestamp,
            _ => Self::LastOffset,
        }
    }

    /// The wire's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastOffset => "CONSUME_FROM_LAST_OFFSET",
            Self::FirstOffset => "CONSUME_FROM_FIRST_OFFSET",
            Self::Timestamp => "CONSUME_FROM_TIMESTAMP",
        }
    }
}

/// What a consumer's heartbeat says about one of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerHeartbeat {
    /// The group.
    pub group: Group,
    /// How it consumes.
    pub consume_type: ConsumeType,
    /// Whether members share.
    pub model: MessageModel,
    /// Where it starts.
    pub from_where: ConsumeFromWhere,
    /// What it wants.
    pub subscriptions: Vec<Subscription>,
}

/// A consumer group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupView {
    /// The group.
    pub group: Group,
    /// How it consumes.
    pub consume_type: ConsumeType,
    /// Whether members share.
    pub model: MessageModel,
    /// Where it starts.
    pub from_where: ConsumeFromWhere,
    /// What it wants, by topic.
    pub subscriptions: Vec<Subscription>,
    /// Its members, by client id.
    pub members: Vec<ClientInfo>,
}

/// Where a group begins in a queue in which it has committed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub(crate) from_where: ConsumeFromWhere,
    /// When its first member of now came, ms since 1970.
    pub(crate) since_ms: i64,
}

/// Most producer groups known at once. Further ones are left out: they are not listed, and not asked about their transactions.
const PRODUCER_GROUPS_MAX: usize = 100_000;

struct Member {
    info: ClientInfo,
    seen: Monotonic,
}

type Members = BTreeMap<ConnectionId, Member>;

struct ConsumerGroup {
    consume_type: ConsumeType,
    model: MessageModel,
    from_where: ConsumeFromWhere,
    /// When its first member of now came, ms since 1970.
    since_ms: i64,
    subscriptions: BTreeMap<Topic, Arc<Subscription>>,
    members: Members,
}

#[derive(Default)]
struct State {
    consumers: AHashMap<Group, ConsumerGroup>,
    producers: AHashMap<Group, Members>,
}

/// Whether a group's members want to hear of each other.
pub(crate) type WantsNotice<'a> = &'a dyn Fn(&Group) -> bool;

/// Producers and consumers that are connected.
pub struct Clients {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    push: Arc<dyn ClientPush>,
    expiry: Duration,
}

impl Clients {
    pub(crate) fn new(clock: Arc<dyn Clock>, push: Arc<dyn ClientPush>, expiry: Duration) -> Self {
        Self { state: Mutex::default(), clock, push, expiry }
    }

    pub(crate) fn heartbeat_producer(&self, group: &Group, info: ClientInfo) {
        let seen = self.clock.monotonic();
        let mut state = self.state.lock();
        if state.producers.len() < PRODUCER_GROUPS_MAX || state.producers.contains_key(group) {
            state.producers.entry(group.clone()).or_default().insert(info.connection, Member { info, seen });
        }
    }

    pub(crate) fn heartbeat_consumer(&self, beat: ConsumerHeartbeat, info: ClientInfo, wants_notice: WantsNotice<'_>) {
        let seen = self.clock.monotonic();
        let group = beat.group.clone();
        let told = {
            let mut state = self.state.lock();
            let entry = state.consumers.entry(group.clone()).or_insert_with(|| ConsumerGroup {
                consume_type: beat.consume_type,
                model: beat.model,
                from_where: beat.from_where,
                since_ms: self.clock.wall().0,
                subscriptions: BTreeMap::new(),
                members: Members::new(),
            });
            (entry.consume_type, entry.model, entry.from_where) = (beat.consume_type, beat.model, beat.from_where);
            let resubscribed = subscribe(&mut entry.subscriptions, beat.subscriptions);
            let joined = entry.members.insert(info.connection, Member { info, seen }).is_none();
            (joined || resubscribed).then(|| connections(entry))
        };
        self.tell(&group, told, wants_notice);
    }

    fn tell(&self, group: &Group, connections: Option<Vec<ConnectionId>>, wants_notice: WantsNotice<'_>) {
        if let Some(connections) = connections.filter(|c| !c.is_empty() && wants_notice(group)) {
            self.push.notify_consumer_ids_changed(group, &connections);
        }
    }

    pub(crate) fn unregister_producer(&self, group: &Group, client_id: &str) {
        let mut state = self.state.lock();
        if let Some(members) = state.producers.get_mut(group) {
            members.retain(|_, member| member.info.client_id != client_id);
            if members.is_empty() {
                state.producers.remove(group);
            }
        }
    }

    pub(crate) fn unregister_consumer(&self, group: &Group, client_id: &str, wants_notice: WantsNotice<'_>) {
        let told = {
            let mut state = self.state.lock();
            drop_members(&mut state.consumers, group, |member| member.info.client_id == client_id)
        };
        self.tell(group, told, wants_notice);
    }

    /// Drops everything that came over a connection.
    pub(crate) fn connection_closed(&self, connection: ConnectionId, wants_notice: WantsNotice<'_>) {
        self.drop_where(|member| member.info.connection == connection, wants_notice);
    }

    /// Drops clients that have been silent for too long; returns how many.
    pub(crate) fn expire(&self, wants_notice: WantsNotice<'_>) -> usize {
        let now = self.clock.monotonic();
        self.drop_where(|member| now.since(member.seen) > self.expiry, wants_notice)
    }

    fn drop_where(&self, gone: impl Fn(&Member) -> bool, wants_notice: WantsNotice<'_>) -> usize {
        let mut dropped = 0;
        let mut told = Vec::new();
        {
            let mut state = self.state.lock();
            state.producers.retain(|_, members| {
                let before = members.len();
                members.retain(|_, member| !gone(member));
                dropped += before - members.len();
                !members.is_empty()
            });
            let touched = state.consumers.iter().filter(|(_, group)| group.members.values().any(&gone)).map(|(name, _)| name.clone());
            // Told in an order that does not depend on a hash's.
            let touched: BTreeSet<Group> = touched.collect();
            for group in touched {
                dropped += state.consumers.get(&group).map_or(0, |g| g.members.values().filter(|m| gone(m)).count());
                let rest = drop_members(&mut state.consumers, &group, &gone);
                told.push((group, rest));
            }
        }
        for (group, connections) in told {
            self.tell(&group, connections, wants_notice);
        }
        dropped
    }

    /// The ids of a group's members, each once; `None` when the group has no live member.
    #[must_use]
    pub fn consumer_ids(&self, group: &str) -> Option<Vec<String>> {
        let state = self.state.lock();
        let mut ids: Vec<String> = state.consumers.get(group)?.members.values().map(|member| member.info.client_id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        Some(ids)
    }

    /// Whether a group has a live consumer.
    pub(crate) fn is_live(&self, group: &str) -> bool {
        self.state.lock().consumers.contains_key(group)
    }

    /// A group with its members.
    #[must_use]
    pub fn consumer_group(&self, group: &str) -> Option<ConsumerGroupView> {
        let state = self.state.lock();
        state.consumers.get_key_value(group).map(|(name, group)| view(name, group))
    }

    /// All groups that have a live consumer.
    #[must_use]
    pub fn consumer_groups(&self) -> Vec<ConsumerGroupView> {
        let mut all: Vec<_> = self.state.lock().consumers.iter().map(|(name, group)| view(name, group)).collect();
        all.sort_unstable_by(|a, b| a.group.cmp(&b.group));
        all
    }

    /// A producer group's members.
    #[must_use]
    pub fn producer_group(&self, group: &str) -> Option<Vec<ClientInfo>> {
        self.state.lock().producers.get(group).map(|members| members.values().map(|m| m.info.clone()).collect())
    }

    /// All producer groups with their members.
    #[must_use]
    pub fn producer_groups(&self) -> Vec<(Group, Vec<ClientInfo>)> {
        let state = self.state.lock();
        let mut all: Vec<_> = state.producers.iter().map(|(name, members)| (name.clone(), members.values().map(|m| m.info.clone()).collect())).collect();
        all.sort_unstable_by(|(a, _): &(Group, Vec<ClientInfo>), (b, _)| a.cmp(b));
        all
    }

    /// The groups with a live consumer that want a topic.
    #[must_use]
    pub fn groups_of_topic(&self, topic: &str) -> Vec<Group> {
        let state = self.state.lock();
        let mut groups: Vec<Group> =
            state.consumers.iter().filter(|(_, group)| group.subscriptions.contains_key(topic)).map(|(name, _)| name.clone()).collect();
        groups.sort_unstable();
        groups
    }

    /// What groups with live members want and share out among them, each with where a group without offsets begins.
    pub(crate) fn shared_subscriptions(&self) -> Vec<(Group, Topic, Beginning)> {
        let state = self.state.lock();
        let sharing = state.consumers.iter().filter(|(_, group)| group.model == MessageModel::Clustering);
        sharing
            .flat_map(|(name, group)| {
                let beginning = Beginning { from_where: group.from_where, since_ms: group.since_ms };
                group.subscriptions.keys().map(move |topic| (name.clone(), topic.clone(), beginning))
            })
            .collect()
    }

    /// A member of a consumer group by its client id.
    #[must_use]
    pub fn find_consumer(&self, group: &str, client_id: &str) -> Option<ClientInfo> {
        let state = self.state.lock();
        // The newest connection: an older one of the same client is about to be noticed as closed.
        state.consumers.get(group)?.members.values().rev().find(|member| member.info.client_id == client_id).map(|member| member.info.clone())
    }

    /// What a group wants of a topic; the outer `None` says that the group has no live consumer.
    pub(crate) fn subscription(&self, group: &str, topic: &str) -> Option<(MessageModel, Option<Arc<Subscription>>)> {
        let state = self.state.lock();
        let group = state.consumers.get(group)?;
        Some((group.model, group.subscriptions.get(topic).cloned()))
    }
}

fn view(name: &Group, group: &ConsumerGroup) -> ConsumerGroupView {
    ConsumerGroupView {
        group: name.clone(),
        consume_type: group.consume_type,
        model: group.model,
        from_where: group.from_where,
        subscriptions: group.subscriptions.values().map(|s| s.as_ref().clone()).collect(),
        members: group.members.values().map(|member| member.info.clone()).collect(),
    }
}

fn connections(group: &ConsumerGroup) -> Vec<ConnectionId> {
    group.members.keys().copied().collect()
}

/// Takes a heartbeat's subscriptions over; whether a topic came or went. An older version does not replace a newer one: two members may differ for a while
/// during a rolling change.
fn subscribe(known: &mut BTreeMap<Topic, Arc<Subscription>>, wanted: Vec<Subscription>) -> bool {
    let before = known.len();
    known.retain(|topic, _| wanted.iter().any(|sub| sub.topic == *topic));
    let mut changed = known.len() != before;
    for sub in wanted {
        match known.get(&sub.topic) {
            Some(old) if old.version >= sub.version => {}
            old => {
                changed |= old.is_none();
                known.insert(sub.topic.clone(), Arc::new(sub));
            }
        }
    }
    changed
}

/// Drops members; the rest's connections if any member went.
fn drop_members(groups: &mut AHashMap<Group, ConsumerGroup>, name: &Group, gone: impl Fn(&Member) -> bool) -> Option<Vec<ConnectionId>> {
    let group = groups.get_mut(name)?;
    let before = group.members.len();
    group.members.retain(|_, member| !gone(member));
    let told = (group.members.len() != before).then(|| connections(group));
    if group.members.is_empty() {
        groups.remove(name);
    }
    told
}
