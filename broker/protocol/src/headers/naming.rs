//! Brokers and routes, as a name server sees them.

use super::{Field, HeaderError, TypedHeader};
use crate::{ExtFields, WireStr};

headers! {
    /// 103: a broker tells a name server of itself; the body is a [`crate::body::RegisterBrokerBody`].
    RegisterBrokerRequest {
        /// Name of the broker's group.
        broker_name: WireStr = "brokerName",
        /// Its address.
        broker_addr: WireStr = "brokerAddr",
        /// Its cluster.
        cluster_name: WireStr = "clusterName",
        /// Where its replicas find it.
        ha_server_addr: WireStr = "haServerAddr",
        /// 0 for the master.
        broker_id: i64 = "brokerId",
        /// How long it may be silent.
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis",
        /// Whether a replica may stand in for the master.
        enable_acting_master: Option<bool> = "enableActingMaster",
        /// Whether the body is compressed.
        compressed: bool = "compressed" or false,
        /// CRC-32 of the body; 0 says nothing.
        body_crc32: i32 = "bodyCrc32" or 0,
    }

    /// Answer to 103.
    RegisterBrokerResponse {
        /// Where the master's replicas find it.
        ha_server_addr: Option<WireStr> = "haServerAddr",
        /// The master's address.
        master_addr: Option<WireStr> = "masterAddr",
    }

    /// 104: a broker goes.
    UnregisterBrokerRequest {
        /// Name of the broker's group.
        broker_name: WireStr = "brokerName",
        /// Its address.
        broker_addr: WireStr = "brokerAddr",
        /// Its cluster.
        cluster_name: WireStr = "clusterName",
        /// 0 for the master.
        broker_id: i64 = "brokerId",
    }

    /// 904: a broker lives.
    BrokerHeartbeatRequest {
        /// Its cluster.
        cluster_name: WireStr = "clusterName",
        /// Its address.
        broker_addr: WireStr = "brokerAddr",
        /// Name of the broker's group.
        broker_name: WireStr = "brokerName",
        /// 0 for the master.
        broker_id: Option<i64> = "brokerId",
        /// How long it may be silent.
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMills",
    }

    /// 322: whether the name server has a broker's latest topics; the body is a [`crate::body::DataVersion`].
    QueryDataVersionRequest {
        /// Name of the broker's group.
        broker_name: WireStr = "brokerName",
        /// Its address.
        broker_addr: WireStr = "brokerAddr",
        /// Its cluster.
        cluster_name: WireStr = "clusterName",
        /// 0 for the master.
        broker_id: i64 = "brokerId",
    }

    /// Answer to 322.
    QueryDataVersionResponse {
        /// Whether the broker must register anew.
        changed: bool = "changed",
    }

    /// 901: the members of a broker's group.
    GetBrokerMemberGroupRequest {
        /// Cluster.
        cluster_name: WireStr = "clusterName",
        /// Name of the group.
        broker_name: WireStr = "brokerName",
    }

    /// 105: which brokers have a topic.
    GetRouteInfoRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Whether the client can't read FastJSON's unquoted keys.
        accept_standard_json_only: bool = "acceptStandardJsonOnly" or false,
    }

    /// 205 and 327: a broker's topics are no longer, or again, written to.
    WritePermOfBrokerRequest {
        /// Name of the broker's group.
        broker_name: WireStr = "brokerName",
    }

    /// Answer to 205.
    WipeWritePermOfBrokerResponse {
        /// Topics changed.
        wipe_topic_count: i32 = "wipeTopicCount",
    }

    /// Answer to 327.
    AddWritePermOfBrokerResponse {
        /// Topics changed.
        add_topic_count: i32 = "addTopicCount",
    }

    /// 216: a topic's routes go.
    DeleteTopicFromNamesrvRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Only in this cluster.
        cluster_name: Option<WireStr> = "clusterName",
    }

    /// 217: a topic's route comes; the body is a [`crate::body::TopicRouteData`].
    RegisterTopicRequest {
        /// Topic.
        topic: WireStr = "topic",
    }

    /// 224: a cluster's topics.
    GetTopicsByClusterRequest {
        /// Cluster.
        cluster: WireStr = "cluster",
    }

    /// 100: sets a name server's value.
    PutKvConfigRequest {
        /// Namespace.
        namespace: WireStr = "namespace",
        /// Key.
        key: WireStr = "key",
        /// Value.
        value: WireStr = "value",
    }

    /// 101 and 102: reads or deletes a name server's value.
    KvConfigRequest {
        /// Namespace.
        namespace: WireStr = "namespace",
        /// Key.
        key: WireStr = "key",
    }

    /// Answer to 101.
    GetKvConfigResponse {
        /// Value.
        value: Option<WireStr> = "value",
    }

    /// 219: all values of a namespace.
    GetKvListByNamespaceRequest {
        /// Namespace.
        namespace: WireStr = "namespace",
    }
}
