//! What happens to messages: topics, groups, offsets, locks, long polling, retry, dead letters, delay, transactions.
//!
//! Nothing here knows a frame or a socket, and nothing is async: an operation that has to wait takes a callback, which is called exactly once. [`Delivery`] is
//! the whole of it; [`ClientPush`] and [`SpawnWork`] are what it asks of the server.
#![forbid(unsafe_code)]

pub mod clients;
mod counters;
mod delay;
mod delivery;
pub mod durability;
mod filter;
pub mod groups;
mod held;
pub mod locks;
mod meta;
pub mod offsets;
pub mod pull;
pub mod query;
mod rates;
pub mod replica;
pub mod reset;
pub mod retry;
pub mod send;
mod stop;
pub mod topics;
pub mod transaction;

pub use clients::{ClientInfo, Clients, ConnectionId, ConsumeFromWhere, ConsumeType, ConsumerGroupView, ConsumerHeartbeat, MessageModel};
pub use counters::{Counted, Counters};
pub use delivery::{ClientPush, Delivery, DeliveryOptions, OpenError, SpawnWork};
pub use filter::{FilterError, Subscription};
pub use groups::{GroupError, Groups, SubscriptionGroupConfig};
pub use locks::{LockDone, Locks};
pub use meta::DataVersion;
pub use offsets::{CommitDone, CommittedOffset, OffsetDone, OffsetError, Offsets};
pub use pull::{PullError, PullOutcome, PullReply, PullRequest, PullStatus};
pub use query::{GroupLag, LagSnapshot, QueryError};
pub use replica::{MASTER_ID, ReplicaReads};
pub use reset::{OffsetReset, ResetDone, ResetError, ResetTo};
pub use retry::{SendBackDone, SendBackError, SendBackRequest};
pub use send::{SendDone, SendError, SendReceipt, SendRequest};
pub use topics::{TopicChange, TopicConfig, TopicError, Topics};
pub use transaction::{CheckSent, EndDone, EndError, EndTransaction, TransactionCheck, Verdict};
