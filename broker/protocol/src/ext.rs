//! The string map of a frame's header.

use crate::WireStr;
use std::fmt;

/// Set in [`Span::at`] when the text lies in the arena and not in the received bytes.
const IN_ARENA: u32 = 1 << 31;

#[derive(Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Span,
    value: Span,
}

/// The `extFields` of a header: an ordered list of named strings.
///
/// What was received stays where it is; an entry is two ranges of it. Text that had to be unescaped, and all that is inserted here, lies in one string of
/// our own. So decoding a header costs one allocation for the list and at most one for the text, however many fields there are.
#[derive(Clone, Default)]
pub struct ExtFields {
    wire: WireStr,
    arena: String,
    entries: Vec<Entry>,
    /// One bit per fingerprint of a name present: a clear bit proves that a name is new, so that the search for a duplicate is rare.
    seen: u64,
}

impl ExtFields {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty map with room for `fields` fields.
    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self { entries: Vec::with_capacity(fields), arena: String::with_capacity(fields * 16), ..Self::default() }
    }

    /// An empty map whose borrowed text will lie in `wire`.
    pub(crate) fn over(wire: WireStr) -> Self {
        Self { wire, ..Self::default() }
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).map(|i| self.text(self.entries[i].value))
    }

    /// All fields in order, each name once.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|e| (self.text(e.name), self.text(e.value)))
    }

    /// Sets `name`, in its old place when it was there.
    pub fn insert(&mut self, name: &str, value: &str) {
        let value = self.store(value);
        self.put_stored(name, value);
    }

    /// Sets `name` to a number, without a string in between.
    pub fn insert_integer(&mut self, name: &str, value: impl itoa::Integer) {
        self.insert(name, itoa::Buffer::new().format(value));
    }

    /// Removes `name` and tells whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let found = self.position(name);
        if let Some(i) = found {
            self.entries.remove(i);
        }
        found.is_some()
    }

    /// A counted reference to `text`, which came from this map: no copy when it lies in the received bytes. It keeps the whole receive buffer alive: make a
    /// name of it, or a `String`, before it outlives the request.
    #[must_use]
    pub fn share(&self, text: &str) -> WireStr {
        let start = (text.as_ptr() as usize).wrapping_sub(self.wire.as_ptr() as usize);
        if text.is_empty() || start > self.wire.len() || text.len() > self.wire.len() - start {
            return WireStr::from(text);
        }
        self.wire.slice_ref(text)
    }

    /// Adds what the decoder found. `name` and `value` lie in the received bytes when they can; anything else is copied.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        let value = self.locate(value);
        let new = self.mark(name);
        if let Some(i) = if new { None } else { self.position(name) } {
            self.entries[i].value = value;
            return;
        }
        if self.entries.is_empty() {
            self.entries.reserve(16);
        }
        let name = self.locate(name);
        self.entries.push(Entry { name, value });
    }

    /// Notes the name's fingerprint; true when no other name had it.
    fn mark(&mut self, name: &str) -> bool {
        let bytes = name.as_bytes();
        let first = usize::from(bytes.first().copied().unwrap_or(0));
        let last = usize::from(bytes.last().copied().unwrap_or(0));
        let bit = 1u64 << ((bytes.len() * 11 + first * 5 + last) & 63);
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| self.text(e.name) == name)
    }

    fn put_stored(&mut self, name: &str, value: Span) {
        let new = self.mark(name);
        if let Some(i) = if new { None } else { self.position(name) } {
            self.entries[i].value = value;
            return;
        }
        let name = self.store(name);
        self.entries.push(Entry { name, value });
    }

    fn locate(&mut self, text: &str) -> Span {
        let start = (text.as_ptr() as usize).wrapping_sub(self.wire.as_ptr() as usize);
        if start <= self.wire.len() && text.len() <= self.wire.len() - start {
            return span(start, text.len(), 0);
        }
        self.store(text)
    }

    fn store(&mut self, text: &str) -> Span {
        let at = self.arena.len();
        self.arena.push_str(text);
        span(at, text.len(), IN_ARENA)
    }

    fn text(&self, span: Span) -> &str {
        let (text, at) = if span.at & IN_ARENA == 0 { (&*self.wire, span.at) } else { (&*self.arena, span.at & !IN_ARENA) };
        &text[at as usize..at as usize + span.len as usize]
    }
}

/// A received header has at most [`crate::FrameLimits::header_bytes_max`] bytes; one that is built up to 2 GiB is a broken invariant, not trouble.
fn span(at: usize, len: usize, place: u32) -> Span {
    assert!(at + len < IN_ARENA as usize, "a header's fields have grown to 2 GiB");
    Span { at: at as u32 | place, len: len as u32 }
}

impl PartialEq for ExtFields {
    /// Equal when they hold the same fields, in any order: the wire's map has none.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for ExtFields {}

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Self {
        let mut ext = Self::new();
        for (name, value) in fields {
            ext.insert(name, value);
        }
        ext
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_set_twice_keeps_its_place_and_its_last_value() {
        let mut ext: ExtFields = [("topic", "a"), ("queueId", "1")].into_iter().collect();
        ext.insert("topic", "b");
        ext.insert_integer("queueId", -7i64);
        assert_eq!(ext.iter().collect::<Vec<_>>(), [("topic", "b"), ("queueId", "-7")]);
        assert!(ext.remove("topic") && !ext.remove("topic"));
        assert_eq!(ext.get("topic"), None);
    }

    #[test]
    fn received_text_is_shared_and_other_text_is_copied() {
        let wire = WireStr::from_static("topic=orders");
        let mut ext = ExtFields::over(wire.clone());
        ext.push(&wire[..5], &wire[6..]);
        ext.push("other", "text");
        let shared = ext.share(ext.get("topic").expect("there"));
        assert_eq!(shared.as_ptr(), wire[6..].as_ptr());
        assert_eq!(ext.share(ext.get("other").expect("there")), "text");
    }

    #[test]
    fn names_with_one_fingerprint_are_told_apart() {
        let mut ext = ExtFields::new();
        ext.push("abc", "1");
        ext.push("axc", "2");
        ext.push("abc", "3");
        assert_eq!(ext.iter().collect::<Vec<_>>(), [("abc", "3"), ("axc", "2")]);
    }
}
