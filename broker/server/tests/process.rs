//! The binary as a user meets it: it starts, says so, answers probes, stops on a signal, and refuses a wrong start in words that help.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// Ports that were free a moment ago.
struct Ports {
    naming: u16,
    broker: u16,
    http: u16,
}

impl Ports {
    fn free() -> Self {
        // All three are held together, so that they differ.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let port = |i: usize| held[i].local_addr().expect("bound").port();
        Self { naming: port(0), broker: port(1), http: port(2) }
    }
}

fn server(dir: &Path, ports: &Ports) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_clear().args(["server", "--listen-address", "127.0.0.1", "--broker-vip-port", "off", "--storage-segment-size", "16MiB"]);
    command.arg("--data-dir").arg(dir);
    command.args(["--naming-port", &ports.naming.to_string(), "--broker-port", &ports.broker.to_string(), "--http-port", &ports.http.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A started server; killed when the test ends early.
struct Server {
    child: Child,
    ready_line: String,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
        if line.is_empty() {
            let output = child.wait_with_output().expect("ended");
            panic!("the server ended at once: {}", String::from_utf8_lossy(&output.stderr));
        }
        Self { child, ready_line: line }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    fn stop(&mut self) -> std::process::ExitStatus {
        self.signal("-TERM");
        wait(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waitable") {
            return status;
        }
        assert!(start.elapsed() < DEADLINE, "the process did not end");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn refused(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the binary runs");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("listening");
    stream.set_read_timeout(Some(DEADLINE)).expect("settable");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

#[test]
fn a_server_says_when_it_is_ready_answers_probes_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let mut server = Server::start(server(dir.path(), &ports));
    assert!(server.ready_line.contains("ready"), "{}", server.ready_line);
    for port in [ports.naming, ports.broker, ports.http] {
        assert!(server.ready_line.contains(&port.to_string()), "{port} in {}", server.ready_line);
    }
    assert!(get(ports.http, "/healthz").starts_with("HTTP/1.1 200"));
    let ready = get(ports.http, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let metrics = get(ports.http, "/metrics");
    for name in ["sluice_store_writable 1", "sluice_store_poisoned 0", "sluice_connections", "sluice_held_pulls", "sluice_build_info{"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    TcpStream::connect(("127.0.0.1", ports.naming)).expect("the name server listens");
    TcpStream::connect(("127.0.0.1", ports.broker)).expect("the broker listens");
    assert!(server.stop().success());
}

#[test]
fn a_stopped_server_starts_again_on_its_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    for _ in 0..2 {
        let mut server = Server::start(server(dir.path(), &ports));
        assert!(server.stop().success());
    }
}

#[test]
fn a_killed_server_starts_again_on_its_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    drop(Server::start(server(dir.path(), &ports)));
    assert!(Server::start(server(dir.path(), &ports)).stop().success());
}

#[test]
fn a_second_server_on_the_same_directory_is_told_who_holds_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let _first = Server::start(server(dir.path(), &Ports::free()));
    let (code, stderr) = refused(server(dir.path(), &Ports::free()));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("another process") && stderr.contains("data_dir"), "{stderr}");
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let _taken = TcpListener::bind(("127.0.0.1", ports.broker)).expect("free");
    let (code, stderr) = refused(server(dir.path(), &ports));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("broker.port") && stderr.contains(&ports.broker.to_string()), "{stderr}");
}

#[test]
fn a_data_directory_that_cannot_be_made_stops_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").expect("writable");
    let (code, stderr) = refused(server(&file.join("below"), &Ports::free()));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("data_dir"), "{stderr}");
}

#[test]
fn a_wrong_configuration_ends_with_code_2_and_every_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = server(dir.path(), &Ports::free());
    command.args(["--log-format", "xml", "--storage-flush", "never"]);
    let (code, stderr) = refused(command);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("log.format") && stderr.contains("storage.flush"), "{stderr}");
}

#[test]
fn a_name_server_alone_needs_no_data_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let data = dir.path().join("never-made");
    let mut command = server(&data, &ports);
    command.args(["--roles", "naming"]);
    let mut server = Server::start(command);
    TcpStream::connect(("127.0.0.1", ports.naming)).expect("the name server listens");
    TcpStream::connect(("127.0.0.1", ports.broker)).expect_err("no broker");
    assert!(get(ports.http, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(server.stop().success());
    assert!(!data.exists());
}
