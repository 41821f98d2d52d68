//! One client's connection to one master.

use super::{
    Forwards, GIVEN_BACK, Master, NOT_MASTER, UNDONE, answer,
    frames::{Frames, Waiting, encode_forwarded},
};
use crate::net::Connection;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_protocol::{ExtFields, Frame, FrameLimits, Header, RequestCode as Code, ResponseCode, Step, next_frame};
use std::{fmt, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

/// Longest time in which the master takes a frame.
const WRITE: Duration = Duration::from_secs(10);
/// Longest wait for what an old master still has to say. One that lives answers at once, and gives back what it has not begun.
const DRAIN: Duration = Duration::from_millis(500);

/// Why a way has ended.
pub(super) enum Ended {
    /// Another one is master.
    Changed,
    /// This one has said that it is not.
    GivenBack,
    /// The connection has.
    Broken(io::Error),
    /// The client has gone.
    Client,
}

/// What one who is not master says of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    GivenBack,
    Undone,
    Void,
}

impl Mark {
    fn read(text: &str) -> Self {
        match text {
            GIVEN_BACK => Self::GivenBack,
            UNDONE => Self::Undone,
            // The one that says least.
            _ => Self::Void,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("another one is master"),
            Self::GivenBack => f.write_str("it says that it is not master"),
            Self::Broken(error) => error.fmt(f),
            Self::Client => f.write_str("the client has gone"),
        }
    }
}

pub(super) struct Way<'a> {
    pub(super) forwards: &'a Forwards,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) frames: &'a Mutex<Frames>,
    pub(super) place: &'a str,
    /// Something was put into the queue by an answer.
    pub(super) more: Notify,
}

/// Whether somebody else than the one at `place` is known to be master.
pub(super) fn is_another(now: &Master, place: &str) -> bool {
    match now {
        Master::Unknown => false,
        Master::Here => true,
        Master::There(now) => now != place,
    }
}

