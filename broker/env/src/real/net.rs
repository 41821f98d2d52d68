//! TCP.

use crate::{Connection, Listener, Net};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// TCP over the machine's own interfaces, without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNet;

impl Net for RealNet {
    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let listener = TcpListener::bind(address).map_err(|error| with_address(&error, "cannot listen at", address))?;
        // So that one who is gone before he is accepted keeps nobody waiting.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        Ok(Box::new(RealListener { listener, address }))
    }

    fn connect(&self, address: &str, timeout: Duration) -> io::Result<Arc<dyn Connection>> {
        let deadline = Deadline::after(timeout);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for place in address.to_socket_addrs().map_err(|error| with_address(&error, "cannot look up", address))? {
            match deadline.left().and_then(|left| TcpStream::connect_timeout(&place, left)) {
                Ok(stream) => return Ok(Arc::new(RealConnection::new(stream, place)?)),
                Err(error) => failed = error,
            }
        }
        Err(with_address(&failed, "cannot connect to", address))
    }
}

fn with_address(error: &io::Error, what: &str, address: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {address}: {error}"))
}

/// When a call has to come back.
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// Time left, or that there is none.
    fn left(&self) -> io::Result<Duration> {
        let left = self.0.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Waits until there is something to do.
    fn wait(&self, socket: impl AsFd, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.left()?;
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&socket, flags)], left.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct RealListener {
    listener: TcpListener,
    address: String,
}

impl Listener for RealListener {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn accept(&self, timeout: Duration) -> io::Result<Arc<dyn Connection>> {
        let deadline = Deadline::after(timeout);
        loop {
            deadline.wait(&self.listener, PollFlags::IN)?;
            match self.listener.accept() {
                Ok((stream, peer)) => return Ok(Arc::new(RealConnection::new(stream, peer)?)),
                // It was gone already, or another thread was quicker.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct RealConnection {
    stream: TcpStream,
    peer: SocketAddr,
}

impl RealConnection {
    fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, peer })
    }
}

/// Whether a call has only to be tried again when the socket is ready.
fn not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Connection for RealConnection {
    fn peer(&self) -> String {
        self.peer.to_string()
    }

    fn read(&self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        let deadline = Deadline::after(timeout);
        loop {
            match (&self.stream).read(into) {
                Err(error) if not_now(&error) => deadline.wait(&self.stream, PollFlags::IN)?,
                result => return result,
            }
        }
    }

    fn write_all(&self, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let deadline = Deadline::after(timeout);
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if not_now(&error) => deadline.wait(&self.stream, PollFlags::OUT)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn close(&self) {
        // Of one that has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn pair() -> (Arc<dyn Connection>, Arc<dyn Connection>) {
        let listener = RealNet.listen("127.0.0.1:0").unwrap();
        let here = RealNet.connect(&listener.address(), LONG).unwrap();
        (here, listener.accept(LONG).unwrap())
    }

    #[test]
    fn what_is_written_comes_and_then_the_end() {
        let (here, there) = pair();
        here.write_all(b"hello", LONG).unwrap();
        let mut bytes = [0; 16];
        assert_eq!((there.read(&mut bytes, LONG).unwrap(), &bytes[..5]), (5, &b"hello"[..]));
        drop(here);
        assert_eq!(there.read(&mut bytes, LONG).unwrap(), 0);
    }

    #[test]
    fn every_wait_has_its_end() {
        let listener = RealNet.listen("127.0.0.1:0").unwrap();
        assert_eq!(listener.accept(SOON).err().map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
        let (here, _there) = pair();
        assert_eq!(here.read(&mut [0; 16], SOON).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // More than any socket's buffers, and nobody reads.
        assert_eq!(here.write_all(&vec![0; 64 << 20], SOON).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn closing_wakes_who_reads() {
        let (here, _there) = pair();
        let closer = here.clone();
        let waiting = thread::spawn(move || here.read(&mut [0; 16], LONG));
        thread::sleep(SOON);
        closer.close();
        assert!(matches!(waiting.join().unwrap(), Ok(0) | Err(_)));
    }

    #[test]
    fn where_nobody_listens_is_refused_and_told_by_its_address() {
        let address = RealNet.listen("127.0.0.1:0").unwrap().address();
        let error = RealNet.connect(&address, LONG).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&address), "{error}");
    }
}
