//! C13: once everything is repaired, writes succeed soon, a backlog is consumed at the promised rate, and nothing stays unseen.

use super::Rule;
use crate::{
    Check, Outcome, Report, Sent, What,
    unseen::{Live, Why},
    world::{Match, Seen, World},
};
use std::collections::BTreeMap;

/// The first write of a shard since the repair.
#[derive(Default)]
struct Writes {
    /// The first one that was begun in time: its line.
    tried: Option<u32>,
    through: bool,
}

/// What a group had yet to see when everything was repaired.
#[derive(Clone, Copy)]
struct Backlog {
    all: u64,
    left: u64,
}

/// What is watched since the last repair.
struct Watch {
    since: u64,
    line: u32,
    writes: BTreeMap<u32, Writes>,
    /// By topic and the group's place in it.
    backlogs: BTreeMap<(u32, u32), Backlog>,
}

#[derive(Default)]
pub(super) struct Liveness {
    watch: Option<Watch>,
}

impl Rule for Liveness {
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report) {
        match &seen.event.what {
            What::Heal => {
                self.conclude(world, report);
                self.watch = Some(Watch { since: seen.event.done, line: seen.line, writes: BTreeMap::new(), backlogs: backlogs(world) });
            }
            // What is broken anew before it was through is judged by what was due by then.
            What::FaultBegin { .. } => self.conclude(world, report),
            What::Send(sent) => self.see_send(seen, sent, world, report),
            _ => {}
        }
    }

    fn matched(&mut self, found: &Match<'_>, world: &mut World, report: &mut Report) {
        let (Some(watch), Some(live)) = (&mut self.watch, &found.first) else { return };
        let Some(at) = world.members_of(found.entry.topic).iter().position(|member| member.group == found.delivery.group) else { return };
        if !is_backlog(live, watch.since) || live.required & (1 << at) == 0 {
            return;
        }
        let Some(backlog) = watch.backlogs.get_mut(&(found.entry.topic, at as u32)) else { return };
        backlog.left = backlog.left.saturating_sub(1);
        if backlog.left == 0 {
            report.judge(Check::C13);
            let (all, took) = (backlog.all, found.delivery.done - watch.since);
            if took > drain_max(all, world) {
                report.violate(Check::C13, &[watch.line, found.delivery.line], || {
                    format!("group {} took {took} ns after the repair for a backlog of {all} messages", world.group_name(found.delivery.group))
                });
            }
        }
    }

    fn finish(&mut self, world: &World, report: &mut Report) {
        if let Some(watch) = &self.watch {
            unseen(watch, world, report);
        }
        self.conclude(world, report);
    }
}

impl Liveness {
    fn see_send(&mut self, seen: &Seen<'_>, sent: &Sent, world: &World, report: &mut Report) {
        let Some(watch) = self.watch.as_mut().filter(|watch| seen.event.invoke >= watch.since) else { return };
        let deadline = watch.since.saturating_add(world.config.write_within);
        let writes = watch.writes.entry(sent.queue.shard).or_default();
        if writes.through {
            return;
        }
        if seen.event.invoke <= deadline {
            writes.tried.get_or_insert(seen.line);
        }
        if sent.outcome == Outcome::Ok {
            writes.through = true;
            if let Some(tried) = writes.tried {
                report.judge(Check::C13);
                if seen.event.done > deadline {
                    report.violate(Check::C13, &[watch.line, tried, seen.line], || {
                        format!("the first write of shard {} succeeded {} ns after the repair", sent.queue.shard, seen.event.done - watch.since)
                    });
                }
            }
        }
    }

    /// Ends the watch: what should have happened by now and has not never will.
    fn conclude(&mut self, world: &World, report: &mut Report) {
        let Some(watch) = self.watch.take() else { return };
        let passed = world.now.saturating_sub(watch.since);
        for (shard, writes) in &watch.writes {
            if let Some(tried) = writes.tried.filter(|_| !writes.through && passed > world.config.write_within) {
                report.violate(Check::C13, &[watch.line, tried], || format!("no write of shard {shard} succeeded in the {passed} ns after the repair"));
            }
        }
        for ((topic, at), backlog) in &watch.backlogs {
            let allowed = drain_max(backlog.all, world);
            let forgiven = if backlog.left > 0 && world.may_lose() { forgiven(*topic, *at, watch.since, world) } else { 0 };
            if backlog.left > forgiven && passed > allowed {
                let group = world.members_of(*topic)[*at as usize].group;
                report.violate(Check::C13, &[watch.line], || {
                    format!(
                        "group {} has not seen {} of a backlog of {} messages of {} {passed} ns after the repair",
                        world.group_name(group),
                        backlog.left,
                        backlog.all,
                        world.topic_name(*topic)
                    )
                });
            }
        }
    }
}

/// Delayed messages are not due for being old.
fn is_backlog(live: &Live, since: u64) -> bool {
    live.promised <= since && live.why != Why::Delayed
}

fn bits(mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let at = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(at)
    })
}

fn backlogs(world: &World) -> BTreeMap<(u32, u32), Backlog> {
    let mut backlogs = BTreeMap::new();
    for (id, live) in world.unseen.missing() {
        let Some(entry) = world.values.get(id).filter(|_| is_backlog(&live, world.now)) else { continue };
        for at in bits(live.missing()) {
            let backlog = backlogs.entry((entry.topic, at)).or_insert(Backlog { all: 0, left: 0 });
            backlog.all += 1;
            backlog.left += 1;
        }
    }
    backlogs
}

/// What of a backlog will not come because it was lost, as an asynchronous mode allows.
fn forgiven(topic: u32, at: u32, since: u64, world: &World) -> u64 {
    let missing = world.unseen.missing();
    let lost = missing.iter().filter(|(id, live)| {
        let is_here = world.values.get(*id).is_some_and(|entry| entry.topic == topic);
        is_here && live.missing() & (1 << at) != 0 && is_backlog(live, since) && world.fault_for(live.promised).is_some()
    });
    lost.count() as u64
}

/// The time for a backlog: until the cluster is back, and then at the promised rate.
fn drain_max(messages: u64, world: &World) -> u64 {
    match world.config.drain_rate_min {
        0 => u64::MAX,
        rate => world.config.write_within.saturating_add(world.config.held_back_max).saturating_add(messages.saturating_mul(1_000_000_000) / rate),
    }
}

/// What was promised after the repair, long enough ago, and a group without a final drain has not seen.
fn unseen(watch: &Watch, world: &World, report: &mut Report) {
    let mut counts: BTreeMap<(u32, u32), (u64, u32)> = BTreeMap::new();
    for (id, live) in world.unseen.missing() {
        let Some(entry) = world.values.get(id) else { continue };
        let is_new = live.promised > watch.since && live.promised.saturating_add(world.config.write_within) < world.now;
        if is_new && live.why != Why::Delayed && !world.is_broken() {
            for at in bits(live.missing()) {
                let count = counts.entry((entry.topic, at)).or_insert((0, live.line));
                count.0 += 1;
            }
        }
    }
    for ((topic, at), (count, line)) in counts {
        let member = world.members_of(topic)[at as usize];
        if member.drained.is_none() {
            report.violate(Check::C13, &[watch.line, line], || {
                format!("group {} still has {count} messages of {} unseen at the end", world.group_name(member.group), world.topic_name(topic))
            });
        }
    }
}
