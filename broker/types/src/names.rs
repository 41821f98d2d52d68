//! Names of topics and groups. They are checked once, where bytes come in; from then on a `Topic` can safely stand in a log line, a metric label or a key.
//! The rules are RocketMQ's: `^[%|a-zA-Z0-9_-]+$`, at most 127 bytes for a topic and 255 for a group.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest topic name in bytes (a v1 record has one byte for it, read as signed by Java).
pub const TOPIC_BYTES_MAX: usize = 127;
/// Longest consumer or producer group name in bytes.
pub const GROUP_BYTES_MAX: usize = 255;

const RETRY_PREFIX: &str = "%RETRY%";
const DEAD_LETTER_PREFIX: &str = "%DLQ%";

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("the {kind} name is empty; give a name of letters, digits, '_', '-', '%' or '|'")]
    Empty {
        /// `topic` or `group`.
        kind: &'static str,
    },
    /// Longer than the limit.
    #[error("the {kind} name has {bytes} bytes; the limit is {max}")]
    TooLong {
        /// `topic` or `group`.
        kind: &'static str,
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character that no name may have.
    #[error("the {kind} name {name:?} has a character that is not a letter, a digit, '_', '-', '%' or '|'")]
    IllegalCharacter {
        /// `topic` or `group`.
        kind: &'static str,
        /// The name, shortened to what fits a log line.
        name: String,
    },
}

fn check(kind: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if name.len() > max {
        return Err(NameError::TooLong { kind, bytes: name.len(), max });
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'%' | b'|');
    if !name.bytes().all(legal) {
        return Err(NameError::IllegalCharacter { kind, name: name.chars().take(64).collect() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and takes a name.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check($kind, name, $max)?;
                Ok(Self(name.into()))
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::new(&name).map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// A topic's name.
    Topic, "topic", TOPIC_BYTES_MAX
}
name! {
    /// A producer or consumer group's name.
    Group, "group", GROUP_BYTES_MAX
}

impl Topic {
    /// The topic that holds a group's messages between two attempts. Fails only when the group's name leaves no room for the prefix.
    pub fn retry_of(group: &Group) -> Result<Self, NameError> {
        Self::new(&format!("{RETRY_PREFIX}{group}"))
    }

    /// The topic that holds what a group gave up on.
    pub fn dead_letters_of(group: &Group) -> Result<Self, NameError> {
        Self::new(&format!("{DEAD_LETTER_PREFIX}{group}"))
    }

    /// The group whose retry topic this is.
    #[must_use]
    pub fn retry_group(&self) -> Option<Group> {
        self.0.strip_prefix(RETRY_PREFIX).and_then(|group| Group::new(group).ok())
    }

    /// Whether this is some group's dead-letter topic.
    #[must_use]
    pub fn is_dead_letters(&self) -> bool {
        self.0.starts_with(DEAD_LETTER_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_like_and_odd_names_are_refused() {
        for bad in ["../etc", "a/b", "a b", "a\0", "ü", "a.b"] {
            assert!(matches!(Topic::new(bad), Err(NameError::IllegalCharacter { .. })), "{bad}");
        }
        assert!(matches!(Topic::new(""), Err(NameError::Empty { .. })));
        assert!(matches!(Topic::new(&"a".repeat(128)), Err(NameError::TooLong { .. })));
        assert!(Topic::new(&"a".repeat(127)).is_ok());
    }

    #[test]
    fn retry_and_dead_letter_topics_name_their_group() {
        let group = Group::new("orders").expect("legal");
        let retry = Topic::retry_of(&group).expect("fits");
        assert_eq!(retry.as_str(), "%RETRY%orders");
        assert_eq!(retry.retry_group(), Some(group.clone()));
        assert!(Topic::dead_letters_of(&group).expect("fits").is_dead_letters());
    }
}
