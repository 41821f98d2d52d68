//! What delivery counts for telemetry.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Its name; what begins with `bytes_` counts bytes, all else counts events.
    pub name: &'static str,
    /// What it counts, in words.
    pub meaning: &'static str,
    /// How many since the start.
    pub value: u64,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// Counters since start. Read them with [`Counters::read`].
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)*
        }

        impl Counters {
            /// All of them.
            #[must_use]
            pub fn read(&self) -> Vec<Counted> {
                vec![$(Counted {
                    name: stringify!($name),
                    meaning: concat!($($doc),+).trim_start(),
                    value: self.$name.load(Ordering::Relaxed),
                },)*]
            }
        }
    };
}

counters! {
    /// Messages acknowledged to producers.
    messages_in,
    /// Bytes of their records.
    bytes_in,
    /// Sends refused or failed.
    sends_failed,
    /// Messages given to consumers.
    messages_out,
    /// Bytes of their records.
    bytes_out,
    /// Pulls that were held back.
    pulls_held,
    /// Held pulls woken by an arrival.
    pulls_woken,
    /// Held pulls that ended without a message.
    pulls_timed_out,
    /// Pulls refused because too many were held.
    pulls_refused,
    /// Pulls sent to another offset: theirs lay outside the queue, or the group was reset.
    offsets_moved,
    /// Commits that lowered an offset.
    offsets_lowered,
    /// Writes of committed offsets into the log that failed.
    offset_flushes_failed,
    /// Messages sent back by consumers.
    sent_back,
    /// Messages moved to a dead-letter topic.
    dead_letters,
    /// Delayed messages taken in.
    delayed_in,
    /// Delayed messages given to their real topic.
    delayed_out,
    /// Delayed messages that could not be read or placed and were passed over.
    delayed_lost,
    /// Turns of the delay service that failed and were tried again.
    delay_retries,
    /// Half messages stored.
    transactions_begun,
    /// Half messages refused because too many transactions were open.
    transactions_refused,
    /// Transactions committed.
    transactions_committed,
    /// Transactions rolled back.
    transactions_rolled_back,
    /// Transactions given up after the last check.
    transactions_given_up,
    /// Records of transactions that could not be read any more: removed on a full disk, or damaged.
    transactions_lost,
    /// Ends of transactions that were refused: ended before, unknown, of another group.
    transaction_ends_refused,
    /// Questions to producers.
    transaction_checks,
    /// Checks that found no producer of the group to ask.
    transaction_checks_unasked,
    /// Clients dropped for silence.
    clients_expired,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
