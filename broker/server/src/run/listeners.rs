//! Which sockets this process is to have. They are tried before anything else, so that a port in use is found before minutes of recovery.

use super::RunError;
use crate::config::Config;
use std::net::{SocketAddr, TcpListener};

/// A socket to listen on and the key that says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) address: SocketAddr,
    pub(super) key: &'static str,
}

impl Port {
    pub(super) fn refused(&self, source: std::io::Error) -> RunError {
        RunError::Listen { address: self.address, key: self.key, source }
    }
}

/// Every socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) naming: Option<Port>,
    pub(super) broker: Option<Port>,
    pub(super) vip: Option<Port>,
    pub(super) reads: Option<Port>,
    pub(super) http: Option<Port>,
}

impl Ports {
    pub(super) fn of(config: &Config) -> Self {
        let listen = &config.listen;
        let port = |on: bool, port: Option<u16>, key| port.filter(|_| on).map(|port| Port { address: SocketAddr::new(listen.address, port), key });
        Self {
            naming: port(config.roles.naming, Some(listen.naming_port), "naming.port"),
            broker: port(config.roles.broker, Some(listen.broker_port), "broker.port"),
            vip: port(config.roles.broker, listen.vip_port(), "broker.vip_port"),
            reads: port(config.roles.broker, config.replication.read_address.map(|address| address.port()), "replication.read_address"),
            http: port(true, listen.http_port, "http.port"),
        }
    }

    /// Opens and closes each once.
    pub(super) fn try_all(&self) -> Result<(), RunError> {
        for port in [self.naming, self.broker, self.vip, self.reads, self.http].into_iter().flatten() {
            TcpListener::bind(port.address).map_err(|source| port.refused(source))?;
        }
        Ok(())
    }
}
