//! The service that asks producers what became of their transactions, and gives up in the end.

use super::{CheckSent, Ending, HALF_TOPIC, half, open::Half, settle};
use crate::{Counters, Delivery, clients::ConnectionId};
use sluice_env::Monotonic;
use sluice_protocol::record::RecordView;
use sluice_store::{AppendError, ReadError};
use sluice_types::QueueOffset;
use std::time::Duration;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Half messages looked at in one turn.
const TURN: usize = 128;
/// Before a half message is looked at again that could not be handled now.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often the open transactions are noted in the log.
pub(super) const NOTE_EVERY: Duration = Duration::from_secs(5);

/// The service: a thread's state.
pub(crate) struct CheckService {
    noted: Monotonic,
}

/// What became of the look for somebody to ask.
enum Asked {
    Sent,
    Nobody,
    Busy,
}

impl CheckService {
    /// Due at first `NOTE_EVERY` after `start`.
    pub(crate) fn new(start: Monotonic) -> Self {
        Self { noted: start }
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self, delivery: &Delivery) {
        while delivery.stop.pause(TICK) {
            while delivery.check_due() {}
            self.note(delivery);
        }
    }

    fn note(&mut self, delivery: &Delivery) {
        let now = delivery.env.clock.monotonic();
        if now.since(self.noted) < NOTE_EVERY {
            return;
        }
        self.noted = now;
        if let Err(error) = delivery.note_transactions() {
            tracing::warn!(%error, "the open transactions were not noted; a start now would have more to read");
        }
    }
}

impl Delivery {
    /// Handles what is due, as far as one turn allows; whether another turn may follow at once.
    fn check_due(&self) -> bool {
        let due = self.transactions.due(TURN);
        let mut held = None;
        for (offset, half) in &due {
            if self.stopped() {
                return false;
            }
            self.check(*offset, half, &mut held);
        }
        due.len() == TURN && held.is_none()
    }

    /// `held`: a give-up was refused in this turn or came late, and the others due with it wait so long too. Each try may block as long as a flush may take.
    fn check(&self, offset: QueueOffset, open: &Half, held: &mut Option<Duration>) {
        let give_up = open.checks >= self.transactions.rules.check_max;
        if let (true, Some(pause)) = (give_up, *held) {
            return self.transactions.put_off(offset, pause);
        }
        let record = match self.store().record_at(open.log_offset) {
            Ok(record) => record,
            Err(error) => return self.unreadable(offset, open, &error),
        };
        let view = match RecordView::parse(&record) {
            Ok(view) if view.topic() == HALF_TOPIC && view.queue_offset() == offset.0 => view,
            _ => return self.unreadable(offset, open, &ReadError::Corrupt(open.log_offset)),
        };
        if give_up {
            *held = self.give_up(offset, &view);
        } else {
            self.ask(offset, &view);
        }
    }

    /// A half message that retention or rot has taken can be neither committed nor asked about.
    fn unreadable(&self, offset: QueueOffset, open: &Half, error: &ReadError) {
        let removed = offset < self.transactions.half_queue().visible().min;
        if !removed && !matches!(error, ReadError::Corrupt(_)) {
            // Not flushed yet, or a disk that may recover.
            return self.transactions.put_off(offset, RETRY_PAUSE);
        }
        if self.transactions.forget(offset) {
            Counters::add(&self.counters().transactions_lost, 1);
            let why = if removed { "retention removed it on a full disk".to_owned() } else { error.to_string() };
            tracing::error!(half = %offset, log_offset = %open.log_offset, stored_ms = open.stored_ms, why, "a half message is lost; its transaction cannot be ended");
        }
    }

    fn ask(&self, offset: QueueOffset, half: &RecordView<'_>) {
        let Some(checks) = self.transactions.count_check(offset) else { return };
        match self.ask_somebody(half, checks) {
            Ok(Asked::Sent) => Counters::add(&self.counters().transaction_checks, 1),
            Ok(Asked::Nobody) => {
                Counters::add(&self.counters().transaction_checks_unasked, 1);
                tracing::debug!(half = %offset, checks, group = half::producer_group(half), "nobody of the group is connected; the check counts");
            }
            Ok(Asked::Busy) => self.transactions.uncount_check(offset, RETRY_PAUSE),
            // Counted like the others: in the end it is given up.
            Err(reason) => tracing::error!(half = %offset, checks, reason, "no question can be made of a half message"),
        }
    }

    /// Asks its sender at first, if it is connected; the next time the next member of the group; in each case the one after it when a connection has ended.
    fn ask_somebody(&self, half: &RecordView<'_>, checks: u32) -> Result<Asked, String> {
        let members = half::producer_group(half).and_then(|group| self.clients().producer_group(group)).unwrap_or_default();
        if members.is_empty() {
            return Ok(Asked::Nobody);
        }
        let check = self.check_of(half, checks)?;
        let sender = members.iter().position(|member| member.address == half.born_host()).unwrap_or(0);
        let turn = sender + (checks as usize).saturating_sub(1);
        let mut asked = Asked::Nobody;
        for at in 0..members.len() {
            let connection: ConnectionId = members[(turn + at) % members.len()].connection;
            match self.push.check_transaction(connection, &check) {
                CheckSent::Sent => return Ok(Asked::Sent),
                CheckSent::Busy => asked = Asked::Busy,
                CheckSent::Gone => {}
            }
        }
        Ok(asked)
    }

    /// How long other give-ups should wait, if this one was refused or came late.
    fn give_up(&self, offset: QueueOffset, view: &RecordView<'_>) -> Option<Duration> {
        // Just being ended: nothing to give up.
        let claim = self.transactions.claim(offset).ok()?;
        let checks = claim.checks();
        if checks < self.transactions.rules.check_max {
            // Meanwhile its producer has decided, and the store refused: it is asked once more.
            return None;
        }
        let batch = match self.ending_batch(view, checks, Ending::GiveUp) {
            Ok(batch) => batch,
            Err(reason) => {
                tracing::error!(half = %offset, reason, "a half message cannot be given up; trying again");
                self.transactions.put_off(offset, self.transactions.rules.check_interval);
                return None;
            }
        };
        let result = self.append(batch);
        let pause = match &result {
            // What is wrong with one is not wrong with the others.
            Ok(_) | Err(AppendError::TooLarge(_)) => None,
            // That does not pass in a moment.
            Err(AppendError::DiskFull(_) | AppendError::Poisoned(_)) => Some(self.transactions.rules.check_interval),
            Err(_) => Some(RETRY_PAUSE),
        };
        if settle(claim, &result).is_ok() {
            Counters::add(&self.counters().transactions_given_up, 1);
            let (group, key, target) = (half::producer_group(view), half::unique_key(view), half::target(view));
            let topic = target.as_ref().map(|(topic, _)| topic.as_str()).ok();
            tracing::warn!(half = %offset, checks, group, key, topic, "a transaction was given up: no producer has ended it; its message lies in {}", super::GIVEN_UP_TOPIC);
        } else if let Err(error) = result {
            let pause = pause.unwrap_or(RETRY_PAUSE);
            self.transactions.put_off(offset, pause);
            tracing::warn!(half = %offset, %error, ?pause, "a transaction that is to be given up was not; it is tried again, as are the others that were due");
        }
        pause
    }
}
