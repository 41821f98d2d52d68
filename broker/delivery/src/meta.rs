//! The way of metadata into the log: changes reach the log in the order in which they took effect in memory.

use sluice_env::sync::Mutex;
use sluice_store::{AppendError, Batch, FlushMode, MetaChange, Store, Wait};
use sluice_types::{Group, QueueId, Topic};
use std::sync::Arc;

/// Between the parts of a key.
const KEY_SEPARATOR: char = '\u{1}';

/// Version of a set of configuration, as name servers compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataVersion {
    /// Epoch of the broker's role; 0 on a broker without one.
    pub state_version: i64,
    /// Time of the last change, ms since 1970.
    pub timestamp: i64,
    /// Changes so far.
    pub counter: i64,
}

impl DataVersion {
    pub(crate) fn next(&mut self, now_ms: i64) {
        self.timestamp = now_ms;
        self.counter += 1;
    }
}

/// Called once with what became of a change of metadata.
pub(crate) type MetaDone = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// Whether a change lies in the log, though perhaps not flushed in time: memory has to agree with that.
pub(crate) fn in_log(result: &Result<(), AppendError>) -> bool {
    matches!(result, Ok(()) | Err(AppendError::Late(..)))
}

/// Whether all that the log holds by now is as durable as its rule asks.
pub(crate) fn all_is_stored(store: &Store) -> bool {
    let marks = store.marks();
    let is_flushed = matches!(store.flush_mode(), FlushMode::Async { .. }) || marks.flushed >= marks.appended;
    is_flushed && marks.confirmed >= marks.appended
}

/// What is kept about a group in a queue has this key.
pub(crate) fn place_key(group: &Group, topic: &Topic, queue: QueueId) -> String {
    format!("{group}{KEY_SEPARATOR}{topic}{KEY_SEPARATOR}{queue}")
}

/// The group and queue of such a key.
pub(crate) fn place_of(key: &str) -> Option<(Group, Topic, QueueId)> {
    let mut parts = key.split(KEY_SEPARATOR);
    let (group, topic, queue) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    Some((Group::new(group).ok()?, Topic::new(topic).ok()?, QueueId(queue)))
}

/// Writes metadata.
pub(crate) struct MetaWriter {
    store: Arc<Store>,
    /// Held from the change in memory to its hand-over to the writer.
    order: Mutex<()>,
}

impl MetaWriter {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, order: Mutex::new(()) }
    }

    /// Runs `apply`, which changes memory and says what to write, and submits that. `done` runs without any lock held, perhaps before this returns.
    pub(crate) fn change(&self, wait: Wait, apply: impl FnOnce() -> Vec<MetaChange>, done: MetaDone) {
        // Corked, the hand-over under the lock only queues; what goes forward, and whose callbacks run, comes after it.
        self.store.corked(|| {
            let answer = Answer::new(done);
            {
                let _order = self.order.lock();
                self.submit(&apply(), wait, answer.clone());
            }
            answer.release();
        });
    }

    fn submit(&self, changes: &[MetaChange], wait: Wait, answer: Answer) {
        if changes.is_empty() {
            return answer.give(Ok(()));
        }
        let mut batch = Batch::new();
        for piece in pieces(changes) {
            if batch.meta(piece).is_err() {
                return answer.give(Err(AppendError::TooLarge(piece.iter().map(bytes_of).sum())));
            }
        }
        self.store.submit(batch, wait, Box::new(move |result| answer.give(result.map(|_| ()))));
    }
}

/// A callback that is kept back while the order's lock is held: the store may refuse at once.
#[derive(Clone)]
struct Answer(Arc<Mutex<AnswerState>>);

struct AnswerState {
    kept_back: bool,
    result: Option<Result<(), AppendError>>,
    done: Option<MetaDone>,
}

impl Answer {
    fn new(done: MetaDone) -> Self {
        Self(Arc::new(Mutex::new(AnswerState { kept_back: true, result: None, done: Some(done) })))
    }

    fn give(&self, result: Result<(), AppendError>) {
        self.0.lock().result = Some(result);
        self.call_if_ready();
    }

    fn release(&self) {
        self.0.lock().kept_back = false;
        self.call_if_ready();
    }

    fn call_if_ready(&self) {
        let ready = {
            let mut state = self.0.lock();
            if state.kept_back || state.result.is_none() { None } else { state.done.take().zip(state.result.take()) }
        };
        if let Some((done, result)) = ready {
            done(result);
        }
    }
}

/// Most bytes of changes in one record; a single larger change gets a record of its own.
const PIECE_BYTES_MAX: usize = 256 * 1024;

pub(crate) fn bytes_of(change: &MetaChange) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, Vec::len) + 16
}

/// Cuts many changes into records of a handy size.
pub(crate) fn pieces(changes: &[MetaChange]) -> Vec<&[MetaChange]> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, change) in changes.iter().enumerate() {
        let size = bytes_of(change);
        if i > start && bytes + size > PIECE_BYTES_MAX {
            pieces.push(&changes[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    pieces.push(&changes[start..]);
    pieces
}
