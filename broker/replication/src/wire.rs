//! What master and replica say to each other on the replication port, byte for byte. Who may say what when is not decided here.
//!
//! A frame is its length (4 bytes, big-endian as all numbers; of what follows), a kind (1) and a body. Rare messages are JSON, so that brokers of two versions understand
//! each other; the two that come all the time are fixed:
//!
//! | kind | message | body |
//! | --- | --- | --- |
//! | 1 | [`Hello`] | JSON, CRC-32 |
//! | 2 | [`Welcome`] | JSON, CRC-32 |
//! | 3 | [`Follow`] | JSON, CRC-32 |
//! | 4 | [`Data`] | epoch 8, from 8, confirmed 8, CRC-32; then log, whose records carry checksums of their own |
//! | 5 | [`Ack`] | epoch 8, received 8, flushed 8, beat 8, CRC-32 |
//! | 6 | [`Beat`] | JSON, CRC-32 |
//! | 7 | [`Refusal`] | JSON, CRC-32 |
//! | 8 | [`Ask`] | JSON, CRC-32 |
//! | 9 | [`Answer`] | JSON, CRC-32 |
//! | 10 | [`Take`] | JSON, CRC-32 |
//! | 11 | [`Seed`] | JSON, CRC-32 |
//! | 12 | [`Piece`] | CRC-32; then bytes, which carry checksums of their own |
//!
//! Each CRC-32 is over the kind and what stands between it and the checksum.

use crate::{Epoch, EpochMap, GroupState, Held, Incarnation, Member, MemberId, Seen};
use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_types::CommitLogOffset;

/// The version of what is said here. A broker refuses another one.
pub const VERSION: u16 = 1;
/// Largest frame without its length: a turn of the log's writer and then some, well above any one record.
pub const FRAME_BYTES_MAX: usize = 24 << 20;

const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
/// Of [`Data`] before its checksum: kind and three numbers.
const DATA_HEAD_BYTES: usize = 1 + 3 * 8;

/// A replica introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// Its cluster.
    pub cluster: String,
    /// Its group.
    pub group: String,
    /// Who it is, with the life of its store.
    pub member: Member,
    /// The newest state that it has seen.
    pub seen: Seen,
}

/// The master says what there is to follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// By which it is master.
    pub state: GroupState,
    /// Its log's epochs.
    pub epochs: EpochMap,
    /// Where its log begins.
    pub min: CommitLogOffset,
    /// Where it ends.
    pub end: CommitLogOffset,
    /// Bytes of its segments; a replica's must be as large.
    pub segment_bytes: u64,
    /// Where it serves clients (`host:port`).
    pub place: String,
    /// Of a member of the in-sync set: up to where this life of its store must have the log, because it has said so or because that is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub must_hold: Option<CommitLogOffset>,
}

/// The replica, having cut what the master does not have, asks for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    /// Under which master.
    pub epoch: Epoch,
    /// From where on.
    pub from: CommitLogOffset,
}

/// A part of the master's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The master's.
    pub epoch: Epoch,
    /// Where it begins.
    pub from: CommitLogOffset,
    /// What is confirmed by now.
    pub confirmed: CommitLogOffset,
    /// Whole records, without a gap to what came before. May be none, when only `confirmed` is news.
    pub log: Bytes,
}

/// A replica holds so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which master's log it is.
    pub epoch: Epoch,
    /// How much of it.
    pub held: Held,
    /// [`Beat::sent`] of the last one heard on this connection; 0: none. From then on the replica does not stand for master for the time of a lease.
    pub beat: u64,
}

/// The master lives. An answer to it is an [`Ack`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// By which it is master.
    pub state: GroupState,
    /// When, in milliseconds by the master's own clock, counted from anywhere but never 0.
    pub sent: u64,
    /// Its last renewal of the lease that is known to have gone through.
    pub renewal: u64,
}

/// A member asks another one what it knows. Any role answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ask {
    /// [`VERSION`].
    pub version: u16,
    /// The asker's cluster.
    pub cluster: String,
    /// Its group.
    pub group: String,
    /// Who asks.
    pub member: Member,
}

/// What it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Who answers.
    pub member: Member,
    /// The newest state that it has seen.
    pub seen: Seen,
    /// The epoch that it is master of.
    pub master_of: Option<Epoch>,
    /// Of a master: by which state.
    pub state: Option<GroupState>,
    /// How far it has the log.
    pub end: CommitLogOffset,
    /// The epoch of its log's last record.
    pub last_epoch: Option<Epoch>,
}

