//! The safety rules, each of which a test can break on purpose to see that the search finds the loss.

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether a test has broken that rule; never in the product.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn broken(_rule: &str) -> bool {
    false
}

/// Whether this test has broken that rule.
#[cfg(test)]
pub(crate) fn broken(rule: &str) -> bool {
    BROKEN.get() == Some(rule)
}

/// Breaks one rule, or none, on this thread.
#[cfg(test)]
pub(crate) fn break_one(rule: Option<&'static str>) {
    BROKEN.set(rule);
}
