//! Several messages in the body of one send: each `total size 4 · magic 4 · body CRC 4 · flag 4 · body 4+n · properties 2+n`, big-endian.

use crate::properties::{self, PropertiesError};
use thiserror::Error;

/// Bytes before the body.
const HEAD_BYTES: usize = 20;
/// Bytes of a message that has neither body nor properties.
const EMPTY_BYTES: usize = HEAD_BYTES + 2;

/// One message of a batch, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    /// The application's flag.
    pub flag: i32,
    /// Body.
    pub body: &'a [u8],
    /// See [`crate::properties`].
    pub properties: &'a str,
}

/// Why bytes are no batch, or a message can't be in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the message needs.
    #[error("message {index} of the batch needs {needed} bytes, {have} are left")]
    Short {
        /// Which message, from 0.
        index: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        have: usize,
    },
    /// The total size is not that of its parts.
    #[error("message {index} of the batch declares {declared} bytes, which its parts do not add up to")]
    TotalSize {
        /// Which message, from 0.
        index: usize,
        /// Bytes declared.
        declared: i32,
    },
    /// An inner length leads out of the message.
    #[error("the {what} of message {index} of the batch does not fit into it")]
    Length {
        /// Which message, from 0.
        index: usize,
        /// Which length.
        what: &'static str,
    },
    /// More messages than allowed.
    #[error("the batch has more than {0} messages")]
    TooMany(usize),
    /// The message is too large for its length fields.
    #[error("a body of {0} bytes does not fit into a batch")]
    BodyTooLarge(usize),
    /// The properties are not text, or too long.
    #[error(transparent)]
    Properties(#[from] PropertiesError),
}

/// Goes through a batch. After an error it ends.
///
/// The checksum of a body is not looked at: clients send 0, and so does the official one.
#[must_use]
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    rest: &'a [u8],
    index: usize,
    messages_max: usize,
}

/// Goes through the messages in `bytes`, at most `messages_max`.
pub fn decode(bytes: &[u8], messages_max: usize) -> Batch<'_> {
    Batch { rest: bytes, index: 0, messages_max }
}

impl<'a> Batch<'a> {
    fn message(&mut self) -> Result<BatchMessage<'a>, BatchError> {
        let index = self.index;
        if index == self.messages_max {
            return Err(BatchError::TooMany(self.messages_max));
        }
        let short = |needed| BatchError::Short { index, needed, have: self.rest.len() };
        let declared = i32::from_be_bytes(*self.rest.first_chunk().ok_or(short(EMPTY_BYTES))?);
        let total_size = BatchError::TotalSize { index, declared };
        let total = usize::try_from(declared).map_err(|_| total_size)?;
        if total < EMPTY_BYTES {
            return Err(total_size);
        }
        let (message, rest) = self.rest.split_at_checked(total).ok_or(short(total))?;
        let (head, parts) = message.split_at(HEAD_BYTES);
        let body_bytes = int(head, 16);
        let (body, parts) = split(parts, body_bytes.into()).ok_or(BatchError::Length { index, what: "body" })?;
        let no_properties = BatchError::Length { index, what: "properties" };
        let (length, parts) = parts.split_first_chunk().ok_or(no_properties)?;
        let (properties, parts) = split(parts, i16::from_be_bytes(*length).into()).ok_or(no_properties)?;
        if !parts.is_empty() {
            return Err(total_size);
        }
        self.rest = rest;
        self.index += 1;
        Ok(BatchMessage { flag: int(head, 12), body, properties: properties::from_bytes(properties)? })
    }
}

fn int(bytes: &[u8], at: usize) -> i32 {
    bytes[at..at + 4].iter().fold(0, |int, byte| int << 8 | i32::from(*byte))
}

fn split(bytes: &[u8], length: i64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(length).ok()?)
}

impl std::iter::FusedIterator for Batch<'_> {}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<BatchMessage<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.message();
        if message.is_err() {
            self.rest = &[];
        }
        Some(message)
    }
}

/// Appends a message to a batch. On an error `out` is as it was.
pub fn encode(message: &BatchMessage<'_>, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let too_large = BatchError::BodyTooLarge(message.body.len());
    let properties = message.properties.as_bytes();
    let properties_bytes = i16::try_from(properties.len()).map_err(|_| PropertiesError::TooLong(properties.len()))?;
    let body_bytes = i32::try_from(message.body.len()).map_err(|_| too_large)?;
    let total = message.body.len().checked_add(EMPTY_BYTES + properties.len()).ok_or(too_large)?;
    let total_bytes = i32::try_from(total).map_err(|_| too_large)?;
    out.reserve(total);
    out.extend_from_slice(&total_bytes.to_be_bytes());
    // Magic and checksum: the official client writes zeros and nobody reads them.
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&message.flag.to_be_bytes());
    out.extend_from_slice(&body_bytes.to_be_bytes());
    out.extend_from_slice(message.body);
    out.extend_from_slice(&properties_bytes.to_be_bytes());
    out.extend_from_slice(properties);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&BatchMessage { flag: 7, body: b"body", properties: "a\u{1}b\u{2}" }, &mut bytes).expect("fits");
        bytes
    }

    #[test]
    fn each_length_that_lies_is_told_apart() {
        fn first(bytes: &[u8]) -> Result<BatchMessage<'_>, BatchError> {
            decode(bytes, 10).next().expect("something")
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = one();
            bytes[at] = byte;
            first(&bytes).map(|_| ())
        };
        assert_eq!(first(&one()[..3]), Err(BatchError::Short { index: 0, needed: 22, have: 3 }));
        assert_eq!(first(&one()[..29]), Err(BatchError::Short { index: 0, needed: 30, have: 29 }));
        assert_eq!(with(0, 0x80), Err(BatchError::TotalSize { index: 0, declared: i32::MIN + 30 }));
        assert_eq!(with(3, 21), Err(BatchError::TotalSize { index: 0, declared: 21 }));
        assert_eq!(with(16, 0xFF), Err(BatchError::Length { index: 0, what: "body" }));
        assert_eq!(with(24, 0xFF), Err(BatchError::Length { index: 0, what: "properties" }));
        assert_eq!(with(25, 3), Err(BatchError::TotalSize { index: 0, declared: 30 }));
        assert_eq!(with(26, 0xFF), Err(BatchError::Properties(PropertiesError::NotUtf8)));
    }

    #[test]
    fn a_batch_ends_at_its_first_error_and_at_its_limit() {
        let two = [one(), one()].concat();
        assert_eq!(decode(&two, 2).filter_map(Result::ok).count(), 2);
        assert_eq!(decode(&two, 1).last(), Some(Err(BatchError::TooMany(1))));
        assert_eq!(decode(&two[..40], 9).collect::<Vec<_>>().len(), 2);
        assert_eq!(decode(&[], 9).next(), None);
    }

    proptest! {
        #[test]
        fn every_batch_is_read_back(messages in proptest::collection::vec((any::<i32>(), proptest::collection::vec(any::<u8>(), 0..50), "\\PC{0,40}"), 0..6)) {
            let messages: Vec<BatchMessage<'_>> = messages.iter().map(|(flag, body, properties)| BatchMessage { flag: *flag, body, properties }).collect();
            let mut bytes = Vec::new();
            for message in &messages {
                encode(message, &mut bytes).expect("fits");
            }
            prop_assert_eq!(decode(&bytes, 6).collect::<Result<Vec<_>, _>>(), Ok(messages));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 3).count();
        }
    }
}
