//! Subscriptions and what they let through.

use sluice_protocol::java;
use sluice_types::Topic;
use thiserror::Error;

/// Why an expression is no filter.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FilterError {
    /// Only TAG is served.
    #[error("filter expressions of type {0:?} are not supported by this broker; subscribe by tag")]
    Unsupported(String),
    /// No tag between the bars.
    #[error("the tag expression {0:?} names no tag; use \"*\" or \"a || b\"")]
    Empty(String),
    /// More tags than the broker compares.
    #[error("the tag expression has {0} tags; the limit is {TAGS_MAX}")]
    TooManyTags(usize),
}

/// Most tags in one subscription.
const TAGS_MAX: usize = 1024;

/// What a group wants of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: Topic,
    /// As given: `*`, `a || b`.
    pub expression: String,
    /// `TAG`, or what else the client asked for.
    pub expression_type: String,
    /// The client's version: time of its last change of the subscription.
    pub version: i64,
    /// The tags; empty for all.
    pub tags: Vec<String>,
    /// Their hashes, sorted.
    pub codes: Vec<i32>,
}

/// The one expression type served.
pub(crate) const TAG: &str = "TAG";

impl Subscription {
    /// Reads an expression. An empty one and `*` mean everything, an empty type means `TAG`.
    pub fn parse(topic: Topic, expression: &str, expression_type: &str, version: i64) -> Result<Self, FilterError> {
        if !matches!(expression_type, "" | TAG) {
            return Err(FilterError::Unsupported(expression_type.chars().take(32).collect()));
        }
        let all = matches!(expression.trim(), "" | "*");
        let tags: Vec<String> = match all {
            true => Vec::new(),
            false => expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
        };
        if tags.is_empty() && !all {
            return Err(FilterError::Empty(expression.chars().take(64).collect()));
        }
        if tags.len() > TAGS_MAX {
            return Err(FilterError::TooManyTags(tags.len()));
        }
        let mut codes: Vec<i32> = tags.iter().map(|tag| java::string_hash(tag)).collect();
        codes.sort_unstable();
        codes.dedup();
        let expression = if all { "*".to_owned() } else { expression.to_owned() };
        Ok(Self { topic, expression, expression_type: TAG.to_owned(), version, tags, codes })
    }

    /// Everything in a topic.
    #[must_use]
    pub fn all(topic: Topic) -> Self {
        Self { topic, expression: "*".to_owned(), expression_type: TAG.to_owned(), version: 0, tags: Vec::new(), codes: Vec::new() }
    }

    /// Whether an entry with that tag hash passes. Two tags may share a hash: the consumer's client compares the text.
    #[must_use]
    pub fn accepts(&self, tag_hash: i64) -> bool {
        self.codes.is_empty() || i32::try_from(tag_hash).is_ok_and(|hash| self.codes.binary_search(&hash).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic::new("t").expect("legal")
    }

    #[test]
    fn an_expression_of_two_tags_lets_both_and_nothing_else_through() {
        let sub = Subscription::parse(topic(), "TagA || TagB", "TAG", 1).expect("legal");
        assert!(sub.accepts(i64::from(java::string_hash("TagA"))) && sub.accepts(i64::from(java::string_hash("TagB"))));
        assert!(!sub.accepts(0) && !sub.accepts(i64::from(java::string_hash("TagC"))));
    }

    #[test]
    fn a_star_and_nothing_mean_everything() {
        for text in ["*", "", " * "] {
            assert!(Subscription::parse(topic(), text, "", 1).expect("legal").accepts(0));
        }
    }

    #[test]
    fn what_is_no_tag_expression_is_refused() {
        assert_eq!(Subscription::parse(topic(), "a > 1", "SQL92", 1), Err(FilterError::Unsupported("SQL92".into())));
        assert_eq!(Subscription::parse(topic(), " || ", "TAG", 1), Err(FilterError::Empty(" || ".into())));
    }
}
