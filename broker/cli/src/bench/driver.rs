//! One connection of the load: keeps its requests in flight, writes many at a time, measures each from the moment it should have been sent.

use super::{
    pacer::Pacer,
    report::Recorder,
    scan,
    template::{OPAQUE_FIRST, Templates},
};
use crate::error::CliError;
use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{sleep, timeout},
};

/// Bytes encoded ahead of the socket; more would only wait here instead of in flight.
const OUT_BYTES_MAX: usize = 512 * 1024;
const INPUT_BYTES: usize = 256 * 1024;
/// Pause before a lost connection is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// How late an open loop may still start what it should have started before the end.
const END_GRACE: Duration = Duration::from_millis(100);
/// How often a connection without answers looks at the clock.
const STALL_CHECK: Duration = Duration::from_millis(250);

/// What all connections share.
pub(crate) struct Load {
    pub(crate) begin: Instant,
    pub(crate) warm_end: Instant,
    pub(crate) end: Option<Instant>,
    /// Requests that may still be started; without an end.
    pub(crate) budget: Option<AtomicU64>,
    /// Time between two requests of the whole open loop, ns.
    pub(crate) interval_ns: Option<f64>,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) batch: u64,
    pub(crate) body_bytes: u64,
    pub(crate) timeout: Duration,
    /// Messages acknowledged so far, for the progress line.
    pub(crate) acknowledged: AtomicU64,
}

/// What the connections of one thread share.
pub(crate) struct Part {
    pub(crate) recorder: Recorder,
    /// When the last counted answer came.
    pub(crate) last: Option<Instant>,
}

enum Next {
    /// Start a request that should have been sent then.
    Start(Instant),
    /// Not before.
    At(Instant),
    Done,
}

pub(crate) struct Lane {
    pub(crate) index: usize,
    pub(crate) addr: String,
    pub(crate) templates: Templates,
    pub(crate) load: Arc<Load>,
    pub(crate) part: Rc<RefCell<Part>>,
    /// Requests started, for the open loop's timetable.
    started: u64,
    slots: Vec<Option<Instant>>,
    free: Vec<usize>,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    heard: Instant,
}

impl Lane {
    pub(crate) fn new(index: usize, addr: String, templates: Templates, load: Arc<Load>, part: Rc<RefCell<Part>>) -> Self {
        let heard = load.begin;
        Self {
            index,
            addr,
            templates,
            load,
            part,
            started: 0,
            slots: Vec::new(),
            free: Vec::new(),
            out: Vec::new(),
            written: 0,
            input: vec![0; INPUT_BYTES],
            filled: 0,
            heard,
        }
    }

    /// Drives the connection to the end of the load; a lost one is made again.
    pub(crate) async fn run(mut self) -> Result<(), CliError> {
        let pacer = if self.load.interval_ns.is_some() { Some(Pacer::new()?) } else { None };
        loop {
            self.slots = vec![None; self.load.in_flight];
            self.free = (0..self.load.in_flight).rev().collect();
            (self.written, self.filled) = (0, 0);
            self.out.clear();
            self.heard = Instant::now();
            let lost = match self.connect().await {
                Ok(stream) => {
                    if pacer.is_none() {
                        // What is answered before the beginning is not counted: a closed loop must not start earlier.
                        sleep(self.load.begin.saturating_duration_since(Instant::now())).await;
                    }
                    self.drive(&stream, pacer.as_ref()).await.err()
                }
                Err(error) => Some(error),
            };
            let Some(reason) = lost else { break };
            let in_flight = self.slots.iter().flatten().count().max(1);
            self.part.borrow_mut().recorder.error(&reason, in_flight as u64);
            if self.over() {
                break;
            }
            sleep(RECONNECT_PAUSE).await;
        }
        self.note_unsent();
        Ok(())
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let connecting = timeout(self.load.timeout, TcpStream::connect(&self.addr)).await;
        let stream = connecting.map_err(|_| "no connection in time".to_owned())?.map_err(|e| format!("cannot connect: {}", e.kind()))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(stream)
    }

    async fn drive(&mut self, stream: &TcpStream, pacer: Option<&Pacer>) -> Result<(), String> {
        loop {
            let next = self.fill();
            self.write(stream)?;
            if matches!(next, Some(Next::Done)) && self.free.len() == self.slots.len() {
                return Ok(());
            }
            let interest = if self.written < self.out.len() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let wake = async {
                match (&next, pacer) {
                    (Some(Next::At(at)), Some(pacer)) => pacer.until(*at).await,
                    _ => sleep(STALL_CHECK).await,
                }
            };
            tokio::select! {
                ready = stream.ready(interest) => {
                    if ready.map_err(|e| e.to_string())?.is_readable() {
                        self.read(stream)?;
                    }
                }
                () = wake => self.check_stall()?,
            }
        }
    }

