//! The threads that ask the other members what they know: whether one has seen a newer epoch than the coordinator tells of, and who founds a group.

use super::shared::Shared;
use crate::link::Link;
use sluice_replication::{
    Event, MemberId,
    wire::{Ask, Message, VERSION},
};
use std::{io, time::Duration};

pub(super) fn run(shared: &Shared, id: MemberId, address: &str) {
    let every = shared.options.timing.renewal();
    let mut told = false;
    loop {
        match ask_until_it_ends(shared, id, address, every) {
            None => return,
            Some(Some(why)) if !std::mem::replace(&mut told, true) => tracing::warn!(member = %id, address, why, "a member of the group does not answer"),
            Some(_) => {}
        }
        if shared.wait(every / 2, |state| state.doubted.remove(&id).then_some(())).is_none() {
            return;
        }
    }
}

/// Asks again and again over one connection. `None`: the member stops; else why it ended, if there is a reason that may last.
fn ask_until_it_ends(shared: &Shared, id: MemberId, address: &str, every: Duration) -> Option<Option<String>> {
    let at = shared.now();
    let connected = shared.env.net.connect(address, every);
    let is_refused = connected.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_refused || connected.is_ok() {
        shared.listens(at, id, !is_refused);
    }
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => return Some(Some(error.to_string())),
    };
    let mut link = Link::new(connection.clone());
    let ended = loop {
        let (options, member) = (&shared.options, shared.lock().core.me());
        let ask = Ask { version: VERSION, cluster: options.cluster.clone(), group: options.group.clone(), member };
        let answer = link.sender.send(&Message::Ask(ask), every).and_then(|()| link.receiver.receive(every));
        match answer {
            Ok(Message::Answer(answer)) if answer.member.id == id => {
                let at = shared.now();
                // A broker that was restarted finds its master so while the coordinator is away.
                if let Some(state) = answer.state.clone().filter(|_| answer.master_of.is_some()) {
                    shared.tell(Event::Heard(state));
                }
                shared.lock().answers.insert(id, (answer, at));
            }
            Ok(Message::Answer(answer)) => break Some(format!("member {} answers there", answer.member.id)),
            Ok(Message::Refusal(refusal)) => break Some(refusal.why),
            Ok(_) => break Some("what it says does not belong there".to_owned()),
            Err(error) => break Some(error.to_string()),
        }
        match shared.wait(every, |state| state.doubted.contains(&id).then_some(())) {
            Some(None) => {}
            // Whether it lives a new connection says.
            Some(Some(())) => break None,
            None => {
                connection.close();
                return None;
            }
        }
    };
    connection.close();
    Some(ended)
}
