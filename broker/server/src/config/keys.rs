//! The one table of configuration keys. Its default, its range, its parser and the reason for its default stand side by side; file, environment, flags,
//! `sluice config --explain` and the errors are all made from it.

use super::{Config, FlushKind, LogFormat, value};
use std::net::IpAddr;

/// One configuration key.
pub struct Key {
    /// Dotted name as in the file: `broker.name`.
    pub name: &'static str,
    /// What the value is counted in, or its kind.
    pub unit: &'static str,
    /// The value when nothing is given.
    pub default: &'static str,
    /// What is allowed, in words.
    pub allowed: &'static str,
    /// What it does and why the default is what it is.
    pub why: &'static str,
    /// Parses, checks and sets.
    pub(super) apply: fn(&mut Config, &str) -> Result<(), String>,
}

impl Key {
    /// The environment variable: `SLUICE_BROKER_NAME`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("SLUICE_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The flag without its dashes: `broker-name`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }
}

/// Every key, in the order they are explained.
pub static KEYS: &[Key] = &[
    Key {
        name: "roles",
        unit: "list",
        default: "naming,broker",
        allowed: "naming, broker, or both",
        why: "What this process is. Both by default: one process is a whole RocketMQ for its clients.",
        apply: |c, raw| {
            (c.roles.naming, c.roles.broker) = (false, false);
            for role in value::list(raw) {
                match role {
                    "naming" => c.roles.naming = true,
                    "broker" => c.roles.broker = true,
                    other => return Err(format!("{other:?} is no role")),
                }
            }
            if c.roles.naming || c.roles.broker { Ok(()) } else { Err("no role is left to play".into()) }
        },
    },
    Key {
        name: "data_dir",
        unit: "path",
        default: "./sluice-data",
        allowed: "a directory this process may write; it is made when missing",
        why: "Where the commit log lies; a name server without a broker keeps its key-value configuration in naming/ below. Beside the working directory, so that a first try needs no rights and is easy to remove.",
        apply: |c, raw| value::non_empty(raw).map(|raw| c.data_dir = raw.into()),
    },
    Key {
        name: "broker.name",
        unit: "name",
        default: "auto",
        allowed: "1 to 127 letters, digits, '_', '-' or '.'; or auto",
        why: "The name in routes. auto takes the host's name, as RocketMQ does: two brokers with default settings do not collide at one name server.",
        apply: |c, raw| value::broker_name(raw).map(|name| c.broker.name = name),
    },
    Key {
        name: "broker.cluster",
        unit: "name",
        default: "DefaultCluster",
        allowed: "1 to 127 letters, digits, '_', '-' or '.'",
        why: "The cluster in routes. RocketMQ's default, which its tools (mqadmin -c) expect.",
        apply: |c, raw| value::plain_name(raw).map(|name| c.broker.cluster = name),
    },
    Key {
        name: "broker.id",
        unit: "number",
        default: "0",
        allowed: "0: this broker takes writes, and there are no replicas yet",
        why: "The broker's number under its name. 0 is the master; only a master takes writes, and there are no replicas yet.",
        apply: |c, raw| value::integer(raw, 0, 0).map(|id| c.broker.id = id),
    },
    Key {
        name: "broker.port",
        unit: "TCP port",
        default: "10911",
        allowed: "1 to 65535",
        why: "Where clients send and pull. RocketMQ's default port.",
        apply: |c, raw| value::port(raw).map(|port| c.listen.broker_port = port),
    },
    Key {
        name: "broker.vip_port",
        unit: "TCP port",
        default: "auto",
        allowed: "1 to 65535; auto (broker.port - 2); or off",
        why: "The second listener for clients with the VIP channel on. They compute broker.port - 2 by themselves, so any other number helps only behind a proxy.",
        apply: |c, raw| {
            c.listen.vip_port = match raw {
                "auto" => None,
                "off" => Some(None),
                number => Some(Some(value::port(number)?)),
            };
            Ok(())
        },
    },
    Key {
        name: "naming.port",
        unit: "TCP port",
        default: "9876",
        allowed: "1 to 65535",
        why: "Where clients ask for routes. RocketMQ's default port.",
        apply: |c, raw| value::port(raw).map(|port| c.listen.naming_port = port),
    },
    Key {
        name: "naming.addresses",
        unit: "list",
        default: "none",
        allowed: "host:port, several separated by ',' or ';'; or none",
        why: "Name servers this broker registers at, besides the one in this process. Needed when roles is broker alone.",
        apply: |c, raw| value::addresses(raw).map(|list| c.naming_addresses = list),
    },
    Key {
        name: "listen.address",
        unit: "IP address",
        default: "0.0.0.0",
        allowed: "an IPv4 or IPv6 address of this machine; 0.0.0.0 and :: mean all",
        why: "Where all listeners bind. All interfaces, as RocketMQ does: clients on other machines are the usual case. Use 127.0.0.1 to stay on this machine.",
        apply: |c, raw| value::ip(raw).map(|ip| c.listen.address = ip),
    },
    Key {
        name: "advertise.address",
        unit: "IP address",
        default: "auto",
        allowed: "an IPv4 or IPv6 address that clients can reach; or auto",
        why: "The broker's address in routes. auto takes listen.address when that is a single address, else the address of the interface with the default route.",
        apply: |c, raw| {
            c.listen.advertised = if raw == "auto" { None } else { Some(value::ip(raw)?) };
            match c.listen.advertised {
                Some(IpAddr::V4(ip)) if ip.is_unspecified() => Err("no client can connect to 0.0.0.0".into()),
                Some(IpAddr::V6(ip)) if ip.is_unspecified() => Err("no client can connect to ::".into()),
                _ => Ok(()),
            }
        },
    },
    Key {
        name: "http.port",
        unit: "TCP port",
        default: "9880",
        allowed: "1 to 65535; or off",
        why: "Metrics, liveness and readiness.",
        apply: |c, raw| {
            c.listen.http_port = if raw == "off" { None } else { Some(value::port(raw)?) };
            Ok(())
        },
    },
    Key {
        name: "storage.flush",
        unit: "choice",
        default: "async",
        allowed: "sync: on stable storage before a send is acknowledged; async: in the page cache before, on stable storage within storage.flush_interval",
        why: "async survives the death of the process, sync also a power cut. async is RocketMQ's default (ASYNC_FLUSH).",
        apply: |c, raw| {
            c.storage.flush = match raw {
                "sync" => FlushKind::Sync,
                "async" => FlushKind::Async,
                other => return Err(format!("{other:?} is no flush mode")),
            };
            Ok(())
        },
    },
    Key {
        name: "storage.flush_interval",
        unit: "duration",
        default: "500ms",
        allowed: "1ms to 1h",
        why: "Under async, the longest time a record stays only in the page cache. RocketMQ's default (flushIntervalCommitLog).",
        apply: |c, raw| value::duration(raw, "1ms", "1h").map(|d| c.storage.flush_interval = d),
    },
    Key {
        name: "storage.flush_deadline",
        unit: "duration",
        default: "5s",
        allowed: "10ms to 10m",
        why: "How long a send waits for its flush before it is answered FLUSH_DISK_TIMEOUT. RocketMQ's default (syncFlushTimeout).",
        apply: |c, raw| value::duration(raw, "10ms", "10m").map(|d| c.storage.flush_deadline = d),
    },
    Key {
        name: "storage.segment_size",
        unit: "bytes",
        default: "128MiB",
        allowed: "8MiB to 4GiB; at least twice messages.size_max and 2 MiB",
        why: "Size of one commit log file; fixed when the data directory is first made. Retention removes whole files, so smaller ones follow its age and size more closely.",
        apply: |c, raw| value::bytes(raw, "8MiB", "4GiB").map(|n| c.storage.segment_bytes = n),
    },
    Key {
        name: "storage.retention_age",
        unit: "duration",
        default: "72h",
        allowed: "1m to 3650d",
        why: "Messages older than this are removed, consumed or not. RocketMQ's default (fileReservedTime).",
        apply: |c, raw| value::duration(raw, "1m", "3650d").map(|d| c.storage.retention_age = d),
    },
    Key {
        name: "storage.retention_size",
        unit: "bytes",
        default: "none",
        allowed: "64MiB or more; or none",
        why: "When the log is larger its oldest files are removed, whatever their age. Off: age and storage.disk_used_max already bound it.",
        apply: |c, raw| {
            c.storage.retention_bytes = if raw == "none" { None } else { Some(value::bytes(raw, "64MiB", "8388608TiB")?) };
            Ok(())
        },
    },
    Key {
        name: "storage.disk_used_max",
        unit: "ratio",
        default: "0.95",
        allowed: "0.10 to 0.99",
        why: "Above this part of the disk sends are refused and reads go on; writing resumes by itself. 0.95 leaves room for what else lives on the disk.",
        apply: |c, raw| value::ratio(raw, 0.10, 0.99).map(|r| c.storage.disk_used_ratio_max = r),
    },
    Key {
        name: "storage.append_queue_size",
        unit: "bytes",
        default: "64MiB",
        allowed: "8MiB to 4GiB",
        why: "Bytes that may wait before the log's writer; more are refused as SYSTEM_BUSY. A fraction of a second of a fast disk's work.",
        apply: |c, raw| value::bytes(raw, "8MiB", "4GiB").map(|n| c.storage.append_queue_bytes = n),
    },
    Key {
        name: "replication.members",
        unit: "list",
        default: "none",
        allowed: "number=host:port for each broker of the group, this one included; or none",
        why: "The brokers that replicate one log, each under the address at which the others reach it (RocketMQ's replication port is 10912); this one listens at the port of its own. They have one broker.name. None: this broker is alone.",
        apply: |c, raw| value::members(raw).map(|members| c.replication.members = members),
    },
    Key {
        name: "replication.member",
        unit: "number",
        default: "1",
        allowed: "a number of replication.members",
        why: "Which of the members this broker is; it keeps the number whatever its role. Who is master is not configured: the members elect one.",
        apply: |c, raw| value::integer(raw, 1, 1_000_000).map(|n| c.replication.member = n as u32),
    },
    Key {
        name: "replication.coordinator",
        unit: "URL",
        default: "none",
        allowed: "etcd://host:port, several separated by ','; kubernetes://namespace/name; or none",
        why: "Where the group keeps who is master and who must hold a record before it is acknowledged: in etcd, or in a BrokerGroup of Kubernetes, reached by KUBECONFIG or else the Pod's service account. Needed with replication.members. While it is away the group serves on as it is.",
        apply: |c, raw| value::coordinator(raw).map(|place| c.replication.coordinator = place),
    },
    Key {
        name: "replication.lease",
        unit: "duration",
        default: "5s",
        allowed: "1s to 10m",
        why: "Without a sign of life for that long a master is taken for lost. A master whose process ends is replaced within a second, whatever this says. Shorter means more changes of master on slow networks and disks.",
        apply: |c, raw| value::duration(raw, "1s", "10m").map(|d| c.replication.lease = d),
    },
    Key {
        name: "replication.min_in_sync",
        unit: "members",
        default: "1",
        allowed: "1 to the number of members",
        why: "With fewer members in sync, the master included, sends are refused as SLAVE_NOT_AVAILABLE. 1 with two members, else each failover stops writes; 2 with three keeps two copies always.",
        apply: |c, raw| value::integer(raw, 1, 1_000).map(|n| c.replication.min_in_sync = n as usize),
    },
    Key {
        name: "replication.acknowledge",
        unit: "choice",
        default: "sync",
        allowed: "sync: when every member of the in-sync set has a message; async: when the master has it",
        why: "Under async a change of master may take messages that were acknowledged, and counts them; what consumers see waits for the others all the same. A topic's attribute replication goes before it.",
        apply: |c, raw| {
            c.replication.confirm = match raw {
                "sync" => true,
                "async" => false,
                other => return Err(format!("{other:?} is neither sync nor async")),
            };
            Ok(())
        },
    },
    Key {
        name: "replication.unconfirmed_size",
        unit: "bytes",
        default: "64MiB",
        allowed: "64KiB to 4GiB",
        why: "Most log that may be acknowledged under async before the others have it, and so the most that a change of master may take; sends beyond wait. They wait too when anything has been unconfirmed for replication.lease. Less than a second of a fast network.",
        apply: |c, raw| value::bytes(raw, "64KiB", "4GiB").map(|n| c.replication.unconfirmed_bytes = n),
    },
    Key {
        name: "replication.read_address",
        unit: "IP address and port",
        default: "none",
        allowed: "address:port at which clients reach this very member, [address]:port for IPv6; or none",
        why: "Where consumers that are far behind read from this member while it is a replica; it listens at that port. It is in routes under the member's number. Set it on all members of a group or on none: the master then sends such consumers to replicas. None, as in RocketMQ (slaveReadEnable): readers need an address for each member.",
        apply: |c, raw| value::socket(raw).map(|address| c.replication.read_address = address),
    },
    Key {
        name: "replication.read_behind",
        unit: "bytes",
        default: "auto",
        allowed: "0B to 1024TiB; or auto, two fifths of the memory",
        why: "A consumer that reads further before the log's end than that is sent to a replica, if its group's settings allow it and replication.read_address is set. auto is RocketMQ's rule (accessMessageInMemoryMaxRatio 40): what is nearer is still in the master's memory.",
        apply: |c, raw| value::auto(raw, |raw| value::bytes(raw, "0B", "1024TiB")).map(|bytes| c.replication.read_behind = bytes),
    },
    Key {
        name: "topics.auto_create",
        unit: "yes/no",
        default: "true",
        allowed: "true or false",
        why: "Whether the first send to an unknown topic makes it. On, as in RocketMQ, so that a first program just works; turn it off in production.",
        apply: |c, raw| value::boolean(raw).map(|on| c.topics.auto_create = on),
    },
    Key {
        name: "topics.queue_count",
        unit: "queues",
        default: "8",
        allowed: "1 to 1024",
        why: "Most queues a topic made by its first send gets; producers ask for 4 unless told otherwise. RocketMQ's default (defaultTopicQueueNums).",
        apply: |c, raw| value::integer(raw, 1, 1024).map(|n| c.topics.queue_count = n as u32),
    },
    Key {
        name: "messages.size_max",
        unit: "bytes",
        default: "4MiB",
        allowed: "1KiB to 15MiB: with its header and properties a message has to fit into 16 MiB, the largest frame of RocketMQ's clients",
        why: "Largest body of a message. RocketMQ's default (maxMessageSize).",
        apply: |c, raw| value::bytes(raw, "1KiB", "15MiB").map(|n| c.messages.bytes_max = n as usize),
    },
    Key {
        name: "transaction.timeout",
        unit: "duration",
        default: "6s",
        allowed: "100ms to 24h",
        why: "A half message whose transaction has not ended after this time is asked about for the first time. RocketMQ's default (transactionTimeOut). A message may put it off by CHECK_IMMUNITY_TIME_IN_SECONDS, up to storage.retention_age.",
        apply: |c, raw| value::duration(raw, "100ms", "24h").map(|d| c.transaction.timeout = d),
    },
    Key {
        name: "transaction.check_interval",
        unit: "duration",
        default: "30s",
        allowed: "100ms to 24h",
        why: "From one question about a transaction to the next. RocketMQ's default (transactionCheckInterval).",
        apply: |c, raw| value::duration(raw, "100ms", "24h").map(|d| c.transaction.check_interval = d),
    },
    Key {
        name: "transaction.check_max",
        unit: "checks",
        default: "15",
        allowed: "1 to 1000",
        why: "After so many checks in vain, with nobody of the group connected or without an answer, the message is moved to TRANS_CHECK_MAX_TIME_TOPIC. RocketMQ's default (transactionCheckMax).",
        apply: |c, raw| value::integer(raw, 1, 1000).map(|n| c.transaction.check_max = n as u32),
    },
    Key {
        name: "transaction.open_max",
        unit: "messages",
        default: "200000",
        allowed: "1 to 10000000",
        why: "Most half messages whose transaction has not ended; more are refused as SYSTEM_BUSY. Each takes some 150 bytes of memory; the default is 30 MB.",
        apply: |c, raw| value::integer(raw, 1, 10_000_000).map(|n| c.transaction.open_max = n as usize),
    },
    Key {
        name: "limits.connections",
        unit: "connections",
        default: "10000",
        allowed: "1 to 1000000",
        why: "Most connections over all client ports; more are closed at once. Each needs a file descriptor and some 20 KiB.",
        apply: |c, raw| value::integer(raw, 1, 1_000_000).map(|n| c.limits.connections_max = n as usize),
    },
    Key {
        name: "limits.in_flight_size",
        unit: "bytes",
        default: "256MiB",
        allowed: "16MiB to 64GiB",
        why: "Bytes of all requests being worked on; beyond it connections are not read until some are answered. Bounds memory under a flood.",
        apply: |c, raw| value::bytes(raw, "16MiB", "64GiB").map(|n| c.limits.in_flight_bytes_max = n as usize),
    },
    Key {
        name: "limits.idle",
        unit: "duration",
        default: "120s",
        allowed: "1s to 24h",
        why: "A connection silent for so long is closed. RocketMQ's default (serverChannelMaxIdleTimeSeconds); clients send a heartbeat every 30 s, and brokers register as often: a name server that closes sooner forgets them in between.",
        apply: |c, raw| value::duration(raw, "1s", "24h").map(|d| c.limits.idle = d),
    },
    Key {
        name: "limits.partial_frame",
        unit: "duration",
        default: "30s",
        allowed: "1s to 10m",
        why: "A frame begun must be complete within this time. Enough for the largest message over 1.2 Mbit/s; ends connections that trickle bytes to hold memory.",
        apply: |c, raw| value::duration(raw, "1s", "10m").map(|d| c.limits.partial_frame = d),
    },
    Key {
        name: "limits.held_pulls",
        unit: "pulls",
        default: "100000",
        allowed: "0 to 10000000",
        why: "Most pulls held open for messages to come; beyond, one that finds nothing is refused with code 209 (POLLING_FULL). 10,000 consumers of 10 queues each.",
        apply: |c, raw| value::integer(raw, 0, 10_000_000).map(|n| c.limits.held_pulls_max = n as usize),
    },
    Key {
        name: "log.level",
        unit: "filter",
        default: "info",
        allowed: "error, warn, info, debug, trace, or directives such as info,sluice_store=debug",
        why: "What is logged. info is silent per message.",
        apply: |c, raw| value::log_filter(raw).map(|filter| c.log.filter = filter),
    },
    Key {
        name: "log.format",
        unit: "choice",
        default: "text",
        allowed: "text or json",
        why: "Form of a log line on standard error. text is for people; json for a collector.",
        apply: |c, raw| {
            c.log.format = match raw {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(format!("{other:?} is no log format")),
            };
            Ok(())
        },
    },
    Key {
        name: "shutdown.deadline",
        unit: "duration",
        default: "20s",
        allowed: "1s to 10m",
        why: "How long a stop waits for requests in work and the last flush. Under Kubernetes' 30 s of grace.",
        apply: |c, raw| value::duration(raw, "1s", "10m").map(|d| c.shutdown_deadline = d),
    },
];

/// The key of that name.
#[must_use]
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
