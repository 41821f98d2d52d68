//! The binary as a user meets it: it starts, says so, answers probes, stops on a signal, and refuses a wrong start in words that help.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use sluice_client::{Admin, Client, ClientError, ClientOptions, Connection, Consumer, Message, Producer, PullRequest, QueueAddress, Request, TopicSettings};
use sluice_protocol::{
    ExtFields, Frame, RequestCode, ResponseCode, TypedHeader,
    batch::{self, BatchMessage},
    body::{RegisterBrokerBody, TopicConfig, TopicConfigSerializeWrapper},
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
    server_with_segments_of("16MiB", dir, ports)
}

fn server_with_segments_of(size: &str, dir: &Path, ports: &Ports) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_clear().args(["server", "--listen-address", "127.0.0.1", "--broker-vip-port", "off", "--storage-segment-size", size]);
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
    ask_in_turn(port, [request]).pop().expect("an answer a request")
}

/// Several over one connection, each answered before the next.
fn ask_in_turn(port: u16, requests: impl IntoIterator<Item = Request>) -> Vec<Frame> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let connection = Connection::open(&format!("127.0.0.1:{port}"), &ClientOptions::default(), None).await.expect("listening");
        let mut answers = Vec::new();
        for request in requests {
            answers.push(connection.request(request, DEADLINE).await.expect("answered"));
        }
        answers
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
    let register = Request::new(RequestCode::RegisterBroker, header.encode()).with_body(body);
    let answers = ask_in_turn(ports.naming, [register, Request::new(RequestCode::GetBrokerClusterInfo, ExtFields::new())]);
    assert_eq!(answers[0].header.response_code(), Some(ResponseCode::Success), "{:?}", answers[0].header.remark);
    assert!(String::from_utf8_lossy(&answers[1].body).contains("10.0.0.1:10911"));
}

#[test]
fn the_largest_messages_go_through_the_smallest_segment_that_the_configuration_allows() {
    // The default of messages.size_max; a_segment_that_does_not_hold_the_largest_message_is_refused has the bound.
    const BODY_BYTES: usize = 4 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free();
    let mut server = Server::start(server_with_segments_of("10MiB", dir.path(), &ports));
    let topic = "t".repeat(127);
    let header = SendMessageRequest {
        producer_group: "p".into(),
        topic: topic.as_str().into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 1,
        ..SendMessageRequest::default()
    };
    let properties = format!("k\u{1}{}", "v".repeat((32 << 10) - 24));
    let single = SendMessageRequest { properties: properties.as_str().into(), ..header.clone() };
    let single = Request::new(RequestCode::SendMessageV2, single.encode_v2()).with_body(vec![7; BODY_BYTES]);
    // Each becomes a record with a header of its own. The ids of more than these do not fit into the header of the answer that our client takes.
    const MESSAGES: usize = 1900;
    let mut batch_body = Vec::new();
    for _ in 0..MESSAGES {
        let message = BatchMessage { flag: 0, body: &[7; BODY_BYTES / MESSAGES - 22], properties: "" };
        batch::encode(&message, &mut batch_body).expect("small");
    }
    assert!((BODY_BYTES - MESSAGES..=BODY_BYTES).contains(&batch_body.len()));
    let batch = SendMessageRequest { batch: true, ..header };
    let batch = Request::new(RequestCode::SendBatchMessage, batch.encode_v2()).with_body(batch_body);
    for _ in 0..4 {
        must(ports.broker, single.clone());
        must(ports.broker, batch.clone());
    }
    assert!(server.stop().success());
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
        // What a member of a group serves besides is looked at in tests/group.rs.
        let is_known =
            |name: &String| served.contains(name) || crates.contains(name) || name.starts_with("sluice_replication_") || name.starts_with("sluice_env");
        let unknown: Vec<String> = read(&page).into_iter().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{} names metrics that nobody serves: {unknown:?}", page.display());
    }
}

/// A name server and a broker, each in a process of its own; they and their clients know each other by the network alone.
struct Apart {
    dir: tempfile::TempDir,
    naming: Ports,
    broker: Ports,
    /// More name servers for the broker, each behind a comma.
    others: String,
}

