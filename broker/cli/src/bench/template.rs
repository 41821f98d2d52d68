//! Sends, encoded once. What differs from one request to the next (its number, its time, its messages' ids) is patched into a copy.

use crate::error::CliError;
use bytes::BytesMut;
use memchr::memmem;
use sluice_protocol::{
    Header, RequestCode, Serialization, WireStr,
    batch::{self, BatchMessage},
    encode_frame,
    headers::SendMessageRequest,
    properties,
};

/// Opaque numbers begin here, so that all have ten digits.
pub(crate) const OPAQUE_FIRST: i32 = 1_000_000_000;
/// Digits of a unique id that count; those before tell connections apart.
const COUNTER_DIGITS: usize = 8;
const BORN_PLACEHOLDER: i64 = 1_111_111_111_111;
/// Where a binary header has its opaque number: after lengths, code, language and version.
const BINARY_OPAQUE_AT: usize = 8 + 5;

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) group: String,
    pub(crate) body_bytes: usize,
    pub(crate) batch: usize,
    pub(crate) tag: Option<String>,
    pub(crate) unique_ids: bool,
    pub(crate) serialization: Serialization,
}

/// A queue to send to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) topic: String,
    pub(crate) queue_id: u32,
}

/// The frame up to its body, for one queue.
struct Head {
    bytes: Vec<u8>,
    opaque_at: usize,
    born_at: usize,
    ids: Vec<usize>,
}

/// All sends of one connection.
pub(crate) struct Templates {
    heads: Vec<Head>,
    body: Vec<u8>,
    body_ids: Vec<usize>,
    binary: bool,
    turn: usize,
    counter: u32,
}

impl Templates {
    /// Sends to these queues in turn. `salt` tells this connection's ids from others'.
    pub(crate) fn new(shape: &Shape, targets: &[Target], salt: u64, first_turn: usize) -> Result<Self, CliError> {
        let id = format!("{:016X}{salt:08X}00000000", u64::from(std::process::id()) << 32 | salt >> 32 & 0xFFFF_FFFF);
        let mut text = String::new();
        if let Some(tag) = &shape.tag {
            properties::push(&mut text, properties::TAGS, tag);
        }
        properties::push(&mut text, properties::WAIT, "true");
        if shape.unique_ids {
            properties::push(&mut text, properties::UNIQUE_KEY, &id);
        }
        let payload: Vec<u8> = (0..shape.body_bytes).map(|i| b'a' + (i % 26) as u8).collect();
        let body = body(&payload, &text, shape.batch)?;
        let body_ids = if shape.batch > 1 { find_all(&body, id.as_bytes()) } else { Vec::new() };
        let heads = targets.iter().map(|t| head(shape, t, &text, body.len(), &id)).collect::<Result<_, _>>()?;
        Ok(Self { heads, body, body_ids, binary: shape.serialization == Serialization::Binary, turn: first_turn, counter: 0 })
    }

    /// Bytes of one request.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.heads.first().map_or(0, |h| h.bytes.len()) + self.body.len()
    }

    /// Appends the next request.
    pub(crate) fn encode(&mut self, opaque: i32, now_ms: u64, out: &mut Vec<u8>) {
        let head = &self.heads[self.turn % self.heads.len()];
        self.turn = self.turn.wrapping_add(1);
        let start = out.len();
        out.extend_from_slice(&head.bytes);
        if self.binary {
            out[start + head.opaque_at..][..4].copy_from_slice(&opaque.to_be_bytes());
        } else {
            decimal(&mut out[start + head.opaque_at..][..10], u64::from(opaque.unsigned_abs()));
        }
        decimal(&mut out[start + head.born_at..][..13], now_ms);
        for at in &head.ids {
            self.counter = self.counter.wrapping_add(1);
            hex(&mut out[start + at..][..COUNTER_DIGITS], self.counter);
        }
        let start = out.len();
        out.extend_from_slice(&self.body);
        for at in &self.body_ids {
            self.counter = self.counter.wrapping_add(1);
            hex(&mut out[start + at..][..COUNTER_DIGITS], self.counter);
        }
    }
}

fn body(payload: &[u8], properties: &str, batch: usize) -> Result<Vec<u8>, CliError> {
    if batch <= 1 {
        return Ok(payload.to_vec());
    }
    let mut body = Vec::new();
    for _ in 0..batch {
        batch::encode(&BatchMessage { flag: 0, body: payload, properties }, &mut body).map_err(|e| CliError::Usage(e.to_string()))?;
    }
    Ok(body)
}

