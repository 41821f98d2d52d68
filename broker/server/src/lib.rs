//! The server: listeners, admission, processors, configuration, telemetry.
#![forbid(unsafe_code)]

pub mod config;
pub mod http;
pub mod net;
pub mod processor;
pub mod run;
pub mod telemetry;
