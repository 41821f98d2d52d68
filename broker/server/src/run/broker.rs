//! Opening and closing the broker's part: store, delivery, the identity under which clients find it.

use super::{RunError, machine::memory_share, member::Mastership, registration::Registration, stores::Places};
use crate::{
    config::{BrokerIdentity, Config, FlushKind},
    net::Net,
    processor::{BrokerProcessor, BrokerSide, LocalBroker, Pushes, Told},
    telemetry::{Samples, Telemetry, delivery_samples, member_samples, read_samples, store_samples},
};
use sluice_delivery::{Delivery, DeliveryOptions, ReplicaReads};
use sluice_group::runner::Member;
use sluice_naming::RouteTable;
use sluice_store::{FlushMode, RecoveryProgress, Store, StoreOptions};
use std::{net::SocketAddr, sync::Arc};
use tokio::{sync::watch, task::JoinHandle};

/// How much of the machine's memory a consumer may be behind before it is sent to a replica: RocketMQ's `accessMessageInMemoryMaxRatio`.
const READ_BEHIND_SHARE: f64 = 0.4;

/// The broker's part of a process.
pub(super) enum Broker {
    /// It is alone.
    Alone(Alone),
    /// It is one of a group.
    Member {
        /// What it does in each role.
        mastership: Arc<Mastership>,
        /// Its part in the group.
        member: Arc<Member>,
    },
}

/// A broker that is alone.
pub(super) struct Alone {
    pub(super) store: Arc<Store>,
    pub(super) delivery: Arc<Delivery>,
    advertised: SocketAddr,
    identity: BrokerIdentity,
    /// What name servers elsewhere know.
    told: Arc<Told>,
    side: Arc<BrokerSide>,
}

impl Broker {
    /// Opens the data directory and recovers. Blocks for as long as that takes.
    pub(super) fn open(
        config: &Config,
        net: &Arc<Net>,
        runtime: tokio::runtime::Handle,
        places: &Places,
        progress: &RecoveryProgress,
    ) -> Result<Self, RunError> {
        if config.replication.members.is_empty() {
            return Alone::open(config, net, runtime, places, progress).map(Self::Alone);
        }
        let (mastership, member) = Mastership::start(config, net, &runtime, places, progress)?;
        Ok(Self::Member { mastership, member })
    }

    /// Who handles the broker's requests.
    pub(super) fn side(&self) -> Arc<BrokerSide> {
        Arc::clone(match self {
            Self::Alone(alone) => &alone.side,
            Self::Member { mastership, .. } => &mastership.side,
        })
    }

    /// Its store, unless that is being opened again.
    pub(super) fn store(&self) -> Option<Arc<Store>> {
        match self {
            Self::Alone(alone) => Some(Arc::clone(&alone.store)),
            Self::Member { member, .. } => member.store(),
        }
    }

    /// What it delivers; a replica nothing.
    fn delivery(&self) -> Option<Arc<Delivery>> {
        match self {
            Self::Alone(alone) => Some(Arc::clone(&alone.delivery)),
            Self::Member { mastership, .. } => mastership.delivery(),
        }
    }

    /// What it gives to read while it is a replica, if it may be read from then.
    pub(super) fn reads(&self) -> Option<&Arc<ReplicaReads>> {
        match self {
            Self::Alone(_) => None,
            Self::Member { mastership, .. } => mastership.reads(),
        }
    }

    /// The store that a name server in this process may use too: one that takes writes whatever happens to others.
    pub(super) fn own_store(&self) -> Option<&Arc<Store>> {
        match self {
            Self::Alone(alone) => Some(&alone.store),
            Self::Member { .. } => None,
        }
    }

    /// Makes the topics known: at once in this process's own name server, and through registration elsewhere.
    pub(super) fn publish(&self, table: Option<&Arc<RouteTable>>) -> Result<(), sluice_naming::RouteError> {
        match self {
            Self::Alone(alone) => alone.publish(table),
            Self::Member { mastership, .. } => {
                if let Some(table) = table {
                    mastership.set_table(table);
                }
                Ok(())
            }
        }
    }

    /// One task for each name server elsewhere. A member of a group has its own, as long as it is master.
    pub(super) fn register(&self, addresses: &[String], stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        match self {
            Self::Alone(alone) => alone.register(addresses, stop),
            Self::Member { .. } => Vec::new(),
        }
    }

    /// Lets every scrape see the store and delivery.
    pub(super) fn measure(self: &Arc<Self>, telemetry: &Telemetry) -> Result<(), prometheus::Error> {
        let broker = Arc::clone(self);
        telemetry.collect(move |samples: &mut Samples| {
            if let Some(store) = broker.store() {
                store_samples(&store.status(), samples);
            }
            if let Some(delivery) = broker.delivery() {
                delivery_samples(&delivery, samples);
            }
            if let Self::Member { member, .. } = &*broker {
                member_samples(&member.status(), samples);
            }
            if let Some(reads) = broker.reads() {
                read_samples(reads.counted(), samples);
            }
        })
    }

    /// Lets another member be master, if there is one that can.
    pub(super) fn leave(&self) {
        if let Self::Member { member, mastership, .. } = self {
            mastership.leave(member);
        }
    }

