//! What a caller may choose.

use sluice_protocol::Serialization;
use std::time::Duration;

/// Limits and habits of a [`crate::Client`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Longest wait for a connection to be made.
    pub connect_timeout: Duration,
    /// Longest wait for an answer. A long poll adds the time the broker may hold it.
    pub request_timeout: Duration,
    /// First pause after a failed connection attempt; it doubles with each failure.
    pub backoff_min: Duration,
    /// Longest pause between two attempts.
    pub backoff_max: Duration,
    /// How old a route may get before the name server is asked again; when none answers, the old one does for as long again.
    pub route_age_max: Duration,
    /// Most bytes that wait to be written on one connection; a request beyond waits for room until its deadline.
    pub outbox_bytes_max: usize,
    /// Most requests on one connection that have no answer yet.
    pub in_flight_max: usize,
    /// Largest frame accepted, whatever part of it is header.
    pub frame_bytes_max: usize,
    /// How often a send is tried again on another broker.
    pub send_retries: u32,
    /// Form of the headers written.
    pub serialization: Serialization,
    /// Name of this client in heartbeats; `None` makes one of address and process.
    pub client_id: Option<String>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            route_age_max: Duration::from_secs(30),
            outbox_bytes_max: 32 * 1024 * 1024,
            in_flight_max: 8192,
            frame_bytes_max: 64 * 1024 * 1024,
            send_retries: 2,
            serialization: Serialization::Json,
            client_id: None,
        }
    }
}
