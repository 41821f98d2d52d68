//! The pieces of a consumer. What to pull when, and what to do with it, is the caller's.

use crate::{
    Client, ClientError, QueueAddress, ReceivedMessage, Request,
    client::{malformed, now_ms, refused},
};
use bytes::Bytes;
use sluice_protocol::{
    RequestCode, ResponseCode, TypedHeader, WireStr,
    body::{
        ConsumerData, HeartbeatData, LockBatchRequestBody, LockBatchResponseBody, MessageQueue, ProducerData, SubscriptionData, UnlockBatchRequestBody,
        from_json, to_json,
    },
    headers::{
        ConsumerSendMsgBackRequest, PullMessageRequest, PullMessageResponse, QueryConsumerOffsetRequest, QueryConsumerOffsetResponse, UnregisterClientRequest,
        UpdateConsumerOffsetRequest, pull_flag,
    },
    java::string_hash,
};
use sluice_types::Group;
use std::time::Duration;

/// What a group wants of a topic.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Topic.
    pub topic: String,
    /// `*`, or tags with `||` between.
    pub expression: String,
}

impl Subscription {
    fn to_wire(&self) -> SubscriptionData {
        let tags: Vec<String> = self.expression.split("||").map(str::trim).filter(|t| !t.is_empty() && *t != "*").map(str::to_owned).collect();
        SubscriptionData {
            topic: self.topic.clone(),
            sub_string: self.expression.clone(),
            code_set: tags.iter().map(|t| string_hash(t)).collect(),
            tags_set: tags,
            sub_version: now_ms(),
            expression_type: "TAG".to_owned(),
            ..SubscriptionData::default()
        }
    }
}

/// One pull.
#[derive(Clone, Debug)]
pub struct PullRequest<'a> {
    /// The queue.
    pub queue: &'a QueueAddress,
    /// Topic.
    pub topic: &'a str,
    /// First entry wanted.
    pub offset: i64,
    /// Most messages wanted.
    pub messages_max: u32,
    /// `*`, or tags with `||` between.
    pub expression: &'a str,
    /// How long the broker may hold the request when nothing is there; zero asks for an answer at once.
    pub hold: Duration,
    /// An offset to commit along the way.
    pub commit: Option<i64>,
}

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages.
    Found,
    /// Nothing there yet.
    Nothing,
    /// Messages, but none that matches; go on at the next offset.
    NoMatch,
    /// The offset is outside of what the queue has; go on at the next offset.
    OffsetMoved,
}

/// The answer to a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What was found.
    pub status: PullStatus,
    /// Where to go on.
    pub next_offset: i64,
    /// First entry of the queue.
    pub min_offset: i64,
    /// One past its last entry.
    pub max_offset: i64,
    /// The records as they came.
    pub records: Bytes,
    /// The messages, read.
    pub messages: Vec<ReceivedMessage>,
    /// The number of the broker at which to go on, among those of the queue's broker name; 0 is the master.
    pub suggested_broker: i64,
}

/// A member of a consumer group.
pub struct Consumer {
    client: Client,
    group: Group,
}

impl Consumer {
    /// A member of this group.
    pub fn new(client: Client, group: &str) -> Result<Self, ClientError> {
        Ok(Self { client, group: Group::new(group)? })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.group.as_str()
    }

    fn group_text(&self) -> WireStr {
        self.group.as_str().into()
    }

