//! The JSON header, in one pass over the received text and without a tree: a string that needs no unescaping stays where it was received.

use crate::{ExtFields, FrameError, FrameLimits, Header, Language, Serialization, WireStr};
use bytes::{BufMut, Bytes, BytesMut};

/// Deepest nesting in what we skip or take as text.
const DEPTH_MAX: usize = 32;

/// Reads the header. Keys that are not known are skipped, `null` is as good as absent, a number may be given as a string and a field's value as anything:
/// clients in a dozen languages do all of it.
pub(crate) fn decode(bytes: Bytes, limits: &FrameLimits) -> Result<Header, FrameError> {
    let wire = WireStr::try_from(bytes).map_err(|e| FrameError::NotUtf8 { at: e.valid_up_to() })?;
    let mut scanner = Scanner { text: &wire, at: 0 };
    let mut header = Header { language: Language::Other, serialization: Serialization::Json, ..Header::default() };
    let mut scratch = String::new();
    let mut more = scanner.open(b'{', b'}')?;
    while more {
        match scanner.key(&mut scratch)? {
            "code" => header.code = scanner.integer("code", &mut scratch)?,
            "flag" => header.flag = scanner.integer("flag", &mut scratch)?,
            "opaque" => header.opaque = scanner.integer("opaque", &mut scratch)?,
            "version" => header.version = scanner.integer("version", &mut scratch)?,
            "language" => header.language = scanner.language(&mut scratch)?,
            "remark" => header.remark = scanner.value(&mut scratch)?.map(|text| share(&wire, text)),
            "extFields" => header.ext = scanner.fields(&wire, limits, &mut scratch)?,
            _ => scanner.skip(0)?,
        }
        more = scanner.another(b'}')?;
    }
    scanner.whitespace();
    if scanner.at < wire.len() {
        return Err(scanner.malformed("something follows the object"));
    }
    Ok(header)
}

