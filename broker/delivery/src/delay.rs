//! Delayed messages: each level's queue holds them in the order in which they become due.
//!
//! The progress of a level lies in the log right behind the messages it stands for, in the same batch. Nothing comes between them, so a crash can part them only at the log's
//! very end. Then the last of the messages is the log's last record; it names the one that had waited, and the next start goes on behind that.

use crate::{
    Counters, Delivery,
    send::{Message, REAL_QUEUE, REAL_TOPIC},
    topics::SCHEDULE_TOPIC,
};
use sluice_env::{
    Monotonic,
    sync::{Condvar, Mutex},
};
use sluice_protocol::{
    properties,
    record::{RecordError, RecordView},
};
use sluice_store::{AppendError, Batch, MetaChange, MetaTable, ReadError, ReadLimits, Store, Wait, queue_index::QueueRef};
use sluice_types::{CommitLogOffset, QueueId, QueueOffset, Topic};
use std::time::Duration;

/// Most of one batch.
const BATCH_LIMITS: ReadLimits = ReadLimits { messages: 512, bytes: 1 << 20, scanned: 512 };
/// Longest sleep, so that a calendar clock put forward is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(250);
/// Batches of one level before the other levels have their turn.
const TURNS_MAX: usize = 16;
/// Pause after the store has refused.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Properties of the wait that is over.
const SPENT: [&str; 4] = [properties::DELAY_LEVEL, "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"];

/// One level.
struct Level {
    number: usize,
    delay: Duration,
    queue: QueueRef,
    next: QueueOffset,
    /// The first message that waits, so that an arrival behind it costs no read.
    head: Option<Head>,
    /// All messages below were there at that time: with a calendar clock put back their waits still end, and all together.
    there: Option<(QueueOffset, Monotonic)>,
}

/// A message that waits.
#[derive(Clone, Copy)]
struct Head {
    offset: QueueOffset,
    store_timestamp: i64,
}

#[derive(Default)]
struct Signal {
    arrived: bool,
    stop: bool,
}

/// Wakes the service.
#[derive(Default)]
pub(crate) struct DelaySignal {
    state: Mutex<Signal>,
    changed: Condvar,
}

impl DelaySignal {
    /// A schedule queue has a new message.
    pub(crate) fn arrived(&self) {
        self.state.lock().arrived = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_one();
    }

    /// Sleeps; false when the service has to end.
    fn sleep(&self, at_most: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        if !state.arrived && !state.stop {
            self.changed.wait_for(&mut state, at_most.unwrap_or(SLEEP_MAX).min(SLEEP_MAX));
        }
        state.arrived = false;
        !state.stop
    }

    fn stopped(&self) -> bool {
        self.state.lock().stop
    }
}

/// What became of one turn of a level.
enum Turn {
    /// Messages went out; there may be more.
    Moved,
    /// The first one is due after that time.
    Later(Duration),
    /// Nothing waits.
    Empty,
    /// The store refused; try again after a pause.
    Failed,
}

/// The service: a thread's state.
pub(crate) struct DelayService {
    levels: Vec<Level>,
}

impl DelayService {
    /// Reads the progress from the log. The error names what cannot be read, or written.
    pub(crate) fn load(store: &Store, queues: &[QueueRef], delays: &[Duration]) -> Result<Self, String> {
        let mut levels: Vec<Level> = queues
            .iter()
            .zip(delays)
            .enumerate()
            .map(|(i, (queue, delay))| Level { number: i + 1, delay: *delay, queue: queue.clone(), next: QueueOffset::ZERO, head: None, there: None })
            .collect();
        for (key, value) in store.meta(MetaTable::Delay) {
            let unreadable = || format!("the delay progress {key:?} is unreadable");
            let number: usize = key.parse().map_err(|_| unreadable())?;
            let next = u64::from_be_bytes(value.as_slice().try_into().map_err(|_| unreadable())?);
            if let Some(level) = levels.get_mut(number.wrapping_sub(1)) {
                level.next = QueueOffset(next);
            }
        }
        if let Some((number, next)) = cut_move(store)
            && let Some(level) = levels.get_mut(number.wrapping_sub(1)).filter(|level| level.next < next)
        {
            tracing::info!(level = number, %next, "a crash had cut off the end of a batch of delayed messages; it goes on behind the last that is there");
            level.next = next;
            level.note(store).map_err(|error| format!("the progress of delayed messages could not be written: {error}"))?;
        }
        Ok(Self { levels })
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self, delivery: &Delivery) {
        let mut pause = Some(Duration::ZERO);
        while delivery.delay_signal.sleep(pause) {
            pause = None;
            for level in &mut self.levels {
                let wish = level.catch_up(delivery);
                pause = [pause, wish].into_iter().flatten().min();
            }
        }
    }
}

