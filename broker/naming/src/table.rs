//! Brokers and their topics.

use crate::{KvConfig, ORDER_TOPIC_NAMESPACE};
use parking_lot::RwLock;
use sluice_env::{Clock, Monotonic};
use sluice_protocol::body::{BrokerData, BrokerMemberGroup, ClusterInfo, DataVersion, QueueData, TopicConfig, TopicRouteData};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;

/// How long a broker may be silent when it does not say.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Most addresses of brokers.
const BROKERS_MAX: usize = 10_000;
/// Most topics.
const TOPICS_MAX: usize = 1_000_000;
/// The bit of a permission that lets producers write.
const PERM_WRITE: i32 = 2;

/// Which broker: its cluster, its name, its number under the name (0 is the master) and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerId {
    /// Cluster.
    pub cluster: String,
    /// Name.
    pub name: String,
    /// Number.
    pub id: i64,
    /// Address.
    pub address: String,
}

/// How long a registration holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is taken back: the broker in our own process.
    Forever,
    /// Until the broker has been silent for that long; `None` takes the usual 120 s.
    Silence(Option<Duration>),
}

/// What a broker tells of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Which broker.
    pub broker: BrokerId,
    /// Where its replicas find it.
    pub ha_address: String,
    /// How long it holds.
    pub lifetime: Lifetime,
    /// The number of the connection that it came over: it ends with this one, unless the broker has registered over another since. `None` in our own process.
    pub connection: Option<u64>,
    /// Whether a replica may stand in for the master.
    pub enable_acting_master: bool,
    /// Whether it is in a group whose master, whichever member it is, has one address.
    pub of_group: bool,
    /// Its topics, or those that changed.
    pub topics: BTreeMap<String, TopicConfig>,
    /// Version of its topics.
    pub version: DataVersion,
}

/// What a broker learns from its registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// The master's address, for a replica.
    pub master_address: Option<String>,
    /// Where the master's replicas find it, for a replica.
    pub ha_address: Option<String>,
}

/// Why a registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Name, cluster or address is missing.
    #[error("a broker registers without a {0}; set it in the broker's configuration")]
    Incomplete(&'static str),
    /// More than the name server keeps.
    #[error("the name server has {0} brokers, more are not taken")]
    TooManyBrokers(usize),
    /// More than the name server keeps.
    #[error("the name server has {0} topics, more are not taken")]
    TooManyTopics(usize),
    /// Another broker of a newer epoch has that name and number.
    #[error("the broker {name} number {id} is registered from {address} with a newer state; it stays")]
    Newer {
        /// Name.
        name: String,
        /// Number.
        id: i64,
        /// The address that stays.
        address: String,
    },
}

struct Live {
    ha_address: String,
    lifetime: Lifetime,
    /// The one that registered it last.
    connection: Option<u64>,
    heard: Monotonic,
    version: DataVersion,
    of_group: bool,
}

impl Live {
    fn is_silent(&self, now: Monotonic) -> bool {
        match self.lifetime {
            Lifetime::Forever => false,
            Lifetime::Silence(most) => now.since(self.heard) > most.unwrap_or(SILENCE_MAX),
        }
    }
}

#[derive(Default)]
struct Tables {
    brokers: BTreeMap<String, BrokerData>,
    /// By cluster and address.
    live: BTreeMap<(String, String), Live>,
    /// By topic, then by broker's name.
    topics: BTreeMap<String, BTreeMap<String, QueueData>>,
}

/// All that a name server knows of brokers.
pub struct RouteTable {
    clock: Arc<dyn Clock>,
    tables: RwLock<Tables>,
    kv: KvConfig,
}

fn queue_data(broker: &str, topic: &TopicConfig) -> QueueData {
    QueueData {
        broker_name: broker.to_owned(),
        perm: topic.perm,
        read_queue_nums: topic.read_queue_nums,
        topic_sys_flag: topic.topic_sys_flag,
        write_queue_nums: topic.write_queue_nums,
    }
}

