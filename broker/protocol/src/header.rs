//! The header of a frame, whatever form it has on the wire.

use crate::{ExtFields, WireStr};
use std::fmt;

/// Bit of [`Header::flag`]: this answers a request.
const RESPONSE: i32 = 1;
/// Bit of [`Header::flag`]: no answer is wanted.
const ONEWAY: i32 = 2;

/// RocketMQ 5.5.0, as a number of its version list: what we say we are, since clients switch features on by it.
pub const VERSION: i32 = 513;

/// How a header is written. The answer to a request has the request's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Serialization {
    /// A JSON object, the default of every client.
    #[default]
    Json,
    /// RocketMQ's binary form.
    Binary,
}

macro_rules! languages {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal,)*) => {
        /// What the peer is written in. It is shown to people; nothing depends on it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum Language { $($(#[$doc])* $variant),* }

        impl Language {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Reads the binary header's number; one that is not known is [`Language::Other`].
            #[must_use]
            pub const fn from_wire(code: u8) -> Self {
                match code { $($code => Self::$variant,)* _ => Self::Other }
            }

            /// The binary header's number.
            #[must_use]
            pub const fn to_wire(self) -> u8 {
                match self { $(Self::$variant => $code),* }
            }

            /// Reads the JSON header's name; one that is not known is [`Language::Other`].
            #[must_use]
            pub fn from_name(name: &str) -> Self {
                match name { $($name => Self::$variant,)* _ => Self::Other }
            }

            /// The JSON header's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

languages! {
    /// Java; also what our answers say, because every client's decoder knows it.
    #[default]
    Java = 0 "JAVA",
    /// C++.
    Cpp = 1 "CPP",
    /// .NET.
    Dotnet = 2 "DOTNET",
    /// Python.
    Python = 3 "PYTHON",
    /// Delphi.
    Delphi = 4 "DELPHI",
    /// Erlang.
    Erlang = 5 "ERLANG",
    /// Ruby.
    Ruby = 6 "RUBY",
    /// Something else.
    Other = 7 "OTHER",
    /// An HTTP gateway.
    Http = 8 "HTTP",
    /// Go.
    Go = 9 "GO",
    /// PHP.
    Php = 10 "PHP",
    /// OpenMessaging.
    Oms = 11 "OMS",
    /// Rust.
    Rust = 12 "RUST",
    /// Node.js.
    NodeJs = 13 "NODE_JS",
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A request's code, or what became of it. Kept as a number: a peer may send one that we don't know.
    pub code: i32,
    /// The peer's language.
    pub language: Language,
    /// The peer's version, a number of RocketMQ's version list.
    pub version: i32,
    /// The number that ties an answer to its request on one connection.
    pub opaque: i32,
    /// Bits; see [`Header::is_response`] and [`Header::is_oneway`].
    pub flag: i32,
    /// Words for people, mostly about a failure.
    pub remark: Option<WireStr>,
    /// The request's or answer's own fields.
    pub ext: ExtFields,
    /// The form it had or shall have on the wire.
    pub serialization: Serialization,
}

impl Header {
    /// A request.
    #[must_use]
    pub fn request(code: crate::RequestCode, opaque: i32, ext: ExtFields) -> Self {
        Self { code: code.to_wire(), language: Language::Rust, version: VERSION, opaque, ext, ..Self::default() }
    }

    /// The answer to `request`, in the request's form.
    #[must_use]
    pub fn response_to(request: &Self, code: crate::ResponseCode) -> Self {
        Self { code: code.to_wire(), version: VERSION, opaque: request.opaque, flag: RESPONSE, serialization: request.serialization, ..Self::default() }
    }

    /// The same with words for people.
    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<WireStr>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// The same with these fields.
    #[must_use]
    pub fn with_ext(mut self, ext: ExtFields) -> Self {
        self.ext = ext;
        self
    }

    /// Whether this answers a request.
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// Whether no answer is wanted.
    #[must_use]
    pub const fn is_oneway(&self) -> bool {
        self.flag & ONEWAY != 0
    }

    /// Says that no answer is wanted.
    pub const fn mark_oneway(&mut self) {
        self.flag |= ONEWAY;
    }

    /// Says that an answer is wanted.
    pub const fn want_answer(&mut self) {
        self.flag &= !ONEWAY;
    }

    /// The request code, when it is one we know.
    #[must_use]
    pub fn request_code(&self) -> Option<crate::RequestCode> {
        crate::RequestCode::from_wire(self.code)
    }

    /// The response code, when it is one we know.
    #[must_use]
    pub fn response_code(&self) -> Option<crate::ResponseCode> {
        crate::ResponseCode::from_wire(self.code)
    }
}