/// A counted reference when `text` was received as it is, else a copy.
fn share(wire: &WireStr, text: &str) -> WireStr {
    let start = (text.as_ptr() as usize).wrapping_sub(wire.as_ptr() as usize);
    let received = !text.is_empty() && start < wire.len() && text.len() <= wire.len() - start;
    if received { wire.slice_ref(text) } else { WireStr::from(text) }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn malformed(&self, what: &str) -> FrameError {
        FrameError::Json(format!("{what} at byte {}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), FrameError> {
        self.whitespace();
        if self.peek() != Some(byte) {
            return Err(self.malformed(&format!("no '{}'", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    /// Enters an object or array; false when it is empty, and then it is left again.
    fn open(&mut self, open: u8, close: u8) -> Result<bool, FrameError> {
        self.expect(open)?;
        self.whitespace();
        let empty = self.peek() == Some(close);
        self.at += usize::from(empty);
        Ok(!empty)
    }

    /// After an element: true when another follows, false when the end was taken.
    fn another(&mut self, close: u8) -> Result<bool, FrameError> {
        self.whitespace();
        let next = self.peek();
        if next != Some(b',') && next != Some(close) {
            return Err(self.malformed("neither a comma nor an end"));
        }
        self.at += 1;
        Ok(next == Some(b','))
    }

    fn key<'s>(&mut self, scratch: &'s mut String) -> Result<&'s str, FrameError>
    where
        'a: 's,
    {
        self.whitespace();
        let key = self.string(scratch)?;
        self.expect(b':')?;
        Ok(key)
    }

    /// A string, borrowed from the text when it has no escapes and from `scratch` otherwise. Control characters are let through unescaped, as the official
    /// parser does.
    fn string<'s>(&mut self, scratch: &'s mut String) -> Result<&'s str, FrameError>
    where
        'a: 's,
    {
        if self.peek() != Some(b'"') {
            return Err(self.malformed("no string"));
        }
        self.at += 1;
        let run = self.run()?;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(run);
        }
        scratch.clear();
        scratch.push_str(run);
        loop {
            // At a quote or a backslash: `run` goes nowhere else.
            self.at += 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return Ok(scratch);
            }
            scratch.push(self.escape()?);
            scratch.push_str(self.run()?);
        }
    }

    /// The text up to the next quote or backslash.
    fn run(&mut self) -> Result<&'a str, FrameError> {
        let rest = &self.text[self.at..];
        let Some(length) = memchr::memchr2(b'"', b'\\', rest.as_bytes()) else { return Err(self.malformed("no end of the string that begins before")) };
        self.at += length;
        Ok(&rest[..length])
    }

    /// What follows a backslash. Half of a surrogate pair alone becomes U+FFFD: Java has such strings, UTF-8 has not.
    fn escape(&mut self) -> Result<char, FrameError> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => {
                let high = self.unit()?;
                if !(0xD800..0xDC00).contains(&high) {
                    return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                let after_high = self.at;
                if self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.unit()?;
                    if (0xDC00..0xE000).contains(&low) {
                        return Ok(char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = after_high;
                }
                char::REPLACEMENT_CHARACTER
            }
            _ => {
                self.at -= 1;
                return Err(self.malformed("an unknown escape"));
            }
        })
    }

    /// Four hex digits.
    fn unit(&mut self) -> Result<u32, FrameError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let unit = digits.iter().try_fold(0, |unit, digit| char::from(*digit).to_digit(16).map(|d| unit << 4 | d));
        let Some(unit) = unit.filter(|_| digits.len() == 4) else { return Err(self.malformed("no four hex digits")) };
        self.at += 4;
        Ok(unit)
    }

    /// Any value as text: a string's content, a number's digits, an object's source; `None` for null.
    fn value<'s>(&mut self, scratch: &'s mut String) -> Result<Option<&'s str>, FrameError>
    where
        'a: 's,
    {
        self.whitespace();
        if self.peek() == Some(b'"') {
            return self.string(scratch).map(Some);
        }
        let start = self.at;
        self.skip(0)?;
        let source = &self.text[start..self.at];
        Ok((source != "null").then_some(source))
    }

    fn integer(&mut self, name: &str, scratch: &mut String) -> Result<i32, FrameError> {
        let Some(text) = self.value(scratch)? else { return Ok(0) };
        text.parse().map_err(|_| FrameError::Json(format!("{name} is no 32-bit number: {}", text.chars().take(32).collect::<String>())))
    }

    /// By name, or by number as some clients do.
    fn language(&mut self, scratch: &mut String) -> Result<Language, FrameError> {
        let text = self.value(scratch)?.unwrap_or_default();
        Ok(text.parse().map_or_else(|_| Language::from_name(text), Language::from_wire))
    }

    fn fields(&mut self, wire: &WireStr, limits: &FrameLimits, scratch: &mut String) -> Result<ExtFields, FrameError> {
        let mut ext = ExtFields::over(wire.clone());
        self.whitespace();
        if self.peek() == Some(b'n') {
            self.literal()?;
            return Ok(ext);
        }
        let mut name_scratch = String::new();
        let mut count = 0;
        let mut more = self.open(b'{', b'}')?;
        while more {
            count += 1;
            if count > limits.ext_fields_max {
                return Err(FrameError::TooManyFields(limits.ext_fields_max));
            }
            let name = self.key(&mut name_scratch)?;
            if let Some(value) = self.value(scratch)? {
                ext.push(name, value);
            }
            more = self.another(b'}')?;
        }
        Ok(ext)
    }

    /// Goes past a value of any kind.
    fn skip(&mut self, depth: usize) -> Result<(), FrameError> {
        self.whitespace();
        let close = match self.peek() {
            Some(b'{') => b'}',
            Some(b'[') => b']',
            Some(b'"') => return self.skip_string(),
            _ => return self.literal(),
        };
        if depth == DEPTH_MAX {
            return Err(self.malformed("nesting is too deep"));
        }
        let mut more = self.open(if close == b'}' { b'{' } else { b'[' }, close)?;
        while more {
            if close == b'}' {
                self.whitespace();
                self.skip_string()?;
                self.expect(b':')?;
            }
            self.skip(depth + 1)?;
            more = self.another(close)?;
        }
        Ok(())
    }

    fn skip_string(&mut self) -> Result<(), FrameError> {
        if self.peek() != Some(b'"') {
            return Err(self.malformed("no string"));
        }
        self.at += 1;
        loop {
            self.run()?;
            self.at += 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return Ok(());
            }
            self.escape()?;
        }
    }

    /// A number, `true`, `false` or `null`.
    fn literal(&mut self) -> Result<(), FrameError> {
        let rest = &self.text[self.at..];
        let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.')).count();
        let known = match &rest[..length] {
            "true" | "false" | "null" => true,
            number => is_number(number),
        };
        if !known {
            return Err(self.malformed("no value"));
        }
        self.at += length;
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    digits(whole) && fraction.is_none_or(digits) && exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e)))
}

