//! What depends on how Java counts.

/// Java's `String.hashCode`: 31-polynomial over UTF-16 units, wrapping at 32 bits. A tag's hash in a subscription and in a queue entry is this.
#[must_use]
pub fn string_hash(text: &str) -> i32 {
    if text.is_ascii() {
        return text.bytes().fold(0, |hash: i32, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    }
    text.encode_utf16().fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_java() {
        assert_eq!(string_hash(""), 0);
        assert_eq!(string_hash("TagA"), 2_598_919);
        assert_eq!(string_hash("polygenelubricants"), i32::MIN);
        // Two UTF-16 units, not one code point: 0xD83D * 31 + 0xDE00.
        assert_eq!(string_hash("😀"), 0xD83D * 31 + 0xDE00);
    }
}