    /// Pulls, waiting at the broker as long as the request allows.
    pub async fn pull(&self, pull: &PullRequest<'_>) -> Result<Pulled, ClientError> {
        let hold = i64::try_from(pull.hold.as_millis()).unwrap_or(i64::MAX);
        let header = PullMessageRequest {
            consumer_group: self.group_text(),
            topic: pull.topic.into(),
            queue_id: pull.queue.queue_id as i32,
            queue_offset: pull.offset,
            max_msg_nums: i32::try_from(pull.messages_max).unwrap_or(i32::MAX),
            sys_flag: pull_flag::SUBSCRIPTION
                | if hold > 0 { pull_flag::SUSPEND } else { 0 }
                | if pull.commit.is_some() { pull_flag::COMMIT_OFFSET } else { 0 },
            commit_offset: pull.commit.unwrap_or(0),
            suspend_timeout_millis: hold,
            subscription: Some(pull.expression.into()),
            expression_type: Some(WireStr::from_static("TAG")),
            ..PullMessageRequest::default()
        };
        let code = RequestCode::PullMessage;
        let wait = self.client.options().request_timeout + pull.hold;
        let frame = self.client.request_within(&pull.queue.addr, Request::new(code, header.encode()), wait).await?;
        let status = match frame.header.response_code() {
            Some(ResponseCode::Success) => PullStatus::Found,
            Some(ResponseCode::PullNotFound) => PullStatus::Nothing,
            Some(ResponseCode::PullRetryImmediately) => PullStatus::NoMatch,
            Some(ResponseCode::PullOffsetMoved) => PullStatus::OffsetMoved,
            _ => return Err(refused(&pull.queue.addr, code.to_wire(), &frame)),
        };
        let unreadable = |e: &dyn std::fmt::Display| malformed(&pull.queue.addr, code.to_wire(), e);
        let answer = PullMessageResponse::decode(&frame.header.ext).map_err(|e| unreadable(&e))?;
        let records = if status == PullStatus::Found { frame.body } else { Bytes::new() };
        let messages = ReceivedMessage::all_from(&records).map_err(|e| unreadable(&e))?;
        Ok(Pulled {
            status,
            next_offset: answer.next_begin_offset,
            min_offset: answer.min_offset,
            max_offset: answer.max_offset,
            records,
            messages,
            suggested_broker: answer.suggest_which_broker_id,
        })
    }

