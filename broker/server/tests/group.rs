//! Three brokers of a group as processes, with etcd or an API server of Kubernetes: what their clients see when the master ends, hands over, or is not the one that is asked.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use sluice_apiserver::ApiServer;
use sluice_client::{Admin, Client, ClientOptions, Consumer, Message, Producer, PullRequest, TopicSettings};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";

/// Below the ports that the system gives to connections on their way out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 400).expect("small") * 20;
    (0..2000)
        .map(|_| 12_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn etcd(dir: &std::path::Path) -> Option<(Process, u16)> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("etcd")).find(|file| file.is_file());
    let Some(program) = found else {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
        assert!(!ci, "etcd is missing: install the package etcd-server");
        eprintln!("skipped: etcd is missing (package etcd-server)");
        return None;
    };
    let (port, peer) = (free_port(), free_port());
    let [client, peer] = [port, peer].map(|port| format!("http://127.0.0.1:{port}"));
    let log = File::create(dir.join("etcd.log")).expect("a log");
    let mut command = Command::new(program);
    command.args(["--name", "m", "--initial-cluster", &format!("m={peer}"), "--initial-advertise-peer-urls", &peer, "--listen-peer-urls", &peer]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]).arg("--data-dir").arg(dir.join("etcd"));
    let process = Process(command.stdout(Stdio::null()).stderr(log).spawn().expect("etcd starts"));
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < PATIENCE, "etcd does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((process, port))
}

/// The group's address, as a service of Kubernetes is one: it leads to one broker, and can be moved to another one.
struct Service {
    target: Arc<Mutex<SocketAddr>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Service {
    fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).expect("free");
        let service = Self { target: Arc::new(Mutex::new(to)), open: Arc::default() };
        let (target, open) = (service.target.clone(), service.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let to = *target.lock().expect("whole");
                if let Ok(broker) = TcpStream::connect(to) {
                    let ends = [client.try_clone(), broker.try_clone()].map(|end| end.expect("a descriptor"));
                    open.lock().expect("whole").extend(ends);
                    Self::carry(&client, &broker);
                    Self::carry(&broker, &client);
                }
            }
        });
        service
    }

    fn carry(from: &TcpStream, to: &TcpStream) {
        let [mut from, mut to] = [from, to].map(|end| end.try_clone().expect("a descriptor"));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }

    /// Moves it; connections to the old place are reset.
    fn lead_to(&self, to: SocketAddr) {
        let before = std::mem::replace(&mut *self.target.lock().expect("whole"), to);
        if before != to {
            self.open.lock().expect("whole").drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
        }
    }
}

/// Three brokers with one port at addresses of their own, each with a name server that knows the master; and the group's address.
struct Group {
    dir: tempfile::TempDir,
    coordinator: String,
    /// For one in Kubernetes.
    kubeconfig: PathBuf,
    naming: Vec<u16>,
    port: u16,
    replication: Vec<u16>,
    /// Where each is read from while it is a replica.
    reads: Vec<u16>,
    http: Vec<u16>,
    processes: Vec<Option<Process>>,
    service: Service,
    keeper: Keeper,
}

/// What keeps the group's object.
enum Keeper {
    Etcd { _process: Process },
    Kubernetes(ApiServer),
}