impl Apart {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), naming: Ports::free(), broker: Ports::free(), others: String::new() }
    }

    fn start_naming(&self) -> Server {
        let mut command = server(&self.dir.path().join("naming"), &self.naming);
        command.args(["--roles", "naming"]);
        Server::start(command)
    }

    fn start_broker(&self) -> Server {
        let mut command = server(&self.dir.path().join("broker"), &self.broker);
        command.args(["--roles", "broker", "--naming-addresses", &(self.namesrv() + &self.others)]);
        Server::start(command)
    }

    fn namesrv(&self) -> String {
        format!("127.0.0.1:{}", self.naming.naming)
    }

    fn broker(&self) -> String {
        format!("127.0.0.1:{}", self.broker.broker)
    }

    /// A client that has never asked for anything.
    fn client(&self) -> Client {
        Client::new(&self.namesrv(), ClientOptions::default()).expect("an address")
    }

    /// The addresses of all brokers that the name server knows.
    async fn known(&self, client: &Client) -> Vec<String> {
        client.cluster().await.map(|cluster| cluster.brokers.into_iter().map(|broker| broker.addr).collect()).unwrap_or_default()
    }

    async fn await_registered(&self, client: &Client, within: Duration) {
        eventually(within, "the name server knows the broker", async || self.known(client).await == [self.broker()]).await;
    }

    async fn create_topic(&self, client: &Client, topic: &str, queues: u32) {
        let settings = TopicSettings { topic: topic.into(), read_queues: queues, write_queues: queues, perm: 6, order: false, attributes: Vec::new() };
        Admin::new(client.clone()).create_topic(&[self.broker()], &settings).await.expect("created");
    }
}

