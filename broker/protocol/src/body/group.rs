//! Bodies about clients, groups and their queues.

use super::bodies;
use std::collections::BTreeMap;

bodies! {
    /// Body of 34: a client tells a broker of itself and of all its groups.
    HeartbeatData {
        /// The client's id.
        client_id: String = "clientID",
        /// Its producer groups.
        producer_data_set: Vec<ProducerData> = "producerDataSet",
        /// Its consumer groups.
        consumer_data_set: Vec<ConsumerData> = "consumerDataSet",
        /// Hash of the whole; 0 when the client does not know the shorter heartbeat.
        heartbeat_fingerprint: i32 = "heartbeatFingerprint",
        /// Whether the subscriptions were left out, since the fingerprint tells of them.
        #[serde(alias = "isWithoutSub")]
        without_sub: bool = "withoutSub",
    }

    /// A producer group.
    ProducerData {
        /// Group.
        group_name: String = "groupName",
    }

    /// A consumer group.
    ConsumerData {
        /// Group.
        group_name: String = "groupName",
        /// `CONSUME_ACTIVELY`, `CONSUME_PASSIVELY` or `CONSUME_POP`.
        consume_type: String = "consumeType",
        /// `CLUSTERING`, `BROADCASTING` or `LITE_SELECTIVE`.
        message_model: String = "messageModel",
        /// `CONSUME_FROM_LAST_OFFSET`, `CONSUME_FROM_FIRST_OFFSET` or `CONSUME_FROM_TIMESTAMP`.
        consume_from_where: String = "consumeFromWhere",
        /// What it subscribes to.
        subscription_data_set: Vec<SubscriptionData> = "subscriptionDataSet",
        /// Whether it belongs to a unit.
        unit_mode: bool = "unitMode",
    }

    /// What a group wants of a topic.
    SubscriptionData {
        /// Whether the expression is a filter class.
        class_filter_mode: bool = "classFilterMode",
        /// Java's hashes of the tags.
        code_set: Vec<i32> = "codeSet",
        /// `TAG` or `SQL92`; empty means `TAG`.
        expression_type: String = "expressionType",
        /// Filter expression.
        sub_string: String = "subString",
        /// When it was made, ms since 1970: the younger one counts.
        sub_version: i64 = "subVersion",
        /// The tags.
        tags_set: Vec<String> = "tagsSet",
        /// Topic.
        topic: String = "topic",
    }

    /// Body of 46: may this client subscribe so?
    CheckClientRequestBody {
        /// The client's id.
        client_id: String = "clientId",
        /// Group.
        group: String = "group",
        /// What it wants.
        subscription_data: SubscriptionData = "subscriptionData",
        /// Namespace.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String> = "namespace",
    }

    /// Body of the answer to 38.
    GetConsumerListByGroupResponseBody {
        /// Ids of the group's clients.
        consumer_id_list: Vec<String> = "consumerIdList",
    }

    /// A queue of a broker.
    #[derive(Hash, PartialOrd, Ord)]
    MessageQueue {
        /// Name of the broker's group.
        broker_name: String = "brokerName",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// Topic.
        topic: String = "topic",
    }

    /// Body of 41: a consumer wants queues for itself.
    LockBatchRequestBody {
        /// The client's id.
        client_id: String = "clientId",
        /// Group.
        consumer_group: String = "consumerGroup",
        /// The queues.
        mq_set: Vec<MessageQueue> = "mqSet",
        /// Whether other brokers of the group need not agree.
        only_this_broker: bool = "onlyThisBroker",
    }

    /// Body of the answer to 41.
    LockBatchResponseBody {
        /// The queues it has got.
        lock_ok_mq_set: Vec<MessageQueue> = "lockOKMQSet",
    }

    /// Body of 42: a consumer gives queues back.
    UnlockBatchRequestBody {
        /// The client's id.
        client_id: String = "clientId",
        /// Group.
        consumer_group: String = "consumerGroup",
        /// The queues.
        mq_set: Vec<MessageQueue> = "mqSet",
        /// Whether other brokers of the group need not agree.
        only_this_broker: bool = "onlyThisBroker",
    }

    /// Body of the answer to 300, and of others that list groups.
    GroupList {
        /// Groups.
        group_list: Vec<String> = "groupList",
    }

    /// A client's connection.
    Connection {
        /// The client's id.
        client_id: String = "clientId",
        /// Its address.
        client_addr: String = "clientAddr",
        /// Name of its language.
        language: String = "language",
        /// Number of its version.
        version: i32 = "version",
    }

    /// Body of the answer to 203.
    ConsumerConnection {
        /// The group's connections.
        connection_set: Vec<Connection> = "connectionSet",
        /// What it subscribes to, by topic.
        subscription_table: BTreeMap<String, SubscriptionData> = "subscriptionTable",
        /// See [`ConsumerData::consume_type`].
        consume_type: String = "consumeType",
        /// See [`ConsumerData::message_model`].
        message_model: String = "messageModel",
        /// See [`ConsumerData::consume_from_where`].
        consume_from_where: String = "consumeFromWhere",
    }

    /// Body of the answer to 204.
    ProducerConnection {
        /// The group's connections.
        connection_set: Vec<Connection> = "connectionSet",
    }

    /// Body of the answer to 43: groups' offsets, by `topic@group` and queue.
    ConsumerOffsetSerializeWrapper {
        /// Next entry wanted.
        offset_table: BTreeMap<String, BTreeMap<i32, i64>> = "offsetTable",
        /// Version of the table.
        data_version: super::DataVersion = "dataVersion",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::from_json;

    #[test]
    fn null_and_absent_are_empty_and_unknown_names_are_skipped() {
        let text = r#"{"clientID":"c","producerDataSet":null,"isWithoutSub":true,"heartbeatFingerprint":null,"news":[{}],
            "consumerDataSet":[{"groupName":"g","subscriptionDataSet":[{"topic":"t","subString":"*","tagsSet":null,"codeSet":[]}]}]}"#;
        let heartbeat: HeartbeatData = from_json(text.as_bytes()).expect("valid");
        assert!(heartbeat.producer_data_set.is_empty() && heartbeat.without_sub);
        assert_eq!(heartbeat.consumer_data_set[0].subscription_data_set[0].sub_string, "*");
        assert_eq!(from_json::<HeartbeatData>(b"{}").expect("valid"), HeartbeatData::default());
    }
}
