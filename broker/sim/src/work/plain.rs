//! Ordinary messages to queues in turn, and a consumer for each queue.

use crate::load::{Crew, Reading, Sending, about, send};
use sluice_history::Kind;
use std::time::Duration;

/// The topic.
pub(super) const TOPIC: &str = "orders";
const GROUP: &str = "readers";

pub(super) fn hire(crew: &mut Crew<'_>) {
    let queues = crew.settings.queues;
    crew.begin(GROUP, TOPIC);
    for _ in 0..3 {
        crew.hire_mortal("producer", move |mut client, phase| {
            let mut number = 0;
            while !phase.is_over() {
                number += 1;
                let queue = client.random(queues.into()) as u32;
                send(&mut client, &Sending::plain(TOPIC, queue, number));
                about(&client, Duration::from_millis(150));
            }
        });
    }
    for queue in 0..queues {
        crew.hire_mortal("consumer", move |mut client, phase| {
            let reading = Reading { group: GROUP, topic: TOPIC, queue, kind: Kind::Pull };
            reading.consume(&mut client, phase);
        });
    }
}
