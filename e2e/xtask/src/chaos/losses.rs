//! What changes of master take under asynchronous replication of what was acknowledged: no more than the bound, nothing that was not cut by a change, and all of it counted
//! by the brokers' metrics.

use super::faults::Fault;
use std::collections::BTreeMap;

/// Most log that the brokers acknowledge here before others have it, and its word in the configuration: the least that they take. A master that is cut off reaches it
/// within its lease.
pub(super) const BOUND: u64 = 64 << 10;
pub(super) const BOUND_WORD: &str = "64KiB";

/// How often a fault is done when the page is written.
pub(super) const RUNS: u32 = 10;

/// What brokers say they have cut of what they had acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Whether it may be less: a process that was killed has not said what it had acknowledged.
    pub(super) is_at_most: bool,
}

impl Counted {
    /// What has come since.
    fn since(self, before: Self) -> Self {
        let messages = self.messages.saturating_sub(before.messages);
        Self { messages, bytes: self.bytes.saturating_sub(before.bytes), is_at_most: self.is_at_most && messages > 0 }
    }
}

/// The metrics of all processes that there were: a counter begins anew with its process.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<(usize, u32), Counted>);

impl Tally {
    /// What the process of that broker, by its number among all that it had, has counted so far.
    pub(super) fn note(&mut self, process: (usize, u32), counted: Counted) {
        self.0.insert(process, counted);
    }

    fn total(&self) -> Counted {
        self.0.values().fold(Counted::default(), |sum, one| Counted {
            messages: sum.messages + one.messages,
            bytes: sum.bytes + one.bytes,
            is_at_most: sum.is_at_most || one.is_at_most,
        })
    }
}

/// What had been counted when a fault was over and the group whole; without a fault it is the run's end.
pub(super) struct Sample {
    at: u64,
    fault: Option<Fault>,
    total: Counted,
}

impl Sample {
    pub(super) fn new(at: u64, fault: Option<Fault>, tally: &Tally) -> Self {
        Self { at, fault, total: tally.total() }
    }
}

/// An acknowledged record that is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    /// Who sent it, and its number among the sender's.
    pub(super) value: (u32, u32),
    /// When the send began.
    pub(super) invoke: u64,
    /// Where the record lay in the log.
    pub(super) at: u64,
    /// Bytes of its body: the record had more.
    pub(super) bytes: u64,
    /// Whether the message came to nobody: else another copy of it is there.
    pub(super) is_lost: bool,
}

/// A master has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// When it was known.
    pub(super) known: u64,
    /// Where its own part of the log begins.
    pub(super) start: u64,
}

/// The change that has taken it: the first one that was known after the send had begun and whose log goes on without it. What no change can have taken is a loss like
/// any other.
pub(super) fn taker(gone: &Gone, changes: &[Change]) -> Option<usize> {
    let all = changes.iter().enumerate().filter(|(_, change)| change.known > gone.invoke && change.start <= gone.at);
    all.min_by_key(|(_, change)| change.known).map(|(index, _)| index)
}

/// What one fault has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Toll {
    pub(super) fault: Option<Fault>,
    changes: u64,
    /// Acknowledged records that are gone, those of them whose messages came to nobody, and the bytes of their bodies.
    pub(super) records: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Most log from where a new master's begins to the end of a record that it lacks.
    pub(super) reach: u64,
    pub(super) counted: Counted,
}

/// By fault; `changes` are all that there were, in any order.
pub(super) fn tolls(gone: &[Gone], changes: &[Change], samples: &[Sample]) -> Vec<Toll> {
    let (mut from, mut before) = (0, Counted::default());
    let mut tolls = Vec::new();
    for sample in samples {
        let is_own = |change: &Change| (from..sample.at).contains(&change.known);
        let mut toll = Toll {
            fault: sample.fault,
            changes: changes.iter().filter(|change| is_own(change)).count() as u64,
            records: 0,
            messages: 0,
            bytes: 0,
            reach: 0,
            counted: sample.total.since(before),
        };
        for (gone, change) in gone.iter().filter_map(|gone| Some((gone, changes[taker(gone, changes)?]))).filter(|(_, change)| is_own(change)) {
            toll.records += 1;
            toll.messages += u64::from(gone.is_lost);
            toll.bytes += gone.bytes;
            toll.reach = toll.reach.max(gone.at + gone.bytes - change.start);
        }
        tolls.push(toll);
        (from, before) = (sample.at, sample.total);
    }
    tolls
}

