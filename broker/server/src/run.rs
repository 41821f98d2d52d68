//! A process's life: open, serve, stop. Here all parts meet, and only here.

mod broker;
mod coordinator;
mod error;
mod listeners;
mod machine;
mod member;
mod registration;
mod stores;
#[cfg(test)]
mod tests;

pub use error::RunError;

use crate::{
    config::{Config, MESSAGE_OVERHEAD_BYTES},
    http::{self, Check, Readiness},
    net::{Listener, Net, NetLimits},
    processor::{NamingProcessor, Processor, ReadProcessor},
    telemetry::{Telemetry, net_samples, store_samples},
};
use broker::Broker;
use listeners::Ports;
use sluice_naming::RouteTable;
use sluice_protocol::FrameLimits;
use sluice_store::{RecoveryProgress, Store};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use stores::Places;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Descriptors besides connections: segments, indexes, listeners.
const OTHER_FILES: u64 = 1024;
/// How often silent brokers are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for what is in work at a stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long threads that hang may hold the process after everything is closed.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// Runs until a signal says stop, or until the start fails.
pub fn run(config: Config) -> Result<(), RunError> {
    // Only `server` and `env::real` may read a clock; this one tells people how long the start took.
    #[allow(clippy::disallowed_methods)]
    let started = Instant::now();
    if let Some(open_files) = machine::raise_open_files()
        && open_files < config.limits.connections_max as u64 + OTHER_FILES
    {
        tracing::warn!(
            open_files,
            connections = config.limits.connections_max,
            "this process may not open enough files for limits.connections; raise ulimit -n"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(machine::workers())
        .thread_name("sluice-net")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(serve(&config, started));
    runtime.shutdown_timeout(RUNTIME_END);
    result
}

async fn serve(config: &Config, started: Instant) -> Result<(), RunError> {
    // Listened to before anything is open, so that a signal during a long recovery is not lost.
    let mut signal = tokio::spawn(machine::stop_signal());
    let ports = Ports::of(config);
    ports.try_all()?;
    let places = Places::real(config);
    let running = tokio::select! {
        running = Running::start(config, &ports, &places) => running?,
        stopped = &mut signal => return stopped.unwrap_or_else(|error| Err(io::Error::other(error))).map(drop).map_err(RunError::Signal),
    };
    running.announce(&ports, started);
    let name = signal.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(RunError::Signal)?;
    tracing::info!(signal = name, "stopping; a second signal ends the process at once");
    tokio::select! {
        stopped = tokio::time::timeout(config.shutdown_deadline, running.stop(config.shutdown_deadline)) => stopped.map_err(|_| RunError::StopDeadline)?,
        _ = machine::stop_signal() => return Err(RunError::StopDeadline),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Everything that runs.
struct Running {
    net: Arc<Net>,
    broker: Option<Arc<Broker>>,
    /// Where clients are told that the broker is.
    advertised: SocketAddr,
    /// Where the name server's key-value configuration is kept: the broker's store, or one of its own.
    kv: Option<Arc<Store>>,
    readiness: Arc<Readiness>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    async fn start(config: &Config, ports: &Ports, places: &Places) -> Result<Self, RunError> {
        let telemetry = Arc::new(Telemetry::new()?);
        let net = Net::new(net_limits(config));
        let (stop, stopping) = watch::channel(false);
        let counted = Arc::clone(&net);
        telemetry.collect(move |samples| net_samples(&counted, samples))?;
        let progress = Arc::new(RecoveryProgress::default());
        let watched = Arc::clone(&progress);
        let readiness = Arc::new(Readiness::new(move || recovering(&watched)));
        let mut tasks = Vec::new();
        // First of all: a recovery may take minutes, in which probes have to be told that this process lives and what it is at.
        if let Some(port) = ports.http {
            let listener = TcpListener::bind(port.address).await.map_err(|source| port.refused(source))?;
            tasks.push(tokio::spawn(serve_http(listener, Arc::clone(&telemetry), Arc::clone(&readiness), stopping.clone())));
        }
        let table = config.roles.naming.then(|| Arc::new(RouteTable::new(Arc::new(sluice_env::real::RealClock::new()))));
        let broker = open_broker(config, &net, places, &progress).await?;
        if let Some(broker) = &broker {
            broker.publish(table.as_ref()).map_err(RunError::Route)?;
            broker.measure(&telemetry)?;
        }
        let kv = match &table {
            Some(_) => Some(open_kv(broker.as_ref(), places, progress).await?),
            None => None,
        };
        if let Some(kv) = kv.clone().filter(|_| broker.is_none()) {
            telemetry.collect(move |samples| store_samples(&kv.status(), samples))?;
        }
        let processor = Processor::new(
            broker.as_ref().map(|broker| broker.side()),
            table.as_ref().zip(kv.as_ref()).map(|(table, kv)| NamingProcessor::new(Arc::clone(table), Arc::clone(kv))),
            Arc::clone(&telemetry.requests),
        );
        for port in [ports.naming, ports.broker, ports.vip].into_iter().flatten() {
            Listener::bind(port.address, &net, processor.clone()).await.map_err(|source| port.refused(source))?;
        }
        if let (Some(port), Some(broker)) = (ports.reads, &broker)
            && let Some(reads) = broker.reads()
        {
            let service = ReadProcessor::new(broker.side(), Arc::clone(reads), processor.clone());
            Listener::bind(port.address, &net, service).await.map_err(|source| port.refused(source))?;
        }
        if let Some(table) = table {
            tasks.push(tokio::spawn(expire_routes(table, stopping.clone())));
        }
        if let Some(broker) = &broker {
            tasks.extend(broker.register(&config.naming_addresses, &stopping));
        }
        readiness.started(checks(broker.as_ref(), kv.as_ref()));
        Ok(Self { net, broker, advertised: broker::advertised(config), kv, readiness, stop, tasks })
    }

    /// One line that tells where what is served, and how long the start took.
    fn announce(&self, ports: &Ports, started: Instant) {
        let mut line = String::from("sluice is ready:");
        for (name, port) in [("name server", ports.naming), ("broker", ports.broker), ("http", ports.http)] {
            if let Some(port) = port {
                // Writing to a String cannot fail.
                let _ = write!(line, " {name} {},", port.address);
            }
        }
        if self.broker.is_some() {
            let _ = write!(line, " clients are told {},", self.advertised);
        }
        let _ = write!(line, " started in {} ms", started.elapsed().as_millis());
        // A reader that has gone away is no reason to stop serving.
        let _ = writeln!(io::stdout(), "{line}");
    }

    /// Nothing new, what is in work to its end, then everything to disk.
    async fn stop(self, deadline: Duration) {
        self.readiness.stopping();
        // While clients are still served, or led to the next master.
        close(self.broker.clone(), |broker| broker.leave()).await;
        self.stop.send_replace(true);
        self.net.stop_reading();
        // Delivery first: it answers held pulls, which would be in work until their deadlines. Then what is in work, and the log last.
        close(self.broker.clone(), |broker| broker.close_delivery()).await;
        self.net.stop(deadline.min(DRAIN_MAX)).await;
        close(self.broker, |broker| broker.close()).await;
        // The broker's own is closed already: a second time does nothing.
        close(self.kv, |store| store.close()).await;
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task had failed");
            }
        }
    }
}

async fn close<T: Send + 'static>(part: Option<T>, body: impl FnOnce(&T) + Send + 'static) {
    let Some(part) = part else { return };
    if let Err(error) = tokio::task::spawn_blocking(move || body(&part)).await {
        tracing::error!(%error, "closing a part of the server failed");
    }
}

async fn open_broker(config: &Config, net: &Arc<Net>, places: &Places, progress: &Arc<RecoveryProgress>) -> Result<Option<Arc<Broker>>, RunError> {
    if !config.roles.broker {
        return Ok(None);
    }
    let (config, net, runtime) = (config.clone(), Arc::clone(net), tokio::runtime::Handle::current());
    let (places, progress) = (places.clone(), Arc::clone(progress));
    aside(move || Broker::open(&config, &net, runtime, &places, &progress)).await.map(|broker| Some(Arc::new(broker)))
}

/// Key-value configuration lies in the log of a broker that is alone, else in a small store of its own.
async fn open_kv(broker: Option<&Arc<Broker>>, places: &Places, progress: Arc<RecoveryProgress>) -> Result<Arc<Store>, RunError> {
    if let Some(store) = broker.and_then(|broker| broker.own_store()) {
        return Ok(Arc::clone(store));
    }
    let places = places.clone();
    aside(move || places.open_naming(&progress)).await
}

/// Runs what blocks.
async fn aside<T: Send + 'static>(open: impl FnOnce() -> Result<T, RunError> + Send + 'static) -> Result<T, RunError> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.unwrap_or_else(|error| Err(RunError::Runtime(io::Error::other(error))))
}

