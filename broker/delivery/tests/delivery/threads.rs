//! Delivery's own threads as simulated threads, over the store's.

use crate::bench::{Pushes, group, host, message, topic};
use sluice_delivery::{Delivery, DeliveryOptions, SendRequest};
use sluice_env::{
    sim::threads::{self, Machine, Sim},
    sync::oneshot,
};
use sluice_store::{FlushMode, Store, StoreOptions};
use sluice_types::{Group, QueueId, QueueOffset};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const FIVE_MINUTES: Duration = Duration::from_secs(300);

fn open(machine: &Machine) -> Arc<Delivery> {
    let env = machine.env();
    let store = Store::open(env.clone(), StoreOptions { segment_bytes: 1 << 20, flush: FlushMode::Sync, ..StoreOptions::default() }).expect("opens");
    let worker = machine.clone();
    let spawn: sluice_delivery::SpawnWork = Arc::new(move |work| worker.spawn("work", work));
    Delivery::open(store, env, DeliveryOptions::new(host()), Arc::new(Pushes::default()), spawn).expect("opens")
}

fn send(delivery: &Delivery, request: SendRequest<'_>) {
    let (sender, receiver) = oneshot();
    delivery.send(request, Box::new(move |result| sender.send(result)));
    receiver.recv().expect("answered").expect("stored");
}

/// How many messages consumers see five minutes and a quarter of an hour after one was sent that has ten minutes to wait, with a power cut in between; and the trace.
fn run(seed: u64) -> (u64, u64, u64) {
    let sim = Sim::new(seed);
    let machine = sim.machine("broker");
    let here = machine.clone();
    let first = move || {
        let delivery = open(&here);
        for number in 0..20 {
            let group: Group = group(&format!("readers-{number}"));
            delivery.offsets().commit(&group, &topic("orders"), QueueId(0), QueueOffset(0));
        }
        send(&delivery, SendRequest { properties: "DELAY\u{1}14\u{2}", ..message("orders", "late") });
        threads::sleep(FIVE_MINUTES);
        here.power_cut(seed);
    };
    // Cut down with its machine.
    assert!(sim.block_on(&machine, "sends", first).is_err());
    let here = machine.clone();
    let second = move || {
        let delivery = open(&here);
        let early = delivery.bounds(&topic("orders"), 0).map_or(0, |bounds| bounds.max.0);
        threads::sleep(2 * FIVE_MINUTES);
        let late = delivery.bounds(&topic("orders"), 0).map_or(0, |bounds| bounds.max.0);
        delivery.close();
        delivery.store().close();
        (early, late)
    };
    let (early, late) = sim.block_on(&machine, "waits", second).expect("goes on");
    (early, late, sim.trace())
}

#[test]
fn a_delay_of_ten_minutes_survives_a_power_cut_and_takes_no_real_time() {
    let begun = Instant::now();
    for seed in 0..2 {
        let outcome = run(seed);
        assert_eq!((outcome.0, outcome.1), (0, 1));
        assert_eq!(outcome, run(seed), "one seed is one run");
    }
    println!("an hour of a broker in {:?}", begun.elapsed());
}
