//! A process's life: open, serve, stop. Here all parts meet, and only here.

mod broker;
mod error;
mod listeners;
mod machine;
mod registration;

pub use error::RunError;

use crate::{
    config::Config,
    http::{self, Readiness},
    net::{Listener, Net, NetLimits, Service},
    telemetry::{Telemetry, net_samples},
};
use broker::Broker;
use listeners::{Port, Ports};
use sluice_naming::Naming;
use sluice_protocol::FrameLimits;
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Room in a frame besides the body: header, properties, and a batch's own framing.
const FRAME_OVERHEAD_BYTES: usize = 1024 * 1024;
/// Descriptors besides connections: segments, indexes, listeners.
const OTHER_FILES: u64 = 1024;
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
        tracing::warn!(open_files, connections = config.limits.connections_max, "this process may not open enough files for limits.connections; raise ulimit -n");
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
    let running = tokio::select! {
        running = Running::start(config, &ports) => running?,
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
    broker: Option<Broker>,
    readiness: Arc<Readiness>,
    advertised: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    async fn start(config: &Config, ports: &Ports) -> Result<Self, RunError> {
        let telemetry = Arc::new(Telemetry::new()?);
        let net = Net::new(net_limits(config));
        let (stop, stopping) = watch::channel(false);
        let naming = config.roles.naming.then(|| Naming::new());
        todo!()
    }
}
