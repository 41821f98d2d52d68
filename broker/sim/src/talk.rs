//! What simulated clients and brokers say to each other: a length and postcard. It stands for the remoting protocol, whose network side belongs to the server's runtime.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_env::{Connection, sync::Mutex};
use sluice_history::Action;
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
        #[serde(with = "serde_bytes")]
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
        /// What becomes of it.
        action: Action,
    },
    /// A message that a consumer has failed on.
    Back {
        /// Consumer group.
        group: String,
        /// Where the message lies.
        place: u64,
        /// Retries before it is a dead letter.
        retries_max: u32,
    },
    /// A heartbeat of a producer.
    Beat {
        /// Producer group.
        group: String,
        /// Client.
        client: String,
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
        /// Whether the answer is to come when that is stored.
        stored: bool,
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
    #[serde(with = "serde_bytes")]
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
        /// Where the queue begins,
        min: u64,
        /// and ends.
        max: u64,
        /// The broker's clock.
        clock: i64,
    },
    /// An offset, if there is one.
    Offset(Option<u64>),
    /// Done. False: of a lock, not granted; of a transaction's end, it had ended before.
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

/// What is read at once.
const PIECE_BYTES: usize = 16 << 10;

/// What a broker asks a producer: what has become of its transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The half message's queue offset,
    pub offset: u64,
    /// and log offset.
    pub place: i64,
    /// Its transaction.
    pub id: String,
    /// Its body.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// The how many'th question about it this is.
    pub times: u32,
}

/// What a broker says: what it was asked for, or something that nobody has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// An answer.
    Answer(Signed),
    /// A question.
    Question(Question),
}

/// The end of a connection that speaks. Several threads may, one after the other.
pub struct Mouth {
    connection: Arc<dyn Connection>,
    speaks: Mutex<()>,
}

impl Mouth {
    /// Says it.
    pub fn say(&self, what: &impl Serialize, timeout: Duration) -> io::Result<()> {
        let said = postcard::to_allocvec(what).map_err(io::Error::other)?;
        let bytes = [&(said.len() as u32).to_be_bytes(), &said[..]].concat();
        let _one = self.speaks.lock();
        self.connection.write_all(&bytes, timeout)
    }
}

/// One end of a connection.
pub struct Talk {
    connection: Arc<dyn Connection>,
    mouth: Arc<Mouth>,
    buffer: Vec<u8>,
    piece: Vec<u8>,
}

impl Talk {
    /// Over that connection.
    #[must_use]
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        let mouth = Arc::new(Mouth { connection: connection.clone(), speaks: Mutex::new(()) });
        Self { connection, mouth, buffer: Vec::new(), piece: vec![0; PIECE_BYTES] }
    }

    /// By which others may speak too.
    #[must_use]
    pub fn mouth(&self) -> Arc<Mouth> {
        self.mouth.clone()
    }

    /// Says it.
    pub fn say(&self, what: &impl Serialize, timeout: Duration) -> io::Result<()> {
        self.mouth.say(what, timeout)
    }

    /// Hears the next.
    pub fn hear<T: DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<T> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if let Some(said) = rest.get(..length) {
                    let heard = postcard::from_bytes(said).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    self.buffer.drain(..4 + length);
                    return Ok(heard);
                }
            }
            match self.connection.read(&mut self.piece, timeout)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.buffer.extend_from_slice(&self.piece[..read]),
            }
        }
    }

    /// Ends it.
    pub fn close(&self) {
        self.connection.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_body_comes_as_it_was_sent() {
        let body: Vec<u8> = (0..=255).collect();
        let said = Came { offset: 1, place: 2, body, properties: String::new(), attempt: 0 };
        let bytes = postcard::to_allocvec(&said).unwrap();
        assert_eq!(postcard::from_bytes::<Came>(&bytes).unwrap(), said);
    }
}
