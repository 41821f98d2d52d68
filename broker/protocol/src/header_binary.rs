//! RocketMQ's binary header: `code 2 · language 1 · version 2 · opaque 4 · flag 4 · remark 4+n · fields 4+n`, each field `name 2+n · value 4+n`.

use crate::{EncodeError, ExtFields, FrameError, FrameLimits, Header, Language, Serialization, WireStr};
use bytes::{BufMut, BytesMut};
use std::ops::Range;

/// Reads the header. It is taken by value because every byte that is no text is overwritten with zero: then one pass proves the whole to be UTF-8, and
/// each text, standing between zeros, starts and ends at a character's bounds.
pub(crate) fn decode(bytes: BytesMut, limits: &FrameLimits) -> Result<Header, FrameError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let code = cursor.i16("code")?;
    let language = Language::from_wire(cursor.u8("language")?);
    let version = cursor.i16("version")?;
    let opaque = cursor.i32("opaque")?;
    let flag = cursor.i32("flag")?;
    let remark = cursor.text32("remark length", usize::MAX)?;
    let fields_bytes = cursor.length32("fields length")?;
    let end = cursor.at + fields_bytes;
    if end > cursor.bytes.len() {
        return Err(cursor.malformed("fields length"));
    }
    let mut spans: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    while cursor.at < end {
        let name = cursor.text16("field name length", end)?;
        let value = cursor.text32("field value length", end)?;
        // Java reads an empty text as none.
        if name.is_empty() || value.is_empty() {
            continue;
        }
        if spans.is_empty() {
            spans.reserve(16);
        }
        if spans.len() == limits.ext_fields_max {
            return Err(FrameError::TooManyFields(limits.ext_fields_max));
        }
        spans.push((name, value));
    }
    // What follows the fields is not ours to read, and need not be text.
    cursor.bytes.truncate(end);
    let wire = WireStr::try_from(cursor.bytes.freeze()).map_err(|e| FrameError::NotUtf8 { at: e.valid_up_to() })?;
    let remark = (!remark.is_empty()).then(|| wire.slice_ref(&wire[remark]));
    let mut ext = ExtFields::over(wire.clone());
    for (name, value) in spans {
        ext.push(&wire[name], &wire[value]);
    }
    let serialization = Serialization::Binary;
    Ok(Header { code: code.into(), language, version: version.into(), opaque, flag, remark, ext, serialization })
}

struct Cursor {
    bytes: BytesMut,
    at: usize,
}

impl Cursor {
    fn malformed(&self, what: &'static str) -> FrameError {
        FrameError::Binary { what, at: self.at }
    }

    /// Takes `N` bytes and leaves zeros.
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FrameError> {
        let place = self.bytes.get_mut(self.at..).and_then(<[u8]>::first_chunk_mut::<N>);
        let Some(place) = place else { return Err(FrameError::Binary { what, at: self.at }) };
        self.at += N;
        Ok(std::mem::replace(place, [0; N]))
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, FrameError> {
        self.take::<1>(what).map(|[byte]| byte)
    }

    fn i16(&mut self, what: &'static str) -> Result<i16, FrameError> {
        self.take(what).map(i16::from_be_bytes)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, FrameError> {
        self.take(what).map(i32::from_be_bytes)
    }

    fn length32(&mut self, what: &'static str) -> Result<usize, FrameError> {
        let length = self.i32(what)?;
        usize::try_from(length).map_err(|_| self.malformed(what))
    }

    fn text32(&mut self, what: &'static str, end: usize) -> Result<Range<usize>, FrameError> {
        let length = self.length32(what)?;
        self.text(length, end, what)
    }

    fn text16(&mut self, what: &'static str, end: usize) -> Result<Range<usize>, FrameError> {
        let length = self.i16(what)?;
        let length = usize::try_from(length).map_err(|_| self.malformed(what))?;
        self.text(length, end, what)
    }

    fn text(&mut self, length: usize, end: usize, what: &'static str) -> Result<Range<usize>, FrameError> {
        let end = end.min(self.bytes.len());
        if self.at > end || length > end - self.at {
            return Err(self.malformed(what));
        }
        let text = self.at..self.at + length;
        self.at = text.end;
        Ok(text)
    }
}

pub(crate) fn encode(header: &Header, out: &mut BytesMut) -> Result<(), EncodeError> {
    let short = |what, value: i32| i16::try_from(value).map_err(|_| EncodeError::BinaryRange { what, value: value.into() });
    out.put_i16(short("the code", header.code)?);
    out.put_u8(header.language.to_wire());
    out.put_i16(short("the version", header.version)?);
    out.put_i32(header.opaque);
    out.put_i32(header.flag);
    put_text(header.remark.as_deref().unwrap_or(""), out)?;
    let length_at = out.len();
    out.put_i32(0);
    for (name, value) in header.ext.iter() {
        let what = "the length of a field's name";
        let length = i16::try_from(name.len()).map_err(|_| EncodeError::BinaryRange { what, value: name.len() as i64 })?;
        out.put_i16(length);
        out.extend_from_slice(name.as_bytes());
        put_text(value, out)?;
    }
    let fields = out.len() - length_at - 4;
    let fields = i32::try_from(fields).map_err(|_| EncodeError::HeaderTooLarge(fields))?;
    out[length_at..length_at + 4].copy_from_slice(&fields.to_be_bytes());
    Ok(())
}

fn put_text(text: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
    out.put_i32(i32::try_from(text.len()).map_err(|_| EncodeError::HeaderTooLarge(text.len()))?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}
