//! A member of a group that is not master hands its clients' requests to the one that is: clients know routes of half a minute ago, and have connections that are older.
//!
//! Each client's connection gets one of its own to the master, so that whatever is tied to a connection (heartbeats, held pulls, questions about transactions) works as
//! ever. Frames that come while no master is known wait for a moment; a change of master within a client's timeout is then no failure for it. What was on its way to the old
//! master goes to the new one if it is certain that it was not carried out, or does no harm when it is asked for again; and the client's connection stays.
//!
//! One client's frames never overtake each other, whatever they wait for: the release of a queue must not come after the next lock of it.

mod carrier;
mod frames;
#[cfg(test)]
mod tests;
mod way;

use crate::net::{Connection, Permit};
use bytes::Bytes;
use carrier::Carrier;
use frames::Waiting;
use parking_lot::Mutex;
use sluice_delivery::ConnectionId;
use sluice_protocol::{Frame, FrameLimits, Header, RequestCode, ResponseCode};
use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

/// In the header of what was handed on: it is not handed on again.
pub(super) const FORWARDED: &str = "sluiceForwarded";
/// With [`FORWARDED`]: the client itself wants no answer.
const ONEWAY: &str = "oneway";
/// In the header of an answer to what another member has handed on: this broker is not master. Never seen by clients.
pub(super) const NOT_MASTER: &str = "sluiceNotMaster";
/// With [`NOT_MASTER`]: it was not carried out and will not be, nor will anything that comes after it on this connection; so all of it can go to the master in its order.
const GIVEN_BACK: &str = "1";
/// With [`NOT_MASTER`]: it was not carried out.
pub(super) const UNDONE: &str = "undone";
/// With [`NOT_MASTER`]: it may have been carried out, but this broker may not be master any more and does not say what it came to.
pub(super) const VOID: &str = "void";
/// Frames of one client that wait for the master; their bytes are bounded by the connection's.
const WAITING_MAX: usize = 16 * 1024;
/// The largest heartbeat that is kept for the next master.
const HEARTBEAT_BYTES_MAX: usize = 256 * 1024;
/// How long a frame waits for a master to be known and reached: RocketMQ's clients wait 3 s for an answer by default.
const MASTER_WAIT: Duration = Duration::from_millis(2500);

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

    /// Serves one; gives it back if it is not master any more.
    fn serve(&self, connection: &Arc<Connection>, frame: Frame, permit: Option<Permit>) -> Option<(Frame, Option<Permit>)>;
}

/// The ways of all clients.
pub struct Forwards {
    master: watch::Sender<Master>,
    here: OnceLock<Weak<dyn Here>>,
    limits: FrameLimits,
    ways: Mutex<HashMap<ConnectionId, WayIn>>,
    /// How many there are: most brokers have none, and need not look.
    count: AtomicUsize,
    heartbeats: Mutex<HashMap<ConnectionId, Frame>>,
    runtime: Handle,
}

