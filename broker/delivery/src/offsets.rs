//! How far groups have consumed. Kept in memory, written into the log a little later.
//!
//! A commit is in memory alone until the next write, and the next master, or the next start, knows only what was written. So an offset is told when it is as
//! durable as the log's rule asks, and not before: else a group that was told 7 could be told 5 later. Who asks for one that has changed since waits for its
//! write, which is begun for him unless it is under way; it is a small record, and its flush is shared with whatever else is written then. The store answers within
//! its deadline. Who only looks on, statistics and lags, is told at once what was stored last.

mod table;

use crate::{
    Counters,
    clients::ConnectionId,
    meta::{MetaWriter, all_is_stored, in_log, place_key, place_of},
};
use ahash::AHashMap;
use sluice_env::{Monotonic, sync::Mutex};
use sluice_store::{AppendError, Late, MetaChange, MetaTable, Store, Wait};
use sluice_types::{Group, QueueId, QueueOffset, Topic};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use table::{Settled, Table, Waits, Write};
use thiserror::Error;

/// How long a reset waits to be followed while its group has no live member: longer than any restart of its members takes. Without an end it would leave out
/// the commits of who comes much later, and send them to a place that no one means any more.
const UNFOLLOWED_MAX: Duration = Duration::from_secs(600);
/// Most connections told of one reset. A group that has told so many and still reads elsewhere does not want it.
const TOLD_MAX: usize = 1024;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Topic.
    pub topic: Topic,
    /// Queue.
    pub queue: QueueId,
    /// The next message the group wants.
    pub offset: QueueOffset,
}

/// Why an offset was not taken or found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OffsetError {
    /// No such topic (17).
    #[error("the topic {0} does not exist")]
    TopicNotFound(Topic),
    /// No such queue (29).
    #[error("the topic {0} has no queue {1}")]
    QueueId(Topic, i32),
    /// A negative offset (29).
    #[error("{0} is no queue offset")]
    Negative(i64),
    /// The group has committed nothing there (22): the client chooses where to start.
    #[error("the group {0} has no offset for {1}/{2}, maybe it is new; the client starts where it is configured to")]
    NotFound(Group, Topic, i32),
    /// It is in memory, but not stored: a change of master could take it back (10, 12 …).
    #[error("the offset of group {group} in {topic}/{queue_id} is not stored yet: {error}; ask again")]
    Store {
        /// The group.
        group: Group,
        /// The topic.
        topic: Topic,
        /// The queue.
        queue_id: i32,
        /// What the store said.
        error: AppendError,
    },
}

/// Called once with how many offsets were written.
pub type FlushDone = Box<dyn FnOnce(Result<usize, AppendError>) + Send>;
/// Called once with an offset that is stored.
pub type OffsetDone = Box<dyn FnOnce(Result<QueueOffset, OffsetError>) + Send>;
/// Called once when a commit is stored.
pub type CommitDone = Box<dyn FnOnce(Result<(), OffsetError>) + Send>;
/// Called once when offsets are stored.
pub type StoredDone = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

type Place = (Group, Topic, QueueId);

#[derive(Default)]
struct State {
    table: Table,
    /// Resets that no member has followed yet.
    resets: AHashMap<Place, Reset>,
}

/// An administrator's order to go on elsewhere.
struct Reset {
    offset: QueueOffset,
    /// Connections whose pulls were sent there, or that asked where to go on.
    told: Vec<ConnectionId>,
    /// When it was made, or its group was last seen with a live member after that.
    live: Monotonic,
}

impl Reset {
    /// Whether a connection's pulls are to be sent to the reset's offset: it has not been told yet. Where it pulls from does not count, for a member may have come
    /// to the same place by itself and have work from before in hand, which it commits. Who was told and pulls from anywhere has followed, or has chosen so.
    fn redirects(&self, connection: ConnectionId) -> bool {
        self.told.len() < TOLD_MAX && !self.told.contains(&connection)
    }

    /// The connection knows.
    fn tell(&mut self, connection: ConnectionId) {
        if self.redirects(connection) {
            self.told.push(connection);
        }
    }
}

impl State {
    /// The reset that a place's members have not followed yet.
    fn reset(&self, group: &Group, topic: &Topic, queue: QueueId) -> Option<&Reset> {
        if self.resets.is_empty() { None } else { self.resets.get(&(group.clone(), topic.clone(), queue)) }
    }

