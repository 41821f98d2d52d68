//! A network of machines of its own: network namespaces on one bridge, rules that drop packets, and an address that moves.

use super::group::BROKERS;
use crate::{places, process};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::Write,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

const DEADLINE: Duration = Duration::from_secs(30);
const PREFIX: &str = "sluice-chaos-";
/// The bridge has a namespace of its own.
const WIRE: &str = "wire";

/// Where the group's service is, on whichever broker that is.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);

/// A machine of the bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A broker, by its index.
    Broker(usize),
    /// The coordinator.
    Etcd,
    /// All clients.
    Clients,
}

impl Place {
    const ALL: [Self; 5] = [Self::Broker(0), Self::Broker(1), Self::Broker(2), Self::Etcd, Self::Clients];

    /// The name that its hosts files know.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Broker(0) => "b1",
            Self::Broker(1) => "b2",
            Self::Broker(_) => "b3",
            Self::Etcd => "e",
            Self::Clients => "c",
        }
    }

    fn first_address(self) -> Ipv4Addr {
        let last = match self {
            Self::Broker(index) => 11 + index as u8,
            Self::Etcd => 20,
            Self::Clients => 30,
        };
        Ipv4Addr::new(198, 18, 0, last)
    }
}

/// Which packets of a machine are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Those that come.
    In,
    /// Those that go.
    Out,
    /// All.
    Both,
}

/// The namespaces; gone when this is dropped.
pub(super) struct Bed {
    tag: String,
    addresses: Vec<(Place, Ipv4Addr)>,
}

