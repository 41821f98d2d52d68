//! Configuration: raw text from flags, environment and file is parsed once, here, into typed and checked values; every error is reported at once.
//! Precedence: flags, then environment, then file, then default.

mod errors;
mod flags;
mod keys;
mod sources;
mod value;

pub use errors::{ConfigError, ConfigErrors};
pub use flags::ConfigFlags;
pub use keys::{KEYS, Key};
pub use sources::Source;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

/// Which parts run in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The name server.
    pub naming: bool,
    /// The broker.
    pub broker: bool,
}

/// The broker's identity in routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerIdentity {
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Its number under the name; 0 is the master.
    pub id: u64,
}

/// Where to listen and what address to tell clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// All listeners bind here.
    pub address: IpAddr,
    /// The address in routes, when given.
    pub advertised: Option<IpAddr>,
    /// The name server's port.
    pub naming_port: u16,
    /// The broker's port.
    pub broker_port: u16,
    /// `None`: two below the broker's port; `Some(None)`: no such listener.
    pub vip_port: Option<Option<u16>>,
    /// The HTTP port, if any.
    pub http_port: Option<u16>,
}

impl ListenConfig {
    /// The VIP listener's port, if there is to be one.
    #[must_use]
    pub fn vip_port(&self) -> Option<u16> {
        match self.vip_port {
            Some(given) => given,
            None => self.broker_port.checked_sub(2).filter(|port| *port > 0),
        }
    }

    /// The address clients are told: the one given, the one listened on, or the one of the interface with the default route.
    #[must_use]
    pub fn advertised(&self) -> IpAddr {
        self.advertised.unwrap_or_else(|| if self.address.is_unspecified() { primary_address() } else { self.address })
    }
}

/// Asks the kernel which address packets to the outside would have. Connecting a datagram socket sends nothing.
fn primary_address() -> IpAddr {
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(198, 18, 0, 1), 9))?;
        socket.local_addr()
    };
    route().map(|address: SocketAddr| address.ip()).ok().filter(|ip: &IpAddr| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// When a record counts as stored; the interval stands beside it in [`StorageConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushKind {
    /// After the flush.
    Sync,
    /// After the append.
    #[default]
    Async,
}

/// What the store is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorageConfig {
    /// When a record counts as stored.
    pub flush: FlushKind,
    /// Longest time between flushes under async.
    pub flush_interval: Duration,
    /// Longest wait for a flush.
    pub flush_deadline: Duration,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Age at which segments are removed.
    pub retention_age: Duration,
    /// Size beyond which segments are removed.
    pub retention_bytes: Option<u64>,
    /// Used part of the disk beyond which writes are refused.
    pub disk_used_ratio_max: f64,
    /// Bytes that may wait before the writer.
    pub append_queue_bytes: u64,
}

/// The group that this broker is a member of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// Each member's number and address; empty: there is no group.
    pub members: BTreeMap<u32, String>,
    /// Which one this broker is.
    pub member: u32,
    /// Where the group's object is kept.
    pub coordinator: Option<CoordinatorPlace>,
    /// Silence after which a master is taken for lost.
    pub lease: Duration,
    /// Fewest members that must hold a record.
    pub min_in_sync: usize,
    /// Whether a record is confirmed before it is acknowledged.
    pub confirm: bool,
    /// Most bytes of log that are acknowledged without having been confirmed.
    pub unconfirmed_bytes: u64,
    /// Where clients read from this member while it is a replica.
    pub read_address: Option<SocketAddr>,
    /// How far behind consumers are that are sent to a replica, bytes; `None`: a share of the memory.
    pub read_behind: Option<u64>,
}

/// Where a group's object is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorPlace {
    /// In the etcd cluster with these endpoints, host and port.
    Etcd(Vec<String>),
    /// In Kubernetes.
    Kubernetes {
        /// The BrokerGroup's.
        namespace: String,
        /// The BrokerGroup's, and its Lease's.
        name: String,
    },
}

impl ReplicationConfig {
    /// Where the other members reach this one, host and port.
    #[must_use]
    pub fn own_address(&self) -> Option<(&str, u16)> {
        let (host, port) = self.members.get(&self.member)?.rsplit_once(':')?;
        Some((host, port.parse().ok()?))
    }
}

/// Rules for new topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicsConfig {
    /// Whether a send makes its topic.
    pub auto_create: bool,
    /// Most queues of a topic so made.
    pub queue_count: u32,
}

/// Room in a frame and in a record besides the body: header, properties, and a batch's own framing.
pub const MESSAGE_OVERHEAD_BYTES: usize = 1024 * 1024;

/// Rules for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessagesConfig {
    /// Largest body.
    pub bytes_max: usize,
}

/// Rules for transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionConfig {
    /// From a half message to the first check.
    pub timeout: Duration,
    /// From one check to the next.
    pub check_interval: Duration,
    /// Checks before it is given up.
    pub check_max: u32,
    /// Most open at once.
    pub open_max: usize,
}