/// Appends the header, its keys in the order of the official writer.
pub(crate) fn encode(header: &Header, out: &mut BytesMut) {
    let mut number = itoa::Buffer::new();
    out.put_slice(b"{\"code\":");
    out.put_slice(number.format(header.code).as_bytes());
    if !header.ext.is_empty() {
        let mut before: &[u8] = b",\"extFields\":{";
        for (name, value) in header.ext.iter() {
            out.put_slice(before);
            put_string(name, out);
            out.put_u8(b':');
            put_string(value, out);
            before = b",";
        }
        out.put_u8(b'}');
    }
    out.put_slice(b",\"flag\":");
    out.put_slice(number.format(header.flag).as_bytes());
    out.put_slice(b",\"language\":\"");
    out.put_slice(header.language.name().as_bytes());
    out.put_slice(b"\",\"opaque\":");
    out.put_slice(number.format(header.opaque).as_bytes());
    if let Some(remark) = &header.remark {
        out.put_slice(b",\"remark\":");
        put_string(remark, out);
    }
    out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    out.put_slice(number.format(header.version).as_bytes());
    out.put_u8(b'}');
}

fn put_string(text: &str, out: &mut BytesMut) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.put_u8(b'"');
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.put_slice(&bytes[copied..at]);
        put_escape(*byte, out);
        copied = at + 1;
    }
    out.put_slice(&bytes[copied..]);
    out.put_u8(b'"');
}

