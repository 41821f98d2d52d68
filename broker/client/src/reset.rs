//! Moving a group to another place, and seeing that it has moved.

use crate::{Admin, ClientError, Consumer, QueueAddress, client::malformed};
use serde::Serialize;
use sluice_protocol::{
    RequestCode, ResponseCode, TypedHeader,
    body::{ResetOffsetBody, from_json},
    headers::ResetOffsetRequest,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How long members may take to follow. Those of a broker that leaves it to them (RocketMQ 4) wait ten seconds first.
const FOLLOW_MAX: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One queue's part of a reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueReset {
    /// The queue.
    #[serde(flatten)]
    pub queue: QueueAddress,
    /// What the group had committed before; `None` when nothing.
    pub before: Option<i64>,
    /// Where it goes on.
    pub offset: i64,
}

impl QueueReset {
    /// Whether a group that has committed `now` is where it was put, or has gone on from there. One that is again exactly where it was before may have read the
    /// queue again or never have moved; only a group with members can have done the former.
    fn holds(&self, now: Option<i64>, members: bool) -> bool {
        now.is_some_and(|now| now == self.offset || now > self.offset && (members || Some(now) != self.before))
    }
}

impl Admin {
    /// Moves a group in all queues of a topic to a time, ms since 1970, or to the end (−1); its members go along. Comes back when the brokers show it.
    ///
    /// Refused for a topic or group that does not exist. [`ClientError::ResetUndone`] says that a member's own commits were stronger.
    pub async fn reset_offset(&self, topic: &str, group: &str, timestamp: i64) -> Result<Vec<QueueReset>, ClientError> {
        let consumer = Consumer::new(self.client().clone(), group)?;
        let queues = self.client().refresh_route(topic).await?.readable();
        if queues.is_empty() {
            return Err(ClientError::NoQueue { topic: topic.to_owned(), purpose: "read", queue: None });
        }
        let mut before = Vec::with_capacity(queues.len());
        for queue in &queues {
            before.push(consumer.offset(topic, queue).await?);
        }
        let mut offsets = BTreeMap::new();
        for broker in queues.iter().map(|q| &q.addr).collect::<BTreeSet<_>>() {
            let mine: Vec<&QueueAddress> = queues.iter().filter(|q| q.addr == *broker).collect();
            offsets.extend(self.reset_at(broker, &mine, &consumer, topic, timestamp).await?);
        }
        let moved: Vec<QueueReset> = queues
            .into_iter()
            .zip(before)
            .filter_map(|(queue, before)| offsets.get(&queue).map(|offset| QueueReset { offset: *offset, queue: queue.clone(), before }))
            .collect();
        self.see_it_hold(&consumer, topic, &moved).await?;
        Ok(moved)
    }

    /// One broker's part.
    async fn reset_at(
        &self,
        broker: &str,
        queues: &[&QueueAddress],
        consumer: &Consumer,
        topic: &str,
        timestamp: i64,
    ) -> Result<Vec<(QueueAddress, i64)>, ClientError> {
        let code = RequestCode::InvokeBrokerToResetOffset;
        let header = ResetOffsetRequest { topic: topic.into(), group: consumer.group().into(), queue_id: -1, offset: None, timestamp, is_force: true };
        match self.call(broker, code, header.encode()).await {
            Ok(frame) => {
                let answer: ResetOffsetBody = from_json(&frame.body).map_err(|e| malformed(broker, code.to_wire(), &e))?;
                let of = |id: i32| queues.iter().find(|q| q.queue_id.cast_signed() == id).map(|q| (*q).clone());
                Ok(answer.offset_table.into_iter().filter_map(|(queue, offset)| Some((of(queue.queue_id)?, offset))).collect())
            }
            // A broker that leaves it to the members, and has none: then its own offsets are what counts. RocketMQ's tools do the same, on this answer only.
            Err(error) if error.is_refusal(ResponseCode::ConsumerNotOnline) => self.commit_each(queues, consumer, topic, timestamp).await,
            Err(error) => Err(error),
        }
    }

    async fn commit_each(&self, queues: &[&QueueAddress], consumer: &Consumer, topic: &str, timestamp: i64) -> Result<Vec<(QueueAddress, i64)>, ClientError> {
        let mut moved = Vec::with_capacity(queues.len());
        for queue in queues {
            let offset = match timestamp {
                -1 => self.max_offset(topic, queue).await?,
                time => self.search_offset(topic, queue, time).await?,
            };
            consumer.commit(topic, queue, offset).await?;
            moved.push(((*queue).clone(), offset));
        }
        Ok(moved)
    }

    /// Looks at the committed offsets until the reset shows in all of them.
    async fn see_it_hold(&self, consumer: &Consumer, topic: &str, moved: &[QueueReset]) -> Result<(), ClientError> {
        let members = !self.group(consumer.group(), Some(topic)).await?.clients.is_empty();
        let deadline = Instant::now() + if members { FOLLOW_MAX } else { Duration::ZERO };
        loop {
            let mut elsewhere = Vec::new();
            for reset in moved {
                let now = consumer.offset(topic, &reset.queue).await?;
                if !reset.holds(now, members) {
                    elsewhere.push(format!(
                        "{} queue {} is at {}",
                        reset.queue.broker,
                        reset.queue.queue_id,
                        now.map_or("no offset".to_owned(), |n| n.to_string())
                    ));
                }
            }
            if elsewhere.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ClientError::ResetUndone { topic: topic.to_owned(), group: consumer.group().to_owned(), queues: elsewhere.join(", ") });
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_holds_where_the_group_is_at_it_or_has_gone_on() {
        let queue = QueueAddress { broker: "b".into(), addr: "b:1".into(), queue_id: 0 };
        let back = QueueReset { queue: queue.clone(), before: Some(10), offset: 4 };
        assert!(back.holds(Some(4), false) && back.holds(Some(7), false));
        assert!(!back.holds(Some(10), false), "nobody can have read on: the old offset is back");
        assert!(back.holds(Some(10), true));
        assert!(!back.holds(Some(3), true) && !back.holds(None, true));
        let forward = QueueReset { queue, before: Some(4), offset: 10 };
        assert!(!forward.holds(Some(4), true), "the member has not followed");
    }
}
