//! The record: what a message is on disk and in a pull reply, byte for byte RocketMQ's message format v1 and v2 (big-endian).
//!
//! This is the one place that knows a field's position. A record is written in two steps: [`encode`] on the connection's thread, with room for what only the log's
//! writer knows, then [`seal`] by the writer, which fills in both offsets and the store timestamp and ends the record with the `__CRC32#` property. The checksum covers
//! every byte before that property, so that a torn header or torn properties are found, and so that a record left over from an earlier life of its file (its
//! commit log offset names another place) is never taken for a live one.

use crate::properties::{self, PROPERTIES_BYTES_MAX, PropertiesError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// Magic of a v1 record: topic length in one byte.
pub const MAGIC_V1: i32 = -626_843_481;
/// Magic of a v2 record: topic length in two bytes.
pub const MAGIC_V2: i32 = -626_843_477;
/// Magic of the filler between a segment's last record and its end.
pub const MAGIC_BLANK: i32 = -875_286_124;
/// Bytes of the checksum property: name, separator, ten digits, separator.
pub const CRC_PROPERTY_BYTES: usize = 20;
/// Total size and magic: what a filler consists of, and what must be read to know a record's size.
pub const PREFIX_BYTES: usize = 8;
/// Bytes before the born host, the first field of variable width.
const FIXED_HEAD_BYTES: usize = 56;
/// Largest record the codec accepts. A hostile total size above it is refused before anything is allocated.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

const CRC_NAME: &[u8; 9] = b"__CRC32#\x01";

mod at {
    pub(super) const TOTAL_SIZE: usize = 0;
    pub(super) const MAGIC: usize = 4;
    pub(super) const BODY_CRC: usize = 8;
    pub(super) const QUEUE_ID: usize = 12;
    pub(super) const FLAG: usize = 16;
    pub(super) const QUEUE_OFFSET: usize = 20;
    pub(super) const LOG_OFFSET: usize = 28;
    pub(super) const SYS_FLAG: usize = 36;
    pub(super) const BORN_TIMESTAMP: usize = 40;
    pub(super) const BORN_HOST: usize = 48;
}
const _: () = assert!(at::BORN_HOST + 8 == FIXED_HEAD_BYTES);
const _: () = assert!(CRC_NAME.len() + 10 + 1 == CRC_PROPERTY_BYTES);

/// Bits of the record's `sysFlag`.
pub mod sys_flag {
    /// The body is compressed (by the client, for the client).
    pub const COMPRESSED: i32 = 0x1;
    /// More than one tag.
    pub const MULTI_TAGS: i32 = 0x2;
    /// Two bits: not transactional, half message, committed, rolled back.
    pub const TRANSACTION_MASK: i32 = 0xC;
    /// Half message.
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    /// Committed.
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    /// Rolled back.
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    /// The born host is IPv6.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The store host is IPv6.
    pub const STORE_HOST_V6: i32 = 0x20;
}

/// Why bytes are no record, or a record could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Fewer bytes than the record says it has.
    #[error("the record needs {needed} bytes, {have} are there")]
    Short {
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        have: usize,
    },
    /// The total size is below the smallest or above the largest possible.
    #[error("the record's total size {0} is impossible")]
    TotalSize(i32),
    /// Neither v1 nor v2.
    #[error("the record's magic {0:#x} is not known")]
    Magic(i32),
    /// An inner length does not fit into the record.
    #[error("the record's {0} does not fit into the record")]
    Length(&'static str),
    /// The checksum property is missing or its value is not that of the bytes.
    #[error("the record's checksum does not match its bytes")]
    Checksum,
    /// Topic or properties are not text.
    #[error("the record's {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// The topic is longer than the length field can hold.
    #[error("a topic of {0} bytes does not fit into a record")]
    TopicTooLong(usize),
    /// The properties do not fit.
    #[error(transparent)]
    Properties(#[from] PropertiesError),
}

/// What a record is made of before the log knows its place.
#[derive(Clone, Copy, Debug)]
pub struct RecordFields<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Queue number.
    pub queue_id: i32,
    /// The application's flag.
    pub flag: i32,
    /// See [`sys_flag`]; the bits for host widths are set by [`encode`].
    pub sys_flag: i32,
    /// When the producer made it, ms since 1970.
    pub born_timestamp: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// This broker's address, part of the offset message id.
    pub store_host: SocketAddr,
    /// How often a consumer has failed on it.
    pub reconsume_times: i32,
    /// Commit log offset of the half message, for transactions.
    pub prepared_transaction_offset: i64,
    /// Body as the producer sent it, possibly compressed.
    pub body: &'a [u8],
    /// Properties without a checksum.
    pub properties: &'a str,
}

const fn host_bytes(v6: bool) -> usize {
    if v6 { 20 } else { 8 }
}

/// Bytes the record will have once sealed.
#[must_use]
pub fn encoded_len(fields: &RecordFields<'_>) -> usize {
    let separator = usize::from(needs_separator(fields.properties));
    let topic_length = if fields.topic.len() > i8::MAX as usize { 2 } else { 1 };
    FIXED_HEAD_BYTES - 8
        + host_bytes(fields.born_host.is_ipv6())
        + 8
        + host_bytes(fields.store_host.is_ipv6())
        + 4
        + 8
        + 4
        + fields.body.len()
        + topic_length
        + fields.topic.len()
        + 2
        + fields.properties.len()
        + separator
        + CRC_PROPERTY_BYTES
}

fn needs_separator(text: &str) -> bool {
    !text.is_empty() && !text.ends_with(char::from(properties::PROPERTY_SEPARATOR))
}

/// The checksum RocketMQ uses: CRC-32 (IEEE) without its top bit.
#[must_use]
pub fn crc31(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

/// Appends a record to `out` with zeros where [`seal`] will write, and returns its length.
pub fn encode(fields: &RecordFields<'_>, out: &mut Vec<u8>) -> Result<usize, RecordError> {
    let total = encoded_len(fields);
    let properties_len = fields.properties.len() + usize::from(needs_separator(fields.properties)) + CRC_PROPERTY_BYTES;
    let properties_wire = i16::try_from(properties_len).map_err(|_| PropertiesError::TooLong(properties_len))?;
    let topic_wire = i16::try_from(fields.topic.len()).map_err(|_| RecordError::TopicTooLong(fields.topic.len()))?;
    let total_wire = i32::try_from(total).ok().filter(|_| total <= RECORD_BYTES_MAX).ok_or(RecordError::TotalSize(i32::MAX))?;
    let body_wire = i32::try_from(fields.body.len()).map_err(|_| RecordError::Length("body"))?;
    let v2 = fields.topic.len() > i8::MAX as usize;
    let flags = fields.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6)
        | if fields.born_host.is_ipv6() { sys_flag::BORN_HOST_V6 } else { 0 }
        | if fields.store_host.is_ipv6() { sys_flag::STORE_HOST_V6 } else { 0 };

    out.reserve(total);
    let start = out.len();
    out.extend_from_slice(&total_wire.to_be_bytes());
    out.extend_from_slice(&(if v2 { MAGIC_V2 } else { MAGIC_V1 }).to_be_bytes());
    out.extend_from_slice(&crc31(fields.body).to_be_bytes());
    out.extend_from_slice(&fields.queue_id.to_be_bytes());
    out.extend_from_slice(&fields.flag.to_be_bytes());
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&fields.born_timestamp.to_be_bytes());
    push_host(out, fields.born_host);
    out.extend_from_slice(&[0; 8]);
    push_host(out, fields.store_host);
    out.extend_from_slice(&fields.reconsume_times.to_be_bytes());
    out.extend_from_slice(&fields.prepared_transaction_offset.to_be_bytes());
    out.extend_from_slice(&body_wire.to_be_bytes());
    out.extend_from_slice(fields.body);
    match v2 {
        true => out.extend_from_slice(&topic_wire.to_be_bytes()),
        false => out.push(topic_wire.to_be_bytes()[1]),
    }
    out.extend_from_slice(fields.topic.as_bytes());
    out.extend_from_slice(&properties_wire.to_be_bytes());
    out.extend_from_slice(fields.properties.as_bytes());
    if needs_separator(fields.properties) {
        out.push(properties::PROPERTY_SEPARATOR);
    }
    out.resize(out.len() + CRC_PROPERTY_BYTES, 0);
    debug_assert_eq!(out.len() - start, total);
    Ok(total)
}