/// The connection ends, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The newest state that whoever refuses has seen, if that is the reason.
    pub state: Option<GroupState>,
    /// In words, for the other one's log.
    pub why: String,
}

/// A replica whose log can't be continued asks for the master's whole. What comes is a [`Seed`], its bytes in [`Piece`]s, and the log in [`Data`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Take {
    /// [`VERSION`].
    pub version: u16,
    /// Its cluster.
    pub cluster: String,
    /// Its group.
    pub group: String,
    /// Its number; its store is about to be another one.
    pub id: MemberId,
    /// Which life of its store is about to end; `None`: it has ended already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Incarnation>,
}

/// What a replica needs to take the log whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// Under which master.
    pub epoch: Epoch,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of the state of all that lies before the log; none if the log is there from its first record on, and then no log follows either: it is followed as ever.
    pub bytes: u64,
}

/// The next bytes of what the [`Seed`] has announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece(pub Bytes);

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Replica to master.
    Hello(Hello),
    /// Master to replica.
    Welcome(Welcome),
    /// Replica to master.
    Follow(Follow),
    /// Master to replica.
    Data(Data),
    /// Replica to master.
    Ack(Ack),
    /// Master to replica.
    Beat(Beat),
    /// Either.
    Refusal(Refusal),
    /// Any member to any other.
    Ask(Ask),
    /// The answer to it.
    Answer(Answer),
    /// Replica to master.
    Take(Take),
    /// Master to replica.
    Seed(Seed),
    /// Master to replica.
    Piece(Piece),
}

/// What came is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than any, or shorter.
    #[error("a frame of {0} bytes; between 5 and {FRAME_BYTES_MAX} are possible. Whoever is there speaks another protocol")]
    Length(usize),
    /// The bytes are not those that were sent.
    #[error("a frame of kind {0} does not match its checksum: it was damaged on its way")]
    Checksum(u8),
    /// Of a later version.
    #[error("frames of kind {0} are not known; the peer may be a newer version")]
    Kind(u8),
    /// Not what this version understands.
    #[error("a frame of kind {0} can't be read: {1}")]
    Content(u8, String),
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Follow(_) => 3,
            Self::Data(_) => 4,
            Self::Ack(_) => 5,
            Self::Beat(_) => 6,
            Self::Refusal(_) => 7,
            Self::Ask(_) => 8,
            Self::Answer(_) => 9,
            Self::Take(_) => 10,
            Self::Seed(_) => 11,
            Self::Piece(_) => 12,
        }
    }

    /// Appends the frame to `out`, but for the log of [`Data`] and the bytes of a [`Piece`], which come back: it has to follow at once and need not be copied.
    pub fn encode(&self, out: &mut Vec<u8>) -> Bytes {
        let at = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        out.push(self.kind());
        let rest = match self {
            Self::Hello(body) => put_json(body, out),
            Self::Welcome(body) => put_json(body, out),
            Self::Follow(body) => put_json(body, out),
            Self::Beat(body) => put_json(body, out),
            Self::Refusal(body) => put_json(body, out),
            Self::Ask(body) => put_json(body, out),
            Self::Answer(body) => put_json(body, out),
            Self::Take(body) => put_json(body, out),
            Self::Seed(body) => put_json(body, out),
            Self::Piece(Piece(bytes)) => bytes.clone(),
            Self::Data(Data { epoch, from, confirmed, log }) => {
                put_numbers([epoch.0, from.0, confirmed.0], out);
                log.clone()
            }
            Self::Ack(Ack { epoch, held, beat }) => {
                put_numbers([epoch.0, held.received.0, held.flushed.0, *beat], out);
                Bytes::new()
            }
        };
        let checksum = crc32fast::hash(&out[at + LENGTH_BYTES..]);
        out.extend_from_slice(&checksum.to_be_bytes());
        let length = (out.len() - at - LENGTH_BYTES + rest.len()) as u32;
        out[at..at + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        rest
    }

    /// The message at the front of `bytes`, which is taken out; `None` while it is not whole.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<Self>, WireError> {
        let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(1 + CHECKSUM_BYTES..=FRAME_BYTES_MAX).contains(&length) {
            return Err(WireError::Length(length));
        }
        if bytes.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        bytes.advance(LENGTH_BYTES);
        Self::decode_frame(bytes.split_to(length).freeze()).map(Some)
    }

    fn decode_frame(mut frame: Bytes) -> Result<Self, WireError> {
        let kind = frame[0];
        let rest = match kind {
            4 if frame.len() >= DATA_HEAD_BYTES + CHECKSUM_BYTES => frame.split_off(DATA_HEAD_BYTES + CHECKSUM_BYTES),
            12 => frame.split_off(1 + CHECKSUM_BYTES),
            _ => Bytes::new(),
        };
        let checksum = frame.split_off(frame.len() - CHECKSUM_BYTES);
        if crc32fast::hash(&frame).to_be_bytes() != checksum[..] {
            return Err(WireError::Checksum(kind));
        }
        let body = &frame[1..];
        Ok(match kind {
            1 => Self::Hello(json(kind, body)?),
            2 => Self::Welcome(json(kind, body)?),
            3 => Self::Follow(json(kind, body)?),
            4 => {
                let [epoch, from, confirmed] = numbers(kind, body)?;
                Self::Data(Data { epoch: Epoch(epoch), from: CommitLogOffset(from), confirmed: CommitLogOffset(confirmed), log: rest })
            }
            5 => {
                let [epoch, received, flushed, beat] = numbers(kind, body)?;
                let held = Held { received: CommitLogOffset(received), flushed: CommitLogOffset(flushed) };
                Self::Ack(Ack { epoch: Epoch(epoch), held, beat })
            }
            6 => Self::Beat(json(kind, body)?),
            7 => Self::Refusal(json(kind, body)?),
            8 => Self::Ask(json(kind, body)?),
            9 => Self::Answer(json(kind, body)?),
            10 => Self::Take(json(kind, body)?),
            11 => Self::Seed(json(kind, body)?),
            12 => Self::Piece(Piece(rest)),
            other => return Err(WireError::Kind(other)),
        })
    }
}

