//! What a broker says of its topics and groups.

use super::{BodyError, DataVersion, bodies, from_json, to_json};
use crate::compress::{self, CompressError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Read},
};

/// Most bytes a compressed registration may inflate to: 100,000 topics, more than any broker is known to have, with 160 bytes each.
const REGISTRATION_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A topic's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// Attributes, `message.type` among them.
    #[serde(deserialize_with = "super::lenient")]
    pub attributes: BTreeMap<String, String>,
    /// Whether its order matters.
    pub order: bool,
    /// 2 write, 4 read, 1 inherit.
    pub perm: i32,
    /// Queues consumers read.
    pub read_queue_nums: i32,
    /// `SINGLE_TAG` or `MULTI_TAG`.
    pub topic_filter_type: String,
    /// Topic.
    pub topic_name: String,
    /// The topic's bits.
    pub topic_sys_flag: i32,
    /// Queues producers write.
    pub write_queue_nums: i32,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: 6,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// Reads the line that a compressed registration has for each topic: `name read write perm filter attributes`.
    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let topic_name = words.next()?.to_owned();
        let read_queue_nums = words.next()?.parse().ok()?;
        let write_queue_nums = words.next()?.parse().ok()?;
        let perm = words.next()?.parse().ok()?;
        let topic_filter_type = words.next()?.to_owned();
        let attributes = words.next().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        Some(Self { attributes, perm, read_queue_nums, topic_filter_type, topic_name, write_queue_nums, ..Self::default() })
    }
}

/// A group's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupConfig {
    /// Attributes.
    #[serde(deserialize_with = "super::lenient")]
    pub attributes: BTreeMap<String, String>,
    /// The broker it reads from; 0 is the master.
    pub broker_id: i64,
    /// Whether it may broadcast.
    pub consume_broadcast_enable: bool,
    /// Whether it may consume.
    pub consume_enable: bool,
    /// Whether it may start at the first message.
    pub consume_from_min_enable: bool,
    /// Whether it consumes in order.
    pub consume_message_orderly: bool,
    /// How long a message may take, minutes.
    pub consume_timeout_minute: i32,
    /// Group.
    pub group_name: String,
    /// How retries are spaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_retry_policy: Option<serde_json::Value>,
    /// The group's bits.
    pub group_sys_flag: i32,
    /// Whether members are told of each other.
    pub notify_consumer_ids_changed_enable: bool,
    /// How often a message may fail.
    pub retry_max_times: i32,
    /// Queues of its retry topic.
    pub retry_queue_nums: i32,
    /// What it may subscribe to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data_set: Option<serde_json::Value>,
    /// The broker it reads from when it is far behind.
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: None,
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: None,
            which_broker_when_consume_slowly: 1,
        }
    }
}

bodies! {
    /// Body of the answer to 21: a broker's topics.
    TopicConfigSerializeWrapper {
        /// Version of the table.
        data_version: DataVersion = "dataVersion",
        /// Settings by topic.
        topic_config_table: BTreeMap<String, TopicConfig> = "topicConfigTable",
    }

    /// Body of the answer to 201: a broker's groups.
    SubscriptionGroupWrapper {
        /// Version of the table.
        data_version: DataVersion = "dataVersion",
        /// What groups may not do, by group and topic.
        forbidden_table: BTreeMap<String, BTreeMap<String, i32>> = "forbiddenTable",
        /// Settings by group.
        subscription_group_table: BTreeMap<String, SubscriptionGroupConfig> = "subscriptionGroupTable",
    }

    /// Body of 103: a broker tells a name server of its topics.
    RegisterBrokerBody {
        /// Its filter servers; there are none any more.
        filter_server_list: Vec<String> = "filterServerList",
        /// Its topics.
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper = "topicConfigSerializeWrapper",
    }
}