fn put_escape(byte: u8, out: &mut BytesMut) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x8 => b'b',
        0xC => b'f',
        _ => {
            let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
            out.put_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.put_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Header, FrameError> {
        decode(Bytes::copy_from_slice(text.as_bytes()), &FrameLimits::default())
    }

    #[test]
    fn unescaped_values_are_not_copied() {
        let bytes = Bytes::from_static(br#"{"code":10,"extFields":{"topic":"orders","p":"a\u0001b"},"remark":"well"}"#);
        let range = bytes.as_ptr_range();
        let header = decode(bytes, &FrameLimits::default()).expect("valid");
        let topic = header.ext.get("topic").expect("there");
        assert!(range.contains(&topic.as_ptr()) && range.contains(&header.remark.as_ref().expect("there").as_ptr()));
        assert_eq!(header.ext.get("p"), Some("a\u{1}b"));
    }

    #[test]
    fn what_clients_in_other_languages_write_is_understood() {
        let header = read(" { \"code\" : \"105\" , \"language\":9,\"version\":null,\"x\":[{\"y\":[1,-2.5e3]},\"\\\"\"],\"opaque\":7,\"flag\":0,\n\"extFields\":{\"n\":5,\"b\":true,\"o\":{\"k\":[]},\"z\":null,\"topic\":\"\"}} ")
            .expect("valid");
        assert_eq!((header.code, header.language, header.version, header.opaque), (105, Language::Go, 0, 7));
        let fields: Vec<_> = header.ext.iter().collect();
        assert_eq!(fields, [("n", "5"), ("b", "true"), ("o", "{\"k\":[]}"), ("topic", "")]);
        assert!(read(r#"{"extFields":null}"#).expect("valid").ext.is_empty());
    }

    #[test]
    fn escapes_and_surrogate_pairs_are_unescaped() {
        let header = read(r#"{"remark":"\"\\\/\b\f\n\r\té😀\ud83d!\ude00"}"#).expect("valid");
        assert_eq!(header.remark.as_deref(), Some("\"\\/\u{8}\u{c}\n\r\té😀\u{fffd}!\u{fffd}"));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let deep = format!("{{\"x\":{}1{}}}", "[".repeat(33), "]".repeat(33));
        let wrong = [
            "",
            "{",
            "[]",
            "{}x",
            "{\"code\"}",
            "{\"code\":}",
            "{\"code\":1,}",
            "{\"code\":99999999999}",
            "{\"code\":tru}",
            "{\"remark\":\"\\x\"}",
            "{\"remark\":\"\\u12\"}",
            "{\"remark\":\"",
            "{\"extFields\":[]}",
            "{\"x\":01.}",
            "{'code':1}",
            &deep,
        ];
        for text in wrong {
            assert!(matches!(read(text), Err(FrameError::Json(_))), "{text}");
        }
        assert_eq!(decode(Bytes::from_static(b"{\"\xff"), &FrameLimits::default()), Err(FrameError::NotUtf8 { at: 2 }));
        let limits = FrameLimits { ext_fields_max: 1, ..FrameLimits::default() };
        assert_eq!(decode(Bytes::from_static(br#"{"extFields":{"a":1,"a":2}}"#), &limits), Err(FrameError::TooManyFields(1)));
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let fields = proptest::collection::vec((any::<String>(), any::<String>()), 0..12);
        (any::<[i32; 4]>(), 0u8..14, proptest::option::of(any::<String>()), fields).prop_map(|([code, version, opaque, flag], language, remark, fields)| {
            Header {
                code,
                language: Language::from_wire(language),
                version,
                opaque,
                flag,
                remark: remark.map(WireStr::from),
                ext: fields.iter().map(|(n, v)| (&**n, &**v)).collect(),
                serialization: Serialization::Json,
            }
        })
    }

    proptest! {
        #[test]
        fn every_header_is_read_back_and_is_json(header in any_header()) {
            let mut out = BytesMut::new();
            encode(&header, &mut out);
            let json: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(json["code"].as_i64(), Some(i64::from(header.code)));
            prop_assert_eq!(json["remark"].as_str(), header.remark.as_deref());
            for (name, value) in header.ext.iter() {
                prop_assert_eq!(json["extFields"][name].as_str(), Some(value));
            }
            prop_assert_eq!(decode(out.freeze(), &FrameLimits::default()), Ok(header));
        }

        #[test]
        fn what_another_writer_made_is_read(header in any_header(), pretty in any::<bool>()) {
            let ext: serde_json::Map<_, _> = header.ext.iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
            let json = serde_json::json!({
                "version": header.version, "code": header.code, "extFields": ext, "flag": header.flag, "remark": header.remark.as_deref(),
                "language": header.language.name(), "opaque": header.opaque, "serializeTypeCurrentRPC": "JSON",
            });
            let text = if pretty { serde_json::to_vec_pretty(&json) } else { serde_json::to_vec(&json) }.expect("JSON");
            prop_assert_eq!(decode(text.into(), &FrameLimits::default()), Ok(header));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[\\[\\]{}\",:\\\\u0-9a-z\u{1F600} ]{0,80}") {
            let _ = read(&text);
        }
    }
}