    /// The group's offset in a queue; `None` when it has none.
    pub async fn offset(&self, topic: &str, queue: &QueueAddress) -> Result<Option<i64>, ClientError> {
        let header = QueryConsumerOffsetRequest {
            consumer_group: self.group_text(),
            topic: topic.into(),
            queue_id: queue.queue_id as i32,
            set_zero_if_not_found: Some(false),
        };
        let code = RequestCode::QueryConsumerOffset;
        match self.client.call(&queue.addr, Request::new(code, header.encode())).await {
            Ok(frame) => {
                let answer = QueryConsumerOffsetResponse::decode(&frame.header.ext).map_err(|e| malformed(&queue.addr, code.to_wire(), &e))?;
                Ok(Some(answer.offset))
            }
            Err(error) if error.is_refusal(ResponseCode::QueryNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Commits the next entry wanted, and waits until the broker has taken it.
    pub async fn commit(&self, topic: &str, queue: &QueueAddress, offset: i64) -> Result<(), ClientError> {
        let header =
            UpdateConsumerOffsetRequest { consumer_group: self.group_text(), topic: topic.into(), queue_id: queue.queue_id as i32, commit_offset: offset };
        self.client.call(&queue.addr, Request::new(RequestCode::UpdateConsumerOffset, header.encode())).await.map(drop)
    }

    /// Tells a broker that this member lives and what it wants; due every 30 s, dead after 120 s.
    pub async fn heartbeat(&self, broker: &str, subscriptions: &[Subscription]) -> Result<(), ClientError> {
        let data = HeartbeatData {
            client_id: self.client.client_id().to_owned(),
            producer_data_set: vec![ProducerData { group_name: "CLIENT_INNER_PRODUCER".to_owned() }],
            consumer_data_set: vec![ConsumerData {
                group_name: self.group.as_str().to_owned(),
                consume_type: "CONSUME_PASSIVELY".to_owned(),
                message_model: "CLUSTERING".to_owned(),
                consume_from_where: "CONSUME_FROM_LAST_OFFSET".to_owned(),
                subscription_data_set: subscriptions.iter().map(Subscription::to_wire).collect(),
                unit_mode: false,
            }],
            ..HeartbeatData::default()
        };
        let request = Request::new(RequestCode::HeartBeat, sluice_protocol::ExtFields::new()).with_body(to_json(&data));
        self.client.call(broker, request).await.map(drop)
    }

    /// Tells a broker that this member leaves, so that others take over its queues at once.
    pub async fn leave(&self, broker: &str) -> Result<(), ClientError> {
        let header = UnregisterClientRequest { client_id: self.client.client_id().into(), producer_group: None, consumer_group: Some(self.group_text()) };
        self.client.call(broker, Request::new(RequestCode::UnregisterClient, header.encode())).await.map(drop)
    }

    /// Locks queues of one broker for this member, and returns those it has got. A lock lives 60 s.
    pub async fn lock(&self, topic: &str, queues: &[QueueAddress]) -> Result<Vec<QueueAddress>, ClientError> {
        let Some(broker) = queues.first() else { return Ok(Vec::new()) };
        let body = LockBatchRequestBody {
            client_id: self.client.client_id().to_owned(),
            consumer_group: self.group.as_str().to_owned(),
            mq_set: queues.iter().map(|q| wire_queue(topic, q)).collect(),
            only_this_broker: false,
        };
        let code = RequestCode::LockBatchMq;
        let frame = self.client.call(&broker.addr, Request::new(code, sluice_protocol::ExtFields::new()).with_body(to_json(&body))).await?;
        let answer: LockBatchResponseBody = from_json(&frame.body).map_err(|e| malformed(&broker.addr, code.to_wire(), &e))?;
        let locked = |q: &&QueueAddress| answer.lock_ok_mq_set.iter().any(|l| *l == wire_queue(topic, q));
        Ok(queues.iter().filter(locked).cloned().collect())
    }

    /// Gives locked queues of one broker back.
    pub async fn unlock(&self, topic: &str, queues: &[QueueAddress]) -> Result<(), ClientError> {
        let Some(broker) = queues.first() else { return Ok(()) };
        let body = UnlockBatchRequestBody {
            client_id: self.client.client_id().to_owned(),
            consumer_group: self.group.as_str().to_owned(),
            mq_set: queues.iter().map(|q| wire_queue(topic, q)).collect(),
            only_this_broker: false,
        };
        let request = Request::new(RequestCode::UnlockBatchMq, sluice_protocol::ExtFields::new()).with_body(to_json(&body));
        self.client.call(&broker.addr, request).await.map(drop)
    }

    /// Gives a message back to be delivered again: after the delay level, after the broker's own (0), or never, into the dead letters (negative).
    pub async fn send_back(&self, broker: &str, message: &ReceivedMessage, delay_level: i32, attempts_max: i32) -> Result<(), ClientError> {
        let header = ConsumerSendMsgBackRequest {
            offset: i64::try_from(message.log_offset).unwrap_or(i64::MAX),
            group: self.group_text(),
            delay_level,
            origin_msg_id: Some(message.offset_id.as_str().into()),
            origin_topic: Some(message.topic.as_str().into()),
            unit_mode: false,
            max_reconsume_times: Some(attempts_max),
        };
        self.client.call(broker, Request::new(RequestCode::ConsumerSendMsgBack, header.encode())).await.map(drop)
    }
}

fn wire_queue(topic: &str, queue: &QueueAddress) -> MessageQueue {
    MessageQueue { broker_name: queue.broker.clone(), queue_id: queue.queue_id as i32, topic: topic.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_lists_its_tags_with_the_hashes_of_java() {
        let wire = Subscription { topic: "t".into(), expression: "TagA || b".into() }.to_wire();
        assert_eq!((wire.tags_set, wire.code_set), (vec!["TagA".to_owned(), "b".to_owned()], vec![2_598_919, 98]));
        assert!(Subscription { topic: "t".into(), expression: "*".into() }.to_wire().tags_set.is_empty());
    }
}