fn push_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&i32::from(host.port()).to_be_bytes());
}

/// Fills in what only the log's writer knows and closes the record with its checksum. `record` is exactly one encoded record.
///
/// # Panics
/// When `record` is shorter than any record: the caller passed something that [`encode`] did not make.
pub fn seal(record: &mut [u8], queue_offset: u64, log_offset: u64, store_timestamp: i64) {
    assert!(record.len() > FIXED_HEAD_BYTES + CRC_PROPERTY_BYTES, "not an encoded record");
    put(record, at::QUEUE_OFFSET, queue_offset.to_be_bytes());
    put(record, at::LOG_OFFSET, log_offset.to_be_bytes());
    let v6 = int(record, at::SYS_FLAG) & sys_flag::BORN_HOST_V6 != 0;
    put(record, at::BORN_HOST + host_bytes(v6), store_timestamp.to_be_bytes());
    let covered = record.len() - CRC_PROPERTY_BYTES;
    let property = crc_property(crc31(&record[..covered]));
    put(record, covered, property);
}

/// The checksum property: ten decimal digits, the lowest first.
fn crc_property(mut crc: u32) -> [u8; CRC_PROPERTY_BYTES] {
    let mut bytes = [b'0'; CRC_PROPERTY_BYTES];
    bytes[..CRC_NAME.len()].copy_from_slice(CRC_NAME);
    for digit in &mut bytes[CRC_NAME.len()..CRC_NAME.len() + 10] {
        *digit = b'0' + (crc % 10) as u8;
        crc /= 10;
    }
    bytes[CRC_PROPERTY_BYTES - 1] = properties::PROPERTY_SEPARATOR;
    bytes
}

