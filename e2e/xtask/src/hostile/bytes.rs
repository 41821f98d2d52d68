//! What hostile clients send.

use anyhow::{Context, Result};
use bytes::BytesMut;
use flate2::{Compression, write::ZlibEncoder};
use sluice_protocol::{
    ExtFields, Frame, Header, RequestCode, TypedHeader,
    batch::{self, BatchMessage},
    compress,
    headers::{PullMessageRequest, QueryMessageRequest, RegisterBrokerRequest, SendMessageRequest, pull_flag},
};
use std::io::Write;

/// Where bombs go.
pub(super) const BOMBED_TOPIC: &str = "hostile-bombs";
/// Whose messages are asked for and never read; all lie in queue 0.
pub(super) const UNREAD_TOPIC: &str = "hostile-unread";
/// A key that all of them have.
pub(super) const UNREAD_KEY: &str = "every";
/// What a bomb inflates to.
const BOMB_BYTES: u64 = 1 << 30;
/// The broker's limits on a header: its bytes and its fields.
const HEADER_BYTES_MAX: usize = 64 * 1024;
const HEADER_FIELDS_MAX: usize = 256;

/// Everything, made once: the attackers' time shall go into sending.
pub(super) struct Arsenal {
    /// A heartbeat, long enough to be trickled for a while.
    pub(super) heartbeat: Vec<u8>,
    /// A send whose body inflates to a gigabyte.
    pub(super) bomb: Vec<u8>,
    /// A batch of such messages.
    pub(super) bomb_batch: Vec<u8>,
    /// A broker's registration that does the same. It is the one request whose body the server itself inflates.
    pub(super) bomb_registration: Vec<u8>,
    /// A request with as many header fields in as many bytes as are allowed.
    pub(super) full_header: Vec<u8>,
    /// The same with one field too many.
    pub(super) overfull_header: Vec<u8>,
    /// A pull of as much as the broker gives.
    pub(super) pull: Vec<u8>,
    /// A query for all messages of the topic.
    pub(super) query: Vec<u8>,
}

impl Arsenal {
    pub(super) fn new() -> Result<Self> {
        let bomb = inflating_to(BOMB_BYTES)?;
        Ok(Self {
            heartbeat: heartbeat("hostile")?,
            bomb: send(bomb.clone(), false)?,
            bomb_batch: send(batch_of(3, &bomb)?, true)?,
            bomb_registration: registration(bomb)?,
            full_header: filled_header(HEADER_FIELDS_MAX)?,
            overfull_header: filled_header(HEADER_FIELDS_MAX + 1)?,
            pull: pull()?,
            query: query()?,
        })
    }
}

/// What a client says of itself when it comes.
pub(super) fn heartbeat(client: &str) -> Result<Vec<u8>> {
    let body = format!(r#"{{"clientID":"{client}","producerDataSet":[{{"groupName":"hostile"}}],"consumerDataSet":[]}}"#);
    frame(RequestCode::HeartBeat, ExtFields::new(), body.into_bytes())
}

fn frame(code: RequestCode, ext: ExtFields, body: Vec<u8>) -> Result<Vec<u8>> {
    let mut bytes = BytesMut::new();
    Frame { header: Header::request(code, 1, ext), body: body.into() }.encode(&mut bytes).with_context(|| format!("encoding a {code}"))?;
    Ok(bytes.into())
}

/// Zlib that inflates to so many zeros, made without ever holding them.
fn inflating_to(bytes: u64) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(zeros.len() as u64);
        encoder.write_all(&zeros[..piece as usize]).context("compressing zeros")?;
        left -= piece;
    }
    encoder.finish().context("compressing zeros")
}

fn send(body: Vec<u8>, batch: bool) -> Result<Vec<u8>> {
    let fields = SendMessageRequest {
        producer_group: "hostile".into(),
        topic: BOMBED_TOPIC.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        sys_flag: compress::Compression::Zlib.sys_flag(),
        batch,
        ..SendMessageRequest::default()
    };
    frame(if batch { RequestCode::SendBatchMessage } else { RequestCode::SendMessageV2 }, fields.encode_v2(), body)
}

fn batch_of(count: usize, body: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for _ in 0..count {
        batch::encode(&BatchMessage { flag: 0, body, properties: "" }, &mut out).context("encoding a batch")?;
    }
    Ok(out)
}

fn registration(body: Vec<u8>) -> Result<Vec<u8>> {
    let fields = RegisterBrokerRequest {
        broker_name: "hostile".into(),
        broker_addr: "127.0.0.1:9".into(),
        cluster_name: "hostile".into(),
        broker_id: 0,
        compressed: true,
        ..RegisterBrokerRequest::default()
    };
    frame(RequestCode::RegisterBroker, fields.encode(), body)
}

/// The fields share what the header's own words leave of its bytes.
fn filled_header(fields: usize) -> Result<Vec<u8>> {
    let mut ext = ExtFields::with_capacity(fields);
    // `"f123":"…",` around each value, and the header's other words.
    let value = "x".repeat((HEADER_BYTES_MAX - 256) / fields - 10);
    for number in 0..fields {
        ext.insert(&format!("f{number:03}"), &value);
    }
    frame(RequestCode::HeartBeat, ext, Vec::new())
}

fn pull() -> Result<Vec<u8>> {
    let fields = PullMessageRequest {
        consumer_group: "hostile".into(),
        topic: UNREAD_TOPIC.into(),
        max_msg_nums: i32::MAX,
        sys_flag: pull_flag::SUBSCRIPTION,
        subscription: Some("*".into()),
        ..PullMessageRequest::default()
    };
    frame(RequestCode::PullMessage, fields.encode(), Vec::new())
}

fn query() -> Result<Vec<u8>> {
    let (topic, key) = (UNREAD_TOPIC.into(), UNREAD_KEY.into());
    let fields = QueryMessageRequest { topic, key, max_num: i32::MAX, begin_timestamp: 0, end_timestamp: i64::MAX, unique_key: false };
    frame(RequestCode::QueryMessage, fields.encode(), Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_protocol::{FrameError, FrameLimits, Step, next_frame};

    fn decoded(bytes: &[u8]) -> Result<Step, FrameError> {
        next_frame(&mut BytesMut::from(bytes), &FrameLimits::default())
    }

    #[test]
    fn a_bomb_is_small_and_inflates_to_what_it_promises() {
        let bomb = inflating_to(10_000_000).unwrap();
        assert!(bomb.len() < 20_000, "{}", bomb.len());
        assert_eq!(compress::inflate(&bomb, compress::Compression::Zlib, 10_000_000).unwrap().len(), 10_000_000);
    }

    #[test]
    fn a_batch_of_bombs_is_a_legal_batch() {
        let body = batch_of(3, b"bomb").unwrap();
        assert_eq!(batch::decode(&body, 3).filter_map(Result::ok).count(), 3);
    }

    #[test]
    fn the_full_header_is_just_legal_and_the_overfull_one_is_not() {
        let full = filled_header(HEADER_FIELDS_MAX).unwrap();
        assert!(full.len() > HEADER_BYTES_MAX * 9 / 10, "{}", full.len());
        assert!(matches!(decoded(&full), Ok(Step::Frame(frame)) if frame.header.ext.len() == HEADER_FIELDS_MAX));
        assert!(matches!(decoded(&filled_header(HEADER_FIELDS_MAX + 1).unwrap()), Err(FrameError::TooManyFields(HEADER_FIELDS_MAX))));
    }
}
