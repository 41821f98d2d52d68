//! Why a process did not start, and what to do.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why the server did not start or did not stop as it should.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No threads.
    #[error("the threads that carry connections cannot be started: {0}; raise the limit on processes (ulimit -u)")]
    Runtime(#[source] io::Error),
    /// A port is taken, forbidden, or not of this machine.
    #[error("cannot listen on {address} ({key}): {source}; {}", listen_advice(key, source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The key that says so.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be made or used.
    #[error("the data directory {} (data_dir) cannot be used: {source}; give a directory that this user may write", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store in it cannot be opened.
    #[error("the store in {} (data_dir) cannot be opened: {source}", dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// What the store said.
        source: sluice_store::OpenError,
    },
    /// Topics, groups or offsets cannot be read from the store.
    #[error("the topics and groups in {} (data_dir) cannot be read: {source}", dir.display())]
    Delivery {
        /// The directory.
        dir: PathBuf,
        /// What delivery said.
        source: sluice_delivery::OpenError,
    },
    /// The broker can't take part in its group.
    #[error("this broker can't take part in its group (replication.members): {source}")]
    Group {
        /// What the group said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The broker's own topics do not fit into the name server's table.
    #[error("the broker cannot be entered at its own name server: {0}")]
    Route(#[source] sluice_naming::RouteError),
    /// Two metrics of one name: a defect.
    #[error("the metrics cannot be set up: {0}; this is a defect of sluice, please report it")]
    Metrics(#[from] prometheus::Error),
    /// Signals cannot be waited for.
    #[error("signals cannot be received: {0}; without them the server could not stop cleanly")]
    Signal(#[source] io::Error),
    /// The stop took too long. What was acknowledged is as safe as storage.flush says.
    #[error("the stop was not finished within shutdown.deadline; what is acknowledged is kept, the next start has more to read")]
    StopDeadline,
}

fn listen_advice(key: &str, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => format!("another process listens there: stop it, or set {key} to another port"),
        io::ErrorKind::PermissionDenied => format!("ports below 1024 need a privilege: set {key} to a higher one"),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: set listen.address to one it has".to_owned(),
        _ => format!("check listen.address and {key}"),
    }
}