fn put<const N: usize>(bytes: &mut [u8], position: usize, value: [u8; N]) {
    bytes[position..position + N].copy_from_slice(&value);
}

fn int(bytes: &[u8], position: usize) -> i32 {
    i32::from_be_bytes(array(bytes, position))
}

fn long(bytes: &[u8], position: usize) -> i64 {
    i64::from_be_bytes(array(bytes, position))
}

fn array<const N: usize>(bytes: &[u8], position: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[position..position + N]);
    out
}

/// What stands at a place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// A record of that many bytes, not yet checked.
    Record(usize),
    /// Filler up to the segment's end.
    Blank(usize),
    /// Neither: never written, torn, or damaged.
    Nothing,
}

/// Looks at the first eight bytes.
#[must_use]
pub fn prefix(bytes: &[u8]) -> Prefix {
    if bytes.len() < PREFIX_BYTES {
        return Prefix::Nothing;
    }
    let size = usize::try_from(int(bytes, at::TOTAL_SIZE)).unwrap_or(0);
    match int(bytes, at::MAGIC) {
        MAGIC_V1 | MAGIC_V2 if size > FIXED_HEAD_BYTES && size <= RECORD_BYTES_MAX => Prefix::Record(size),
        MAGIC_BLANK if size >= PREFIX_BYTES => Prefix::Blank(size),
        _ => Prefix::Nothing,
    }
}

/// The filler's first eight bytes for `size` bytes up to the segment's end.
#[must_use]
pub fn blank(size: u32) -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    put(&mut bytes, at::TOTAL_SIZE, size.to_be_bytes());
    put(&mut bytes, at::MAGIC, MAGIC_BLANK.to_be_bytes());
    bytes
}

/// Whether a whole record's last bytes are the checksum property of those before.
fn checksum_matches(record: &[u8]) -> bool {
    record.split_last_chunk().is_some_and(|(covered, property)| *property == crc_property(crc31(covered)))
}

/// A checked record, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    bytes: &'a [u8],
    v6_born: bool,
    v6_store: bool,
    body: (usize, usize),
    topic: &'a str,
    properties: &'a str,
}

