//! What callers of the store see.

use bytes::Bytes;
use sluice_types::{CommitLogOffset, QueueOffset};
use std::{fmt, sync::Arc, time::Duration};

/// When a record counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// On stable storage before the ack; consumers see flushed records only.
    Sync,
    /// In the page cache before the ack; on stable storage at most `interval` later.
    Async {
        /// Longest time a record stays unflushed.
        interval: Duration,
    },
}

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The log's own rule: flushed under [`FlushMode::Sync`], appended under [`FlushMode::Async`], but flushed for a queue that is shown flushed only; and confirmed, in a
    /// replicated log.
    Durable,
    /// Appended only: for the broker's own notes, whose loss takes nothing that anybody was told.
    Appended,
    /// A rule of its own.
    By(Rule),
}

/// What an append waits for besides lying in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For the flush, whatever the log's mode.
    pub flushed: bool,
    /// For the confirmation, in a replicated log. Without it the append is acknowledged only as long as [`Store::lead_until`](crate::Store::lead_until) says, and while no
    /// more than [`unconfirmed_bytes_max`](crate::StoreOptions::unconfirmed_bytes_max) lie between it and what is confirmed, and nothing has been unconfirmed for longer
    /// than [`unconfirmed_age_max`](crate::StoreOptions::unconfirmed_age_max); else it waits for the confirmation like every other. What is shown waits for it in any case.
    pub confirmed: bool,
}

impl Rule {
    pub(crate) const ALL: [Self; 4] = [
        Self { flushed: false, confirmed: false },
        Self { flushed: true, confirmed: false },
        Self { flushed: false, confirmed: true },
        Self { flushed: true, confirmed: true },
    ];

    /// Its place in [`Self::ALL`].
    pub(crate) fn number(self) -> usize {
        usize::from(self.flushed) + 2 * usize::from(self.confirmed)
    }
}

/// Where one record came to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Byte position in the commit log.
    pub log_offset: CommitLogOffset,
    /// Entry number in its queue.
    pub queue_offset: QueueOffset,
    /// Milliseconds since 1970 when the writer took it.
    pub store_timestamp: i64,
    /// Bytes of the record.
    pub bytes: u32,
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The bounded queue before the writer is full. Nothing was written; send again, here or elsewhere.
    #[error("the write queue is full ({0} bytes wait); send again later or to another broker")]
    QueueFull(usize),
    /// Too little disk space is left. Nothing was written.
    #[error("the disk is full: {0}; free space or lower the retention, writing resumes by itself")]
    DiskFull(String),
    /// A write or sync has failed before: nothing is acknowledged until restart and recovery.
    #[error("the commit log stopped after a failed write or sync: {0}; restart the broker to recover")]
    Poisoned(String),
    /// Appended, but not safe within the deadline.
    #[error("appended at {place:?}, but not {late} within the deadline", late = .0, place = .1.first().map(|p| p.log_offset))]
    Late(Late, Vec<Placed>),
    /// A record larger than a segment can hold.
    #[error("a record of {0} bytes does not fit into a segment")]
    TooLarge(usize),
    /// The store is closing. Nothing was written.
    #[error("the broker is stopping")]
    Stopped,
    /// Appended, but the store ended before that counted: what follows in the log, here or on another broker, decides whether the records stay.
    #[error("appended at {place:?}, but this broker was stopped, or ceased to be master, before that counted; it may be stored or not: look, or send it again", place = .0.first().map(|p| p.log_offset))]
    Ended(Vec<Placed>),
}

/// What has not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The flush: the records may or may not survive a power cut.
    Flush,
    /// The confirmation by the other brokers: the records may or may not survive the loss of this one.
    Confirmation,
    /// Enough brokers: those that had to hold the records do, but they are fewer than they should be.
    Replicas,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flush => "flushed",
            Self::Confirmation => "confirmed by the replicas",
            Self::Replicas => "held by as many replicas as there should be",
        })
    }
}

/// Called exactly once with what became of a batch, on the writer's thread or the submitter's own: be quick, never block.
pub type Done = Box<dyn FnOnce(Result<Vec<Placed>, AppendError>) + Send>;

/// First and end offset of a queue, as consumers may see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueBounds {
    /// First entry still there.
    pub min: QueueOffset,
    /// One past the last visible entry.
    pub max: QueueOffset,
}

/// How much one read may return.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Most messages.
    pub messages: u32,
    /// Most bytes; the first message is returned even if it is larger.
    pub bytes: usize,
    /// Most queue entries looked at when a filter refuses many.
    pub scanned: u32,
}

/// What a read of a queue found.
#[derive(Clone, Debug)]
pub struct ReadOutcome {
    /// Records as stored, in order; neighbours in the log are one slice. Slices of the memory map, not copies.
    pub slices: Vec<Bytes>,
    /// How many records there are.
    pub messages: u32,
    /// How many bytes.
    pub bytes: usize,
    /// Where to go on reading: past everything returned or refused by the filter.
    pub next: QueueOffset,
    /// Bounds at the time of the read.
    pub bounds: QueueBounds,
    /// The store timestamp of the last record returned.
    pub last_store_timestamp: i64,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes there are not the record that should be there.
    #[error("the record at commit log offset {0} is damaged; it is not served")]
    Corrupt(CommitLogOffset),
    /// No record begins there, or it has been removed by retention.
    #[error("no record at commit log offset {0}")]
    NotFound(CommitLogOffset),
    /// The disk failed.
    #[error("reading the commit log at {0} failed: {1}")]
    Disk(CommitLogOffset, String),
}

/// Which entry a search by time wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeBoundary {
    /// The first entry stored at or after the time.
    Lower,
    /// The last entry stored at or before the time.
    Upper,
}

/// One table of the metadata that travels in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MetaTable {
    /// Topics by name.
    Topics = 1,
    /// Groups by name.
    Groups = 2,
    /// Committed offsets: key `group\u{1}topic\u{1}queue`, value u64 big-endian.
    Offsets = 3,
    /// Delay progress by level.
    Delay = 4,
    /// The store's own notes.
    Store = 5,
    /// Key-value configuration of the name server.
    KvConfig = 6,
    /// Which half messages wait for the end of their transaction, and how far that has been noted.
    Transactions = 7,
    /// Who owns a queue: key `group\u{1}topic\u{1}queue`, value the client's id.
    Locks = 8,
}

impl MetaTable {
    /// The table with that number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Topics, Self::Groups, Self::Offsets, Self::Delay, Self::Store, Self::KvConfig, Self::Transactions, Self::Locks];
        all.into_iter().find(|t| *t as u8 == byte)
    }
}

/// One change of metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaChange {
    /// The table.
    pub table: MetaTable,
    /// The key.
    pub key: String,
    /// The new value; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// Runs something, and does what has to be done around it.
pub type Gather = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// Called by the store; see each field.
#[derive(Clone)]
pub struct Hooks {
    /// A queue has new visible records. On the writer's thread: be quick.
    pub arrived: Arc<dyn Fn(&crate::queue_index::QueueRef) + Send + Sync>,
    /// Runs what answers many at once, on whatever thread: the moment to gather what they are answered, and to write it to their sockets when that has run.
    pub gather: Gather,
    /// All callbacks of one turn of the writer have run: the moment to write the replies they made to their sockets.
    pub turn_end: Arc<dyn Fn() + Send + Sync>,
}
