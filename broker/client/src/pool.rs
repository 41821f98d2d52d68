//! Connections by address: one each, made when needed, made again with growing pauses.

use crate::{ClientError, ClientOptions, Connection, RequestHandler};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout_at};

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    failures: u32,
    retry_at: Option<Instant>,
    last_error: Option<ClientError>,
}

/// All connections of a client.
pub(crate) struct Pool {
    slots: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
    handler: Mutex<Option<Arc<dyn RequestHandler>>>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self { slots: Mutex::default(), handler: Mutex::new(None) }
    }

    pub(crate) fn set_handler(&self, handler: Arc<dyn RequestHandler>) {
        *self.handler.lock() = Some(handler);
    }

    /// The open connection to `addr`, or a new one. After failures an attempt waits for its turn, but never past `wait`.
    pub(crate) async fn get(&self, addr: &str, options: &ClientOptions, wait: Duration) -> Result<Connection, ClientError> {
        let deadline = Instant::now() + wait;
        let slot = Arc::clone(self.slots.lock().entry(addr.to_owned()).or_default());
        let late = || ClientError::Unreachable { addr: addr.to_owned(), reason: format!("no connection within {wait:?}") };
        let mut slot = timeout_at(deadline, slot.lock()).await.map_err(|_| late())?;
        if let Some(connection) = slot.connection.as_ref().filter(|c| c.is_open()) {
            return Ok(connection.clone());
        }
        if let Some(at) = slot.retry_at {
            if at >= deadline {
                return Err(slot.last_error.clone().unwrap_or_else(late));
            }
            sleep_until(at).await;
        }
        let handler = self.handler.lock().clone();
        match Connection::open(addr, options, handler).await {
            Ok(connection) => {
                *slot = Slot { connection: Some(connection.clone()), ..Slot::default() };
                Ok(connection)
            }
            Err(error) => {
                slot.connection = None;
                slot.retry_at = Some(Instant::now() + backoff(slot.failures, options));
                slot.failures = slot.failures.saturating_add(1);
                slot.last_error = Some(error.clone());
                Err(error)
            }
        }
    }
}

fn backoff(failures: u32, options: &ClientOptions) -> Duration {
    options.backoff_min.saturating_mul(1 << failures.min(16)).min(options.backoff_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let options = ClientOptions::default();
        assert_eq!(backoff(0, &options), Duration::from_millis(100));
        assert_eq!(backoff(2, &options), Duration::from_millis(400));
        assert_eq!(backoff(200, &options), options.backoff_max);
    }
}
