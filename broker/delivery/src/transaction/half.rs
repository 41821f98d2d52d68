//! The records of a transaction.

use super::{GIVEN_UP_TOPIC, HALF_TOPIC, OP_TOPIC, TransactionCheck, open::Ticket};
use crate::{
    Counters, Delivery,
    send::{REAL_QUEUE, REAL_TOPIC},
};
use bytes::Bytes;
use sluice_env::broken;
use sluice_protocol::{
    message_id::OffsetMessageId,
    properties::{self, PROPERTIES_BYTES_MAX},
    record::{self, CRC_PROPERTY_BYTES, RECORD_BYTES_MAX, RecordError, RecordFields, RecordView, sys_flag},
};
use sluice_store::{AppendError, Batch, Placed, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::net::SocketAddr;

/// Marks a half message.
pub(crate) const TRANSACTION: &str = "TRAN_MSG";
/// The group of producers that answers for it.
pub(super) const PRODUCER_GROUP: &str = "PGROUP";
/// Seconds before the first check.
const IMMUNITY: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
/// How often it has been checked.
pub(super) const CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
/// The transaction's id, for the application.
const TRANSACTION_ID: &str = "__transactionId__";
/// Tag of an op record that ends half messages.
const ENDED_TAG: &str = "d";
/// Between the queue offsets in an op record's body.
pub(super) const OFFSET_SEPARATOR: char = ',';
/// Room that a half message's properties leave for [`CHECK_TIMES`], its number and three separators.
const CHECK_TIMES_BYTES: usize = CHECK_TIMES.len() + 10 + 3;
/// Room that a half message's record leaves: for the number of checks, for the longest topic, and in a batch for the op record.
const END_BYTES: usize = 512;

/// The seconds that a half message asks to be left alone at first; what is no number counts as nothing, as in RocketMQ.
pub(super) fn immunity_seconds(text: &str) -> Option<u64> {
    properties::get(text, IMMUNITY).and_then(|seconds| seconds.trim().parse().ok())
}

/// A half message on its way into the log.
pub(crate) struct HalfSend {
    ticket: Option<Ticket>,
    immunity_seconds: Option<u64>,
    transaction_id: Option<String>,
}

impl HalfSend {
    pub(crate) fn with(self, ticket: Ticket) -> Self {
        Self { ticket: Some(ticket), ..self }
    }

    /// What the store said. In the log, the transaction is open; its id.
    pub(crate) fn stored(self, result: &Result<Vec<Placed>, AppendError>, counters: &Counters) -> Option<String> {
        if let (Ok(placed) | Err(AppendError::Late(_, placed)), Some(ticket)) = (result, self.ticket)
            && let Some(place) = placed.first()
        {
            Counters::add(&counters.transactions_begun, 1);
            ticket.begun(place, self.immunity_seconds);
        }
        self.transaction_id
    }
}

/// The group of producers that answers for a half message.
pub(super) fn producer_group<'a>(half: &RecordView<'a>) -> Option<&'a str> {
    properties::get(half.user_properties(), PRODUCER_GROUP)
}

/// The identity that its client gave a message.
pub(super) fn unique_key<'a>(half: &RecordView<'a>) -> Option<&'a str> {
    properties::get(half.user_properties(), properties::UNIQUE_KEY)
}

/// Where a half message is to go.
pub(super) fn target(half: &RecordView<'_>) -> Result<(Topic, QueueId), String> {
    let own = half.user_properties();
    let topic = properties::get(own, REAL_TOPIC).ok_or("it does not say where it is to go")?;
    let queue = properties::get(own, REAL_QUEUE).and_then(|id| id.parse().ok()).ok_or("it does not say which queue it is to go to")?;
    Ok((Topic::new(topic).map_err(|error| error.to_string())?, QueueId(queue)))
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The message becomes visible.
    Commit,
    /// Nothing is left of it.
    Rollback,
    /// It was checked in vain.
    GiveUp,
}

/// A half message's fields for another record of the same message.
fn fields<'a>(half: &RecordView<'a>, topic: &'a str, queue: QueueId, own: &'a str) -> RecordFields<'a> {
    RecordFields {
        topic,
        queue_id: queue.to_wire(),
        flag: half.flag(),
        sys_flag: half.sys_flag(),
        born_timestamp: half.born_timestamp(),
        born_host: half.born_host(),
        store_host: half.store_host(),
        reconsume_times: half.reconsume_times(),
        prepared_transaction_offset: 0,
        body: half.body(),
        properties: own,
    }
}

fn with_checks(half: &RecordView<'_>, checks: u32) -> String {
    let mut own = half.user_properties().to_owned();
    if checks > 0 {
        properties::set(&mut own, CHECK_TIMES, &checks.to_string());
    }
    own
}

impl Delivery {
    /// A half message's properties, made from those of the send: where it is to go, who answers for it, no delay.
    pub(crate) fn half_of(&self, group: &str, sent: &str, target: &QueueRef) -> Result<(HalfSend, String), String> {
        let mut own = sent.to_owned();
        properties::remove(&mut own, properties::DELAY_LEVEL);
        if properties::get(&own, PRODUCER_GROUP).is_none_or(str::is_empty) {
            properties::set(&mut own, PRODUCER_GROUP, group);
        }
        let owner = properties::get(&own, PRODUCER_GROUP).unwrap_or_default();
        Group::new(owner).map_err(|error| format!("nobody can be asked about the transaction: {error}"))?;
        let transaction_id = properties::get(&own, properties::UNIQUE_KEY).filter(|id| !id.is_empty()).map(str::to_owned);
        if let Some(id) = &transaction_id {
            properties::set(&mut own, TRANSACTION_ID, id);
        }
        properties::set(&mut own, REAL_TOPIC, target.topic().as_str());
        properties::set(&mut own, REAL_QUEUE, &target.id().to_string());
        let max = PROPERTIES_BYTES_MAX - CRC_PROPERTY_BYTES - CHECK_TIMES_BYTES;
        if own.len() > max {
            return Err(format!("properties of {} bytes with what a half message needs, the limit is {max}", own.len()));
        }
        Ok((HalfSend { ticket: None, immunity_seconds: immunity_seconds(&own), transaction_id }, own))
    }

