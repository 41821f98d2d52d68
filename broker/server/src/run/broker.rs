//! Opening and closing the broker's part: store, delivery, the topics' way to name servers.

use super::{RunError, registration, registration::Registrar};
use crate::{
    config::{Config, FlushKind},
    net::Net,
    processor::Pushes,
};
use sluice_delivery::{Delivery, DeliveryOptions, TopicChange, TopicConfig};
use sluice_naming::{BrokerId, Lifetime, Registration, RouteTable};
use sluice_protocol::body::DataVersion;
use sluice_store::{FlushMode, Store, StoreOptions};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::Notify;

/// The broker's part of a process.
pub(super) struct Broker {
    pub(super) store: Arc<Store>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) advertised: SocketAddr,
    /// Told of every change of a topic, for name servers elsewhere.
    pub(super) topics_changed: Arc<Notify>,
}

impl Broker {
    /// Opens the data directory and recovers. Blocks for as long as that takes.
    pub(super) fn open(config: &Config, net: &Arc<Net>, runtime: tokio::runtime::Handle) -> Result<Self, RunError> {
        let dir = &config.data_dir;
        let env = sluice_env::real::env(dir).map_err(|source| RunError::DataDir { dir: dir.clone(), source })?;
        let store = Store::open(env.clone(), store_options(config)).map_err(|source| RunError::Store { dir: dir.clone(), source })?;
        let advertised = SocketAddr::new(config.listen.advertised(), config.listen.broker_port);
        let spawn = Arc::new(move |work: Box<dyn FnOnce() + Send>| drop(runtime.spawn_blocking(work)));
        let delivery = Delivery::open(env, Arc::clone(&store), delivery_options(config, advertised), Arc::new(Pushes::new(Arc::clone(net))), spawn)
            .map_err(|source| RunError::Delivery { dir: dir.clone(), source })?;
        Ok(Self { store, delivery, advertised, topics_changed: Arc::default() })
    }
}