impl Level {
    fn progress(&self) -> MetaChange {
        MetaChange { table: MetaTable::Delay, key: self.number.to_string(), value: Some(self.next.0.to_be_bytes().to_vec()) }
    }

    /// Writes what a crash has cut off, before anything else can become the log's last record.
    fn note(&self, store: &Store) -> Result<(), AppendError> {
        let mut batch = Batch::new();
        batch.meta(&[self.progress()]).map_err(|error| AppendError::Poisoned(error.to_string()))?;
        store.append(batch, Wait::Durable).map(drop)
    }

    /// Gives out what is due, as far as the other levels' turn allows; when to look again.
    fn catch_up(&mut self, delivery: &Delivery) -> Option<Duration> {
        for _ in 0..TURNS_MAX {
            if delivery.delay_signal.stopped() {
                return None;
            }
            match self.turn(delivery) {
                Turn::Moved => {}
                Turn::Later(wait) => return Some(wait),
                Turn::Empty => return None,
                Turn::Failed => {
                    Counters::add(&delivery.counters().delay_retries, 1);
                    return Some(RETRY_PAUSE);
                }
            }
        }
        Some(Duration::ZERO)
    }

    fn turn(&mut self, delivery: &Delivery) -> Turn {
        let bounds = self.queue.visible();
        self.next = self.next.max(bounds.min);
        if self.next >= bounds.max {
            return Turn::Empty;
        }
        if let Some(wait) = self.head.filter(|head| head.offset == self.next).and_then(|head| self.wait(delivery, head.offset, head.store_timestamp)) {
            return Turn::Later(wait);
        }
        let read = match delivery.store().read(&self.queue, self.next, BATCH_LIMITS, &mut |_| true) {
            Ok(read) => read,
            Err(error @ (ReadError::Corrupt(_) | ReadError::NotFound(_))) => return self.pass_over(delivery, &error),
            Err(error) => {
                tracing::warn!(level = self.number, %error, "delayed messages cannot be read; trying again");
                return Turn::Failed;
            }
        };
        if read.messages == 0 {
            // Nothing between here and `next` can be served any more.
            let stuck = read.next <= self.next;
            self.next = read.next.max(self.next);
            return if stuck { Turn::Failed } else { Turn::Moved };
        }
        let mut batch = Batch::new();
        let before = self.next;
        let (mut moved, mut later) = (0u64, None);
        for view in read.slices.iter().flat_map(|bytes| records(bytes)) {
            if let Some(wait) = self.wait(delivery, QueueOffset(view.queue_offset()), view.store_timestamp()) {
                later = Some(wait);
                break;
            }
            if let Err(reason) = due(delivery, &mut batch, &view) {
                Counters::add(&delivery.counters().delayed_lost, 1);
                tracing::error!(level = self.number, offset = view.queue_offset(), reason, "a delayed message cannot be delivered; it is passed over");
            }
            self.next = QueueOffset(view.queue_offset()).plus(1);
            moved += 1;
        }
        match (moved, later) {
            (0, Some(wait)) => Turn::Later(wait),
            (0, None) => Turn::Failed,
            _ => self.store(delivery, batch, before, moved),
        }
    }

    /// How long the message has to wait yet; `None` when it is due.
    fn wait(&mut self, delivery: &Delivery, offset: QueueOffset, store_timestamp: i64) -> Option<Duration> {
        // Before the time: what comes in between is not taken for older than it is.
        let end = self.queue.visible().max;
        let now = delivery.env.clock.monotonic();
        let delay_ms = i64::try_from(self.delay.as_millis()).unwrap_or(i64::MAX);
        let left = store_timestamp.saturating_add(delay_ms).saturating_sub(delivery.env.clock.wall().0);
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        if left.is_zero() {
            return None;
        }
        self.head = Some(Head { offset, store_timestamp });
        let since = match self.there {
            Some((below, at)) if offset < below => at,
            _ => {
                self.there = Some((end, now));
                now
            }
        };
        let left = left.min(self.delay.saturating_sub(now.since(since)));
        (!left.is_zero()).then_some(left)
    }

