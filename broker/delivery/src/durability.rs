//! What a message waits for before it is acknowledged: the broker's rule, and what the attributes of its topic say otherwise.

use sluice_store::{FlushMode, Rule, Store};
use std::collections::BTreeMap;

/// The topic's attribute that says when a message is flushed: `sync` before it is acknowledged and shown, `async` some time later.
pub const FLUSH: &str = "flush";
/// The topic's attribute that says whether a message is confirmed by the in-sync set before it is acknowledged (`sync`) or after (`async`).
pub const REPLICATION: &str = "replication";

/// What the broker does for topics that say nothing, and what it can do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Durability {
    flushes: bool,
    is_replicated: bool,
    confirms: bool,
}

/// What a topic's messages wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicRule {
    /// `None`: the topic asks for more than this broker can do, and nothing is taken for it.
    pub(crate) rule: Option<Rule>,
    /// What of the attributes is not done, and what to do about it.
    pub(crate) wrong: Option<String>,
}

impl Durability {
    /// `confirms`: whether messages wait for the other brokers unless their topic says otherwise.
    pub(crate) fn of(store: &Store, confirms: bool) -> Self {
        Self { flushes: store.flush_mode() == FlushMode::Sync, is_replicated: store.is_replicated(), confirms }
    }

    /// The strictest that there is.
    fn own(self) -> Rule {
        Rule { flushed: self.flushes, confirmed: true }
    }

    /// What a producer waits for that does not want to wait (`WAIT=false`). Of a replicated log no more is acknowledged so than may be lost.
    pub(crate) fn at_once(self) -> sluice_store::Wait {
        if self.is_replicated { sluice_store::Wait::By(Rule { flushed: false, confirmed: false }) } else { sluice_store::Wait::Appended }
    }

    /// Whether messages of a topic wait for a flush that the log's own mode would do later.
    pub(crate) fn flushes_first(self, rule: &TopicRule) -> bool {
        !self.flushes && rule.rule.is_some_and(|rule| rule.flushed)
    }

    pub(crate) fn rule(self, attributes: &BTreeMap<String, String>) -> TopicRule {
        let (flush, replication) = match (asked(attributes, FLUSH), asked(attributes, REPLICATION)) {
            (Ok(flush), Ok(replication)) => (flush, replication),
            (Err(why), _) | (_, Err(why)) => return TopicRule { rule: Some(Rule { confirmed: self.confirms, ..self.own() }), wrong: Some(why) },
        };
        let rule = Rule { flushed: flush.unwrap_or(self.flushes), confirmed: replication.unwrap_or(self.confirms) };
        if self.is_replicated && rule.flushed && !self.flushes {
            // What the others hold they hold in their page caches; which of them has flushed what is not asked before a record is shown or a master made.
            let why = format!(
                "{FLUSH}=sync is not possible: the brokers of this group flush in the background. Set storage.flush to sync on all of them, and {FLUSH}=async with \
                 {REPLICATION}=async on topics that can do without"
            );
            return TopicRule { rule: None, wrong: Some(why) };
        }
        if self.is_replicated && !rule.flushed && rule.confirmed && self.flushes {
            // Members count as holding what they have flushed, and keep their place in the set through power cuts because of that.
            let why = format!(
                "{FLUSH}=async alone is not possible: the brokers of this group hold a message when it is flushed. Add {REPLICATION}=async, or leave it out"
            );
            return TopicRule { rule: Some(self.own()), wrong: Some(why) };
        }
        TopicRule { rule: Some(rule), wrong: None }
    }
}

/// What an attribute says, if it is there: `true` for `sync`.
fn asked(attributes: &BTreeMap<String, String>, name: &str) -> Result<Option<bool>, String> {
    match attributes.get(name).map(String::as_str) {
        None => Ok(None),
        Some("sync") => Ok(Some(true)),
        Some("async") => Ok(Some(false)),
        Some(other) => Err(format!("{name}={} is neither {name}=sync nor {name}=async", other.chars().take(32).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Durability = Durability { flushes: false, is_replicated: false, confirms: true };
    const GROUP: Durability = Durability { flushes: true, is_replicated: true, confirms: false };

    fn rule(of: Durability, attributes: &[(&str, &str)]) -> TopicRule {
        of.rule(&attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn is(of: Durability, attributes: &[(&str, &str)]) -> Option<(bool, bool)> {
        let TopicRule { rule, wrong } = rule(of, attributes);
        assert_eq!(wrong, None);
        rule.map(|rule| (rule.flushed, rule.confirmed))
    }

    #[test]
    fn a_topics_word_goes_before_the_brokers() {
        let (sync, lazy) = ("sync", "async");
        assert_eq!(is(ALONE, &[]), Some((false, true)));
        assert_eq!(is(ALONE, &[(FLUSH, sync)]), Some((true, true)));
        assert_eq!(is(Durability { flushes: true, ..ALONE }, &[(FLUSH, lazy)]), Some((false, true)));
        assert_eq!(is(GROUP, &[]), Some((true, false)));
        assert_eq!(is(GROUP, &[(REPLICATION, sync)]), Some((true, true)));
        assert_eq!(is(GROUP, &[(FLUSH, lazy)]), Some((false, false)));
        let strict = Durability { confirms: true, ..GROUP };
        assert_eq!(is(strict, &[(REPLICATION, lazy)]), Some((true, false)));
        assert_eq!(is(strict, &[(REPLICATION, lazy), (FLUSH, lazy)]), Some((false, false)));
    }

    #[test]
    fn what_a_group_cannot_keep_is_refused_and_never_done_by_half() {
        let lazy = Durability { flushes: false, ..GROUP };
        let refused = rule(lazy, &[(FLUSH, "sync")]);
        assert!(refused.rule.is_none() && refused.wrong.as_ref().is_some_and(|why| why.contains("Set storage.flush to sync on all of them")), "{refused:?}");
        // Less than what was asked for is never taken; more is.
        let strict = Durability { confirms: true, ..GROUP };
        let refused = rule(strict, &[(FLUSH, "async")]);
        assert_eq!(refused.rule, Some(Rule { flushed: true, confirmed: true }));
        assert!(refused.wrong.is_some_and(|why| why.contains("Add replication=async")));
        for attribute in [FLUSH, REPLICATION] {
            let wrong = rule(GROUP, &[(attribute, "SYNC")]).wrong.unwrap_or_default();
            assert!(wrong.contains(&format!("{attribute}=SYNC is neither {attribute}=sync nor {attribute}=async")), "{wrong}");
        }
    }
}