impl Bed {
    /// Makes it.
    pub(super) fn make() -> Result<Self> {
        sweep()?;
        let bed = Self { tag: format!("{PREFIX}{}-", std::process::id()), addresses: Place::ALL.map(|place| (place, place.first_address())).to_vec() };
        let wire = bed.named(WIRE);
        ip(&["netns", "add", &wire])?;
        ip(&["-n", &wire, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &wire, "link", "set", "br0", "up"])?;
        for place in Place::ALL {
            bed.attach(place)?;
        }
        bed.write_hosts()?;
        Ok(bed)
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.tag)
    }

    /// Its namespace.
    pub(super) fn namespace(&self, place: Place) -> String {
        self.named(place.name())
    }

    fn attach(&self, place: Place) -> Result<()> {
        let (wire, own, link) = (self.named(WIRE), self.namespace(place), place.name());
        ip(&["netns", "add", &own])?;
        ip(&["-n", &wire, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &own])?;
        ip(&["-n", &wire, "link", "set", link, "master", "br0", "up"])?;
        ip(&["-n", &own, "link", "set", "lo", "up"])?;
        ip(&["-n", &own, "link", "set", "eth0", "up"])?;
        ip(&["-n", &own, "addr", "add", &format!("{}/24", place.first_address()), "dev", "eth0"])
    }

    /// Its address now.
    pub(super) fn address(&self, place: Place) -> Ipv4Addr {
        self.addresses.iter().find(|(other, _)| *other == place).map_or(SERVICE, |(_, address)| *address)
    }

    /// Gives the machine another address; whoever asks for its name is told the new one.
    pub(super) fn readdress(&mut self, place: Place) -> Result<()> {
        let old = self.address(place);
        let first = place.first_address();
        let new = if old == first { second_address(first) } else { first };
        let own = self.namespace(place);
        ip(&["-n", &own, "addr", "del", &format!("{old}/24"), "dev", "eth0"])?;
        ip(&["-n", &own, "addr", "add", &format!("{new}/24"), "dev", "eth0"])?;
        for (_, address) in self.addresses.iter_mut().filter(|(other, _)| *other == place) {
            *address = new;
        }
        self.write_hosts()
    }

    /// `ip netns exec` shows this file as /etc/hosts. Written in place, so that running processes see the change.
    fn write_hosts(&self) -> Result<()> {
        let lines: String = self.addresses.iter().map(|(place, address)| format!("{address} {}\n", place.name())).collect();
        for place in Place::ALL {
            let folder = netns_etc(&self.namespace(place));
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            let file = folder.join("hosts");
            fs::write(&file, format!("127.0.0.1 localhost\n{lines}")).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    }

    /// A command whose arguments are a program and its arguments, which then runs on that machine.
    pub(super) fn command(&self, place: Place) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(place)]);
        command
    }

    /// A runtime whose tasks and their sockets are on that machine. The thread that waits for them is not: futures with sockets have to be spawned.
    pub(super) fn runtime(&self, place: Place) -> Result<Runtime> {
        let path = Path::new("/run/netns").join(self.namespace(place));
        let made = thread::spawn(move || -> Result<Runtime> {
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("entering a network namespace")?;
            Builder::new_multi_thread().worker_threads(1).enable_all().build().context("starting tokio")
        });
        made.join().map_err(|_| anyhow!("entering a network namespace panicked"))?
    }

    /// From now on packets between this machine and the others are dropped, in one direction or both.
    pub(super) fn cut(&self, at: Place, others: &[Place], way: Way) -> Result<()> {
        let peers: Vec<String> = others.iter().map(|place| self.address(*place).to_string()).collect();
        let peers = peers.join(", ");
        self.rules(at, way, &format!("ip saddr {{ {peers} }} drop"), &format!("ip daddr {{ {peers} }} drop"))
    }

    /// From now on all packets of this machine are dropped, but those to itself.
    pub(super) fn isolate(&self, at: Place) -> Result<()> {
        self.rules(at, Way::Both, "iifname eth0 drop", "oifname eth0 drop")
    }

    fn rules(&self, at: Place, way: Way, inwards: &str, outwards: &str) -> Result<()> {
        let mut text = "table inet chaos {\n".to_owned();
        if way != Way::Out {
            text += &format!("chain i {{ type filter hook input priority 0; {inwards}; }}\n");
        }
        if way != Way::In {
            text += &format!("chain o {{ type filter hook output priority 0; {outwards}; }}\n");
        }
        text += "}\n";
        nft(&mut self.command(at), &text)
    }

    /// Nothing is dropped any more.
    pub(super) fn join(&self, at: Place) -> Result<()> {
        process::output(self.command(at).args(["nft", "flush", "ruleset"]), DEADLINE).map(drop)
    }

    /// So many kilobits a second leave that machine, and no more.
    pub(super) fn throttle(&self, at: Place, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let words = ["-n", &self.namespace(at), "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "32kb", "latency", "400ms"];
        process::output(Command::new("tc").args(words), DEADLINE).map(drop)
    }

    /// The link is fast again.
    pub(super) fn unthrottle(&self, at: Place) -> Result<()> {
        process::output(Command::new("tc").args(["-n", &self.namespace(at), "qdisc", "del", "dev", "eth0", "root"]), DEADLINE).map(drop)
    }

    /// Clients connect anew to whom the group's address leads to now.
    pub(super) fn reset_clients(&self) -> Result<()> {
        reset(&self.namespace(Place::Clients))
    }

    /// What moves the group's address.
    pub(super) fn mover(&self, manner: Manner) -> Mover {
        let brokers = (0..BROKERS).map(|index| (self.namespace(Place::Broker(index)), Place::Broker(index).first_address())).collect();
        Mover { manner, brokers, clients: self.namespace(Place::Clients) }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.tag) {
            eprintln!("{error:#}");
        }
    }
}

/// What becomes of connections that clients have open at the group's address when it leads to another master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Manner {
    /// They are reset, but after a planned switchover they stay with the old master, which forwards
    Reset,
    /// They stay with the old master, as with kube-proxy
    Kept,
}

/// Moves the group's address. Rules on the clients' machine lead new connections to the master's own address, as kube-proxy's do; a connection stays where it was led.
pub(super) struct Mover {
    manner: Manner,
    /// Namespaces, and where the machines were at the beginning.
    brokers: Vec<(String, Ipv4Addr)>,
    clients: String,
}

impl Mover {
    /// The address leads to that broker from now on.
    pub(super) fn move_service(&self, to: usize, is_ordered: bool) -> Result<()> {
        let now = self.lead_to(&self.brokers[to])?;
        if self.manner == Manner::Kept || is_ordered {
            return Ok(());
        }
        // None of those to the new one: what it answers would find nobody. The second addresses later: the old master is seldom there.
        let firsts = self.brokers.iter().map(|(_, first)| *first);
        for address in firsts.clone().chain(firsts.map(second_address)).filter(|address| *address != now) {
            forget(&self.clients, address)?;
        }
        reset(&self.clients)
    }

