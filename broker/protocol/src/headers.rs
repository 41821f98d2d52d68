//! The typed header of each request and answer: which fields, under which names, which of them must be there.
//!
//! Text is a [`WireStr`] that shares the receive buffer where it can, so that a send or a pull is decoded without a copy. Make a name of it, or a
//! `String`, before it outlives the request.

use crate::{ExtFields, WireStr};
use thiserror::Error;

/// Why a header's fields are not those of its request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// A field that must be there is not.
    #[error("the header has no field {field}, which this request needs")]
    Missing {
        /// Its name on the wire.
        field: &'static str,
    },
    /// A field's text is no value of its type.
    #[error("the header's field {field} is {value:?}, which can't be read as its type")]
    Malformed {
        /// Its name on the wire.
        field: &'static str,
        /// What was there, cut to 64 characters.
        value: String,
    },
}

/// A header with known fields.
pub trait TypedHeader: Sized {
    /// Reads the fields; what is not known is left alone.
    fn decode(ext: &ExtFields) -> Result<Self, HeaderError>;

    /// Writes the fields; what is `None` is left out.
    fn encode(&self) -> ExtFields;
}

/// How a field's type stands in the map.
trait Field: Sized {
    fn read(ext: &ExtFields, field: &'static str) -> Result<Self, HeaderError>;
    fn write(&self, field: &'static str, ext: &mut ExtFields);
}

/// A type whose absence is told apart from a value, so that `Option` of it is a field.
trait Scalar: Sized {
    fn parse(ext: &ExtFields, text: &str) -> Option<Self>;
    fn put(&self, field: &'static str, ext: &mut ExtFields);
}

impl Scalar for WireStr {
    fn parse(ext: &ExtFields, text: &str) -> Option<Self> {
        Some(ext.share(text))
    }

    fn put(&self, field: &'static str, ext: &mut ExtFields) {
        ext.insert(field, self);
    }
}

impl Scalar for bool {
    /// Whatever is not "true" is false, as Java reads it: there are clients that write 0 and 1 and have always been understood so.
    fn parse(_: &ExtFields, text: &str) -> Option<Self> {
        Some(text.eq_ignore_ascii_case("true"))
    }

    fn put(&self, field: &'static str, ext: &mut ExtFields) {
        ext.insert(field, if *self { "true" } else { "false" });
    }
}

macro_rules! integers {
    ($($type:ty),*) => { $(
        impl Scalar for $type {
            fn parse(_: &ExtFields, text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn put(&self, field: &'static str, ext: &mut ExtFields) {
                ext.insert_integer(field, *self);
            }
        }
    )* };
}

integers!(i32, i64);

fn parse<T: Scalar>(ext: &ExtFields, field: &'static str, text: &str) -> Result<T, HeaderError> {
    T::parse(ext, text).ok_or_else(|| HeaderError::Malformed { field, value: text.chars().take(64).collect() })
}

impl<T: Scalar> Field for T {
    fn read(ext: &ExtFields, field: &'static str) -> Result<Self, HeaderError> {
        let text = ext.get(field).ok_or(HeaderError::Missing { field })?;
        parse(ext, field, text)
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        self.put(field, ext);
    }
}

impl<T: Scalar> Field for Option<T> {
    fn read(ext: &ExtFields, field: &'static str) -> Result<Self, HeaderError> {
        ext.get(field).map(|text| parse(ext, field, text)).transpose()
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        if let Some(value) = self {
            value.put(field, ext);
        }
    }
}

/// Declares headers. `= "name"` is the name on the wire, `or value` what an absent field stands for.
macro_rules! headers {
    ($($(#[$doc:meta])* $header:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $name:literal $(or $default:expr)?,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $header { $($(#[$field_doc])* pub $field: $type),* }

        impl TypedHeader for $header {
            fn decode(ext: &ExtFields) -> Result<Self, HeaderError> {
                let _ = ext;
                Ok(Self { $($field: headers!(@read ext, $name, $type $(, $default)?)),* })
            }

            fn encode(&self) -> ExtFields {
                let names: &[&str] = &[$($name),*];
                let mut ext = ExtFields::with_capacity(names.len());
                $(Field::write(&self.$field, $name, &mut ext);)*
                ext
            }
        }
    )* };
    (@read $ext:ident, $name:literal, $type:ty) => { <$type as Field>::read($ext, $name)? };
    (@read $ext:ident, $name:literal, $type:ty, $default:expr) => { <Option<$type> as Field>::read($ext, $name)?.unwrap_or($default) };
}

mod admin;
mod group;
mod message;
mod naming;
mod offset;
mod pop;

pub use admin::*;
pub use group::*;
pub use message::*;
pub use naming::*;
pub use offset::*;
pub use pop::*;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_and_a_malformed_field_are_named() {
        let mut ext: ExtFields = [("topic", "t")].into_iter().collect();
        assert_eq!(GetMinOffsetRequest::decode(&ext), Err(HeaderError::Missing { field: "queueId" }));
        ext.insert("queueId", "many");
        assert_eq!(GetMinOffsetRequest::decode(&ext), Err(HeaderError::Malformed { field: "queueId", value: "many".into() }));
        ext.insert("queueId", "-1");
        assert_eq!(GetMinOffsetRequest::decode(&ext).expect("valid").queue_id, -1);
    }

    #[test]
    fn an_absent_field_has_its_default_and_none_is_not_written() {
        let ext: ExtFields = [("topic", "t"), ("queueId", "0")].into_iter().collect();
        let header = GetMaxOffsetRequest::decode(&ext).expect("valid");
        assert!(header.committed);
        assert_eq!(header.encode().get("committed"), Some("true"));
        assert_eq!(QueryConsumerOffsetRequest::default().encode().get("setZeroIfNotFound"), None);
    }

    #[test]
    fn a_send_is_the_same_under_long_and_short_names() {
        let send = SendMessageRequest {
            producer_group: "g".into(),
            topic: "t".into(),
            default_topic: "TBW102".into(),
            default_topic_queue_nums: 4,
            queue_id: 1,
            sys_flag: 8,
            born_timestamp: 1_700_000_000_000,
            flag: -1,
            properties: "a\u{1}b\u{2}".into(),
            reconsume_times: 2,
            unit_mode: false,
            max_reconsume_times: Some(16),
            batch: true,
            broker_name: Some("b".into()),
        };
        assert_eq!(SendMessageRequest::decode_v2(&send.encode_v2()).as_ref(), Ok(&send));
        assert_eq!(SendMessageRequest::decode(&send.encode()), Ok(send.clone()));
        assert_eq!(send.encode_v2().get("i"), Some("a\u{1}b\u{2}"));
    }
}
