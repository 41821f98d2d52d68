//! C5 for order locks: a queue's lock is one consumer's at a time.

use super::{Rule, doubts::Doubts};
use crate::{
    Check, LockResult, Report, What,
    values::Map,
    world::{Seen, World},
};

/// A lock as its holder knows it.
#[derive(Clone, Copy)]
struct Held {
    process: u32,
    since: u64,
    until: u64,
    line: u32,
}

#[derive(Default)]
pub(super) struct Locks {
    held: Map<(u32, u32), Held>,
    /// By queue, with the earlier holder.
    doubts: Doubts<(u32, u32)>,
}

impl Rule for Locks {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        let (key, event) = ((seen.group, seen.queue), seen.event);
        match &event.what {
            What::Lock(lock) => match lock.result {
                LockResult::Granted { until } => {
                    report.judge(Check::C5);
                    self.grant(key, seen, until, world);
                }
                LockResult::Refused => {}
                LockResult::Released => {
                    self.doubts.explain(&key, event.invoke, Some(event.process));
                    if self.held.get(&key).is_some_and(|held| held.process == event.process) {
                        self.held.remove(&key);
                    }
                }
            },
            What::Stopped => {
                self.doubts.explain_all(event.invoke, event.process);
                self.held.retain(|_, held| held.process != event.process);
            }
            _ => {}
        }
    }

    fn finish(&mut self, _world: &World, report: &mut Report) {
        self.doubts.report(report);
    }
}

impl Locks {
    /// Only what overlaps for certain is doubted: the earlier holder knew that it had the lock before the other one asked.
    fn grant(&mut self, key: (u32, u32), seen: &Seen<'_>, until: u64, world: &World) {
        let event = seen.event;
        if let Some(held) = self.held.get(&key).filter(|held| held.process != event.process && held.since < event.invoke && event.done < held.until) {
            let text = format!(
                "the lock of queue {} in group {} was given to consumer {} while consumer {} held it",
                world.queue_name(key.1),
                world.group_name(key.0),
                event.process,
                held.process
            );
            self.doubts.push(key, (event.done, held.process), Check::C5, &[held.line, seen.line], text);
        }
        self.held.insert(key, Held { process: event.process, since: event.done, until, line: seen.line });
    }
}
