//! FastJSON's dialect of JSON: read by way of a rewriting to plain JSON, which most bodies don't need.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Deepest nesting accepted in a body.
pub const NESTING_MAX: usize = 32;

/// Why a body could not be read.
#[derive(Debug, Error)]
pub enum BodyError {
    /// More than [`NESTING_MAX`].
    #[error("the body nests more than {NESTING_MAX} deep")]
    TooDeep,
    /// Not the JSON that was expected.
    #[error("the body can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A compressed body that is damaged or too large.
    #[error("the body can't be inflated: {0}")]
    Compressed(#[from] crate::compress::CompressError),
    /// A length inside a compressed body leads out of it.
    #[error("the body's {0} does not fit into it")]
    Length(&'static str),
}

/// Reads a body. Plain JSON is tried first; when that fails, bare number keys and object keys are quoted and it is tried again.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    check_nesting(bytes)?;
    match serde_json::from_slice(bytes) {
        Ok(body) => Ok(body),
        Err(error) if error.is_syntax() => match quote_keys(bytes) {
            Some(plain) => Ok(serde_json::from_slice(&plain)?),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Writes a body as plain JSON, which every client reads.
pub fn to_json<T: Serialize>(body: &T) -> Vec<u8> {
    // Bodies are structs, lists and maps keyed by text or numbers: nothing in them can fail, and a Vec takes every write.
    serde_json::to_vec(body).expect("a body can be written as JSON")
}

/// Writes a body whose maps are keyed by objects the way FastJSON does: such a key stands as the object itself. The official tools understand nothing else.
pub fn to_fastjson<T: Serialize>(body: &T) -> Vec<u8> {
    let plain = to_json(body);
    let mut out = Vec::with_capacity(plain.len());
    let mut at = 0;
    while let Some(byte) = plain.get(at) {
        let end = if *byte == b'"' { string_end(&plain, at) + 1 } else { at + 1 };
        let piece = &plain[at..end.min(plain.len())];
        let is_object_key = piece.starts_with(b"\"{") && plain.get(end) == Some(&b':');
        match is_object_key.then(|| serde_json::from_slice::<String>(piece)) {
            Some(Ok(object)) => out.extend_from_slice(object.as_bytes()),
            _ => out.extend_from_slice(piece),
        }
        at = end;
    }
    out
}

/// For serde's `with`: a map whose keys are objects. It is written with the objects' text for keys, which [`to_fastjson`] then unwraps.
pub(super) mod object_keys {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};
    use std::collections::BTreeMap;

    pub(in crate::body) fn serialize<K: Serialize, V: Serialize, S: Serializer>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |key: &K| String::from_utf8(super::to_json(key)).expect("JSON is UTF-8");
        serializer.collect_map(map.iter().map(|(key, value)| (text(key), value)))
    }

    pub(in crate::body) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: DeserializeOwned + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let map = Option::<BTreeMap<String, V>>::deserialize(deserializer)?.unwrap_or_default();
        map.into_iter().map(|(key, value)| Ok((super::from_json(key.as_bytes()).map_err(de::Error::custom)?, value))).collect()
    }
}

/// Refuses what nests too deep, before anything recurses into it.
fn check_nesting(bytes: &[u8]) -> Result<(), BodyError> {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return Err(BodyError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The place of the quote that ends the string starting at `at`; the end of the bytes when there is none.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut escaped = false;
    let end = bytes[at + 1..].iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(bytes.len(), |length| at + 1 + length)
}

/// Quotes what stands as a key and is no string: a bare word or number, or a whole object, whose text becomes the key. `None` when there is no such key.
/// The nesting has been checked.
fn quote_keys(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut containers = Vec::new();
    let mut key_next = false;
    let mut changed = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let is_key = key_next && !byte.is_ascii_whitespace() && byte != b'}';
        key_next &= !is_key && byte != b'}';
        let end = match byte {
            b'"' => string_end(bytes, at) + 1,
            b'{' if is_key => object_end(bytes, at)? + 1,
            _ if is_key => at + bytes[at..].iter().position(|b| matches!(b, b':' | b'}' | b',') || b.is_ascii_whitespace())?,
            _ => at + 1,
        };
        let piece = bytes.get(at..end)?;
        if is_key && byte != b'"' {
            changed = true;
            quote(piece, &mut out);
        } else {
            out.extend_from_slice(piece);
            match byte {
                b'{' | b'[' => {
                    containers.push(byte);
                    key_next = byte == b'{';
                }
                b'}' | b']' => drop(containers.pop()),
                b',' => key_next = containers.last() == Some(&b'{'),
                _ => {}
            }
        }
        // A key of no bytes would be looked at for ever.
        at = end.max(at + usize::from(piece.is_empty()));
    }
    changed.then_some(out)
}

/// The place of the brace that ends the object starting at `at`.
fn object_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Appends `text` as a string. Bytes that JSON forbids there pass; the parser will say so.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{ConsumeStats, MessageQueue, TopicRouteData};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn bare_number_keys_are_read() {
        let table: BTreeMap<i64, String> = from_json(br#"{0:"127.0.0.1:10911", 1 :"a\"{,2:"}"#).expect("FastJSON");
        assert_eq!(table[&0], "127.0.0.1:10911");
        assert_eq!(table[&1], "a\"{,2:");
        let negative: BTreeMap<i64, i64> = from_json(b"{-1:2,3:4}").expect("FastJSON");
        assert_eq!(negative, BTreeMap::from([(-1, 2), (3, 4)]));
    }

    #[test]
    fn object_keys_become_their_text() {
        let table: BTreeMap<String, BTreeMap<i64, i64>> = from_json(br#"{{"topic":"t","q":[{1:2}]}:{5:6},"x":{}}"#).expect("FastJSON");
        assert_eq!(table.keys().collect::<Vec<_>>(), [r#"x"#, r#"{"topic":"t","q":[{1:2}]}"#]);
    }

    #[test]
    fn object_keys_are_written_as_objects() {
        let text = r#"{"consumeTps":0.5,"offsetTable":{{"brokerName":"b\"{","queueId":3,"topic":"t"}:{"brokerOffset":9,"consumerOffset":4,"lastTimestamp":0,"pullOffset":0}}}"#;
        let stats: ConsumeStats = from_json(text.as_bytes()).expect("FastJSON");
        assert_eq!(stats.offset_table[&MessageQueue { broker_name: "b\"{".into(), queue_id: 3, topic: "t".into() }].broker_offset, 9);
        assert_eq!(String::from_utf8(to_fastjson(&stats)).expect("UTF-8"), text);
    }

    #[test]
    fn what_nests_too_deep_is_refused_before_it_is_parsed() {
        let deep = "[".repeat(100_000);
        assert!(matches!(from_json::<serde_json::Value>(deep.as_bytes()), Err(BodyError::TooDeep)));
        let within = format!("{}{}", "[".repeat(32), "]".repeat(32));
        assert!(from_json::<serde_json::Value>(within.as_bytes()).is_ok());
        assert!(from_json::<serde_json::Value>(br#"["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\""]"#).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[\\[\\]{}\",:\\\\0-9a-z ]{0,60}") {
            let _ = from_json::<serde_json::Value>(text.as_bytes());
            let _ = from_json::<TopicRouteData>(text.as_bytes());
        }

        #[test]
        fn unquoting_number_keys_changes_nothing(table in proptest::collection::btree_map(any::<i64>(), "[ -~]{0,9}", 1..8)) {
            let items: Vec<String> = table.iter().map(|(k, v)| format!("{k}:{}", serde_json::to_string(v).expect("text"))).collect();
            let read: BTreeMap<i64, String> = from_json(format!("{{{}}}", items.join(",")).as_bytes()).expect("FastJSON");
            prop_assert_eq!(read, table);
        }
    }
}
