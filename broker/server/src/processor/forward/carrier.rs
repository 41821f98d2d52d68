//! One client's frames on their way to whoever is master.

use super::{
    Forwards, GIVEN_BACK, Here, MASTER_WAIT, Master, NOT_MASTER, answer,
    frames::{Frames, Waiting},
    refuse,
    way::{Ended, Way, is_another},
};
use crate::net::Connection;
use parking_lot::Mutex;
use sluice_protocol::{Header, ResponseCode};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    task::yield_now,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Longest wait for a connection to the master, and between two tries.
const CONNECT: Duration = Duration::from_millis(1000);
const AGAIN: Duration = Duration::from_millis(50);
/// Silence after which a client's way to the master is given up; its next request makes another one.
const IDLE: Duration = Duration::from_secs(120);
/// After so many frames served here others have their turn.
const TURN: usize = 64;

pub(super) struct Carrier {
    forwards: Arc<Forwards>,
    connection: Arc<Connection>,
    waiting: mpsc::Receiver<Waiting>,
    frames: Mutex<Frames>,
    master: watch::Receiver<Master>,
    give_back: watch::Receiver<bool>,
    /// Where the client was led to last: only that one knows it.
    led_to: Option<String>,
    /// Something was given back, and so is everything after it: the member that has handed it on makes a new connection.
    gives_back: bool,
}

enum Reached {
    Here(Arc<dyn Here>),
    There(TcpStream, String),
    /// It is not to be handed on, and another one is master.
    GiveBack,
    Nobody,
}

impl Carrier {
    pub(super) fn new(forwards: Arc<Forwards>, connection: Arc<Connection>, waiting: mpsc::Receiver<Waiting>, give_back: watch::Receiver<bool>) -> Self {
        let master = forwards.master.subscribe();
        Self { forwards, connection, waiting, frames: Mutex::default(), master, give_back, led_to: None, gives_back: false }
    }

    /// Carries frames until the client has gone or has been silent for long, or is served here.
    pub(super) async fn run(mut self) {
        while self.has_something().await {
            match self.reach().await {
                Reached::Here(here) => {
                    if self.serve(&*here).await {
                        return;
                    }
                }
                Reached::There(stream, place) => self.lead(stream, place).await,
                Reached::GiveBack => {
                    self.gives_back = true;
                    if let Some(first) = self.frames.get_mut().queue.pop_front() {
                        give_back(&self.connection, first.header());
                    }
                }
                Reached::Nobody => match self.frames.get_mut().queue.pop_front() {
                    Some(first) if first.terms.is_from_member => {
                        self.gives_back = true;
                        give_back(&self.connection, first.header());
                    }
                    Some(first) => refuse(&self.connection, first.header(), "no master of this group is known or reached now; send again"),
                    None => self.led_to = None,
                },
            }
        }
    }

