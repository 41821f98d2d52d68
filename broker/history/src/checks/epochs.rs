//! C11: one node acknowledges in an epoch, and none under an epoch after the first acknowledgement of a later one.

use super::Rule;
use crate::{
    By, Check, NodeEvent, Outcome, Report, What,
    world::{Seen, World},
};
use std::collections::BTreeMap;

/// An epoch's first acknowledgement.
struct First {
    node: u32,
    done: u64,
    line: u32,
}

#[derive(Default)]
pub(super) struct Epochs {
    /// By shard and epoch.
    acks: BTreeMap<u32, BTreeMap<u64, First>>,
}

/// The acknowledged write that a line tells of.
fn acked(seen: &Seen<'_>) -> Option<By> {
    let outcome = match &seen.event.what {
        What::Node { node, event: NodeEvent::Acked { epoch } } => return Some(By { node: *node, epoch: *epoch }),
        What::Send(sent) => sent.outcome,
        What::End(end) => end.outcome,
        What::Recall(recall) => recall.outcome,
        What::Commit(place) | What::Reset(place) => place.outcome,
        What::Ack(ack) => ack.outcome,
        What::Change(change) => change.outcome,
        What::Consumed(consumed) => consumed.outcome,
        _ => return None,
    };
    seen.event.by.filter(|_| outcome == Outcome::Ok)
}

impl Rule for Epochs {
    fn see(&mut self, seen: &Seen<'_>, _world: &mut World, report: &mut Report) {
        let Some(By { node, epoch }) = acked(seen) else { return };
        report.judge(Check::C11);
        let epochs = self.acks.entry(node.shard).or_default();
        // The later epoch's first ack was answered before this operation was begun.
        if let Some((later, first)) = epochs.range(epoch + 1..).find(|(_, first)| first.done < seen.event.invoke) {
            report.violate(Check::C11, &[first.line, seen.line], || {
                format!("node {node} acknowledged under epoch {epoch} after node {}/{} had under epoch {later}", node.shard, first.node)
            });
        }
        let first = epochs.entry(epoch).or_insert(First { node: node.id, done: seen.event.done, line: seen.line });
        if first.node != node.id {
            report
                .violate(Check::C11, &[first.line, seen.line], || format!("nodes {}/{} and {node} both acknowledged in epoch {epoch}", node.shard, first.node));
        }
    }
}
