//! Sans-io codecs of the RocketMQ remoting protocol and of the record that is both sent and stored.
//!
//! Bytes go in, values come out, and "need n more" is a value. Nothing here reads a socket, a clock or a file, nothing is async, and every length that
//! a peer declares is checked against a limit before anything is allocated for it.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`frame`] | the frame: lengths, the header in JSON or binary form, the body |
//! | [`code`] | request and response codes |
//! | [`headers`] | the typed header of each request and response |
//! | [`body`] | the JSON bodies, in FastJSON's dialect |
//! | [`record`], [`properties`] | a message as stored and as pulled |
//! | [`batch`] | several messages in the body of one send |
//! | [`message_id`] | the id that names a message by host and offset |
//! | [`compress`] | inflating with a cap |
//! | [`java`] | what depends on how Java counts |
#![forbid(unsafe_code)]

pub mod batch;
pub mod body;
pub mod code;
pub mod compress;
pub mod ext;
pub mod frame;
pub mod header;
mod header_binary;
mod header_json;
pub mod headers;
pub mod java;
pub mod message_id;
pub mod properties;
pub mod record;

pub use bytestring::ByteString as WireStr;
pub use code::{RequestCode, ResponseCode};
pub use ext::ExtFields;
pub use frame::{EncodeError, Frame, FrameError, FrameLimits, Step, encode_frame, next_frame};
pub use header::{Header, Language, Serialization};
pub use headers::{HeaderError, TypedHeader};
