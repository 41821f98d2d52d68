//! The binary as a user meets it: it starts, says so, answers probes, stops on a signal, and refuses a wrong start in words that help.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use sluice_client::{ClientOptions, Connection, Request};
use sluice_protocol::{
    ExtFields, Frame, RequestCode, ResponseCode, TypedHeader,
    headers::{KvConfigRequest, PutKvConfigRequest, RegisterBrokerRequest, SendMessageRequest, UpdateConsumerOffsetRequest},
};
use std::{
    collections::BTreeSet,
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

/// One request, answered.
fn ask(port: u16, request: Request) -> Frame {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let connection = Connection::open(&format!("127.0.0.1:{port}"), &ClientOptions::default(), None).await.expect("listening");
        connection.request(request, DEADLINE).await.expect("answered")
    })
}

fn must(port: u16, request: Request) -> Frame {
    let answer = ask(port, request);
    assert_eq!(answer.header.response_code(), Some(ResponseCode::Success), "{:?}", answer.header.remark);
    answer
}

fn name_server(dir: &Path, ports: &Ports) -> Server {
    let mut command = server(dir, ports);
    command.args(["--roles", "naming"]);
    Server::start(command)
}

const ORDERS: [&str; 2] = ["ORDER_TOPIC_CONFIG", "orders"];

fn get_order_configuration(port: u16) -> Frame {
    let [namespace, key] = ORDERS;
    ask(port, Request::new(RequestCode::GetKvConfig, KvConfigRequest { namespace: namespace.into(), key: key.into() }.encode()))
}

#[test]
fn a_name_server_alone_keeps_its_key_value_configuration_through_kills_and_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let [namespace, key] = ORDERS;
    let mut running = name_server(dir.path(), &ports);
    TcpStream::connect(("127.0.0.1", ports.broker)).expect_err("no broker");
    assert!(get(ports.http, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(ports.http, "/metrics").contains("sluice_store_writable 1"));
    for value in ["broker-a:4", "broker-a:8"] {
        let put = PutKvConfigRequest { namespace: namespace.into(), key: key.into(), value: value.into() };
        must(ports.naming, Request::new(RequestCode::PutKvConfig, put.encode()));
        drop(running);
        running = name_server(dir.path(), &ports);
        assert_eq!(get_order_configuration(ports.naming).header.ext.get("value"), Some(value), "after a kill");
    }
    assert!(running.stop().success());
    running = name_server(dir.path(), &ports);
    let delete = KvConfigRequest { namespace: namespace.into(), key: key.into() };
    must(ports.naming, Request::new(RequestCode::DeleteKvConfig, delete.encode()));
    assert!(running.stop().success());
    running = name_server(dir.path(), &ports);
    assert_eq!(get_order_configuration(ports.naming).header.response_code(), Some(ResponseCode::QueryNotFound));
    assert!(running.stop().success());
}

#[test]
fn a_name_server_and_a_broker_of_two_processes_share_a_data_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, second) = (Ports::free(), Ports::free());
    let _name_server = name_server(dir.path(), &first);
    let mut command = server(dir.path(), &second);
    command.args(["--roles", "broker", "--naming-addresses", &format!("127.0.0.1:{}", first.naming)]);
    let _broker = Server::start(command);
    assert!(get(second.http, "/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_name_server_alone_takes_a_registration_of_nearly_16_mib() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let _server = name_server(dir.path(), &ports);
    let mut body = b"{}".to_vec();
    body.resize((16 << 20) - 2048, b' ');
    let header = RegisterBrokerRequest {
        broker_name: "java".into(),
        broker_addr: "10.0.0.1:10911".into(),
        cluster_name: "c".into(),
        ha_server_addr: "10.0.0.1:10912".into(),
        ..RegisterBrokerRequest::default()
    };
    must(ports.naming, Request::new(RequestCode::RegisterBroker, header.encode()).with_body(body));
    let cluster = must(ports.naming, Request::new(RequestCode::GetBrokerClusterInfo, ExtFields::new()));
    assert!(String::from_utf8_lossy(&cluster.body).contains("10.0.0.1:10911"));
}

/// Names in backquotes that begin like a metric's, without what a histogram's series have at their end.
fn metrics_named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).filter(|word| word.starts_with("sluice_") && !word.contains(':'));
    words.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn every_metric_in_the_documents_is_served_and_every_one_served_is_documented() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let _server = Server::start(server(dir.path(), &ports));
    let send = SendMessageRequest {
        producer_group: "p".into(),
        topic: "t".into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        ..SendMessageRequest::default()
    };
    must(ports.broker, Request::new(RequestCode::SendMessageV2, send.encode_v2()).with_body("x"));
    let commit = UpdateConsumerOffsetRequest { consumer_group: "g".into(), topic: "t".into(), queue_id: 0, commit_offset: 0 };
    must(ports.broker, Request::new(RequestCode::UpdateConsumerOffset, commit.encode()));
    let scrape = get(ports.http, "/metrics");
    let served: BTreeSet<String> = scrape.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect();
    for line in
        ["sluice_group_lag_messages{group=\"g\",topic=\"t\"} 1", "sluice_delivery_messages_in_total 1", "sluice_store_append_seconds_bucket{le=\"+Inf\"} "]
    {
        assert!(scrape.contains(line), "{line} in {scrape}");
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &Path| metrics_named_in(&std::fs::read_to_string(path).expect("readable"));
    assert_eq!(read(&root.join("docs/metrics.md")), served, "docs/metrics.md and what is served");
    let docs = std::fs::read_dir(root.join("docs")).expect("there").map(|entry| entry.expect("there").path());
    // Crates' names look like metrics' names.
    let crates = ["store", "delivery", "naming", "protocol", "server", "client", "types", "env", "cli"].map(|name| format!("sluice_{name}"));
    for page in docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")).chain([root.join("README.md"), root.join("ARCHITECTURE.md")]) {
        let unknown: Vec<String> = read(&page).into_iter().filter(|name| !served.contains(name) && !crates.contains(name)).collect();
        assert!(unknown.is_empty(), "{} names metrics that nobody serves: {unknown:?}", page.display());
    }
}