    /// Comes back with where it is.
    fn lead_to(&self, (namespace, first): &(String, Ipv4Addr)) -> Result<Ipv4Addr> {
        // The machine may have another address by now.
        let shown = process::output(Command::new("ip").args(["-n", namespace, "-4", "-br", "addr", "show", "dev", "eth0"]), DEADLINE)?;
        let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/24")?.parse().ok()).unwrap_or(*first);
        // In one step and with the chain kept: nobody is led to neither.
        let rules = format!(
            "table ip service {{\nchain o {{ type nat hook output priority -100; }}\n}}\nflush chain ip service o\nadd rule ip service o ip daddr {SERVICE} dnat to {address}\n"
        );
        nft(Command::new("ip").args(["netns", "exec", &self.clients]), &rules)?;
        Ok(address)
    }
}

/// Where a machine is in place of its first address.
fn second_address(first: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + 40)
}

/// Resets what is open from there to the group's address.
fn reset(clients: &str) -> Result<()> {
    process::output(Command::new("ss").args(["-t", "-N", clients, "-H", "-K", "dst", &SERVICE.to_string()]), DEADLINE).map(drop)
}

/// Forgets which connections were led to that address. A later one from the same port would be led there too, and hang if nobody answers there.
fn forget(clients: &str, address: Ipv4Addr) -> Result<()> {
    let (service, address) = (SERVICE.to_string(), address.to_string());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", clients, "conntrack", "-D", "-d", &service, "-r", &address]).stderr(Stdio::null());
    let (text, status) = process::run_and_keep_all(&mut command, DEADLINE, false);
    let status = status?;
    // It says 1 where there was nothing to forget.
    ensure!(matches!(status.code(), Some(0 | 1)), "conntrack could not forget connections: {status}\n{text}");
    Ok(())
}

/// Has nft, which the command runs, do this.
fn nft(command: &mut Command, rules: &str) -> Result<()> {
    let mut child = command.args(["nft", "-f", "-"]).stdin(Stdio::piped()).spawn().context("starting nft")?;
    child.stdin.take().context("a piped input is there")?.write_all(rules.as_bytes()).context("writing rules to nft")?;
    let status = child.wait().context("waiting for nft")?;
    ensure!(status.success(), "nft refused these rules ({status}):\n{rules}");
    Ok(())
}

fn ip(words: &[&str]) -> Result<()> {
    process::output(Command::new("ip").args(words), DEADLINE).map(drop)
}

fn netns_etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

/// Ends what still runs in the namespaces that begin so, and removes them.
fn remove(tag: &str) -> Result<()> {
    for name in namespaces()?.iter().filter(|name| name.starts_with(tag)) {
        for pid in process::output(Command::new("ip").args(["netns", "pids", name]), DEADLINE)?.split_whitespace() {
            // It may be gone by now.
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        ip(&["netns", "del", name])?;
        // Only machines have one.
        let _ = fs::remove_dir_all(netns_etc(name));
    }
    Ok(())
}

fn namespaces() -> Result<Vec<String>> {
    let list = process::output(Command::new("ip").args(["netns", "list"]), DEADLINE)?;
    Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Removes what runs before this one have left behind when they were killed.
fn sweep() -> Result<()> {
    for name in namespaces()? {
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            eprintln!("chaos: {name} was left behind by a run that was killed: removing it");
            remove(&name)?;
        }
    }
    Ok(())
}

/// Whether this machine and user can do it.
pub(super) fn possible() -> Result<bool> {
    let tools = [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("ss", "iproute2"),
        ("nft", "nftables"),
        ("conntrack", "conntrack"),
        ("etcd", "etcd-server"),
        ("mkfs.ext4", "e2fsprogs"),
        ("mount", "mount"),
        ("xfs_io", "xfsprogs"),
        ("fsfreeze", "util-linux"),
        ("strace", "strace"),
    ];
    for (program, package) in tools {
        if !places::has_tool(program, package)? {
            return Ok(false);
        }
    }
    if !rustix::process::geteuid().is_root() {
        let reason = "network namespaces and mounts need root";
        if places::ci() {
            bail!(reason);
        }
        eprintln!("skipped: {reason}");
        return Ok(false);
    }
    Ok(true)
}
