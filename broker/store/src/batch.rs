//! What a caller hands to the log's writer: records already encoded, on the caller's thread.

use crate::{MetaChange, MetaTable, key_index::hash_key, queue_index::QueueRef};
use sluice_protocol::{
    java,
    properties::{self},
    record::{self, RecordError, RecordFields},
};
use smallvec::SmallVec;
use std::net::{Ipv4Addr, SocketAddr};

/// Topic of metadata records. `@` is illegal in a client's topic, so that no producer can forge one.
pub(crate) const META_TOPIC: &str = "@meta";

/// A record that waits for its place.
pub(crate) struct Pending {
    /// Its queue; `None` for metadata, which no consumer reads.
    pub(crate) queue: Option<QueueRef>,
    pub(crate) bytes: u32,
    pub(crate) tag_hash: i64,
    pub(crate) keys: SmallVec<[u64; 2]>,
}

/// Records in the order in which they shall lie in the log. They are placed without anything in between.
#[derive(Default)]
pub struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: SmallVec<[Pending; 1]>,
    pub(crate) changes: Vec<MetaChange>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Encodes a record for `queue`. `fields.topic` and `fields.queue_id` must be the queue's.
    pub fn push(&mut self, queue: &QueueRef, fields: &RecordFields<'_>) -> Result<(), RecordError> {
        debug_assert_eq!((fields.topic, fields.queue_id), (queue.topic().as_str(), queue.id().to_wire()));
        let bytes = record::encode(fields, &mut self.bytes)?;
        let (tag_hash, keys) = derived(fields.topic, fields.properties);
        self.records.push(Pending { queue: Some(queue.clone()), bytes: bytes as u32, tag_hash, keys });
        Ok(())
    }

    /// Adds changes of metadata as one record: all of them take effect, or none.
    pub fn meta(&mut self, changes: &[MetaChange]) -> Result<(), RecordError> {
        let body = encode_changes(changes);
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let fields = RecordFields {
            topic: META_TOPIC,
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: nowhere,
            store_host: nowhere,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &body,
            properties: "",
        };
        let bytes = record::encode(&fields, &mut self.bytes)?;
        self.records.push(Pending { queue: None, bytes: bytes as u32, tag_hash: 0, keys: SmallVec::new() });
        self.changes.extend_from_slice(changes);
        Ok(())
    }

    /// Bytes of the records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records there are.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Whether only metadata is in it, which may use the space kept back on a full disk.
    pub(crate) fn only_metadata(&self) -> bool {
        self.records.iter().all(|r| r.queue.is_none())
    }
}

/// What dispatch derives from a record's properties: the hash of its tag and of its keys.
pub(crate) fn derived(topic: &str, properties: &str) -> (i64, SmallVec<[u64; 2]>) {
    let mut tag_hash = 0;
    let mut keys = SmallVec::new();
    for (name, value) in properties::iter(properties) {
        match name {
            properties::TAGS if !value.is_empty() => tag_hash = i64::from(java::string_hash(value)),
            properties::KEYS => keys.extend(value.split(' ').filter(|k| !k.is_empty()).map(|k| hash_key(topic, k))),
            properties::UNIQUE_KEY => keys.push(hash_key(topic, value)),
            _ => {}
        }
    }
    (tag_hash, keys)
}

fn encode_changes(changes: &[MetaChange]) -> Vec<u8> {
    let mut body = Vec::new();
    for change in changes {
        put_change(&mut body, change.table, &change.key, change.value.as_deref());
    }
    body
}

/// One change: table 1 · key length 4 · key · value length 4 (all ones: deleted) · value.
pub(crate) fn put_change(out: &mut Vec<u8>, table: MetaTable, key: &str, value: Option<&[u8]>) {
    out.push(table as u8);
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&value.map_or(u32::MAX, |v| v.len() as u32).to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// Reads changes back; `None` when the bytes are no changes.
pub(crate) fn decode_changes(mut bytes: &[u8]) -> Option<Vec<MetaChange>> {
    let mut changes = Vec::new();
    while let Some((table, rest)) = bytes.split_first() {
        let table = MetaTable::from_byte(*table)?;
        let (key, rest) = take_text(rest)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length);
        let (value, rest) = if length == u32::MAX { (None, rest) } else { rest.split_at_checked(length as usize).map(|(v, r)| (Some(v.to_vec()), r))? };
        changes.push(MetaChange { table, key: key.to_owned(), value });
        bytes = rest;
    }
    Some(changes)
}

fn take_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_back_and_a_cut_one_is_refused() {
        let changes = [
            MetaChange { table: MetaTable::Topics, key: "a".into(), value: Some(b"{}".to_vec()) },
            MetaChange { table: MetaTable::Offsets, key: "g".into(), value: None },
        ];
        let body = encode_changes(&changes);
        assert_eq!(decode_changes(&body).as_deref(), Some(&changes[..]));
        assert_eq!(decode_changes(&body[..body.len() - 1]), None);
    }
}
