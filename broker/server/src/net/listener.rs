//! Taking connections and reading frames.

use super::{
    Batch, CloseReason, Connection, NetLimits, NetStats, Permit, Service,
    limits::{Budget, permit, try_permit},
};
use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;
use sluice_delivery::ConnectionId;
use sluice_protocol::{Frame, Step, next_frame};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit},
    task::yield_now,
    time::{Instant, sleep, timeout, timeout_at},
};

/// First and largest read of a connection. The size follows what comes.
const READ_BYTES_MIN: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Most that is read at once of a large frame that is unfinished; then other connections have their turn. Bytes that come into memory used for the first time take
/// about a nanosecond each, in a virtual machine several.
const LARGE_FRAME_READ_BYTES_MAX: usize = 16 * 1024;
/// For each byte that is there, room for so many announced ones may be made.
const ANNOUNCED_PER_RECEIVED: usize = 7;
/// Unfinished frames beyond this are large: they are counted against the bytes in work.
const UNCOUNTED_BYTES: usize = 64 * 1024;
/// A connection with so many bytes of answers waiting is not read from, and what it has sent already has to wait.
const UNREAD_ANSWERS_MAX: usize = 4 * 1024 * 1024;
/// After so many bytes of answers in one go other connections have their turn: a store that checks what it gives is busy for a quarter of a millisecond with it.
const TURN_ANSWERS_BYTES: usize = 1024 * 1024;
/// Most bytes that a connection's answers take up in the kernel before they are on the wire. Left to itself it keeps 4 MiB for each peer who does not read, of
/// memory that all sockets of the machine share.
const UNSENT_BYTES_MAX: u32 = 1024 * 1024;
/// Pause after a failure to take a connection; file descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all listeners of a process share: limits, counts, the connections.
pub struct Net {
    pub(super) limits: NetLimits,
    pub(super) stats: NetStats,
    in_flight: Budget,
    /// The part of it that unfinished frames may have.
    unfinished: Budget,
    /// Whoever has this finishes its frame beyond that part.
    turn: Budget,
    connections: Mutex<HashMap<ConnectionId, Arc<Connection>>>,
    next_id: AtomicU64,
    stopping: AtomicBool,
    stop: Notify,
}

