//! What is wrong with a configuration, all of it at once.

use super::{Effective, KEYS, Key, Source};
use std::{fmt, path::Path};

/// One thing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, or the file.
    pub key: String,
    /// The value given, where there is one.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
    /// Why it was refused.
    pub reason: String,
    /// What would be right.
    pub allowed: String,
}

impl ConfigError {
    pub(super) fn file(path: &Path, reason: String, allowed: &str) -> Self {
        Self { key: path.display().to_string(), value: None, source: Source::File(path.to_path_buf()), reason, allowed: allowed.to_owned() }
    }

    pub(super) fn value(key: &Key, won: &Effective, reason: String) -> Self {
        Self {
            key: key.name.to_owned(),
            value: Some(won.value.clone()),
            source: won.source.clone(),
            reason,
            allowed: format!("{} (default {})", key.allowed, key.default),
        }
    }

    pub(super) fn unknown(name: &str, value: &str, source: Source) -> Self {
        let hint = nearest(name).map(|near| format!("did you mean {near}?"));
        Self {
            key: name.to_owned(),
            value: Some(value.to_owned()),
            source,
            reason: "there is no such key".to_owned(),
            allowed: hint.unwrap_or_else(|| "a key that `sluice config --explain` lists".to_owned()),
        }
    }
}

/// The key whose name is so near that it was probably meant.
fn nearest(name: &str) -> Option<&'static str> {
    let same_leaf = |key: &&Key| name.len() > 3 && key.name.rsplit('.').next() == name.rsplit('.').next();
    let close = KEYS.iter().map(|key| (strsim::damerau_levenshtein(name, key.name), key.name)).min();
    match close {
        Some((distance, key)) if distance <= 2.max(name.len() / 4) => Some(key),
        _ => KEYS.iter().find(same_leaf).map(|key| key.name),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?} ({})", self.source)?;
        }
        write!(f, ": {}; allowed: {}", self.reason, self.allowed)
    }
}

/// All that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} {}:", self.0.len(), if self.0.len() == 1 { "error" } else { "errors" })?;
        for error in &self.0 {
            writeln!(f, "  {error}")?;
        }
        write!(f, "`sluice config --explain` lists every key")
    }
}

impl std::error::Error for ConfigErrors {}
