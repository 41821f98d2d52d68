//! Messages that are to come after a while. When they are due is the brokers' clocks' to say: only in runs in which calendars don't jump.

use crate::{
    load::{Crew, Reading, Sending, about, property, send},
    node::DELAYS,
};
use sluice_history::{Kind, SendKind};
use std::time::Duration;

const TOPIC: &str = "later";
const GROUP: &str = "patient";
/// Of the first levels.
const LEVELS: usize = 2;

pub(super) fn hire(crew: &mut Crew<'_>) {
    if crew.settings.calendars_jump {
        return;
    }
    let queues = crew.settings.queues;
    crew.begin(GROUP, TOPIC);
    crew.hire("delaying", move |mut client, phase| {
        let mut number = 0;
        while !phase.is_over() {
            number += 1;
            let level = client.random(LEVELS as u64) as usize;
            let due = client.wall_nanos() + DELAYS[level] * 1_000_000_000;
            let plain = Sending::plain(TOPIC, client.random(queues.into()) as u32, number);
            let sending = Sending { kind: SendKind::Delayed { due }, properties: property("DELAY", &(level + 1).to_string()), ..plain };
            send(&mut client, &sending);
            about(&client, Duration::from_millis(400));
        }
    });
    for queue in 0..queues {
        crew.hire("patient", move |mut client, phase| {
            let reading = Reading { group: GROUP, topic: TOPIC, queue, kind: Kind::Pull };
            reading.consume(&mut client, phase);
        });
    }
}
