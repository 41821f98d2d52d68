//! How fast messages come into topics and go out to groups, over the last minute.
//!
//! Nothing is counted on a message's way that was not counted before, but for one number a pull that finds something: a topic's messages are the sum of its
//! queues' ends, looked at every ten seconds.

use crate::Delivery;
use ahash::AHashMap;
use sluice_env::{
    Monotonic,
    sync::{Mutex, RwLock},
};
use sluice_types::{Group, Topic};
use std::{
    array,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// Time between two looks.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Looks remembered: the oldest is 60 to 70 s old.
const SAMPLES: usize = 7;
/// Shortest time a rate is taken over, so that the first message after a start is no rate of millions.
const SPAN_MIN: Duration = Duration::from_secs(1);
/// Most pairs of group and topic with messages given out in the last minute; the rate of further ones is told as 0.
const PAIRS_MAX: usize = 100_000;

/// Messages given to a group from a topic: now, and at the last looks.
struct Given {
    count: AtomicU64,
    totals: [AtomicU64; SAMPLES],
}

impl Given {
    fn new() -> Self {
        Self { count: AtomicU64::new(0), totals: array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn is_idle(&self) -> bool {
        let count = self.count.load(Relaxed);
        self.totals.iter().all(|total| total.load(Relaxed) == count)
    }
}

/// When the last looks were, and what topics had then.
struct Looks {
    taken: usize,
    at: [Monotonic; SAMPLES],
    topics: AHashMap<Topic, [u64; SAMPLES]>,
}

impl Looks {
    /// The place of the oldest look and the seconds since then.
    fn oldest(&self, now: Monotonic) -> (usize, f64) {
        let slot = if self.taken <= SAMPLES { 0 } else { self.taken % SAMPLES };
        (slot, now.since(self.at[slot]).max(SPAN_MIN).as_secs_f64())
    }
}

type Pairs = AHashMap<Group, AHashMap<Topic, Given>>;

/// The counts behind the rates. Bounded: by the topics that there are, and by [`PAIRS_MAX`].
pub(crate) struct Rates {
    given: RwLock<Pairs>,
    /// How many there are in `given`.
    pairs: AtomicUsize,
    looks: Mutex<Looks>,
}

impl Rates {
    pub(crate) fn new(now: Monotonic) -> Self {
        Self { given: RwLock::default(), pairs: AtomicUsize::new(0), looks: Mutex::new(Looks { taken: 0, at: [now; SAMPLES], topics: AHashMap::new() }) }
    }

    /// Messages went out to a group.
    pub(crate) fn given(&self, group: &Group, topic: &Topic, messages: u64) {
        if let Some(given) = self.given.read().get(group).and_then(|topics| topics.get(topic)) {
            given.count.fetch_add(messages, Relaxed);
            return;
        }
        if self.pairs.load(Relaxed) >= PAIRS_MAX {
            return;
        }
        let mut pairs = self.given.write();
        let given = pairs.entry(group.clone()).or_default().entry(topic.clone()).or_insert_with(|| {
            self.pairs.fetch_add(1, Relaxed);
            Given::new()
        });
        given.count.fetch_add(messages, Relaxed);
    }

    /// Remembers how much there is now, and forgets groups that got nothing in all the time remembered.
    fn look(&self, now: Monotonic, ends: Vec<(Topic, Ends)>) {
        let mut looks = self.looks.lock();
        let slot = looks.taken % SAMPLES;
        looks.at[slot] = now;
        looks.taken += 1;
        let mut before = std::mem::take(&mut looks.topics);
        looks.topics = ends
            .into_iter()
            .map(|(topic, ends)| {
                let mut totals = before.remove(&topic).unwrap_or([ends.begin; SAMPLES]);
                totals[slot] = ends.end;
                (topic, totals)
            })
            .collect();
        let mut idle = false;
        for given in self.given.read().values().flat_map(|topics| topics.values()) {
            given.totals[slot].store(given.count.load(Relaxed), Relaxed);
            idle |= given.is_idle();
        }
        if idle {
            let mut pairs = self.given.write();
            pairs.retain(|_, topics| {
                topics.retain(|_, given| !given.is_idle());
                !topics.is_empty()
            });
            self.pairs.store(pairs.values().map(|topics| topics.len()).sum(), Relaxed);
        }
    }
}

/// A topic's messages over all its queues, those removed included: the sums of the queues' first and end offsets.
#[derive(Clone, Copy, Default)]
struct Ends {
    begin: u64,
    end: u64,
}

impl Delivery {
    fn ends_of(&self, topic: &str) -> Ends {
        self.store().queues_of(topic).iter().fold(Ends::default(), |sum, queue| {
            let bounds = queue.visible();
            Ends { begin: sum.begin + bounds.min.0, end: sum.end + bounds.max.0 }
        })
    }

    fn ends_of_all(&self) -> Vec<(Topic, Ends)> {
        self.topics().list().iter().map(|topic| (topic.name.clone(), self.ends_of(topic.name.as_str()))).collect()
    }

    /// The first look, before anything runs: what the topics have already is no news.
    pub(crate) fn start_rates(&self) {
        self.rates.look(self.env.clock.monotonic(), self.ends_of_all());
    }

    /// Takes a look when one is due; says when the last one was.
    pub(crate) fn sample_rates(&self, now: Monotonic, sampled: Monotonic) -> Monotonic {
        if now.since(sampled) < SAMPLE_EVERY {
            return sampled;
        }
        self.rates.look(now, self.ends_of_all());
        now
    }

    /// Messages a second that came into a topic, over the last minute.
    #[must_use]
    pub fn put_rate(&self, topic: &str) -> f64 {
        let ends = self.ends_of(topic);
        let looks = self.rates.looks.lock();
        let (slot, seconds) = looks.oldest(self.env.clock.monotonic());
        // Not known at the last look: it is newer, and so are all of its messages.
        let before = looks.topics.get(topic).map_or(ends.begin, |totals| totals[slot]);
        ends.end.saturating_sub(before) as f64 / seconds
    }

    /// Messages a second that were given to a group from a topic, over the last minute.
    #[must_use]
    pub fn get_rate(&self, group: &str, topic: &str) -> f64 {
        let looks = self.rates.looks.lock();
        let (slot, seconds) = looks.oldest(self.env.clock.monotonic());
        let given = self.rates.given.read();
        let Some(given) = given.get(group).and_then(|topics| topics.get(topic)) else { return 0.0 };
        given.count.load(Relaxed).saturating_sub(given.totals[slot].load(Relaxed)) as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn a_rate_is_over_the_oldest_look_that_is_remembered() {
        let rates = Rates::new(at(0));
        for look in 0..20 {
            rates.look(at(look * 10), Vec::new());
            let oldest = (look + 1).saturating_sub(SAMPLES as u64);
            let found = rates.looks.lock().oldest(at(look * 10 + 5));
            assert_eq!(found, (oldest as usize % SAMPLES, ((look - oldest) * 10 + 5) as f64));
        }
    }

    #[test]
    fn pairs_that_get_nothing_are_forgotten_and_too_many_are_not_kept() {
        let rates = Rates::new(at(0));
        let group = Group::new("g").expect("legal");
        let topic = |i: usize| Topic::new(&format!("t{i}")).expect("legal");
        for i in 0..PAIRS_MAX + 10 {
            rates.given(&group, &topic(i), 1);
        }
        let kept = || rates.given.read().values().map(|topics| topics.len()).sum::<usize>();
        assert_eq!(kept(), PAIRS_MAX);
        for look in 1..SAMPLES as u64 {
            rates.given(&group, &topic(3), 1);
            rates.look(at(look * 10), Vec::new());
        }
        assert_eq!(kept(), PAIRS_MAX, "what was given is still within the time remembered");
        rates.given(&group, &topic(3), 1);
        rates.look(at(70), Vec::new());
        assert_eq!(kept(), 1);
    }
}
