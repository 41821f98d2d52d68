//! Apache RocketMQ from its Maven packages, to compare with.

use crate::{clients, places, process::Background};
use anyhow::{Context, Result};
use sluice_client::{Admin, Client, ClientOptions};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tokio::runtime::Builder;

const START: Duration = Duration::from_secs(90);

/// What the broker's direct buffers need on a current Java.
const OPENS: [&str; 4] = [
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
];

/// A name server and a broker of Apache RocketMQ; both end when this is dropped.
pub(crate) struct Peer {
    _broker: Background,
    _naming: Background,
    namesrv: String,
}

impl Peer {
    /// Starts both with their files in `folder`. `sync_flush`: a send is acknowledged after its flush.
    pub(crate) fn start(folder: &Path, sync_flush: bool) -> Result<Self> {
        let port = places::free_port()?;
        let namesrv = format!("127.0.0.1:{port}");
        let naming = start_naming(folder, port)?;
        let broker = start_broker(folder, &namesrv, sync_flush)?;
        Ok(Self { _broker: broker, _naming: naming, namesrv })
    }

    /// The name server's address.
    pub(crate) fn namesrv(&self) -> &str {
        &self.namesrv
    }
}

/// Starts its name server alone.
pub(crate) fn start_naming(folder: &Path, port: u16) -> Result<Background> {
    make_home(folder)?;
    let conf = folder.join("naming.conf");
    write(&conf, &format!("listenPort={port}\n"))?;
    let mut running = java(folder, &clients::library(true)?, "512m", "org.apache.rocketmq.namesrv.NamesrvStartup", &conf, "naming.log")?;
    running.await_listening(loopback(port), START)?;
    Ok(running)
}

/// Starts its broker alone, and waits until the name server, whosoever that is, knows it.
pub(crate) fn start_broker(folder: &Path, namesrv: &str, sync_flush: bool) -> Result<Background> {
    make_home(folder)?;
    let port = places::free_port()?;
    let store = folder.join("store");
    let conf = folder.join("broker.conf");
    let flush = if sync_flush { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
    // The checks of transactions come sooner than by default, but not before the peer has noted the end of one, which it does each 3 s.
    write(
        &conf,
        &format!(
            "brokerClusterName=Peer\nbrokerName=peer-a\nbrokerId=0\nnamesrvAddr={namesrv}\nbrokerIP1=127.0.0.1\nbrokerIP2=127.0.0.1\n\
             listenPort={port}\nhaListenPort={}\nstorePathRootDir={store}\nstorePathCommitLog={store}/commitlog\nflushDiskType={flush}\n\
             brokerRole=ASYNC_MASTER\nautoCreateTopicEnable=true\nenablePropertyFilter=true\ndiskMaxUsedSpaceRatio=95\n\
             transactionTimeOut=5000\ntransactionCheckInterval=5000\n",
            port + 1,
            store = store.display(),
        ),
    )?;
    let mut running = java(folder, &clients::library(true)?, "2g", "org.apache.rocketmq.broker.BrokerStartup", &conf, "broker.log")?;
    running.await_listening(loopback(port), START)?;
    await_registered(namesrv).with_context(|| format!("its log is {}", folder.join("broker.log").display()))?;
    Ok(running)
}

fn make_home(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("home/conf")).with_context(|| format!("making {}", folder.display()))
}

fn java(folder: &Path, library: &Path, heap: &str, class: &str, conf: &Path, log: &str) -> Result<Background> {
    let mut command = Command::new("java");
    let home = folder.join("home");
    command.env("ROCKETMQ_HOME", &home).current_dir(folder).args([format!("-Xms{heap}"), format!("-Xmx{heap}"), "-XX:+UseG1GC".into()]);
    command.arg(format!("-XX:MaxDirectMemorySize={heap}")).arg(format!("-Duser.home={}", home.display())).args(OPENS);
    command.arg("-cp").arg(library.join("*")).arg(class).arg("-c").arg(conf);
    Background::start(&mut command, &folder.join(log))
}

/// A broker listens some time before the name server knows it.
fn await_registered(namesrv: &str) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async {
        let admin = Admin::new(Client::new(namesrv, ClientOptions::default())?);
        let end = Instant::now() + START;
        loop {
            match admin.masters(None).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error).context("the broker has not registered"),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    })
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
