//! What simulated clients and brokers say to each other: a length and JSON. It stands for the remoting protocol, whose network side belongs to the server's runtime.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_env::Connection;
use std::{io, sync::Arc, time::Duration};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A message.
    Send {
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// Producer group.
        group: String,
        /// Properties, as on the wire.
        properties: String,
        /// Body.
        body: Vec<u8>,
    },
    /// Where a queue ends.
    End {
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
    },
    /// The end of a transaction.
    Finish {
        /// Producer group.
        group: String,
        /// The half message's queue offset,
        offset: u64,
        /// and log offset.
        place: i64,
        /// Its transaction.
        id: String,
        /// Whether it is committed.
        commit: bool,
    },
    /// Messages of a queue.
    Pull {
        /// Consumer group.
        group: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// From there on.
        offset: u64,
        /// Longest wait, in milliseconds.
        hold_ms: u64,
    },
    /// Messages of a queue from that very broker, whatever its role.
    Read {
        /// Consumer group.
        group: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// From there on.
        offset: u64,
    },
    /// Where a group goes on.
    Fetch {
        /// Consumer group.
        group: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
    },
    /// Where a group is to go on.
    Commit {
        /// Consumer group.
        group: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// From there on.
        offset: u64,
    },
    /// A queue's order lock.
    Lock {
        /// Consumer group.
        group: String,
        /// Client.
        client: String,
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// Whether it is taken, or given back.
        take: bool,
    },
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// Its queue offset.
    pub offset: u64,
    /// Where it lies.
    pub place: u64,
    /// Its body.
    pub body: Vec<u8>,
    /// Its properties.
    pub properties: String,
    /// How often it has failed.
    pub attempt: u32,
}

/// What a broker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Stored: queue offset of the first, log offset, transaction.
    Sent {
        /// Its queue offset.
        offset: u64,
        /// Its log offset.
        place: i64,
        /// Its transaction.
        id: Option<String>,
    },
    /// Messages, where to go on, and the broker's clock in milliseconds.
    Messages {
        /// What came.
        came: Vec<Came>,
        /// Where to go on.
        next: u64,
        /// The queue's end.
        max: u64,
        /// The broker's clock.
        clock: i64,
    },
    /// An offset, if there is one.
    Offset(Option<u64>),
    /// Done; or, of a lock, granted.
    Done(bool),
    /// Not done.
    Refused {
        /// Whether it may have been done all the same.
        is_unknown: bool,
        /// Why.
        why: String,
    },
}

/// An answer with who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Number of the broker.
    pub node: u32,
    /// The epoch that it is master of.
    pub epoch: u64,
    /// The answer.
    pub answer: Answer,
}

/// One end of a connection.
pub struct Talk {
    connection: Arc<dyn Connection>,
    buffer: Vec<u8>,
}

impl Talk {
    /// Over that connection.
    #[must_use]
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        Self { connection, buffer: Vec::new() }
    }

    /// Says it.
    pub fn say(&mut self, what: &impl Serialize, timeout: Duration) -> io::Result<()> {
        let json = serde_json::to_vec(what)?;
        let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&json);
        self.connection.write_all(&bytes, timeout)
    }

    /// Hears the next.
    pub fn hear<T: DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<T> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if let Some(json) = rest.get(..length) {
                    let heard = serde_json::from_slice(json)?;
                    self.buffer.drain(..4 + length);
                    return Ok(heard);
                }
            }
            let mut piece = [0; 16 << 10];
            match self.connection.read(&mut piece, timeout)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.buffer.extend_from_slice(&piece[..read]),
            }
        }
    }

    /// Ends it.
    pub fn close(&self) {
        self.connection.close();
    }
}