impl RegisterBrokerBody {
    /// Reads the body of 103. A compressed one is a deflated list of pieces, each after its length: the version in JSON, the number of topics, a line for
    /// each, the filter servers in JSON; what may follow tells of static topics.
    pub fn decode(bytes: &[u8], compressed: bool) -> Result<Self, BodyError> {
        if !compressed {
            return from_json(bytes);
        }
        // Read as it inflates: what is no registration costs no more than its first piece.
        let mut pieces = Pieces(compress::zlib_reader(bytes).take(REGISTRATION_BYTES_MAX));
        let mut body = Self::default();
        body.topic_config_serialize_wrapper.data_version = from_json(&pieces.piece("data version")?)?;
        for _ in 0..pieces.length("number of topics")? {
            let line = pieces.piece("topic")?;
            let config = std::str::from_utf8(&line).ok().and_then(TopicConfig::from_line).ok_or(BodyError::Length("topic"))?;
            body.topic_config_serialize_wrapper.topic_config_table.insert(config.topic_name.clone(), config);
        }
        body.filter_server_list = from_json(&pieces.piece("filter servers")?)?;
        Ok(body)
    }

    /// Writes the body of 103, uncompressed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}

struct Pieces<R>(R);

impl<R: Read> Pieces<R> {
    fn length(&mut self, what: &'static str) -> Result<u64, BodyError> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).map_err(|error| failed(&error, what))?;
        u64::try_from(i32::from_be_bytes(length)).map_err(|_| BodyError::Length(what))
    }

    fn piece(&mut self, what: &'static str) -> Result<Vec<u8>, BodyError> {
        let length = self.length(what)?;
        let mut piece = Vec::new();
        // Grows with what comes, not with what is announced.
        let read = self.0.by_ref().take(length).read_to_end(&mut piece).map_err(|error| failed(&error, what))?;
        if read as u64 == length { Ok(piece) } else { Err(BodyError::Length(what)) }
    }
}

fn failed(error: &io::Error, what: &'static str) -> BodyError {
    if error.kind() == io::ErrorKind::UnexpectedEof { BodyError::Length(what) } else { CompressError::Damaged(error.to_string()).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
    }

    #[test]
    fn a_compressed_registration_is_read() {
        let line = br#"orders 4 8 6 SINGLE_TAG {"message.type":"FIFO"}"#;
        let plain = [piece(br#"{"counter":3,"stateVersion":0,"timestamp":9}"#), vec![0, 0, 0, 1], piece(line), piece(b"[]"), vec![0; 4]].concat();
        let body = RegisterBrokerBody::decode(&compress::deflate_zlib(&plain), true).expect("valid");
        assert_eq!(body.topic_config_serialize_wrapper.data_version.counter, 3);
        let config = &body.topic_config_serialize_wrapper.topic_config_table["orders"];
        assert_eq!((config.read_queue_nums, config.write_queue_nums, config.perm), (4, 8, 6));
        assert_eq!(config.attributes["message.type"], "FIFO");
        assert_eq!(RegisterBrokerBody::decode(&body.encode(), false).expect("valid"), body);
    }

    #[test]
    fn a_compressed_registration_of_more_than_there_can_be_is_refused() {
        let topics = 1_200_000;
        let line = piece(b"orders 4 8 6 SINGLE_TAG");
        let plain = [piece(b"{}"), i32::to_be_bytes(topics).to_vec(), line.repeat(topics as usize), piece(b"[]")].concat();
        assert!(matches!(RegisterBrokerBody::decode(&compress::deflate_zlib(&plain), true), Err(BodyError::Length("topic"))));
    }

    #[test]
    fn a_compressed_registration_whose_lengths_lie_is_refused() {
        let plain = [piece(b"{}"), vec![0x7F, 0xFF, 0xFF, 0xFF]].concat();
        assert!(matches!(RegisterBrokerBody::decode(&compress::deflate_zlib(&plain), true), Err(BodyError::Length("topic"))));
        assert!(matches!(RegisterBrokerBody::decode(&compress::deflate_zlib(&[0xFF; 4]), true), Err(BodyError::Length("data version"))));
    }
}
