//! The network of a machine that has none.

use crate::{Connection, Listener, Net};
use std::{io, sync::Arc, time::Duration};

/// Refuses everything. Simulated threads have a network of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNet;

impl Net for NoNet {
    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Err(unconnected(address))
    }

    fn connect(&self, address: &str, _: Duration) -> io::Result<Arc<dyn Connection>> {
        Err(unconnected(address))
    }
}

fn unconnected(address: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NetworkUnreachable, format!("this simulated machine has no network: {address} is out of reach"))
}
