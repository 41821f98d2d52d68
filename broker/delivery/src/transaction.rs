//! Transactions: a half message is stored where no consumer looks, and its producer decides afterwards whether it becomes visible.
//!
//! | file | what it does |
//! | --- | --- |
//! | `transaction/half.rs` | makes the records: half message, committed message, op record, given up, and the one that a producer is asked about |
//! | `transaction/open.rs` | the half messages whose transaction has not ended, in memory, with a bound |
//! | `transaction/notes.rs` | the same in the log as metadata, and how it is found again at a start |
//! | `transaction/checks.rs` | the service that asks producers, and gives up |
//!
//! **Records** are RocketMQ's. The half message lies in [`HALF_TOPIC`], queue 0, with its real topic and queue as properties. An end of a transaction is a record in
//! [`OP_TOPIC`], queue 0, tag `d`, whose body is the half message's queue offset and a comma. A commit is one batch, so one write with nothing in between: first the
//! message in its real queue, which carries the commit flag and the half message's log offset, then the op record. A rollback is the op record alone. A half message
//! is never written again, as RocketMQ does at each check: its place stays the one that its producer knows.
//!
//! **Once.** Which half messages are open is known in memory at any time. To end a transaction is to claim it there; a second end, whoever sends it, finds it
//! claimed or gone and writes nothing. After a crash only the log's last batch can be incomplete. If that was a commit without its op record, the message is the
//! very last record, and names the half message: recovery tells which record that is, and its op record is written before anything else.
//!
//! With asynchronous flush a power cut may take a half message that its producer knows, and another one gets its place. So an end is refused when it says another
//! transaction's id than the half message has; RocketMQ's clients give back the one that the answer to the send, or the check, had.
//!
//! **After a restart** the open ones are those noted in the log as metadata, and those in the half queue behind the note, without those that op records behind
//! the note have ended. Notes are written every `NOTE_EVERY` (5 s), so that a start reads what came in these seconds and not the history.
//!
//! **Checks.** A half message is checked `timeout` after it was stored (or after its own `CHECK_IMMUNITY_TIME_IN_SECONDS`, if that is longer), then every
//! `check_interval`, by this broker's clock. A check asks one producer of the group: the one that sent it if it is still connected, the next time the next one. A
//! check that finds nobody counts too, as in RocketMQ; so each transaction ends, after `check_max` checks by being moved to [`GIVEN_UP_TOPIC`] in one batch with its op
//! record. A check whose answer the store refused does not count: its producer has decided, and a full disk must not make its transaction be given up.
//!
//! **Bounds.** At most `open_max` transactions are open, some 150 bytes of memory each; a further half message is refused with SYSTEM_BUSY. Since each ends in bounded
//! time, the oldest open one may hold retention back: the log is kept from its record on. Only on a full disk retention goes on; what is lost then is logged and counted.

mod checks;
mod half;
mod notes;
mod open;

pub(crate) use checks::CheckService;
pub(crate) use half::{HalfSend, TRANSACTION};
pub(crate) use open::{TransactionRules, Transactions};

use crate::{Counters, Delivery};
use bytes::Bytes;
use half::Ending;
use open::{Claim, Refused};
use sluice_protocol::record::{RecordError, RecordView};
use sluice_store::{AppendError, Batch, Placed, ReadError, Wait};
use sluice_types::{CommitLogOffset, QueueOffset, Topic};
use std::time::Duration;
use thiserror::Error;

/// Where half messages wait.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Where it is noted which of them have ended.
pub const OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Where half messages lie that were checked in vain.
pub const GIVEN_UP_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// What a producer says about its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make the message visible.
    Commit,
    /// Forget it.
    Rollback,
    /// Not known yet: ask again.
    Unknown,
}

/// A producer's word on its half message (37).
#[derive(Clone, Copy, Debug)]
pub struct EndTransaction<'a> {
    /// The producer's group; it must be the one that sent the half message.
    pub group: &'a str,
    /// The half message's queue offset, from the answer to its send.
    pub queue_offset: i64,
    /// The half message's log offset, from its offset message id.
    pub log_offset: i64,
    /// The transaction's id, from the answer to the send or from the check; empty when the client does not say it.
    pub transaction_id: &'a str,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// Why a transaction was not ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndError {
    /// There is no half message at that log offset (1).
    #[error("there is no half message at commit log offset {0}; was it sent to this broker?")]
    NotHalf(i64),
    /// It cannot be read now (1).
    #[error("the half message cannot be read: {0}")]
    Read(#[from] ReadError),
    /// It belongs to another group (1).
    #[error("the half message at commit log offset {log_offset} was sent by group {owner}, not by {group}")]
    Group {
        /// Its log offset.
        log_offset: i64,
        /// Who sent it.
        owner: String,
        /// Who wants to end it.
        group: String,
    },
    /// The queue offset is not the half message's (1).
    #[error("the half message at commit log offset {log_offset} has queue offset {found}, not {given}")]
    QueueOffset {
        /// Its log offset.
        log_offset: i64,
        /// Its queue offset.
        found: u64,
        /// The queue offset given.
        given: i64,
    },
    /// The transaction there has another id (1): a power cut may have taken the half message that is meant, and another one lies in its place.
    #[error(
        "the half message at commit log offset {log_offset} begins the transaction {found}, not {given}; has a power cut taken the half message? then send it again"
    )]
    Id {
        /// Its log offset.
        log_offset: i64,
        /// The id of the transaction that it begins.
        found: String,
        /// The id given.
        given: String,
    },
    /// The transaction has been committed, rolled back or given up before (1). Nothing was written.
    #[error("the transaction of half message {0} has ended before; nothing was changed")]
    Ended(QueueOffset),
    /// Another request is just ending it (1). Nothing was written.
    #[error("the transaction of half message {0} is just being ended by another request; nothing was changed by this one")]
    UnderWay(QueueOffset),
    /// The committed message cannot be written (13).
    #[error("the message cannot be committed: {0}")]
    Illegal(String),
    /// The store refused (1, 2, 14): the transaction stays open, the producer will be asked once more than else. After a flush that came too late (10) it has ended.
    #[error(transparent)]
    Store(#[from] AppendError),
}

