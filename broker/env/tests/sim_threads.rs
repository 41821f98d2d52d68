//! Simulated threads: one seed is one run, time is virtual, nothing hangs.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use sluice_env::{
    OpenMode,
    sim::threads::{self, Halt, Machine, Sim},
    sync::{Condvar, Mutex, RecvError, RwLock, ThreadFlag, oneshot},
};
use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Threads that take turns at a counter, in an order that comes out.
fn order(seed: u64) -> (Vec<u64>, u64) {
    let sim = Sim::new(seed);
    let machine = sim.machine("one");
    let seen = Arc::new(Mutex::new(Vec::new()));
    for number in 0..4 {
        let seen = seen.clone();
        machine.spawn(&format!("t{number}"), move || {
            for _ in 0..20 {
                seen.lock().push(number);
            }
        });
    }
    let done = seen.clone();
    sim.run_until(HOUR, || done.lock().len() == 80).expect("done");
    let order = seen.lock().clone();
    (order, sim.trace())
}

#[test]
fn one_seed_is_one_order_and_another_seed_another() {
    assert_eq!(order(1), order(1));
    let (first, second) = (order(1), order(2));
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
    // One after the other it would be three changes.
    let changes = |seed| order(seed).0.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((0..10).map(changes).sum::<usize>() > 60, "the threads hardly mix");
}

#[test]
fn a_timeout_of_an_hour_takes_an_hour_of_virtual_time_and_no_real_one() {
    let begun = Instant::now();
    let sim = Sim::new(1);
    let machine = sim.machine("one");
    let env = machine.env();
    let waited = sim.block_on(&machine, "waits", move || {
        let before = env.clock.monotonic();
        let (lock, never) = (Mutex::new(()), Condvar::new());
        assert!(never.wait_for(&mut lock.lock(), HOUR).timed_out());
        let (_sender, receiver) = oneshot::<()>();
        assert_eq!(receiver.recv_timeout(HOUR), Err(RecvError::Timeout));
        threads::sleep(HOUR);
        env.clock.monotonic().since(before)
    });
    let waited = waited.unwrap();
    assert!(waited >= 3 * HOUR && waited < 3 * HOUR + Duration::from_secs(1), "{waited:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn two_locks_taken_in_two_orders_are_found_as_a_deadlock_that_names_both() {
    let found = (0..200).find_map(|seed| {
        let sim = Sim::new(seed);
        let machine = sim.machine("one");
        let (left, right) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
        for (name, first, second) in [("ab", left.clone(), right.clone()), ("ba", right, left)] {
            machine.spawn(name, move || {
                let _first = first.lock();
                let _second = second.lock();
            });
        }
        // Goes on for ever, so that it is the circle that is found and not that everything stands still.
        machine.spawn("ticks", || {
            loop {
                threads::sleep(Duration::from_millis(1));
            }
        });
        sim.run_for(Duration::from_secs(1)).err()
    });
    let Some(Halt::Deadlock(report)) = found else { panic!("no deadlock in 200 seeds") };
    assert!(report.contains("one/ab waits for a lock that one/ba holds") && report.contains("one/ba waits for a lock that one/ab holds"), "{report}");
    assert!(report.contains("sim_threads.rs:"), "{report}");
}

#[test]
fn waiting_for_what_never_comes_is_a_deadlock_and_not_a_hang() {
    let sim = Sim::new(1);
    let machine = sim.machine("one");
    let (_sender, receiver) = oneshot::<()>();
    let Err(Halt::Deadlock(report)) = sim.block_on(&machine, "waits", move || receiver.recv()) else { panic!("it came back") };
    assert!(report.contains("one/waits waits for a notice"), "{report}");
    let late = sim.run_until(HOUR, || false);
    assert!(matches!(late, Err(Halt::Deadlock(_))), "{late:?}");
}

#[test]
fn a_lock_is_held_by_one_and_a_notice_wakes_one() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let machine = sim.machine("one");
        let inside = Arc::new(AtomicU64::new(0));
        let shared = Arc::new((Mutex::new(0u64), Condvar::new(), RwLock::new(0u64)));
        for name in ["a", "b", "c"] {
            let (inside, shared) = (inside.clone(), shared.clone());
            machine.spawn(name, move || {
                for _ in 0..10 {
                    let mut tokens = shared.0.lock();
                    while *tokens == 0 {
                        shared.1.wait(&mut tokens);
                    }
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    threads::yield_now();
                    *tokens -= 1;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(tokens);
                    let read = *shared.2.read();
                    threads::yield_now();
                    let mut write = shared.2.write();
                    assert!(*write >= read);
                    let before = *write;
                    threads::yield_now();
                    *write = before + 1;
                }
            });
        }
        let given = shared.clone();
        let give = move || {
            for _ in 0..30 {
                *given.0.lock() += 1;
                given.1.notify_one();
                threads::sleep(Duration::from_micros(3));
            }
        };
        sim.block_on(&machine, "gives", give).unwrap();
        sim.run_for(Duration::from_secs(1)).unwrap();
        assert_eq!(*shared.2.read(), 30, "seed {seed}");
    }
}

