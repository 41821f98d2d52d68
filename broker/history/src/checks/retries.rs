//! C14: a message that fails is tried again, one level after the other, and ends as one dead letter. Of C3: it is not tried again if it did not fail. Of C8: nor before its
//! level's delay has passed.

use super::Rule;
use crate::{
    Check, Consumed, Kind, Outcome, Report, Verdict, What,
    values::{Id, Map, id, name},
    world::{Delivery, Seen, World},
};
use sluice_types::Topic;
use std::collections::BTreeMap;

/// Attempts above are not told apart.
const ATTEMPTS_MAX: u32 = 62;

/// A group's attempts at a message. Bit n stands for attempt n, 0 being the first.
#[derive(Default)]
struct Chain {
    came: u64,
    /// It failed, or may have been said to.
    failed: u64,
    /// The broker took note of that.
    noted: u64,
    /// Line and time of the last note.
    last: (u32, u64),
    /// The line of the last delivery.
    came_line: u32,
    /// It came by POP, where a lease that ends is a failure too.
    pop: bool,
    /// By attempt: when it first came, by the broker's clock, and on which line; and when it may come at the soonest.
    first: BTreeMap<u32, (u64, u32)>,
    due: BTreeMap<u32, u64>,
    /// How often it was said to have failed for good.
    last_failures: u64,
    /// Where it lies as a dead letter, with the lines.
    dead: Vec<(u32, u64, u32)>,
    topic: Option<u32>,
}

#[derive(Default)]
pub(super) struct Retries {
    chains: Map<(u32, Id), Chain>,
}

fn bit(attempt: u32) -> u64 {
    1 << attempt.min(ATTEMPTS_MAX)
}

impl Rule for Retries {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, _report: &mut Report) {
        match &seen.event.what {
            What::Deliver(deliver) => {
                if let Some(group) = deliver.queue.topic.as_str().strip_prefix("%DLQ%") {
                    let Some(group) = world.group_number(group) else { return };
                    self.chains.entry((group, id(&deliver.value))).or_default().bury(&Delivery::new(seen, deliver));
                } else if deliver.attempt > 0 {
                    let chain = self.chains.entry((seen.group, id(&deliver.value))).or_default();
                    chain.came |= bit(deliver.attempt);
                    chain.came_line = seen.line;
                    let first = chain.first.entry(deliver.attempt).or_insert((deliver.clock, seen.line));
                    *first = (*first).min((deliver.clock, seen.line));
                    chain.pop |= deliver.kind == Kind::Pop;
                }
            }
            What::Consumed(consumed) if consumed.verdict == Verdict::Later => self.fail(seen, consumed, world),
            _ => {}
        }
    }

    fn finish(&mut self, world: &World, report: &mut Report) {
        let mut chains: Vec<_> = std::mem::take(&mut self.chains).into_iter().collect();
        chains.sort_unstable_by_key(|(key, _)| *key);
        for ((group, id), mut chain) in chains {
            chain.topic = world.values.get(id).map(|entry| entry.topic);
            let told = |what: &str| format!("{} in group {} {what}", name(id), world.group_name(group));
            chain.judge_levels(&told, world, report);
            chain.judge_delays(&told, report);
            chain.judge_end(group, &told, world, report);
        }
    }
}

impl Retries {
    fn fail(&mut self, seen: &Seen<'_>, consumed: &Consumed, world: &World) {
        let chain = self.chains.entry((seen.group, id(&consumed.value))).or_default();
        if consumed.outcome == Outcome::Failed {
            return;
        }
        chain.failed |= bit(consumed.attempt);
        if let Some(due) = consumed.due {
            // Said again it may come again; the first time counts.
            let known = chain.due.entry(consumed.attempt + 1).or_insert(due);
            *known = due.min(*known);
        }
        if consumed.attempt == world.config.retries_max {
            chain.last_failures += 1;
        }
        if consumed.outcome == Outcome::Ok {
            chain.noted |= bit(consumed.attempt);
            chain.last = (seen.line, seen.event.done);
        }
    }
}