fn put_json(body: &impl Serialize, out: &mut Vec<u8>) -> Bytes {
    // Of what these messages have, nothing can fail: no maps with keys other than text, no writer but memory.
    serde_json::to_writer(&mut *out, body).expect("JSON in memory");
    Bytes::new()
}

fn put_numbers<const N: usize>(numbers: [u64; N], out: &mut Vec<u8>) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

fn json<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(body).map_err(|error| WireError::Content(kind, error.to_string()))
}

fn numbers<const N: usize>(kind: u8, body: &[u8]) -> Result<[u64; N], WireError> {
    let (numbers, rest) = body.as_chunks::<8>();
    match <[[u8; 8]; N]>::try_from(numbers) {
        Ok(numbers) if rest.is_empty() => Ok(numbers.map(u64::from_be_bytes)),
        _ => Err(WireError::Content(kind, format!("{} bytes instead of {}", body.len(), N * 8))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EpochStart;
    use proptest::prelude::*;

    fn state() -> GroupState {
        GroupState::first(Member { id: MemberId(1), store: Incarnation(u128::MAX - 5) })
    }

    fn all(log: &[u8]) -> Vec<Message> {
        let epochs =
            EpochMap::new(vec![EpochStart { epoch: Epoch(3), start: CommitLogOffset(0) }, EpochStart { epoch: Epoch(u64::MAX), start: CommitLogOffset(9) }]);
        let held = Held { received: CommitLogOffset(u64::MAX), flushed: CommitLogOffset(7) };
        vec![
            Message::Hello(Hello {
                version: VERSION,
                cluster: "c".into(),
                group: "g \u{1F980}".into(),
                member: *state().in_sync.first().unwrap(),
                seen: state().seen(),
            }),
            Message::Welcome(Welcome {
                state: state(),
                epochs: epochs.unwrap(),
                min: CommitLogOffset(1),
                end: CommitLogOffset(u64::MAX),
                segment_bytes: 5,
                place: "a:10911".into(),
                must_hold: Some(CommitLogOffset(77)),
            }),
            Message::Follow(Follow { epoch: Epoch(4), from: CommitLogOffset(8) }),
            Message::Data(Data { epoch: Epoch(4), from: CommitLogOffset(8), confirmed: CommitLogOffset(2), log: Bytes::copy_from_slice(log) }),
            Message::Ack(Ack { epoch: Epoch(4), held, beat: 12 }),
            Message::Beat(Beat { state: state(), sent: 3, renewal: 8 }),
            Message::Refusal(Refusal { state: None, why: "no \"master\"".into() }),
            Message::Ask(Ask { version: VERSION, cluster: "c".into(), group: "g".into(), member: *state().in_sync.first().unwrap() }),
            Message::Answer(Answer {
                member: *state().in_sync.first().unwrap(),
                seen: state().seen(),
                master_of: Some(Epoch(4)),
                state: Some(state()),
                end: CommitLogOffset(u64::MAX),
                last_epoch: None,
            }),
            Message::Take(Take { version: VERSION, cluster: "c".into(), group: "g".into(), id: MemberId(7), store: Some(Incarnation(1 << 100)) }),
            Message::Seed(Seed { epoch: Epoch(4), segment_bytes: 1 << 27, bytes: 9 }),
            Message::Piece(Piece(Bytes::copy_from_slice(log))),
        ]
    }

    fn bytes_of(messages: &[Message]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            let rest = message.encode(&mut out);
            out.extend_from_slice(&rest);
        }
        out
    }

    #[test]
    fn messages_are_read_back_however_they_are_cut_into_pieces() {
        let messages = all(b"some records");
        let bytes = bytes_of(&messages);
        for piece in [1, 7, bytes.len()] {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(message) = Message::decode(&mut buffer).unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, messages);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn any_flipped_bit_outside_of_the_log_is_found_out_or_waited_for() {
        for message in all(b"log") {
            let bytes = bytes_of(std::slice::from_ref(&message));
            let log = if matches!(message, Message::Data(_) | Message::Piece(_)) { 3 } else { 0 };
            for bit in 0..(bytes.len() - log) * 8 {
                let mut bad = BytesMut::from(&bytes[..]);
                bad[bit / 8] ^= 1 << (bit % 8);
                let read = Message::decode(&mut bad);
                // A longer length waits for more, which the deadline of the connection ends.
                assert!(
                    read.is_err() || bit < 8 * LENGTH_BYTES && matches!(read, Ok(None)) || log > 0 && bit < 8 * LENGTH_BYTES,
                    "bit {bit} of {message:?}: {read:?}"
                );
            }
        }
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_an_impossible_map_refused() {
        let mut out = vec![0; LENGTH_BYTES];
        out.push(7);
        out.extend_from_slice(br#"{"state":null,"why":"w","later":[1]}"#);
        let finish = |mut out: Vec<u8>| {
            let checksum = crc32fast::hash(&out[LENGTH_BYTES..]);
            out.extend_from_slice(&checksum.to_be_bytes());
            let length = (out.len() - LENGTH_BYTES) as u32;
            out[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
            Message::decode(&mut BytesMut::from(&out[..]))
        };
        assert_eq!(finish(out), Ok(Some(Message::Refusal(Refusal { state: None, why: "w".into() }))));
        let Message::Welcome(welcome) = &all(b"")[1] else { panic!() };
        let mut json = serde_json::to_value(welcome).unwrap();
        json["epochs"][1]["start"] = 0.into();
        let mut out = vec![0; LENGTH_BYTES];
        out.push(2);
        out.extend_from_slice(json.to_string().as_bytes());
        let refused = finish(out).unwrap_err().to_string();
        assert!(refused.contains("does not come after"), "{refused}");
        assert_eq!(finish(vec![0, 0, 0, 0, 99]), Err(WireError::Kind(99)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_memory_for_what_is_only_announced(bytes: Vec<u8>, kind in 0_u8..9, whole: bool) {
            let mut all = BytesMut::from(&bytes[..]);
            if whole {
                let mut body = vec![kind];
                body.extend_from_slice(&bytes);
                let checksum = crc32fast::hash(&body);
                body.extend_from_slice(&checksum.to_be_bytes());
                all = BytesMut::from(&(body.len() as u32).to_be_bytes()[..]);
                all.extend_from_slice(&body);
            }
            let capacity = all.capacity();
            let _ = Message::decode(&mut all);
            prop_assert!(all.capacity() <= capacity);
        }

        #[test]
        fn any_log_comes_as_it_went(log: Vec<u8>) {
            let messages = all(&log);
            let mut bytes = BytesMut::from(&bytes_of(&messages)[..]);
            for message in messages {
                prop_assert_eq!(Message::decode(&mut bytes), Ok(Some(message)));
            }
        }
    }
}
