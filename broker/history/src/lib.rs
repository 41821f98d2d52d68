//! Judges the history of a run: what clients were told and what nodes did, line by line, against what the broker promises (checks C1 to C14, see
//! docs/history-checks.md). It reads and writes histories through what its caller gives it and knows no broker, clock, file or thread, so it serves the
//! simulation and real processes alike. It trusts the harness that wrote the history and nothing that a broker said.
//!
//! One pass, O(n log n). For all time it remembers a few bytes of each value and of each queue offset, and all transactions, failing messages and second copies;
//! everything else belongs to what is still open.
#![forbid(unsafe_code)]

mod checker;
mod checks;
mod event;
mod io;
mod report;
mod rising;
mod spans;
mod unseen;
mod values;
mod world;

pub use checker::Checker;
pub use event::{
    Ack, Action, By, Change, Config, Consumed, Deliver, Digest, Drained, End, Event, Fetched, Kind, Lease, Lock, LockResult, Mode, Node, NodeEvent, Outcome,
    Place, Queue, Recall, Revoked, SendKind, Sent, Started, Value, Verdict, What,
};
pub use io::{HistoryError, Lines, check, merge, write};
pub use report::{Check, Counts, KEPT_MAX, Report, Violation};
