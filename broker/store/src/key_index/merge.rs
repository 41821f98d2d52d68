//! Eight runs of a size become one of the next, so that a lookup never has many files to ask.

use super::{
    KeyIndex, KeyIndexError, Upkeep,
    run::{Run, RunWriter},
};
use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

/// How many runs of one size are merged.
const MERGED: usize = 8;
/// No run gets larger, so that retention, which drops whole runs, still can drop some.
const ENTRIES_MAX: u64 = 64 << 20;

impl KeyIndex {
    /// Merges until no size has eight runs. The old files stay until a checkpoint without them is durable.
    pub(super) fn merge_where_due(&self, upkeep: &mut Upkeep) -> Result<(), KeyIndexError> {
        while let Some(group) = due(&self.runs()) {
            let merged = self.merge(upkeep, &group)?;
            let is_old = |run: &Arc<Run>| group.iter().any(|old| Arc::ptr_eq(old, run));
            self.replace_runs(|runs| {
                let at = runs.iter().position(is_old).unwrap_or(runs.len());
                runs.insert(at, merged);
                runs.retain(|run| !is_old(run));
            });
            upkeep.retired.extend(group);
        }
        Ok(())
    }

    fn merge(&self, upkeep: &mut Upkeep, group: &[Arc<Run>]) -> Result<Arc<Run>, KeyIndexError> {
        let metas = || group.iter().map(|run| run.meta);
        let span = (metas().map(|meta| meta.first).min().unwrap_or(0), metas().map(|meta| meta.last).max().unwrap_or(0));
        let times = (metas().map(|meta| meta.min_ms).min().unwrap_or(0), metas().map(|meta| meta.max_ms).max().unwrap_or(0));
        let tier = metas().map(|meta| meta.tier).max().unwrap_or(0).saturating_add(1);
        let min_log = upkeep.min_log;
        let mut writer = self.run_writer(upkeep, tier, span)?;
        let written = copy_in_order(group, min_log, &mut writer).and_then(|()| Ok(writer.finish(times)?));
        self.unless_failed(written, &writer)
    }
}

/// The oldest neighbours of one size that are many enough.
fn due(runs: &[Arc<Run>]) -> Option<Vec<Arc<Run>>> {
    runs.windows(MERGED)
        .find(|window| window.iter().all(|run| run.meta.tier == window[0].meta.tier) && window.iter().map(|run| run.meta.count).sum::<u64>() <= ENTRIES_MAX)
        .map(<[_]>::to_vec)
}

fn copy_in_order(group: &[Arc<Run>], min_log: u64, writer: &mut RunWriter) -> Result<(), KeyIndexError> {
    let mut cursors: Vec<_> = group.iter().map(Run::cursor).collect();
    let mut heads = BinaryHeap::with_capacity(cursors.len());
    for (at, cursor) in cursors.iter_mut().enumerate() {
        heads.extend(cursor.next()?.map(|pair| Reverse((pair, at))));
    }
    let mut last = None;
    while let Some(Reverse((pair, at))) = heads.pop() {
        if pair.1 >= min_log && last != Some(pair) {
            writer.push(pair)?;
            last = Some(pair);
        }
        heads.extend(cursors[at].next()?.map(|pair| Reverse((pair, at))));
    }
    Ok(())
}
