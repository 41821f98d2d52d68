//! How far queues and groups are, for `topicStatus` and `consumerProgress`.
//!
//! These two bodies have objects for keys, as FastJSON writes maps whose key is a queue; serde has no such map, so they are put together here.

use super::{Answer, BrokerProcessor, Failure, Outcome, Request};
use sluice_delivery::TopicConfig;
use sluice_protocol::{
    ResponseCode,
    body::{MessageQueue, to_json},
    headers::{GetConsumeStatsRequest, GetTopicStatsInfoRequest},
};
use sluice_types::{QueueId, QueueOffset, Topic};
use std::collections::BTreeSet;

/// Most queues in one answer.
const QUEUES_MAX: usize = 100_000;

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicOffset {
    last_update_timestamp: i64,
    max_offset: i64,
    min_offset: i64,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct OffsetWrapper {
    broker_offset: i64,
    consumer_offset: i64,
    last_timestamp: i64,
    pull_offset: i64,
}

/// `{"offsetTable":{{…}:{…},…},"<rate>":12.5}`
#[derive(Default)]
struct OffsetTable(Vec<u8>);

impl OffsetTable {
    fn push(&mut self, queue: &MessageQueue, value: &impl serde::Serialize) {
        self.0.extend_from_slice(if self.0.is_empty() { br#"{"offsetTable":{"# } else { b"," });
        self.0.extend_from_slice(&to_json(queue));
        self.0.push(b':');
        self.0.extend_from_slice(&to_json(value));
    }

    /// `rate`: messages a second.
    fn end(mut self, name: &str, rate: f64) -> Answer {
        if self.0.is_empty() {
            self.0.extend_from_slice(br#"{"offsetTable":{"#);
        }
        self.0.extend_from_slice(format!(r#"}},"{name}":{rate:.3}}}"#).as_bytes());
        Answer { body: vec![self.0.into()], ..Answer::success() }
    }
}

impl BrokerProcessor {
    fn message_queue(&self, topic: &Topic, queue: u32) -> MessageQueue {
        MessageQueue { broker_name: self.identity.name.clone(), queue_id: queue.cast_signed(), topic: topic.to_string() }
    }

    /// When the entry before `end` was stored; 0 when there is none.
    fn stored_before(&self, topic: &Topic, queue: u32, end: QueueOffset) -> i64 {
        let store = self.delivery.store();
        let Some(last) = end.0.checked_sub(1) else { return 0 };
        store.store_timestamp(&store.queue(topic, QueueId(queue)), QueueOffset(last)).ok().flatten().unwrap_or(0)
    }

    pub(super) fn topic_stats(&self, request: &Request<'_>) -> Outcome {
        let header: GetTopicStatsInfoRequest = request.fields()?;
        let missing = || Failure::new(ResponseCode::TopicNotExist, format!("topic[{}] not exist", header.topic));
        let topic = self.delivery.topics().get(&header.topic).ok_or_else(missing)?;
        let mut table = OffsetTable::default();
        for queue in 0..topic.queues() {
            let bounds = self.delivery.bounds(&topic.name, queue.cast_signed()).unwrap_or_default();
            let last_update_timestamp = if bounds.max > bounds.min { self.stored_before(&topic.name, queue, bounds.max) } else { 0 };
            let offset = TopicOffset { last_update_timestamp, max_offset: bounds.max.to_wire(), min_offset: bounds.min.to_wire() };
            table.push(&self.message_queue(&topic.name, queue), &offset);
        }
        Ok(table.end("topicPutTps", self.delivery.put_rate(topic.name.as_str())))
    }

    pub(super) fn consume_stats(&self, request: &Request<'_>) -> Outcome {
        let header: GetConsumeStatsRequest = request.fields()?;
        let group = &*header.consumer_group;
        let named: Vec<&str> = [header.topic.as_deref(), header.topic_list.as_deref()]
            .into_iter()
            .flatten()
            .flat_map(|names| names.split(';'))
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        // A group with no member that is connected is known by the offsets it left.
        let mut topics: BTreeSet<String> = named.iter().map(|name| (*name).to_owned()).collect();
        if named.is_empty() {
            topics.extend(self.delivery.offsets().list(group).into_iter().map(|committed| committed.topic.to_string()));
            let subscribed = self.delivery.clients().consumer_group(group).into_iter().flat_map(|group| group.subscriptions);
            topics.extend(subscribed.map(|wanted| wanted.topic.to_string()));
        }
        let mut table = OffsetTable::default();
        let mut room = QUEUES_MAX;
        let mut rate = 0.0;
        for topic in topics.iter().filter_map(|name| self.delivery.topics().get(name)) {
            room = room.saturating_sub(topic.read_queues as usize);
            if room == 0 {
                return Err(Failure::new(ResponseCode::SystemError, format!("the group {group} reads more than {QUEUES_MAX} queues; ask for one topic")));
            }
            self.push_progress(&mut table, group, &topic);
            rate += self.delivery.get_rate(group, topic.name.as_str());
        }
        Ok(table.end("consumeTps", rate))
    }

    fn push_progress(&self, table: &mut OffsetTable, group: &str, topic: &TopicConfig) {
        for queue in 0..topic.read_queues {
            let bounds = self.delivery.bounds(&topic.name, queue.cast_signed()).unwrap_or_default();
            let committed = self.delivery.offsets().get(group, topic.name.as_str(), QueueId(queue));
            let consumed = committed.unwrap_or_default();
            let offset = OffsetWrapper {
                broker_offset: bounds.max.to_wire(),
                consumer_offset: consumed.to_wire(),
                last_timestamp: committed.map_or(0, |offset| self.stored_before(&topic.name, queue, offset)),
                // Where the group reads is known by what it committed; pulls are not kept.
                pull_offset: consumed.to_wire(),
            };
            table.push(&self.message_queue(&topic.name, queue), &offset);
        }
    }
}
