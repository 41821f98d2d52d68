//! A real kube-apiserver on loopback with an etcd of its own, for tests: killed, stopped, set back, and asked as anybody. `cargo xtask apiserver` builds it.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "tests start and watch the real thing from outside")]

mod process;

pub use process::{free_port, signal};

use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use process::Process;
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// For what has to come at last on any machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// May do everything.
const ADMIN: &str = "admin";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUPS: &str = "/apis/mq.sluice.io/v1alpha1/brokergroups";

/// One API server, its etcd, and the custom resources of `crds/`. All ends with the process that started it, or when this is dropped.
pub struct ApiServer {
    dir: TempDir,
    program: PathBuf,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    ports: [u16; 2],
    etcd: Option<Process>,
    server: Option<Process>,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// `None`: a program that it takes is not on this machine, which is an error under CI. Not to be called by a task of a runtime; nor is anything else here.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = program("kube-apiserver", "run `cargo xtask apiserver`, which builds it")?;
        program_of_debian("etcd", "etcd-server")?;
        program_of_debian("openssl", "openssl")?;
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let mut server = Self { dir, program, port: free_port(), ports: [free_port(), free_port()], etcd: None, server: None, runtime: Some(runtime) };
        let key = server.file("accounts.key");
        let made = Command::new("openssl").args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]).arg(&key).output().expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(server.file("tokens"), format!("{ADMIN},{ADMIN},{ADMIN},system:masters\nbroker,broker,broker,\n")).expect("written");
        server.start_etcd();
        server.start_server();
        server.install();
        Some(server)
    }

    /// The custom resources of `crds/`, which are there from the start, after `uninstall`.
    pub fn install(&self) {
        for crd in sluice_crd::all() {
            let crd = serde_json::to_value(crd).expect("encoded");
            self.wait("the resource is taken", |server| server.ask(Method::POST, DEFINITIONS, &crd).ok());
        }
        self.wait("the resource is known", |server| server.ask(Method::GET, GROUPS, &Value::Null).ok());
    }

    /// As `kubectl delete -f crds/`.
    pub fn uninstall(&self) {
        for crd in sluice_crd::all() {
            self.ask(Method::DELETE, &format!("{DEFINITIONS}/{}", crd.metadata.name.unwrap_or_default()), &Value::Null).expect("deleted");
        }
        self.wait("the resource is forgotten", |server| server.ask(Method::GET, GROUPS, &Value::Null).err());
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the end")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// On what it had.
    pub fn start_etcd(&mut self) {
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new("etcd");
        command.args(["--name", "m", "--initial-cluster", &format!("m={peer}"), "--initial-advertise-peer-urls", &peer, "--listen-peer-urls", &peer]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--unsafe-no-fsync", "--data-dir"]).arg(self.file("etcd"));
        self.etcd = Some(Process::start(&command, &self.file("etcd.log")));
    }

    /// Waits until it is ready.
    pub fn start_server(&mut self) {
        let key = self.file("accounts.key");
        let mut command = Command::new(&self.program);
        command.args([format!("--etcd-servers=http://127.0.0.1:{}", self.ports[0]), format!("--secure-port={}", self.port)]);
        command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
        ]);
        command.args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://localhost"]);
        command.arg("--token-auth-file").arg(self.file("tokens")).arg("--cert-dir").arg(self.file("certificates"));
        command.arg("--service-account-key-file").arg(&key).arg("--service-account-signing-key-file").arg(&key);
        self.server = Some(Process::start(&command, &self.file("server.log")));
        self.wait("the API server is ready", |server| server.ready());
    }

    fn ready(&self) -> Option<()> {
        (self.text("/readyz")?.trim() == "ok").then_some(())
    }

    fn text(&self, path: &str) -> Option<String> {
        let client = self.client(ADMIN).ok()?;
        let request = Request::get(path).body(Vec::new()).ok()?;
        let asked = async { tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await };
        self.runtime().block_on(asked).ok()?.ok()
    }

    /// How many requests for BrokerGroups and Leases it has answered, by its own metrics.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let metrics = self.text("/metrics").expect("it answers");
        let is_ours = |line: &&str| ["brokergroups", "leases"].iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")));
        let counts = metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")).filter(is_ours);
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let told = || fs::read_to_string(self.file("server.log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", told());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// By SIGKILL, as everything here.
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    /// The API server first, or it waits for etcd.
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// `STOP` or `CONT`, to the API server.
    pub fn signal(&self, signal: &str) {
        self.server.as_ref().expect("it runs").signal(signal);
    }

    /// Stops all, keeps a copy of what etcd has, and starts all again.
    pub fn save(&mut self) {
        self.stopped(|server| copy(&server.file("etcd"), &server.file("saved")));
    }

    /// Stops all, sets etcd back to the copy, and starts all again.
    pub fn restore(&mut self) {
        self.stopped(|server| {
            fs::remove_dir_all(server.file("etcd")).expect("removed");
            copy(&server.file("saved"), &server.file("etcd"));
        });
    }

    fn stopped(&mut self, then: impl FnOnce(&Self)) {
        self.kill_server();
        self.kill_etcd();
        then(self);
        self.start_etcd();
        self.start_server();
    }

    /// A kubeconfig for that user, who leads to the API server by that port of 127.0.0.1: its own, or one of a wire before it. There are `admin`, who may do everything, and
    /// `broker`, who may do what he has been granted; others are strangers.
    #[must_use]
    pub fn kubeconfig(&self, user: &str, port: u16) -> PathBuf {
        let file = self.file(&format!("{user}-{port}.json"));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": format!("https://127.0.0.1:{port}"), "certificate-authority": self.file("certificates/apiserver.crt") } }],
            "users": [{ "name": "u", "user": { "token": user } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        // Another thread may read it just now.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let new = file.with_extension(format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&new, config.to_string()).expect("written");
        fs::rename(&new, &file).expect("in its place");
        file
    }

    fn client(&self, user: &str) -> Result<Client, kube::Error> {
        let file = Kubeconfig::read_from(self.kubeconfig(user, self.port)).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let loaded = self.runtime().block_on(Config::from_custom_kubeconfig(file, &options));
        let _entered = self.runtime().enter();
        // Before the first start there is no certificate yet.
        loaded.map_or_else(|error| Err(kube::Error::Service(error.into())), Client::try_from)
    }

    /// What the administrator is answered, or the code and the words.
    pub fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value, (u16, String)> {
        self.send(method, path, ("content-type", "application/json"), body)
    }

    /// What `kubectl get` makes its table of.
    #[must_use]
    pub fn table(&self, path: &str) -> Value {
        self.send(Method::GET, path, ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), &Value::Null).expect("there")
    }

    /// The same with a patch, as `kubectl patch --type merge`.
    pub fn merge(&self, path: &str, body: &Value) -> Result<Value, (u16, String)> {
        self.send(Method::PATCH, path, ("content-type", "application/merge-patch+json"), body)
    }

    fn send(&self, method: Method, path: &str, header: (&str, &str), body: &Value) -> Result<Value, (u16, String)> {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header(header.0, header.1).body(bytes).expect("a request");
        let client = self.client(ADMIN).map_err(|error| (0, error.to_string()))?;
        self.runtime().block_on(client.request(request)).map_err(|error| match error {
            kube::Error::Api(status) => (status.code, status.message.clone()),
            error => (0, error.to_string()),
        })
    }

    /// A new one, which nobody else uses.
    #[must_use]
    pub fn namespace(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.ask(Method::POST, "/api/v1/namespaces", &namespace).expect("made");
        name
    }

    /// Lets the user `broker` do that in the namespace and nothing else: rules of a Role.
    pub fn grant(&self, namespace: &str, rules: &Value) {
        let folder = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let role = json!({ "metadata": { "name": "broker" }, "rules": rules });
        let binding = json!({
            "metadata": { "name": "broker" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "broker" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "broker" }],
        });
        for (kind, body) in [("roles", role), ("rolebindings", binding)] {
            match self.ask(Method::POST, &format!("{folder}/{kind}"), &body) {
                Err((409, _)) => self.ask(Method::PUT, &format!("{folder}/{kind}/broker"), &body).expect("replaced"),
                made => made.expect("made"),
            };
        }
        for rule in rules.as_array().into_iter().flatten() {
            for verb in rule["verbs"].as_array().into_iter().flatten() {
                self.wait("what was granted is known", |server| server.is_allowed(namespace, rule, verb).then_some(()));
            }
        }
    }

    /// Lets it do what docs/replication.md says that a broker has to be allowed.
    pub fn grant_what_the_document_says(&self, namespace: &str) {
        let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/replication.md")).expect("there");
        let mut blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let role = blocks.find(|block| block.contains("kind: Role\n")).expect("the document has a Role");
        let role: Value = serde_yaml::from_str(role).expect("YAML");
        self.grant(namespace, &role["rules"]);
    }

    fn is_allowed(&self, namespace: &str, rule: &Value, verb: &Value) -> bool {
        let (resource, part) = rule["resources"][0].as_str().map_or(("", ""), |name| name.split_once('/').unwrap_or((name, "")));
        let asked = json!({ "namespace": namespace, "verb": verb, "group": rule["apiGroups"][0], "resource": resource, "subresource": part });
        let review = json!({ "spec": { "user": "broker", "resourceAttributes": asked } });
        self.ask(Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).is_ok_and(|answer| answer["status"]["allowed"] == true)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill_server();
        self.kill_etcd();
        // Also by a task of another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs").success());
}

fn program_of_debian(name: &str, package: &str) -> Option<PathBuf> {
    program(name, &format!("install the package {package}"))
}

/// On the path, or where `cargo xtask` keeps what it has built.
fn program(name: &str, missing: &str) -> Option<PathBuf> {
    let cache = env::var_os("SLUICE_CACHE").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/sluice")));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).chain(cache.map(|cache| cache.join("tools/bin"))).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let ci = env::var("CI").is_ok_and(|value| value == "true" || value == "1");
        assert!(!ci, "{name} is missing: {missing}");
        eprintln!("skipped: {name} is missing: {missing}");
    }
    found
}
