//! How delivery ends: its threads, their waits for the store, and what others are just doing in it.

use sluice_env::sync::{Condvar, Mutex};
use std::{sync::Arc, time::Duration};

/// How far the end is. It only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not begun.
    #[default]
    Works,
    /// What is in work is brought to its end.
    Closes,
    /// Nothing is waited for and nothing written any more.
    Abandoned,
}

#[derive(Default)]
struct State {
    phase: Phase,
    inside: usize,
}

/// What delivery's threads look at, and its callers' calls that come from elsewhere.
#[derive(Default)]
pub(crate) struct Stop {
    state: Mutex<State>,
    /// Wakes those who sleep.
    requested: Condvar,
    /// Wakes those who wait for an answer, or for the last one inside to leave.
    moved: Condvar,
}

impl Stop {
    /// Goes on to that phase. Going back does nothing.
    pub(crate) fn request(&self, phase: Phase) {
        let mut state = self.state.lock();
        state.phase = state.phase.max(phase);
        self.requested.notify_all();
        self.moved.notify_all();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Sleeps; false when the threads have to end.
    pub(crate) fn pause(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        if state.phase == Phase::Works {
            self.requested.wait_for(&mut state, at_most);
        }
        state.phase == Phase::Works
    }

    /// Lets somebody in who may come to hold the store or delivery for a moment, on a thread that is not delivery's own; `None` once the end has begun. The end waits
    /// for those inside: whoever drops the two after it is the last to hold them, and no thread of the store is, which could not wait for itself.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Inside> {
        let mut state = self.state.lock();
        if state.phase != Phase::Works {
            return None;
        }
        state.inside += 1;
        Some(Inside(self.clone()))
    }

    /// Waits until nobody is inside.
    pub(crate) fn wait_until_left(&self) {
        let mut state = self.state.lock();
        while state.inside > 0 {
            self.moved.wait(&mut state);
        }
    }

    /// Hands a callback to `submit` and waits for what it is called with, for at most that time. `None` when it was not called, or everything was abandoned.
    pub(crate) fn answer_of<T: Send + 'static>(self: &Arc<Self>, submit: impl FnOnce(Box<dyn FnOnce(T) + Send>), at_most: Option<Duration>) -> Option<T> {
        let answer = Arc::new(Mutex::new(Answer::Awaited));
        let caller = Caller { stop: self.clone(), answer: answer.clone() };
        submit(Box::new(move |value| caller.give(value)));
        let mut state = self.state.lock();
        loop {
            match std::mem::replace(&mut *answer.lock(), Answer::Awaited) {
                Answer::Given(value) => return Some(value),
                Answer::NotGiven => return None,
                Answer::Awaited if state.phase == Phase::Abandoned => return None,
                Answer::Awaited => {}
            }
            match at_most {
                Some(at_most) if self.moved.wait_for(&mut state, at_most).timed_out() => return None,
                Some(_) => {}
                None => self.moved.wait(&mut state),
            }
        }
    }
}

/// Somebody who is inside, until this is dropped.
pub(crate) struct Inside(Arc<Stop>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.state.lock().inside -= 1;
        self.0.moved.notify_all();
    }
}

enum Answer<T> {
    Awaited,
    Given(T),
    /// Whoever should have given it is gone.
    NotGiven,
}

/// The end of a wait that is handed away. Dropped, it wakes the other one.
struct Caller<T> {
    stop: Arc<Stop>,
    answer: Arc<Mutex<Answer<T>>>,
}

impl<T> Caller<T> {
    fn give(self, value: T) {
        *self.answer.lock() = Answer::Given(value);
    }
}

impl<T> Drop for Caller<T> {
    fn drop(&mut self) {
        {
            let mut answer = self.answer.lock();
            if matches!(*answer, Answer::Awaited) {
                *answer = Answer::NotGiven;
            }
        }
        // Between its look at the answer and its wait the other one holds this lock.
        drop(self.stop.state.lock());
        self.stop.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_an_answer_without_one_when_its_time_is_over_and_when_all_is_abandoned() {
        let stop: Arc<Stop> = Arc::default();
        assert_eq!(stop.answer_of(|done| done(7), None), Some(7));
        assert_eq!(stop.answer_of::<u8>(drop, None), None);
        let mut kept = None;
        assert_eq!(stop.answer_of::<u8>(|done| kept = Some(done), Some(Duration::from_millis(1))), None);
        stop.request(Phase::Abandoned);
        assert_eq!(stop.answer_of::<u8>(|done| kept = Some(done), None), None);
    }

    #[test]
    fn the_end_goes_only_forward_and_lets_nobody_in() {
        let stop: Arc<Stop> = Arc::default();
        assert!(stop.enter().is_some());
        stop.request(Phase::Abandoned);
        stop.request(Phase::Closes);
        assert_eq!(stop.phase(), Phase::Abandoned);
        assert!(stop.enter().is_none() && !stop.pause(Duration::from_secs(20)));
        stop.wait_until_left();
    }
}