impl RouteTable {
    /// Without a broker.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, tables: RwLock::default(), kv: KvConfig::new() }
    }

    /// The key-value configuration.
    #[must_use]
    pub fn kv(&self) -> &KvConfig {
        &self.kv
    }

    /// A broker registers, or registers again.
    pub fn register(&self, registration: Registration) -> Result<Registered, RouteError> {
        let Registration { broker, ha_address, lifetime, connection, enable_acting_master, of_group, topics, version } = registration;
        for (what, text) in [("cluster", &broker.cluster), ("name", &broker.name), ("reachable address", &broker.address)] {
            if text.is_empty() {
                return Err(RouteError::Incomplete(what));
            }
        }
        let mut tables = self.tables.write();
        tables.check_room(&broker, &version, &topics)?;
        let key = (broker.cluster.clone(), broker.address.clone());
        let data = tables.brokers.entry(broker.name.clone()).or_default();
        data.cluster.clone_from(&broker.cluster);
        data.broker_name.clone_from(&broker.name);
        data.enable_acting_master = enable_acting_master;
        // A replica that became the master keeps its address: it must not stand there twice.
        data.broker_addrs.retain(|id, address| *address != broker.address || *id == broker.id);
        let new = data.broker_addrs.insert(broker.id, broker.address.clone()).is_none();
        let lowest = data.broker_addrs.keys().next().copied();
        let unchanged = !new && tables.live.get(&key).is_some_and(|live| live.version == version);
        let stands_in = enable_acting_master && lowest == Some(broker.id);
        if (broker.id == 0 || stands_in) && (!unchanged || topics.len() == 1) {
            for (name, mut topic) in topics {
                if broker.id != 0 {
                    topic.perm &= !PERM_WRITE;
                }
                tables.topics.entry(name).or_default().insert(broker.name.clone(), queue_data(&broker.name, &topic));
            }
        }
        tables.live.insert(key, Live { ha_address, lifetime, connection, heard: self.clock.monotonic(), version, of_group });
        Ok(tables.master_of(&broker))
    }

    /// A broker lives (request 904). False when it is not registered.
    pub fn heartbeat(&self, cluster: &str, address: &str) -> bool {
        let now = self.clock.monotonic();
        let mut tables = self.tables.write();
        match tables.live.get_mut(&(cluster.to_owned(), address.to_owned())) {
            Some(live) => {
                live.heard = now;
                true
            }
            None => false,
        }
    }

    /// A broker goes.
    pub fn unregister(&self, broker: &BrokerId) {
        self.tables.write().remove(&broker.cluster, &broker.address);
    }

    /// A broker has lost its role, or its connection, without a word of what comes next.
    pub fn lost(&self, broker: &BrokerId) {
        let now = self.clock.monotonic();
        self.tables.write().lost(&broker.cluster, &broker.address, now);
    }

    /// A connection has ended, whosever it was: the brokers that registered last over it are [lost](Self::lost). Returns their addresses. Its number must not be used again.
    pub fn connection_closed(&self, connection: u64) -> Vec<String> {
        let of_it =
            |tables: &Tables| -> Vec<_> { tables.live.iter().filter(|(_, live)| live.connection == Some(connection)).map(|(key, _)| key.clone()).collect() };
        // Most connections are clients': their ends must not stop those who ask for routes.
        if of_it(&self.tables.read()).is_empty() {
            return Vec::new();
        }
        let mut tables = self.tables.write();
        let gone = of_it(&tables);
        for (cluster, address) in &gone {
            tables.lost(cluster, address, self.clock.monotonic());
        }
        gone.into_iter().map(|(_, address)| address).collect()
    }

    /// Forgets brokers that were silent for too long and returns their addresses. To be called every few seconds.
    pub fn expire(&self) -> Vec<String> {
        let now = self.clock.monotonic();
        let mut tables = self.tables.write();
        let silent: Vec<_> = tables.live.iter().filter(|(_, live)| live.is_silent(now)).map(|(key, _)| key.clone()).collect();
        for (cluster, address) in &silent {
            tables.remove(cluster, address);
        }
        silent.into_iter().map(|(_, address)| address).collect()
    }

    /// A topic of a registered broker was made or changed.
    pub fn put_topic(&self, broker_name: &str, topic: &TopicConfig) {
        let mut tables = self.tables.write();
        if tables.brokers.contains_key(broker_name) {
            tables.topics.entry(topic.topic_name.clone()).or_default().insert(broker_name.to_owned(), queue_data(broker_name, topic));
        }
    }

    /// A broker's topic is gone.
    pub fn remove_topic(&self, broker_name: &str, topic: &str) {
        self.tables.write().remove_topic(topic, |broker| broker == broker_name);
    }

    /// A topic is gone, everywhere or in one cluster (request 216).
    pub fn delete_topic(&self, topic: &str, cluster: Option<&str>) {
        let mut tables = self.tables.write();
        let brokers: Option<BTreeSet<String>> =
            cluster.map(|cluster| tables.brokers.values().filter(|b| b.cluster == cluster).map(|b| b.broker_name.clone()).collect());
        tables.remove_topic(topic, |broker| brokers.as_ref().is_none_or(|brokers| brokers.contains(broker)));
    }

    /// Sets where a topic's queues are (request 217); brokers that are not registered are left out.
    pub fn put_route(&self, topic: &str, queues: Vec<QueueData>) -> Result<(), RouteError> {
        let mut tables = self.tables.write();
        if !tables.topics.contains_key(topic) && tables.topics.len() >= TOPICS_MAX {
            return Err(RouteError::TooManyTopics(tables.topics.len()));
        }
        let known: BTreeMap<_, _> = queues.into_iter().filter(|q| tables.brokers.contains_key(&q.broker_name)).map(|q| (q.broker_name.clone(), q)).collect();
        if !known.is_empty() {
            tables.topics.entry(topic.to_owned()).or_default().extend(known);
        }
        Ok(())
    }

    /// Where a topic is; `None` when no broker has it.
    #[must_use]
    pub fn route(&self, topic: &str) -> Option<TopicRouteData> {
        let tables = self.tables.read();
        let queue_datas: Vec<QueueData> = tables.topics.get(topic)?.values().cloned().collect();
        let broker_datas: Vec<BrokerData> =
            queue_datas.iter().filter_map(|queue| tables.brokers.get(&queue.broker_name)).cloned().map(with_acting_master).collect();
        if broker_datas.is_empty() {
            return None;
        }
        let order_topic_conf = self.kv.get(ORDER_TOPIC_NAMESPACE, topic);
        Some(TopicRouteData { broker_datas, filter_server_table: BTreeMap::new(), order_topic_conf, queue_datas })
    }

    /// All brokers.
    #[must_use]
    pub fn cluster_info(&self) -> ClusterInfo {
        let tables = self.tables.read();
        let mut info = ClusterInfo { broker_addr_table: tables.brokers.clone(), cluster_addr_table: BTreeMap::new() };
        for broker in tables.brokers.values() {
            info.cluster_addr_table.entry(broker.cluster.clone()).or_default().push(broker.broker_name.clone());
        }
        info
    }

    /// All topics.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        self.tables.read().topics.keys().cloned().collect()
    }

    /// The topics of a cluster.
    #[must_use]
    pub fn topics_of_cluster(&self, cluster: &str) -> Vec<String> {
        let tables = self.tables.read();
        let here = |broker: &String| tables.brokers.get(broker).is_some_and(|data| data.cluster == cluster);
        tables.topics.iter().filter(|(_, queues)| queues.keys().any(here)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Names of clusters and brokers, which the official tools show as system topics, and one master's address.
    #[must_use]
    pub fn system_topics(&self) -> (Vec<String>, Option<String>) {
        let tables = self.tables.read();
        let names: BTreeSet<String> = tables.brokers.values().flat_map(|b| [b.cluster.clone(), b.broker_name.clone()]).collect();
        let address = tables.brokers.values().find_map(|b| b.broker_addrs.values().next().cloned());
        (names.into_iter().collect(), address)
    }

    /// Forbids or allows writing to all topics of a broker until it registers a change; returns how many topics that touched.
    pub fn set_write_permission(&self, broker_name: &str, allowed: bool) -> usize {
        let mut tables = self.tables.write();
        let mut touched = 0;
        for queue in tables.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name)) {
            queue.perm = if allowed { queue.perm | PERM_WRITE } else { queue.perm & !PERM_WRITE };
            touched += 1;
        }
        touched
    }

    /// The version of a broker's topics as last registered.
    #[must_use]
    pub fn version(&self, cluster: &str, address: &str) -> Option<DataVersion> {
        self.tables.read().live.get(&(cluster.to_owned(), address.to_owned())).map(|live| live.version.clone())
    }

    /// The members of a broker's group; empty when there is none of that name.
    #[must_use]
    pub fn members(&self, cluster: &str, broker_name: &str) -> BrokerMemberGroup {
        let broker_addrs = self.tables.read().brokers.get(broker_name).map(|data| data.broker_addrs.clone()).unwrap_or_default();
        BrokerMemberGroup { broker_addrs, broker_name: broker_name.to_owned(), cluster: cluster.to_owned() }
    }
}