/// What a start is at, for those who ask whether it is over.
fn recovering(progress: &RecoveryProgress) -> String {
    const MIB: u64 = 1 << 20;
    match progress.total_bytes() {
        0 => "recovering: the server is opening its data directory".to_owned(),
        total => format!("recovering: {} MiB of the log are read, of {} MiB at most", progress.read_bytes() / MIB, total.div_ceil(MIB)),
    }
}

/// What speaks against traffic.
fn checks(broker: Option<&Arc<Broker>>, kv: Option<&Arc<Store>>) -> Vec<Check> {
    let (broker, kv) = (broker.cloned(), kv.cloned());
    vec![Box::new(move || {
        let store = match &broker {
            Some(broker) => broker.store(),
            None => Some(Arc::clone(kv.as_ref()?)),
        };
        match store {
            Some(store) => store.status().writable.err().map(|why| format!("the store takes no writes: {why}")),
            None => Some("the store is being opened again".to_owned()),
        }
    })]
}

async fn serve_http(listener: TcpListener, telemetry: Arc<Telemetry>, readiness: Arc<Readiness>, mut stopping: watch::Receiver<bool>) {
    let stop = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    if let Err(error) = http::serve(listener, telemetry, readiness, stop).await {
        tracing::error!(%error, "the HTTP endpoint failed");
    }
}

/// Forgets brokers that have been silent for too long.
async fn expire_routes(table: Arc<RouteTable>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EXPIRE_EVERY) => {
                for broker in table.expire() {
                    tracing::warn!(broker, "a broker has been silent for too long: clients are no longer sent to it");
                }
            }
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

fn net_limits(config: &Config) -> NetLimits {
    let limits = &config.limits;
    NetLimits {
        frame: FrameLimits { frame_bytes_max: frame_bytes_max(config), ..FrameLimits::default() },
        connections_max: limits.connections_max,
        in_flight_bytes_max: limits.in_flight_bytes_max,
        idle: limits.idle,
        partial_frame: limits.partial_frame,
        ..NetLimits::default()
    }
}

/// As much as the largest message takes. A name server alone takes all that a Java broker may send: it registers with all of its topics in one frame.
fn frame_bytes_max(config: &Config) -> usize {
    if config.roles.broker { config.messages.bytes_max + MESSAGE_OVERHEAD_BYTES } else { FrameLimits::default().frame_bytes_max }
}
