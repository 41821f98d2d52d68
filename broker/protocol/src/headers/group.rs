//! Producers, consumers and their groups.

use super::{Field, HeaderError, TypedHeader};
use crate::{ExtFields, WireStr};

headers! {
    /// 35: a client goes.
    UnregisterClientRequest {
        /// The client's id.
        client_id: WireStr = "clientID",
        /// The producer group it leaves.
        producer_group: Option<WireStr> = "producerGroup",
        /// The consumer group it leaves.
        consumer_group: Option<WireStr> = "consumerGroup",
    }

    /// 38: the ids of a group's clients.
    GetConsumerListByGroupRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
    }

    /// 40: the broker tells a client that its group has other members now.
    NotifyConsumerIdsChangedRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
    }

    /// 203: a group's connections.
    GetConsumerConnectionListRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
    }

    /// 204: a producer group's connections.
    GetProducerConnectionListRequest {
        /// Group.
        producer_group: WireStr = "producerGroup",
    }

    /// 208: how far a group is in its queues.
    GetConsumeStatsRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Only this topic.
        topic: Option<WireStr> = "topic",
        /// Only these topics, with semicolons between.
        topic_list: Option<WireStr> = "topicList",
    }

    /// 207: a group goes.
    DeleteSubscriptionGroupRequest {
        /// Group.
        group_name: WireStr = "groupName",
        /// Whether its offsets go with it.
        clean_offset: bool = "cleanOffset" or false,
    }

    /// 352: a group's settings.
    GetSubscriptionGroupConfigRequest {
        /// Group.
        group: WireStr = "group",
    }

    /// 307: what a consumer is doing, asked through the broker.
    GetConsumerRunningInfoRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// The consumer's id.
        client_id: WireStr = "clientId",
        /// Whether its threads are wanted.
        jstack_enable: bool = "jstackEnable" or false,
    }

    /// 309: a message is handed to one consumer directly.
    ConsumeMessageDirectlyRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// The consumer's id.
        client_id: Option<WireStr> = "clientId",
        /// Offset message id.
        msg_id: Option<WireStr> = "msgId",
        /// The broker that has it.
        broker_name: Option<WireStr> = "brokerName",
        /// Topic.
        topic: Option<WireStr> = "topic",
        /// The topic's bits.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// The group's bits.
        group_sys_flag: Option<i32> = "groupSysFlag",
    }

    /// 222 (asked of the broker) and 220 (asked of the consumer): a group starts again at a time.
    ResetOffsetRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Group.
        group: WireStr = "group",
        /// Only this queue; −1 means all.
        queue_id: i32 = "queueId" or -1,
        /// The entry itself, instead of a time.
        offset: Option<i64> = "offset",
        /// Store time, ms since 1970; −1 means the end.
        timestamp: i64 = "timestamp",
        /// Whether also to go forward.
        is_force: bool = "isForce" or false,
    }

    /// 223 (asked of the broker) and 221 (asked of the consumer): offsets as the clients know them.
    GetConsumerStatusRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Group.
        group: WireStr = "group",
        /// Only this client.
        client_addr: Option<WireStr> = "clientAddr",
    }

    /// 303: store times between which a group has messages left.
    QueryConsumeTimeSpanRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Group.
        group: WireStr = "group",
    }

    /// 343: the topics of a group.
    QueryTopicsByConsumerRequest {
        /// Group.
        group: WireStr = "group",
    }

    /// 345: what a group subscribes to of a topic.
    QuerySubscriptionByConsumerRequest {
        /// Group.
        group: WireStr = "group",
        /// Topic.
        topic: WireStr = "topic",
    }

    /// 314: a group takes over another's offsets.
    CloneGroupOffsetRequest {
        /// From this group.
        src_group: WireStr = "srcGroup",
        /// To this group.
        dest_group: WireStr = "destGroup",
        /// Topic.
        topic: Option<WireStr> = "topic",
        /// Whether the clients are off line.
        offline: bool = "offline" or false,
    }
}
