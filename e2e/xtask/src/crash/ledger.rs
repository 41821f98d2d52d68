//! What writers and readers were told, against what the broker holds.

use anyhow::{Result, ensure};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A place in the topic: queue and offset.
pub(super) type Place = (i32, i64);

/// A message's name: which writer (upper 32 bits) and its number there.
pub(super) type Value = u64;

/// The value of a writer's message.
pub(super) fn value(writer: u32, number: u32) -> Value {
    u64::from(writer) << 32 | u64::from(number)
}

/// The body that belongs to a value: the value and a filling that depends on it, 8 to some 2,000 bytes.
pub(super) fn body(value: Value) -> Vec<u8> {
    let mut state = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let length = (state >> 40) as usize % 2000;
    let mut body = value.to_be_bytes().to_vec();
    body.extend(
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(length),
    );
    body
}

/// The value of a body that is whole.
pub(super) fn value_of(bytes: &[u8]) -> Option<Value> {
    let value = u64::from_be_bytes(*bytes.first_chunk()?);
    (body(value) == bytes).then_some(value)
}

/// Promises that bind the broker: acknowledgements and what readers saw.
#[derive(Default)]
pub(super) struct Ledger {
    promised: BTreeMap<Place, Value>,
    acked: usize,
    read: usize,
    /// Per queue: everything below has been compared in an earlier cycle.
    compared: HashMap<i32, i64>,
}

impl Ledger {
    /// Acknowledgements noted.
    pub(super) fn acked(&self) -> usize {
        self.acked
    }

    /// Messages read by the last full comparison.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// A writer was told that its message is at that place.
    pub(super) fn acknowledge(&mut self, place: Place, value: Value) -> Result<()> {
        self.acked += 1;
        self.promise(place, value, "acknowledged")
    }

    /// A reader was given the message at that place.
    pub(super) fn see(&mut self, place: Place, value: Value) -> Result<()> {
        self.promise(place, value, "read")
    }

    fn promise(&mut self, place: Place, value: Value, how: &str) -> Result<()> {
        let before = *self.promised.entry(place).or_insert(value);
        ensure!(before == value, "queue {} offset {} has two contents: {before:x} before, {value:x} {how} now", place.0, place.1);
        Ok(())
    }

    /// Where to begin a comparison of this queue.
    pub(super) fn start(&self, queue: i32, all: bool) -> i64 {
        if all { 0 } else { self.compared.get(&queue).copied().unwrap_or(0) }
    }

    /// Compares a queue's content from its start with every promise, and makes the content a promise.
    pub(super) fn compare(&mut self, queue: i32, start: i64, content: &[(i64, Value)]) -> Result<()> {
        let mut numbers: HashMap<u64, u64> = HashMap::new();
        let mut values = HashSet::new();
        for (at, (offset, value)) in content.iter().enumerate() {
            let expected = start + at as i64;
            ensure!(*offset == expected, "queue {queue}: offset {expected} is missing, the next is {offset}");
            ensure!(values.insert(*value), "queue {queue}: {value:x} is there twice, again at offset {offset}");
            if let Some(before) = numbers.insert(value >> 32, value & 0xffff_ffff) {
                ensure!(before < value & 0xffff_ffff, "queue {queue}: out of order at offset {offset}: {value:x} after number {before:x} of the same writer");
            }
            self.see((queue, *offset), *value)?;
        }
        let end = start + content.len() as i64;
        let lost: Vec<_> = self.promised.range((queue, end)..=(queue, i64::MAX)).collect();
        ensure!(lost.is_empty(), "queue {queue} ends at {end}: {} promised messages are lost, the first at offset {}", lost.len(), lost[0].0.1);
        self.compared.insert(queue, end);
        if start == 0 {
            self.read += content.len();
        }
        Ok(())
    }

    /// Begins a comparison of everything.
    pub(super) fn begin_full(&mut self) {
        self.read = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_whether_it_is_whole() {
        let mut bytes = body(value(3, 77));
        assert_eq!(value_of(&bytes), Some(value(3, 77)));
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(value_of(&bytes), None);
    }

    #[test]
    fn a_lost_acknowledgement_is_found() {
        let mut ledger = Ledger::default();
        ledger.acknowledge((0, 0), value(0, 0)).unwrap();
        ledger.acknowledge((0, 1), value(0, 1)).unwrap();
        ledger.compare(0, 0, &[(0, value(0, 0)), (1, value(0, 1))]).unwrap();
        let error = ledger.compare(0, 0, &[(0, value(0, 0))]).unwrap_err();
        assert!(error.to_string().contains("1 promised messages are lost"), "{error}");
    }

    #[test]
    fn an_offset_with_another_content_is_found() {
        let mut ledger = Ledger::default();
        ledger.see((0, 0), value(0, 0)).unwrap();
        assert!(ledger.acknowledge((0, 0), value(0, 1)).is_err());
        assert!(ledger.compare(0, 0, &[(0, value(0, 2))]).is_err());
    }

    #[test]
    fn a_hole_a_repetition_and_a_wrong_order_are_found() {
        let compare = |content: &[(i64, Value)]| Ledger::default().compare(0, 0, content).unwrap_err().to_string();
        assert!(compare(&[(0, 1), (2, 2)]).contains("offset 1 is missing"));
        assert!(compare(&[(0, 1), (1, 1)]).contains("twice"));
        assert!(compare(&[(0, 2), (1, 1)]).contains("out of order"));
    }
}