impl Way<'_> {
    /// Hands frames on and answers back until there is a reason to end. Then nothing is written any more, and what the master has begun is waited for, for a moment.
    pub(super) async fn lead(&self, stream: TcpStream, waiting: &mut mpsc::Receiver<Waiting>, master: &mut watch::Receiver<Master>) -> Ended {
        let (reader, mut writer) = stream.into_split();
        let mut answers = Answers { reader, buffer: BytesMut::new(), limits: self.forwards.limits };
        let changed = async { drop(master.wait_for(|now| is_another(now, self.place)).await) };
        let ended = tokio::select! {
            ended = self.read(&mut answers) => ended,
            ended = self.write(&mut writer, waiting) => ended,
            () = changed => Ended::Changed,
        };
        if !matches!(ended, Ended::Client) {
            self.take_back(&mut writer).await;
        }
        // Also what a client has sent that is gone: a connection that is closed with answers unread takes along what the other end has not read yet.
        self.drain(&mut answers).await;
        ended
    }

    /// The client's last heartbeat, then its frames.
    async fn write(&self, writer: &mut OwnedWriteHalf, waiting: &mut mpsc::Receiver<Waiting>) -> Ended {
        match self.write_all(writer, waiting).await {
            Ok(()) => Ended::Client,
            Err(error) => Ended::Broken(error),
        }
    }

    async fn write_all(&self, writer: &mut OwnedWriteHalf, waiting: &mut mpsc::Receiver<Waiting>) -> io::Result<()> {
        if let Some(mut heartbeat) = self.forwards.heartbeat(self.connection.id()) {
            // Its client has had its answer.
            heartbeat.header.mark_oneway();
            let mut head = BytesMut::new();
            encode_forwarded(&mut heartbeat, "1", &mut head).map_err(io::Error::other)?;
            self.write_one(writer, &head, &heartbeat.body).await?;
        }
        while let Some(next) = self.next(waiting).await {
            let taken = self.frames.lock().take(next);
            match taken {
                Ok((opaque, head, body)) => {
                    self.write_one(writer, &head, &body).await?;
                    self.frames.lock().written(opaque);
                }
                Err(wrong) => {
                    let (waiting, error) = *wrong;
                    answer(self.connection, waiting.header(), ResponseCode::SystemError, &error.to_string());
                }
            }
        }
        Ok(())
    }

    /// What has waited longest.
    async fn next(&self, waiting: &mut mpsc::Receiver<Waiting>) -> Option<Waiting> {
        loop {
            let first = self.frames.lock().queue.pop_front();
            if first.is_some() {
                return first;
            }
            tokio::select! {
                next = waiting.recv() => return next,
                () = self.more.notified() => {}
            }
        }
    }

    async fn write_one(&self, writer: &mut OwnedWriteHalf, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.frames.lock().is_writing = true;
        let both = async {
            writer.write_all(head).await?;
            writer.write_all(body).await
        };
        timeout(WRITE, both).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.frames.lock().is_writing = false;
        Ok(())
    }

    async fn read(&self, answers: &mut Answers) -> Ended {
        loop {
            match answers.next().await {
                Ok(frame) => {
                    if self.answered(frame) {
                        return Ended::GivenBack;
                    }
                }
                Err(error) => return Ended::Broken(error),
            }
        }
    }

    fn knows_client(&self) -> bool {
        self.forwards.knows(self.connection.id())
    }

    /// Gives the client what comes from the master, unless the master is none. Whether it has given something back.
    fn answered(&self, frame: Frame) -> bool {
        let Frame { mut header, body } = frame;
        if !header.is_response() {
            self.give(&header, body);
            return false;
        }
        let mark = header.ext.get(NOT_MASTER).map(Mark::read);
        if mark == Some(Mark::GivenBack) {
            self.frames.lock().given_back(header.opaque);
            return true;
        }
        let Some(waiting) = self.frames.lock().answered(header.opaque) else { return false };
        if mark.is_some_and(|mark| self.is_repeated(mark, &waiting)) {
            self.frames.lock().repeat(waiting);
            self.more.notify_one();
            return false;
        }
        if !waiting.header().is_oneway() {
            header.ext.remove(NOT_MASTER);
            header.opaque = waiting.header().opaque;
            self.give(&header, body);
        }
        false
    }

    /// Whether what an old master does not say is asked for again, and not by the client.
    fn is_repeated(&self, mark: Mark, waiting: &Waiting) -> bool {
        waiting.terms.until > Instant::now() && (mark == Mark::Undone || waiting.is_repeatable(self.knows_client()))
    }

    fn give(&self, header: &Header, body: Bytes) {
        if let Err(error) = self.connection.reply(header, vec![body]) {
            // Its end is noticed where frames come in.
            tracing::debug!(peer = %self.connection.peer(), %error, "an answer of the master's was not given to its client");
        }
    }

    /// Asks for what the old master has not begun: it may not know yet whom it could tell of.
    async fn take_back(&self, writer: &mut OwnedWriteHalf) {
        if self.frames.lock().is_writing {
            // Nothing can follow half a frame.
            return;
        }
        let mut header = Header::request(Code::SluiceGiveBack, 0, ExtFields::new());
        header.mark_oneway();
        let mut head = BytesMut::new();
        if encode_forwarded(&mut Frame::without_body(header), "1", &mut head).is_ok() {
            // If it does not take that it does not answer either.
            let _ = timeout(DRAIN, writer.write_all(&head)).await;
        }
    }

    /// Until nothing is under way that can't be asked for again.
    async fn drain(&self, answers: &mut Answers) {
        let until = Instant::now() + DRAIN;
        while self.frames.lock().owes(self.knows_client())
            && let Ok(Ok(frame)) = timeout_at(until, answers.next()).await
        {
            self.answered(frame);
        }
    }
}

/// What comes from the master.
struct Answers {
    reader: OwnedReadHalf,
    buffer: BytesMut,
    limits: FrameLimits,
}

impl Answers {
    /// Dropped before it is ready it has taken nothing.
    async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Step::Frame(frame) = next_frame(&mut self.buffer, &self.limits).map_err(io::Error::other)? {
                return Ok(frame);
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
