//! One line of a history: what a client asked and was told, what a node did, or what the run itself did. All lines of a run share one monotonic clock;
//! what a broker's own clock said stands apart, in fields called `clock`, `due` and [`Lease`].

use serde::{Deserialize, Serialize};
use sluice_types::{CommitLogOffset, Group, QueueId, QueueOffset, Topic};
use std::fmt;

/// One operation or happening. Lines are in the order of `done`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was asked for, in nanoseconds of the run's clock.
    pub invoke: u64,
    /// When the answer was there or was given up; the same as `invoke` for what takes no time.
    pub done: u64,
    /// The client's number. One process does one thing at a time; a restarted client may keep its number.
    #[serde(default)]
    pub process: u32,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// What it was.
    pub what: What,
}

/// A broker process: the shard (the brokers that replicate one commit log) and its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Node {
    /// Number of the shard.
    pub shard: u32,
    /// Number within the shard.
    pub id: u32,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.id)
    }
}

/// The node that answered and the epoch it believed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The node.
    pub node: Node,
    /// Its epoch.
    pub epoch: u64,
}

/// A queue of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Queue {
    /// The shard it belongs to.
    pub shard: u32,
    /// Its topic; a retry or dead-letter topic too.
    pub topic: Topic,
    /// Its number there.
    pub id: QueueId,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.topic, self.shard, self.id)
    }
}

/// A message's name, which its body carries, and the checksums of what was sent or came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The client that made it.
    pub process: u32,
    /// Its number there. A message that is sent again keeps it.
    pub number: u32,
    /// CRC of the body.
    pub body: u32,
    /// CRC of the properties that the sender set.
    #[serde(default)]
    pub properties: u32,
}

/// How an operation ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was refused, and nothing came of it.
    Failed,
    /// It may have been done, or may still be done later.
    Unknown,
}

/// What kind of message was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendKind {
    /// To be visible at once. With a key it is an ordered message.
    #[default]
    Normal,
    /// To be visible at a time of the broker's clock, in nanoseconds.
    Delayed {
        /// The time.
        due: u64,
    },
    /// A half message: to be visible when its transaction is committed.
    Half,
}

/// A message was sent. The offset of a delayed or half message is one of an inner topic and is not judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Where to.
    pub queue: Queue,
    /// What.
    pub value: Value,
    /// How.
    #[serde(default)]
    pub kind: SendKind,
    /// The sharding key of an ordered message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The id the client was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The queue offset the client was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<QueueOffset>,
    /// Requests that the client made for it by itself; all but the last ended as unknown.
    #[serde(default = "one")]
    pub attempts: u32,
    /// How it ended.
    pub outcome: Outcome,
}

fn one() -> u32 {
    1
}

/// What a producer says about its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Make it visible.
    Commit,
    /// Drop it.
    Rollback,
    /// Ask me later.
    Unknown,
}

/// A transaction was ended, or a question about it answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The half message.
    pub value: Value,
    /// What was said.
    pub action: Action,
    /// Whether the broker had asked (check-back).
    #[serde(default)]
    pub asked: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// A delayed message was recalled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Which.
    pub value: Value,
    /// How it ended.
    pub outcome: Outcome,
}

/// By which way a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Pulled by the queue's owner.
    Pull,
    /// Pulled by the holder of the queue's lock.
    Orderly,
    /// By POP.
    Pop,
}

/// How long a POP delivery holds its message, by the broker's clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When it began.
    pub from: u64,
    /// When it ends unless it is acknowledged or changed.
    pub until: u64,
}

/// A message came to a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// For which group.
    pub group: Group,
    /// From where.
    pub queue: Queue,
    /// Its queue offset there.
    pub offset: QueueOffset,
    /// Where its record lies.
    #[serde(default)]
    pub record: CommitLogOffset,
    /// What came.
    pub value: Value,
    /// By which way.
    pub kind: Kind,
    /// The sharding key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How often it had failed before (reconsume times).
    #[serde(default)]
    pub attempt: u32,
    /// The lease of a POP delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The broker's clock when it handed the message out.
    #[serde(default)]
    pub clock: u64,
}

/// What a consumer made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is consumed.
    Success,
    /// It is to come again: sent back to the broker, or, in orderly consumption, tried again in place.
    Later,
}

/// A consumer was through with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumed {
    /// For which group.
    pub group: Group,
    /// From where it had come.
    pub queue: Queue,
    /// Its offset there.
    pub offset: QueueOffset,
    /// Which.
    pub value: Value,
    /// Its attempt.
    #[serde(default)]
    pub attempt: u32,
    /// Whether it was consumed orderly, so that `Later` is not sent to the broker.
    #[serde(default)]
    pub orderly: bool,
    /// What was made of it.
    pub verdict: Verdict,
    /// When it may come again at the soonest, in nanoseconds of the broker's clock, if it was sent back with a delay and the brokers' clocks can be relied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
    /// How telling the broker ended; `Ok` when nobody is told.
    pub outcome: Outcome,
}

/// A place in a group's queue was written: committed or reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The group.
    pub group: Group,
    /// The queue.
    pub queue: Queue,
    /// The offset of the next message to consume.
    pub offset: QueueOffset,
    /// How it ended.
    pub outcome: Outcome,
}

/// A consumer asked where to begin: it was assigned the queue (after a rebalance or a start), or just wanted to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The group.
    pub group: Group,
    /// The queue.
    pub queue: Queue,
    /// The committed offset as it was told.
    pub offset: QueueOffset,
}

