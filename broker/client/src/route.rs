//! Which broker has which queue.

use serde::Serialize;
use sluice_protocol::body::{ClusterInfo, TopicRouteData};

const PERM_READ: i32 = 4;
const PERM_WRITE: i32 = 2;

/// One queue of a topic and the address of the broker that has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct QueueAddress {
    /// Name of the broker.
    pub broker: String,
    /// Its master's address.
    pub addr: String,
    /// Queue number.
    pub queue_id: u32,
}

/// A broker that has a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokerNode {
    /// Name.
    pub name: String,
    /// Cluster.
    pub cluster: String,
    /// Address by broker id; 0 is the master.
    pub addrs: Vec<(i64, String)>,
    /// Queues consumers read.
    pub read_queues: u32,
    /// Queues producers write.
    pub write_queues: u32,
    /// 2 write, 4 read, 1 inherit.
    pub perm: i32,
}

impl BrokerNode {
    /// The master's address; without a master that of the replica with the lowest id.
    #[must_use]
    pub fn master(&self) -> Option<&str> {
        self.addrs.iter().min_by_key(|(id, _)| *id).map(|(_, addr)| addr.as_str())
    }

    fn has_master(&self) -> bool {
        self.addrs.iter().any(|(id, _)| *id == 0)
    }
}

/// A topic's route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The brokers that have the topic, by name.
    pub brokers: Vec<BrokerNode>,
}

impl Route {
    pub(crate) fn from_wire(data: &TopicRouteData) -> Self {
        let count = |n: i32| u32::try_from(n).unwrap_or(0);
        let mut brokers: Vec<BrokerNode> = data
            .broker_datas
            .iter()
            .filter_map(|broker| {
                let queues = data.queue_datas.iter().find(|q| q.broker_name == broker.broker_name)?;
                Some(BrokerNode {
                    name: broker.broker_name.clone(),
                    cluster: broker.cluster.clone(),
                    addrs: broker.broker_addrs.iter().map(|(id, addr)| (*id, addr.clone())).collect(),
                    read_queues: count(queues.read_queue_nums),
                    write_queues: count(queues.write_queue_nums),
                    perm: queues.perm,
                })
            })
            .collect();
        brokers.sort_by(|a, b| a.name.cmp(&b.name));
        Self { brokers }
    }

    /// Queues that may be written: only a master takes messages.
    #[must_use]
    pub fn writable(&self) -> Vec<QueueAddress> {
        self.queues(PERM_WRITE, |broker| if broker.has_master() { broker.write_queues } else { 0 })
    }

    /// Queues that may be read.
    #[must_use]
    pub fn readable(&self) -> Vec<QueueAddress> {
        self.queues(PERM_READ, |broker| broker.read_queues)
    }

    /// Addresses of the brokers that have the topic.
    #[must_use]
    pub fn masters(&self) -> Vec<String> {
        self.brokers.iter().filter_map(|b| b.master().map(str::to_owned)).collect()
    }

    /// Queue by queue over all brokers, so that a producer that goes round spreads over brokers first.
    fn queues(&self, perm: i32, count: impl Fn(&BrokerNode) -> u32) -> Vec<QueueAddress> {
        let brokers: Vec<_> = self.brokers.iter().filter(|b| b.perm & perm != 0).filter_map(|b| Some((b, b.master()?, count(b)))).collect();
        let most = brokers.iter().map(|(_, _, n)| *n).max().unwrap_or(0);
        let address = |queue_id, b: &BrokerNode, addr: &str| QueueAddress { broker: b.name.clone(), addr: addr.to_owned(), queue_id };
        (0..most).flat_map(|id| brokers.iter().filter(move |(_, _, n)| id < *n).map(move |(b, addr, _)| address(id, b, addr))).collect()
    }
}

/// A broker of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterBroker {
    /// Cluster.
    pub cluster: String,
    /// Name.
    pub name: String,
    /// 0 for the master.
    pub id: i64,
    /// Address.
    pub addr: String,
}

/// All brokers that a name server knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// The brokers, by cluster, name and id.
    pub brokers: Vec<ClusterBroker>,
}

impl Cluster {
    pub(crate) fn from_wire(info: &ClusterInfo) -> Self {
        let mut brokers: Vec<ClusterBroker> = info
            .broker_addr_table
            .values()
            .flat_map(|b| {
                b.broker_addrs.iter().map(|(id, addr)| ClusterBroker { cluster: b.cluster.clone(), name: b.broker_name.clone(), id: *id, addr: addr.clone() })
            })
            .collect();
        brokers.sort_by(|a, b| (&a.cluster, &a.name, a.id).cmp(&(&b.cluster, &b.name, b.id)));
        Self { brokers }
    }

    /// The masters, of one cluster or of all.
    pub fn masters<'a>(&'a self, cluster: Option<&'a str>) -> impl Iterator<Item = &'a ClusterBroker> {
        self.brokers.iter().filter(move |b| b.id == 0 && cluster.is_none_or(|c| c == b.cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(name: &str, queues: u32, perm: i32, id: i64) -> BrokerNode {
        BrokerNode { name: name.into(), cluster: "c".into(), addrs: vec![(id, format!("{name}:1"))], read_queues: queues, write_queues: queues, perm }
    }

    #[test]
    fn queues_go_round_over_brokers_and_only_masters_are_written() {
        let route = Route { brokers: vec![broker("a", 2, 6, 0), broker("b", 1, 6, 0), broker("c", 4, 4, 0), broker("d", 1, 6, 1)] };
        let written: Vec<_> = route.writable().into_iter().map(|q| (q.broker, q.queue_id)).collect();
        assert_eq!(written, [("a".to_owned(), 0), ("b".to_owned(), 0), ("a".to_owned(), 1)]);
        assert_eq!(route.readable().len(), 8);
    }
}