impl Group {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let (process, port) = etcd(dir.path())?;
        Some(Self::with(dir, format!("etcd://127.0.0.1:{port}"), PathBuf::new(), Keeper::Etcd { _process: process }))
    }

    /// With a broker's permissions in a namespace that has nothing yet.
    fn start_in_kubernetes() -> Option<Self> {
        let start = || {
            let server = ApiServer::start()?;
            let namespace = server.namespace();
            server.grant_what_the_document_says(&namespace);
            Some((server, namespace))
        };
        let (server, namespace) = std::thread::spawn(start).join().expect("no panic")?;
        let kubeconfig = server.kubeconfig("broker", server.port);
        let dir = tempfile::tempdir().expect("a directory");
        Some(Self::with(dir, format!("kubernetes://{namespace}/g"), kubeconfig, Keeper::Kubernetes(server)))
    }

    fn with(dir: tempfile::TempDir, coordinator: String, kubeconfig: PathBuf, keeper: Keeper) -> Self {
        let three = || (0..3).map(|_| free_port()).collect::<Vec<_>>();
        let port = free_port();
        let service = Service::start(SocketAddr::from(([127, 0, 0, 9], port)), Self::place(0, port));
        let (naming, replication, reads, http) = (three(), three(), three(), three());
        let mut group = Self { dir, coordinator, kubeconfig, naming, port, replication, reads, http, processes: Vec::new(), service, keeper };
        for index in 0..3 {
            let process = group.spawn(index);
            group.processes.push(Some(process));
        }
        group
    }

    fn place(index: usize, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, index as u8 + 11], port))
    }

    fn broker(&self, index: usize) -> String {
        Self::place(index, self.port).to_string()
    }

    fn list(ports: &[u16], separator: &str, form: impl Fn(usize, u16) -> String) -> String {
        ports.iter().enumerate().map(|(index, port)| form(index, *port)).collect::<Vec<_>>().join(separator)
    }

    fn namesrv(&self) -> String {
        Self::list(&self.naming, ";", |index, port| Self::place(index, port).to_string())
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("broker-{index}.log"))
    }

    fn spawn(&self, index: usize) -> Process {
        let members = Self::list(&self.replication, ",", |index, port| format!("{}={}", index + 1, Self::place(index, port)));
        let log = || File::options().create(true).append(true).open(self.log(index)).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.env_clear().args(["server", "--broker-vip-port", "off", "--storage-segment-size", "16MiB"]);
        command.args(["--http-port", &self.http[index].to_string()]);
        command.args(["--listen-address", &Self::place(index, 0).ip().to_string(), "--advertise-address", "127.0.0.9"]);
        command.args(["--storage-flush", "sync", "--broker-name", "g", "--naming-addresses", &self.namesrv()]);
        command.args(["--naming-port", &self.naming[index].to_string(), "--broker-port", &self.port.to_string()]);
        command.args(["--replication-members", &members, "--replication-member", &(index + 1).to_string()]);
        command.args(["--replication-read-address", &Self::place(index, self.reads[index]).to_string(), "--replication-read-behind", "0B"]);
        command.args(["--replication-coordinator", &self.coordinator]).env("KUBECONFIG", &self.kubeconfig);
        command.arg("--data-dir").arg(self.dir.path().join(format!("data-{index}")));
        Process(command.stdout(log()).stderr(log()).spawn().expect("the binary runs"))
    }

    /// Which broker says that it is master of the newest epoch, with how many replicas in sync.
    async fn master(&self, admin: &Admin) -> Option<(usize, usize)> {
        let mut found = None;
        for index in (0..3).filter(|index| self.processes[*index].is_some()) {
            if let Ok(status) = admin.group_status(&self.broker(index)).await
                && status.role == "master"
            {
                let in_sync = status.replicas.iter().filter(|replica| replica.in_sync).count();
                found = found.max(Some((status.epoch, index, in_sync)));
            }
        }
        found.map(|(_, index, in_sync)| (index, in_sync))
    }

    /// How many replicas are in sync and connected to that master.
    async fn followers(&self, admin: &Admin, master: usize) -> usize {
        let status = admin.group_status(&self.broker(master)).await;
        status.map_or(0, |status| status.replicas.iter().filter(|replica| replica.in_sync && replica.connected).count())
    }

    async fn await_master(&self, admin: &Admin, replicas: usize) -> usize {
        let begun = Instant::now();
        loop {
            match self.master(admin).await {
                Some((index, in_sync)) if in_sync >= replicas => {
                    self.service.lead_to(Self::place(index, self.port));
                    return index;
                }
                other => assert!(begun.elapsed() < PATIENCE, "no master with {replicas} replicas: {other:?}\n{}", self.logs()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until a master counts no more than so many replicas: one that has not seen a member go counts it still, with nothing on its disk.
    async fn await_dismissal(&self, admin: &Admin, replicas: usize) {
        let begun = Instant::now();
        while self.master(admin).await.is_none_or(|(_, in_sync)| in_sync > replicas) {
            assert!(begun.elapsed() < PATIENCE, "no master with {replicas} replicas at most\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn logs(&self) -> String {
        (0..3).map(|index| format!("--- {index}\n{}", std::fs::read_to_string(self.log(index)).unwrap_or_default())).collect()
    }
}

fn options() -> ClientOptions {
    ClientOptions { connect_timeout: Duration::from_secs(1), request_timeout: Duration::from_secs(3), ..ClientOptions::default() }
}

fn settings() -> TopicSettings {
    TopicSettings { topic: TOPIC.to_owned(), read_queues: 4, write_queues: 4, perm: 6, order: false, attributes: Vec::new() }
}

struct Clients {
    client: Client,
    admin: Admin,
    producer: Producer,
    sent: BTreeMap<String, i64>,
    next: usize,
}

impl Clients {
    async fn new(group: &Group) -> Self {
        let begun = Instant::now();
        loop {
            if let Ok(client) = Client::connect(&group.namesrv(), options()).await {
                let (admin, producer) = (Admin::new(client.clone()), Producer::new(client.clone(), "producers").expect("a name"));
                return Self { client, admin, producer, sent: BTreeMap::new(), next: 0 };
            }
            assert!(begun.elapsed() < PATIENCE, "no name server\n{}", group.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends one message; how long it took until it was acknowledged, and after how many failures.
    async fn send(&mut self) -> (Duration, usize) {
        let body = format!("message {}", self.next);
        self.next += 1;
        let (begun, mut failures) = (Instant::now(), 0);
        loop {
            match self.producer.send(&Message::new(TOPIC, body.clone().into_bytes())).await {
                Ok(receipt) => {
                    self.sent.insert(body, receipt.queue_offset);
                    return (begun.elapsed(), failures);
                }
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            failures += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All bodies of the topic.
    async fn read_all(&self) -> Vec<String> {
        let consumer = Consumer::new(self.client.clone(), "readers").expect("a name");
        let begun = Instant::now();
        let route = loop {
            // A name server that was started again knows the topic when the master has registered anew.
            match self.client.refresh_route(TOPIC).await {
                Ok(route) => break route,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let mut bodies = Vec::new();
        for queue in route.readable() {
            let (mut offset, max) = (0, self.admin.max_offset(TOPIC, &queue).await.expect("known"));
            while offset < max {
                let pull = PullRequest { queue: &queue, topic: TOPIC, offset, messages_max: 32, expression: "*", hold: Duration::ZERO, commit: None };
                let pulled = consumer.pull(&pull).await.expect("readable");
                offset = pulled.next_offset;
                bodies.extend(pulled.messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
            }
        }
        bodies
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_master_is_killed_and_the_group_writes_again_soon() {
    let Some(mut group) = Group::start() else { return };
    let mut clients = Clients::new(&group).await;
    the_master_is_killed(&mut group, &mut clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_agrees_in_kubernetes_loses_nothing_when_its_master_is_killed_and_asks_little() {
    let Some(mut group) = Group::start_in_kubernetes() else { return };
    let mut clients = Clients::new(&group).await;
    the_master_is_killed(&mut group, &mut clients).await;
    // A renewal is two requests, once a second with the default lease; replicas that hear their master do not ask.
    let asked = |group: &Group| match &group.keeper {
        Keeper::Kubernetes(server) => std::thread::scope(|scope| scope.spawn(|| server.requests()).join().expect("no panic")),
        Keeper::Etcd { .. } => 0,
    };
    let (before, begun) = (asked(&group), Instant::now());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let rate = (asked(&group) - before) as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.2} requests/s");
    assert!((1.0..3.5).contains(&rate), "{rate} requests/s");
    // Without the API server it serves on as it is.
    if let Keeper::Kubernetes(server) = &mut group.keeper {
        server.kill_server();
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        let (_, failures) = clients.send().await;
        assert_eq!(failures, 0, "{}", group.logs());
    }
    let found = clients.read_all().await;
    assert!(clients.sent.keys().all(|body| found.contains(body)), "{}", group.logs());
}

async fn the_master_is_killed(group: &mut Group, clients: &mut Clients) {
    let admin = clients.admin.clone();
    let master = group.await_master(&admin, 2).await;
    clients.admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    for _ in 0..100 {
        clients.send().await;
    }
    group.processes[master] = None;
    let begun = Instant::now();
    // What moves the address looks for the new master meanwhile.
    let (_, (_, failures)) = tokio::join!(group.await_master(&admin, 0), clients.send());
    let took = begun.elapsed();
    println!("killed: the next send was acknowledged after {took:?} and {failures} failures");
    assert!(took < Duration::from_secs(3), "{took:?}\n{}", group.logs());
    for _ in 0..100 {
        clients.send().await;
    }
    // The killed one comes back and follows; then the other two can go.
    group.processes[master] = Some(group.spawn(master));
    let now = group.await_master(&clients.admin, 2).await;
    assert_ne!(now, master, "{}", group.logs());
    let found = clients.read_all().await;
    let missing: Vec<_> = clients.sent.keys().filter(|body| !found.contains(body)).collect();
    assert!(missing.is_empty(), "{missing:?} of {}\n{}", clients.sent.len(), group.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_takes_less_than_a_second_and_no_send_fails_wherever_it_is_sent_to() {
    let Some(group) = Group::start() else { return };
    let mut clients = Clients::new(&group).await;
    let admin = clients.admin.clone();
    let mut master = group.await_master(&admin, 2).await;
    admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    for turn in 0..3 {
        let place = group.broker(master);
        let switched = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            admin.switch_over(&place, None).await
        };
        let sends = async {
            let (mut longest, begun) = (Duration::ZERO, Instant::now());
            while begun.elapsed() < Duration::from_millis(1500) {
                let (took, failures) = clients.send().await;
                assert_eq!(failures, 0, "turn {turn}: a send failed\n{}", group.logs());
                longest = longest.max(took);
            }
            longest
        };
        // The address still leads to the old master, which hands on what it gets.
        let (switched, longest) = tokio::join!(switched, sends);
        println!("switched over: {switched:?}; the longest send took {longest:?}");
        assert!(switched.is_ok() && longest < Duration::from_secs(1), "turn {turn}: {switched:?}, {longest:?}\n{}", group.logs());
        let now = group.await_master(&admin, 2).await;
        assert_ne!(now, master);
        master = now;
    }
    let found = clients.read_all().await;
    let missing: Vec<_> = clients.sent.keys().filter(|body| !found.contains(body)).collect();
    assert!(missing.is_empty(), "{missing:?} of {}\n{}", clients.sent.len(), group.logs());
    assert_eq!(found.len(), clients.sent.len(), "and none is there twice");
}

/// A group that somebody else has in hand.
struct Watched {
    namesrv: String,
    logs: Vec<PathBuf>,
}

impl Watched {
    fn of(group: &Group) -> Self {
        Self { namesrv: group.namesrv(), logs: (0..3).map(|index| group.log(index)).collect() }
    }

    fn logs(&self) -> String {
        self.logs.iter().map(|log| format!("--- {}\n{}", log.display(), std::fs::read_to_string(log).unwrap_or_default())).collect()
    }
}

/// Sends and pulls through the group's address for as long as `changes` go on, with no second try. Gives how many were sent, and the longest time that one took.
async fn undisturbed(group: &Watched, changes: impl Future<Output = ()>) -> (usize, Duration) {
    let client = Client::connect(&group.namesrv, ClientOptions { send_retries: 0, ..options() }).await.expect("a name server");
    let stop = AtomicBool::new(false);
    let sends = async |name: usize| {
        let producer = Producer::new(client.clone(), "undisturbed").expect("a name");
        let (mut sent, mut longest) = (Vec::new(), Duration::ZERO);
        while !stop.load(Ordering::SeqCst) {
            let (begun, body) = (Instant::now(), format!("{name}: {}", sent.len()));
            let result = producer.send(&Message::new(TOPIC, body.clone().into_bytes())).await;
            assert!(result.is_ok(), "{result:?} after {:?}, {}\n{}", begun.elapsed(), sent.len(), group.logs());
            longest = longest.max(begun.elapsed());
            sent.push(body);
        }
        (sent, longest)
    };
    let consumer = Consumer::new(client.clone(), "undisturbed").expect("a name");
    let route = client.refresh_route(TOPIC).await.expect("known");
    let (admin, mut begins) = (Admin::new(client.clone()), Vec::new());
    for queue in route.readable() {
        begins.push(admin.max_offset(TOPIC, &queue).await.expect("known"));
    }
    let pulls = async |queue: usize| {
        let queues: Vec<_> = route.readable();
        let (queue, mut bodies) = (&queues[queue], Vec::new());
        let mut offset = begins[queue.queue_id as usize];
        loop {
            let is_last = stop.load(Ordering::SeqCst);
            // Held for longer than a switchover takes.
            let pull = PullRequest { queue, topic: TOPIC, offset, messages_max: 32, expression: "*", hold: Duration::from_secs(2), commit: Some(offset) };
            let pulled = consumer.pull(&pull).await;
            let pulled = pulled.unwrap_or_else(|error| panic!("a pull from {offset} fails: {error}\n{}", group.logs()));
            assert_ne!(pulled.status, sluice_client::PullStatus::OffsetMoved, "from {offset}\n{}", group.logs());
            offset = pulled.next_offset;
            if is_last && pulled.status == sluice_client::PullStatus::Nothing {
                return bodies;
            }
            bodies.extend(pulled.messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
        }
    };
    let changes = async {
        changes.await;
        stop.store(true, Ordering::SeqCst);
    };
    let ((), first, second, third, one, two, three, four) = tokio::join!(changes, sends(1), sends(2), sends(3), pulls(0), pulls(1), pulls(2), pulls(3));
    let mut sent = [first.0, second.0, third.0].concat();
    let mut pulled = [one, two, three, four].concat();
    sent.sort_unstable();
    pulled.sort_unstable();
    assert_eq!(sent, pulled, "each once\n{}", group.logs());
    (sent.len(), first.1.max(second.1).max(third.1))
}

/// Hands the role over to each of these in turn; the next time when so many replicas follow again, or as soon as it is taken.
async fn switch_over_to(group: &Group, admin: &Admin, numbers: &[u32], replicas: usize) {
    for number in numbers {
        let begun = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let tried = match group.master(admin).await {
                Some((master, _)) if group.followers(admin, master).await >= replicas => {
                    admin.switch_over(&group.broker(master), Some(*number)).await.map_err(|error| error.to_string())
                }
                other => Err(format!("{other:?}")),
            };
            match tried {
                Ok(_) => break,
                Err(why) => assert!(begun.elapsed() < PATIENCE, "to {number}: {why}\n{}", group.logs()),
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_chain_of_switchovers_clients_stay_connected_to_one_member_and_see_no_error_and_no_hang() {
    let Some(group) = Group::start() else { return };
    let clients = Clients::new(&group).await;
    let admin = clients.admin.clone();
    let master = group.await_master(&admin, 2).await;
    admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    switch_over_to(&group, &admin, if master == 0 { &[] } else { &[1] }, 2).await;
    // Whoever is master from here on: the clients' connections lead to this one.
    group.service.lead_to(Group::place(0, group.port));
    // In the end without waiting for the replicas: then a send may be on its way through several changes, but not for longer than clients wait.
    for (numbers, replicas, longest_allowed) in [(&[2, 3, 1, 3, 2, 1][..], 2, 1000), (&[2, 3, 2, 3, 1, 3, 2, 1], 0, 2500)] {
        let changes = switch_over_to(&group, &admin, numbers, replicas);
        let (sent, longest) = Box::pin(undisturbed(&Watched::of(&group), changes)).await;
        println!("{sent} sent through a chain of switchovers; the longest took {longest:?}");
        assert!(longest < Duration::from_millis(longest_allowed), "{longest:?}\n{}", group.logs());
    }
}

/// Ends a broker as an operator does, and starts it again.
async fn restart(group: &mut Group, index: usize) {
    let Some(Process(child)) = &mut group.processes[index] else { return };
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is there").success());
    let begun = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not end\n{}", group.logs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    group.processes[index] = Some(group.spawn(index));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_member_that_stays_see_no_error_when_the_others_are_restarted_one_after_the_other() {
    let Some(mut group) = Group::start() else { return };
    let clients = Clients::new(&group).await;
    let admin = clients.admin.clone();
    let mut master = group.await_master(&admin, 2).await;
    admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    if master == 0 {
        admin.switch_over(&group.broker(0), Some(2)).await.expect("handed over");
        master = 1;
    }
    group.service.lead_to(Group::place(0, group.port));
    let watched = Watched::of(&group);
    let changes = async {
        for turn in 0..4 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // It hands over to any of the others, and then takes part again.
            restart(&mut group, master).await;
            let begun = Instant::now();
            master = loop {
                match group.master(&admin).await {
                    Some((now, 2)) => break now,
                    other => assert!(begun.elapsed() < PATIENCE, "turn {turn}: {other:?}\n{}", group.logs()),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            if master == 0 {
                admin.switch_over(&group.broker(0), Some(2)).await.expect("handed over");
                master = 1;
            }
        }
    };
    let (sent, longest) = Box::pin(undisturbed(&watched, changes)).await;
    println!("{sent} sent while brokers were restarted; the longest took {longest:?}");
    // The end of a replica, too, holds up writes for a moment, and more so on a machine that has much to do.
    assert!(longest < Duration::from_millis(2500), "{longest:?}\n{}", group.logs());
}

/// Kills a broker; it can be started again.
fn kill(group: &mut Group, index: usize) {
    group.processes[index] = None;
}

fn start_again(group: &mut Group, index: usize) {
    group.processes[index] = Some(group.spawn(index));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_disk_was_lost_takes_all_anew_and_is_as_good_as_the_others() {
    let Some(mut group) = Group::start() else { return };
    let mut clients = Clients::new(&group).await;
    let admin = clients.admin.clone();
    let master = group.await_master(&admin, 2).await;
    admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    for _ in 0..50 {
        clients.send().await;
    }
    let (wiped, other) = ((master + 1) % 3, (master + 2) % 3);
    kill(&mut group, wiped);
    group.await_dismissal(&admin, 1).await;
    std::fs::remove_dir_all(group.dir.path().join(format!("data-{wiped}"))).expect("there");
    start_again(&mut group, wiped);
    assert_eq!(group.await_master(&admin, 2).await, master, "{}", group.logs());
    for _ in 0..50 {
        clients.send().await;
    }
    // Now it is the only one left.
    kill(&mut group, other);
    kill(&mut group, master);
    assert_eq!(group.await_master(&admin, 0).await, wiped);
    clients.send().await;
    let found = clients.read_all().await;
    let missing: Vec<_> = clients.sent.keys().filter(|body| !found.contains(body)).collect();
    assert!(missing.is_empty(), "{missing:?} of {}\n{}", clients.sent.len(), group.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_last_member_of_the_set_is_gone_nobody_is_master_until_a_person_says_so() {
    let Some(mut group) = Group::start() else { return };
    let mut clients = Clients::new(&group).await;
    let admin = clients.admin.clone();
    let master = group.await_master(&admin, 2).await;
    admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    clients.send().await;
    let (one, two) = ((master + 1) % 3, (master + 2) % 3);
    kill(&mut group, one);
    kill(&mut group, two);
    // It waits until the coordinator has let the two go, then it goes on alone.
    clients.send().await;
    kill(&mut group, master);
    start_again(&mut group, one);
    start_again(&mut group, two);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(group.master(&admin).await, None, "{}", group.logs());
    let refused = admin.resync(&group.broker(one)).await;
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("log is kept")), "there is no master to give its own: {refused:?}");
    admin.elect_unclean(&group.broker(two)).await.expect("ordered");
    assert_eq!(group.await_master(&admin, 1).await, two, "{}", group.logs());
    clients.send().await;
    let status = admin.group_status(&group.broker(two)).await.expect("answers");
    assert_eq!(status.unclean_elections, Some(1));
    // What the lost one alone had acknowledged is gone, and that is told.
    assert_eq!(clients.read_all().await.len(), 2);
}

/// The names in a text that begin as the metrics of a group do.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("sluice_replication_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_a_group_are_those_of_the_document() {
    let Some(group) = Group::start() else { return };
    let clients = Clients::new(&group).await;
    let master = group.await_master(&clients.admin, 2).await;
    let served = metrics(SocketAddr::new(Group::place(master, 0).ip(), group.http[master]));
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/replication.md")).expect("there");
    assert_eq!(names(&served), names(&document));
    assert!(served.contains("sluice_replication_in_sync_members 3") && served.contains("sluice_replication_is_master 1"), "{served}");
}

fn metrics(place: SocketAddr) -> String {
    let mut stream = TcpStream::connect(place).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("written");
    let mut served = String::new();
    stream.read_to_string(&mut served).expect("read");
    served
}

/// A consumer that goes where it is told, as RocketMQ's do: to the broker with the suggested number, to the next one, or else to the master.
struct Follower<'a> {
    clients: &'a Clients,
    consumer: Consumer,
    /// The broker that each queue is read at.
    at: BTreeMap<u32, i64>,
    offsets: BTreeMap<u32, i64>,
    bodies: Vec<String>,
    /// Pulls with messages, by the broker's number.
    found: BTreeMap<i64, usize>,
}

impl<'a> Follower<'a> {
    fn new(clients: &'a Clients) -> Self {
        let consumer = Consumer::new(clients.client.clone(), "followers").expect("a name");
        Self { clients, consumer, at: BTreeMap::new(), offsets: BTreeMap::new(), bodies: Vec::new(), found: BTreeMap::new() }
    }

    /// One pull of each queue. The offset it is told never goes back.
    async fn turn(&mut self) {
        let Ok(route) = self.clients.client.refresh_route(TOPIC).await else { return };
        let addresses: BTreeMap<i64, String> = route.brokers[0].addrs.iter().cloned().collect();
        for mut queue in route.readable() {
            let wanted = self.at.get(&queue.queue_id).copied().unwrap_or(0);
            let number = [wanted, wanted + 1].into_iter().find(|number| addresses.contains_key(number)).unwrap_or(0);
            queue.addr.clone_from(&addresses[&number]);
            let offset = *self.offsets.entry(queue.queue_id).or_default();
            let pull = PullRequest { queue: &queue, topic: TOPIC, offset, messages_max: 4, expression: "*", hold: Duration::ZERO, commit: None };
            let Ok(pulled) = self.consumer.pull(&pull).await else {
                self.at.insert(queue.queue_id, 0);
                continue;
            };
            assert_ne!(pulled.status, sluice_client::PullStatus::OffsetMoved, "queue {} from {offset} at broker {number}", queue.queue_id);
            assert!(pulled.next_offset >= offset, "queue {} from {offset} back to {}", queue.queue_id, pulled.next_offset);
            *self.found.entry(number).or_default() += usize::from(!pulled.messages.is_empty());
            self.bodies.extend(pulled.messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
            self.offsets.insert(queue.queue_id, pulled.next_offset);
            self.at.insert(queue.queue_id, pulled.suggested_broker);
        }
    }

    /// Until it has got so many messages.
    async fn read(&mut self, count: usize, logs: impl Fn() -> String) {
        let begun = Instant::now();
        while self.bodies.len() < count {
            assert!(begun.elapsed() < PATIENCE, "{} of {count}, {:?} at {:?}\n{}", self.bodies.len(), self.offsets, self.at, logs());
            self.turn().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_far_behind_read_at_replicas_and_lose_nothing_when_the_master_is_killed_meanwhile() {
    let Some(mut group) = Group::start() else { return };
    let mut clients = Clients::new(&group).await;
    let admin = clients.admin.clone();
    let master = group.await_master(&admin, 2).await;
    admin.create_topic(&[group.broker(master)], &settings()).await.expect("created");
    for _ in 0..400 {
        clients.send().await;
    }
    let begun = Instant::now();
    while clients.client.refresh_route(TOPIC).await.map_or(0, |route| route.brokers[0].addrs.len()) < 3 {
        assert!(begun.elapsed() < PATIENCE, "the replicas are not in the route\n{}", group.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut follower = Follower::new(&clients);
    follower.read(150, || group.logs()).await;
    let at_replicas = follower.found.iter().filter(|(number, _)| **number != 0).map(|(_, count)| count).sum::<usize>();
    assert!(at_replicas > 20 && follower.found[&0] > 0, "{:?}", follower.found);
    let counted: f64 = (0..3).filter(|index| *index != master).map(|index| reads_at(&group, index)).sum();
    assert_eq!(counted, at_replicas as f64, "what the replicas have counted");
    // A commit on the way is the master's business, wherever it comes.
    let replica = (master + 1) % 3;
    let mut queue = clients.client.refresh_route(TOPIC).await.expect("known").readable().remove(0);
    queue.addr = Group::place(replica, group.reads[replica]).to_string();
    let pull = PullRequest { queue: &queue, topic: TOPIC, offset: 0, messages_max: 1, expression: "*", hold: Duration::ZERO, commit: Some(5) };
    follower.consumer.pull(&pull).await.expect("answered");
    queue.addr = group.broker(master);
    assert_eq!(follower.consumer.offset(TOPIC, &queue).await.expect("answered"), Some(5));
    kill(&mut group, master);
    // Nobody moves the address for a while: what is old goes on being read where it is.
    follower.read(250, || group.logs()).await;
    let next = group.await_master(&admin, 1).await;
    assert_ne!(next, master);
    follower.read(400, || group.logs()).await;
    let bodies: BTreeSet<_> = follower.bodies.iter().collect();
    assert_eq!((bodies.len(), follower.bodies.len()), (400, 400), "each once");
    // At the end it is the master's again.
    follower.turn().await;
    assert!(follower.at.values().all(|number| *number == 0), "{:?}", follower.at);
    println!("pulls with messages by broker: {:?}", follower.found);
}

/// Pulls that a broker has answered with messages as a replica.
fn reads_at(group: &Group, index: usize) -> f64 {
    let served = metrics(SocketAddr::new(Group::place(index, 0).ip(), group.http[index]));
    let line = served.lines().find(|line| line.starts_with("sluice_replication_reads_total") && line.contains("by=\"replica\""));
    line.and_then(|line| line.rsplit_once(' ')).map_or(0.0, |(_, value)| value.parse().expect("a number"))
}