    /// Answers what is held.
    pub(super) fn close_delivery(&self) {
        match self {
            Self::Alone(alone) => alone.delivery.close(),
            Self::Member { mastership, .. } => mastership.close_delivery(),
        }
    }

    /// Everything to disk.
    pub(super) fn close(&self) {
        match self {
            Self::Alone(alone) => alone.store.close(),
            Self::Member { member, .. } => member.stop(),
        }
    }
}

impl Alone {
    fn open(config: &Config, net: &Arc<Net>, runtime: tokio::runtime::Handle, places: &Places, progress: &RecoveryProgress) -> Result<Self, RunError> {
        let dir = &config.data_dir;
        let (env, store) = places.open(dir, store_options(config), progress)?;
        let advertised = advertised(config);
        let told = Told::new(config.naming_addresses.len(), runtime.clone());
        let spawn = Arc::new(move |work: Box<dyn FnOnce() + Send>| drop(runtime.spawn(async move { work() })));
        let delivery = Delivery::open(Arc::clone(&store), env, delivery_options(config, advertised), Arc::new(Pushes::new(Arc::clone(net))), spawn)
            .map_err(|source| RunError::Delivery { dir: dir.clone(), source })?;
        let identity = config.broker.clone();
        let side = BrokerSide::alone(BrokerProcessor::new(Arc::clone(&delivery), local(&identity, advertised), Arc::clone(&told)));
        Ok(Self { store, delivery, advertised, identity, told, side })
    }

    fn publish(&self, table: Option<&Arc<RouteTable>>) -> Result<(), sluice_naming::RouteError> {
        publish(&local(&self.identity, self.advertised), &self.delivery, &self.told, table)
    }

    fn register(&self, addresses: &[String], stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let one = |(number, address): (usize, &String)| {
            let registration = Registration {
                identity: self.identity.clone(),
                advertised: self.advertised,
                delivery: Some(Arc::clone(&self.delivery)),
                of_group: false,
                told: Arc::clone(&self.told),
                name_server: address.clone(),
                number,
            };
            tokio::spawn(registration.run(stop.clone()))
        };
        addresses.iter().enumerate().map(one).collect()
    }
}

/// Makes a broker's topics known, now and whenever one changes: at once in this process's own name server, if there is one, and to those elsewhere by `told`.
pub(super) fn publish(
    local: &LocalBroker,
    delivery: &Arc<Delivery>,
    told: &Arc<Told>,
    table: Option<&Arc<RouteTable>>,
) -> Result<(), sluice_naming::RouteError> {
    let here = table.map(|table| local.listener(Arc::clone(table)));
    let elsewhere = Arc::clone(told);
    delivery.topics().set_listener(Arc::new(move |change, version| {
        if let Some(here) = &here {
            here(change, version);
        }
        elsewhere.changed();
    }));
    table.map_or(Ok(()), |table| local.register(table, delivery))
}

/// Who clients are told that this is.
pub(super) fn local(identity: &BrokerIdentity, advertised: SocketAddr) -> LocalBroker {
    LocalBroker {
        cluster: identity.cluster.clone(),
        name: identity.name.clone(),
        id: i64::try_from(identity.id).unwrap_or(i64::MAX),
        address: advertised.to_string(),
    }
}

/// Where clients are told that it is.
pub(super) fn advertised(config: &Config) -> SocketAddr {
    SocketAddr::new(config.listen.advertised(), config.listen.broker_port)
}

pub(super) fn store_options(config: &Config) -> StoreOptions {
    let storage = &config.storage;
    StoreOptions {
        segment_bytes: storage.segment_bytes,
        flush: match storage.flush {
            FlushKind::Sync => FlushMode::Sync,
            FlushKind::Async => FlushMode::Async { interval: storage.flush_interval },
        },
        flush_deadline: storage.flush_deadline,
        retention_age: storage.retention_age,
        retention_bytes: storage.retention_bytes,
        append_queue_bytes_max: usize::try_from(storage.append_queue_bytes).unwrap_or(usize::MAX),
        disk_used_ratio_max: storage.disk_used_ratio_max,
        unconfirmed_bytes_max: config.replication.unconfirmed_bytes,
        ..StoreOptions::default()
    }
}

pub(super) fn delivery_options(config: &Config, advertised: SocketAddr) -> DeliveryOptions {
    DeliveryOptions {
        confirm: config.replication.confirm,
        auto_create_topics: config.topics.auto_create,
        default_topic_queues: config.topics.queue_count,
        message_bytes_max: config.messages.bytes_max,
        held_pulls_max: config.limits.held_pulls_max,
        transaction_timeout: config.transaction.timeout,
        transaction_check_interval: config.transaction.check_interval,
        transaction_check_max: config.transaction.check_max,
        // Longer, and the log would be kept for longer than it is meant to be.
        transaction_immunity_max: config.storage.retention_age,
        transactions_open_max: config.transaction.open_max,
        read_behind_bytes: config.replication.read_behind.unwrap_or_else(|| memory_share(READ_BEHIND_SHARE)),
        ..DeliveryOptions::new(advertised)
    }
}
