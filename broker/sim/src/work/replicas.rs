//! Consumers that read the messages of `plain` at whatever broker comes, master or not, as those do that are far behind; what that one can't give they ask of the master.

use super::plain::TOPIC;
use crate::load::{Crew, Reading};
use sluice_history::Kind;

const GROUP: &str = "replica-readers";

pub(super) fn hire(crew: &mut Crew<'_>) {
    let (members, queues) = (crew.settings.members, crew.settings.queues);
    crew.begin(GROUP, TOPIC);
    for queue in 0..queues {
        crew.hire("replica-reader", move |mut client, phase| {
            let reading = Reading { group: GROUP, topic: TOPIC, queue, kind: Kind::Pull };
            reading.consume_by(&mut client, phase, |client, next| {
                let member = client.random(members.into()) as u32;
                reading.read_at(client, member, next).or_else(|| reading.pull(client, next))
            });
        });
    }
}
