//! Offsets of queues and groups.

use super::{Answer, BrokerProcessor, Failure, Outcome, Reply, Request, forward::is_careless};
use sluice_delivery::{OffsetReset, ResetTo};
use sluice_protocol::{
    body::{ConsumerOffsetSerializeWrapper, DataVersion, MessageQueue, ResetOffsetBody, to_fastjson},
    headers::{
        CloneGroupOffsetRequest, GetEarliestMsgStoretimeRequest, GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest, GetMaxOffsetResponse,
        GetMinOffsetRequest, GetMinOffsetResponse, QueryConsumerOffsetRequest, QueryConsumerOffsetResponse, ResetOffsetRequest, SearchOffsetRequest,
        SearchOffsetResponse, UpdateConsumerOffsetRequest,
    },
};
use sluice_store::TimeBoundary;
use sluice_types::{Group, QueueOffset, Topic};
use std::collections::BTreeMap;

/// What administrators write for "no offset".
const NO_OFFSET: i64 = -1;

fn reset_from(request: &Request<'_>) -> Result<OffsetReset, Failure> {
    let header: ResetOffsetRequest = request.fields()?;
    let queue_id = Some(header.queue_id).filter(|id| *id >= 0);
    // An offset means one queue's; to a whole topic it says nothing.
    let offset = header.offset.filter(|offset| *offset != NO_OFFSET && queue_id.is_some());
    let to = match (offset, header.timestamp) {
        (Some(offset), _) => ResetTo::Offset(offset),
        (None, ..0) => ResetTo::End,
        (None, ms) => ResetTo::Time(ms),
    };
    // Java's administrator leaves `isForce` out where it names the queue.
    let forward = header.is_force || queue_id.is_some();
    Ok(OffsetReset { group: Group::new(&header.group)?, topic: Topic::new(&header.topic)?, queue_id, to, forward })
}

impl BrokerProcessor {
    pub(super) fn reset_offset(&self, request: &Request<'_>, reply: Reply) {
        let reset = match reset_from(request) {
            Ok(reset) => reset,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let (broker_name, topic) = (self.identity.name.clone(), reset.topic.to_string());
        let queue = move |queue_id: i32| MessageQueue { broker_name: broker_name.clone(), queue_id, topic: topic.clone() };
        tracing::info!(group = %reset.group, topic = %reset.topic, queue = ?reset.queue_id, to = ?reset.to, peer = %request.peer(), "a group's offsets are reset");
        self.delivery.reset_offsets(
            &reset,
            Box::new(move |result| {
                let table = result.map(|moved| moved.into_iter().map(|(id, offset)| (queue(id.to_wire()), offset.to_wire())).collect());
                let answer = |offset_table| Answer { body: vec![to_fastjson(&ResetOffsetBody { offset_table }).into()], ..Answer::success() };
                reply.outcome(table.map(answer).map_err(Failure::from));
            }),
        );
    }

    pub(super) fn query_consumer_offset(&self, request: &Request<'_>, reply: Reply) {
        let asked = || {
            let header: QueryConsumerOffsetRequest = request.fields()?;
            Ok::<_, Failure>((Group::new(&header.consumer_group)?, Topic::new(&header.topic)?, header))
        };
        let (group, topic, header) = match asked() {
            Ok(asked) => asked,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let zero_if_not_found = header.set_zero_if_not_found.unwrap_or(true);
        let answer = |offset: QueueOffset| Answer::fields(&QueryConsumerOffsetResponse { offset: offset.to_wire() });
        let done = Box::new(move |offset: Result<_, _>| reply.outcome(offset.map(answer).map_err(Failure::from)));
        self.delivery.query_offset(&group, &topic, header.queue_id, zero_if_not_found, request.connection.id(), done);
    }

    /// A commit that is told to have succeeded stays, whatever fails; one that nobody waits for is written a little later.
    pub(super) fn update_consumer_offset(&self, request: &Request<'_>, reply: Reply) {
        let wanted = || {
            let header: UpdateConsumerOffsetRequest = request.fields()?;
            Ok::<_, Failure>((Group::new(&header.consumer_group)?, Topic::new(&header.topic)?, header))
        };
        let (group, topic, UpdateConsumerOffsetRequest { queue_id, commit_offset, .. }) = match wanted() {
            Ok(wanted) => wanted,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        if is_careless(request.header) {
            let taken = self.delivery.commit_offset(&group, &topic, queue_id, commit_offset);
            return reply.outcome(taken.map(|()| Answer::success()).map_err(Failure::from));
        }
        let done = Box::new(move |stored: Result<(), _>| reply.outcome(stored.map(|()| Answer::success()).map_err(Failure::from)));
        self.delivery.commit_offset_stored(&group, &topic, queue_id, commit_offset, done);
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

    pub(super) fn clone_group_offset(&self, request: &Request<'_>, reply: Reply) {
        let wanted = || {
            let header: CloneGroupOffsetRequest = request.fields()?;
            let topic = header.topic.as_deref().filter(|topic| !topic.is_empty()).map(Topic::new).transpose()?;
            Ok::<_, Failure>((Group::new(&header.src_group)?, Group::new(&header.dest_group)?, topic))
        };
        let (from, to, topic) = match wanted() {
            Ok(wanted) => wanted,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let done = Box::new(move |stored: Result<(), _>| reply.outcome(stored.map(|()| Answer::success()).map_err(Failure::from)));
        self.delivery.offsets().copy_group(&from, &to, topic.as_ref(), done);
    }
}