impl Net {
    /// Without a listener or a connection.
    #[must_use]
    pub fn new(limits: NetLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            stats: NetStats::default(),
            in_flight: Budget::new(limits.in_flight_bytes_max),
            unfinished: Budget::new(limits.unfinished_bytes_max()),
            turn: Budget::new(1),
            connections: Mutex::default(),
            next_id: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
        })
    }

    /// Counts since start.
    #[must_use]
    pub fn stats(&self) -> &NetStats {
        &self.stats
    }

    /// Connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.lock().len()
    }

    /// Bytes of requests in work.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight.in_use()
    }

    /// The connection of that number, if it is still there.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.connections.lock().get(&id).cloned()
    }

    /// Takes no more connections and reads no more requests. What is in work goes on.
    pub fn stop_reading(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop.notify_waiters();
        for connection in self.connections.lock().values() {
            connection.changed.notify_one();
        }
    }

    /// Takes and reads nothing more, gives what is in work until `deadline` to be answered and written, then closes every connection.
    pub async fn stop(&self, deadline: Duration) {
        self.stop_reading();
        let end = Instant::now() + deadline;
        while Instant::now() < end && (self.in_flight.in_use() > 0 || self.stats.outbox_bytes.load(Ordering::Relaxed) > 0) {
            sleep(Duration::from_millis(5)).await;
        }
        let connections: Vec<_> = self.connections.lock().values().cloned().collect();
        for connection in connections {
            connection.close(CloseReason::Stopping);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A new connection, unless there are too many.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Option<Arc<Connection>> {
        let mut connections = self.connections.lock();
        if connections.len() >= self.limits.connections_max || self.is_stopping() {
            NetStats::add(&self.stats.refused, 1);
            return None;
        }
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let connection = Connection::new(id, peer, stream, Arc::clone(self));
        connections.insert(id, Arc::clone(&connection));
        NetStats::add(&self.stats.accepted, 1);
        Some(connection)
    }
}

/// An open port.
pub struct Listener {
    address: SocketAddr,
}

impl Listener {
    /// Opens `address` and serves it until [`Net::stop`]. Must be called within a runtime.
    pub async fn bind(address: SocketAddr, net: &Arc<Net>, service: Arc<dyn Service>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tokio::spawn(accept(listener, Arc::clone(net), service));
        Ok(Self { address })
    }

    /// The address listened on; tells the port when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, net: Arc<Net>, service: Arc<dyn Service>) {
    let stopped = net.stop.notified();
    tokio::pin!(stopped);
    stopped.as_mut().enable();
    while !net.is_stopping() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Answers are written whole; waiting for more to send with them only delays. A failure shows at the first read.
                let _ = stream.set_nodelay(true);
                let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
                match net.admit(stream, peer) {
                    Some(connection) => drop(tokio::spawn(serve(connection, Arc::clone(&service)))),
                    None => tracing::debug!(%peer, "a connection was refused: there are {} already, or the server is stopping", net.connections()),
                }
            }
            Err(error) => {
                NetStats::add(&net.stats.accept_errors, 1);
                tracing::warn!(%error, "a connection could not be taken; trying again in {ACCEPT_PAUSE:?}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Ends the connection for everybody, also when handling a request panics.
struct Ending {
    connection: Arc<Connection>,
    service: Arc<dyn Service>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.connection.close(CloseReason::Internal);
        self.connection.net.connections.lock().remove(&self.connection.id());
        self.service.on_close(&self.connection);
    }
}

async fn serve(connection: Arc<Connection>, service: Arc<dyn Service>) {
    let ending = Ending { connection, service };
    let mut reader = Reader {
        connection: &ending.connection,
        service: &*ending.service,
        buffer: BytesMut::new(),
        chunk: READ_BYTES_MIN,
        missing: 0,
        begun: None,
        growth: None,
        turn: None,
    };
    let reason = reader.run().await;
    drop(reader);
    if reason == CloseReason::Stopping {
        // Requests in work are still to be answered: Net::stop closes.
        while !ending.connection.is_closed() {
            ending.connection.changed.notified().await;
        }
    }
    ending.connection.close(reason);
}

/// What is read from one connection.
struct Reader<'a> {
    connection: &'a Arc<Connection>,
    service: &'a dyn Service,
    buffer: BytesMut,
    chunk: usize,
    /// What the frame that lies unfinished in the buffer needs at least.
    missing: usize,
    /// When the first byte of the frame that lies unfinished in the buffer came.
    begun: Option<Instant>,
    /// The unfinished frame's part of the bytes in work.
    growth: Option<Permit>,
    /// The unfinished frame need not be counted further.
    turn: Option<OwnedSemaphorePermit>,
}

/// Why a batch has ended.
enum Stopped {
    /// No whole frame is left.
    Empty,
    /// The peer has to take its answers first.
    Unread,
    /// It was enough for one turn.
    Turn,
    /// A frame, and its length, that does not fit into the bytes in work.
    Full(Frame, usize),
}

impl Reader<'_> {
    async fn run(&mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.wait().await {
                return reason;
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => continue,
                Err(reason) => return reason,
            }
            if let Err(reason) = self.handle().await {
                return reason;
            }
            if self.in_large_frame() {
                yield_now().await;
            }
        }
    }

    /// Until the peer has taken its answers.
    async fn taken(&self) -> Result<(), CloseReason> {
        let connection = self.connection;
        loop {
            if let Some(reason) = connection.closed() {
                return Err(reason);
            }
            if connection.net.is_stopping() {
                return Err(CloseReason::Stopping);
            }
            if connection.outbox_bytes() < UNREAD_ANSWERS_MAX {
                return Ok(());
            }
            // The task that writes them has the deadline, and tells of its end.
            connection.changed.notified().await;
        }
    }

    /// Until there is something to read and the peer has taken its answers.
    async fn wait(&mut self) -> Result<(), CloseReason> {
        let connection = self.connection;
        self.taken().await?;
        if self.buffer.is_empty() {
            // An idle connection holds no buffer.
            self.buffer = BytesMut::new();
        }
        let limits = &connection.net.limits;
        let (end, late) = match self.begun {
            Some(begun) => (begun + limits.partial_frame, CloseReason::PartialFrame),
            None => (Instant::now() + limits.idle, CloseReason::Idle),
        };
        tokio::select! {
            biased;
            ready = timeout_at(end, connection.stream.readable()) => match ready {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(CloseReason::Peer),
                Err(_) => Err(late),
            },
            // Something about the connection or the server: the next round sees what.
            () = connection.changed.notified() => Ok(()),
        }
    }

    /// Whether more of one frame is still to come than goes uncounted.
    fn in_large_frame(&self) -> bool {
        self.missing > UNCOUNTED_BYTES
    }

    /// Bytes to have room for. Growing as bytes come would copy what is there over and over, megabytes at a time; what a peer has only announced gets no room. So
    /// the whole frame has its room once a part of it is there.
    fn room(&self, chunk: usize) -> usize {
        let whole = self.buffer.len() >= self.missing / ANNOUNCED_PER_RECEIVED;
        if whole { chunk.max(self.missing) } else { chunk }
    }

    /// Reads once; false when there was nothing.
    fn fill(&mut self) -> Result<bool, CloseReason> {
        let chunk = if self.in_large_frame() { self.chunk.min(LARGE_FRAME_READ_BYTES_MAX) } else { self.chunk };
        self.buffer.reserve(self.room(chunk));
        let stats = &self.connection.net.stats;
        let mut room = (&mut self.buffer).limit(chunk);
        match self.connection.stream.try_read_buf(&mut room) {
            Ok(0) => Err(CloseReason::Peer),
            Ok(read) => {
                NetStats::add(&stats.bytes_in, read);
                if read == chunk {
                    self.chunk = (self.chunk * 2).min(READ_BYTES_MAX);
                } else if read < chunk / 4 {
                    self.chunk = (self.chunk / 2).max(READ_BYTES_MIN);
                }
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(_) => Err(CloseReason::Peer),
        }
    }

    /// Hands over every whole frame.
    async fn handle(&mut self) -> Result<(), CloseReason> {
        loop {
            let stopped = self.handle_ready();
            match stopped? {
                Stopped::Unread => self.taken().await?,
                Stopped::Turn => yield_now().await,
                // The batch has ended and its answers are out; only then it is safe to wait for others to finish.
                Stopped::Full(frame, bytes) => {
                    let net = &self.connection.net;
                    let held = permit(&self.connection.in_flight, &net.in_flight, bytes);
                    let permit = tokio::select! {
                        permit = timeout(net.limits.idle, held) => permit.map_err(|_| CloseReason::SlowReader)?,
                        reason = ended(self.connection) => return Err(reason),
                    };
                    self.dispatch(frame, permit);
                }
                Stopped::Empty => return self.count_growth().await,
            }
        }
    }

    fn dispatch(&self, frame: Frame, permit: Permit) {
        let _batch = Batch::enter();
        let mut one = Some((frame, permit));
        self.service.on_read(&mut || {
            if let Some((frame, permit)) = one.take() {
                self.service.on_frame(self.connection, frame, permit);
            }
        });
    }

    /// Hands over frames as one batch, as far as may be.
    fn handle_ready(&mut self) -> Result<Stopped, CloseReason> {
        let _batch = Batch::enter();
        let service = self.service;
        let mut result = Ok(Stopped::Empty);
        service.on_read(&mut || result = self.take_frames());
        result
    }

    fn take_frames(&mut self) -> Result<Stopped, CloseReason> {
        let net = &self.connection.net;
        let begun = self.connection.outbox_bytes();
        loop {
            match self.connection.outbox_bytes() {
                waiting if waiting >= UNREAD_ANSWERS_MAX => return Ok(Stopped::Unread),
                waiting if waiting >= begun + TURN_ANSWERS_BYTES => return Ok(Stopped::Turn),
                _ => {}
            }
            let before = self.buffer.len();
            match next_frame(&mut self.buffer, &net.limits.frame) {
                Ok(Step::Frame(frame)) => {
                    NetStats::add(&net.stats.frames_in, 1);
                    self.begun = None;
                    self.growth = None;
                    self.turn = None;
                    let bytes = before - self.buffer.len();
                    match try_permit(&self.connection.in_flight, &net.in_flight, bytes) {
                        Some(permit) => self.service.on_frame(self.connection, frame, permit),
                        None => return Ok(Stopped::Full(frame, bytes)),
                    }
                }
                Ok(Step::Need(missing)) => {
                    self.missing = missing;
                    if before > 0 {
                        self.begun.get_or_insert_with(Instant::now);
                    }
                    return Ok(Stopped::Empty);
                }
                Err(error) => {
                    tracing::warn!(peer = %self.connection.peer(), %error, "the connection is closed: what came is no frame");
                    return Err(CloseReason::BadFrame);
                }
            }
        }
    }

    /// Counts what a large unfinished frame takes up, so that many of them together stay within the bound.
    async fn count_growth(&mut self) -> Result<(), CloseReason> {
        let held = self.growth.as_ref().map_or(0, Permit::bytes);
        let grown = self.buffer.len().saturating_sub(UNCOUNTED_BYTES + held);
        if grown == 0 || self.turn.is_some() {
            return Ok(());
        }
        let net = &self.connection.net;
        let end = self.begun.unwrap_or_else(Instant::now) + net.limits.partial_frame;
        let mut more = try_permit(&net.unfinished, &net.in_flight, grown);
        while more.is_none() {
            if let Some(reason) = self.connection.closed() {
                return Err(reason);
            }
            if Instant::now() >= end {
                return Err(CloseReason::PartialFrame);
            }
            // When everybody holds a part and waits for more, nobody would finish: one at a time may.
            self.turn = net.turn.try_take(1);
            if self.turn.is_some() {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
            more = try_permit(&net.unfinished, &net.in_flight, grown);
        }
        match (&mut self.growth, more) {
            (Some(held), Some(more)) => held.merge(more),
            (held, more) => *held = more,
        }
        Ok(())
    }
}

async fn ended(connection: &Connection) -> CloseReason {
    loop {
        if let Some(reason) = connection.closed() {
            return reason;
        }
        connection.changed.notified().await;
    }
}
