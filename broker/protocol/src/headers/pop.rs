//! Popping: the broker hands messages out one by one and waits for each to be acknowledged.

use super::{Field, HeaderError, TypedHeader};
use crate::{ExtFields, WireStr};

headers! {
    /// 200050: a consumer asks for messages of any queue.
    PopMessageRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number; −1 means any.
        queue_id: i32 = "queueId",
        /// Most messages wanted.
        max_msg_nums: i32 = "maxMsgNums",
        /// How long they are hidden from others, ms.
        invisible_time: i64 = "invisibleTime",
        /// How long the broker may hold the request, ms.
        poll_time: i64 = "pollTime",
        /// When the request was made, ms since 1970.
        born_time: i64 = "bornTime",
        /// Where a new group starts: 0 first entry, 1 last.
        init_mode: i32 = "initMode",
        /// `TAG` or `SQL92`.
        exp_type: Option<WireStr> = "expType",
        /// Filter expression.
        exp: Option<WireStr> = "exp",
        /// Whether in order.
        order: bool = "order" or false,
        /// Tells a repeated request from a new one.
        attempt_id: Option<WireStr> = "attemptId",
    }

    /// Answer to 200050.
    PopMessageResponse {
        /// When they were handed out, ms since 1970.
        pop_time: i64 = "popTime",
        /// How long they are hidden, ms.
        invisible_time: i64 = "invisibleTime",
        /// The queue that brings them back.
        revive_qid: i32 = "reviveQid",
        /// Messages left.
        rest_num: i64 = "restNum",
        /// First entry, by queue.
        start_offset_info: Option<WireStr> = "startOffsetInfo",
        /// All entries, by queue.
        msg_offset_info: Option<WireStr> = "msgOffsetInfo",
        /// How often each was handed out.
        order_count_info: Option<WireStr> = "orderCountInfo",
    }

    /// 200051: a message was handled.
    AckMessageRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// The receipt.
        extra_info: WireStr = "extraInfo",
        /// Entry number.
        offset: i64 = "offset",
    }

    /// 200053: a message is to stay hidden for another time.
    ChangeInvisibleTimeRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
        /// The receipt.
        extra_info: WireStr = "extraInfo",
        /// Entry number.
        offset: i64 = "offset",
        /// How long from now, ms.
        invisible_time: i64 = "invisibleTime",
    }

    /// Answer to 200053.
    ChangeInvisibleTimeResponse {
        /// The time that the new receipt carries, ms since 1970.
        pop_time: i64 = "popTime",
        /// How long it is hidden, ms.
        invisible_time: i64 = "invisibleTime",
        /// The queue that brings it back.
        revive_qid: i32 = "reviveQid",
    }

    /// 200052: messages are looked at and not taken.
    PeekMessageRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number; −1 means any.
        queue_id: i32 = "queueId",
        /// Most messages wanted.
        max_msg_nums: i32 = "maxMsgNums",
    }

    /// 200054: is there a message?
    NotificationRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number; −1 means any.
        queue_id: i32 = "queueId",
        /// How long the broker may hold the request, ms.
        poll_time: i64 = "pollTime",
        /// When the request was made, ms since 1970.
        born_time: i64 = "bornTime",
        /// Whether in order.
        order: bool = "order" or false,
        /// Tells a repeated request from a new one.
        attempt_id: Option<WireStr> = "attemptId",
    }

    /// Answer to 200054.
    NotificationResponse {
        /// Whether there is one.
        has_msg: bool = "hasMsg" or false,
        /// Whether the broker holds as many requests as it can.
        polling_full: bool = "pollingFull" or false,
    }

    /// 200055: how many requests are held.
    PollingInfoRequest {
        /// Group.
        consumer_group: WireStr = "consumerGroup",
        /// Topic.
        topic: WireStr = "topic",
        /// Queue number.
        queue_id: i32 = "queueId",
    }

    /// Answer to 200055.
    PollingInfoResponse {
        /// Requests held.
        polling_num: i32 = "pollingNum",
    }
}
