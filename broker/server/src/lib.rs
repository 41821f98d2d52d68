//! The server: listeners, admission, processors, configuration, telemetry.
#![forbid(unsafe_code)]

pub mod config;