/// Called once with what became of the end of a transaction.
pub type EndDone = Box<dyn FnOnce(Result<(), EndError>) + Send>;

/// What a producer is asked (39).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionCheck {
    /// The real topic.
    pub topic: Topic,
    /// The half message's queue offset.
    pub queue_offset: QueueOffset,
    /// The half message's log offset.
    pub log_offset: CommitLogOffset,
    /// The identity that the client gave the message.
    pub unique_key: Option<String>,
    /// The half message's offset message id.
    pub message_id: String,
    /// The message as a record, under its real topic.
    pub record: Bytes,
}

/// What became of a question to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckSent {
    /// On its way.
    Sent,
    /// The connection has ended.
    Gone,
    /// The client has not read what it was sent before; ask again after a moment.
    Busy,
}

impl Delivery {
    /// Ends a transaction by its producer's word. `done` comes when the end is as durable as an acknowledged send; for [`Verdict::Unknown`] at once, and
    /// nothing is changed.
    pub fn end_transaction(&self, request: EndTransaction<'_>, done: EndDone) {
        let commit = match request.verdict {
            Verdict::Commit => true,
            Verdict::Rollback => false,
            Verdict::Unknown => return done(Ok(())),
        };
        let (batch, claim) = match self.prepare_end(&request, commit) {
            Ok(prepared) => prepared,
            Err(error) => {
                Counters::add(&self.counters().transaction_ends_refused, 1);
                tracing::debug!(group = request.group, queue_offset = request.queue_offset, %error, "a transaction was not ended");
                return done(Err(error));
            }
        };
        let counters = self.counters.clone();
        let stored = move |result: Result<Vec<Placed>, AppendError>| {
            match settle(claim, &result) {
                Ok(()) => Counters::add(if commit { &counters.transactions_committed } else { &counters.transactions_rolled_back }, 1),
                // Its producer decided. What could never be written counts all the same, so that it ends.
                Err(claim) if !matches!(result, Err(AppendError::TooLarge(_))) => claim.back_with_its_check(),
                Err(claim) => drop(claim),
            }
            done(result.map(drop).map_err(EndError::Store));
        };
        self.store().submit(batch, Wait::Durable, Box::new(stored));
    }

    /// Checks that the half message is what the producer takes it for, claims it and makes what is to be written.
    fn prepare_end(&self, request: &EndTransaction<'_>, commit: bool) -> Result<(Batch, Claim), EndError> {
        let log_offset = request.log_offset;
        let not_half = || EndError::NotHalf(log_offset);
        let place = CommitLogOffset::from_wire(log_offset).ok_or_else(not_half)?;
        let record = self.store().record_at(place).map_err(|error| match error {
            ReadError::NotFound(_) => not_half(),
            error => EndError::Read(error),
        })?;
        let view = RecordView::parse(&record).map_err(|_| ReadError::Corrupt(place))?;
        let offset = meant(&view, request)?;
        let claim = self.transactions.claim(offset).map_err(|refused| match refused {
            Refused::Ended => EndError::Ended(offset),
            Refused::UnderWay => EndError::UnderWay(offset),
        })?;
        let ending = if commit { Ending::Commit } else { Ending::Rollback };
        let batch = self.ending_batch(&view, claim.checks(), ending).map_err(EndError::Illegal)?;
        Ok((batch, claim))
    }

    /// Transactions that have not ended.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    /// How long ago the oldest half message was stored whose transaction has not ended.
    #[must_use]
    pub fn oldest_transaction_age(&self) -> Option<Duration> {
        let stored = self.transactions.oldest_stored_ms()?;
        Some(Duration::from_millis(u64::try_from(self.env.clock.wall().0.saturating_sub(stored)).unwrap_or(0)))
    }
}

/// The queue offset of a record that is the half message which the producer means.
fn meant(view: &RecordView<'_>, request: &EndTransaction<'_>) -> Result<QueueOffset, EndError> {
    let log_offset = request.log_offset;
    if view.topic() != HALF_TOPIC {
        return Err(EndError::NotHalf(log_offset));
    }
    let owner = half::producer_group(view).unwrap_or_default();
    if owner != request.group {
        return Err(EndError::Group { log_offset, owner: owner.to_owned(), group: request.group.to_owned() });
    }
    let offset = QueueOffset(view.queue_offset());
    if QueueOffset::from_wire(request.queue_offset) != Some(offset) {
        return Err(EndError::QueueOffset { log_offset, found: offset.0, given: request.queue_offset });
    }
    let (found, given) = (half::unique_key(view).unwrap_or_default(), request.transaction_id);
    if found != given && !found.is_empty() && !given.is_empty() {
        return Err(EndError::Id { log_offset, found: found.to_owned(), given: given.to_owned() });
    }
    Ok(offset)
}

/// Takes a claim to its end when the batch lies in the log, whose last record is the op record; else gives it back.
fn settle(claim: Claim, result: &Result<Vec<Placed>, AppendError>) -> Result<(), Claim> {
    match result {
        Ok(placed) | Err(AppendError::Late(_, placed)) => {
            if let Some(op) = placed.last() {
                claim.ended(op.queue_offset);
            }
            Ok(())
        }
        Err(_) => Err(claim),
    }
}

impl From<RecordError> for EndError {
    fn from(error: RecordError) -> Self {
        Self::Illegal(error.to_string())
    }
}
