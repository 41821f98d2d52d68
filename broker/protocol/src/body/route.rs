//! Bodies about topics, brokers and the routes between.

use super::bodies;
use std::collections::BTreeMap;

bodies! {
    /// Body of the answer to 105: where a topic is.
    TopicRouteData {
        /// The brokers.
        broker_datas: Vec<BrokerData> = "brokerDatas",
        /// Filter servers by broker address; always empty here.
        filter_server_table: BTreeMap<String, Vec<String>> = "filterServerTable",
        /// How many queues of which broker keep order: `name:count;…`.
        #[serde(skip_serializing_if = "Option::is_none")]
        order_topic_conf: Option<String> = "orderTopicConf",
        /// The topic's queues at each broker.
        queue_datas: Vec<QueueData> = "queueDatas",
    }

    /// A broker and its replicas.
    BrokerData {
        /// Address by broker id; 0 is the master.
        broker_addrs: BTreeMap<i64, String> = "brokerAddrs",
        /// Name of the group.
        broker_name: String = "brokerName",
        /// Cluster.
        cluster: String = "cluster",
        /// Whether a replica may stand in for the master.
        enable_acting_master: bool = "enableActingMaster",
        /// Zone.
        #[serde(skip_serializing_if = "Option::is_none")]
        zone_name: Option<String> = "zoneName",
    }

    /// A topic's queues at one broker.
    QueueData {
        /// Name of the broker's group.
        broker_name: String = "brokerName",
        /// 2 write, 4 read, 1 inherit.
        perm: i32 = "perm",
        /// Queues consumers read.
        read_queue_nums: i32 = "readQueueNums",
        /// The topic's bits.
        topic_sys_flag: i32 = "topicSysFlag",
        /// Queues producers write.
        write_queue_nums: i32 = "writeQueueNums",
    }

    /// Body of the answer to 106: all brokers.
    ClusterInfo {
        /// Brokers by name.
        broker_addr_table: BTreeMap<String, BrokerData> = "brokerAddrTable",
        /// Broker names by cluster.
        cluster_addr_table: BTreeMap<String, Vec<String>> = "clusterAddrTable",
    }

    /// Body of the answer to 206, 224, 304, 305, 343.
    TopicList {
        /// The broker asked.
        #[serde(skip_serializing_if = "Option::is_none")]
        broker_addr: Option<String> = "brokerAddr",
        /// Topics.
        topic_list: Vec<String> = "topicList",
    }

    /// Which state of a table this is.
    DataVersion {
        /// Counts changes.
        counter: i64 = "counter",
        /// Number of the state machine; 0 without one.
        state_version: i64 = "stateVersion",
        /// When it last changed, ms since 1970.
        timestamp: i64 = "timestamp",
    }

    /// Body of the answer to 901.
    GetBrokerMemberGroupResponseBody {
        /// The members.
        broker_member_group: BrokerMemberGroup = "brokerMemberGroup",
    }

    /// A broker's group.
    BrokerMemberGroup {
        /// Address by broker id; 0 is the master.
        broker_addrs: BTreeMap<i64, String> = "brokerAddrs",
        /// Name of the group.
        broker_name: String = "brokerName",
        /// Cluster.
        cluster: String = "cluster",
    }

    /// Body of the answer to 28 and 219: names and values for people.
    KvTable {
        /// Values by name.
        table: BTreeMap<String, String> = "table",
    }
}
