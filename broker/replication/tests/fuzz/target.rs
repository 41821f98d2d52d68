//! The decoder of what master and replica say to each other, with what it is fed: shared by the test that mutates frames and by libFuzzer (`broker/protocol/fuzz`).

use bytes::{Bytes, BytesMut};
use sluice_replication::{
    Epoch, EpochMap, EpochStart, GroupState, Held, Incarnation, Member, MemberId,
    wire::{Ack, Answer, Ask, Beat, Data, Follow, Hello, Message, Piece, Refusal, Seed, Take, VERSION, Welcome},
};
use sluice_types::CommitLogOffset;
use std::collections::BTreeSet;

/// Of a frame: its length, its kind, a checksum.
const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
/// Kind and numbers of the frame that brings log.
const DATA_HEAD_BYTES: usize = 1 + 3 * 8;

/// Most bytes that it may allocate for an input of so many: the copy that it is decoded from, what is understood of it, and that written and read again.
pub(crate) fn allowed(len: usize) -> usize {
    64 * len + 64 * 1024
}

/// What a group of three says from a replica's hello to its catching up, to a question, and to one that takes the log whole: each frame alone, then all in a row.
pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let messages = messages();
    let mut all: Vec<Vec<u8>> = messages.iter().map(frame).collect();
    for (message, frame) in messages.into_iter().zip(&all) {
        assert_eq!(Message::decode(&mut BytesMut::from(&frame[..])), Ok(Some(message)));
    }
    all.push(all.concat());
    all
}

fn messages() -> Vec<Message> {
    let member = |id: u32| Member { id: MemberId(id), store: Incarnation(0x1234_5678_9abc_def0 << id) };
    let set = |ids: &[u32]| ids.iter().map(|id| member(*id)).collect::<BTreeSet<_>>();
    let founded = GroupState::first(member(1)).with_set(set(&[1, 2, 3]));
    let state = founded.with_master(MemberId(2), false);
    let starts = [(1, 0), (2, 8192), (5, 1 << 33)].map(|(epoch, start)| EpochStart { epoch: Epoch(epoch), start: CommitLogOffset(start) });
    let epochs = EpochMap::new(starts.to_vec()).expect("they rise");
    let [min, end] = [4096, (1 << 33) + 700].map(CommitLogOffset);
    let (cluster, group) = ("DefaultCluster".to_owned(), "orders-1".to_owned());
    let log = Bytes::from_static(b"\0\0\0\x10records and more");
    let held = Held { received: end, flushed: min };
    vec![
        Message::Hello(Hello { version: VERSION, cluster: cluster.clone(), group: group.clone(), member: member(3), seen: state.seen() }),
        Message::Welcome(Welcome {
            state: state.clone(),
            epochs,
            min,
            end,
            segment_bytes: 128 << 20,
            place: "198.51.100.7:10911".to_owned(),
            must_hold: Some(min),
        }),
        Message::Follow(Follow { epoch: state.epoch, from: end }),
        Message::Data(Data { epoch: state.epoch, from: end, confirmed: min, log: log.clone() }),
        Message::Data(Data { epoch: state.epoch, from: end, confirmed: end, log: Bytes::new() }),
        Message::Ack(Ack { epoch: state.epoch, held, beat: 1700 }),
        Message::Beat(Beat { state: state.clone(), sent: 1700, renewal: 9 }),
        Message::Refusal(Refusal { state: Some(state.clone()), why: "this broker is not master any more".to_owned() }),
        Message::Refusal(Refusal { state: None, why: "\u{1F980} \"\\".to_owned() }),
        Message::Ask(Ask { version: VERSION, cluster: cluster.clone(), group: group.clone(), member: member(1) }),
        Message::Answer(Answer {
            member: member(2),
            seen: state.seen(),
            master_of: Some(state.epoch),
            state: Some(state.clone()),
            end,
            last_epoch: Some(state.epoch),
        }),
        Message::Take(Take { version: VERSION, cluster, group, id: MemberId(3), store: Some(Incarnation(7)) }),
        Message::Seed(Seed { epoch: state.epoch, segment_bytes: 128 << 20, bytes: 21 }),
        Message::Piece(Piece(log)),
    ]
}

fn frame(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let rest = message.encode(&mut out);
    out.extend_from_slice(&rest);
    out
}

/// Makes the length true, and the checksum of what has one: both are no use to guess.
pub(crate) fn repair(bytes: &mut [u8]) {
    let Some(length) = bytes.len().checked_sub(LENGTH_BYTES).filter(|length| *length > CHECKSUM_BYTES) else { return };
    bytes[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    let frame = &mut bytes[LENGTH_BYTES..];
    let checked = match frame[0] {
        4 if length >= DATA_HEAD_BYTES + CHECKSUM_BYTES => DATA_HEAD_BYTES,
        12 => 1,
        _ => length - CHECKSUM_BYTES,
    };
    let checksum = crc32fast::hash(&frame[..checked]).to_be_bytes();
    frame[checked..checked + CHECKSUM_BYTES].copy_from_slice(&checksum);
}

/// Panics when what is understood does not survive being written and read again, or when a half frame is taken for a whole one.
pub(crate) fn decode(input: &[u8]) {
    let mut all = BytesMut::from(input);
    let mut half = BytesMut::from(&input[..input.len() / 2]);
    let first = Message::decode(&mut all);
    let of_half = Message::decode(&mut half);
    assert!(of_half == Ok(None) || of_half == first, "{of_half:?} of the first half, {first:?} of the whole");
    let mut next = first;
    while let Ok(Some(message)) = next {
        let mut again = BytesMut::from(&frame(&message)[..]);
        assert_eq!(Message::decode(&mut again), Ok(Some(message)));
        assert!(again.is_empty(), "{} bytes are left of a frame", again.len());
        next = Message::decode(&mut all);
    }
}
