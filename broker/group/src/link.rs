//! A connection between a master and a replica: messages instead of bytes.

use bytes::BytesMut;
use sluice_env::Connection;
use sluice_replication::wire::{Message, WireError};
use std::{io, sync::Arc, time::Duration};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// A log range up to this size is copied behind its head: one packet is cheaper than two.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing has come within the time; the connection is as before.
    #[error("nothing was heard from {0} within {1:?}")]
    Silent(String, Duration),
    /// It broke.
    #[error("the connection with {0} broke: {1}")]
    Broken(String, io::Error),
    /// The peer has ended it.
    #[error("{0} has closed the connection")]
    Closed(String),
    /// What came is no message.
    #[error("what {0} sent can't be used: {1}")]
    Wire(String, WireError),
}

/// Both directions of a connection.
pub struct Link {
    /// The connection.
    pub connection: Arc<dyn Connection>,
    /// What sends.
    pub sender: Sender,
    /// What receives.
    pub receiver: Receiver,
}

impl Link {
    /// Over that connection.
    #[must_use]
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        Self { sender: Sender::new(connection.clone()), receiver: Receiver::new(connection.clone()), connection }
    }
}

/// What sends. One thread at a time.
pub struct Sender {
    connection: Arc<dyn Connection>,
    buffer: Vec<u8>,
}

impl Sender {
    /// On that connection.
    #[must_use]
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        Self { connection, buffer: Vec::new() }
    }

    /// Sends a message. After an error the connection is of no more use.
    pub fn send(&mut self, message: &Message, timeout: Duration) -> Result<(), LinkError> {
        self.buffer.clear();
        let rest = message.encode(&mut self.buffer);
        let copied = rest.len() <= COPIED_BYTES_MAX;
        if copied {
            self.buffer.extend_from_slice(&rest);
        }
        let sent = self.connection.write_all(&self.buffer, timeout);
        let sent = if copied { sent } else { sent.and_then(|()| self.connection.write_all(&rest, timeout)) };
        sent.map_err(|error| LinkError::Broken(self.connection.peer(), error))
    }
}

/// What receives. One thread at a time.
pub struct Receiver {
    connection: Arc<dyn Connection>,
    buffer: BytesMut,
    piece: Vec<u8>,
}

impl Receiver {
    /// On that connection.
    #[must_use]
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        Self { connection, buffer: BytesMut::new(), piece: vec![0; READ_BYTES] }
    }

    /// The next message that has come whole already, without a wait.
    pub fn ready(&mut self) -> Result<Option<Message>, LinkError> {
        Message::decode(&mut self.buffer).map_err(|error| LinkError::Wire(self.connection.peer(), error))
    }

    /// The next message. `timeout` is for each piece of it: a large one may take longer.
    pub fn receive(&mut self, timeout: Duration) -> Result<Message, LinkError> {
        loop {
            if let Some(message) = self.ready()? {
                return Ok(message);
            }
            match self.connection.read(&mut self.piece, timeout) {
                Ok(0) => return Err(LinkError::Closed(self.connection.peer())),
                Ok(read) => self.buffer.extend_from_slice(&self.piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(LinkError::Silent(self.connection.peer(), timeout)),
                Err(error) => return Err(LinkError::Broken(self.connection.peer(), error)),
            }
        }
    }
}
