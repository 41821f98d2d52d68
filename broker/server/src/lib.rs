//! The server: listeners, admission, processors, configuration, telemetry.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the server is where the process meets the real clock, files, threads and network")]

pub mod config;
pub mod http;
pub mod net;
pub mod processor;
pub mod run;
pub mod telemetry;