#[test]
fn a_thread_is_joined_from_a_simulated_thread_and_from_outside() {
    let sim = Sim::new(3);
    let machine = sim.machine("one");
    let env = machine.env();
    let sleeper = env.spawn.thread("sleeper", Box::new(|| threads::sleep(HOUR))).unwrap();
    sim.block_on(&machine, "joins", move || sleeper.join()).unwrap().unwrap();
    assert!(sim.now() >= HOUR);
    env.spawn.thread("second", Box::new(|| threads::sleep(HOUR))).unwrap().join().unwrap();
    assert!(sim.now() >= 2 * HOUR);
}

#[test]
fn a_panic_halts_the_simulation_and_names_thread_and_seed() {
    let sim = Sim::new(44);
    let machine = sim.machine("one");
    machine.spawn("doomed", || panic!("no such luck"));
    let halt = sim.run_for(HOUR).unwrap_err();
    assert_eq!(halt, Halt::Panicked("thread one/doomed panicked: no such luck (seed 44)".to_owned()));
}

thread_local! {
    static FLAG: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn each_simulated_thread_has_its_own_flag() {
    let flag = ThreadFlag::new(&FLAG);
    assert!(!flag.replace(true));
    let sim = Sim::new(1);
    let machine = sim.machine("one");
    for name in ["a", "b"] {
        machine.spawn(name, || {
            let flag = ThreadFlag::new(&FLAG);
            assert!(!flag.replace(true));
            threads::yield_now();
            assert!(flag.replace(false));
            threads::yield_now();
            assert!(!flag.get());
        });
    }
    sim.run_for(HOUR).unwrap();
    assert!(flag.get());
}

/// Writes when it is dropped, as a close would.
struct WritesAtItsEnd(Machine, Arc<Mutex<u64>>);

impl Drop for WritesAtItsEnd {
    fn drop(&mut self) {
        let mut drops = self.1.lock();
        let refused = self.0.env().disk.open("late", OpenMode::Create).is_err();
        *drops += u64::from(refused);
    }
}

#[test]
fn a_killed_machines_threads_go_no_further_and_what_they_drop_reaches_no_disk() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let (machine, other) = (sim.machine("one"), sim.machine("two"));
        let drops = Arc::new(Mutex::new(0));
        let went_on = Arc::new(AtomicBool::new(false));
        let lock = Arc::new(Mutex::new(()));
        for name in ["holds", "waits"] {
            let (guard, went_on, lock) = (WritesAtItsEnd(machine.clone(), drops.clone()), went_on.clone(), lock.clone());
            machine.spawn(name, move || {
                let _guard = guard;
                let _held = lock.lock();
                threads::sleep(HOUR);
                went_on.store(true, Ordering::SeqCst);
            });
        }
        let lives = Arc::new(AtomicBool::new(false));
        let (victim, lived) = (machine.clone(), lives.clone());
        other.spawn("kills", move || {
            threads::sleep(Duration::from_secs(1));
            victim.kill();
            threads::sleep(2 * HOUR);
            lived.store(true, Ordering::SeqCst);
        });
        sim.run_for(3 * HOUR).unwrap();
        assert!(lives.load(Ordering::SeqCst) && !went_on.load(Ordering::SeqCst));
        assert_eq!(*drops.lock(), 2);
        assert!(machine.disk().file_names().is_empty());
        // And it lives again.
        sim.block_on(&machine, "again", || threads::sleep(HOUR)).unwrap();
    }
}

