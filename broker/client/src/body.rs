//! Bodies whose tables are keyed by a queue. The reader turns such a key into the queue's JSON text, which is read in a second step.

use serde::Deserialize;
use sluice_protocol::body::{BodyError, MessageQueue, from_json};
use std::collections::BTreeMap;

/// Body of the answer to 208.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConsumeStats {
    pub(crate) offset_table: BTreeMap<String, ConsumeOffsets>,
    pub(crate) consume_tps: f64,
}

/// How far a group is in one queue.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConsumeOffsets {
    pub(crate) broker_offset: i64,
    pub(crate) consumer_offset: i64,
    pub(crate) last_timestamp: i64,
}

/// Body of the answer to 202.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TopicStats {
    pub(crate) offset_table: BTreeMap<String, TopicOffsets>,
}

/// First and end entry of one queue.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TopicOffsets {
    pub(crate) min_offset: i64,
    pub(crate) max_offset: i64,
    pub(crate) last_update_timestamp: i64,
}

/// Reads the keys of such a table.
pub(crate) fn by_queue<T>(table: BTreeMap<String, T>) -> Result<Vec<(MessageQueue, T)>, BodyError> {
    table.into_iter().map(|(key, value)| Ok((from_json(key.as_bytes())?, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keyed_by_queues_is_read() {
        let text = br#"{"consumeTps":1.5,"offsetTable":{{"brokerName":"b","queueId":3,"topic":"t"}:{"brokerOffset":9,"consumerOffset":4,"lastTimestamp":7,"pullOffset":5}}}"#;
        let stats: ConsumeStats = from_json(text).expect("valid");
        let queues = by_queue(stats.offset_table).expect("valid");
        assert_eq!((queues[0].0.queue_id, queues[0].0.broker_name.as_str(), queues[0].1.broker_offset), (3, "b", 9));
        assert_eq!((queues[0].1.consumer_offset, queues[0].1.last_timestamp, stats.consume_tps), (4, 7, 1.5));
    }
}
