//! C7: a half message becomes visible once at most, after its commit, and never after a rollback. That a committed one comes is `loss`'s to see, and that it
//! has one place is `content`'s.

use super::Rule;
use crate::{
    Action, Check, Outcome, Report, SendKind, What,
    values::{Id, Map, Sort, id, name},
    world::{Match, Seen, World},
};

/// A time and its line.
type When = Option<(u64, u32)>;

/// How a transaction went.
#[derive(Default)]
struct Transaction {
    sent: u32,
    /// When the first commit that was not refused was begun.
    commit: When,
    /// When a rollback was first acknowledged.
    rollback: When,
    /// When it was first seen.
    seen: When,
}

fn earlier(one: When, two: When) -> When {
    [one, two].into_iter().flatten().min()
}

#[derive(Default)]
pub(super) struct Transactions {
    all: Map<Id, Transaction>,
}

impl Rule for Transactions {
    fn see(&mut self, seen: &Seen<'_>, _world: &mut World, _report: &mut Report) {
        match &seen.event.what {
            What::Send(sent) if sent.kind == SendKind::Half => {
                self.all.entry(id(&sent.value)).or_default().sent = seen.line;
            }
            What::End(end) => {
                let transaction = self.all.entry(id(&end.value)).or_default();
                match (end.action, end.outcome) {
                    (Action::Commit, Outcome::Ok | Outcome::Unknown) => transaction.commit = earlier(transaction.commit, Some((seen.event.invoke, seen.line))),
                    (Action::Rollback, Outcome::Ok) => transaction.rollback = earlier(transaction.rollback, Some((seen.event.done, seen.line))),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn matched(&mut self, found: &Match<'_>, _world: &mut World, _report: &mut Report) {
        if found.entry.sort == Sort::Half {
            let transaction = self.all.entry(found.delivery.id).or_default();
            transaction.seen = earlier(transaction.seen, Some((found.delivery.done, found.delivery.line)));
        }
    }

    fn finish(&mut self, _world: &World, report: &mut Report) {
        let mut all: Vec<_> = std::mem::take(&mut self.all).into_iter().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        for (id, transaction) in all {
            transaction.judge(id, report);
        }
    }
}

impl Transaction {
    fn judge(&self, id: Id, report: &mut Report) {
        if self.commit.or(self.rollback).or(self.seen).is_some() {
            report.judge(Check::C7);
        }
        let Some((seen, line)) = self.seen else { return };
        let rolled_back_first = self.rollback.filter(|rollback| self.commit.is_none_or(|commit| rollback.0 < commit.0));
        if let Some((_, rollback)) = rolled_back_first {
            report.violate(Check::C7, &[self.sent, rollback, line], || format!("{} was rolled back and yet came", name(id)));
        } else if let Some((commit, commit_line)) = self.commit {
            if seen < commit {
                report.violate(Check::C7, &[self.sent, line, commit_line], || format!("{} came before its commit was begun", name(id)));
            }
        } else {
            report.violate(Check::C7, &[self.sent, line], || format!("{} came although nobody committed it", name(id)));
        }
    }
}
