//! Sending, pulling, looking up, transactions.

use super::{Field, HeaderError, TypedHeader};
use crate::{ExtFields, WireStr};

macro_rules! send_header {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $long:literal $short:literal $(or $default:expr)?,)*) => {
        headers! {
            /// 10 as it stands, 310 and 320 with [`SendMessageRequest::decode_v2`]: a producer sends a message, or several in one body.
            SendMessageRequest { $($(#[$doc])* $field: $type = $long $(or $default)?,)* }
        }

        impl SendMessageRequest {
            /// Reads the fields by the one-letter names of 310 and 320.
            pub fn decode_v2(ext: &ExtFields) -> Result<Self, HeaderError> {
                Ok(Self { $($field: headers!(@read ext, $short, $type $(, $default)?)),* })
            }

            /// Writes the fields by the one-letter names of 310 and 320.
            #[must_use]
            pub fn encode_v2(&self) -> ExtFields {
                let mut ext = ExtFields::with_capacity(14);
                $(Field::write(&self.$field, $short, &mut ext);)*
                ext
            }
        }
    };
}

send_header! {
    /// Who sends.
    producer_group: WireStr = "producerGroup" "a",
    /// Where to.
    topic: WireStr = "topic" "b",
    /// The topic whose settings a new topic takes.
    default_topic: WireStr = "defaultTopic" "c" or WireStr::new(),
    /// How many queues the producer wants a new topic to have.
    default_topic_queue_nums: i32 = "defaultTopicQueueNums" "d" or 4,
    /// Queue number; negative leaves it to the broker.
    queue_id: i32 = "queueId" "e",
    /// See [`crate::record::sys_flag`].
    sys_flag: i32 = "sysFlag" "f",
    /// When the message was made, ms since 1970.
    born_timestamp: i64 = "bornTimestamp" "g",
    /// The application's flag.
    flag: i32 = "flag" "h",
    /// See [`crate::properties`].
    properties: WireStr = "properties" "i" or WireStr::new(),
    /// How often it failed, when a consumer sends it back this way.
    reconsume_times: i32 = "reconsumeTimes" "j" or 0,
    /// Whether the producer belongs to a unit.
    unit_mode: bool = "unitMode" "k" or false,
    /// How often it may fail.
    max_reconsume_times: Option<i32> = "maxReconsumeTimes" "l",
    /// Whether the body holds several messages.
    batch: bool = "batch" "m" or false,
    /// The broker the producer means.
    broker_name: Option<WireStr> = "brokerName" "n",
}

headers! {
    /// Answer to a send.
    SendMessageResponse {
        /// The offset message id, for a batch several with commas between.
        msg_id: WireStr = "msgId",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// Entry number in the queue.
        queue_offset: i64 = "queueOffset",
        /// The transaction's id.
        transaction_id: Option<WireStr> = "transactionId",
        /// Unique id of a batch that the broker keeps as one.
        batch_uniq_id: Option<WireStr> = "batchUniqId",
        /// What recalls a timed message.
        recall_handle: Option<WireStr> = "recallHandle",
    }

    /// 11 and 361: a consumer asks for messages.
    PullMessageRequest {
        /// Who asks.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// First entry wanted.
        queue_offset: i64 = "queueOffset",
        /// Most messages wanted.
        max_msg_nums: i32 = "maxMsgNums",
        /// Bits; see [`pull_flag`].
        sys_flag: i32 = "sysFlag",
        /// The group's offset, to be stored when the flag says so.
        commit_offset: i64 = "commitOffset" or 0,
        /// How long the broker may hold the request.
        suspend_timeout_millis: i64 = "suspendTimeoutMillis" or 0,
        /// Filter expression, when the flag says that it is here.
        subscription: Option<WireStr> = "subscription",
        /// The subscription's version.
        sub_version: i64 = "subVersion" or 0,
        /// `TAG` or `SQL92`; absent means `TAG`.
        expression_type: Option<WireStr> = "expressionType",
        /// Most bytes wanted.
        max_msg_bytes: Option<i32> = "maxMsgBytes",
        /// What in the client asks.
        request_source: Option<i32> = "requestSource",
        /// The client behind a proxy.
        proxy_forward_client_id: Option<WireStr> = "proxyFrowardClientId",
    }

    /// Answer to a pull.
    PullMessageResponse {
        /// The broker to ask next time; 0 is the master.
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        /// First entry to ask for next.
        next_begin_offset: i64 = "nextBeginOffset",
        /// First entry there is.
        min_offset: i64 = "minOffset",
        /// One past the last entry.
        max_offset: i64 = "maxOffset",
        /// For static topics.
        offset_delta: Option<i64> = "offsetDelta",
        /// The topic's bits.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// The group's bits.
        group_sys_flag: Option<i32> = "groupSysFlag",
        /// Why reading is not allowed.
        forbidden_type: Option<i32> = "forbiddenType",
    }

    /// 12: messages by key.
    QueryMessageRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// The key; whether it is a unique id is told by the field `_UNIQUE_KEY_QUERY`.
        key: WireStr = "key",
        /// Most messages wanted.
        max_num: i32 = "maxNum",
        /// Earliest store time, ms since 1970.
        begin_timestamp: i64 = "beginTimestamp",
        /// Latest store time.
        end_timestamp: i64 = "endTimestamp",
        /// Whether the key is a unique id.
        unique_key: bool = "_UNIQUE_KEY_QUERY" or false,
    }

    /// Answer to 12.
    QueryMessageResponse {
        /// Store time of the youngest message in the index.
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
        /// Log offset of the youngest message in the index.
        index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset",
    }

    /// 33: the message at a log offset.
    ViewMessageRequest {
        /// Topic, from clients new enough to say.
        topic: Option<WireStr> = "topic",
        /// Log offset.
        offset: i64 = "offset",
    }

    /// 36: a consumer could not handle a message.
    ConsumerSendMsgBackRequest {
        /// Log offset of the message.
        offset: i64 = "offset",
        /// The consumer's group.
        group: WireStr = "group",
        /// Delay wanted; 0 leaves it to the broker, negative means the dead letter queue.
        delay_level: i32 = "delayLevel",
        /// Offset message id.
        origin_msg_id: Option<WireStr> = "originMsgId",
        /// Topic it was sent to.
        origin_topic: Option<WireStr> = "originTopic",
        /// Whether the consumer belongs to a unit.
        unit_mode: bool = "unitMode" or false,
        /// How often it may fail.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }

    /// 37: a producer ends a transaction.
    EndTransactionRequest {
        /// Topic.
        topic: Option<WireStr> = "topic",
        /// The producer's group.
        producer_group: WireStr = "producerGroup",
        /// Queue offset of the half message.
        tran_state_table_offset: i64 = "tranStateTableOffset",
        /// Log offset of the half message.
        commit_log_offset: i64 = "commitLogOffset",
        /// 8 commit, 12 roll back, 0 not known; see [`crate::record::sys_flag`].
        commit_or_rollback: i32 = "commitOrRollback",
        /// Whether it answers a check.
        from_transaction_check: bool = "fromTransactionCheck" or false,
        /// Unique id of the half message.
        msg_id: WireStr = "msgId",
        /// The transaction's id.
        transaction_id: Option<WireStr> = "transactionId",
    }

    /// 39: the broker asks a producer what became of a transaction; the body is the half message.
    CheckTransactionStateRequest {
        /// Topic.
        topic: Option<WireStr> = "topic",
        /// Queue offset of the half message.
        tran_state_table_offset: i64 = "tranStateTableOffset",
        /// Log offset of the half message.
        commit_log_offset: i64 = "commitLogOffset",
        /// Unique id.
        msg_id: Option<WireStr> = "msgId",
        /// The transaction's id.
        transaction_id: Option<WireStr> = "transactionId",
        /// Offset message id.
        offset_msg_id: Option<WireStr> = "offsetMsgId",
    }
}

/// Bits of [`PullMessageRequest::sys_flag`].
pub mod pull_flag {
    /// The group's offset is to be stored.
    pub const COMMIT_OFFSET: i32 = 0x1;
    /// The request may be held until a message is there.
    pub const SUSPEND: i32 = 0x2;
    /// The filter expression is in the request.
    pub const SUBSCRIPTION: i32 = 0x4;
    /// The subscription is a filter class.
    pub const CLASS_FILTER: i32 = 0x8;
    /// It is a lite pull.
    pub const LITE_PULL: i32 = 0x10;
}
