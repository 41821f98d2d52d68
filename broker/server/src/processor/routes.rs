//! Our own broker, as the name server in this process sees it.

use sluice_delivery::{Delivery, TopicChange, TopicConfig, topics::TopicListener};
use sluice_naming::{BrokerId, Lifetime, Registration, RouteError, RouteTable};
use sluice_protocol::body;
use std::sync::Arc;

/// The broker in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalBroker {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its number under the name; 0 is the master.
    pub id: i64,
    /// `address:port` as clients are told.
    pub address: String,
}

/// The settings as name servers and clients read them.
pub(crate) fn topic_to_wire(topic: &TopicConfig) -> body::TopicConfig {
    body::TopicConfig {
        attributes: topic.attributes.clone(),
        order: topic.order,
        perm: topic.perm.cast_signed(),
        read_queue_nums: topic.read_queues.cast_signed(),
        topic_name: topic.name.to_string(),
        topic_sys_flag: topic.sys_flag,
        write_queue_nums: topic.write_queues.cast_signed(),
        ..body::TopicConfig::default()
    }
}

pub(super) fn version_to_wire(version: sluice_delivery::DataVersion) -> body::DataVersion {
    body::DataVersion { counter: version.counter, state_version: version.state_version, timestamp: version.timestamp }
}

impl LocalBroker {
    fn id(&self) -> BrokerId {
        BrokerId { cluster: self.cluster.clone(), name: self.name.clone(), id: self.id, address: self.address.clone() }
    }

    /// Enters the broker and all of its topics into `table`, for as long as the process lives. Set [`LocalBroker::listener`] before, so that no change
    /// falls between.
    pub fn register(&self, table: &RouteTable, delivery: &Delivery) -> Result<(), RouteError> {
        let topics = delivery.topics().list().iter().map(|topic| (topic.name.to_string(), topic_to_wire(topic))).collect();
        let registration = Registration {
            broker: self.id(),
            ha_address: String::new(),
            lifetime: Lifetime::Forever,
            connection: None,
            enable_acting_master: false,
            of_group: false,
            topics,
            version: version_to_wire(delivery.topics().version()),
        };
        table.register(registration).map(drop)
    }

    /// Keeps `table` right: a topic is there for clients the moment it exists.
    #[must_use]
    pub fn listener(&self, table: Arc<RouteTable>) -> TopicListener {
        let name = self.name.clone();
        Arc::new(move |change, _| match change {
            TopicChange::Put(topic) => table.put_topic(&name, &topic_to_wire(topic)),
            TopicChange::Deleted(topic) => table.remove_topic(&name, topic.as_str()),
        })
    }

    /// Tells `table` that it is not what it was: see [`RouteTable::lost`].
    pub fn lost(&self, table: &RouteTable) {
        table.lost(&self.id());
    }
}
