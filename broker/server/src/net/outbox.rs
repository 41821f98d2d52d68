//! What waits to be written to a connection, and when it is written.

use super::{CloseReason, Connection, NetStats};
use bytes::{Buf, Bytes};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
};
use tokio::net::TcpStream;

/// Most pieces handed to the kernel in one call.
const PIECES_MAX: usize = 64;
/// Most bytes written for one connection before others have their turn: the kernel copies them on this thread, some 200 µs of its time.
const TURN_BYTES: usize = 256 * 1024;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static DIRTY: RefCell<Vec<Arc<Connection>>> = const { RefCell::new(Vec::new()) };
}

/// While one lives, answers made on this thread are gathered; when the outermost ends they are written. Hold it across plain calls only, never across an
/// await: it belongs to the thread.
#[must_use = "the batch ends when this is dropped"]
pub struct Batch {
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Batch {
    /// Begins a batch.
    pub fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self { _not_send: std::marker::PhantomData }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 {
            flush_dirty();
        }
    }
}

/// Writes out what this thread has gathered so far.
pub fn flush_dirty() {
    // Taken out first: writing may close a connection, and whatever that sets off may answer others.
    let mut dirty = DIRTY.take();
    for connection in dirty.drain(..) {
        connection.flush();
    }
    DIRTY.with_borrow_mut(|list| {
        if list.is_empty() {
            *list = dirty;
        }
    });
}

/// Writes now, or at the end of the batch this thread is in.
pub(super) fn flush_soon(connection: &Arc<Connection>) {
    if DEPTH.get() == 0 {
        connection.flush();
        return;
    }
    DIRTY.with_borrow_mut(|list| {
        // Answers come in runs for one connection. One that is listed twice costs a look into an empty outbox.
        if list.last().is_none_or(|last| !Arc::ptr_eq(last, connection)) {
            list.push(Arc::clone(connection));
        }
    });
}

/// Pieces in the order in which they go out.
#[derive(Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// A task waits for the socket and will write the rest.
    pub(super) draining: bool,
    /// Nothing is taken any more.
    pub(super) closed: Option<CloseReason>,
}

/// What a try to write came to.
pub(super) enum Written {
    /// Everything.
    All,
    /// As much as one turn allows.
    Turn,
    /// The socket is full.
    Blocked,
}

impl Outbox {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Drops everything and says how much it was.
    pub(super) fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }

    /// Writes what the socket takes, within one turn.
    pub(super) fn write_to(&mut self, stream: &TcpStream, stats: &NetStats) -> io::Result<Written> {
        let mut left = TURN_BYTES;
        while !self.pieces.is_empty() {
            if left == 0 {
                return Ok(Written::Turn);
            }
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let count = self.fill(&mut slices, left);
            match stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    left -= written;
                    NetStats::add(&stats.bytes_out, written);
                    stats.outbox_bytes.fetch_sub(written as u64, std::sync::atomic::Ordering::Relaxed);
                    self.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.pieces.capacity() > PIECES_MAX {
            self.pieces = VecDeque::new();
        }
        Ok(Written::All)
    }

    /// The first pieces, up to so many bytes; how many slices they took.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>; PIECES_MAX], mut left: usize) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            if left == 0 {
                break;
            }
            let taken = piece.len().min(left);
            *slice = IoSlice::new(&piece[..taken]);
            left -= taken;
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.pieces.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.pieces.pop_front();
        }
    }
}
