//! Offsets of queues and groups.

use super::{Answer, BrokerProcessor, Failure, Outcome, Request};
use sluice_protocol::{
    body::{ConsumerOffsetSerializeWrapper, DataVersion},
    headers::{
        CloneGroupOffsetRequest, GetEarliestMsgStoretimeRequest, GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest, GetMaxOffsetResponse,
        GetMinOffsetRequest, GetMinOffsetResponse, QueryConsumerOffsetRequest, QueryConsumerOffsetResponse, SearchOffsetRequest, SearchOffsetResponse,
        UpdateConsumerOffsetRequest,
    },
};
use sluice_store::TimeBoundary;
use sluice_types::{Group, Topic};
use std::collections::BTreeMap;

impl BrokerProcessor {
    pub(super) fn query_consumer_offset(&self, request: &Request<'_>) -> Outcome {
        let header: QueryConsumerOffsetRequest = request.fields()?;
        let (group, topic) = (Group::new(&header.consumer_group)?, Topic::new(&header.topic)?);
        let offset = self.delivery.query_offset(&group, &topic, header.queue_id, header.set_zero_if_not_found.unwrap_or(true))?;
        Ok(Answer::fields(&QueryConsumerOffsetResponse { offset: offset.to_wire() }))
    }

    pub(super) fn update_consumer_offset(&self, request: &Request<'_>) -> Outcome {
        let header: UpdateConsumerOffsetRequest = request.fields()?;
        let (group, topic) = (Group::new(&header.consumer_group)?, Topic::new(&header.topic)?);
        self.delivery.commit_offset(&group, &topic, header.queue_id, header.commit_offset)?;
        Ok(Answer::success())
    }

    pub(super) fn search_offset(&self, request: &Request<'_>) -> Outcome {
        let header: SearchOffsetRequest = request.fields()?;
        let boundary = match header.boundary_type.as_deref() {
            None => TimeBoundary::Lower,
            Some(name) if name.eq_ignore_ascii_case("LOWER") => TimeBoundary::Lower,
            Some(name) if name.eq_ignore_ascii_case("UPPER") => TimeBoundary::Upper,
            Some(name) => {
                return Err(Failure::invalid(format!("the boundary type {:?} is none; LOWER and UPPER are", name.chars().take(32).collect::<String>())));
            }
        };
        let offset = self.delivery.offset_by_time(&Topic::new(&header.topic)?, header.queue_id, header.timestamp, boundary)?;
        Ok(Answer::fields(&SearchOffsetResponse { offset: offset.to_wire() }))
    }

    pub(super) fn max_offset(&self, request: &Request<'_>) -> Outcome {
        let header: GetMaxOffsetRequest = request.fields()?;
        let bounds = self.delivery.bounds(&Topic::new(&header.topic)?, header.queue_id)?;
        Ok(Answer::fields(&GetMaxOffsetResponse { offset: bounds.max.to_wire() }))
    }

    pub(super) fn min_offset(&self, request: &Request<'_>) -> Outcome {
        let header: GetMinOffsetRequest = request.fields()?;
        let bounds = self.delivery.bounds(&Topic::new(&header.topic)?, header.queue_id)?;
        Ok(Answer::fields(&GetMinOffsetResponse { offset: bounds.min.to_wire() }))
    }

    pub(super) fn earliest_store_time(&self, request: &Request<'_>) -> Outcome {
        let header: GetEarliestMsgStoretimeRequest = request.fields()?;
        let timestamp = self.delivery.earliest_store_time(&Topic::new(&header.topic)?, header.queue_id)?;
        Ok(Answer::fields(&GetEarliestMsgStoretimeResponse { timestamp }))
    }

    pub(super) fn all_consumer_offsets(&self) -> Outcome {
        let mut offset_table: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for group in self.delivery.offsets().groups() {
            for committed in self.delivery.offsets().list(group.as_str()) {
                let queues = offset_table.entry(format!("{}@{group}", committed.topic)).or_default();
                queues.insert(committed.queue.to_wire(), committed.offset.to_wire());
            }
        }
        Ok(Answer::json(&ConsumerOffsetSerializeWrapper { offset_table, data_version: DataVersion::default() }))
    }

    pub(super) fn clone_group_offset(&self, request: &Request<'_>) -> Outcome {
        let header: CloneGroupOffsetRequest = request.fields()?;
        let (from, to) = (Group::new(&header.src_group)?, Group::new(&header.dest_group)?);
        let topics: Vec<Topic> = match header.topic.as_deref().filter(|topic| !topic.is_empty()) {
            Some(topic) => vec![Topic::new(topic)?],
            None => {
                let mut topics: Vec<Topic> = self.delivery.offsets().list(from.as_str()).into_iter().map(|committed| committed.topic).collect();
                topics.dedup();
                topics
            }
        };
        for topic in topics.iter().filter(|topic| topic.retry_group().is_none()) {
            self.delivery.offsets().copy_group(from.as_str(), &to, topic);
        }
        Ok(Answer::success())
    }
}
