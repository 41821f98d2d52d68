//! C12: after the faults the replicas of a shard hold the same bytes up to the confirmed mark, and each stored index is the one that follows from them.

use super::Rule;
use crate::{
    Check, Digest, NodeEvent, Report, What,
    world::{Seen, World},
};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Replicas {
    digests: BTreeMap<u32, Vec<(u32, Digest)>>,
    /// The highest confirmed mark of each shard and the line that told of it.
    confirmed: BTreeMap<u32, (u64, u32)>,
}

impl Rule for Replicas {
    fn see(&mut self, seen: &Seen<'_>, _world: &mut World, _report: &mut Report) {
        match &seen.event.what {
            What::Digest(digest) => self.digests.entry(digest.node.shard).or_default().push((seen.line, digest.clone())),
            What::Node { node, event: NodeEvent::Confirmed { to } } => {
                let mark = self.confirmed.entry(node.shard).or_default();
                *mark = (*mark).max((to.0, seen.line));
            }
            _ => {}
        }
    }

    fn finish(&mut self, world: &World, report: &mut Report) {
        for (shard, digests) in &self.digests {
            judge_index(digests, report);
            judge_bytes(digests, report);
            let confirmed = self.confirmed.get(shard).copied().filter(|_| !world.may_lose());
            judge_ends(digests, confirmed.unwrap_or_default(), report);
        }
    }
}

fn judge_index(digests: &[(u32, Digest)], report: &mut Report) {
    for (line, digest) in digests {
        report.judge(Check::C12);
        if digest.index_stored != digest.index_rebuilt {
            report.violate(Check::C12, &[*line], || {
                format!("node {}: the stored index of {}..{} is not the one its log gives", digest.node, digest.from, digest.to)
            });
        }
    }
}

fn judge_bytes(digests: &[(u32, Digest)], report: &mut Report) {
    let mut ranges: BTreeMap<_, &(u32, Digest)> = BTreeMap::new();
    for told in digests {
        let (line, digest) = told;
        let (first, other) = *ranges.entry((digest.from, digest.to)).or_insert(told);
        if other.log != digest.log || other.index_rebuilt != digest.index_rebuilt {
            report.violate(Check::C12, &[*first, *line], || format!("nodes {} and {} differ in {}..{}", other.node, digest.node, digest.from, digest.to));
        }
    }
}

/// Every node that tells of its log has it up to the same mark, which is no less than what was ever confirmed.
fn judge_ends(digests: &[(u32, Digest)], (confirmed, confirmed_line): (u64, u32), report: &mut Report) {
    let mut ends = BTreeMap::new();
    for (line, digest) in digests {
        let end = ends.entry(digest.node).or_insert((digest.to.0, *line));
        *end = (*end).max((digest.to.0, *line));
    }
    let Some((furthest, furthest_line)) = ends.values().copied().max().map(|end| end.max((confirmed, confirmed_line))) else { return };
    for (node, (end, line)) in ends {
        if end < furthest {
            report.violate(Check::C12, &[furthest_line, line], || format!("node {node} ends at {end}, and {furthest} is confirmed"));
        }
    }
}
