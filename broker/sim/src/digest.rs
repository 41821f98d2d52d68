//! What the brokers' logs and indexes are at the end of a run.

use crate::{history::node, run::World};
use sluice_env::sim::threads::Halt;
use sluice_history::{Digest, What};
use sluice_protocol::record::{self, Prefix, RecordView};
use sluice_store::Store;
use sluice_types::CommitLogOffset;
use std::{collections::BTreeMap, sync::Arc};

/// Writes down each broker's.
pub(crate) fn write(world: &World<'_>) -> Result<(), Halt> {
    // Retention goes on by each broker for itself.
    let from = (0..world.brokers.len()).filter_map(|index| world.store(index)).map(|store| store.marks().min).max().unwrap_or_default();
    for index in 0..world.brokers.len() {
        let (id, store) = (index as u32 + 1, world.store(index));
        let digest = world.sim.block_on(&world.brokers[index], "digest", move || store.map(|store| digest(id, &store, from)))?;
        digest.into_iter().for_each(|digest| world.history.note(What::Digest(digest)));
    }
    Ok(())
}

fn digest(id: u32, store: &Arc<Store>, from: CommitLogOffset) -> Digest {
    let marks = store.marks();
    let to = marks.confirmed.min(marks.appended);
    let (mut at, mut log, mut ends) = (from, crc32fast::Hasher::new(), BTreeMap::new());
    while at < to {
        let bytes = match store.range(at, 1 << 20) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(id, %at, %error, "the log can't be read");
                break;
            }
        };
        let take = bytes.len().min((to.0 - at.0) as usize);
        tracing::debug!(id, %at, take, crc = crc32fast::hash(&bytes[..take]), "digest");
        count(&bytes[..take], &mut log, &mut ends);
        at = at.plus(take as u64);
    }
    let rebuilt = hash(&ends);
    let stored = ends.keys().map(|(topic, queue)| {
        let bounds = store.queues_of(topic).iter().find(|found| found.id().0 == *queue as u32).map(|found| store.bounds(found).max.0);
        ((topic.clone(), *queue), bounds.unwrap_or_default())
    });
    let stored = hash(&stored.collect());
    Digest { node: node(id), from, to: at, log: log.finalize().into(), index_stored: stored, index_rebuilt: rebuilt }
}

/// Of a filler only how long it is: what follows in a segment that was used before is what it held then.
fn count(mut bytes: &[u8], log: &mut crc32fast::Hasher, ends: &mut BTreeMap<(String, i32), u64>) {
    while bytes.len() >= record::PREFIX_BYTES {
        match record::prefix(bytes) {
            Prefix::Record(size) if size <= bytes.len() => {
                if let Ok(view) = RecordView::checked(&bytes[..size])
                    && view.topic() != "@meta"
                {
                    ends.insert((view.topic().to_owned(), view.queue_id()), view.queue_offset() + 1);
                }
                log.update(&bytes[..size]);
                bytes = &bytes[size..];
            }
            Prefix::Blank(size) if size <= bytes.len() => {
                log.update(&(size as u64).to_be_bytes());
                bytes = &bytes[size..];
            }
            _ => return,
        }
    }
}

fn hash(ends: &BTreeMap<(String, i32), u64>) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    for ((topic, queue), end) in ends {
        hasher.update(format!("{topic} {queue} {end}\n").as_bytes());
    }
    hasher.finalize().into()
}
