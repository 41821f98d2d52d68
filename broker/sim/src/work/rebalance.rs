//! Consumers that hand queues over to each other: one stops, the next goes on where the group's offset says.

use crate::{
    client::Client,
    load::{Crew, Phase, Reading, about, queue, send_on},
    node,
};
use sluice_history::{Kind, Revoked, What};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const TOPIC: &str = "moves";
const GROUP: &str = "movers";

/// Whose turn a queue is, and whether it has been read to its end.
#[derive(Default)]
struct Turn {
    of: AtomicUsize,
    is_read: AtomicBool,
}

pub(super) fn hire(crew: &mut Crew<'_>) {
    let queues = crew.settings.queues;
    crew.begin(GROUP, TOPIC);
    crew.hire("moving", move |mut client, phase| send_on(&mut client, phase, TOPIC, queues));
    for id in 0..queues {
        let turn = Arc::<Turn>::default();
        for me in 0..2 {
            let turn = turn.clone();
            crew.hire_mortal("mover", move |mut client, phase| {
                while !turn.is_read.load(Ordering::SeqCst) {
                    if turn.of.load(Ordering::SeqCst) == me {
                        let is_read = read_for_a_while(&mut client, id, phase);
                        turn.is_read.store(is_read, Ordering::SeqCst);
                        turn.of.store(1 - me, Ordering::SeqCst);
                    }
                    about(&client, Duration::from_secs(1));
                }
            });
        }
    }
}

fn read_for_a_while(client: &mut Client, id: u32, phase: &Phase) -> bool {
    let reading = Reading { group: GROUP, topic: TOPIC, queue: id, kind: Kind::Pull };
    let mut next = reading.begin(client);
    let end = client.history.now() + (2 + client.random(20)) * 1_000_000_000;
    let mut is_read = false;
    while !is_read && client.history.now() < end {
        let Some(pulled) = reading.pull(client, next) else { continue };
        pulled.came.iter().for_each(|came| reading.succeed(client, came));
        next = pulled.next;
        if pulled.came.is_empty() {
            is_read = pulled.is_end && phase.drains();
        } else {
            reading.commit(client, next);
        }
    }
    client.history.op(client.history.now(), client.process, None, What::Revoked(Revoked { group: node::group(GROUP), queue: queue(TOPIC, id) }));
    is_read
}