/// A group's consumer no longer reads a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The group.
    pub group: Group,
    /// The queue.
    pub queue: Queue,
}

/// What became of a request to lock or unlock a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockResult {
    /// It is the consumer's until then by the run's clock, unless it gives it back.
    Granted {
        /// The time.
        until: u64,
    },
    /// Another one holds it.
    Refused,
    /// Given back.
    Released,
}

/// A queue's order lock was asked for or given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The group.
    pub group: Group,
    /// The queue.
    pub queue: Queue,
    /// What came of it.
    pub result: LockResult,
}

/// A POP delivery was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The group.
    pub group: Group,
    /// From where it had come.
    pub queue: Queue,
    /// Its offset there.
    pub offset: QueueOffset,
    /// The broker's clock when it did so.
    #[serde(default)]
    pub clock: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A POP delivery's invisible time was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The group.
    pub group: Group,
    /// From where it had come.
    pub queue: Queue,
    /// Its offset there.
    pub offset: QueueOffset,
    /// The lease it has now, by the broker's clock.
    pub lease: Lease,
    /// How it ended.
    pub outcome: Outcome,
}

/// A group began to consume a topic: what is sent from now on must reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The group.
    pub group: Group,
    /// The topic.
    pub topic: Topic,
}

/// A group's final drain of a topic is complete: what it has not got now it never gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The group.
    pub group: Group,
    /// The topic.
    pub topic: Topic,
}

/// What a node did or suffered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeEvent {
    /// It became master.
    Master {
        /// Of this epoch.
        epoch: u64,
        /// Which begins here.
        start: CommitLogOffset,
    },
    /// It is master no longer.
    Ceased {
        /// Of this epoch.
        epoch: u64,
    },
    /// It cut its log.
    Cut {
        /// The log's end now.
        to: CommitLogOffset,
    },
    /// Its confirmed mark moved.
    Confirmed {
        /// To here.
        to: CommitLogOffset,
    },
    /// It acknowledged a write, as it knows itself.
    Acked {
        /// Under this epoch.
        epoch: u64,
    },
    /// Its process died.
    Crash,
    /// Its machine lost power.
    PowerCut,
    /// It came back.
    Restart,
    /// Its store was lost whole.
    Wiped,
}

/// What a node's log and index are at the end of a run. A run may tell of several ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Whose.
    pub node: Node,
    /// First byte of the range.
    pub from: CommitLogOffset,
    /// Its end: the confirmed mark in the last range.
    pub to: CommitLogOffset,
    /// Hash of the log's bytes there.
    pub log: u64,
    /// Hash of the index that is stored.
    pub index_stored: u64,
    /// Hash of the index rebuilt from the log.
    pub index_rebuilt: u64,
}

/// When an acknowledged write is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Before it is acknowledged.
    #[default]
    Sync,
    /// Some time after.
    Async,
}

/// What the run was configured to promise. Times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Flush.
    pub flush: Mode,
    /// Replication.
    pub replication: Mode,
    /// In an asynchronous mode: what was acknowledged this long before a fault may be lost by it,
    pub loss_window: u64,
    /// and so many messages and offsets at most by each.
    pub loss_count_max: u64,
    /// A write succeeds this long after the faults have ended.
    pub write_within: u64,
    /// A backlog is consumed at this rate, in messages a second; 0 promises nothing.
    pub drain_rate_min: u64,
    /// How long a dead consumer may hold back its backlog before: until its order lock has run out, say.
    pub held_back_max: u64,
    /// A delayed message is not later than this while all is well.
    pub delay_late_max: u64,
    /// How far two clocks may be apart.
    pub skew_max: u64,
    /// How often a message is tried again before it is a dead letter.
    pub retries_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            flush: Mode::Sync,
            replication: Mode::Sync,
            loss_window: 0,
            loss_count_max: 0,
            write_within: 10 * SECOND,
            drain_rate_min: 1,
            held_back_max: 0,
            delay_late_max: 2 * SECOND,
            skew_max: SECOND / 10,
            retries_max: 16,
        }
    }
}

/// What happened. A new kind is a variant here, its names in `world::names_of`, and an arm in the checks that care.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A message was sent.
    Send(Sent),
    /// A transaction was ended.
    End(End),
    /// A delayed message was recalled.
    Recall(Recall),
    /// A message came.
    Deliver(Deliver),
    /// A consumer was through with a message.
    Consumed(Consumed),
    /// An offset was committed.
    Commit(Place),
    /// An offset was reset.
    Reset(Place),
    /// A consumer was assigned a queue and asked where to begin.
    Assigned(Fetched),
    /// Somebody asked for the committed offset.
    Fetched(Fetched),
    /// A consumer gave up a queue.
    Revoked(Revoked),
    /// An order lock.
    Lock(Lock),
    /// A POP delivery was acknowledged.
    Ack(Ack),
    /// A POP delivery's invisible time was changed.
    Change(Change),
    /// The client process ended.
    Stopped,
    /// A group began to consume a topic.
    Started(Started),
    /// A group's final drain of a topic is complete.
    Drained(Drained),
    /// A node's own event.
    Node {
        /// Whose.
        node: Node,
        /// What.
        event: NodeEvent,
    },
    /// Something was broken on purpose.
    FaultBegin {
        /// What.
        name: String,
    },
    /// It was repaired.
    FaultEnd {
        /// What.
        name: String,
    },
    /// Everything was repaired.
    Heal,
    /// What the run was configured to promise.
    Configure(Config),
    /// A node's digest.
    Digest(Digest),
}
