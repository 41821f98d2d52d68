use super::*;
use crate::config::{ConfigFlags, Loaded};
use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};
use sluice_env::{
    Disk,
    sim::{HookedDisk, Op},
};
use sluice_protocol::{Frame, FrameLimits, Header, RequestCode, ResponseCode, Step, next_frame};
use std::{io::Read as _, net::SocketAddr};

/// A door that is shut until somebody opens it.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut open = self.open.lock();
        // A test that fails before it opens the gate must end all the same.
        self.changed.wait_while_for(&mut open, |open| !*open, Duration::from_secs(30));
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.changed.notify_all();
    }
}

/// A disk whose checkpoint is opened only after the gate was: a recovery that takes as long as a test wants.
fn slow(disk: Arc<dyn Disk>, gate: &Arc<Gate>) -> Arc<dyn Disk> {
    let gate = Arc::clone(gate);
    let waits = move |op, name: &str| {
        if op == Op::Open && name == "checkpoint" {
            gate.pass();
        }
        Ok(())
    };
    Arc::new(HookedDisk::new(disk, waits))
}

fn config(dir: &std::path::Path, roles: &str) -> Config {
    let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let port = |i: usize| held[i].local_addr().expect("bound").port().to_string();
    let values = [
        ("roles", roles.to_owned()),
        ("data_dir", dir.display().to_string()),
        ("listen.address", "127.0.0.1".to_owned()),
        ("broker.vip_port", "off".to_owned()),
        ("storage.segment_size", "16MiB".to_owned()),
        ("naming.port", port(0)),
        ("broker.port", port(1)),
        ("http.port", port(2)),
    ];
    Loaded::load_with(&ConfigFlags { file: None, values: values.to_vec() }, []).expect("valid").config
}

/// The whole answer; `None` while nobody listens.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    Some(answer)
}

async fn until(port: u16, path: &'static str, so: impl Fn(&str) -> bool) {
    let wait = async {
        loop {
            let answer = tokio::task::spawn_blocking(move || get(port, path)).await.expect("runs");
            if answer.is_some_and(|answer| so(&answer)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("in vain: {path}"));
}

async fn probes_are_answered_during_recovery(roles: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), roles);
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let places = Places::with(&config, move |dir| {
        let env = sluice_env::real::env(dir)?;
        Ok(sluice_env::Env { disk: slow(env.disk.clone(), &door), ..env })
    });
    let http = config.listen.http_port.expect("given");
    let started = tokio::spawn(async move { Running::start(&config, &Ports::of(&config), &places).await });
    until(http, "/healthz", |answer| answer.starts_with("HTTP/1.1 200")).await;
    until(http, "/readyz", |answer| answer.starts_with("HTTP/1.1 503") && answer.contains("recovering")).await;
    until(http, "/metrics", |answer| answer.contains("sluice_uptime_seconds")).await;
    assert!(!started.is_finished());
    gate.open();
    let running = started.await.expect("runs").expect("starts");
    until(http, "/readyz", |answer| answer.starts_with("HTTP/1.1 200")).await;
    running.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_answers_probes_while_it_recovers_and_is_not_ready() {
    probes_are_answered_during_recovery("naming,broker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_answers_probes_while_it_recovers_and_is_not_ready() {
    probes_are_answered_during_recovery("naming").await;
}

#[test]
fn a_recovery_says_how_far_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |progress: &RecoveryProgress| {
        let env = sluice_env::real::env(dir.path()).expect("a directory");
        Store::open_watched(env, sluice_store::StoreOptions { segment_bytes: 4 << 20, ..Default::default() }, progress).expect("opens")
    };
    let progress = RecoveryProgress::default();
    assert!(recovering(&progress).contains("opening its data directory"));
    let store = open(&progress);
    let topic = sluice_types::Topic::new("t").expect("legal");
    let change = sluice_store::MetaChange { table: sluice_store::MetaTable::KvConfig, key: topic.to_string(), value: Some(vec![7; 200_000]) };
    for _ in 0..8 {
        let mut batch = sluice_store::Batch::new();
        batch.meta(std::slice::from_ref(&change)).expect("small");
        store.append(batch, sluice_store::Wait::Durable).expect("stored");
    }
    // Dropped without a close: there is no checkpoint, all has to be read.
    drop(store);
    drop(open(&progress));
    assert!(progress.read_bytes() >= 8 * 200_000 && progress.total_bytes() >= progress.read_bytes(), "{progress:?}");
    assert_eq!(recovering(&progress), "recovering: 1 MiB of the log are read, of 4 MiB at most");
}

#[test]
fn a_name_server_alone_takes_frames_as_large_as_java_sends_them() {
    let dir = std::path::Path::new("unused");
    assert_eq!(net_limits(&config(dir, "naming")).frame.frame_bytes_max, 16 << 20);
    assert_eq!(net_limits(&config(dir, "naming,broker")).frame.frame_bytes_max, 5 << 20);
}

/// The next frame on a connection; `None` at its end.
fn next_on(stream: &mut std::net::TcpStream, input: &mut BytesMut) -> Option<Frame> {
    loop {
        if let Step::Frame(frame) = next_frame(input, &FrameLimits::default()).expect("a frame") {
            return Some(frame);
        }
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).expect("within the deadline");
        if read == 0 {
            return None;
        }
        input.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_refuses_a_registration_keeps_its_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let name_server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut config = config(dir.path(), "naming,broker");
    config.roles.naming = false;
    config.naming_addresses = vec![name_server.local_addr().expect("bound").to_string()];
    let asked_twice = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = name_server.accept().expect("the broker comes");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let mut input = BytesMut::new();
        let first = next_on(&mut stream, &mut input).expect("a registration");
        let answer = Frame { header: Header::response_to(&first.header, ResponseCode::SystemError), body: Bytes::new() };
        let mut out = BytesMut::new();
        answer.encode(&mut out).expect("small");
        stream.write_all(&out).expect("written");
        let second = next_on(&mut stream, &mut input).map(|frame| frame.header.request_code());
        (first.header.request_code(), second)
    });
    let running = Running::start(&config, &Ports::of(&config), &Places::real(&config)).await.expect("starts");
    let register = Some(RequestCode::RegisterBroker);
    assert_eq!(asked_twice.await.expect("runs"), (register, Some(register)), "the same connection");
    running.stop(Duration::from_secs(5)).await;
}
