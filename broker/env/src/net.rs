//! Connections between brokers: byte streams with deadlines, for threads that block. The server's own connections, of which there are thousands, belong to its runtime.

use std::{io, sync::Arc, time::Duration};

/// The machine's network.
pub trait Net: Send + Sync {
    /// Takes connections at `address` (`host:port`; port 0: any that is free) until the listener is dropped.
    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;

    /// Connects to who listens at `address` (`host:port`). `TimedOut`: nobody has answered by then.
    fn connect(&self, address: &str, timeout: Duration) -> io::Result<Arc<dyn Connection>>;
}

/// A place where connections come in.
pub trait Listener: Send + Sync {
    /// Where it is, with its port.
    fn address(&self) -> String;

    /// The next connection. `TimedOut`: none has come.
    fn accept(&self, timeout: Duration) -> io::Result<Arc<dyn Connection>>;
}

/// Two streams of bytes, one in each direction. Several threads may use it, one reading and one writing at a time. Dropping the last reference closes it.
pub trait Connection: Send + Sync {
    /// Who is at the other end, for people.
    fn peer(&self) -> String;

    /// Reads what is there, at least one byte; 0 when the peer has ended its stream. `TimedOut`: nothing has come, and the connection is as before.
    fn read(&self, into: &mut [u8], timeout: Duration) -> io::Result<usize>;

    /// Writes all of it. After an error, also `TimedOut`, the stream is torn and the connection of no more use.
    fn write_all(&self, bytes: &[u8], timeout: Duration) -> io::Result<()>;

    /// Ends it in both directions; threads that wait in it come back.
    fn close(&self);
}