/// Bounds on what clients may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Most connections.
    pub connections_max: usize,
    /// Bytes of all requests in work.
    pub in_flight_bytes_max: usize,
    /// Silence after which a connection is closed.
    pub idle: Duration,
    /// Longest time from a frame's first byte to its last.
    pub partial_frame: Duration,
    /// Most pulls held open.
    pub held_pulls_max: usize,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// What is logged and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter directives.
    pub filter: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// Everything, checked. Each component is handed only its own part.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What this process is.
    pub roles: Roles,
    /// Where the store lies.
    pub data_dir: PathBuf,
    /// Identity in routes.
    pub broker: BrokerIdentity,
    /// Listeners.
    pub listen: ListenConfig,
    /// Name servers elsewhere, as `host:port`.
    pub naming_addresses: Vec<String>,
    /// The store.
    pub storage: StorageConfig,
    /// The group.
    pub replication: ReplicationConfig,
    /// New topics.
    pub topics: TopicsConfig,
    /// Messages.
    pub messages: MessagesConfig,
    /// Transactions.
    pub transaction: TransactionConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Logging.
    pub log: LogConfig,
    /// Longest time a stop may take.
    pub shutdown_deadline: Duration,
}

impl Config {
    /// Nothing set. Only [`Loaded::resolve`] sees it in this state: every key's default comes from the table.
    fn unset() -> Self {
        Self {
            roles: Roles::default(),
            data_dir: PathBuf::new(),
            broker: BrokerIdentity::default(),
            listen: ListenConfig {
                address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                advertised: None,
                naming_port: 0,
                broker_port: 0,
                vip_port: None,
                http_port: None,
            },
            naming_addresses: Vec::new(),
            storage: StorageConfig::default(),
            replication: ReplicationConfig::default(),
            topics: TopicsConfig::default(),
            messages: MessagesConfig::default(),
            transaction: TransactionConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            shutdown_deadline: Duration::ZERO,
        }
    }
}

/// The raw value that won for one key, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The key's name.
    pub key: &'static str,
    /// Its text.
    pub value: String,
    /// Where it was found.
    pub source: Source,
}

/// A configuration with its origin.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The typed values.
    pub config: Config,
    /// Every key's text and source, in the table's order.
    pub effective: Vec<Effective>,
    /// What deserves a line in the log but stops nothing.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Reads the file named by the flags, the process's environment and the flags themselves.
    pub fn load(flags: &ConfigFlags) -> Result<Self, ConfigErrors> {
        Self::load_with(flags, std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))))
    }

    /// The same with an environment handed in.
    pub fn load_with(flags: &ConfigFlags, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let mut layers = Vec::new();
        if let Some(path) = &flags.file {
            match std::fs::read_to_string(path) {
                Ok(text) => layers.extend(sources::from_yaml(&text, path, &mut errors)),
                Err(error) => errors.push(ConfigError::file(path, format!("it cannot be read: {error}"), "a readable YAML file")),
            }
        }
        layers.extend(sources::from_environment(environment, &mut errors, &mut warnings));
        layers.extend(flags.values.iter().map(|(key, value)| Effective { key, value: value.clone(), source: Source::Flag }));
        Self::resolve(layers, errors, warnings)
    }

    /// Later layers win. A value that lost is not looked at.
    fn resolve(layers: Vec<Effective>, mut errors: Vec<ConfigError>, warnings: Vec<String>) -> Result<Self, ConfigErrors> {
        let mut config = Config::unset();
        let mut effective = Vec::with_capacity(KEYS.len());
        for key in KEYS {
            let won = layers.iter().rfind(|layer| layer.key == key.name).cloned();
            let won = won.unwrap_or_else(|| Effective { key: key.name, value: key.default.to_owned(), source: Source::Default });
            if let Err(reason) = (key.apply)(&mut config, won.value.trim()) {
                errors.push(ConfigError::value(key, &won, reason));
            }
            effective.push(won);
        }
        if errors.is_empty() {
            check_together(&config, &effective, &mut errors);
        }
        if errors.is_empty() { Ok(Self { config, effective, warnings }) } else { Err(ConfigErrors(errors)) }
    }

    /// The effective values with their sources, in the file's own form: the output is a valid configuration file.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        let width = self.effective.iter().map(|e| e.key.len() + yaml_scalar(&e.value).len() + 2).max().unwrap_or(0);
        for entry in &self.effective {
            let line = format!("{}: {}", entry.key, yaml_scalar(&entry.value));
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{line:<width$}  # {}", entry.source);
        }
        out
    }
}

fn yaml_scalar(value: &str) -> String {
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b'+'));
    if plain { value.to_owned() } else { format!("{value:?}") }
}

