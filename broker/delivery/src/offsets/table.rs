//! Committed offsets as they are in memory, as they are on their way into the log, and as they may be told.

use super::Place;
use ahash::AHashMap;
use sluice_env::broken;
use sluice_store::AppendError;
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::collections::{BTreeMap, BTreeSet};

/// Called once with the offset that the log holds durably, `None` for none, or why it does not.
pub(super) type Settled = Box<dyn FnOnce(Result<Option<QueueOffset>, AppendError>) + Send>;

/// How far an offset's way into the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// As durable as the log's rule asks.
    Stored,
    /// To be written.
    Changed,
    /// In the write with that number, which the log has not answered yet.
    Written(u64),
}

/// A group's offset in a queue.
struct Entry {
    /// The newest; `None` when it was deleted.
    now: Option<QueueOffset>,
    /// The newest that the log is known to hold durably.
    stored: Option<QueueOffset>,
    /// The write that told so. An answer to one before it comes too late to tell anything.
    stored_by: u64,
    stage: Stage,
}

/// What one write takes to the log.
pub(super) struct Write {
    number: u64,
    /// In the order of places: the log must not depend on a hash's order.
    pub(super) values: Vec<(Place, Option<QueueOffset>)>,
}

/// Who waited for a write, and with what the answer comes.
pub(super) type Answers = Vec<(Settled, Result<Option<QueueOffset>, AppendError>)>;

/// All offsets.
#[derive(Default)]
pub(super) struct Table {
    groups: AHashMap<Group, AHashMap<Topic, BTreeMap<QueueId, Entry>>>,
    /// Places to be written, by group.
    changed: BTreeMap<Group, BTreeSet<(Topic, QueueId)>>,
    /// Those who wait, by the number of the write that will answer them.
    waiting: BTreeMap<u64, Vec<(Place, Settled)>>,
    /// Number of the next write.
    next: u64,
}

impl Table {
    fn entry(&self, group: &str, topic: &str, queue: QueueId) -> Option<&Entry> {
        self.groups.get(group)?.get(topic)?.get(&queue)
    }

    fn entry_mut(&mut self, (group, topic, queue): &Place) -> Option<&mut Entry> {
        self.groups.get_mut(group)?.get_mut(topic)?.get_mut(queue)
    }

    /// The newest offset.
    pub(super) fn now(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.entry(group, topic, queue)?.now
    }

    /// The offset that may be told: one that stays whatever fails.
    pub(super) fn stored(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.entry(group, topic, queue)?.told()
    }

    /// Takes what the log holds at the opening. `is_stored`: durably.
    pub(super) fn load(&mut self, place: Place, offset: QueueOffset, is_stored: bool) {
        let (now, stage) = (Some(offset), if is_stored { Stage::Stored } else { Stage::Changed });
        self.insert(place, Entry { now, stored: now.filter(|_| is_stored), stored_by: 0, stage });
    }

    fn insert(&mut self, (group, topic, queue): Place, entry: Entry) {
        if entry.stage == Stage::Changed {
            self.changed.entry(group.clone()).or_default().insert((topic.clone(), queue));
        }
        self.groups.entry(group).or_default().entry(topic).or_default().insert(queue, entry);
    }

    /// Changes an offset, or deletes it, and returns the former one.
    pub(super) fn set(&mut self, group: &Group, topic: &Topic, queue: QueueId, offset: Option<QueueOffset>) -> Option<QueueOffset> {
        let Some(entry) = self.groups.get_mut(group).and_then(|topics| topics.get_mut(topic)?.get_mut(&queue)) else {
            if offset.is_some() {
                let entry = Entry { now: offset, stored: None, stored_by: self.next, stage: Stage::Changed };
                self.insert((group.clone(), topic.clone(), queue), entry);
            }
            return None;
        };
        let before = std::mem::replace(&mut entry.now, offset);
        if before != offset && entry.stage != Stage::Changed {
            entry.stage = Stage::Changed;
            self.changed.entry(group.clone()).or_default().insert((topic.clone(), queue));
        }
        before
    }

