//! Frames that lie about themselves are refused before anything is allocated for them, each for its own reason.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use sluice_protocol::{
    EncodeError, ExtFields, Frame, FrameError, FrameLimits, Header, RequestCode, ResponseCode, Serialization, Step, encode_frame, next_frame,
};

fn raw(total: i32, prefix: u32, rest: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_i32(total);
    bytes.put_u32(prefix);
    bytes.put_slice(rest);
    bytes
}

fn read(mut bytes: BytesMut) -> Result<Step, FrameError> {
    next_frame(&mut bytes, &FrameLimits::default())
}

/// A frame whose header is in the binary form and consists of these bytes.
fn binary(header: &[u8]) -> Result<Step, FrameError> {
    read(raw(header.len() as i32 + 4, 1 << 24 | header.len() as u32, header))
}

/// A binary header up to the remark's length.
fn binary_head() -> Vec<u8> {
    vec![0, 10, 0, 2, 1, 0, 0, 0, 7, 0, 0, 0, 0]
}

#[test]
fn lengths_that_lie_are_told_apart() {
    assert_eq!(read(raw(-1, 0, b"")), Err(FrameError::BadLength(-1)));
    assert_eq!(read(raw(3, 0, b"")), Err(FrameError::BadLength(3)));
    assert_eq!(read(raw(i32::MAX, 0, b"")), Err(FrameError::FrameTooLarge { bytes: (1 << 31) + 3, max: 16 << 20 }));
    assert_eq!(read(raw(10, 7, b"")), Err(FrameError::HeaderBeyondFrame { header: 7, room: 6 }));
    assert_eq!(read(raw(1 << 20, 1 << 17, b"")), Err(FrameError::HeaderTooLarge { bytes: 1 << 17, max: 1 << 16 }));
    assert_eq!(read(raw(10, 2 << 24, b"")), Err(FrameError::UnknownSerialization(2)));
}

#[test]
fn a_half_frame_says_how_much_is_missing() {
    let frame = Frame { header: Header::request(RequestCode::PullMessage, 1, ExtFields::new()), body: "body".into() };
    let mut whole = BytesMut::new();
    frame.encode(&mut whole).unwrap();
    for have in 0..whole.len() {
        let needed = match have {
            0..4 => 4 - have,
            4..8 => 8 - have,
            _ => whole.len() - have,
        };
        assert_eq!(read(BytesMut::from(&whole[..have])), Ok(Step::Need(needed)));
    }
    let mut two = [&whole[..], &whole[..]].concat().as_slice().into();
    for _ in 0..2 {
        assert_eq!(next_frame(&mut two, &FrameLimits::default()), Ok(Step::Frame(frame.clone())));
    }
    assert_eq!(next_frame(&mut two, &FrameLimits::default()), Ok(Step::Need(4)));
}

#[test]
fn a_binary_header_that_leads_out_of_itself_is_refused() {
    let refused = |tail: &[u8], what: &str| {
        let header = [&binary_head()[..], tail].concat();
        assert!(matches!(binary(&header), Err(FrameError::Binary { what: w, .. }) if w == what), "{what}: {:?}", binary(&header));
    };
    refused(&[], "remark length");
    refused(&[0xFF; 4], "remark length");
    refused(&[0, 0, 0, 1], "remark length");
    refused(&[0; 4], "fields length");
    refused(&[0, 0, 0, 0, 0, 0, 0, 1], "fields length");
    refused(&[0, 0, 0, 0, 0, 0, 0, 2, 0x80, 0], "field name length");
    refused(&[0, 0, 0, 0, 0, 0, 0, 2, 0, 1], "field name length");
    refused(&[0, 0, 0, 0, 0, 0, 0, 7, 0, 1, b'a', 0, 0, 0, 1], "field value length");
    assert!(matches!(binary(&[0]), Err(FrameError::Binary { what: "code", at: 0 })));
    let not_text = [&binary_head()[..], &[0, 0, 0, 1, 0xFF, 0, 0, 0, 0]].concat();
    assert_eq!(binary(&not_text), Err(FrameError::NotUtf8 { at: 17 }));
}

#[test]
fn half_a_character_in_one_text_and_half_in_the_next_is_not_text() {
    let fields = [&[0, 1, 0xC3, 0, 0, 0, 1, 0xA9][..], &[0, 1, b'a', 0, 0, 0, 1, b'b']].concat();
    let header = [&binary_head()[..], &[0; 4], &(fields.len() as u32).to_be_bytes(), &fields].concat();
    assert!(matches!(binary(&header), Err(FrameError::NotUtf8 { .. })));
}

#[test]
fn more_fields_than_the_limit_are_refused() {
    for serialization in [Serialization::Json, Serialization::Binary] {
        let names: Vec<String> = (0..257).map(|n| format!("f{n}")).collect();
        let ext: ExtFields = names.iter().map(|name| (name.as_str(), "v")).collect();
        let header = Header { serialization, ..Header::request(RequestCode::HeartBeat, 1, ext) };
        let mut out = BytesMut::new();
        Frame::without_body(header).encode(&mut out).unwrap();
        assert_eq!(read(out), Err(FrameError::TooManyFields(256)));
    }
}

#[test]
fn what_a_form_cannot_carry_leaves_the_buffer_as_it_was() {
    let header = Header { code: 200_050, serialization: Serialization::Binary, ..Header::default() };
    let mut out = BytesMut::from("before");
    assert!(matches!(encode_frame(&header, 0, &mut out), Err(EncodeError::BinaryRange { value: 200_050, .. })));
    assert_eq!(encode_frame(&Header::default(), usize::MAX, &mut out), Err(EncodeError::FrameTooLarge(usize::MAX)));
    assert_eq!(&out[..], b"before");
}

#[test]
fn an_answer_has_the_form_of_its_request() {
    for serialization in [Serialization::Json, Serialization::Binary] {
        let request = Header { serialization, ..Header::request(RequestCode::GetMaxOffset, 77, ExtFields::new()) };
        let answer = Header::response_to(&request, ResponseCode::SystemBusy).with_remark("later");
        let mut out = BytesMut::new();
        Frame::without_body(answer.clone()).encode(&mut out).unwrap();
        let Ok(Step::Frame(read)) = read(out) else { panic!("no frame") };
        assert_eq!((read.header.opaque, read.header.is_response(), read.header.serialization), (77, true, serialization));
        assert_eq!(read.header, answer);
    }
}

proptest! {
    #[test]
    fn every_frame_is_read_back(
        binary in any::<bool>(), code in any::<i16>(), opaque in any::<i32>(), flag in any::<i32>(), remark in "\\PC{1,20}",
        fields in proptest::collection::vec(("\\PC{1,9}", "\\PC{1,30}"), 0..10), body in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let serialization = if binary { Serialization::Binary } else { Serialization::Json };
        let ext = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let header = Header { code: code.into(), opaque, flag, ext, serialization, ..Header::default() }.with_remark(remark);
        let frame = Frame { header, body: body.into() };
        let mut out = BytesMut::new();
        frame.encode(&mut out).unwrap();
        prop_assert_eq!(read(out), Ok(Step::Frame(frame)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(BytesMut::from(&bytes[..]));
        let _ = binary(&bytes);
    }
}