    /// What is taken must also fit when the transaction ends: as one batch with the op record.
    pub(crate) fn check_half_bytes(&self, bytes: usize) -> Result<(), String> {
        let max = self.store().batch_bytes_max().min(RECORD_BYTES_MAX) - END_BYTES;
        if bytes > max { Err(format!("a half message of {bytes} bytes, the limit is {max}")) } else { Ok(()) }
    }

    /// What an end writes. The op record is the last: cut off, the transaction is open still, and no message is lost.
    pub(super) fn ending_batch(&self, half: &RecordView<'_>, checks: u32, ending: Ending) -> Result<Batch, String> {
        let mut batch = Batch::new();
        match ending {
            Ending::Commit => self.push_committed(&mut batch, half, checks)?,
            Ending::GiveUp => {
                let topic = Topic::new(GIVEN_UP_TOPIC).map_err(|error| error.to_string())?;
                let queue = self.store().queue(&topic, QueueId(0));
                let own = with_checks(half, checks);
                batch.push(&queue, &fields(half, GIVEN_UP_TOPIC, QueueId(0), &own)).map_err(|error| error.to_string())?;
            }
            Ending::Rollback if broken("a rolled back message is shown") => self.push_committed(&mut batch, half, checks)?,
            Ending::Rollback => {}
        }
        let (born, host) = (self.env.clock.wall().0, self.options().store_host);
        push_op(&mut batch, self.transactions.op_queue(), half.queue_offset(), born, host).map_err(|error| error.to_string())?;
        Ok(batch)
    }

    fn push_committed(&self, batch: &mut Batch, half: &RecordView<'_>, checks: u32) -> Result<(), String> {
        let (topic, id) = target(half)?;
        let queue = self.topics().queue_to_end_in(&topic, id);
        let mut own = with_checks(half, checks);
        // The mark stays, as in RocketMQ: by it consumers' clients know that the message has a transaction's id.
        for name in [REAL_TOPIC, REAL_QUEUE] {
            properties::remove(&mut own, name);
        }
        let committed = RecordFields {
            sys_flag: half.sys_flag() & !sys_flag::TRANSACTION_MASK | sys_flag::TRANSACTION_COMMIT,
            prepared_transaction_offset: CommitLogOffset(half.log_offset()).to_wire(),
            ..fields(half, topic.as_str(), id, &own)
        };
        batch.push(&queue, &committed).map_err(|error| error.to_string())
    }

    /// What a producer is asked for the `checks`th time.
    pub(super) fn check_of(&self, half: &RecordView<'_>, checks: u32) -> Result<TransactionCheck, String> {
        let (topic, queue) = target(half)?;
        let own = with_checks(half, checks);
        let mut record = Vec::new();
        record::encode(&fields(half, topic.as_str(), queue, &own), &mut record).map_err(|error| error.to_string())?;
        record::seal(&mut record, half.queue_offset(), half.log_offset(), half.store_timestamp());
        let log_offset = CommitLogOffset(half.log_offset());
        Ok(TransactionCheck {
            topic,
            queue_offset: QueueOffset(half.queue_offset()),
            log_offset,
            unique_key: unique_key(half).map(str::to_owned),
            message_id: OffsetMessageId { store_host: half.store_host(), log_offset: log_offset.to_wire() }.encode(),
            record: Bytes::from(record),
        })
    }
}

/// RocketMQ's op record: it writes several offsets into one now and then, each with a separator behind it. `born`: ms since 1970.
pub(super) fn push_op(batch: &mut Batch, queue: &QueueRef, half_offset: u64, born: i64, host: SocketAddr) -> Result<(), RecordError> {
    let body = format!("{half_offset}{OFFSET_SEPARATOR}");
    let mut own = String::new();
    properties::push(&mut own, properties::TAGS, ENDED_TAG);
    let op = RecordFields {
        topic: OP_TOPIC,
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp: born,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.as_bytes(),
        properties: &own,
    };
    batch.push(queue, &op)
}

/// Whether a record is the committed message of a half message.
pub(super) fn is_commit_of(record: &RecordView<'_>, half: &RecordView<'_>) -> bool {
    let goes_there = target(half).is_ok_and(|(topic, queue)| topic.as_str() == record.topic() && queue.to_wire() == record.queue_id());
    goes_there
        && record.sys_flag() & sys_flag::TRANSACTION_MASK == sys_flag::TRANSACTION_COMMIT
        && record.prepared_transaction_offset() == CommitLogOffset(half.log_offset()).to_wire()
        && half.topic() == HALF_TOPIC
        && record.body_crc() == half.body_crc()
        && unique_key(record) == unique_key(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a half message with all the properties allowed could be neither checked nor given up.
    #[test]
    fn the_room_kept_for_the_number_of_checks_is_enough() {
        let mut own = String::new();
        properties::set(&mut own, CHECK_TIMES, &u32::MAX.to_string());
        assert!(own.len() < CHECK_TIMES_BYTES);
    }
}