    /// Places that have an offset and are of that kind.
    pub(super) fn places(&self, of: impl Fn(&Group, &Topic) -> bool) -> Vec<Place> {
        let topics = self.groups.iter().flat_map(|(group, topics)| topics.iter().map(move |(topic, queues)| (group, topic, queues)));
        let kept = topics.filter(|(group, topic, _)| of(group, topic));
        let all = kept
            .flat_map(|(group, topic, queues)| queues.iter().filter(|(_, entry)| entry.now.is_some()).map(|(queue, _)| (group.clone(), topic.clone(), *queue)));
        let mut all: Vec<Place> = all.collect();
        all.sort_unstable();
        all
    }

    /// A group's offsets that may be told.
    pub(super) fn list(&self, group: &str) -> Vec<(Topic, QueueId, QueueOffset)> {
        let topics = self.groups.get(group).into_iter().flatten();
        let queues = topics.flat_map(|(topic, queues)| queues.iter().filter_map(|(queue, entry)| Some((topic.clone(), *queue, entry.told()?))));
        let mut all: Vec<_> = queues.collect();
        all.sort_unstable();
        all
    }

    /// Groups with an offset in such a topic.
    pub(super) fn groups(&self, of: impl Fn(&Topic) -> bool) -> Vec<Group> {
        let has = |topics: &AHashMap<Topic, BTreeMap<QueueId, Entry>>| {
            topics.iter().any(|(topic, queues)| of(topic) && queues.values().any(|entry| entry.now.is_some()))
        };
        let mut groups: Vec<Group> = self.groups.iter().filter(|(_, topics)| has(topics)).map(|(group, _)| group.clone()).collect();
        groups.sort_unstable();
        groups
    }

    /// Waits for the place's newest offset: answered at once when that is stored, by the write that holds it when one is under way. Comes back when it has to be
    /// written first.
    pub(super) fn wait(&mut self, place: Place, settled: Settled) -> Waits {
        match self.entry(place.0.as_str(), place.1.as_str(), place.2) {
            None => Waits::Not(settled, None),
            Some(Entry { stage, now, .. }) if *stage == Stage::Stored || broken("a committed offset is told before it is stored") => Waits::Not(settled, *now),
            Some(Entry { stage: Stage::Written(number), .. }) => {
                let number = *number;
                self.waiting.entry(number).or_default().push((place, settled));
                Waits::ForWrite
            }
            Some(_) => Waits::ToBeWritten(place, settled),
        }
    }

    /// Begins a write of all that has changed, or of what has changed of one group.
    pub(super) fn begin_write(&mut self, of: Option<&Group>) -> Option<Write> {
        let taken = match of {
            Some(group) => self.changed.remove_entry(group).into_iter().collect(),
            None => std::mem::take(&mut self.changed),
        };
        let number = self.next;
        let mut values = Vec::new();
        for (group, queues) in taken {
            for (topic, queue) in queues {
                let place = (group.clone(), topic, queue);
                let Some(entry) = self.entry_mut(&place) else { continue };
                entry.stage = Stage::Written(number);
                values.push((place, entry.now));
            }
        }
        if values.is_empty() {
            return None;
        }
        self.next += 1;
        Some(Write { number, values })
    }

    /// A write's end. What the log does not hold durably has to be written again.
    pub(super) fn end_write(&mut self, Write { number, values }: Write, result: &Result<(), AppendError>) -> Answers {
        for (place, value) in &values {
            let Some(entry) = self.entry_mut(place) else { continue };
            let is_newest = entry.stage == Stage::Written(number);
            if result.is_ok() && entry.stored_by <= number {
                (entry.stored, entry.stored_by) = (*value, number);
            }
            match result {
                Ok(()) if is_newest => {
                    entry.stage = Stage::Stored;
                    self.drop_if_deleted(place);
                }
                Err(_) if is_newest => {
                    entry.stage = Stage::Changed;
                    self.changed.entry(place.0.clone()).or_default().insert((place.1.clone(), place.2));
                }
                _ => {}
            }
        }
        let waited = self.waiting.remove(&number).unwrap_or_default();
        let held = |place: &Place| values.binary_search_by(|(of, _)| of.cmp(place)).ok().and_then(|at| values[at].1);
        waited.into_iter().map(|(place, settled)| (settled, result.clone().map(|()| held(&place)))).collect()
    }

