//! The name server's key-value configuration, by namespace.

use parking_lot::RwLock;
use std::collections::BTreeMap;
use thiserror::Error;

/// The namespace whose values say how many queues of which broker keep a topic's order.
pub const ORDER_TOPIC_NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

/// Most entries of all namespaces.
const ENTRIES_MAX: usize = 100_000;
/// Longest namespace, key or value.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Why a value was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KvError {
    /// Namespace or key is empty.
    #[error("the {0} is empty; give one")]
    Empty(&'static str),
    /// Longer than allowed.
    #[error("the {what} has {bytes} bytes; the limit is {TEXT_BYTES_MAX}")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// There are too many.
    #[error("the name server has {ENTRIES_MAX} values, more are not taken; delete some that nobody uses")]
    Full,
}

/// The values. Whoever wants them to last stores what [`KvConfig::put`] and [`KvConfig::delete`] were called with.
#[derive(Debug, Default)]
pub struct KvConfig {
    values: RwLock<BTreeMap<String, BTreeMap<String, String>>>,
}

impl KvConfig {
    /// Without a value.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether these texts may be set.
    pub fn check(namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        for (what, text) in [("namespace", namespace), ("key", key), ("value", value)] {
            if text.is_empty() && what != "value" {
                return Err(KvError::Empty(what));
            }
            if text.len() > TEXT_BYTES_MAX {
                return Err(KvError::TooLong { what, bytes: text.len() });
            }
        }
        Ok(())
    }

    /// Sets a value.
    pub fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        Self::check(namespace, key, value)?;
        let mut values = self.values.write();
        let known = values.get(namespace).is_some_and(|keys| keys.contains_key(key));
        if !known && values.values().map(BTreeMap::len).sum::<usize>() >= ENTRIES_MAX {
            return Err(KvError::Full);
        }
        values.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// A value.
    #[must_use]
    pub fn get(&self, namespace: &str, key: &str) -> Option<String> {
        self.values.read().get(namespace)?.get(key).cloned()
    }

    /// Removes a value and tells whether it was there.
    pub fn delete(&self, namespace: &str, key: &str) -> bool {
        let mut values = self.values.write();
        let Some(keys) = values.get_mut(namespace) else { return false };
        let removed = keys.remove(key).is_some();
        if keys.is_empty() {
            values.remove(namespace);
        }
        removed
    }

    /// All values of a namespace; `None` when it has none.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.values.read().get(namespace).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_until_it_is_deleted() {
        let kv = KvConfig::new();
        kv.put(ORDER_TOPIC_NAMESPACE, "orders", "broker-a:4").expect("legal");
        assert_eq!(kv.get(ORDER_TOPIC_NAMESPACE, "orders").as_deref(), Some("broker-a:4"));
        assert_eq!(kv.list(ORDER_TOPIC_NAMESPACE).map(|values| values.len()), Some(1));
        assert!(kv.delete(ORDER_TOPIC_NAMESPACE, "orders"));
        assert!(!kv.delete(ORDER_TOPIC_NAMESPACE, "orders"));
        assert_eq!(kv.list(ORDER_TOPIC_NAMESPACE), None);
        assert_eq!(kv.put("", "k", "v"), Err(KvError::Empty("namespace")));
    }
}
