//! Which half messages are open, noted in the log as metadata ([`MetaTable::Transactions`]), and found again at a start.
//!
//! | key | value, numbers big-endian |
//! | --- | --- |
//! | `progress` | half queue offset 8, op queue offset 8: everything below both has been taken into account |
//! | *n*, a number | the open half messages with queue offsets from 1024 *n* to 1024 *n* + 1023, 38 bytes each: queue offset − 1024 *n* 2, log offset 8, store timestamp 8, time of the next check 8 (ms since 1970), how long that was from the time of noting 8 (ms), checks 4 |
//!
//! A half message noted as open may have ended since; its op record then lies at or above the noted op offset. Progress is written behind the chunks that it
//! relies on, so that a crash in between leaves more to read and nothing out. It is written only while every half message below the newest known one is known: so
//! no op record below it is about a half message above it.

use super::{
    Transactions, half,
    open::{CHUNK, Half, State, TransactionRules},
};
use crate::{
    Counters,
    meta::{in_log, pieces},
    stop::Stop,
};
use sluice_env::{Env, broken};
use sluice_protocol::record::RecordView;
use sluice_store::{AppendError, Batch, MetaChange, MetaTable, Placed, ReadError, ReadLimits, Store, Wait, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, QueueOffset};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

const PROGRESS: &str = "progress";
const ENTRY_BYTES: usize = 38;
/// One read of a queue at a start.
const SCAN_LIMITS: ReadLimits = ReadLimits { messages: 512, bytes: 1 << 20, scanned: 512 };

/// What the log holds of the notes.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    progress: Option<(u64, u64)>,
    chunks: BTreeSet<u64>,
}

impl Transactions {
    /// Finds the open transactions of the log. The error names what cannot be read, or written.
    pub(crate) fn load(store: &Arc<Store>, env: &Env, rules: TransactionRules, stop: &Arc<Stop>, counters: &Counters) -> Result<Arc<Self>, String> {
        let all = Arc::new(Self::empty(store, env, rules, stop).map_err(|error| error.to_string())?);
        let cut_commit = {
            let mut state = all.state.lock();
            let mut noted = all.noted.lock();
            all.read_notes(store, &mut state, &mut noted)?;
            let (halves, ops) = noted.progress.unwrap_or((all.half_queue().visible().min.0, all.op_queue().visible().min.0));
            state.halves.next = scan(store, all.half_queue(), halves, counters, |view| all.found(&mut state, view))?;
            state.ops.next = scan(store, all.op_queue(), ops, counters, |op| ended_by(&mut state, op))?;
            let cut_commit = cut_commit(store, &state);
            all.hold(&state);
            cut_commit
        };
        if let Some((offset, host)) = cut_commit {
            tracing::info!(half = %offset, "a crash had cut off the end of a commit; its message is there, the transaction has ended");
            all.complete(store, offset, host).map_err(|error| format!("the end of the transaction of half message {offset} could not be written: {error}"))?;
        }
        Ok(all)
    }