#[test]
fn a_thread_that_cuts_its_own_power_ends_there() {
    let sim = Sim::new(1);
    let machine = sim.machine("one");
    let (env, mine) = (machine.env(), machine.clone());
    machine.spawn("suicidal", move || {
        let file = env.disk.open("file", OpenMode::Create).unwrap();
        env.disk.sync_dir("").unwrap();
        file.write_all_at(b"synced", 0).unwrap();
        file.sync_data().unwrap();
        mine.power_cut(1);
        panic!("went on");
    });
    sim.run_for(HOUR).unwrap();
    assert_eq!(machine.disk().file_bytes("file").as_deref(), Some(&b"synced"[..]));
}

#[test]
fn a_paused_machine_stands_still_and_goes_on_and_the_others_run_meanwhile() {
    let sim = Sim::new(1);
    let counts: Vec<_> = ["paused", "other"]
        .map(|name| {
            let machine = sim.machine(name);
            let count = Arc::new(AtomicU64::new(0));
            let counted = count.clone();
            machine.spawn("ticks", move || {
                loop {
                    threads::sleep(Duration::from_millis(1));
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
            (machine, count)
        })
        .into();
    let seen = || counts.iter().map(|(_, count)| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    sim.run_for(Duration::from_millis(100)).unwrap();
    let before = seen();
    counts[0].0.pause(Duration::from_secs(1));
    sim.run_for(Duration::from_millis(900)).unwrap();
    let during = seen();
    assert_eq!(during[0], before[0]);
    assert!(during[1] > before[1] + 800, "{before:?} {during:?}");
    sim.run_for(Duration::from_millis(300)).unwrap();
    assert!(seen()[0] > during[0] + 100);
}

#[test]
fn a_wiped_machine_has_an_empty_disk_and_a_slow_one_takes_its_time() {
    let sim = Sim::new(1);
    let machine = sim.machine("one");
    let write = |env: sluice_env::Env| {
        let (disk, begun) = (env.disk.clone(), env.clock.monotonic());
        let write = move || {
            let file = disk.open("file", OpenMode::Create).unwrap();
            file.write_all_at(b"bytes", 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir("").unwrap();
        };
        sim.block_on(&machine, "writes", write).unwrap();
        env.clock.monotonic().since(begun)
    };
    let usual = write(machine.env());
    machine.slow_disk(100);
    assert!(write(machine.env()) > usual * 20);
    machine.slow_disk(1);
    machine.wipe();
    assert_eq!(machine.env().disk.open("file", OpenMode::Read).err().map(|error| error.kind()), Some(std::io::ErrorKind::NotFound));
    assert!(write(machine.env()) < usual * 4);
}

#[test]
fn others_run_while_one_waits_for_its_disk_and_a_stalled_disk_keeps_it_waiting() {
    let sim = Sim::new(1);
    let machine = sim.machine("one");
    let env = machine.env();
    let ticks = Arc::new(AtomicU64::new(0));
    let counted = ticks.clone();
    machine.spawn("ticks", move || {
        loop {
            threads::sleep(Duration::from_micros(10));
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let disk = env.disk.clone();
    let write = move || {
        let file = disk.open("file", OpenMode::Create).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        file.sync_data().unwrap();
    };
    let begun = env.clock.monotonic();
    sim.block_on(&machine, "writes", write.clone()).unwrap();
    let took = env.clock.monotonic().since(begun);
    assert!(took > Duration::from_micros(250) && took < Duration::from_millis(2), "{took:?}");
    assert!(ticks.load(Ordering::SeqCst) > 10);
    machine.stall_disk(Duration::from_secs(5));
    sim.block_on(&machine, "writes", write).unwrap();
    assert!(env.clock.monotonic().since(begun) > Duration::from_secs(5));
}

#[test]
fn machines_share_time_and_have_their_own_calendars() {
    let sim = Sim::new(1);
    let (one, two) = (sim.machine("one"), sim.machine("two"));
    let (first, second) = (one.env().clock, two.env().clock);
    two.jump_wall(-5000);
    assert_eq!(first.wall().0 - second.wall().0, 5000);
    sim.run_for(HOUR).unwrap();
    assert_eq!(first.monotonic(), second.monotonic());
    assert_eq!(first.wall().0 - second.wall().0, 5000);
}
