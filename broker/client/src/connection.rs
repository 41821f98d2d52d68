//! One connection: requests go out as they come, many in one write, and answers find their waiter by the opaque number.

use crate::{ClientError, ClientOptions, error::request_name};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_protocol::{ExtFields, Frame, FrameLimits, Header, RequestCode, Serialization, Step, encode_frame, next_frame};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};

/// Longest time a peer may take to accept one batch of bytes; after that the connection is of no use.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// What is asked of a peer.
#[derive(Clone, Debug)]
pub struct Request {
    /// Request code; a number, so that a code this library does not know can be sent.
    pub code: i32,
    /// Header fields.
    pub ext: ExtFields,
    /// Body.
    pub body: Bytes,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(code: RequestCode, ext: ExtFields) -> Self {
        Self { code: code.to_wire(), ext, body: Bytes::new() }
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// Answers what a server asks of this client (a group has new members, a transaction is to be checked, …). It is called on the reading task: it must be quick.
pub trait RequestHandler: Send + Sync {
    /// Handles a request of the server at `addr`; what it returns is sent as the answer unless the request was one-way.
    fn handle(&self, addr: &str, request: Frame) -> Option<Frame>;
}

/// Who waits for the answers, and whether there will be any.
#[derive(Default)]
struct Waiters {
    by_opaque: HashMap<i32, oneshot::Sender<Frame>>,
    closed: Option<String>,
}

struct Shared {
    addr: Arc<str>,
    waiters: Mutex<Waiters>,
    outbox: Mutex<BytesMut>,
    outbox_bytes_max: usize,
    /// Something is to be written, or the connection has ended.
    wake: Notify,
    /// The outbox has been emptied.
    drained: Notify,
    /// The connection has ended.
    ended: Notify,
    in_flight: Semaphore,
    opaque: AtomicI32,
    serialization: Serialization,
}

/// A connection to one server. Cheap to clone; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    _end: Arc<EndOnDrop>,
}

/// Ends both tasks once nobody can send a request any more.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end("it was closed here");
    }
}

impl Shared {
    fn end(&self, reason: &str) {
        let waiting = {
            let mut waiters = self.waiters.lock();
            waiters.closed.get_or_insert_with(|| reason.to_owned());
            std::mem::take(&mut waiters.by_opaque)
        };
        drop(waiting);
        self.wake.notify_one();
        self.drained.notify_waiters();
        self.ended.notify_waiters();
    }

    fn closed(&self) -> Option<String> {
        self.waiters.lock().closed.clone()
    }

    fn write(&self, header: &Header, body: &[u8]) -> Result<(), ClientError> {
        let mut outbox = self.outbox.lock();
        encode_frame(header, body.len(), &mut outbox)?;
        outbox.extend_from_slice(body);
        drop(outbox);
        self.wake.notify_one();
        Ok(())
    }
}

/// Takes the waiter away when the request is given up.
struct WaiterGuard<'a> {
    shared: &'a Shared,
    opaque: i32,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.shared.waiters.lock().by_opaque.remove(&self.opaque);
    }
}

