//! One who asks each broker in turn where a queue ends. Whoever answers is master and knows all that was ever told: an end never goes back.

use super::plain::TOPIC;
use crate::{
    client::Reply,
    load::{Crew, about},
    talk::{Answer, Request},
};
use std::time::Duration;

/// What was told last: the end, when, and by whom.
type Told = (u64, u64, String);

pub(super) fn hire(crew: &mut Crew<'_>) {
    let (members, queues) = (crew.settings.members, crew.settings.queues);
    crew.hire("looker", move |mut client, phase| {
        let mut told: Vec<Told> = vec![Told::default(); queues as usize];
        while !phase.is_over() {
            let (member, queue) = (client.random(members.into()) as u32, client.random(queues.into()) as u32);
            about(&client, Duration::from_millis(60));
            let invoke = client.history.now();
            let request = Request::End { topic: TOPIC.to_owned(), queue };
            let Reply::Answered(by, Answer::Offset(Some(end))) = client.ask_of(member, &request, Duration::from_secs(1)) else { continue };
            let known = &mut told[queue as usize];
            if end < known.0 {
                let (before, at, who) = known;
                phase.found(format!(
                    "R1: queue {queue} ended at {before}, {who} said at {at} ns; asked at {invoke} ns, node {} of epoch {} says {end}",
                    by.node, by.epoch
                ));
            }
            *known = (end, client.history.now(), format!("node {} of epoch {}", by.node, by.epoch));
        }
    });
}
