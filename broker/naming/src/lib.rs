//! Routes and broker registration.
#![forbid(unsafe_code)]
