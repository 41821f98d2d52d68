//! Ordinary messages to queues in turn, and a consumer for each queue.

use crate::load::{Crew, Reading, send_on};
use sluice_history::Kind;

/// The topic.
pub(super) const TOPIC: &str = "orders";
const GROUP: &str = "readers";

pub(super) fn hire(crew: &mut Crew<'_>) {
    let queues = crew.settings.queues;
    crew.begin(GROUP, TOPIC);
    for _ in 0..3 {
        crew.hire_mortal("producer", move |mut client, phase| send_on(&mut client, phase, TOPIC, queues));
    }
    for queue in 0..queues {
        crew.hire_mortal("consumer", move |mut client, phase| {
            let reading = Reading { group: GROUP, topic: TOPIC, queue, kind: Kind::Pull };
            reading.consume(&mut client, phase);
        });
    }
}