/// Without a master, the first replica answers for it where that is wanted: clients only ever send to number 0.
fn with_acting_master(mut broker: BrokerData) -> BrokerData {
    if broker.enable_acting_master
        && !broker.broker_addrs.contains_key(&0)
        && let Some((_, address)) = broker.broker_addrs.pop_first()
    {
        broker.broker_addrs.insert(0, address);
    }
    broker
}

impl Tables {
    fn check_room(&self, broker: &BrokerId, version: &DataVersion, topics: &BTreeMap<String, TopicConfig>) -> Result<(), RouteError> {
        let key = (broker.cluster.clone(), broker.address.clone());
        if !self.live.contains_key(&key) && self.live.len() >= BROKERS_MAX {
            return Err(RouteError::TooManyBrokers(self.live.len()));
        }
        let new = topics.keys().filter(|topic| !self.topics.contains_key(*topic)).count();
        if self.topics.len() + new > TOPICS_MAX {
            return Err(RouteError::TooManyTopics(self.topics.len()));
        }
        let Some(old) = self.brokers.get(&broker.name).and_then(|data| data.broker_addrs.get(&broker.id)).filter(|old| **old != broker.address) else {
            return Ok(());
        };
        match self.live.get(&(broker.cluster.clone(), old.clone())) {
            Some(live) if live.version.state_version > version.state_version => {
                Err(RouteError::Newer { name: broker.name.clone(), id: broker.id, address: old.clone() })
            }
            _ => Ok(()),
        }
    }

