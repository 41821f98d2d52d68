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
        let library = clients::library(true)?;
        let (naming, broker) = (places::free_port()?, places::free_port()?);
        let namesrv = format!("127.0.0.1:{naming}");
        fs::create_dir_all(folder.join("home/conf")).with_context(|| format!("making {}", folder.display()))?;
        let store = folder.join("store");
        let naming_conf = folder.join("naming.conf");
        let broker_conf = folder.join("broker.conf");
        write(&naming_conf, &format!("listenPort={naming}\n"))?;
        // The checks of transactions come sooner than by default, but not before the peer has noted the end of one, which it does each 3 s.
        let flush = if sync_flush { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
        write(
            &broker_conf,
            &format!(
                "brokerClusterName=Peer\nbrokerName=peer-a\nbrokerId=0\nnamesrvAddr={namesrv}\nbrokerIP1=127.0.0.1\nbrokerIP2=127.0.0.1\n\
                 listenPort={broker}\nhaListenPort={}\nstorePathRootDir={store}\nstorePathCommitLog={store}/commitlog\nflushDiskType={flush}\n\
                 brokerRole=ASYNC_MASTER\nautoCreateTopicEnable=true\nenablePropertyFilter=true\ndiskMaxUsedSpaceRatio=95\n\
                 transactionTimeOut=5000\ntransactionCheckInterval=5000\n",
                broker + 1,
                store = store.display(),
            ),
        )?;
        let mut running_naming = java(folder, &library, "512m", "org.apache.rocketmq.namesrv.NamesrvStartup", &naming_conf, "naming.log")?;
        running_naming.await_listening(loopback(naming), START)?;
        let mut running_broker = java(folder, &library, "2g", "org.apache.rocketmq.broker.BrokerStartup", &broker_conf, "broker.log")?;
        running_broker.await_listening(loopback(broker), START)?;
        await_registered(&namesrv).with_context(|| format!("its log is {}", folder.join("broker.log").display()))?;
        Ok(Self { _broker: running_broker, _naming: running_naming, namesrv })
    }

    /// The name server's address.
    pub(crate) fn namesrv(&self) -> &str {
        &self.namesrv
    }
}

fn java(folder: &Path, library: &Path, heap: &str, class: &str, conf: &Path, log: &str) -> Result<Background> {
    let mut command = Command::new("java");
    let home = folder.join("home");
    command.env("ROCKETMQ_HOME", &home).current_dir(folder).args([format!("-Xms{heap}"), format!("-Xmx{heap}"), "-XX:+UseG1GC".into()]);
    command.arg(format!("-XX:MaxDirectMemorySize={heap}")).arg(format!("-Duser.home={}", home.display())).args(OPENS);
    command.arg("-cp").arg(library.join("*")).arg(class).arg("-c").arg(conf);
    Background::start(&mut command, &folder.join(log))
}

/// The broker listens some time before the name server knows it.
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
