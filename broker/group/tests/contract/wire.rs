//! A wire before a coordinator that loses what it is told to.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

/// Below the ports that the system gives to connections on their way out: one of those could be the port of an etcd that is down for a moment.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 500).expect("small") * 20;
    (0..2000)
        .map(|_| 20_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// What becomes of the bytes on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loses {
    Nothing,
    /// What the client says, without a word.
    Requests,
    /// What the server says, without a word.
    Answers,
    /// The whole connection, a moment after the server has begun to answer.
    AnswersAndItself,
}

const ALL: [Loses; 4] = [Loses::Nothing, Loses::Requests, Loses::Answers, Loses::AnswersAndItself];

/// A port before a coordinator's.
pub(crate) struct Wire {
    pub(crate) port: u16,
    loses: Arc<AtomicU8>,
}

impl Wire {
    pub(crate) fn to(server: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("free");
        let loses = Arc::new(AtomicU8::new(0));
        let shared = loses.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let ends = [(&client, &server, shared.clone(), Loses::Requests), (&server, &client, shared.clone(), Loses::Answers)];
                for (from, to, loses, lossy) in ends {
                    let (from, to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                    thread::spawn(move || pass(&from, &to, &loses, lossy));
                }
            }
        });
        Self { port, loses }
    }

    pub(crate) fn loses(&self, what: Loses) {
        self.loses.store(what as u8, Ordering::SeqCst);
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, loses: &AtomicU8, lossy: Loses) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let now = ALL[usize::from(loses.load(Ordering::SeqCst))];
        if now == Loses::AnswersAndItself && lossy == Loses::Answers {
            // The rest of the request is let through meanwhile.
            thread::sleep(Duration::from_millis(300));
            break;
        }
        if now != lossy && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