    fn master_of(&self, broker: &BrokerId) -> Registered {
        let master = self.brokers.get(&broker.name).and_then(|data| data.broker_addrs.get(&0)).filter(|_| broker.id != 0);
        let live = master.and_then(|address| self.live.get(&(broker.cluster.clone(), address.clone())));
        Registered { ha_address: live.map(|live| live.ha_address.clone()), master_address: live.and(master).cloned() }
    }

    fn remove(&mut self, cluster: &str, address: &str) {
        self.live.remove(&(cluster.to_owned(), address.to_owned()));
        let mut gone = Vec::new();
        for (name, data) in self.brokers.iter_mut().filter(|(_, data)| data.cluster == cluster) {
            data.broker_addrs.retain(|_, a| a != address);
            if data.broker_addrs.is_empty() {
                gone.push(name.clone());
            }
        }
        self.brokers.retain(|name, _| !gone.contains(name));
        if !gone.is_empty() {
            self.topics.retain(|_, queues| {
                queues.retain(|broker, _| !gone.contains(broker));
                !queues.is_empty()
            });
        }
    }

    /// It goes; but a group's address stays for the usual silence as long as replicas of it are there: the next master will have it too. A route with replicas alone
    /// would tell producers that there is nobody to send to, and they would give up instead of trying again.
    fn lost(&mut self, cluster: &str, address: &str, now: Monotonic) {
        let group = self.brokers.values().find(|data| data.cluster == cluster && data.broker_addrs.get(&0).is_some_and(|master| master == address));
        let mut others = group.iter().flat_map(|data| data.broker_addrs.values()).filter(|other| *other != address);
        let stays = others.any(|other| self.live.get(&(cluster.to_owned(), other.clone())).is_some_and(|live| live.of_group));
        match self.live.get_mut(&(cluster.to_owned(), address.to_owned())).filter(|_| stays) {
            Some(live) => (live.lifetime, live.connection, live.heard) = (Lifetime::Silence(None), None, now),
            None => self.remove(cluster, address),
        }
    }

