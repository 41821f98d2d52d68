//! The broker under test.

use crate::{places, process, process::Background, test};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Longest time from start to listening, recovery included.
pub(crate) const START: Duration = Duration::from_secs(60);

/// Longest time for an orderly stop.
const STOP: Duration = Duration::from_secs(30);

/// Which binary.
#[derive(Args)]
pub(crate) struct Choice {
    /// This sluice binary, in place of building one with the release profile
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// The binary chosen, built if none was given.
pub(crate) fn binary(choice: &Choice) -> Result<PathBuf> {
    if let Some(binary) = &choice.binary {
        return binary.canonicalize().with_context(|| format!("finding {}", binary.display()));
    }
    process::run(test::cargo().args(["build", "--release", "--locked", "-p", "sluice"]), Duration::from_secs(20 * 60))?;
    Ok(places::target().join("release/sluice"))
}

/// Starts a name server alone.
pub(crate) fn start_naming(binary: &Path, folder: &Path, port: u16) -> Result<Background> {
    let command = &mut server(binary, &folder.join("naming"));
    start(command.args(["--roles", "naming", "--naming-port", &port.to_string()]), &folder.join("naming.log"), &[port])
}

/// Starts a broker alone, which registers at a name server elsewhere.
pub(crate) fn start_broker(binary: &Path, folder: &Path, namesrv: &str) -> Result<Background> {
    let port = places::free_port()?;
    let command = &mut server(binary, &folder.join("broker"));
    command.args(["--roles", "broker", "--naming-addresses", namesrv, "--broker-port", &port.to_string()]);
    start(command, &folder.join("broker.log"), &[port])
}

/// Stops it in an orderly way.
pub(crate) fn stop(running: &mut Background) -> Result<()> {
    let status = running.stop(STOP)?;
    ensure!(status.success(), "sluice ended with {status} on SIGTERM");
    Ok(())
}

/// `sluice server` for this machine alone, without metrics and health.
pub(crate) fn server(binary: &Path, data: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("server").arg("--data-dir").arg(data).args(["--listen-address", "127.0.0.1", "--http-port", "off"]);
    command
}

/// Starts it and waits until it listens.
pub(crate) fn start(command: &mut Command, log: &Path, ports: &[u16]) -> Result<Background> {
    let mut running = Background::start(command, log)?;
    for port in ports {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        running.await_listening(address, START).with_context(|| format!("its log is {}", log.display()))?;
    }
    Ok(running)
}

/// A data directory with the ports that stay the same over restarts.
pub(crate) struct Site {
    binary: PathBuf,
    data: PathBuf,
    log: PathBuf,
    naming: u16,
    broker: u16,
    http: Option<u16>,
    extra: Vec<String>,
}

impl Site {
    /// `extra` are further flags of `sluice server`.
    pub(crate) fn new(binary: &Path, data: &Path, log: &Path, extra: &[&str]) -> Result<Self> {
        Ok(Self {
            binary: binary.to_path_buf(),
            data: data.to_path_buf(),
            log: log.to_path_buf(),
            naming: places::free_port()?,
            broker: places::free_port()?,
            http: None,
            extra: extra.iter().map(|&flag| flag.to_owned()).collect(),
        })
    }

    /// The same with metrics and health, which are off otherwise.
    pub(crate) fn with_http(mut self) -> Result<Self> {
        self.http = Some(places::free_port()?);
        Ok(self)
    }

    /// Where clients send and pull.
    pub(crate) fn broker(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.broker))
    }

    /// Where metrics and health are, if they are on.
    pub(crate) fn http(&self) -> Option<SocketAddr> {
        self.http.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// The name server's address.
    pub(crate) fn namesrv(&self) -> String {
        format!("127.0.0.1:{}", self.naming)
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(&self) -> Result<Background> {
        self.start_by(Command::new(&self.binary))
    }

    /// The same by way of another program, whose command line ends where the server's begins.
    pub(crate) fn start_by(&self, mut command: Command) -> Result<Background> {
        command.arg("server").arg("--data-dir").arg(&self.data).args(["--listen-address", "127.0.0.1"]);
        command.args(["--http-port", &self.http.map_or_else(|| "off".to_owned(), |port| port.to_string())]);
        command.args(["--naming-port", &self.naming.to_string(), "--broker-port", &self.broker.to_string()]).args(&self.extra);
        start(&mut command, &self.log, &[self.naming, self.broker])
    }
}
