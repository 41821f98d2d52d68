//! A whole group of brokers on simulated machines: the product's store, replication, delivery and group code on a simulated clock, network and disk, with clients, a
//! coordinator and faults, all decided by one seed; and the judge of what the clients were told.
#![forbid(unsafe_code)]
// It is a program for tests: what goes wrong in it ends it.
#![allow(clippy::panic)]

pub mod broken;
pub mod client;
pub mod coordinator;
mod digest;
pub mod faults;
pub mod guests;
pub mod history;
pub mod load;
pub mod node;
pub mod run;
#[cfg(test)]
mod scenarios;
pub mod talk;
pub mod work;
