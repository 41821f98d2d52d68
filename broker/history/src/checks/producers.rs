//! C5 for producers: in each queue, offsets follow the real-time order of one producer's acknowledged sends.

use super::Rule;
use crate::{
    Check, Outcome, Report, SendKind, What,
    rising::{Rising, Step},
    values::Map,
    world::{Seen, World},
};

#[derive(Default)]
pub(super) struct Producers {
    sent: Map<(u32, u32), Rising>,
}

impl Rule for Producers {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        let What::Send(sent) = &seen.event.what else { return };
        let (Outcome::Ok, SendKind::Normal, Some(offset)) = (sent.outcome, sent.kind, sent.offset) else { return };
        report.judge(Check::C5);
        let before = self.sent.entry((seen.queue, seen.event.process)).or_default();
        // A lost message's offset may be given again; that is C4's to count.
        if let Some(step) = before.before_unless(seen.event.invoke, |done| world.fault_for(done).is_some()).filter(|step| step.offset >= offset.0) {
            report.violate(Check::C5, &[step.line, seen.line], || {
                format!(
                    "producer {} was given offset {offset} of queue {} after it had been given {}",
                    seen.event.process,
                    world.queue_name(seen.queue),
                    step.offset
                )
            });
        }
        before.push(Step { done: seen.event.done, offset: offset.0, line: seen.line });
    }
}