fn head(shape: &Shape, target: &Target, properties: &str, body_bytes: usize, id: &str) -> Result<Head, CliError> {
    let batch = shape.batch > 1;
    let send = SendMessageRequest {
        producer_group: shape.group.as_str().into(),
        topic: target.topic.as_str().into(),
        default_topic: WireStr::from_static("TBW102"),
        default_topic_queue_nums: 4,
        queue_id: target.queue_id.cast_signed(),
        born_timestamp: BORN_PLACEHOLDER,
        properties: if batch { WireStr::new() } else { properties.into() },
        batch,
        ..SendMessageRequest::default()
    };
    let code = if batch { RequestCode::SendBatchMessage } else { RequestCode::SendMessageV2 };
    let mut header = Header::request(code, OPAQUE_FIRST, send.encode_v2());
    header.serialization = shape.serialization;
    let mut bytes = BytesMut::new();
    encode_frame(&header, body_bytes, &mut bytes).map_err(|e| CliError::Usage(e.to_string()))?;
    let unfound = || CliError::Failed("the request's own fields cannot be found in it".to_owned());
    let born_at = memmem::find(&bytes, BORN_PLACEHOLDER.to_string().as_bytes()).ok_or_else(unfound)?;
    let opaque_at = match shape.serialization {
        Serialization::Binary => BINARY_OPAQUE_AT,
        Serialization::Json => memmem::find(&bytes, format!("\"opaque\":{OPAQUE_FIRST}").as_bytes()).ok_or_else(unfound)? + "\"opaque\":".len(),
    };
    let ids = find_all(&bytes, id.as_bytes());
    Ok(Head { bytes: bytes.to_vec(), opaque_at, born_at, ids })
}

/// Where the counting digits of each id are.
fn find_all(bytes: &[u8], id: &[u8]) -> Vec<usize> {
    memmem::find_iter(bytes, id).map(|at| at + id.len() - COUNTER_DIGITS).collect()
}

fn decimal(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn hex(place: &mut [u8], mut value: u32) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for digit in place.iter_mut().rev() {
        *digit = DIGITS[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_protocol::{FrameLimits, Step, next_frame};

    fn decoded(shape: &Shape) -> Vec<sluice_protocol::Frame> {
        let targets = [Target { topic: "t".into(), queue_id: 0 }, Target { topic: "t".into(), queue_id: 1 }];
        let mut templates = Templates::new(shape, &targets, 7, 0).expect("valid");
        let mut out = Vec::new();
        for n in 0..3 {
            templates.encode(OPAQUE_FIRST + n, 1_700_000_000_000, &mut out);
        }
        assert_eq!(out.len(), templates.frame_bytes() * 3);
        let mut bytes = BytesMut::from(&out[..]);
        let next = || match next_frame(&mut bytes, &FrameLimits::default()).expect("valid") {
            Step::Frame(frame) => Some(frame),
            Step::Need(_) => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn patched_requests_are_read_as_what_they_were_meant_to_be() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let shape = Shape { group: "g".into(), body_bytes: 9, batch: 1, tag: Some("a".into()), unique_ids: true, serialization };
            let frames = decoded(&shape);
            assert_eq!(frames.iter().map(|f| f.header.opaque - OPAQUE_FIRST).collect::<Vec<_>>(), [0, 1, 2]);
            let sends: Vec<_> = frames.iter().map(|f| SendMessageRequest::decode_v2(&f.header.ext).expect("valid")).collect();
            assert_eq!(sends.iter().map(|s| s.queue_id).collect::<Vec<_>>(), [0, 1, 0]);
            assert!(sends.iter().all(|s| s.born_timestamp == 1_700_000_000_000 && properties::get(&s.properties, "TAGS") == Some("a")));
            let ids: std::collections::BTreeSet<_> = sends.iter().map(|s| properties::get(&s.properties, "UNIQ_KEY").expect("there").to_owned()).collect();
            assert_eq!(ids.len(), 3);
            assert_eq!(&frames[0].body[..], b"abcdefghi");
        }
    }

    #[test]
    fn each_message_of_a_batch_has_an_id_of_its_own() {
        let shape = Shape { group: "g".into(), body_bytes: 4, batch: 5, tag: None, unique_ids: true, serialization: Serialization::Binary };
        let frames = decoded(&shape);
        let ids: std::collections::BTreeSet<_> = frames
            .iter()
            .flat_map(|f| {
                batch::decode(&f.body, 10).map(|m| properties::get(m.expect("valid").properties, "UNIQ_KEY").expect("there").to_owned()).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!((frames.len(), ids.len()), (3, 15));
    }
}
