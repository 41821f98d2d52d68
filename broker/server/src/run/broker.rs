//! Opening and closing the broker's part: store, delivery, the identity under which clients find it.

use super::{RunError, registration::Registration, stores::Places};
use crate::{
    config::{BrokerIdentity, Config, FlushKind},
    net::Net,
    processor::{LocalBroker, Pushes, Told},
    telemetry::{Samples, Telemetry, delivery_samples, store_samples},
};
use sluice_delivery::{Delivery, DeliveryOptions};
use sluice_naming::RouteTable;
use sluice_store::{FlushMode, RecoveryProgress, Store, StoreOptions};
use std::{net::SocketAddr, sync::Arc};
use tokio::{sync::watch, task::JoinHandle};

/// The broker's part of a process.
pub(super) struct Broker {
    pub(super) store: Arc<Store>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) advertised: SocketAddr,
    identity: BrokerIdentity,
    /// What name servers elsewhere know.
    pub(super) told: Arc<Told>,
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
        let dir = &config.data_dir;
        let (env, store) = places.open(dir, store_options(config), progress)?;
        let advertised = SocketAddr::new(config.listen.advertised(), config.listen.broker_port);
        let told = Told::new(config.naming_addresses.len(), runtime.clone());
        let spawn = Arc::new(move |work: Box<dyn FnOnce() + Send>| drop(runtime.spawn(async move { work() })));
        let delivery = Delivery::open(Arc::clone(&store), env, delivery_options(config, advertised), Arc::new(Pushes::new(Arc::clone(net))), spawn)
            .map_err(|source| RunError::Delivery { dir: dir.clone(), source })?;
        Ok(Self { store, delivery, advertised, identity: config.broker.clone(), told })
    }

    /// Who clients are told that this is.
    pub(super) fn local(&self) -> LocalBroker {
        LocalBroker {
            cluster: self.identity.cluster.clone(),
            name: self.identity.name.clone(),
            id: i64::try_from(self.identity.id).unwrap_or(i64::MAX),
            address: self.advertised.to_string(),
        }
    }

    /// Makes the topics known: at once in this process's own name server, and through registration elsewhere.
    pub(super) fn publish(&self, table: Option<&Arc<RouteTable>>) -> Result<(), sluice_naming::RouteError> {
        let local = self.local();
        let here = table.map(|table| local.listener(Arc::clone(table)));
        let elsewhere = Arc::clone(&self.told);
        self.delivery.topics().set_listener(Arc::new(move |change, version| {
            if let Some(here) = &here {
                here(change, version);
            }
            elsewhere.changed();
        }));
        table.map_or(Ok(()), |table| local.register(table, &self.delivery))
    }

    /// One task for each name server elsewhere.
    pub(super) fn register(&self, addresses: &[String], stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let one = |(number, address): (usize, &String)| {
            let registration = Registration {
                identity: self.identity.clone(),
                advertised: self.advertised,
                delivery: Arc::clone(&self.delivery),
                told: Arc::clone(&self.told),
                name_server: address.clone(),
                number,
            };
            tokio::spawn(registration.run(stop.clone()))
        };
        addresses.iter().enumerate().map(one).collect()
    }

    /// Lets every scrape see the store and delivery.
    pub(super) fn measure(&self, telemetry: &Telemetry) -> Result<(), prometheus::Error> {
        let store = Arc::clone(&self.store);
        telemetry.collect(move |samples: &mut Samples| store_samples(&store.status(), samples))?;
        let delivery = Arc::clone(&self.delivery);
        telemetry.collect(move |samples: &mut Samples| delivery_samples(&delivery, samples))
    }
}

fn store_options(config: &Config) -> StoreOptions {
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
        ..StoreOptions::default()
    }
}

fn delivery_options(config: &Config, advertised: SocketAddr) -> DeliveryOptions {
    DeliveryOptions {
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
        ..DeliveryOptions::new(advertised)
    }
}
