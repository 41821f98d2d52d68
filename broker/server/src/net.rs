//! Listeners and connections: bytes come in as frames, answers go out from whatever thread makes them. Every buffer here has a bound and every wait a
//! deadline; a peer that breaks one of them loses its own connection and nothing else.
//!
//! An answer goes into its connection's outbox and is written to the socket at once, by the thread that made it; only what the socket does not take is left
//! to a task that waits for room. Inside a [`Batch`] answers are gathered and written together at its end.

mod connection;
mod limits;
mod listener;
mod outbox;
mod stats;
#[cfg(test)]
mod tests;

pub use connection::{Connection, SendFailed};
pub use limits::{NetLimits, Permit};
pub use listener::{Listener, Net};
pub use outbox::{Batch, flush_dirty};
pub use stats::{CloseReason, NetStats};

use sluice_protocol::Frame;
use std::sync::Arc;

/// What stands behind a listener. Called on the connections' tasks: answer soon or keep what is needed and answer later, but never block.
pub trait Service: Send + Sync + 'static {
    /// A frame came in. `permit` counts its bytes against the limits until it is dropped: keep it until the answer is made.
    fn on_frame(&self, connection: &Arc<Connection>, frame: Frame, permit: Permit);

    /// Handles what one read brought: `body` calls [`Service::on_frame`] for each frame. A service that gains from taking several at once wraps it.
    fn on_read(&self, body: &mut dyn FnMut()) {
        body();
    }

    /// A connection has ended; called once for each.
    fn on_close(&self, connection: &Arc<Connection>);
}