    fn store(&mut self, delivery: &Delivery, mut batch: Batch, before: QueueOffset, moved: u64) -> Turn {
        let result = match batch.meta(&[self.progress()]) {
            Ok(()) => delivery.append(batch),
            Err(error) => Err(AppendError::Poisoned(error.to_string())),
        };
        match result {
            // Late, but in the log with its progress.
            Ok(_) | Err(AppendError::Late(..)) => {
                Counters::add(&delivery.counters().delayed_out, moved);
                Turn::Moved
            }
            Err(error) => {
                self.next = before;
                tracing::warn!(level = self.number, %error, "delayed messages that are due were not stored; trying again");
                Turn::Failed
            }
        }
    }

    /// One damaged record must not stop the level.
    fn pass_over(&mut self, delivery: &Delivery, error: &ReadError) -> Turn {
        tracing::error!(level = self.number, offset = %self.next, %error, "a delayed message is lost; it is passed over");
        Counters::add(&delivery.counters().delayed_lost, 1);
        self.next = self.next.plus(1);
        Turn::Moved
    }
}

/// The records of a slice.
pub(crate) fn records(mut bytes: &[u8]) -> impl Iterator<Item = RecordView<'_>> {
    std::iter::from_fn(move || {
        let view = RecordView::parse(bytes).ok()?;
        bytes = &bytes[view.bytes().len()..];
        Some(view)
    })
}

/// Puts a message whose wait is over into the batch, for the queue it was sent to.
fn due(delivery: &Delivery, batch: &mut Batch, view: &RecordView<'_>) -> Result<(), String> {
    let mut own = view.user_properties().to_owned();
    let topic = properties::get(&own, REAL_TOPIC).ok_or("it does not say where it is to go")?;
    let topic = Topic::new(topic).map_err(|e| e.to_string())?;
    let queue = properties::get(&own, REAL_QUEUE).and_then(|id| id.parse().ok()).ok_or("it does not say which queue it is to go to")?;
    let queue = delivery.topics().queue_to_end_in(&topic, QueueId(queue));
    for name in SPENT {
        properties::remove(&mut own, name);
    }
    let message = Message {
        flag: view.flag(),
        sys_flag: view.sys_flag(),
        born_timestamp: view.born_timestamp(),
        born_host: view.born_host(),
        reconsume_times: view.reconsume_times(),
        body: view.body(),
        properties: own.into(),
    };
    delivery.push_copy(batch, &queue, &message, CommitLogOffset(view.log_offset())).map_err(|error: RecordError| error.to_string())
}

/// Of which level the log's last record was given out, and where that level goes on behind it, if it is such a message: the batch's end was cut off.
fn cut_move(store: &Store) -> Option<(usize, QueueOffset)> {
    let last = store.record_at(store.last_inherited()?).ok()?;
    let last = RecordView::parse(&last).ok()?;
    let waited = store.record_at(CommitLogOffset::from_wire(last.prepared_transaction_offset())?).ok()?;
    let waited = RecordView::parse(&waited).ok()?;
    let number = usize::try_from(waited.queue_id()).ok()? + 1;
    is_copy(&last, &waited).then(|| (number, QueueOffset(waited.queue_offset()).plus(1)))
}

/// Whether a record is the message, given out, that had waited in the other.
fn is_copy(record: &RecordView<'_>, waited: &RecordView<'_>) -> bool {
    let of = |view: &RecordView<'_>, name| properties::get(view.user_properties(), name).map(str::to_owned);
    waited.topic() == SCHEDULE_TOPIC
        && of(waited, REAL_TOPIC).as_deref() == Some(record.topic())
        && record.body_crc() == waited.body_crc()
        && of(record, properties::UNIQUE_KEY) == of(waited, properties::UNIQUE_KEY)
}