/// Where one client's frames are put.
struct WayIn {
    frames: mpsc::Sender<Waiting>,
    /// What waits here is given back to the member that has handed it on.
    give_back: watch::Sender<bool>,
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
            count: AtomicUsize::new(0),
            heartbeats: Mutex::default(),
            runtime,
        })
    }

    /// Who serves clients from now on.
    pub fn set_master(&self, master: Master) {
        self.master.send_if_modified(|now| std::mem::replace(now, master.clone()) != master);
    }

    /// This broker serves clients no more; who does is not known, unless another one was known before.
    pub(crate) fn end_here(&self) {
        self.master.send_if_modified(|now| {
            let was_here = *now == Master::Here;
            if was_here {
                *now = Master::Unknown;
            }
            was_here
        });
    }

    /// Until another broker is known to be master.
    pub(crate) async fn another(&self) {
        drop(self.master.subscribe().wait_for(|now| matches!(now, Master::There(_))).await);
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

    /// Takes a frame: `serve` does what is for this broker as master, or gives it back; what comes after something that waits comes to wait too.
    pub(super) fn pass<S>(self: &Arc<Self>, connection: &Arc<Connection>, frame: Frame, permit: Permit, serve: S)
    where
        S: FnOnce(Frame, Permit) -> Option<(Frame, Permit)>,
    {
        if frame.header.request_code() == Some(RequestCode::SluiceGiveBack) {
            self.give_back(connection.id());
            return answer(connection, &frame.header, ResponseCode::Success, "what was waiting is given back");
        }
        let (frame, permit) = match self.carries(connection.id()) {
            true => (frame, permit),
            false => match serve(frame, permit) {
                None => return,
                Some(back) => back,
            },
        };
        self.hand_on(connection, frame, permit);
    }

    /// Whether frames of that connection wait, or may: then the next ones come after them, also when this broker is master by now.
    fn carries(&self, connection: ConnectionId) -> bool {
        // A way is begun by its connection's own task, which so sees it here; a way that has ended is seen to have served all that waited.
        self.count.load(Ordering::Acquire) > 0 && self.ways.lock().contains_key(&connection)
    }

    fn hand_on(self: &Arc<Self>, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        let waiting = Waiting::new(frame, permit);
        let refused = {
            let mut ways = self.ways.lock();
            let way = ways.entry(connection.id()).or_insert_with(|| self.begin(connection));
            let sent = way.frames.try_send(waiting);
            self.count.store(ways.len(), Ordering::Release);
            sent
        };
        let (why, waiting) = match refused {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(waiting)) => ("too many requests wait for the master", waiting),
            Err(mpsc::error::TrySendError::Closed(waiting)) => ("this broker is stopping", waiting),
        };
        refuse(connection, waiting.header(), why);
    }

    /// What waits here on this connection is wanted back by the member that has handed it on: it knows another master.
    fn give_back(&self, connection: ConnectionId) {
        if let Some(way) = self.ways.lock().get(&connection) {
            way.give_back.send_replace(true);
        }
    }

    /// The same for all members: this broker is stopping.
    pub(crate) fn give_all_back(&self) {
        for way in self.ways.lock().values() {
            way.give_back.send_replace(true);
        }
    }

    /// A client takes its leave: the next master is not to know of it.
    pub(super) fn forget(&self, connection: ConnectionId) {
        self.heartbeats.lock().remove(&connection);
    }

    pub(super) fn closed(&self, connection: ConnectionId) {
        self.remove(connection, || true);
        self.forget(connection);
    }

    /// What the master is to know first.
    fn heartbeat(&self, connection: ConnectionId) -> Option<Frame> {
        self.heartbeats.lock().get(&connection).cloned()
    }

    /// Whether the client's last heartbeat is kept.
    fn knows(&self, connection: ConnectionId) -> bool {
        self.heartbeats.lock().contains_key(&connection)
    }

    fn begin(self: &Arc<Self>, connection: &Arc<Connection>) -> WayIn {
        let (frames, receiver) = mpsc::channel(WAITING_MAX);
        let give_back = watch::Sender::new(false);
        let carrier = Carrier::new(Arc::clone(self), Arc::clone(connection), receiver, give_back.subscribe());
        self.runtime.spawn(carrier.run());
        WayIn { frames, give_back }
    }

    /// Ends a way if that is so while nothing can be put in; whether it has ended.
    fn remove(&self, connection: ConnectionId, may_end: impl FnOnce() -> bool) -> bool {
        let mut ways = self.ways.lock();
        if !may_end() {
            return false;
        }
        ways.remove(&connection);
        self.count.store(ways.len(), Ordering::Release);
        true
    }
}

/// Whether the client wants no answer, also if a member that has handed its request on does.
pub(super) fn is_careless(request: &Header) -> bool {
    request.is_oneway() || request.ext.get(FORWARDED) == Some(ONEWAY)
}

/// Tells a client that nothing was done. Of the codes that say so this is the one on which both Java's and Go's producers send again by themselves.
fn refuse(connection: &Arc<Connection>, request: &Header, why: &str) {
    answer(connection, request, ResponseCode::ServiceNotAvailable, why);
}

fn answer(connection: &Arc<Connection>, request: &Header, code: ResponseCode, why: &str) {
    if !request.is_oneway() {
        let header = Header::response_to(request, code).with_remark(why);
        // It has gone, or reads nothing: its own business.
        let _ = connection.reply(&header, Vec::new());
    }
}
