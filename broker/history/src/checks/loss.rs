//! C1, and the visible half of C7: what was promised has come to every group by the end of its final drain.

use super::Rule;
use crate::{
    Check, Outcome, Report, SendKind, What,
    unseen::{Live, Why},
    values::{Id, Map, name},
    world::{Member, NONE, Seen, World},
};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Loss {
    /// Acknowledged sends by topic.
    acked: BTreeMap<u32, u64>,
    /// Messages lost to each fault, as an asynchronous mode allows.
    lost: Map<usize, u64>,
}

impl Rule for Loss {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, _report: &mut Report) {
        if let What::Send(sent) = &seen.event.what
            && sent.outcome == Outcome::Ok
            && sent.kind != SendKind::Half
            && seen.queue != NONE
        {
            *self.acked.entry(world.topic_of(seen.queue)).or_default() += 1;
        }
    }

    fn finish(&mut self, world: &World, report: &mut Report) {
        for (topic, acked) in &self.acked {
            if world.members_of(*topic).iter().any(|member| member.drained.is_some()) {
                report.judge_times(Check::C1, *acked);
            }
        }
        for (id, live) in world.unseen.missing() {
            let Some(entry) = world.values.get(id) else { continue };
            let members = world.members_of(entry.topic).iter().enumerate();
            let without: Vec<_> =
                members.filter(|(at, member)| live.missing() & (1 << at) != 0 && member.drained.is_some()).map(|(_, member)| *member).collect();
            if !without.is_empty() && !self.is_allowed(live.promised, world, report) {
                violate(id, &live, &without, world, report);
            }
        }
    }
}

impl Loss {
    /// Counts a loss that an asynchronous mode allows.
    fn is_allowed(&mut self, promised: u64, world: &World, report: &mut Report) -> bool {
        let Some(fault) = world.fault_for(promised) else { return false };
        let lost = self.lost.entry(fault).or_default();
        *lost += 1;
        let allowed = *lost <= world.config.loss_count_max;
        report.counts.lost += u64::from(allowed);
        allowed
    }
}

fn violate(id: Id, live: &Live, without: &[Member], world: &World, report: &mut Report) {
    for member in without {
        let (check, what) = match live.why {
            Why::Acked => (Check::C1, "acknowledged"),
            Why::Delayed => (Check::C1, "acknowledged as a delayed message"),
            Why::Committed => (Check::C7, "committed"),
        };
        let drained = member.drained.map_or(live.line, |(_, line)| line);
        report.violate(check, &[live.line, drained], || {
            format!("{} was {what} and never came to group {}, which had started before", name(id), world.group_name(member.group))
        });
    }
}