impl Toll {
    fn name(&self) -> String {
        self.fault.map_or_else(|| "the end".to_owned(), Fault::name)
    }

    /// In words, if there is something to tell.
    pub(super) fn told(&self) -> Option<String> {
        let Self { records, messages, bytes, reach, counted, .. } = *self;
        let up_to = if counted.is_at_most { "up to " } else { "" };
        let (name, of_brokers) = (self.name(), format!("{up_to}{} messages ({} bytes)", counted.messages, counted.bytes));
        (records + counted.messages > 0)
            .then(|| format!("{name}: taken {messages} messages ({bytes} bytes of bodies, {reach} bytes of log); the brokers have counted {of_brokers}"))
    }

    /// What must not be.
    pub(super) fn complaints(&self) -> Vec<String> {
        let Self { changes, records, bytes, reach, counted, .. } = *self;
        let fault = self.name();
        let mut complaints = Vec::new();
        let mut wrong = |is_so: bool, text: String| {
            if is_so {
                complaints.push(format!("{fault}: {text}"));
            }
        };
        wrong(
            records > counted.messages || bytes > counted.bytes,
            format!(
                "{records} acknowledged records ({bytes} bytes of bodies) were taken, and the brokers have counted {} ({} bytes)",
                counted.messages, counted.bytes
            ),
        );
        wrong(reach > BOUND, format!("a change of master has taken what was acknowledged {reach} bytes behind its begin; the bound is {BOUND}"));
        // What a killed process may have acknowledged is all that it has written, also what still waited beyond the bound.
        wrong(
            !counted.is_at_most && counted.bytes > BOUND * changes,
            format!("the brokers have counted {} bytes with {changes} changes of master; the bound is {BOUND} for each", counted.bytes),
        );
        wrong(changes == 0 && counted.messages > 0, format!("the brokers have counted {} messages and the master has not changed", counted.messages));
        wrong(
            self.fault == Some(Fault::Switchover) && records + counted.messages > 0,
            format!("an ordered change of master has taken {records} acknowledged records, the brokers have counted {}", counted.messages),
        );
        // It serves a client on its own machine for as long as it may.
        let is_served_alone = matches!(self.fault, Some(Fault::IsolateMaster | Fault::KillIsolated));
        wrong(is_served_alone && records == 0, "the isolated master has lost nothing: the run has shown nothing".to_owned());
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(number: u32, invoke: u64, at: u64, bytes: u64) -> Gone {
        Gone { value: (11, number), invoke, at, bytes, is_lost: true }
    }

    fn counted(messages: u64, bytes: u64) -> Counted {
        Counted { messages, bytes, is_at_most: false }
    }

    fn sample(at: u64, fault: Fault, messages: u64, bytes: u64) -> Sample {
        Sample { at, fault: Some(fault), total: counted(messages, bytes) }
    }

    const CHANGES: [Change; 2] = [Change { known: 200, start: 5_000 }, Change { known: 400, start: 9_000 }];

    /// The complaints of one fault with the change at 200.
    fn complaints(fault: Fault, gone: &[Gone], counted: Counted) -> Vec<String> {
        tolls(gone, &CHANGES, &[Sample { at: 300, fault: Some(fault), total: counted }])[0].complaints()
    }

    #[test]
    fn a_record_is_taken_by_the_first_change_after_its_send_whose_log_goes_on_without_it() {
        assert_eq!(taker(&gone(1, 100, 5_000, 1), &CHANGES), Some(0));
        assert_eq!(taker(&gone(1, 100, 9_500, 1), &CHANGES), Some(0));
        // The next master had it, and the one after that had not.
        let later = [CHANGES[0], Change { known: 400, start: 4_000 }];
        assert_eq!(taker(&gone(1, 100, 4_500, 1), &later), Some(1));
    }

    #[test]
    fn what_lies_before_every_later_masters_begin_or_was_acknowledged_after_the_last_change_was_taken_by_none() {
        assert_eq!(taker(&gone(1, 100, 4_999, 1), &CHANGES), None);
        assert_eq!(taker(&gone(1, 250, 8_999, 1), &CHANGES), None);
        assert_eq!(taker(&gone(1, 400, 20_000, 1), &CHANGES), None);
    }

    #[test]
    fn a_loss_within_the_bound_that_is_counted_is_no_harm() {
        let gone = [gone(1, 100, 5_000, 700), gone(2, 150, 5_900, 700)];
        assert_eq!(complaints(Fault::IsolateMaster, &gone, counted(2, 1_800)), [""; 0]);
        // A send whose answer was cut off is counted too.
        assert_eq!(complaints(Fault::KillMaster, &gone, counted(3, 2_700)), [""; 0]);
        assert_eq!(complaints(Fault::KillMaster, &[], counted(0, 0)), [""; 0]);
    }

    #[test]
    fn an_acknowledged_record_that_was_taken_and_not_counted_is_harm() {
        let gone = [gone(1, 100, 5_000, 700), gone(2, 150, 5_900, 700)];
        for (messages, bytes) in [(1, 1_800), (2, 1_399), (0, 0)] {
            let found = complaints(Fault::PauseMaster, &gone, counted(messages, bytes));
            assert!(found.len() == 1 && found[0].contains("2 acknowledged records (1400 bytes of bodies) were taken"), "{found:?}");
        }
    }

    #[test]
    fn what_another_fault_has_counted_does_not_make_up_for_it() {
        let samples = [sample(300, Fault::KillMaster, 5, 9_000), sample(500, Fault::PauseMaster, 5, 9_000)];
        let tolls = tolls(&[gone(1, 350, 9_100, 10)], &CHANGES, &samples);
        assert_eq!(tolls[0].complaints(), [""; 0]);
        assert_eq!(tolls[1].complaints().len(), 1);
    }

    #[test]
    fn a_record_that_was_acknowledged_beyond_the_bound_is_harm() {
        let at = |end: u64| [gone(1, 100, 5_000 + end - 10, 10)];
        assert_eq!(complaints(Fault::CutReplicas, &at(BOUND), counted(1, 100)), [""; 0]);
        let found = complaints(Fault::CutReplicas, &at(BOUND + 1), counted(1, 100));
        assert!(found.len() == 1 && found[0].contains("65537 bytes behind its begin"), "{found:?}");
    }

    #[test]
    fn more_counted_than_the_bound_is_harm_but_for_a_process_that_was_killed() {
        let much = counted(90, BOUND + 1);
        assert_eq!(complaints(Fault::CutReplicas, &[], much).len(), 1);
        assert_eq!(complaints(Fault::CutReplicas, &[], Counted { is_at_most: true, ..much }), [""; 0]);
    }

    #[test]
    fn a_count_without_a_change_of_master_and_one_with_an_ordered_change_are_harm() {
        let found = complaints(Fault::Switchover, &[], Counted { is_at_most: true, ..counted(1, 100) });
        assert!(found.len() == 1 && found[0].contains("an ordered change"), "{found:?}");
        let toll = tolls(&[], &[], &[Sample { at: 30, fault: None, total: Counted { is_at_most: true, ..counted(1, 100) } }]);
        assert!(toll[0].complaints()[0].contains("the master has not changed"));
    }

    #[test]
    fn an_isolated_master_that_has_lost_nothing_has_shown_nothing() {
        for fault in [Fault::IsolateMaster, Fault::KillIsolated] {
            assert_eq!(complaints(fault, &[], counted(0, 0)).len(), 1);
        }
        assert_eq!(complaints(Fault::PowerCut, &[], counted(0, 0)), [""; 0]);
    }

    #[test]
    fn what_a_process_had_counted_stays_counted_when_the_next_one_begins_at_nothing() {
        let mut tally = Tally::default();
        for (process, messages) in [((0, 1), 3), ((1, 1), 0), ((0, 1), 5), ((0, 2), 0), ((0, 2), 2)] {
            tally.note(process, counted(messages, 10 * messages));
        }
        assert_eq!(tally.total(), counted(7, 70));
        let (now, before) = (Counted { is_at_most: true, ..counted(7, 70) }, Counted { is_at_most: true, ..counted(7, 70) });
        assert_eq!(now.since(before), counted(0, 0));
    }
}
