//! Bodies about how far queues and groups are, mostly for the tools. Those with maps keyed by a queue are to be written by [`super::to_fastjson`].

use super::dialect::object_keys;
use super::{MessageQueue, SubscriptionData, SubscriptionGroupConfig, TopicConfig, bodies};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Body of the answer to 208: how far a group is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    /// Messages a second.
    pub consume_tps: f64,
    /// By queue.
    #[serde(with = "object_keys")]
    pub offset_table: BTreeMap<MessageQueue, OffsetWrapper>,
}

/// Body of the answer to 202: a topic's first and last entries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    /// By queue.
    #[serde(with = "object_keys")]
    pub offset_table: BTreeMap<MessageQueue, TopicOffset>,
    /// Messages a second.
    pub topic_put_tps: f64,
}

/// Body of the answer to 317: how far all groups are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStatsList {
    /// The broker asked.
    pub broker_addr: Option<String>,
    /// By group, one map for each.
    pub consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
    /// Messages not consumed.
    pub total_diff: i64,
    /// Messages handed out and not acknowledged.
    pub total_inflight_diff: i64,
}

/// Body of the answer to 315: one of the broker's counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsData {
    /// Over the last day.
    pub stats_day: BrokerStatsItem,
    /// Over the last hour.
    pub stats_hour: BrokerStatsItem,
    /// Over the last minute.
    pub stats_minute: BrokerStatsItem,
}

/// A counter over some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsItem {
    /// Average of one.
    pub avgpt: f64,
    /// Sum.
    pub sum: i64,
    /// Times a second.
    pub tps: f64,
}

/// Body of 220: a consumer is to start again at these entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBody {
    /// By queue.
    #[serde(with = "object_keys")]
    pub offset_table: BTreeMap<MessageQueue, i64>,
}

/// Body of the answer to 221: offsets as a consumer knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetConsumerStatusBody {
    /// By queue.
    #[serde(with = "object_keys")]
    pub message_queue_table: BTreeMap<MessageQueue, i64>,
}

bodies! {
    /// How far a group is in a queue.
    OffsetWrapper {
        /// One past the queue's last entry.
        broker_offset: i64 = "brokerOffset",
        /// Next entry the group wants.
        consumer_offset: i64 = "consumerOffset",
        /// Store time of the last message consumed, ms since 1970.
        last_timestamp: i64 = "lastTimestamp",
        /// Next entry the group pulls.
        pull_offset: i64 = "pullOffset",
    }

    /// A queue's first and last entries.
    TopicOffset {
        /// Store time of the last message, ms since 1970.
        last_update_timestamp: i64 = "lastUpdateTimestamp",
        /// One past the last entry.
        max_offset: i64 = "maxOffset",
        /// First entry.
        min_offset: i64 = "minOffset",
    }

    /// Body of the answer to 321: entries of a queue.
    QueryConsumeQueueResponseBody {
        /// The group's filter.
        #[serde(skip_serializing_if = "Option::is_none")]
        filter_data: Option<String> = "filterData",
        /// One past the queue's last entry.
        max_queue_index: i64 = "maxQueueIndex",
        /// The queue's first entry.
        min_queue_index: i64 = "minQueueIndex",
        /// The entries.
        queue_data: Vec<ConsumeQueueData> = "queueData",
        /// The group's subscription.
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData> = "subscriptionData",
    }

    /// An entry of a queue.
    ConsumeQueueData {
        /// Filter bits.
        #[serde(skip_serializing_if = "Option::is_none")]
        bit_map: Option<String> = "bitMap",
        /// Whether it passes the filter.
        eval: bool = "eval",
        /// More, in JSON.
        #[serde(skip_serializing_if = "Option::is_none")]
        extend_data_json: Option<String> = "extendDataJson",
        /// What is wrong with it.
        #[serde(skip_serializing_if = "Option::is_none")]
        msg: Option<String> = "msg",
        /// Log offset.
        physic_offset: i64 = "physicOffset",
        /// Bytes.
        physic_size: i32 = "physicSize",
        /// Hash of the tag.
        tags_code: i64 = "tagsCode",
    }

    /// Body of the answer to 328: all producers.
    ProducerTableInfo {
        /// By group.
        data: BTreeMap<String, Vec<ProducerInfo>> = "data",
    }

    /// A producer.
    ProducerInfo {
        /// The client's id.
        client_id: String = "clientId",
        /// Name of its language.
        language: String = "language",
        /// When it was last heard of, ms since 1970.
        last_update_timestamp: i64 = "lastUpdateTimestamp",
        /// Its address.
        remote_ip: String = "remoteIP",
        /// Number of its version.
        version: i32 = "version",
    }

    /// Body of the answer to 309: what a consumer made of a message.
    ConsumeMessageDirectlyResult {
        /// Whether it commits by itself.
        auto_commit: bool = "autoCommit",
        /// `CR_SUCCESS`, `CR_LATER`, `CR_ROLLBACK`, `CR_COMMIT`, `CR_THROW_EXCEPTION` or `CR_RETURN_NULL`.
        #[serde(skip_serializing_if = "Option::is_none")]
        consume_result: Option<String> = "consumeResult",
        /// Whether it consumes in order.
        order: bool = "order",
        /// Words for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        remark: Option<String> = "remark",
        /// How long it took, ms.
        spent_time_mills: i64 = "spentTimeMills",
    }

    /// Body of the answer to 303: times between which a group has messages left.
    QueryConsumeTimeSpanBody {
        /// By queue.
        consume_time_span_set: Vec<QueueTimeSpan> = "consumeTimeSpanSet",
    }

    /// Times between which a group has messages left in a queue; ms since 1970.
    QueueTimeSpan {
        /// Store time of the message the group is at.
        consume_time_stamp: i64 = "consumeTimeStamp",
        /// How far it is behind, ms.
        delay_time: i64 = "delayTime",
        /// Store time of the last message.
        max_time_stamp: i64 = "maxTimeStamp",
        /// The queue.
        message_queue: MessageQueue = "messageQueue",
        /// Store time of the first message.
        min_time_stamp: i64 = "minTimeStamp",
    }

    /// Body of the answer to 345: what a group wants of a topic.
    QuerySubscriptionResponseBody {
        /// Group.
        group: String = "group",
        /// What it wants.
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData> = "subscriptionData",
        /// Topic.
        topic: String = "topic",
    }

    /// Body of 225: groups come or change.
    SubscriptionGroupList {
        /// The groups.
        group_config_list: Vec<SubscriptionGroupConfig> = "groupConfigList",
    }

    /// Body of 18: topics come or change.
    CreateTopicListRequestBody {
        /// The topics.
        topic_config_list: Vec<TopicConfig> = "topicConfigList",
    }
}
