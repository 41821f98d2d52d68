//! Message properties as they stand in a record: `name \1 value \2 name \1 value \2 …`, the last separator optional.

use thiserror::Error;

/// Between a name and its value.
pub const NAME_VALUE_SEPARATOR: u8 = 1;
/// After each value.
pub const PROPERTY_SEPARATOR: u8 = 2;
/// Most bytes of properties in one record: the wire's signed 16-bit length.
pub const PROPERTIES_BYTES_MAX: usize = i16::MAX as usize;

/// Keys given by the producer, separated by spaces.
pub const KEYS: &str = "KEYS";
/// The tag given by the producer.
pub const TAGS: &str = "TAGS";
/// The identity the client gave the message.
pub const UNIQUE_KEY: &str = "UNIQ_KEY";
/// Whether the producer waits for the durability rule; `false` asks for the early reply.
pub const WAIT: &str = "WAIT";
/// Delay level, 1 to 18.
pub const DELAY_LEVEL: &str = "DELAY";
/// Checksum over the whole record, written by the store as the last property.
pub const CRC32: &str = "__CRC32#";

/// Why properties were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PropertiesError {
    /// The wire's length field cannot hold it.
    #[error("the properties have {0} bytes; the limit is {PROPERTIES_BYTES_MAX}: shorten keys, tags or user properties")]
    TooLong(usize),
    /// The broker compares names and values as text.
    #[error("the properties are not UTF-8")]
    NotUtf8,
}

/// Goes through names and values in order. A piece without a value separator is skipped, as the official client does.
pub fn iter(properties: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = properties;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (piece, later) = split_at_byte(rest, PROPERTY_SEPARATOR).unwrap_or((rest, ""));
            rest = later;
            if let Some(pair) = split_at_byte(piece, NAME_VALUE_SEPARATOR) {
                return Some(pair);
            }
        }
        None
    })
}

/// What stands before the first such byte, and after it. Quicker than the standard library's search for a character, and every message is searched twice.
fn split_at_byte(text: &str, ascii: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(ascii, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

/// The value of a name. The last one wins, as in a map filled from front to back.
#[must_use]
pub fn get<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
    iter(properties).filter(|(n, _)| *n == name).map(|(_, value)| value).last()
}

/// Appends one property.
pub fn push(properties: &mut String, name: &str, value: &str) {
    terminate(properties);
    properties.push_str(name);
    properties.push(char::from(NAME_VALUE_SEPARATOR));
    properties.push_str(value);
    properties.push(char::from(PROPERTY_SEPARATOR));
}

/// Sets a property: an older value of that name goes away, others keep their order.
pub fn set(properties: &mut String, name: &str, value: &str) {
    remove(properties, name);
    push(properties, name, value);
}

/// Takes a property out. Nothing happens when it is not there.
pub fn remove(properties: &mut String, name: &str) {
    if get(properties, name).is_none() {
        return;
    }
    let mut kept = String::with_capacity(properties.len());
    for (n, value) in iter(properties).filter(|(n, _)| *n != name) {
        push(&mut kept, n, value);
    }
    *properties = kept;
}

/// Ends the text with a separator, so that another property can follow.
fn terminate(properties: &mut String) {
    if !properties.is_empty() && !properties.ends_with(char::from(PROPERTY_SEPARATOR)) {
        properties.push(char::from(PROPERTY_SEPARATOR));
    }
}

/// Reads raw bytes as properties.
pub fn from_bytes(bytes: &[u8]) -> Result<&str, PropertiesError> {
    if bytes.len() > PROPERTIES_BYTES_MAX {
        return Err(PropertiesError::TooLong(bytes.len()));
    }
    std::str::from_utf8(bytes).map_err(|_| PropertiesError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_last_separator_loses_nothing() {
        let mut p = String::from("a\u{1}1\u{2}b\u{1}2");
        assert_eq!(get(&p, "b"), Some("2"));
        push(&mut p, "c", "3");
        assert_eq!(iter(&p).collect::<Vec<_>>(), [("a", "1"), ("b", "2"), ("c", "3")]);
    }

    #[test]
    fn set_replaces_and_keeps_the_order_of_others() {
        let mut p = String::new();
        push(&mut p, "a", "1");
        push(&mut p, "b", "2");
        set(&mut p, "a", "3");
        assert_eq!(p, "b\u{1}2\u{2}a\u{1}3\u{2}");
        remove(&mut p, "none");
        assert_eq!(get(&p, "a"), Some("3"));
    }

    proptest! {
        #[test]
        fn pieces_are_cut_at_the_first_separator_of_each(text in "[a-c\u{1}\u{2}é]{0,24}") {
            let plain: Vec<(&str, &str)> = text.split('\u{2}').filter_map(|piece| piece.split_once('\u{1}')).collect();
            prop_assert_eq!(iter(&text).collect::<Vec<_>>(), plain);
        }

        #[test]
        fn what_is_pushed_is_read_back(pairs in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{0,12}"), 0..8)) {
            let mut text = String::new();
            for (n, v) in &pairs {
                push(&mut text, n, v);
            }
            let read: Vec<(String, String)> = iter(&text).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), name in any::<String>()) {
            let mut copy = text.clone();
            let _ = get(&text, &name);
            set(&mut copy, "k", "v");
            prop_assert_eq!(get(&copy, "k"), Some("v"));
        }
    }
}