    /// A connection is told where to go on: when a reset sends its group there, it knows.
    fn tell(&mut self, place: &Place, offset: QueueOffset, connection: ConnectionId) {
        if !self.resets.is_empty()
            && let Some(reset) = self.resets.get_mut(place).filter(|reset| reset.offset == offset)
        {
            reset.tell(connection);
        }
    }
}

/// All committed offsets.
pub struct Offsets {
    state: Arc<Mutex<State>>,
    /// How many resets wait to be followed: almost always none, and then a pull need not look.
    resets: AtomicUsize,
    meta: Arc<MetaWriter>,
    counters: Arc<Counters>,
}

impl Offsets {
    /// Reads what the log holds. The error names a key that cannot be read.
    pub(crate) fn load(store: &Store, meta: &Arc<MetaWriter>, counters: &Arc<Counters>) -> Result<Self, String> {
        let mut state = State::default();
        let stored = store.meta(MetaTable::Offsets);
        // Looked at afterwards: then it covers what was read.
        let is_stored = all_is_stored(store);
        for (key, value) in stored {
            let (place, offset) = parse(&key, &value).ok_or_else(|| format!("the committed offset {key:?} is unreadable"))?;
            state.table.load(place, offset, is_stored);
        }
        Ok(Self { state: Arc::new(Mutex::new(state)), resets: AtomicUsize::new(0), meta: meta.clone(), counters: counters.clone() })
    }