    fn drop_if_deleted(&mut self, (group, topic, queue): &Place) {
        let Some(topics) = self.groups.get_mut(group) else { return };
        let Some(queues) = topics.get_mut(topic) else { return };
        if queues.get(queue).is_some_and(|entry| entry.now.is_none()) {
            queues.remove(queue);
        }
        if queues.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.groups.remove(group);
        }
    }
}

impl Entry {
    fn told(&self) -> Option<QueueOffset> {
        self.now.and(self.stored)
    }
}

/// What became of a wait.
pub(super) enum Waits {
    /// There is nothing to wait for: this is stored.
    Not(Settled, Option<QueueOffset>),
    /// A write under way will answer.
    ForWrite,
    /// It is in memory alone.
    ToBeWritten(Place, Settled),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn place(queue: u32) -> Place {
        (Group::new("readers").expect("legal"), Topic::new("orders").expect("legal"), QueueId(queue))
    }

    fn set(table: &mut Table, queue: u32, offset: Option<u64>) {
        let (group, topic, queue) = place(queue);
        table.set(&group, &topic, queue, offset.map(QueueOffset));
    }

    fn write(table: &mut Table) -> Write {
        table.begin_write(None).expect("something has changed")
    }

    fn told(table: &Table) -> Option<u64> {
        table.stored("readers", "orders", QueueId(0)).map(|offset| offset.0)
    }

    const LOST: Result<(), AppendError> = Err(AppendError::Stopped);

    /// The store answers on several threads.
    #[test]
    fn an_answer_that_comes_after_a_later_ones_tells_nothing() {
        let mut table = Table::default();
        set(&mut table, 0, Some(1));
        let first = write(&mut table);
        set(&mut table, 0, Some(2));
        let second = write(&mut table);
        table.end_write(second, &Ok(()));
        assert_eq!(told(&table), Some(2));
        table.end_write(first, &Ok(()));
        assert_eq!(told(&table), Some(2));
        assert!(table.begin_write(None).is_none());
    }

    #[test]
    fn an_answer_about_what_was_deleted_meanwhile_tells_nothing_of_what_is_there_now() {
        let mut table = Table::default();
        set(&mut table, 0, Some(7));
        let first = write(&mut table);
        set(&mut table, 0, None);
        let deletion = write(&mut table);
        table.end_write(deletion, &Ok(()));
        assert!(table.groups.is_empty(), "nothing is left of it");
        set(&mut table, 0, Some(1));
        table.end_write(first, &Ok(()));
        assert_eq!(told(&table), None);
        let last = write(&mut table);
        table.end_write(last, &Ok(()));
        assert_eq!(told(&table), Some(1));
    }

    #[test]
    fn what_was_not_stored_is_written_again_unless_a_later_write_holds_the_place() {
        let mut table = Table::default();
        set(&mut table, 0, Some(1));
        set(&mut table, 1, Some(1));
        let first = write(&mut table);
        set(&mut table, 0, Some(2));
        let second = write(&mut table);
        table.end_write(first, &LOST);
        let again = write(&mut table);
        assert_eq!(again.values, [(place(1), Some(QueueOffset(1)))]);
        table.end_write(second, &Ok(()));
        table.end_write(again, &LOST);
        assert_eq!(write(&mut table).values.len(), 1);
        assert_eq!(told(&table), Some(2));
    }

    #[test]
    fn a_write_answers_with_what_it_held() {
        let mut table = Table::default();
        set(&mut table, 0, Some(1));
        let first = write(&mut table);
        let (sender, receiver) = mpsc::channel();
        assert!(matches!(table.wait(place(0), Box::new(move |result| sender.send(result).expect("waits"))), Waits::ForWrite));
        set(&mut table, 0, Some(2));
        let (kept, _) = mpsc::channel();
        assert!(matches!(table.wait(place(0), Box::new(move |result| kept.send(result).expect("waits"))), Waits::ToBeWritten(..)));
        for (settled, result) in table.end_write(first, &Ok(())) {
            settled(result);
        }
        assert_eq!(receiver.try_recv(), Ok(Ok(Some(QueueOffset(1)))));
        assert!(table.waiting.is_empty());
    }
}