    /// Writes the op record that a crash has cut off: before anything else can become the log's last record, and whole or not at all.
    fn complete(self: &Arc<Self>, store: &Store, offset: QueueOffset, host: SocketAddr) -> Result<(), String> {
        let claim = self.claim(offset).map_err(|refused| format!("{refused:?}"))?;
        let mut batch = Batch::new();
        half::push_op(&mut batch, self.op_queue(), offset.0, self.clock.wall().0, host).map_err(|error| error.to_string())?;
        let result = store.append(batch, Wait::Durable);
        match (super::settle(claim, &result), result) {
            (Err(_), Err(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    fn read_notes(&self, store: &Store, state: &mut State, noted: &mut Noted) -> Result<(), String> {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall().0);
        for (key, value) in store.meta(MetaTable::Transactions) {
            let unreadable = || format!("the note of transactions {key:?} is unreadable");
            if key == PROGRESS {
                let (halves, ops) = value.split_first_chunk::<8>().ok_or_else(unreadable)?;
                let ops = ops.try_into().map_err(|_| unreadable())?;
                noted.progress = Some((u64::from_be_bytes(*halves), u64::from_be_bytes(ops)));
                continue;
            }
            let chunk: u64 = key.parse().map_err(|_| unreadable())?;
            noted.chunks.insert(chunk);
            let entries = value.chunks_exact(ENTRY_BYTES);
            if !entries.remainder().is_empty() {
                return Err(unreadable());
            }
            for bytes in entries {
                let entry = Entry::decode(bytes).ok_or_else(unreadable)?;
                let due = now + self.after_start(entry.left(wall));
                let half = Half { log_offset: CommitLogOffset(entry.log_offset), stored_ms: entry.stored_ms, due, checks: entry.checks, claimed: false };
                state.insert(QueueOffset(chunk * CHUNK + u64::from(entry.offset)), half);
            }
        }
        state.changed.clear();
        Ok(())
    }

    /// Producers need a moment to come back after a start.
    fn after_start(&self, left: Duration) -> Duration {
        left.max(self.rules.timeout)
    }

    fn found(&self, state: &mut State, view: &RecordView<'_>) {
        if broken("open transactions are forgotten at a start") {
            return;
        }
        let wait = self.rules.first_check(half::immunity_seconds(view.user_properties()));
        let since = self.clock.wall().0.saturating_sub(view.store_timestamp());
        let left = wait.saturating_sub(Duration::from_millis(u64::try_from(since).unwrap_or(0)));
        let due = self.clock.monotonic() + self.after_start(left);
        let (log_offset, stored_ms) = (CommitLogOffset(view.log_offset()), view.store_timestamp());
        let offset = QueueOffset(view.queue_offset());
        // Noted already, with its checks: a note may be ahead of the progress.
        if !state.open.contains_key(&offset.0) {
            state.insert(offset, Half { log_offset, stored_ms, due, checks: 0, claimed: false });
        }
    }

    /// Notes in the log what has changed, by `append`, which blocks.
    pub(crate) fn note(&self, append: impl Fn(Batch) -> Result<Vec<Placed>, AppendError>) -> Result<(), AppendError> {
        let mut noted = self.noted.lock();
        let (changes, progress, taken) = self.changes(&noted);
        if changes.is_empty() {
            return Ok(());
        }
        for piece in pieces(&changes) {
            let stored = batch_of(piece).and_then(|batch| append(batch).map(drop));
            if !in_log(&stored) {
                self.state.lock().changed.extend(taken);
                return stored;
            }
            for change in piece.iter().filter(|change| change.key != PROGRESS) {
                let Ok(chunk) = change.key.parse() else { continue };
                if change.value.is_some() {
                    noted.chunks.insert(chunk)
                } else {
                    noted.chunks.remove(&chunk)
                };
            }
        }
        noted.progress = progress;
        Ok(())
    }

    /// What differs from the notes, the progress last.
    fn changes(&self, noted: &Noted) -> (Vec<MetaChange>, Option<(u64, u64)>, BTreeSet<u64>) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall().0);
        let mut state = self.state.lock();
        let taken = std::mem::take(&mut state.changed);
        let mut changes = Vec::new();
        for chunk in &taken {
            let mut value = Vec::new();
            for (offset, half) in state.open.range(chunk * CHUNK..(chunk + 1) * CHUNK) {
                let left_ms = u64::try_from(half.due.since(now).as_millis()).unwrap_or(u64::MAX);
                let due_ms = wall.saturating_add(i64::try_from(left_ms).unwrap_or(i64::MAX));
                let entry =
                    Entry { offset: (offset % CHUNK) as u16, log_offset: half.log_offset.0, stored_ms: half.stored_ms, due_ms, left_ms, checks: half.checks };
                entry.encode(&mut value);
            }
            if !value.is_empty() || noted.chunks.contains(chunk) {
                changes.push(MetaChange { table: MetaTable::Transactions, key: chunk.to_string(), value: Some(value).filter(|value| !value.is_empty()) });
            }
        }
        // One that came early may have ended: behind the progress it would be found again, and its op record before it would not.
        if !state.halves.is_gapless() {
            return (changes, noted.progress, taken);
        }
        let progress = (state.halves.next, state.ops.next);
        if noted.progress != Some(progress) && (noted.progress.is_some() || progress != (0, 0)) {
            let value = [progress.0.to_be_bytes(), progress.1.to_be_bytes()].concat();
            changes.push(MetaChange { table: MetaTable::Transactions, key: PROGRESS.to_owned(), value: Some(value) });
        }
        (changes, Some(progress), taken)
    }
}

/// Goes through a queue; where it ends.
fn scan(store: &Store, queue: &QueueRef, from: u64, counters: &Counters, mut each: impl FnMut(&RecordView<'_>)) -> Result<u64, String> {
    let bounds = queue.visible();
    let mut next = QueueOffset(from).max(bounds.min);
    while next < bounds.max {
        match store.read(queue, next, SCAN_LIMITS, &mut |_| true) {
            Ok(read) if read.next > next => {
                for view in read.slices.iter().flat_map(|bytes| crate::delay::records(bytes)) {
                    each(&view);
                }
                next = read.next;
            }
            Ok(_) => return Err(format!("{}/{} cannot be read from offset {next} on", queue.topic(), queue.id())),
            Err(error @ (ReadError::Corrupt(_) | ReadError::NotFound(_))) => {
                Counters::add(&counters.transactions_lost, 1);
                tracing::error!(topic = %queue.topic(), offset = %next, %error, "a record of a transaction is lost; it is passed over");
                next = next.plus(1);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(next.0.max(from))
}

/// The open half message whose committed message is the log's last record, and who stored it: its op record was cut off.
fn cut_commit(store: &Store, state: &State) -> Option<(QueueOffset, SocketAddr)> {
    let last = store.record_at(store.last_inherited()?).ok()?;
    let last = RecordView::parse(&last).ok()?;
    let place = CommitLogOffset::from_wire(last.prepared_transaction_offset())?;
    let (offset, _) = state.open.iter().find(|(_, open)| open.log_offset == place)?;
    let record = store.record_at(place).ok()?;
    let view = RecordView::parse(&record).ok()?;
    half::is_commit_of(&last, &view).then_some((QueueOffset(*offset), view.store_host()))
}

fn batch_of(piece: &[MetaChange]) -> Result<Batch, AppendError> {
    let mut batch = Batch::new();
    batch.meta(piece).map_err(|_| AppendError::TooLarge(piece.iter().map(|change| change.value.as_ref().map_or(0, Vec::len)).sum()))?;
    Ok(batch)
}

/// Takes the half messages out that an op record has ended.
fn ended_by(state: &mut State, op: &RecordView<'_>) {
    let Ok(body) = std::str::from_utf8(op.body()) else { return };
    for offset in body.split(half::OFFSET_SEPARATOR).filter_map(|text| text.trim().parse().ok()) {
        state.remove(QueueOffset(offset));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: u16,
    log_offset: u64,
    stored_ms: i64,
    due_ms: i64,
    left_ms: u64,
    checks: u32,
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.log_offset.to_be_bytes());
        out.extend_from_slice(&self.stored_ms.to_be_bytes());
        out.extend_from_slice(&self.due_ms.to_be_bytes());
        out.extend_from_slice(&self.left_ms.to_be_bytes());
        out.extend_from_slice(&self.checks.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (offset, bytes) = bytes.split_first_chunk::<2>()?;
        let (log_offset, bytes) = bytes.split_first_chunk::<8>()?;
        let (stored_ms, bytes) = bytes.split_first_chunk::<8>()?;
        let (due_ms, bytes) = bytes.split_first_chunk::<8>()?;
        let (left_ms, checks) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            offset: u16::from_be_bytes(*offset),
            log_offset: u64::from_be_bytes(*log_offset),
            stored_ms: i64::from_be_bytes(*stored_ms),
            due_ms: i64::from_be_bytes(*due_ms),
            left_ms: u64::from_be_bytes(*left_ms),
            checks: u32::from_be_bytes(checks.try_into().ok()?),
        })
    }

    /// How long until the check, at most what it was when it was noted: the calendar may have been put back.
    fn left(&self, wall: i64) -> Duration {
        Duration::from_millis(u64::try_from(self.due_ms.saturating_sub(wall)).unwrap_or(0).min(self.left_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_and_a_cut_one_is_refused() {
        let entry = Entry { offset: 1023, log_offset: 1 << 40, stored_ms: -1, due_ms: 2, left_ms: 3, checks: 15 };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert_eq!((bytes.len(), Entry::decode(&bytes)), (ENTRY_BYTES, Some(entry)));
        assert_eq!(Entry::decode(&bytes[..ENTRY_BYTES - 1]), None);
    }

    fn empty() -> Arc<Transactions> {
        let (env, _, _) = sluice_env::sim::env(3);
        let store = Store::open(env.clone(), sluice_store::StoreOptions { segment_bytes: 1 << 20, ..Default::default() }).expect("opens");
        let seconds = Duration::from_secs;
        let rules = TransactionRules { timeout: seconds(6), check_interval: seconds(30), check_max: 15, immunity_max: seconds(100), open_max: 9 };
        Arc::new(Transactions::empty(&store, &env, rules, &Arc::default()).expect("legal names"))
    }

    /// Else a start would find the half message behind the progress, and not the op record before it that has ended it.
    #[test]
    fn progress_is_not_noted_while_a_half_message_has_overtaken_another() {
        let all = empty();
        let tickets = [0, 1].map(|offset| (all.reserve().expect("room"), offset));
        let mut progress = Vec::new();
        for (ticket, offset) in tickets.into_iter().rev() {
            let place = sluice_store::Placed { log_offset: CommitLogOffset(1_000 * offset), queue_offset: QueueOffset(offset), bytes: 300, store_timestamp: 0 };
            ticket.begun(&place, None);
            if offset == 1 {
                all.claim(QueueOffset(1)).map_err(|refused| format!("{refused:?}")).expect("open").ended(QueueOffset(0));
            }
            let (changes, noted, _) = all.changes(&Noted::default());
            progress.push((changes.iter().any(|change| change.key == PROGRESS), noted));
        }
        assert_eq!(progress, [(false, None), (true, Some((2, 1)))]);
    }

    #[test]
    fn a_calendar_put_back_makes_no_check_wait_longer_than_it_had_to() {
        let entry = Entry { offset: 0, log_offset: 0, stored_ms: 0, due_ms: 10_000, left_ms: 6_000, checks: 0 };
        for (wall, left) in [(4_000, 6_000), (7_000, 3_000), (11_000, 0), (-1_000_000, 6_000), (i64::MAX, 0)] {
            assert_eq!(entry.left(wall), Duration::from_millis(left), "{wall}");
        }
    }
}
