//! Topics, and what a broker is asked about itself.

use super::{Field, HeaderError, TypedHeader};
use crate::{ExtFields, WireStr};

headers! {
    /// 17: a topic comes or changes.
    CreateTopicRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// The topic whose settings it takes.
        default_topic: WireStr = "defaultTopic" or WireStr::new(),
        /// Queues consumers read.
        read_queue_nums: i32 = "readQueueNums",
        /// Queues producers write.
        write_queue_nums: i32 = "writeQueueNums",
        /// 2 write, 4 read, 1 inherit.
        perm: i32 = "perm",
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: WireStr = "topicFilterType" or WireStr::from_static("SINGLE_TAG"),
        /// The topic's bits.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Whether its order matters.
        order: bool = "order" or false,
        /// Changes of attributes: `+name=value,-name`.
        attributes: Option<WireStr> = "attributes",
        /// Whether checks are to be skipped.
        force: Option<bool> = "force",
    }

    /// 215: a topic goes.
    DeleteTopicRequest {
        /// Topic.
        topic: WireStr = "topic",
    }

    /// 351: a topic's settings.
    GetTopicConfigRequest {
        /// Topic.
        topic: WireStr = "topic",
    }

    /// 202: first and last entries of a topic's queues.
    GetTopicStatsInfoRequest {
        /// Topic.
        topic: WireStr = "topic",
    }

    /// 300: the groups that consume a topic.
    QueryTopicConsumeByWhoRequest {
        /// Topic.
        topic: WireStr = "topic",
    }

    /// 315: one of the broker's counters.
    ViewBrokerStatsDataRequest {
        /// Which counter.
        stats_name: WireStr = "statsName",
        /// Whose.
        stats_key: WireStr = "statsKey",
    }

    /// 317: how far all groups are.
    GetBrokerConsumeStatsRequest {
        /// Whether only orderly groups are wanted.
        is_order: bool = "isOrder" or false,
    }

    /// 321: entries of a queue.
    QueryConsumeQueueRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// First entry wanted.
        index: i64 = "index",
        /// How many.
        count: i32 = "count",
        /// The group whose filter to try.
        consumer_group: Option<WireStr> = "consumerGroup",
    }

    /// 370: a timed message is taken back.
    RecallMessageRequest {
        /// The producer's group.
        producer_group: Option<WireStr> = "producerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// What the send's answer said.
        recall_handle: WireStr = "recallHandle",
    }

    /// Answer to 370.
    RecallMessageResponse {
        /// Unique id of the message.
        msg_id: WireStr = "msgId",
    }
}
