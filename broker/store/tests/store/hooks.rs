//! What the store calls: set, replaced and taken away while it is open.

use crate::world::*;
use sluice_env::sim::threads::{self, Sim};
use sluice_store::{AppendError, Batch, Hooks, Placed, Store, Wait};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often the store has called.
#[derive(Default)]
struct Calls {
    arrived: AtomicU64,
    turn_end: AtomicU64,
}

impl Calls {
    fn hooks(self: &Arc<Self>) -> Hooks {
        let (arrived, turn_end) = (self.clone(), self.clone());
        Hooks {
            arrived: Arc::new(move |_| _ = arrived.arrived.fetch_add(1, Ordering::SeqCst)),
            gather: Arc::new(|body| body()),
            turn_end: Arc::new(move || _ = turn_end.turn_end.fetch_add(1, Ordering::SeqCst)),
        }
    }

    fn made(&self) -> (u64, u64) {
        (self.arrived.load(Ordering::SeqCst), self.turn_end.load(Ordering::SeqCst))
    }
}

/// Appends one message that somebody waits for.
fn write(store: &Store) {
    queue(store, "orders", 0).waiting.store(1, Ordering::SeqCst);
    append(store, "orders", 0, b"x", "", Wait::Durable).expect("acknowledged");
}

#[test]
fn only_the_hooks_that_were_set_last_are_called_and_none_when_they_were_taken_away() {
    // Its writer's thread has nothing to do, so that each turn is over when the append comes back.
    let store = World::new(1, never_flushing()).open();
    let (first, second) = (Arc::new(Calls::default()), Arc::new(Calls::default()));
    write(&store);
    store.set_hooks(first.hooks());
    write(&store);
    assert_eq!((first.made(), second.made()), ((1, 1), (0, 0)));
    store.set_hooks(second.hooks());
    write(&store);
    assert_eq!((first.made(), second.made()), ((1, 1), (1, 1)));
    assert_eq!(Arc::strong_count(&first), 1, "hooks that nobody calls any more are let go");
    store.clear_hooks();
    write(&store);
    assert_eq!((first.made(), second.made()), ((1, 1), (1, 1)));
    store.set_hooks(first.hooks());
    write(&store);
    assert_eq!((first.made(), second.made()), ((2, 2), (1, 1)));
}

#[test]
fn all_that_one_confirmation_answers_is_gathered_on_the_thread_that_confirms() {
    let store = World::new(1, replicated(lazy())).open();
    let (inside, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let gathers = inside.clone();
    let gather = move |body: &mut dyn FnMut()| {
        gathers.store(true, Ordering::SeqCst);
        body();
        gathers.store(false, Ordering::SeqCst);
    };
    store.set_hooks(Hooks { gather: Arc::new(gather), ..Arc::new(Calls::default()).hooks() });
    for _ in 0..3 {
        let (inside, answered) = (inside.clone(), answered.clone());
        let mut batch = Batch::new();
        push(&mut batch, &store, "orders", 0, b"x", "");
        let done = Box::new(move |result: Result<Vec<Placed>, AppendError>| {
            assert!(result.is_ok() && inside.load(Ordering::SeqCst), "answered alone: one write to its socket for each");
            answered.fetch_add(1, Ordering::SeqCst);
        });
        store.submit(batch, Wait::Durable, done);
    }
    // The turns may be another thread's.
    until("answered", || {
        store.confirm(store.marks().appended);
        answered.load(Ordering::SeqCst) == 3
    });
}

#[test]
fn hooks_may_be_replaced_by_any_thread_at_any_moment_and_by_a_hook_itself() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let machine = sim.machine("broker");
        let env = machine.env();
        let store = sim.block_on(&machine, "opens", move || Store::open(env, sync_options()).expect("opens")).expect("opens");
        let (calls, over) = (Arc::new(Calls::default()), Arc::new(AtomicBool::new(false)));
        let (changed, told, until) = (store.clone(), calls.clone(), over.clone());
        machine.spawn("changes", move || {
            while !until.load(Ordering::SeqCst) {
                let Hooks { arrived, gather, turn_end } = told.hooks();
                let (store, after) = (changed.clone(), told.hooks());
                let replaces = move || {
                    turn_end();
                    store.set_hooks(after.clone());
                };
                changed.set_hooks(Hooks { arrived, gather, turn_end: Arc::new(replaces) });
                threads::sleep(Duration::from_micros(300));
                changed.clear_hooks();
            }
        });
        sim.block_on(&machine, "writes", move || (0..100).for_each(|_| write(&store))).expect("nobody waits for ever");
        over.store(true, Ordering::SeqCst);
        let (arrived, turns) = calls.made();
        assert!(arrived > 0 && turns > 0, "seed {seed}: {arrived} arrivals and {turns} turns were told");
    }
}