impl<'a> RecordView<'a> {
    /// Reads the first record in `bytes` and checks its structure, not its checksum.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() < PREFIX_BYTES {
            return Err(RecordError::Short { needed: PREFIX_BYTES, have: bytes.len() });
        }
        let magic = int(bytes, at::MAGIC);
        let size = match prefix(bytes) {
            Prefix::Record(size) => size,
            _ if matches!(magic, MAGIC_V1 | MAGIC_V2) => return Err(RecordError::TotalSize(int(bytes, at::TOTAL_SIZE))),
            _ => return Err(RecordError::Magic(magic)),
        };
        let bytes = bytes.get(..size).ok_or(RecordError::Short { needed: size, have: bytes.len() })?;
        let flags = int(bytes, at::SYS_FLAG);
        let (v6_born, v6_store) = (flags & sys_flag::BORN_HOST_V6 != 0, flags & sys_flag::STORE_HOST_V6 != 0);
        let mut cursor = Cursor { bytes, position: at::BORN_HOST };
        cursor.take(host_bytes(v6_born) + 8 + host_bytes(v6_store) + 4 + 8, "hosts")?;
        let body_len = cursor.length(4, "body length")?;
        let body_start = cursor.position;
        cursor.take(body_len, "body")?;
        let topic_len = cursor.length(if magic == MAGIC_V2 { 2 } else { 1 }, "topic length")?;
        let topic = cursor.take(topic_len, "topic")?;
        let properties_len = cursor.length(2, "properties length")?;
        let properties = cursor.take(properties_len, "properties")?;
        if cursor.position != size {
            return Err(RecordError::TotalSize(int(bytes, at::TOTAL_SIZE)));
        }
        Ok(Self {
            bytes,
            v6_born,
            v6_store,
            body: (body_start, body_len),
            topic: std::str::from_utf8(topic).map_err(|_| RecordError::NotUtf8("topic"))?,
            properties: std::str::from_utf8(properties).map_err(|_| RecordError::NotUtf8("properties"))?,
        })
    }

    /// Reads the first record in `bytes` and checks its structure and the checksum over all of it. The checksum of the body alone is for readers.
    pub fn checked(bytes: &'a [u8]) -> Result<Self, RecordError> {
        // The checksum first, from front to back: the fields at both ends are in the processor's cache by then.
        let matches = match prefix(bytes) {
            Prefix::Record(size) => bytes.get(..size).is_some_and(checksum_matches),
            Prefix::Blank(_) | Prefix::Nothing => false,
        };
        let view = Self::parse(bytes)?;
        if matches && view.is_sealed() { Ok(view) } else { Err(RecordError::Checksum) }
    }

    /// Whether the record ends with a checksum property, as every record does that Sluice wrote.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.properties.len() >= CRC_PROPERTY_BYTES && self.bytes[self.bytes.len() - CRC_PROPERTY_BYTES..].starts_with(CRC_NAME)
    }

    /// The record's bytes, as stored and as sent.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Topic.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// Properties, the checksum property included.
    #[must_use]
    pub fn properties(&self) -> &'a str {
        self.properties
    }

    /// Properties without the checksum property: what a producer sent.
    #[must_use]
    pub fn user_properties(&self) -> &'a str {
        match self.is_sealed() {
            true => &self.properties[..self.properties.len() - CRC_PROPERTY_BYTES],
            false => self.properties,
        }
    }

    /// Body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.body.0..self.body.0 + self.body.1]
    }

    /// Checksum of the body alone, as the producer's client compares it.
    #[must_use]
    pub fn body_crc(&self) -> u32 {
        u32::from_be_bytes(array(self.bytes, at::BODY_CRC))
    }

    /// Queue number.
    #[must_use]
    pub fn queue_id(&self) -> i32 {
        int(self.bytes, at::QUEUE_ID)
    }

    /// The application's flag.
    #[must_use]
    pub fn flag(&self) -> i32 {
        int(self.bytes, at::FLAG)
    }

    /// Entry number in its queue.
    #[must_use]
    pub fn queue_offset(&self) -> u64 {
        u64::from_be_bytes(array(self.bytes, at::QUEUE_OFFSET))
    }

    /// Byte position in the commit log.
    #[must_use]
    pub fn log_offset(&self) -> u64 {
        u64::from_be_bytes(array(self.bytes, at::LOG_OFFSET))
    }

    /// See [`sys_flag`].
    #[must_use]
    pub fn sys_flag(&self) -> i32 {
        int(self.bytes, at::SYS_FLAG)
    }

    /// When the producer made it.
    #[must_use]
    pub fn born_timestamp(&self) -> i64 {
        long(self.bytes, at::BORN_TIMESTAMP)
    }

    /// The producer's address.
    #[must_use]
    pub fn born_host(&self) -> SocketAddr {
        host(self.bytes, at::BORN_HOST, self.v6_born)
    }

    /// When the store took it.
    #[must_use]
    pub fn store_timestamp(&self) -> i64 {
        long(self.bytes, at::BORN_HOST + host_bytes(self.v6_born))
    }

    fn after_store_host(&self) -> usize {
        at::BORN_HOST + host_bytes(self.v6_born) + 8 + host_bytes(self.v6_store)
    }

    /// The address of the broker that took it.
    #[must_use]
    pub fn store_host(&self) -> SocketAddr {
        host(self.bytes, at::BORN_HOST + host_bytes(self.v6_born) + 8, self.v6_store)
    }

    /// How often a consumer has failed on it.
    #[must_use]
    pub fn reconsume_times(&self) -> i32 {
        int(self.bytes, self.after_store_host())
    }

    /// Commit log offset of the half message.
    #[must_use]
    pub fn prepared_transaction_offset(&self) -> i64 {
        long(self.bytes, self.after_store_host() + 4)
    }
}

