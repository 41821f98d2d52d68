//! What an update has changed, setting by setting.

use crate::{Global, error::CliError, output};
use serde::Serialize;

/// One setting at one broker.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    broker: String,
    setting: String,
    from: String,
    to: String,
}

/// All that an update has changed.
#[derive(Debug, Serialize)]
pub(crate) struct Changes {
    /// `topic NAME` or `group NAME`.
    #[serde(skip)]
    what: String,
    changes: Vec<Change>,
}

impl Changes {
    pub(crate) fn new(what: &str) -> Self {
        Self { what: what.to_owned(), changes: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn push(&mut self, broker: &str, setting: &str, from: String, to: String) {
        if from != to {
            self.changes.push(Change { broker: broker.to_owned(), setting: setting.to_owned(), from, to });
        }
    }

    /// Gives a setting its new value, if there is one, and notes what it was.
    pub(crate) fn set<T: ToString + Copy>(&mut self, broker: &str, setting: &str, place: &mut T, to: Option<T>) {
        if let Some(to) = to {
            self.push(broker, setting, place.to_string(), to.to_string());
            *place = to;
        }
    }

    pub(crate) fn show(&self, global: &Global) -> Result<(), CliError> {
        output::show(global.output, self, |this| {
            if this.changes.is_empty() {
                return output::line(&format!("{} is like that already", this.what));
            }
            let line = |c: &Change| output::line(&format!("{}: {} from {} to {} on {}", this.what, c.setting, c.from, c.to, c.broker));
            this.changes.iter().try_for_each(line)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_and_differs_counts_as_changed() {
        let (mut queues, mut changes) = (16, Changes::new("topic t"));
        changes.set("b", "queues", &mut queues, None);
        changes.set("b", "queues", &mut queues, Some(16));
        assert_eq!((queues, changes.len()), (16, 0));
        changes.set("b", "queues", &mut queues, Some(32));
        assert_eq!((queues, changes.len(), changes.changes[0].from.as_str()), (32, 1, "16"));
    }
}
