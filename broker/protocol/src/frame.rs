//! The remoting frame: `total length 4 · form and header length 4 · header · body`, big-endian; the total does not count its own four bytes.

use crate::{Header, Serialization, header_binary, header_json};
use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Bytes before the header: the total length, then the header's form (top byte) and length.
const PREFIX_BYTES: usize = 8;
/// The largest header length that fits beside the form's byte.
const HEADER_LENGTH_MASK: u32 = 0x00FF_FFFF;

/// What a peer may declare. Checked before anything is allocated or even waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Longest frame, its own length field counted.
    pub frame_bytes_max: usize,
    /// Longest header.
    pub header_bytes_max: usize,
    /// Most entries in a header's map.
    pub ext_fields_max: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { frame_bytes_max: 16 * 1024 * 1024, header_bytes_max: 64 * 1024, ext_fields_max: 256 }
    }
}

/// One request or answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// What follows it: a slice of the receive buffer, not a copy.
    pub body: Bytes,
}

/// What the buffer held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// No whole frame yet: at least so many bytes more are needed. The number is bounded by the limits, but a peer chose it: grow the buffer as bytes
    /// arrive, not by it.
    Need(usize),
    /// A frame, taken from the buffer.
    Frame(Frame),
}

/// Why a connection's bytes are no frame. The stream can't be read any further: close the connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The total length can't even hold the header's length, or is negative.
    #[error("the frame declares a length of {0}; the least is 4")]
    BadLength(i32),
    /// More than the limit.
    #[error("the frame declares {bytes} bytes; the limit is {max}")]
    FrameTooLarge {
        /// Bytes declared, the length field counted.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The header would end beyond the frame.
    #[error("the frame declares a header of {header} bytes but has room for {room}")]
    HeaderBeyondFrame {
        /// Bytes declared.
        header: usize,
        /// Bytes there are.
        room: usize,
    },
    /// More than the limit.
    #[error("the frame declares a header of {bytes} bytes; the limit is {max}")]
    HeaderTooLarge {
        /// Bytes declared.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Neither JSON (0) nor binary (1).
    #[error("the frame's header has form {0}; 0 (JSON) and 1 (binary) are known")]
    UnknownSerialization(u8),
    /// The header is not UTF-8.
    #[error("the frame's header is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first byte that is wrong.
        at: usize,
    },
    /// The header is no JSON object of the expected shape.
    #[error("the frame's JSON header is malformed: {0}")]
    Json(String),
    /// A length in the binary header is negative or leads out of it.
    #[error("the frame's binary header is malformed: {what} at byte {at}")]
    Binary {
        /// What was being read.
        what: &'static str,
        /// Where in the header.
        at: usize,
    },
    /// More fields than the limit.
    #[error("the frame's header has more than {0} fields")]
    TooManyFields(usize),
}

/// Why a frame could not be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The header has outgrown its 24-bit length.
    #[error("the header has {0} bytes; a frame can carry 16777215")]
    HeaderTooLarge(usize),
    /// The frame has outgrown its 31-bit length.
    #[error("the frame has {0} bytes; its length field ends at 2147483647")]
    FrameTooLarge(usize),
    /// The binary header has 16 bits for the code, the version and a field name's length.
    #[error("{what} is {value}, which a binary header can't carry; use JSON")]
    BinaryRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: i64,
    },
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Takes the next frame off the front of `buffer`, or tells how many bytes are missing. After an error the buffer's content has no meaning.
pub fn next_frame(buffer: &mut BytesMut, limits: &FrameLimits) -> Result<Step, FrameError> {
    if buffer.len() < 4 {
        return Ok(Step::Need(4 - buffer.len()));
    }
    let declared = word(buffer).cast_signed();
    let total = usize::try_from(declared).map_err(|_| FrameError::BadLength(declared))?;
    if total < 4 {
        return Err(FrameError::BadLength(declared));
    }
    if total + 4 > limits.frame_bytes_max {
        return Err(FrameError::FrameTooLarge { bytes: total + 4, max: limits.frame_bytes_max });
    }
    if buffer.len() < PREFIX_BYTES {
        return Ok(Step::Need(PREFIX_BYTES - buffer.len()));
    }
    let (serialization, header_bytes) = header_prefix(word(&buffer[4..]), total - 4, limits)?;
    if buffer.len() < total + 4 {
        return Ok(Step::Need(total + 4 - buffer.len()));
    }
    let mut frame = buffer.split_to(total + 4);
    let body = frame.split_off(PREFIX_BYTES + header_bytes);
    let header = frame.split_off(PREFIX_BYTES);
    let header = match serialization {
        Serialization::Json => header_json::decode(header.freeze(), limits)?,
        Serialization::Binary => header_binary::decode(header, limits)?,
    };
    // An empty slice would keep the whole receive buffer alive.
    let body = if body.is_empty() { Bytes::new() } else { body.freeze() };
    Ok(Step::Frame(Frame { header, body }))
}

fn header_prefix(word: u32, room: usize, limits: &FrameLimits) -> Result<(Serialization, usize), FrameError> {
    let header = (word & HEADER_LENGTH_MASK) as usize;
    let serialization = match (word >> 24) as u8 {
        0 => Serialization::Json,
        1 => Serialization::Binary,
        form => return Err(FrameError::UnknownSerialization(form)),
    };
    if header > room {
        return Err(FrameError::HeaderBeyondFrame { header, room });
    }
    if header > limits.header_bytes_max {
        return Err(FrameError::HeaderTooLarge { bytes: header, max: limits.header_bytes_max });
    }
    Ok((serialization, header))
}

/// Appends the lengths and the header of a frame whose body of `body_bytes` bytes the caller writes after it, so that a large body needs no copy. On an
/// error `out` is as it was.
pub fn encode_frame(header: &Header, body_bytes: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    let encoded = write_header(header, body_bytes, out, start);
    if encoded.is_err() {
        out.truncate(start);
    }
    encoded
}

fn write_header(header: &Header, body_bytes: usize, out: &mut BytesMut, start: usize) -> Result<(), EncodeError> {
    out.reserve(PREFIX_BYTES + 256);
    out.put_u64(0);
    let form = match header.serialization {
        Serialization::Json => {
            header_json::encode(header, out);
            0
        }
        Serialization::Binary => {
            header_binary::encode(header, out)?;
            1
        }
    };
    let header_bytes = out.len() - start - PREFIX_BYTES;
    let length = u32::try_from(header_bytes).ok().filter(|n| *n <= HEADER_LENGTH_MASK).ok_or(EncodeError::HeaderTooLarge(header_bytes))?;
    let total = body_bytes.saturating_add(header_bytes + 4);
    let total = i32::try_from(total).map_err(|_| EncodeError::FrameTooLarge(total))?;
    out[start..start + 4].copy_from_slice(&total.to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&(form << 24 | length).to_be_bytes());
    Ok(())
}

impl Frame {
    /// A frame without a body.
    #[must_use]
    pub const fn without_body(header: Header) -> Self {
        Self { header, body: Bytes::new() }
    }

    /// Appends the whole frame. On an error `out` is as it was.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_frame(&self.header, self.body.len(), out)?;
        out.extend_from_slice(&self.body);
        Ok(())
    }
}
