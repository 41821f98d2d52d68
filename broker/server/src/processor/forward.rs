//! A member of a group that is not master hands its clients' requests to the one that is: clients know routes of half a minute ago, and have connections that are older.
//!
//! Each client's connection gets one of its own to the master, so that whatever is tied to a connection (heartbeats, held pulls, questions about transactions) works as
//! ever. Frames that come while no master is known wait for a moment; a change of master within a client's timeout is then no failure for it.

use crate::net::{CloseReason, Connection, Permit};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_delivery::ConnectionId;
use sluice_protocol::{Frame, FrameLimits, Header, ResponseCode, Step, encode_frame, next_frame};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

/// In the header of what was handed on: it is not handed on again.
pub(super) const FORWARDED: &str = "sluiceForwarded";
/// Frames of one client that wait for the master.
const WAITING_MAX: usize = 1024;
/// The largest heartbeat that is kept for the next master.
const HEARTBEAT_BYTES_MAX: usize = 256 * 1024;
/// How long a frame waits for a master to be known and reached: RocketMQ's clients wait 3 s for an answer by default.
const MASTER_WAIT: Duration = Duration::from_millis(2500);
/// Longest wait for a connection to the master, and between two tries.
const CONNECT: Duration = Duration::from_millis(1000);
const AGAIN: Duration = Duration::from_millis(50);
/// Longest time in which the master takes a frame.
const WRITE: Duration = Duration::from_secs(10);
/// Silence after which a client's way to the master is given up; its next request makes another one.
const IDLE: Duration = Duration::from_secs(120);

/// Who serves clients as master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Master {
    /// Nobody that is known of.
    Unknown,
    /// This broker.
    Here,
    /// Another one, at that place (`host:port`).
    There(String),
}

/// This broker, as master.
pub(super) trait Here: Send + Sync {
    /// Whether it serves clients now.
    fn serves(&self) -> bool;

    /// Serves one.
    fn serve(&self, connection: &Arc<Connection>, frame: Frame, permit: Permit);
}

/// The ways of all clients.
pub struct Forwards {
    master: watch::Sender<Master>,
    here: OnceLock<Weak<dyn Here>>,
    limits: FrameLimits,
    ways: Mutex<HashMap<ConnectionId, mpsc::Sender<Waiting>>>,
    heartbeats: Mutex<HashMap<ConnectionId, Frame>>,
    runtime: Handle,
}

struct Waiting {
    frame: Frame,
    since: Instant,
    permit: Permit,
}

impl Waiting {
    /// What another member has handed on is for this broker, or for nobody.
    fn is_forwarded(&self) -> bool {
        self.frame.header.ext.get(FORWARDED).is_some()
    }
}

