//! Apache RocketMQ from its Maven packages, to compare with.

use crate::{clients, places, process::Background};
use anyhow::{Context, Result, bail};
use sluice_client::{Admin, Client, ClientError, ClientOptions, Message, Producer, SendStatus, TopicSettings};
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

/// A broker without slaves.
const ALONE: &str = "brokerId=0\nbrokerRole=ASYNC_MASTER\n";
/// Waits for one slave. Since 5.0 the role alone does not: inSyncReplicas is 1 by default, which is the master itself.
const MASTER: &str = "brokerId=0\nbrokerRole=SYNC_MASTER\ntotalReplicas=2\ninSyncReplicas=2\n";

/// It learns from the name server where its master is: 5.5.0 forgets a configured haMasterAddress before it connects.
const SLAVE: &str = "brokerId=1\nbrokerRole=SLAVE\n";

/// A name server and a broker of Apache RocketMQ, or two; all of them end when this is dropped.
pub(crate) struct Peer {
    _brokers: Vec<Background>,
    _naming: Background,
    namesrv: String,
}

impl Peer {
    /// Starts both with their files in `folder`. `sync_flush`: a send is acknowledged after its flush.
    pub(crate) fn start(folder: &Path, sync_flush: bool) -> Result<Self> {
        let (naming, namesrv) = naming(folder)?;
        let broker = start_broker(folder, &namesrv, sync_flush)?;
        Ok(Self { _brokers: vec![broker], _naming: naming, namesrv })
    }

    /// Starts a master and a slave, both with synchronous flush: a send is acknowledged when the slave has it too.
    pub(crate) fn start_replicated(folder: &Path) -> Result<Self> {
        let (naming, namesrv) = naming(folder)?;
        let master = start_as(folder, &namesrv, true, MASTER)?;
        let slave = start_as(&folder.join("slave"), &namesrv, true, SLAVE)?;
        await_replicated(&namesrv).with_context(|| format!("the slave's log is {}", folder.join("slave/broker.log").display()))?;
        Ok(Self { _brokers: vec![slave, master], _naming: naming, namesrv })
    }

    /// The name server's address.
    pub(crate) fn namesrv(&self) -> &str {
        &self.namesrv
    }
}

/// Its name server at a free port, and the address.
fn naming(folder: &Path) -> Result<(Background, String)> {
    let port = places::free_port()?;
    Ok((start_naming(folder, port)?, format!("127.0.0.1:{port}")))
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
    start_as(folder, namesrv, sync_flush, ALONE)
}

/// Its broker with these lines of configuration too.
fn start_as(folder: &Path, namesrv: &str, sync_flush: bool, role: &str) -> Result<Background> {
    make_home(folder)?;
    let port = places::free_port()?;
    let store = folder.join("store");
    let conf = folder.join("broker.conf");
    let flush = if sync_flush { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
    // The checks of transactions come sooner than by default, but not before the peer has noted the end of one, which it does each 3 s.
    write(
        &conf,
        &format!(
            "brokerClusterName=Peer\nbrokerName=peer-a\n{role}namesrvAddr={namesrv}\nbrokerIP1=127.0.0.1\nbrokerIP2=127.0.0.1\n\
             listenPort={port}\nhaListenPort={}\nstorePathRootDir={store}\nstorePathCommitLog={store}/commitlog\nflushDiskType={flush}\n\
             autoCreateTopicEnable=true\nenablePropertyFilter=true\ndiskMaxUsedSpaceRatio=95\n\
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
    java_by(Command::new("env"), folder, library, heap, class, conf, log)
}

/// The same by a command that runs its arguments.
fn java_by(mut command: Command, folder: &Path, library: &Path, heap: &str, class: &str, conf: &Path, log: &str) -> Result<Background> {
    let home = folder.join("home");
    command.arg("java").env("ROCKETMQ_HOME", &home).current_dir(folder).args([format!("-Xms{heap}"), format!("-Xmx{heap}"), "-XX:+UseG1GC".into()]);
    command.arg(format!("-XX:MaxDirectMemorySize={heap}")).arg(format!("-Duser.home={}", home.display())).args(OPENS);
    command.arg("-cp").arg(library.join("*")).arg(class).arg("-c").arg(conf);
    Background::start(&mut command, &folder.join(log))
}

/// Starts a name server with a controller in it, on the machine that the command runs its arguments on.
pub(crate) fn start_controller(by: Command, folder: &Path, address: Ipv4Addr, naming: u16, controller: u16) -> Result<Background> {
    make_home(folder)?;
    let conf = folder.join("naming.conf");
    write(
        &conf,
        &format!(
            "listenPort={naming}\nenableControllerInNamesrv=true\ncontrollerDLegerGroup=controllers\ncontrollerDLegerPeers=n0-{address}:{controller}\n\
             controllerDLegerSelfId=n0\ncontrollerStorePath={}\n",
            folder.join("controller").display()
        ),
    )?;
    java_by(by, folder, &clients::library(true)?, "512m", "org.apache.rocketmq.namesrv.NamesrvStartup", &conf, "naming.log")
}

/// Starts a broker that the controller makes master or slave; both flushes are synchronous, and a send is acknowledged when all of the in-sync set have it.
pub(crate) fn start_controlled(by: Command, folder: &Path, own: Ipv4Addr, port: u16, namesrv: &str, controller: &str) -> Result<Background> {
    make_home(folder)?;
    let (conf, store) = (folder.join("broker.conf"), folder.join("store"));
    write(
        &conf,
        &format!(
            "brokerClusterName=Peer\nbrokerName=peer-a\nbrokerId=-1\nbrokerRole=SYNC_MASTER\nenableControllerMode=true\ncontrollerAddr={controller}\n\
             namesrvAddr={namesrv}\nbrokerIP1={own}\nbrokerIP2={own}\nlistenPort={port}\nhaListenPort={}\nallAckInSyncStateSet=true\n\
             storePathRootDir={store}\nstorePathCommitLog={store}/commitlog\nflushDiskType=SYNC_FLUSH\nmappedFileSizeCommitLog=67108864\ndiskMaxUsedSpaceRatio=95\n",
            port + 1,
            store = store.display(),
        ),
    )?;
    java_by(by, folder, &clients::library(true)?, "1g", "org.apache.rocketmq.broker.BrokerStartup", &conf, "broker.log")
}

/// A broker listens some time before the name server knows it.
fn await_registered(namesrv: &str) -> Result<()> {
    asked(namesrv, "the broker has not registered", async |client| Admin::new(client).masters(None).await.map(|_| true))
}

/// The slave connects some time after it has registered; until then what is sent waits for it in vain.
fn await_replicated(namesrv: &str) -> Result<()> {
    let settings = TopicSettings { topic: "replicated".to_owned(), read_queues: 1, write_queues: 1, perm: 6, order: false, attributes: Vec::new() };
    asked(namesrv, "the slave does not replicate", async |client| {
        let admin = Admin::new(client.clone());
        admin.create_topic(&admin.masters(None).await?, &settings).await?;
        let receipt = Producer::new(client, "replicated")?.send(&Message::new("replicated", b"?".to_vec())).await?;
        Ok(receipt.status == SendStatus::Stored)
    })
}

/// Asks until the answer is yes.
fn asked(namesrv: &str, what: &'static str, question: impl AsyncFn(Client) -> Result<bool, ClientError>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async {
        let client = Client::new(namesrv, ClientOptions::default())?;
        let end = Instant::now() + START;
        loop {
            match question(client.clone()).await {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() > end => bail!("{what} after {START:?}"),
                Err(error) if Instant::now() > end => return Err(error).context(what),
                Ok(false) | Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
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