async fn eventually(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Where a topic can be written, as a name server tells it now.
async fn writable(client: &Client, topic: &str) -> Vec<QueueAddress> {
    match client.refresh_route(topic).await {
        Ok(route) => route.writable(),
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => panic!("asking for the route of {topic}: {error}"),
    }
}

/// Sends a message and reads it back from its queue.
async fn passes(client: &Client, topic: &str) -> Result<(), ClientError> {
    let body = client.unique_id().into_bytes();
    let receipt = Producer::new(client.clone(), "producers")?.send(&Message::new(topic, body.clone())).await?;
    let route = client.route(topic).await?;
    let queue = route.readable().into_iter().find(|queue| queue.queue_id.cast_signed() == receipt.queue_id).expect("it was sent to a queue of the route");
    let offset = receipt.queue_offset;
    let request = PullRequest { queue: &queue, topic, offset, messages_max: 1, expression: "*", hold: Duration::from_secs(5), commit: None };
    let pulled = Consumer::new(client.clone(), "consumers")?.pull(&request).await?;
    assert_eq!(pulled.messages.iter().map(|message| message.body.to_vec()).collect::<Vec<_>>(), [body]);
    Ok(())
}

#[tokio::test]
async fn a_broker_apart_registers_tells_of_each_change_of_its_topics_and_takes_its_leave() {
    let apart = Apart::new();
    let _naming = apart.start_naming();
    let mut broker = apart.start_broker();
    let client = apart.client();
    apart.await_registered(&client, DEADLINE).await;

    for queues in [3, 5] {
        apart.create_topic(&client, "orders", queues).await;
        assert_eq!(writable(&client, "orders").await.len(), queues as usize, "the route is right when the change is answered");
    }
    assert!(writable(&client, "orders").await.iter().all(|queue| queue.addr == apart.broker()));
    passes(&client, "orders").await.expect("sent and read");
    // A topic that its first send makes.
    let producer = Producer::new(client.clone(), "producers").expect("a name");
    producer.send(&Message::new("made-by-sending", "first")).await.expect("sent");
    assert!(!writable(&client, "made-by-sending").await.is_empty(), "the route is there when the send that made it is answered");
    passes(&client, "made-by-sending").await.expect("sent and read");
    Admin::new(client.clone()).delete_topic(&[apart.broker()], "orders").await.expect("deleted");
    assert!(writable(&client, "orders").await.is_empty(), "the deleted topic has no route");

    assert!(broker.stop().success());
    assert!(apart.known(&client).await.is_empty(), "the broker has not unregistered");
    assert!(writable(&client, "made-by-sending").await.is_empty());
}

#[tokio::test]
async fn topics_made_one_after_another_are_each_told_of_within_milliseconds() {
    const TOPICS: u32 = 20;
    let apart = Apart::new();
    let _naming = apart.start_naming();
    let _broker = apart.start_broker();
    let client = apart.client();
    apart.await_registered(&client, DEADLINE).await;
    let begun = Instant::now();
    for number in 0..TOPICS {
        apart.create_topic(&client, &format!("t{number}"), 4).await;
        assert_eq!(writable(&client, &format!("t{number}")).await.len(), 4, "topic {number}");
    }
    let each = begun.elapsed() / TOPICS;
    println!("creating a topic and asking for its route: {each:?}");
    // About 5 ms on an idle machine.
    assert!(each < Duration::from_millis(100), "{each:?} each");
}

#[tokio::test]
async fn topics_are_made_without_delay_when_a_name_server_is_away_and_after_a_second_when_one_hangs() {
    let (mut apart, hanging) = (Apart::new(), TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let client = apart.client();
    let naming = apart.start_naming();
    // It takes connections and never answers.
    apart.others = format!(",127.0.0.1:{}", hanging.local_addr().expect("bound").port());
    let _broker = apart.start_broker();
    apart.await_registered(&client, DEADLINE).await;
    let begun = Instant::now();
    apart.create_topic(&client, "orders", 4).await;
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(writable(&client, "orders").await.len(), 4, "the other name server knows it");

    // Gone, also for the attempt that is under way.
    drop(hanging);
    drop(naming);
    let quick = async || {
        let begun = Instant::now();
        apart.create_topic(&client, "orders", 8).await;
        begun.elapsed() < Duration::from_millis(300)
    };
    eventually(DEADLINE, "nobody waits for name servers that are gone", quick).await;
}

#[tokio::test]
async fn clients_go_on_without_the_name_server_and_a_new_one_learns_of_the_broker_at_once() {
    let apart = Apart::new();
    let naming = apart.start_naming();
    let mut broker = apart.start_broker();
    let client = apart.client();
    apart.await_registered(&client, DEADLINE).await;
    apart.create_topic(&client, "orders", 4).await;
    passes(&client, "orders").await.expect("sent and read");
    let aging = Client::new(&apart.namesrv(), ClientOptions { route_age_max: Duration::from_millis(1), ..ClientOptions::default() }).expect("an address");
    passes(&aging, "orders").await.expect("sent and read");

    drop(naming);
    passes(&client, "orders").await.expect("who has the route needs no name server");
    tokio::time::sleep(Duration::from_millis(5)).await;
    passes(&aging, "orders").await.expect("an old route is better than none");
    assert!(aging.refresh_route("orders").await.unwrap_err().is_unreachable(), "who asks anew is told the truth");
    // Long enough for the longest pause between two attempts.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut naming = apart.start_naming();
    passes(&client, "orders").await.expect("nor does a new one that knows nothing yet disturb");
    let newcomer = apart.client();
    apart.await_registered(&newcomer, Duration::from_secs(5)).await;
    passes(&newcomer, "orders").await.expect("whoever comes new finds the topic");
    apart.create_topic(&newcomer, "more", 2).await;
    assert_eq!(writable(&newcomer, "more").await.len(), 2, "and each one after it");

    // Away for a moment only: the broker is back as soon.
    drop(naming);
    naming = apart.start_naming();
    apart.await_registered(&newcomer, Duration::from_secs(2)).await;
    assert!(broker.stop().success() && naming.stop().success());
}

#[tokio::test]
async fn a_killed_brokers_route_goes_with_its_connection() {
    let apart = Apart::new();
    let _naming = apart.start_naming();
    let broker = apart.start_broker();
    let client = apart.client();
    apart.await_registered(&client, DEADLINE).await;
    apart.create_topic(&client, "orders", 4).await;
    passes(&client, "orders").await.expect("sent and read");
    register_once(&client, "open-but-silent", Duration::from_secs(1)).await;

    drop(broker);
    eventually(Duration::from_secs(1), "the route is gone", async || writable(&client, "orders").await.is_empty()).await;
    assert!(apart.known(&client).await.iter().all(|known| *known != apart.broker()));
    // Whoever is connected but says nothing has its time. Silent brokers are looked for every 5 s.
    let heard_of = async || writable(&client, "open-but-silent").await.is_empty();
    eventually(Duration::from_secs(12), "the broker that may be silent for a second is forgotten", heard_of).await;

    let mut broker = apart.start_broker();
    apart.await_registered(&client, Duration::from_secs(2)).await;
    passes(&client, "orders").await.expect("it is back");
    assert!(broker.stop().success());
}

/// Registers a broker of that name with a topic of that name, which will never be heard of again.
async fn register_once(client: &Client, name: &str, silence_max: Duration) {
    let topic = TopicConfig { topic_name: name.into(), read_queue_nums: 1, write_queue_nums: 1, perm: 6, ..TopicConfig::default() };
    let wrapper = TopicConfigSerializeWrapper { topic_config_table: [(name.to_owned(), topic)].into(), ..TopicConfigSerializeWrapper::default() };
    let header = RegisterBrokerRequest {
        broker_name: name.into(),
        broker_addr: "127.0.0.1:9".into(),
        cluster_name: "DefaultCluster".into(),
        heartbeat_timeout_millis: Some(silence_max.as_millis() as i64),
        ..RegisterBrokerRequest::default()
    };
    let body = RegisterBrokerBody { filter_server_list: Vec::new(), topic_config_serialize_wrapper: wrapper }.encode();
    let request = Request::new(RequestCode::RegisterBroker, header.encode()).with_body(body);
    client.call_namesrv(request).await.expect("registered");
}
