//! Routes and broker registration: which topic has which queues at which broker, as the name server answers it.
//!
//! Brokers in other processes register every 30 seconds and are forgotten after a silence, or when the connection ends over which they did so last; the broker
//! in our own process is told of directly and is right the moment its topics change. Nothing here does I/O or knows a frame.
#![forbid(unsafe_code)]

mod kv;
mod table;

pub use kv::{KvConfig, KvError, ORDER_TOPIC_NAMESPACE};
pub use table::{BrokerId, Lifetime, Registered, Registration, RouteError, RouteTable};