    /// Until there is a frame, or another master, which has to know the client before it asks for anything. False at the end.
    async fn has_something(&mut self) -> bool {
        loop {
            if !self.frames.get_mut().queue.is_empty() {
                return true;
            }
            let place = self.led_to.clone().filter(|_| self.forwards.knows(self.connection.id()));
            let is_led = place.is_some();
            let another = async { drop(self.master.wait_for(|now| place.as_ref().is_some_and(|place| is_another(now, place))).await) };
            let next = tokio::select! {
                next = timeout(IDLE, self.waiting.recv()) => next,
                () = another, if is_led => return true,
            };
            match next {
                Ok(Some(next)) => self.frames.get_mut().queue.push_back(next),
                Ok(None) => return false,
                // Who gives back does so to the end of the connection.
                Err(_) if self.gives_back => {}
                Err(_) => {
                    if self.end() {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether this way has ended, with nothing waiting in it.
    pub(super) fn end(&self) -> bool {
        self.forwards.remove(self.connection.id(), || self.waiting.is_empty())
    }

    /// Whoever can take the first frame.
    async fn reach(&mut self) -> Reached {
        if self.gives_back {
            return Reached::GiveBack;
        }
        let first = self.frames.get_mut().queue.front().map(|first| first.terms);
        let (until, only_here) = first.map_or((Instant::now() + MASTER_WAIT, false), |first| (first.until, first.is_from_member));
        loop {
            let Some(now) = self.known(until, only_here).await else { return Reached::Nobody };
            let reached = match now {
                Master::Here => self.forwards.here.get().and_then(Weak::upgrade).filter(|here| here.serves()).map(Reached::Here),
                Master::There(_) if only_here => Some(Reached::GiveBack),
                Master::There(place) => connect(place, until).await,
                Master::Unknown => Some(Reached::GiveBack),
            };
            match reached {
                Some(reached) => return reached,
                None if Instant::now() + AGAIN >= until => return Reached::Nobody,
                None => sleep(AGAIN).await,
            }
        }
    }

    /// Who is master, when that is known; unknown, when another member wants back what it has handed on and somebody may be.
    async fn known(&mut self, until: Instant, only_here: bool) -> Option<Master> {
        let wanted_back = async { drop(self.give_back.wait_for(|wanted| *wanted).await) };
        tokio::select! {
            known = timeout_at(until, self.master.wait_for(|now| *now != Master::Unknown)) => Some(known.ok()?.ok()?.clone()),
            () = wanted_back, if only_here => Some(Master::Unknown),
        }
    }

    /// Serves what waits, and then what comes, until nothing waits: from then on frames need not come here. Whether that is so.
    async fn serve(&mut self, here: &dyn Here) -> bool {
        if self.led_to.take().is_some()
            && let Some(mut heartbeat) = self.forwards.heartbeat(self.connection.id())
        {
            heartbeat.header.mark_oneway();
            // If this broker is not master any more the next one is told.
            drop(here.serve(&self.connection, heartbeat, None));
        }
        let mut served = 0;
        while let Some(Waiting { frame, permit, terms }) = self.next() {
            if let Some((frame, permit)) = here.serve(&self.connection, frame, permit) {
                self.frames.get_mut().queue.push_front(Waiting { frame, permit, terms });
                return false;
            }
            served += 1;
            if served % TURN == 0 {
                yield_now().await;
            }
        }
        self.end()
    }

    pub(super) fn next(&mut self) -> Option<Waiting> {
        self.frames.get_mut().queue.pop_front().or_else(|| self.waiting.try_recv().ok())
    }

    /// Leads the client to a master as long as that is one, and sees to what is under way then.
    async fn lead(&mut self, stream: TcpStream, place: String) {
        tracing::debug!(peer = %self.connection.peer(), place, "a client is led to the master");
        let (forwards, connection, frames) = (&*self.forwards, &self.connection, &self.frames);
        let way = Way { forwards, connection, frames, place: &place, more: Notify::new() };
        let ended = way.lead(stream, &mut self.waiting, &mut self.master).await;
        tracing::debug!(peer = %self.connection.peer(), place, %ended, "the way to the master has ended");
        if matches!(ended, Ended::Client) {
            return;
        }
        let knows_client = self.forwards.knows(self.connection.id());
        for unknown in self.frames.get_mut().settle(knows_client) {
            let why = "the group's master has changed or gone; this may have been carried out";
            answer(&self.connection, unknown.header(), ResponseCode::SystemError, why);
        }
        if matches!(ended, Ended::GivenBack) {
            // It may be about to become master, or this broker be about to hear of another one.
            let another = self.master.wait_for(|now| is_another(now, &place));
            drop(timeout(AGAIN, another).await);
        }
        self.led_to = Some(place);
    }
}

async fn connect(place: String, until: Instant) -> Option<Reached> {
    let at_most = until.min(Instant::now() + CONNECT);
    let stream = timeout_at(at_most, TcpStream::connect(&place)).await.ok()?.ok()?;
    // Small frames must not wait for each other.
    let _ = stream.set_nodelay(true);
    Some(Reached::There(stream, place))
}

fn give_back(connection: &Arc<Connection>, request: &Header) {
    let mut header = Header::response_to(request, ResponseCode::ServiceNotAvailable).with_remark("this broker is not master");
    header.ext.insert(NOT_MASTER, GIVEN_BACK);
    if !request.is_oneway() {
        // The member has gone.
        let _ = connection.reply(&header, Vec::new());
    }
}
