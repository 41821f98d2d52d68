//! A message as an application sees it.

use crate::ClientError;
use bytes::Bytes;
use serde::Serialize;
use sluice_protocol::{
    body::BodyError,
    compress::{Compression, inflate},
    message_id::OffsetMessageId,
    properties,
    record::RecordView,
};

/// Most bytes a compressed body may inflate to.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A message to send.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Body.
    pub body: Bytes,
    /// What consumers filter by.
    pub tag: Option<String>,
    /// What the message can be found by; separate several with spaces.
    pub keys: Option<String>,
    /// Delay level, 1 to 18; 0 for none.
    pub delay_level: u32,
    /// The queue, when the caller chooses; else [`Message::ordering_key`] or the turn does.
    pub queue_id: Option<u32>,
    /// Messages with the same ordering key go to the same queue.
    pub ordering_key: Option<String>,
    /// The application's own properties.
    pub properties: Vec<(String, String)>,
    /// The application's flag.
    pub flag: i32,
}

impl Message {
    /// A message with a body and nothing else.
    #[must_use]
    pub fn new(topic: &str, body: impl Into<Bytes>) -> Self {
        Self { topic: topic.to_owned(), body: body.into(), ..Self::default() }
    }

    /// The properties as they stand on the wire.
    pub(crate) fn wire_properties(&self, unique_id: &str) -> Result<String, ClientError> {
        let mut text = String::with_capacity(64);
        let mut push = |name: &str, value: &str| -> Result<(), ClientError> {
            if name.is_empty() || [name, value].iter().any(|t| t.contains(['\u{1}', '\u{2}'])) {
                return Err(ClientError::Message(format!("the property {name:?} is empty or contains a separator (U+0001, U+0002); remove it")));
            }
            properties::push(&mut text, name, value);
            Ok(())
        };
        for (name, value) in &self.properties {
            push(name, value)?;
        }
        if let Some(keys) = &self.keys {
            push(properties::KEYS, keys)?;
        }
        if let Some(tag) = &self.tag {
            push(properties::TAGS, tag)?;
        }
        if self.delay_level > 0 {
            push(properties::DELAY_LEVEL, &self.delay_level.to_string())?;
        }
        push(properties::WAIT, "true")?;
        push(properties::UNIQUE_KEY, unique_id)?;
        Ok(text)
    }
}

/// How safe a stored message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SendStatus {
    /// As safe as the broker promises.
    Stored,
    /// Stored, but not flushed in time.
    FlushTimeout,
    /// Stored, but not on a replica in time.
    ReplicaTimeout,
    /// Stored, but there is no replica.
    NoReplica,
}

/// Where a message was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SendReceipt {
    /// How safe it is.
    pub status: SendStatus,
    /// The id this client gave it.
    pub unique_id: String,
    /// The id that names broker and place.
    pub offset_id: String,
    /// Name of the broker.
    pub broker: String,
    /// Queue number.
    pub queue_id: i32,
    /// Entry number in the queue.
    pub queue_offset: i64,
    /// The transaction's id.
    pub transaction_id: Option<String>,
}

/// A message as a broker gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Topic.
    pub topic: String,
    /// Queue number.
    pub queue_id: i32,
    /// Entry number in the queue.
    pub queue_offset: u64,
    /// Byte position in the broker's commit log.
    pub log_offset: u64,
    /// Body, inflated if it was compressed.
    pub body: Bytes,
    /// Names and values.
    pub properties: Vec<(String, String)>,
    /// The application's flag.
    pub flag: i32,
    /// See `sluice_protocol::record::sys_flag`.
    pub sys_flag: i32,
    /// When it was made, ms since 1970.
    pub born_timestamp: i64,
    /// When it was stored, ms since 1970.
    pub store_timestamp: i64,
    /// Who made it.
    pub born_host: String,
    /// Who stored it.
    pub store_host: String,
    /// How often a consumer has failed on it.
    pub reconsume_times: i32,
    /// The id that names broker and place.
    pub offset_id: String,
}

impl ReceivedMessage {
    pub(crate) fn from_record(view: &RecordView<'_>, all: &Bytes) -> Result<Self, String> {
        let body = match Compression::of(view.sys_flag()) {
            None => all.slice_ref(view.body()),
            Some(compression) => inflate(view.body(), compression, BODY_BYTES_MAX).map_err(BodyError::from).map_err(|e| e.to_string())?.into(),
        };
        let log_offset = i64::try_from(view.log_offset()).map_err(|_| "a commit log offset is negative".to_owned())?;
        Ok(Self {
            topic: view.topic().to_owned(),
            queue_id: view.queue_id(),
            queue_offset: view.queue_offset(),
            log_offset: view.log_offset(),
            body,
            properties: properties::iter(view.user_properties()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            flag: view.flag(),
            sys_flag: view.sys_flag(),
            born_timestamp: view.born_timestamp(),
            store_timestamp: view.store_timestamp(),
            born_host: view.born_host().to_string(),
            store_host: view.store_host().to_string(),
            reconsume_times: view.reconsume_times(),
            offset_id: OffsetMessageId { store_host: view.store_host(), log_offset }.encode(),
        })
    }

    /// Reads all records of a body.
    pub(crate) fn all_from(body: &Bytes) -> Result<Vec<Self>, String> {
        let mut messages = Vec::new();
        let mut at = 0;
        while at < body.len() {
            let view = RecordView::parse(&body[at..]).map_err(|e| format!("record {} at byte {at}: {e}", messages.len()))?;
            messages.push(Self::from_record(&view, body)?);
            at += view.bytes().len();
        }
        Ok(messages)
    }

    /// The value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The id the producer gave it.
    #[must_use]
    pub fn unique_id(&self) -> Option<&str> {
        self.property(properties::UNIQUE_KEY)
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.property(properties::TAGS)
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> Option<&str> {
        self.property(properties::KEYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_protocol::record::{RecordFields, encode, seal};

    fn record(body: &[u8], sys_flag: i32) -> Vec<u8> {
        let fields = RecordFields {
            topic: "t",
            queue_id: 1,
            flag: 0,
            sys_flag,
            born_timestamp: 5,
            born_host: "10.0.0.1:1".parse().expect("literal"),
            store_host: "127.0.0.1:10911".parse().expect("literal"),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: "TAGS\u{1}a\u{2}",
        };
        let mut bytes = Vec::new();
        encode(&fields, &mut bytes).expect("fits");
        seal(&mut bytes, 9, 0x1234, 6);
        bytes
    }

    #[test]
    fn all_records_of_a_body_are_read_and_compressed_ones_inflated() {
        let packed = sluice_protocol::compress::deflate_zlib(b"second");
        let body = Bytes::from([record(b"first", 0), record(&packed, 1)].concat());
        let messages = ReceivedMessage::all_from(&body).expect("valid");
        assert_eq!(messages.iter().map(|m| &m.body[..]).collect::<Vec<_>>(), [&b"first"[..], b"second"]);
        assert_eq!((messages[0].tag(), messages[0].offset_id.as_str()), (Some("a"), "7F00000100002A9F0000000000001234"));
    }

    #[test]
    fn a_cut_record_is_an_error_and_not_a_short_list() {
        let bytes = record(b"first", 0);
        assert!(ReceivedMessage::all_from(&Bytes::copy_from_slice(&bytes[..bytes.len() - 1])).is_err());
    }

    #[test]
    fn a_separator_in_a_property_is_refused() {
        let message = Message { tag: Some("a\u{2}KEYS\u{1}x".into()), ..Message::new("t", "") };
        assert!(matches!(message.wire_properties("id"), Err(ClientError::Message(_))));
    }
}
