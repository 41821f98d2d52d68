//! Transactions to be given up while the log takes nothing, or not in time.

use crate::{
    bench::{Bench, client, group},
    transactions::half,
};
use parking_lot::{Condvar, Mutex};
use sluice_delivery::DeliveryOptions;
use sluice_env::{
    Disk,
    sim::{self, HookedDisk, Op},
};
use sluice_store::{FlushMode, StoreOptions};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const HALVES: usize = 50;

/// Where syncs of the log wait while it is shut.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        self.state.lock().0 = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        while state.0 {
            self.changed.wait(&mut state);
        }
        state.1 -= 1;
    }

    fn waiting(&self) -> usize {
        self.state.lock().1
    }
}

fn once(options: &mut DeliveryOptions) {
    options.transaction_check_max = 1;
    options.transaction_check_interval = Duration::from_secs(30);
    options.client_expiry = Duration::from_secs(86_400);
}

/// A broker that flushes before it answers, with transactions that all have had their check; 30 s on they are given up.
fn checked_in_vain() -> (Bench, Arc<Gate>) {
    let (mut env, disk, clock) = sim::env(5);
    let gate = Arc::new(Gate::default());
    let door = gate.clone();
    let waits = move |op, name: &str| {
        if op == Op::Sync && name.starts_with("commitlog/") {
            door.pass();
        }
        Ok(())
    };
    env.disk = Arc::new(HookedDisk::new(env.disk, waits));
    let store = StoreOptions { segment_bytes: 1 << 20, flush: FlushMode::Sync, ..StoreOptions::default() };
    let bench = Bench::open_env(env, disk, clock, store, once);
    (0..HALVES).for_each(|i| drop(bench.send(half(&i.to_string())).expect("stored")));
    bench.clock.advance(Duration::from_secs(6));
    bench.until("checked", || bench.delivery.counters().transaction_checks_unasked.load(Ordering::Relaxed) == HALVES as u64);
    (bench, gate)
}

fn given_up(bench: &Bench) -> u64 {
    bench.delivery.counters().transactions_given_up.load(Ordering::Relaxed)
}

/// Else a stop takes as many syncs as there are transactions to be given up, each as long as a flush may take.
#[test]
fn a_stop_waits_for_one_transaction_that_is_being_given_up_and_not_for_the_others() {
    let (bench, gate) = checked_in_vain();
    gate.set(true);
    bench.clock.advance(Duration::from_secs(30));
    bench.until("the first is being given up", || gate.waiting() > 0);
    std::thread::scope(|scope| {
        scope.spawn(|| bench.delivery.close());
        // Long enough for the stop to be asked for.
        std::thread::sleep(Duration::from_millis(500));
        gate.set(false);
    });
    assert!(given_up(&bench) < 5, "{} of {HALVES} were given up after the stop", given_up(&bench));
    assert!(bench.delivery.open_transactions() > HALVES - 5);
    bench.store.close();
}

/// A full disk does not pass in a moment; and what has still to be asked does not wait for it.
#[test]
fn on_a_full_disk_none_is_given_up_before_the_next_interval_and_others_are_asked_all_the_same() {
    let (bench, _gate) = checked_in_vain();
    bench.delivery.heartbeat(client("p", 7), &[group("producers")], vec![]);
    bench.clock.advance(Duration::from_secs(24));
    let last = bench.send(half("last")).expect("stored");
    bench.store.checkpoint().expect("written");
    let (free, total) = bench.disk.space().expect("known");
    bench.disk.set_capacity(Some(total - free));
    bench.clock.advance(Duration::from_secs(2));
    bench.until("the broker notices", || bench.store.status().writable.is_err());
    bench.clock.advance(Duration::from_secs(4));
    bench.until("the last is asked about", || bench.push.checks.lock().len() == 1);
    assert_eq!(bench.push.checks.lock()[0].1.queue_offset, last.first_queue_offset);
    // By now the others are put off: the question came behind them.
    bench.disk.set_capacity(None);
    bench.clock.advance(Duration::from_secs(5));
    bench.until("space again", || bench.store.status().writable.is_ok());
    std::thread::sleep(Duration::from_millis(350));
    assert_eq!((given_up(&bench), bench.delivery.open_transactions()), (0, HALVES + 1));
    bench.clock.advance(Duration::from_secs(25));
    bench.until("given up", || given_up(&bench) >= HALVES as u64);
    bench.delivery.close();
    bench.store.close();
}
