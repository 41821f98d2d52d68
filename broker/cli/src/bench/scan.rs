//! Just enough reading of an answer to a send: which request it answers and whether it went well.

use memchr::memmem;

/// Longest answer taken for one; anything longer means that the stream is not what we think.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An answer's two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) opaque: i32,
    /// It is a request of the server's own, not an answer.
    pub(crate) is_request: bool,
}

/// Reads the first frame in `bytes`: the answer and the frame's length, or `None` when it is not whole yet.
pub(crate) fn next(bytes: &[u8]) -> Result<Option<(Answer, usize)>, &'static str> {
    let Some(total) = word(bytes, 0) else { return Ok(None) };
    let frame_bytes = total as usize + 4;
    if !(8..=FRAME_BYTES_MAX).contains(&frame_bytes) {
        return Err("an answer declares an impossible length");
    }
    let Some(frame) = bytes.get(..frame_bytes) else { return Ok(None) };
    let form_and_length = word(frame, 4).ok_or("an answer is too short")?;
    let header = frame.get(8..8 + (form_and_length & 0x00FF_FFFF) as usize).ok_or("an answer's header does not fit into it")?;
    let answer = if form_and_length >> 24 == 1 { binary(header) } else { json(header) };
    answer.map(|answer| Some((answer, frame_bytes))).ok_or("an answer's header has no code or no opaque number")
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<4>).map(|b| u32::from_be_bytes(*b))
}

/// `code 2 · language 1 · version 2 · opaque 4 · flag 4`.
fn binary(header: &[u8]) -> Option<Answer> {
    let code = i16::from_be_bytes(*header.first_chunk::<2>()?);
    let is_request = word(header, 9)? & 1 == 0;
    Some(Answer { code: code.into(), opaque: word(header, 5)?.cast_signed(), is_request })
}

/// The keys can't occur inside of a value: there the quotes would be escaped.
fn json(header: &[u8]) -> Option<Answer> {
    let is_request = number(header, b"\"flag\":")? & 1 == 0;
    Some(Answer { code: number(header, b"\"code\":")?, opaque: number(header, b"\"opaque\":")?, is_request })
}

fn number(header: &[u8], key: &[u8]) -> Option<i32> {
    let rest = &header[memmem::find(header, key)? + key.len()..];
    let negative = rest.first() == Some(&b'-');
    let digits = rest.iter().skip(usize::from(negative)).take_while(|b| b.is_ascii_digit());
    let value = digits.fold(0i32, |value, digit| value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0')));
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use sluice_protocol::{Frame, Header, RequestCode, ResponseCode, Serialization};

    #[test]
    fn answers_in_both_forms_are_read_and_half_ones_waited_for() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let mut request = Header::request(RequestCode::SendMessageV2, 1_000_000_007, Default::default());
            request.serialization = serialization;
            let answer = Header::response_to(&request, ResponseCode::SystemBusy).with_remark("\"code\":9");
            let mut bytes = BytesMut::new();
            Frame::without_body(answer).encode(&mut bytes).expect("fits");
            let whole = bytes.len();
            bytes.extend_from_slice(b"next");
            let expected = Answer { code: 2, opaque: 1_000_000_007, is_request: false };
            assert_eq!(next(&bytes), Ok(Some((expected, whole))));
            assert!((0..whole).all(|cut| next(&bytes[..cut]) == Ok(None)));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(next(&[0xFF; 16]).is_err());
        assert!(next(&[0, 0, 0, 2, 0, 0]).is_err());
        assert!(next(&[0, 0, 0, 8, 1, 0, 0, 9, 0, 0, 0, 0]).is_err());
    }
}
