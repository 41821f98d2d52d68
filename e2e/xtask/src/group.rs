//! A group of brokers that replicate one log, with a name server and etcd.

use crate::{
    places,
    process::Background,
    sluice::{self, START},
};
use anyhow::{Context, Result, bail};
use sluice_client::{Admin, Client, ClientOptions};
use sluice_protocol::body::{GroupStatus, ReplicaStatus};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

/// How often the group is asked how it is.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// All its processes end when this is dropped.
pub(crate) struct Group {
    binary: PathBuf,
    folder: PathBuf,
    namesrv: String,
    coordinator: String,
    /// By number, less one.
    members: Vec<Member>,
    admin: Admin,
    runtime: Runtime,
    _naming: Background,
    _etcd: Background,
}

struct Member {
    broker: u16,
    replication: u16,
    running: Option<Background>,
}

impl Group {
    /// Starts so many brokers with synchronous flush, and waits until all of them are in sync. Their files are in `folder`.
    pub(crate) fn start(binary: &Path, folder: &Path, members: u32) -> Result<Self> {
        let (etcd, coordinator) = start_etcd(folder)?;
        let port = places::free_port()?;
        let naming = sluice::start_naming(binary, folder, port)?;
        let namesrv = format!("127.0.0.1:{port}");
        let runtime = Builder::new_current_thread().enable_all().build().context("starting tokio")?;
        let admin = runtime.block_on(async { Client::new(&namesrv, ClientOptions::default()).map(Admin::new) })?;
        let member = |_| anyhow::Ok(Member { broker: places::free_port()?, replication: places::free_port()?, running: None });
        let members = (0..members).map(member).collect::<Result<Vec<_>>>()?;
        let (binary, folder) = (binary.to_path_buf(), folder.to_path_buf());
        let mut group = Self { binary, folder, namesrv, coordinator, members, admin, runtime, _naming: naming, _etcd: etcd };
        for index in 0..group.members.len() {
            group.start_member(index)?;
        }
        group.await_in_sync(group.members.len() - 1)?;
        group.await_registered()?;
        Ok(group)
    }

    /// The name server's address.
    pub(crate) fn namesrv(&self) -> &str {
        &self.namesrv
    }

    pub(crate) fn start_member(&mut self, index: usize) -> Result<()> {
        let addresses = self.members.iter().enumerate().map(|(index, member)| format!("{}=127.0.0.1:{}", index + 1, member.replication));
        let addresses = addresses.collect::<Vec<_>>().join(",");
        let port = self.members[index].broker;
        let mut command = sluice::server(&self.binary, &self.folder.join(format!("data-{index}")));
        command.args(["--roles", "broker", "--naming-addresses", &self.namesrv, "--broker-name", "group", "--broker-port", &port.to_string()]);
        command.args(["--storage-flush", "sync", "--replication-members", &addresses, "--replication-member", &(index + 1).to_string()]);
        command.args(["--replication-coordinator", &self.coordinator]);
        self.members[index].running = Some(sluice::start(&mut command, &self.folder.join(format!("broker-{index}.log")), &[port])?);
        Ok(())
    }

    pub(crate) fn stop_member(&mut self, index: usize) -> Result<()> {
        self.members[index].running.take().map_or(Ok(()), |mut running| sluice::stop(&mut running))
    }

    /// What a member says of the group.
    pub(crate) fn status(&self, index: usize) -> Result<GroupStatus> {
        let place = format!("127.0.0.1:{}", self.members[index].broker);
        self.runtime.block_on(self.admin.group_status(&place)).with_context(|| format!("asking the broker at {place} how the group is"))
    }

    /// Waits until the name server knows the master too, which comes after its election.
    fn await_registered(&self) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            match self.runtime.block_on(self.admin.masters(None)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error).context("the group's master has not registered"),
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// Waits until there is a master with so many replicas in sync, no more and no fewer, and says which it is.
    pub(crate) fn await_in_sync(&self, replicas: usize) -> Result<usize> {
        let end = Instant::now() + START;
        while Instant::now() < end {
            for index in (0..self.members.len()).filter(|index| self.members[*index].running.is_some()) {
                if self.status(index).is_ok_and(|status| status.role == "master" && in_sync(&status).count() == replicas) {
                    return Ok(index);
                }
            }
            thread::sleep(POLL);
        }
        bail!("the group has no master with {replicas} replicas in sync after {START:?}; its logs are in {}", self.folder.display())
    }
}

/// The replicas that a master's records wait for.
pub(crate) fn in_sync(status: &GroupStatus) -> impl Iterator<Item = &ReplicaStatus> {
    status.replicas.iter().filter(|replica| replica.in_sync)
}

/// One etcd, and its address for brokers.
fn start_etcd(folder: &Path) -> Result<(Background, String)> {
    places::need_tool("etcd", "etcd-server")?;
    let port = places::free_port()?;
    let [client, peer] = [port, places::free_port()?].map(|port| format!("http://127.0.0.1:{port}"));
    let mut command = Command::new("etcd");
    command.args(["--name", "m", "--initial-cluster", &format!("m={peer}"), "--initial-advertise-peer-urls", &peer, "--listen-peer-urls", &peer]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]).arg("--data-dir").arg(folder.join("etcd"));
    let log = folder.join("etcd.log");
    let mut running = Background::start(&mut command, &log)?;
    running.await_listening(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), START).with_context(|| format!("its log is {}", log.display()))?;
    Ok((running, format!("etcd://127.0.0.1:{port}")))
}
