//! C8: a delayed message is not seen before it is due by the broker's clock, nor much later while all is well, nor at all once it is recalled.

use super::Rule;
use crate::{
    Check, Outcome, Report, SendKind, What,
    values::{Id, Map, Sort, id, name},
    world::{Match, Seen, World},
};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Delay {
    /// When the messages that some group has yet to see are due.
    due: Map<Id, u64>,
    /// Recalls that were acknowledged.
    recalled: BTreeMap<Id, u32>,
    /// Where a recalled message was seen.
    seen: Map<Id, u32>,
}

impl Rule for Delay {
    fn see(&mut self, seen: &Seen<'_>, _world: &mut World, report: &mut Report) {
        match &seen.event.what {
            What::Send(sent) if sent.outcome != Outcome::Failed => {
                if let SendKind::Delayed { due } = sent.kind {
                    self.due.insert(id(&sent.value), due);
                }
            }
            What::Recall(recall) if recall.outcome == Outcome::Ok => {
                report.judge(Check::C8);
                self.recalled.insert(id(&recall.value), seen.line);
            }
            _ => {}
        }
    }

    fn matched(&mut self, found: &Match<'_>, world: &mut World, report: &mut Report) {
        let delivery = found.delivery;
        if found.entry.sort != Sort::Delayed || world.topic_of(delivery.queue) != found.entry.topic {
            return;
        }
        if self.recalled.contains_key(&delivery.id) {
            self.seen.insert(delivery.id, delivery.line);
        }
        let Some(due) = self.due.get(&delivery.id).copied() else { return };
        report.judge(Check::C8);
        let lines = [found.entry.line, delivery.line];
        if delivery.clock < due {
            report.violate(Check::C8, &lines, || format!("{} came {} ns before it was due", name(delivery.id), due - delivery.clock));
        }
        let late = delivery.clock.saturating_sub(due);
        if late > world.config.delay_late_max && found.first.is_some() && was_well(found, late, world) {
            report.violate(Check::C8, &lines, || format!("{} came {late} ns after it was due although nothing was broken", name(delivery.id)));
        }
        if world.values.get(delivery.id).is_some_and(|entry| entry.settled) {
            self.due.remove(&delivery.id);
        }
    }

    fn finish(&mut self, world: &World, report: &mut Report) {
        for (id, line) in &self.recalled {
            let Some(entry) = world.values.get(*id).filter(|entry| entry.copies > 0) else { continue };
            let seen = self.seen.get(id).copied().unwrap_or(*line);
            report.violate(Check::C8, &[entry.line, *line, seen], || format!("{} was recalled and yet came", name(*id)));
        }
    }
}

/// Whether nothing was broken since it was due, and its group was there to take it.
fn was_well(found: &Match<'_>, late: u64, world: &World) -> bool {
    let (delivery, due) = (found.delivery, found.delivery.done.saturating_sub(late));
    let was_there = world.members_of(found.entry.topic).iter().any(|member| member.group == delivery.group && member.started <= due);
    was_there && world.is_healthy(due, delivery.done)
}