    fn remove_topic(&mut self, topic: &str, at: impl Fn(&str) -> bool) {
        if let Some(queues) = self.topics.get_mut(topic) {
            queues.retain(|broker, _| !at(broker));
            if queues.is_empty() {
                self.topics.remove(topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::WallTime;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn monotonic(&self) -> Monotonic {
            Monotonic(Duration::from_secs(self.0.load(Ordering::Relaxed)))
        }
        fn wall(&self) -> WallTime {
            WallTime(0)
        }
        fn boot(&self) -> Option<u128> {
            None
        }
    }

    fn registration(name: &str, id: i64, address: &str, topics: &[&str]) -> Registration {
        let topic = |name: &&str| ((*name).to_owned(), TopicConfig { topic_name: (*name).to_owned(), ..TopicConfig::default() });
        Registration {
            broker: BrokerId { cluster: "c".into(), name: name.into(), id, address: address.into() },
            ha_address: format!("{address}-ha"),
            lifetime: Lifetime::Silence(None),
            connection: None,
            enable_acting_master: false,
            of_group: false,
            topics: topics.iter().map(topic).collect(),
            version: DataVersion::default(),
        }
    }

    #[test]
    fn a_route_names_every_broker_of_the_topic_until_it_is_silent_for_too_long() {
        let clock = Arc::new(HandClock::default());
        let table = RouteTable::new(clock.clone());
        table.register(registration("a", 0, "1:1", &["t", "u"])).expect("taken");
        table.register(registration("b", 0, "2:1", &["t"])).expect("taken");
        assert_eq!(table.route("t").expect("known").broker_datas.len(), 2);
        assert!(table.route("missing").is_none());

        clock.0.store(100, Ordering::Relaxed);
        assert!(table.heartbeat("c", "1:1"));
        clock.0.store(121, Ordering::Relaxed);
        assert_eq!(table.expire(), ["2:1"]);
        let route = table.route("t").expect("known");
        assert_eq!(route.queue_datas.len(), 1);
        assert_eq!(route.broker_datas[0].broker_addrs[&0], "1:1");
    }

    #[test]
    fn a_broker_goes_with_the_connection_that_registered_it_last() {
        let table = RouteTable::new(Arc::new(HandClock::default()));
        let over = |connection| Registration { connection: Some(connection), ..registration("a", 0, "1:1", &["t"]) };
        table.register(over(1)).expect("taken");
        table.register(over(2)).expect("taken");
        table.register(registration("own", 0, "2:1", &["t"])).expect("taken");
        assert!(table.connection_closed(1).is_empty());
        assert!(table.connection_closed(3).is_empty());
        assert_eq!(table.route("t").expect("known").queue_datas.len(), 2);
        // A sign of life over another connection is not a registration.
        assert!(table.heartbeat("c", "1:1"));
        assert_eq!(table.connection_closed(2), ["1:1"]);
        assert_eq!(table.route("t").expect("known").broker_datas[0].broker_name, "own");
        assert!(table.connection_closed(2).is_empty());
    }

    #[test]
    fn our_own_brokers_topics_are_right_at_once_and_never_expire() {
        let clock = Arc::new(HandClock::default());
        let table = RouteTable::new(clock.clone());
        table.register(Registration { lifetime: Lifetime::Forever, ..registration("a", 0, "1:1", &[]) }).expect("taken");
        assert!(table.route("t").is_none());
        table.put_topic("a", &TopicConfig { topic_name: "t".into(), ..TopicConfig::default() });
        assert!(table.route("t").is_some());
        clock.0.store(1_000_000, Ordering::Relaxed);
        assert!(table.expire().is_empty());
        table.remove_topic("a", "t");
        assert!(table.route("t").is_none());
        assert!(table.topics().is_empty());
    }

    #[test]
    fn a_replica_learns_its_master_and_adds_no_topics() {
        let table = RouteTable::new(Arc::new(HandClock::default()));
        table.register(registration("a", 0, "1:1", &["t"])).expect("taken");
        let registered = table.register(registration("a", 1, "2:1", &["only_there"])).expect("taken");
        assert_eq!(registered, Registered { master_address: Some("1:1".into()), ha_address: Some("1:1-ha".into()) });
        assert!(table.route("only_there").is_none());
        assert_eq!(table.route("t").expect("known").broker_datas[0].broker_addrs.len(), 2);
        table.unregister(&BrokerId { cluster: "c".into(), name: "a".into(), id: 0, address: "1:1".into() });
        table.unregister(&BrokerId { cluster: "c".into(), name: "a".into(), id: 1, address: "2:1".into() });
        assert_eq!(table.cluster_info(), ClusterInfo::default());
        assert!(table.topics().is_empty());
    }

    #[test]
    fn a_groups_address_stays_while_replicas_of_it_are_there_for_the_next_master_to_have() {
        let clock = Arc::new(HandClock::default());
        let table = RouteTable::new(clock.clone());
        let over = |connection, registration| Registration { connection: Some(connection), ..registration };
        let replica = || Registration { of_group: true, ..over(2, registration("a", 1, "2:1", &[])) };
        let addresses = || table.route("t").map(|route| route.broker_datas[0].broker_addrs.keys().copied().collect::<Vec<_>>());
        table.register(over(1, registration("a", 0, "1:1", &["t"]))).expect("taken");
        table.register(replica()).expect("taken");
        assert_eq!(table.connection_closed(1), ["1:1"]);
        assert_eq!(addresses(), Some(vec![0, 1]));
        assert!(table.connection_closed(1).is_empty(), "it is told once");
        // The next master registers over another connection; its end counts as the former's did.
        table.register(over(3, registration("a", 0, "1:1", &["t"]))).expect("taken");
        assert_eq!(table.connection_closed(2), ["2:1"]);
        assert_eq!(addresses(), Some(vec![0]));
        assert_eq!(table.connection_closed(3), ["1:1"]);
        assert_eq!(addresses(), None, "nobody of it is there");
        // In this process, too; and not for ever.
        table.register(Registration { lifetime: Lifetime::Forever, ..registration("a", 0, "1:1", &["t"]) }).expect("taken");
        table.register(replica()).expect("taken");
        table.lost(&BrokerId { cluster: "c".into(), name: "a".into(), id: 0, address: "1:1".into() });
        assert_eq!(addresses(), Some(vec![0, 1]));
        clock.0.store(121, Ordering::Relaxed);
        table.register(replica()).expect("taken");
        assert_eq!(table.expire(), ["1:1"]);
        assert_eq!(addresses(), Some(vec![1]));
        // A replica of another kind of group keeps nobody.
        table.register(over(4, registration("b", 0, "4:1", &["t2"]))).expect("taken");
        table.register(over(5, registration("b", 1, "5:1", &[]))).expect("taken");
        table.connection_closed(4);
        assert_eq!(table.members("c", "b").broker_addrs.len(), 1);
    }

    #[test]
    fn wiping_the_write_permission_leaves_reading() {
        let table = RouteTable::new(Arc::new(HandClock::default()));
        table.register(registration("a", 0, "1:1", &["t"])).expect("taken");
        assert_eq!(table.set_write_permission("a", false), 1);
        assert_eq!(table.route("t").expect("known").queue_datas[0].perm, 4);
        table.set_write_permission("a", true);
        assert_eq!(table.route("t").expect("known").queue_datas[0].perm, 6);
    }

    #[test]
    fn an_order_configuration_travels_with_the_route() {
        let table = RouteTable::new(Arc::new(HandClock::default()));
        table.register(registration("a", 0, "1:1", &["t"])).expect("taken");
        table.kv().put(ORDER_TOPIC_NAMESPACE, "t", "a:4").expect("legal");
        assert_eq!(table.route("t").expect("known").order_topic_conf.as_deref(), Some("a:4"));
    }
}