impl Chain {
    fn bury(&mut self, delivery: &Delivery) {
        if !self.dead.iter().any(|place| (place.0, place.1) == (delivery.queue, delivery.offset)) {
            self.dead.push((delivery.queue, delivery.offset, delivery.line));
        }
    }

    /// No attempt without the one before it, and none after a success.
    fn judge_levels(&self, told: &dyn Fn(&str) -> String, world: &World, report: &mut Report) {
        if self.failed != 0 {
            report.judge(Check::C14);
        }
        for attempt in 1..=ATTEMPTS_MAX {
            if self.came & bit(attempt) == 0 {
                continue;
            }
            // A line that there is none of is left out.
            let lines: Vec<_> = [self.last.0, self.came_line].into_iter().filter(|line| *line > 0).collect();
            if attempt > world.config.retries_max {
                report.violate(Check::C14, &lines, || told(&format!("was tried {attempt} times again, {} are the most", world.config.retries_max)));
            } else if attempt > 1 && self.came & bit(attempt - 1) == 0 {
                report.violate(Check::C14, &lines, || told(&format!("came as attempt {attempt} without attempt {}", attempt - 1)));
            } else if self.failed & bit(attempt - 1) == 0 && !self.pop {
                report.violate(Check::C3, &lines, || told(&format!("came as attempt {attempt} although attempt {} had not failed", attempt - 1)));
            }
        }
    }

    /// No attempt before it is due.
    fn judge_delays(&self, told: &dyn Fn(&str) -> String, report: &mut Report) {
        for (attempt, due) in &self.due {
            let Some((clock, line)) = self.first.get(attempt) else { continue };
            report.judge(Check::C8);
            if clock < due {
                report.violate(Check::C8, &[*line], || told(&format!("came as attempt {attempt} {} ns before it was due", due - clock)));
            }
        }
    }

    /// What failed came again, or became one dead letter.
    fn judge_end(&self, group: u32, told: &dyn Fn(&str) -> String, world: &World, report: &mut Report) {
        let last = world.config.retries_max;
        let missing = (0..last.min(ATTEMPTS_MAX)).find(|attempt| self.noted & bit(*attempt) != 0 && self.came & bit(attempt + 1) == 0);
        if let Some(attempt) = missing.filter(|_| self.is_drained(group, world)) {
            self.lost(&format!("failed at attempt {attempt} and did not come again"), told, world, report);
        }
        let dead = self.dead.len() as u64;
        let lines: Vec<_> = self.dead.iter().map(|place| place.2).chain([self.last.0]).filter(|line| *line > 0).collect();
        if dead > self.last_failures.max(1) {
            report.violate(Check::C14, &lines, || told(&format!("lies {dead} times among the dead letters")));
        } else if dead > 0 && self.failed & bit(last) == 0 && !self.pop {
            report.violate(Check::C14, &lines, || told(&format!("is a dead letter without having failed {} times", last + 1)));
        } else if dead == 0 && self.noted & bit(last) != 0 && dead_letters_are_read(group, self.last.1, world) {
            self.lost("failed for good and is no dead letter", told, world, report);
        }
    }

    fn lost(&self, what: &str, told: &dyn Fn(&str) -> String, world: &World, report: &mut Report) {
        if world.fault_for(self.last.1).is_some() {
            report.counts.lost += 1;
        } else {
            report.violate(Check::C14, &[self.last.0], || told(what));
        }
    }

    fn is_drained(&self, group: u32, world: &World) -> bool {
        let members = self.topic.map_or(&[][..], |topic| world.members_of(topic));
        members.iter().any(|member| member.group == group && member.drained.is_some_and(|(at, _)| at > self.last.1))
    }
}

fn dead_letters_are_read(group: u32, since: u64, world: &World) -> bool {
    let Ok(topic) = Topic::dead_letters_of(world.group_name(group)) else { return false };
    world.members_of_topic(&topic).iter().any(|member| member.drained.is_some_and(|(at, _)| at > since))
}
