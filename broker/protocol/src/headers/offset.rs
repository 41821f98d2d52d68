//! Offsets of queues and groups.

use super::{Field, HeaderError, TypedHeader};
use crate::{ExtFields, WireStr};

headers! {
    /// 14: a group's offset in a queue.
    QueryConsumerOffsetRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// Whether a group without an offset may start at 0 when the queue still has its first message; absent means yes.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }

    /// Answer to 14.
    QueryConsumerOffsetResponse {
        /// Next entry the group wants.
        offset: i64 = "offset",
    }

    /// 15: a group commits its offset in a queue.
    UpdateConsumerOffsetRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// Next entry the group wants.
        commit_offset: i64 = "commitOffset",
    }

    /// 29: the entry at a time.
    SearchOffsetRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// Store time, ms since 1970.
        timestamp: i64 = "timestamp",
        /// `LOWER` or `UPPER`: which of several entries with that time; absent means `LOWER`.
        boundary_type: Option<WireStr> = "boundaryType",
    }

    /// Answer to 29.
    SearchOffsetResponse {
        /// Entry number.
        offset: i64 = "offset",
    }

    /// 30: one past a queue's last entry.
    GetMaxOffsetRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// Whether only what consumers may see counts.
        committed: bool = "committed" or true,
    }

    /// Answer to 30.
    GetMaxOffsetResponse {
        /// Entry number.
        offset: i64 = "offset",
    }

    /// 31: a queue's first entry.
    GetMinOffsetRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
    }

    /// Answer to 31.
    GetMinOffsetResponse {
        /// Entry number.
        offset: i64 = "offset",
    }

    /// 32: the store time of a queue's first message.
    GetEarliestMsgStoretimeRequest {
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
    }

    /// Answer to 32.
    GetEarliestMsgStoretimeResponse {
        /// ms since 1970; −1 when the queue is empty.
        timestamp: i64 = "timestamp",
    }
}