fn host(bytes: &[u8], position: usize, v6: bool) -> SocketAddr {
    let (ip, port_at) = match v6 {
        true => (IpAddr::V6(Ipv6Addr::from(array::<16>(bytes, position))), position + 16),
        false => (IpAddr::V4(Ipv4Addr::from(array::<4>(bytes, position))), position + 4),
    };
    // The wire gives a port four bytes; a value no port can have is shown as 0, it is of no use to anybody.
    SocketAddr::new(ip, u16::try_from(int(bytes, port_at)).unwrap_or(0))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let end = self.position.checked_add(len).ok_or(RecordError::Length(what))?;
        let piece = self.bytes.get(self.position..end).ok_or(RecordError::Length(what))?;
        self.position = end;
        Ok(piece)
    }

    /// A signed big-endian length of `width` bytes; negative is refused.
    fn length(&mut self, width: usize, what: &'static str) -> Result<usize, RecordError> {
        let raw = self.take(width, what)?;
        let negative = raw[0] & 0x80 != 0;
        let value = raw.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
        if negative { Err(RecordError::Length(what)) } else { Ok(value) }
    }
}

const _: () = assert!(PROPERTIES_BYTES_MAX <= i16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample<'a>(topic: &'a str, body: &'a [u8], properties: &'a str) -> RecordFields<'a> {
        RecordFields {
            topic,
            queue_id: 3,
            flag: 9,
            sys_flag: 0,
            born_timestamp: 1_700_000_000_123,
            born_host: "10.1.2.3:4567".parse().expect("literal"),
            store_host: "[2001:db8::1]:10911".parse().expect("literal"),
            reconsume_times: 2,
            prepared_transaction_offset: 77,
            body,
            properties,
        }
    }

    fn sealed(fields: &RecordFields<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(fields, &mut bytes).expect("fits");
        seal(&mut bytes, 5, 4096, 1_700_000_000_456);
        bytes
    }

    #[test]
    fn every_field_is_read_back() {
        let bytes = sealed(&sample("TopicA", b"hello", "TAGS\u{1}a"));
        let view = RecordView::checked(&bytes).expect("valid");
        assert_eq!((view.topic(), view.body(), view.queue_id(), view.flag()), ("TopicA", &b"hello"[..], 3, 9));
        assert_eq!((view.queue_offset(), view.log_offset(), view.store_timestamp()), (5, 4096, 1_700_000_000_456));
        assert_eq!((view.reconsume_times(), view.prepared_transaction_offset()), (2, 77));
        assert_eq!(view.born_host().to_string(), "10.1.2.3:4567");
        assert_eq!(view.store_host().to_string(), "[2001:db8::1]:10911");
        assert_eq!(view.user_properties(), "TAGS\u{1}a\u{2}");
        assert_eq!(view.body_crc(), crc31(b"hello"));
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let good = sealed(&sample("TopicA", b"some body", "KEYS\u{1}k\u{2}"));
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[position] ^= 1 << bit;
                assert!(RecordView::checked(&bad).is_err(), "byte {position} bit {bit}");
            }
        }
    }

    #[test]
    fn a_long_topic_makes_a_v2_record() {
        let topic = "t".repeat(200);
        let bytes = sealed(&sample(&topic, b"", ""));
        assert_eq!(int(&bytes, at::MAGIC), MAGIC_V2);
        assert_eq!(RecordView::checked(&bytes).expect("valid").topic(), topic);
    }

    #[test]
    fn properties_that_do_not_fit_are_refused() {
        let long = "x".repeat(PROPERTIES_BYTES_MAX);
        let refused = encode(&sample("t", b"", &long), &mut Vec::new());
        assert!(matches!(refused, Err(RecordError::Properties(PropertiesError::TooLong(_)))));
    }

    proptest! {
        #[test]
        fn round_trip(body in proptest::collection::vec(any::<u8>(), 0..300), topic in "[a-zA-Z0-9_]{1,127}", properties in "([a-z]{1,5}\u{1}[a-z]{0,9}\u{2}){0,5}") {
            let bytes = sealed(&sample(&topic, &body, &properties));
            let view = RecordView::checked(&bytes).expect("valid");
            prop_assert_eq!(view.body(), &body[..]);
            prop_assert_eq!(view.topic(), &topic);
            prop_assert_eq!(view.user_properties(), &properties);
            prop_assert_eq!(bytes.len(), encoded_len(&sample(&topic, &body, &properties)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = prefix(&bytes);
            let _ = RecordView::checked(&bytes);
        }
    }
}
