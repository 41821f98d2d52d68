//! Real etcd processes, and a wire before one that loses what it is told to.

use crate::contract::wire::free_port;
use sluice_group::coordinator::{Coordinator, EtcdCoordinator};
use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// For what has to come at last on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));

pub(crate) fn coordinator(ports: &[u16], cluster: &str, group: &str) -> EtcdCoordinator {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    EtcdCoordinator::new(RUNTIME.handle().clone(), &endpoints, cluster, group).expect("endpoints")
}

fn program() -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("etcd")).find(|file| file.is_file());
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
        assert!(!ci, "etcd is missing: install the package etcd-server");
        eprintln!("skipped: etcd is missing (package etcd-server)");
    }
    found
}

/// One member of a cluster; killed when the test ends, however it ends.
pub(crate) struct Etcd {
    program: PathBuf,
    dir: TempDir,
    name: String,
    pub(crate) port: u16,
    peer: u16,
    cluster: String,
    child: Option<Child>,
}

impl Etcd {
    /// A cluster of one. `None`: there is no etcd on this machine.
    pub(crate) fn start() -> Option<Self> {
        Self::cluster(1)?.pop()
    }

    pub(crate) fn cluster(members: usize) -> Option<Vec<Self>> {
        let program = program()?;
        let peers: Vec<_> = (0..members).map(|_| free_port()).collect();
        let cluster = peers.iter().enumerate().map(|(i, peer)| format!("m{i}=http://127.0.0.1:{peer}")).collect::<Vec<_>>().join(",");
        let member = |(i, peer): (usize, &u16)| Self {
            program: program.clone(),
            dir: tempfile::tempdir().expect("a directory"),
            name: format!("m{i}"),
            port: free_port(),
            peer: *peer,
            cluster: cluster.clone(),
            child: None,
        };
        let mut all: Vec<_> = peers.iter().enumerate().map(member).collect();
        all.iter_mut().for_each(Self::spawn);
        all.iter_mut().for_each(Self::await_ready);
        Some(all)
    }

    fn spawn(&mut self) {
        let [client, peer] = [self.port, self.peer].map(|port| format!("http://127.0.0.1:{port}"));
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let mut command = Command::new(&self.program);
        command.args(["--name", &self.name, "--initial-cluster", &self.cluster, "--logger", "zap"]);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.arg("--data-dir").arg(self.data());
        self.child = Some(command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("etcd starts"));
    }

    fn await_ready(&mut self) {
        let start = Instant::now();
        while let Err(error) = coordinator(&[self.port], "is-it", "ready").read(Duration::from_secs(1)) {
            let ended = self.child.as_mut().expect("spawned").try_wait().expect("waitable");
            let told = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "{error}; etcd: {ended:?}, {}", told());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// After `kill`, on what it had.
    pub(crate) fn start_again(&mut self) {
        self.spawn();
        self.await_ready();
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("spawned").id();
        sluice_apiserver::signal(id, signal);
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A copy of what it has, while it does not run.
    pub(crate) fn save(&self) {
        assert!(self.child.is_none());
        copy(&self.data(), &self.dir.path().join("saved"));
    }

    /// Sets it back to the copy.
    pub(crate) fn restore(&self) {
        assert!(self.child.is_none());
        std::fs::remove_dir_all(self.data()).expect("removed");
        copy(&self.dir.path().join("saved"), &self.data());
    }

    /// Writes what no coordinator would, by etcd's gateway for JSON.
    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key.as_bytes()), base64(value));
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("listening");
        stream.set_read_timeout(Some(PATIENCE)).expect("settable");
        write!(stream, "POST /v3/kv/put HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs").success());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | usize::from(three.get(i).copied().unwrap_or(0)));
        (0..4).for_each(|i| text.push(if i <= three.len() { char::from(DIGITS[bits >> (18 - 6 * i) & 63]) } else { '=' }));
    }
    text
}

/// The port of a server whose every answer is an empty message, in HTTP/2 as gRPC has it.
pub(crate) fn that_answers_nothing() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || answer_nothing(&client));
        }
    });
    port
}

fn answer_nothing(client: &TcpStream) {
    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let (mut from, mut to) = (client, client);
    let mut frame = |kind: u8, flags: u8, stream: [u8; 4], body: &[u8]| {
        let mut bytes = vec![0, 0, u8::try_from(body.len()).expect("short"), kind, flags];
        bytes.extend(stream);
        bytes.extend(body);
        let _ = to.write_all(&bytes);
    };
    if from.read_exact(&mut [0; PREFACE]).is_err() {
        return;
    }
    frame(SETTINGS, 0, [0; 4], b"");
    let mut head = [0; 9];
    while from.read_exact(&mut head).is_ok() {
        let mut body = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if from.read_exact(&mut body).is_err() {
            return;
        }
        let stream = [head[5], head[6], head[7], head[8]];
        if head[3] == DATA && head[4] & END_STREAM != 0 {
            // Status 200; no compression, length 0; grpc-status 0.
            frame(HEADERS, END_HEADERS, stream, b"\x88");
            frame(DATA, 0, stream, &[0; 5]);
            frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x00\x0bgrpc-status\x010");
        }
    }
}
