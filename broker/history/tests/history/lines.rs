//! Histories as lines, and what the checker says of odd ones.

use crate::model;
use proptest::prelude::*;
use sluice_history::{Check, Checker, Event, HistoryError, Lines, What, check, merge, write};

fn written(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        write(&mut bytes, event).expect("a vector takes it");
    }
    bytes
}

#[test]
fn a_history_is_the_same_after_it_was_written_and_merged() {
    let history = model::history_of(1, 5 * model::SECOND);
    let whole = written(&history);
    let read: Vec<_> = Lines::new(&whole[..]).collect::<Result<_, _>>().expect("is well formed");
    assert_eq!(read, history);
    let parts: Vec<_> = (0..3).map(|part| written(&history.iter().filter(|event| event.process % 3 == part).cloned().collect::<Vec<_>>())).collect();
    let mut merged = Vec::new();
    merge(parts.iter().map(Vec::as_slice).collect(), &mut merged).expect("merges");
    let report = check(&merged[..]).expect("is well formed");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts, check(&whole[..]).expect("is well formed").counts);
}

#[test]
fn an_empty_history_has_judged_nothing() {
    let report = Checker::default().finish();
    assert!(report.is_clean());
    assert_eq!(report.vacuous(), Check::ALL);
}

#[test]
fn lines_out_of_order_and_lines_that_are_no_events_are_refused() {
    let event = |invoke, done| Event { invoke, done, process: 1, by: None, what: What::Stopped };
    let refused = |events: &[Event]| matches!(check(&written(events)[..]), Err(HistoryError::Order { line: 2 }));
    assert!(refused(&[event(5, 5), event(4, 4)]));
    assert!(refused(&[event(5, 5), event(7, 6)]));
    assert!(matches!(check(&b"{\"invoke\":1}\n"[..]), Err(HistoryError::Line { line: 1, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever is left out, doubled or moved: the checker comes to an end, and says the same each time.
    #[test]
    fn no_history_makes_the_checker_panic(seed in 0u64..50, changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u32>()), 1..60)) {
        let mut events = model::history_of(seed, 2 * model::SECOND);
        for (at, what, by) in changes {
            let at = at.index(events.len());
            match what {
                0 => { events.remove(at); }
                1 => { let again = events[at].clone(); events.insert(at, again); }
                2 => events[at].process ^= by % 64,
                _ => { let (invoke, done) = (events[at].invoke, events[at].done + u64::from(by)); events[at] = Event { invoke, done, ..events[at].clone() }; }
            }
        }
        events.sort_by_key(|event| event.done);
        let (one, two) = (crate::judge(&events), crate::judge(&events));
        prop_assert_eq!(one.violations(), two.violations());
    }
}