impl Forwards {
    /// To nobody yet.
    #[must_use]
    pub fn new(limits: FrameLimits, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            master: watch::Sender::new(Master::Unknown),
            here: OnceLock::new(),
            limits,
            ways: Mutex::default(),
            heartbeats: Mutex::default(),
            runtime,
        })
    }

    /// Who serves clients from now on.
    pub fn set_master(&self, master: Master) {
        self.master.send_if_modified(|now| std::mem::replace(now, master.clone()) != master);
    }

    /// Who serves what has waited until this broker was master.
    pub(super) fn set_here(&self, here: Weak<dyn Here>) {
        // There is one.
        let _ = self.here.set(here);
    }

    /// Keeps a heartbeat: the next master is to know the client at once, and not after half a minute.
    pub(super) fn remember(&self, connection: &Connection, frame: &Frame) {
        if frame.body.len() <= HEARTBEAT_BYTES_MAX {
            // Copied: it would keep the whole receive buffer.
            let frame = Frame { header: frame.header.clone(), body: Bytes::copy_from_slice(&frame.body) };
            self.heartbeats.lock().insert(connection.id(), frame);
            if connection.is_closed() {
                // Its end has come before.
                self.forget(connection.id());
            }
        }
    }

    /// Hands a frame on.
    pub(super) fn frame(self: &Arc<Self>, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        let waiting = Waiting { frame, since: Instant::now(), permit };
        let refused = {
            let mut ways = self.ways.lock();
            let way = ways.entry(connection.id()).or_insert_with(|| self.begin(connection));
            way.try_send(waiting)
        };
        match refused {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(waiting)) => refuse(connection, &waiting.frame.header, "too many requests wait for the master"),
            Err(mpsc::error::TrySendError::Closed(waiting)) => {
                self.ways.lock().remove(&connection.id());
                refuse(connection, &waiting.frame.header, "the way to the master has just ended; send again");
            }
        }
    }

    /// A client takes its leave: the next master is not to know of it.
    pub(super) fn forget(&self, connection: ConnectionId) {
        self.heartbeats.lock().remove(&connection);
    }

    pub(super) fn closed(&self, connection: ConnectionId) {
        self.ways.lock().remove(&connection);
        self.forget(connection);
    }

    fn begin(self: &Arc<Self>, connection: &Arc<Connection>) -> mpsc::Sender<Waiting> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let (forwards, connection) = (Arc::clone(self), Arc::clone(connection));
        self.runtime.spawn(async move { forwards.carry(&connection, receiver).await });
        sender
    }

    /// Carries one client's frames until it has gone or has been silent for long.
    async fn carry(self: Arc<Self>, connection: &Arc<Connection>, mut waiting: mpsc::Receiver<Waiting>) {
        let mut master = self.master.subscribe();
        while let Ok(Some(first)) = timeout(IDLE, waiting.recv()).await {
            match self.reach(&mut master, first.since + MASTER_WAIT, first.is_forwarded()).await {
                Some(Reached::Here(here)) => here.serve(connection, first.frame, first.permit),
                Some(Reached::There(stream, place)) => {
                    tracing::debug!(peer = %connection.peer(), place, "a client is led to the master");
                    if let Err(error) = self.lead(connection, stream, first, &mut waiting, &mut master).await {
                        tracing::debug!(peer = %connection.peer(), place, %error, "the way to the master has ended");
                    }
                    // What was under way has no answer, and its client must learn that.
                    connection.close(CloseReason::MasterLost);
                    break;
                }
                None => refuse(connection, &first.frame.header, "no master of this group is known or reached now; send again"),
            }
        }
        self.ways.lock().remove(&connection.id());
    }

    async fn reach(&self, master: &mut watch::Receiver<Master>, until: Instant, only_here: bool) -> Option<Reached> {
        loop {
            let is_one = |now: &Master| *now != Master::Unknown && !(only_here && matches!(now, Master::There(_)));
            let now = timeout_at(until, master.wait_for(is_one)).await.ok()?.ok()?.clone();
            let reached = match now {
                Master::Here => self.here.get().and_then(Weak::upgrade).filter(|here| here.serves()).map(Reached::Here),
                Master::There(place) => connect(place, until).await,
                Master::Unknown => None,
            };
            if reached.is_some() || Instant::now() + AGAIN >= until {
                return reached;
            }
            sleep(AGAIN).await;
        }
    }

    /// Both ways until one of them ends, or another one is master.
    async fn lead(
        &self,
        connection: &Arc<Connection>,
        stream: TcpStream,
        first: Waiting,
        waiting: &mut mpsc::Receiver<Waiting>,
        master: &mut watch::Receiver<Master>,
    ) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let remembered = self.heartbeats.lock().get(&connection.id()).cloned();
        if let Some(mut heartbeat) = remembered {
            // Its client has had its answer.
            heartbeat.header.mark_oneway();
            write(&mut writer, heartbeat).await?;
        }
        write(&mut writer, first.frame).await?;
        let answers = answers(reader, connection, self.limits);
        tokio::pin!(answers);
        loop {
            tokio::select! {
                ended = &mut answers => return ended,
                next = waiting.recv() => match next {
                    Some(next) => write(&mut writer, next.frame).await?,
                    None => return Ok(()),
                },
                _ = master.changed() => return Err(io::Error::other("another broker is master")),
            }
        }
    }
}

enum Reached {
    Here(Arc<dyn Here>),
    There(TcpStream, String),
}

async fn connect(place: String, until: Instant) -> Option<Reached> {
    let at_most = until.min(Instant::now() + CONNECT);
    let stream = timeout_at(at_most, TcpStream::connect(&place)).await.ok()?.ok()?;
    // Small frames must not wait for each other.
    let _ = stream.set_nodelay(true);
    Some(Reached::There(stream, place))
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), frame: Frame) -> io::Result<()> {
    let Frame { mut header, body } = frame;
    header.ext.insert(FORWARDED, "1");
    let mut head = BytesMut::new();
    encode_frame(&header, body.len(), &mut head).map_err(io::Error::other)?;
    let both = async {
        writer.write_all(&head).await?;
        writer.write_all(&body).await
    };
    timeout(WRITE, both).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Gives the client what comes from the master.
async fn answers(mut reader: OwnedReadHalf, connection: &Arc<Connection>, limits: FrameLimits) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Step::Frame(frame) = next_frame(&mut buffer, &limits).map_err(io::Error::other)? {
            connection.reply(&frame.header, vec![frame.body]).map_err(io::Error::other)?;
        }
        if reader.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn refuse(connection: &Arc<Connection>, request: &Header, why: &str) {
    if !request.is_oneway() {
        let header = Header::response_to(request, ResponseCode::SystemBusy).with_remark(why);
        // It has gone, or reads nothing: its own business.
        let _ = connection.reply(&header, Vec::new());
    }
}
