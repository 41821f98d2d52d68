//! One connection, as services see it.

use super::{
    CloseReason, NetStats,
    limits::Budget,
    listener::Net,
    outbox::{Outbox, Written, flush_soon},
};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_delivery::ConnectionId;
use sluice_protocol::{EncodeError, Header, encode_frame};
use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};
use thiserror::Error;
use tokio::{net::TcpStream, runtime::Handle, sync::Notify, time::timeout};

/// A connection with no more than this waiting is not ended for what others have left unread.
const LITTLE_UNREAD_BYTES: usize = 64 * 1024;

/// Why a frame was not put on its way.
#[derive(Debug, Error)]
pub enum SendFailed {
    /// The connection has ended; nobody is there to read it.
    #[error("the connection has ended ({0})")]
    Closed(CloseReason),
    /// The frame can't be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A peer. Shared freely; ends when the peer, a limit or the server ends it.
pub struct Connection {
    id: ConnectionId,
    peer: SocketAddr,
    pub(super) stream: TcpStream,
    pub(super) net: Arc<Net>,
    pub(super) in_flight: Budget,
    outbox: Mutex<Outbox>,
    /// The outbox has shrunk, or the connection has ended.
    pub(super) changed: Notify,
    next_opaque: AtomicI32,
    runtime: Handle,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} from {}", self.id.0, self.peer)
    }
}

impl Connection {
    /// Must be called within a runtime: it will write what sockets do not take at once.
    pub(super) fn new(id: ConnectionId, peer: SocketAddr, stream: TcpStream, net: Arc<Net>) -> Arc<Self> {
        Arc::new(Self {
            id,
            peer,
            stream,
            in_flight: Budget::new(net.limits.in_flight_bytes_per_connection),
            net,
            outbox: Mutex::default(),
            changed: Notify::new(),
            next_opaque: AtomicI32::new(0),
            runtime: Handle::current(),
        })
    }

    /// Its number, never used again.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.outbox.lock().closed.is_some()
    }

    /// Sends an answer, from any thread. The body's pieces are not copied. Written now, or at the end of this thread's [`super::Batch`].
    pub fn reply(self: &Arc<Self>, header: &Header, body: Vec<Bytes>) -> Result<(), SendFailed> {
        let body_bytes = body.iter().map(Bytes::len).sum();
        let mut head = BytesMut::new();
        encode_frame(header, body_bytes, &mut head)?;
        self.enqueue(head.freeze(), body, body_bytes)
    }

    /// Sends a request of ours that wants no answer, under a number of its own.
    pub fn push_oneway(self: &Arc<Self>, mut header: Header, body: Vec<Bytes>) -> Result<(), SendFailed> {
        header.opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        header.mark_oneway();
        self.reply(&header, body)
    }

    fn enqueue(self: &Arc<Self>, head: Bytes, body: Vec<Bytes>, body_bytes: usize) -> Result<(), SendFailed> {
        let limits = &self.net.limits;
        let bytes = head.len() + body_bytes;
        {
            let mut outbox = self.outbox.lock();
            if let Some(reason) = outbox.closed {
                return Err(SendFailed::Closed(reason));
            }
            let own = outbox.bytes() + bytes;
            let all = self.net.stats.outbox_bytes.load(Ordering::Relaxed) as usize + bytes;
            // A frame that is alone is always taken: it may be larger than the limit, and only the socket can tell whether the peer reads.
            let full = !outbox.is_empty() && (own > limits.outbox_bytes_per_connection || all > limits.outbox_bytes_max && own > LITTLE_UNREAD_BYTES);
            if !full {
                NetStats::add(&self.net.stats.outbox_bytes, bytes);
                outbox.push(head);
                body.into_iter().for_each(|piece| outbox.push(piece));
                drop(outbox);
                flush_soon(self);
                return Ok(());
            }
        }
        self.close(CloseReason::SlowReader);
        Err(SendFailed::Closed(CloseReason::SlowReader))
    }

    /// Writes what the socket takes now; a task writes the rest.
    pub(super) fn flush(self: &Arc<Self>) {
        let mut outbox = self.outbox.lock();
        if outbox.draining || outbox.is_empty() || outbox.closed.is_some() {
            return;
        }
        match outbox.write_to(&self.stream, &self.net.stats) {
            Ok(Written::All) => {}
            Ok(Written::Turn | Written::Blocked) => {
                outbox.draining = true;
                drop(outbox);
                self.runtime.spawn(Arc::clone(self).drain());
            }
            Err(_) => {
                drop(outbox);
                self.close(CloseReason::Peer);
            }
        }
    }

    /// Writes the rest as the peer reads. Ends with the outbox, the connection or the peer's patience.
    async fn drain(self: Arc<Self>) {
        loop {
            match timeout(self.net.limits.write, self.stream.writable()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return self.close(CloseReason::Peer),
                Err(_) => return self.close(CloseReason::SlowReader),
            }
            let written = {
                let mut outbox = self.outbox.lock();
                if outbox.closed.is_some() {
                    return;
                }
                let written = outbox.write_to(&self.stream, &self.net.stats);
                outbox.draining = matches!(written, Ok(Written::Turn | Written::Blocked));
                written
            };
            self.changed.notify_one();
            match written {
                Ok(Written::Blocked) => {}
                Ok(Written::Turn) => tokio::task::yield_now().await,
                Ok(Written::All) => return,
                Err(_) => return self.close(CloseReason::Peer),
            }
        }
    }

    pub(crate) fn outbox_bytes(&self) -> usize {
        self.outbox.lock().bytes()
    }

    /// Why it has ended, if it has.
    pub(super) fn closed(&self) -> Option<CloseReason> {
        self.outbox.lock().closed
    }

    /// Ends the connection: what waits is dropped, the peer sees the end at once. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        {
            let mut outbox = self.outbox.lock();
            if outbox.closed.is_some() {
                return;
            }
            outbox.closed = Some(reason);
            let dropped = outbox.clear();
            self.net.stats.outbox_bytes.fetch_sub(dropped as u64, Ordering::Relaxed);
        }
        self.net.stats.closed(reason);
        // Others may hold the connection for as long as they hold a request; the socket must not wait for them. Fails when the peer is gone already.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        self.changed.notify_one();
    }
}