    /// Encodes as many requests as may start. `None` when there is no room for another.
    fn fill(&mut self) -> Option<Next> {
        let now = Instant::now();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        while self.out.len() < OUT_BYTES_MAX {
            let slot = *self.free.last()?;
            match self.next(now) {
                Next::Start(intended) => {
                    self.free.pop();
                    if self.free.len() + 1 == self.slots.len() {
                        self.heard = now;
                    }
                    self.slots[slot] = Some(intended);
                    self.templates.encode(OPAQUE_FIRST + slot as i32, now_ms, &mut self.out);
                }
                other => return Some(other),
            }
        }
        None
    }

    fn next(&mut self, now: Instant) -> Next {
        let load = &*self.load;
        let start = match load.interval_ns {
            None if load.end.is_some_and(|end| now >= end) => return Next::Done,
            None => now,
            Some(_) => {
                let intended = self.intended();
                if load.end.is_some_and(|end| intended >= end || now >= end + END_GRACE) {
                    return Next::Done;
                }
                if intended > now {
                    return if self.budget_left() { Next::At(intended) } else { Next::Done };
                }
                intended
            }
        };
        if let Some(budget) = &load.budget
            && budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        {
            return Next::Done;
        }
        self.started += 1;
        Next::Start(start)
    }

    /// When the next request of an open loop is due: the connections take turns.
    fn intended(&self) -> Instant {
        let number = self.index as f64 + self.started as f64 * self.load.connections as f64;
        self.load.begin + Duration::from_nanos((number * self.load.interval_ns.unwrap_or(0.0)) as u64)
    }

    fn budget_left(&self) -> bool {
        self.load.budget.as_ref().is_none_or(|b| b.load(Ordering::Relaxed) > 0)
    }

    fn over(&self) -> bool {
        self.load.end.is_some_and(|end| Instant::now() >= end) || !self.budget_left()
    }

    fn write(&mut self, stream: &TcpStream) -> Result<(), String> {
        while self.written < self.out.len() {
            match stream.try_write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("the connection was lost: {}", e.kind())),
            }
        }
        Ok(())
    }

    fn read(&mut self, stream: &TcpStream) -> Result<(), String> {
        match stream.try_read(&mut self.input[self.filled..]) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(n) => {
                self.filled += n;
                self.heard = Instant::now();
                self.take_answers()
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(format!("the connection was lost: {}", e.kind())),
        }
    }

    fn take_answers(&mut self) -> Result<(), String> {
        let mut part = self.part.borrow_mut();
        let mut at = 0;
        let mut acknowledged = 0;
        while let Some((answer, bytes)) = scan::next(&self.input[at..self.filled])? {
            at += bytes;
            let slot = answer.opaque.wrapping_sub(OPAQUE_FIRST) as usize;
            let Some(intended) = self.slots.get_mut(slot).filter(|_| !answer.is_request).and_then(Option::take) else { continue };
            self.free.push(slot);
            if answer.code == 0 {
                acknowledged += self.load.batch;
            }
            if self.heard < self.load.warm_end {
                continue;
            }
            part.last = Some(self.heard);
            part.recorder.requests += 1;
            part.recorder.latency(self.heard.saturating_duration_since(intended).as_nanos() as u64);
            if answer.code == 0 {
                part.recorder.messages += self.load.batch;
                part.recorder.bytes += self.load.batch * self.load.body_bytes;
            } else {
                part.recorder.refusal(answer.code);
            }
        }
        self.load.acknowledged.fetch_add(acknowledged, Ordering::Relaxed);
        if at == 0 && self.filled == self.input.len() {
            return Err("an answer is larger than any answer to a send".to_owned());
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn check_stall(&self) -> Result<(), String> {
        let waiting = self.free.len() < self.slots.len();
        if waiting && self.heard.elapsed() > self.load.timeout { Err(format!("no answer within {:?}", self.load.timeout)) } else { Ok(()) }
    }

    /// What an overloaded open loop could not even start counts with the time it had waited: leaving it out would hide the overload.
    fn note_unsent(&mut self) {
        let Some(end) = self.load.end.filter(|_| self.load.interval_ns.is_some()) else { return };
        let mut unsent = 0;
        while self.intended() < end && self.budget_left() {
            let age = end.saturating_duration_since(self.intended()).as_nanos() as u64;
            self.part.borrow_mut().recorder.latency(age);
            self.started += 1;
            unsent += 1;
        }
        self.part.borrow_mut().recorder.error("not sent in time: the rate is more than the server takes with so many in flight", unsent);
    }
}
