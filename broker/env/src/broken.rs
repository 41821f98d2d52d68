//! Safety rules that a test breaks on purpose, to see that the search or the simulation finds the loss. The product has no such switch: without the feature `sim-threads`,
//! which only tests turn on, every rule holds and the question costs nothing.

#[cfg(feature = "sim-threads")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Whether that rule is broken; never in the product.
#[cfg(not(feature = "sim-threads"))]
#[inline(always)]
#[must_use]
pub fn broken(_rule: &str) -> bool {
    false
}

/// Whether that rule is broken on this thread of the operating system.
#[cfg(feature = "sim-threads")]
#[must_use]
pub fn broken(rule: &str) -> bool {
    BROKEN.get() == Some(rule)
}

/// Breaks one rule, or none, on this thread of the operating system.
#[cfg(feature = "sim-threads")]
pub fn break_one(rule: Option<&'static str>) {
    BROKEN.set(rule);
}