impl Connection {
    /// Connects to `addr` (`host:port`).
    pub async fn open(addr: &str, options: &ClientOptions, handler: Option<Arc<dyn RequestHandler>>) -> Result<Self, ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable { addr: addr.to_owned(), reason };
        let stream = timeout(options.connect_timeout, TcpStream::connect(addr))
            .await
            .map_err(|_| unreachable(format!("no connection within {:?}", options.connect_timeout)))?
            .map_err(|e| unreachable(e.to_string()))?;
        // Requests are gathered here; the kernel need not wait for more.
        stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let shared = Arc::new(Shared {
            addr: addr.into(),
            waiters: Mutex::default(),
            outbox: Mutex::new(BytesMut::with_capacity(16 * 1024)),
            outbox_bytes_max: options.outbox_bytes_max,
            wake: Notify::new(),
            drained: Notify::new(),
            ended: Notify::new(),
            in_flight: Semaphore::new(options.in_flight_max.max(1)),
            opaque: AtomicI32::new(1),
            serialization: options.serialization,
        });
        let (read, write) = stream.into_split();
        // The answer to a batch lists the ids of its messages in the header, 33 bytes each, and official brokers set no bound on a batch's messages.
        let limits = FrameLimits { frame_bytes_max: options.frame_bytes_max, header_bytes_max: options.frame_bytes_max, ..FrameLimits::default() };
        tokio::spawn(read_loop(Arc::clone(&shared), read, limits, handler));
        tokio::spawn(write_loop(Arc::clone(&shared), write));
        Ok(Self { _end: Arc::new(EndOnDrop(Arc::clone(&shared))), shared })
    }

    /// The peer's address, as it was given.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Whether requests can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.waiters.lock().closed.is_none()
    }

    /// Waits until no request can be sent any more: the peer or this side has ended the connection.
    pub async fn closed(&self) {
        closed(&self.shared).await;
    }

    /// Sends a request and waits for the answer, whatever its code is.
    pub async fn request(&self, request: Request, wait: Duration) -> Result<Frame, ClientError> {
        let deadline = Instant::now() + wait;
        let shared = &*self.shared;
        let late = || ClientError::Timeout { addr: self.addr().to_owned(), request: request_name(request.code), after: wait };
        let backlogged = || ClientError::Backlogged { addr: self.addr().to_owned() };
        let _permit = timeout_at(deadline, shared.in_flight.acquire()).await.ok().and_then(Result::ok).ok_or_else(backlogged)?;
        self.room(deadline).await?;
        let (sender, answer) = oneshot::channel();
        let opaque = shared.opaque.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiters = shared.waiters.lock();
            if let Some(reason) = &waiters.closed {
                return Err(self.ended(request.code, reason.clone()));
            }
            waiters.by_opaque.insert(opaque, sender);
        }
        let _guard = WaiterGuard { shared, opaque };
        shared.write(&self.header(&request, opaque), &request.body)?;
        match timeout_at(deadline, answer).await {
            Err(_) => Err(late()),
            Ok(Err(_)) => Err(self.ended(request.code, shared.closed().unwrap_or_default())),
            Ok(Ok(frame)) => Ok(frame),
        }
    }

    /// Sends a request that has no answer. It returns once the bytes wait to be written.
    pub async fn oneway(&self, request: Request, wait: Duration) -> Result<(), ClientError> {
        self.room(Instant::now() + wait).await?;
        if let Some(reason) = self.shared.closed() {
            return Err(self.ended(request.code, reason));
        }
        let mut header = self.header(&request, self.shared.opaque.fetch_add(1, Ordering::Relaxed));
        header.mark_oneway();
        self.shared.write(&header, &request.body)
    }

    fn header(&self, request: &Request, opaque: i32) -> Header {
        let mut header = Header::request(RequestCode::HeartBeat, opaque, request.ext.clone());
        header.code = request.code;
        header.serialization = self.shared.serialization;
        header
    }

    fn ended(&self, code: i32, reason: String) -> ClientError {
        ClientError::Closed { addr: self.addr().to_owned(), request: request_name(code), reason }
    }

    /// Waits until the outbox is below its bound.
    async fn room(&self, deadline: Instant) -> Result<(), ClientError> {
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.outbox.lock().len() < self.shared.outbox_bytes_max || !self.is_open() {
                return Ok(());
            }
            timeout_at(deadline, drained).await.map_err(|_| ClientError::Backlogged { addr: self.addr().to_owned() })?;
        }
    }
}

/// Writes whatever has gathered since the last write, in one piece.
async fn write_loop(shared: Arc<Shared>, mut write: OwnedWriteHalf) {
    let mut spare = BytesMut::with_capacity(16 * 1024);
    loop {
        let mut batch = std::mem::replace(&mut *shared.outbox.lock(), spare);
        if batch.is_empty() {
            spare = batch;
            if shared.closed().is_some() {
                break;
            }
            shared.wake.notified().await;
            continue;
        }
        shared.drained.notify_waiters();
        let written = timeout(WRITE_STALL_MAX, write.write_all(&batch)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        if let Err(error) = written {
            shared.end(&error.to_string());
            break;
        }
        batch.clear();
        // One large batch must not keep its memory for ever.
        spare = if batch.capacity() > 4 * 1024 * 1024 { BytesMut::new() } else { batch };
    }
    // A peer that is gone has nothing to be told.
    let _ = write.shutdown().await;
}

async fn read_loop(shared: Arc<Shared>, mut read: OwnedReadHalf, limits: FrameLimits, handler: Option<Arc<dyn RequestHandler>>) {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let reason = loop {
        match next_frame(&mut buffer, &limits) {
            Ok(Step::Frame(frame)) => deliver(&shared, frame, handler.as_deref()),
            Ok(Step::Need(_)) => {
                buffer.reserve(64 * 1024);
                tokio::select! {
                    read = read.read_buf(&mut buffer) => match read {
                        Ok(0) => break "the server closed it".to_owned(),
                        Ok(_) => {}
                        Err(error) => break error.to_string(),
                    },
                    () = closed(&shared) => break "it was closed here".to_owned(),
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    shared.end(&reason);
}

/// Ends once the connection has.
async fn closed(shared: &Shared) {
    let ended = shared.ended.notified();
    if shared.closed().is_none() {
        ended.await;
    }
}

fn deliver(shared: &Shared, frame: Frame, handler: Option<&dyn RequestHandler>) {
    if frame.header.is_response() {
        // Nobody waits any more for an answer that comes too late.
        if let Some(waiter) = shared.waiters.lock().by_opaque.remove(&frame.header.opaque) {
            let _ = waiter.send(frame);
        }
        return;
    }
    let header = frame.header.clone();
    let answer = match handler {
        Some(handler) => handler.handle(&shared.addr, frame),
        None => Some(Frame::without_body(Header::response_to(&header, sluice_protocol::ResponseCode::RequestCodeNotSupported))),
    };
    if let (Some(answer), false) = (answer, header.is_oneway()) {
        // An answer that can't be written is one the server does without: it has its own deadline.
        let _ = shared.write(&answer.header, &answer.body);
    }
}
