//! Where raw values come from.

use super::{ConfigError, Effective, KEYS, keys};
use serde_yaml::Value;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is the default.
    Default,
    /// In that file.
    File(PathBuf),
    /// In that environment variable.
    Environment(String),
    /// On the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Reads nested (`broker: {name: a}`) and dotted (`broker.name: a`) keys alike.
pub(super) fn from_yaml(text: &str, path: &Path, errors: &mut Vec<ConfigError>) -> Vec<Effective> {
    let mut found = Vec::new();
    match serde_yaml::from_str::<Value>(text) {
        Ok(Value::Null) => {}
        Ok(root @ Value::Mapping(_)) => flatten("", &root, path, &mut found, errors),
        Ok(_) => errors.push(ConfigError::file(path, "it is not a mapping of keys to values".into(), "lines such as `data_dir: /var/lib/sluice`")),
        Err(error) => errors.push(ConfigError::file(path, format!("it is not YAML: {error}"), "lines such as `data_dir: /var/lib/sluice`")),
    }
    found
}

fn flatten(prefix: &str, value: &Value, path: &Path, found: &mut Vec<Effective>, errors: &mut Vec<ConfigError>) {
    if let Value::Mapping(map) = value {
        for (name, inner) in map {
            let name = scalar(name).unwrap_or_else(|| "(not a name)".to_owned());
            let full = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            flatten(&full, inner, path, found, errors);
        }
        return;
    }
    let source = Source::File(path.to_path_buf());
    let text = match value {
        Value::Sequence(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        other => scalar(other),
    };
    match (keys::find(prefix), text) {
        (Some(key), Some(value)) if found.iter().any(|e| e.key == key.name) => {
            errors.push(ConfigError::value(key, &Effective { key: key.name, value, source }, "it is given twice in the file".into()));
        }
        (Some(key), Some(value)) => found.push(Effective { key: key.name, value, source }),
        (Some(key), None) => {
            let value = Effective { key: key.name, value: String::new(), source };
            errors.push(ConfigError::value(key, &value, "it has no value, or one that is neither a scalar nor a list of scalars".into()));
        }
        (None, text) => errors.push(ConfigError::unknown(prefix, &text.unwrap_or_default(), source)),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Takes `SLUICE_…`. A variable that is nearly a key is an error; one that is nothing like a key gets a warning only, because Kubernetes sets
/// `SLUICE_PORT` and the like for a Service of that name.
pub(super) fn from_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    errors: &mut Vec<ConfigError>,
    warnings: &mut Vec<String>,
) -> Vec<Effective> {
    let mut found = Vec::new();
    for (name, value) in environment {
        if !name.starts_with("SLUICE_") || name == "SLUICE_CONFIG" {
            continue;
        }
        if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
            found.push(Effective { key: key.name, value, source: Source::Environment(name) });
            continue;
        }
        let near = KEYS.iter().map(|key| (strsim::damerau_levenshtein(&name, &key.variable()), key.variable())).min();
        match near {
            Some((1..=2, meant)) => errors.push(ConfigError {
                key: name.clone(),
                value: Some(value),
                source: Source::Environment(name),
                reason: "there is no such setting".into(),
                allowed: format!("did you mean {meant}?"),
            }),
            _ => warnings.push(format!("the environment variable {name} is no setting of the server; `sluice config --explain` lists them")),
        }
    }
    found
}
