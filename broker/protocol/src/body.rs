//! JSON bodies, in the dialect that FastJSON reads and writes.
//!
//! The dialect's oddities: maps keyed by a number have bare numbers for keys (`{0:"host"}`), maps keyed by an object have the object itself for a key, and
//! an absent value is left out. Clients in other languages write `null` for an empty list and may quote everything; that is understood too.

mod broker;
mod dialect;
mod group;
mod replication;
mod route;
mod stats;

pub use broker::*;
pub use dialect::{BodyError, NESTING_MAX, from_json, to_fastjson, to_json};
pub use group::*;
pub use replication::*;
pub use route::*;
pub use stats::*;

use serde::{Deserialize, Deserializer};

/// `null` is the type's default.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Declares bodies: every field may be absent or null.
macro_rules! bodies {
    ($($(#[$doc:meta])* $body:ident { $($(#[$meta:meta])* $field:ident: $type:ty = $name:literal,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $body {
            $($(#[$meta])* #[serde(rename = $name, default, deserialize_with = "super::lenient")] pub $field: $type),*
        }
    )* };
}
use bodies;