/// Every key with unit, default, range and reason.
#[must_use]
pub fn explain() -> String {
    let mut out =
        String::from("Keys, in a file (--config FILE), as SLUICE_… in the environment, or as flags. Flags win over environment, environment over file.\n");
    for key in KEYS {
        let _ = write!(
            out,
            "\n{}  [{}]  default: {}\n    {}\n    allowed: {}\n    {}  --{}\n",
            key.name,
            key.unit,
            key.default,
            key.why,
            key.allowed,
            key.variable(),
            key.flag()
        );
    }
    out
}

/// The page `docs/configuration.md`, made from the table.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
        Nothing needs to be configured for a first try. Every key below can stand in a YAML file (`sluice server --config sluice.yaml`), in the environment, or\n\
        on the command line; flags win over the environment, the environment over the file, the file over the default. An unknown or illegal key stops the\n\
        start, with all errors at once.\n\n\
        | `storage.flush_interval` | written as |\n| --- | --- |\n\
        | file | `storage: {flush_interval: 200ms}` or `storage.flush_interval: 200ms` |\n\
        | environment | `SLUICE_STORAGE_FLUSH_INTERVAL=200ms` |\n\
        | flag | `--storage-flush-interval 200ms` |\n\n\
        Durations are whole numbers with `ms`, `s`, `m`, `h` or `d`; sizes with `B`, `KiB`, `MiB`, `GiB` or `TiB`.\n\
        `sluice config --explain` prints this table, `sluice config --print` the values in effect and where each came from.\n\
        This page is made by `sluice config --markdown`; a test compares it with the table in the code.\n\n\
        | key | unit | default | allowed | why |\n| --- | --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let _ = writeln!(out, "| `{}` | {} | `{}` | {} | {} |", key.name, key.unit, key.default, key.allowed, key.why);
    }
    out
}

/// Rules between keys.
fn check_together(config: &Config, effective: &[Effective], errors: &mut Vec<ConfigError>) {
    let text = |name: &str| effective.iter().find(|e| e.key == name).cloned();
    let mut refuse = |name: &str, reason: String| {
        if let (Some(key), Some(won)) = (keys::find(name), text(name)) {
            errors.push(ConfigError::value(key, &won, reason));
        }
    };
    if config.roles.broker && !config.roles.naming && config.naming_addresses.is_empty() {
        refuse("naming.addresses", "a broker without a name server in the same process must be told where to register".into());
    }
    let replication = &config.replication;
    if !replication.members.is_empty() {
        let members = replication.members.len();
        if !replication.members.contains_key(&replication.member) {
            refuse("replication.member", format!("replication.members has no member {}", replication.member));
        }
        if replication.coordinator.is_none() {
            refuse("replication.coordinator", "members of a group have to be told where the group keeps who is master".into());
        }
        if replication.min_in_sync > members {
            refuse("replication.min_in_sync", format!("there are only {members} members"));
        }
        if text("broker.name").is_some_and(|name| name.value == "auto") {
            refuse("broker.name", "all members of a group have one name, and auto gives each host's own".into());
        }
    } else if replication.coordinator.is_some() {
        refuse("replication.coordinator", "without replication.members there is no group to coordinate".into());
    } else if replication.read_address.is_some() {
        refuse("replication.read_address", "without replication.members there are no replicas to read from".into());
    }
    let vip = if config.roles.broker { config.listen.vip_port() } else { None };
    let ports = [
        ("naming.port", config.roles.naming.then_some(config.listen.naming_port)),
        ("broker.port", config.roles.broker.then_some(config.listen.broker_port)),
        ("broker.vip_port", vip),
        ("http.port", config.listen.http_port),
        ("replication.members", replication.own_address().map(|(_, port)| port)),
        ("replication.read_address", replication.read_address.map(|address| address.port())),
    ];
    for (i, (name, port)) in ports.iter().enumerate() {
        if let Some((other, _)) = ports[..i].iter().find(|(_, earlier)| port.is_some() && earlier == port) {
            refuse(name, format!("port {} is already taken by {other}", port.unwrap_or_default()));
        }
    }
    // What one send brings lies in one segment, and the store takes half of one at most. Records carry headers and properties besides the body.
    let segment_bytes_min = 2 * (config.messages.bytes_max + MESSAGE_OVERHEAD_BYTES) as u64;
    if config.storage.segment_bytes < segment_bytes_min {
        let body = config.messages.bytes_max;
        refuse(
            "storage.segment_size",
            format!("for messages.size_max ({body} bytes) it has to be {segment_bytes_min} bytes: twice the body and 1 MiB for the rest"),
        );
    }
    if config.storage.append_queue_bytes < 2 * config.messages.bytes_max as u64 {
        refuse("storage.append_queue_size", format!("it is less than twice messages.size_max ({} bytes)", config.messages.bytes_max));
    }
    if config.limits.in_flight_bytes_max < 2 * config.messages.bytes_max {
        refuse("limits.in_flight_size", format!("it is less than twice messages.size_max ({} bytes)", config.messages.bytes_max));
    }
}

#[cfg(test)]
mod tests;