    /// A group's offset in a queue, as far as it is stored: for who looks on. What was committed a moment ago may be further.
    #[must_use]
    pub fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.state.lock().table.stored(group, topic, queue)
    }

    /// A group's newest offset in a queue. Not to be told.
    pub(crate) fn newest(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.state.lock().table.now(group, topic, queue)
    }

    /// A group's offset in a queue, for a connection that asks where to go on: a reset need not send it there any more. `done` comes when the offset is stored, at once
    /// if it is; with `None` if it has been deleted meanwhile.
    pub(crate) fn ask(&self, place: Place, connection: ConnectionId, done: Settled) {
        let (state, asked) = (self.state.clone(), place.clone());
        let told = move |result: Result<Option<QueueOffset>, AppendError>| {
            if let Ok(Some(offset)) = &result {
                state.lock().tell(&asked, *offset, connection);
            }
            done(result);
        };
        self.settle_one(place, Box::new(told));
    }

    /// `done` comes when the newest offsets of these places are stored, deletions too.
    pub(crate) fn settle(&self, places: Vec<Place>, done: StoredDone) {
        let all = Arc::new(Mutex::new(Settling { left: places.len() + 1, result: Ok(()), done: Some(done) }));
        for place in places {
            let all = all.clone();
            self.settle_one(place, Box::new(move |result| Settling::one(&all, result.map(|_| ()))));
        }
        Settling::one(&all, Ok(()));
    }

    fn settle_one(&self, place: Place, settled: Settled) {
        let waits = self.state.lock().table.wait(place, settled);
        match waits {
            Waits::ForWrite => {}
            Waits::Not(settled, offset) => settled(Ok(offset)),
            Waits::ToBeWritten(place, settled) => self.write_and_settle(place, settled),
        }
    }

    /// Writes what has changed of the place's group: the place is one of those, unless somebody has just been here with the same wish.
    fn write_and_settle(&self, place: Place, settled: Settled) {
        let mut at_once = None;
        let group = place.0.clone();
        let wait = |state: &mut State| match state.table.wait(place, settled) {
            Waits::ForWrite => {}
            Waits::Not(settled, offset) => at_once = Some((settled, Ok(offset))),
            Waits::ToBeWritten(..) => unreachable!("all changes of its group are being written"),
        };
        self.write(Some(&group), wait, Box::new(|_| ()));
        if let Some((settled, result)) = at_once {
            settled(result);
        }
    }

    /// Takes a consumer's commit. It may lower the offset, as the protocol allows; that is counted. While the group's members have not followed a
    /// [reset](Self::reset) yet, what they commit is from before it, and is left out.
    pub fn commit(&self, group: &Group, topic: &Topic, queue: QueueId, offset: QueueOffset) {
        let before = {
            let mut state = self.state.lock();
            if let Some(reset) = state.reset(group, topic, queue).filter(|reset| reset.offset != offset) {
                tracing::debug!(%group, %topic, %queue, %offset, reset = %reset.offset, "a commit from before a reset is left out");
                return;
            }
            state.table.set(group, topic, queue, Some(offset))
        };
        if let Some(before) = before.filter(|before| *before > offset) {
            Counters::add(&self.counters.offsets_lowered, 1);
            tracing::debug!(%group, %topic, %queue, %before, %offset, "a commit lowered an offset");
        }
    }

    /// Sets an offset by an administrator's order. It holds against members that are connected: their pulls are sent there, and what they commit is left out
    /// until one of them pulls that knows of it, or the group has had no live member for ten minutes.
    pub(crate) fn reset(&self, group: &Group, topic: &Topic, queue: QueueId, offset: QueueOffset, now: Monotonic) {
        let mut state = self.state.lock();
        state.table.set(group, topic, queue, Some(offset));
        state.resets.insert((group.clone(), topic.clone(), queue), Reset { offset, told: Vec::new(), live: now });
        self.resets.store(state.resets.len(), Ordering::Release);
    }

    /// Where a pull is to be sent instead, because the group was reset; the connection counts as told. `None` when it may read on.
    pub(crate) fn redirect(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> Option<QueueOffset> {
        if self.resets.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut state = self.state.lock();
        let place = (group.clone(), topic.clone(), queue);
        let reset = state.resets.get_mut(&place)?;
        if reset.redirects(connection) {
            reset.tell(connection);
            return Some(reset.offset);
        }
        state.resets.remove(&place);
        self.resets.store(state.resets.len(), Ordering::Release);
        None
    }

    /// Where a pull that is held is to be sent, because the group was reset since; the connection counts as told. That it was told already does not let the pull
    /// wait on: it asked before that, for who asks afterwards has followed, and then there is no reset any more.
    pub(crate) fn redirect_held(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> Option<QueueOffset> {
        let mut state = self.state.lock();
        let reset = state.resets.get_mut(&(group.clone(), topic.clone(), queue))?;
        reset.tell(connection);
        Some(reset.offset)
    }

    /// Whether [`redirect`](Self::redirect) would send the pull elsewhere.
    pub(crate) fn would_redirect(&self, group: &Group, topic: &Topic, queue: QueueId, connection: ConnectionId) -> bool {
        self.resets.load(Ordering::Acquire) != 0 && self.state.lock().reset(group, topic, queue).is_some_and(|reset| reset.redirects(connection))
    }

    /// Ends resets that nobody can follow. `live` says whether a group has live members; it is called under the lock.
    pub(crate) fn sweep_resets(&self, now: Monotonic, live: impl Fn(&Group) -> bool) {
        if self.resets.load(Ordering::Acquire) == 0 {
            return;
        }
        self.end_resets(|(group, topic, queue), reset| {
            if live(group) {
                reset.live = now;
            }
            let ended = now.since(reset.live) >= UNFOLLOWED_MAX;
            if ended {
                tracing::info!(%group, %topic, %queue, offset = %reset.offset, "no member has come to follow a reset; from now on commits count again");
            }
            ended
        });
    }

    /// Ends a group's resets. Its offsets stay.
    pub(crate) fn end_resets_of(&self, group: &Group) {
        self.end_resets(|(of, _, _), _| of == group);
    }

    fn end_resets(&self, mut which: impl FnMut(&Place, &mut Reset) -> bool) {
        let mut state = self.state.lock();
        state.resets.retain(|place, reset| !which(place, reset));
        self.resets.store(state.resets.len(), Ordering::Release);
    }

    /// All offsets of a group, as far as they are stored: for who looks on.
    #[must_use]
    pub fn list(&self, group: &str) -> Vec<CommittedOffset> {
        let all = self.state.lock().table.list(group);
        all.into_iter().map(|(topic, queue, offset)| CommittedOffset { topic, queue, offset }).collect()
    }

    /// All groups that have an offset anywhere.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.state.lock().table.groups(|_| true)
    }

    /// The groups that have an offset in a topic, connected or not.
    #[must_use]
    pub fn groups_of_topic(&self, topic: &str) -> Vec<Group> {
        self.state.lock().table.groups(|of| of.as_str() == topic)
    }

    /// Gives a group another group's offsets, in one topic or in all but its retry topic. They come after any reset of the group there, and end it. `done` comes
    /// when they are stored.
    pub fn copy_group(&self, from: &Group, to: &Group, topic: Option<&Topic>, done: StoredDone) {
        let copied: Vec<Place> = {
            let mut state = self.state.lock();
            let is_meant = |of: &Topic| topic.is_none_or(|topic| topic == of) && of.retry_group().is_none();
            let places = state.table.places(|group, of| group == from && is_meant(of));
            let copy = |(_, topic, queue): Place| {
                let offset = state.table.now(from.as_str(), topic.as_str(), queue);
                state.table.set(to, &topic, queue, offset);
                let place = (to.clone(), topic, queue);
                state.resets.remove(&place);
                place
            };
            let copied = places.into_iter().map(copy).collect();
            self.resets.store(state.resets.len(), Ordering::Release);
            copied
        };
        self.settle(copied, done);
    }

    /// Forgets a group's offsets. Whatever is written into the log after this lies behind their deletion.
    pub fn remove_group(&self, group: &Group) {
        self.remove(|of, _| of == group);
    }

    /// Forgets all offsets in a topic, in the same way.
    pub fn remove_topic(&self, topic: &Topic) {
        self.remove(|_, of| of == topic);
    }

    fn remove(&self, of: impl Fn(&Group, &Topic) -> bool) {
        {
            let mut state = self.state.lock();
            for (group, topic, queue) in state.table.places(&of) {
                state.table.set(&group, &topic, queue, None);
            }
            state.resets.retain(|(group, topic, _), _| !of(group, topic));
            self.resets.store(state.resets.len(), Ordering::Release);
        }
        self.flush(Box::new(|result| {
            if let Err(error) = result {
                tracing::warn!(%error, "the deletion of committed offsets was not stored; it is tried again");
            }
        }));
    }

    /// Hands every changed offset to the log. Those it does not store are handed over again next time.
    pub fn flush(&self, done: FlushDone) {
        self.write(None, |_| (), done);
    }

    /// Hands changed offsets to the log, all or one group's. `then` runs when they are taken, `done` when the log has answered.
    fn write(&self, of: Option<&Group>, then: impl FnOnce(&mut State), done: FlushDone) {
        let taken: Arc<Mutex<Option<Write>>> = Arc::default();
        let (kept, state, counters) = (taken.clone(), self.state.clone(), self.counters.clone());
        self.meta.change(
            Wait::Durable,
            || {
                let mut state = self.state.lock();
                let write = state.table.begin_write(of);
                then(&mut state);
                let changes = write.iter().flat_map(|write| &write.values).map(change).collect();
                *taken.lock() = write;
                changes
            },
            Box::new(move |result| {
                let Some(write) = kept.lock().take() else { return done(result.map(|()| 0)) };
                if !in_log(&result) {
                    Counters::add(&counters.offset_flushes_failed, 1);
                }
                // Fewer brokers than there should be hold it, but all that have to: it stays.
                let result = if matches!(result, Err(AppendError::Late(Late::Replicas, _))) { Ok(()) } else { result };
                let written = write.values.len();
                let answers = state.lock().table.end_write(write, &result);
                for (settled, result) in answers {
                    settled(result);
                }
                done(result.map(|()| written));
            }),
        );
    }
}

/// Several offsets that somebody waits for.
struct Settling {
    left: usize,
    result: Result<(), AppendError>,
    done: Option<StoredDone>,
}

impl Settling {
    fn one(all: &Mutex<Self>, result: Result<(), AppendError>) {
        let last = {
            let mut all = all.lock();
            all.left -= 1;
            if all.result.is_ok() {
                all.result = result;
            }
            if all.left == 0 { all.done.take().map(|done| (done, all.result.clone())) } else { None }
        };
        if let Some((done, result)) = last {
            done(result);
        }
    }
}

fn change(((group, topic, queue), offset): &(Place, Option<QueueOffset>)) -> MetaChange {
    let value = offset.map(|offset| offset.0.to_be_bytes().to_vec());
    MetaChange { table: MetaTable::Offsets, key: place_key(group, topic, *queue), value }
}

fn parse(key: &str, value: &[u8]) -> Option<(Place, QueueOffset)> {
    Some((place_of(key)?, QueueOffset(u64::from_be_bytes(value.try_into().ok()?))))
}
