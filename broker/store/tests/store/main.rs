//! The store on a simulated disk: power cuts, kills, failing disks, damage, full disks. Each test's name is a claim of FORMAT.md or of a row in the list of bugs
//! that other brokers have had.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

mod damage;
mod faults;
mod flips;
mod hooks;
mod megabyte;
mod names;
mod others;
mod recovery;
mod replicas;
mod resync;
mod threads;
mod unconfirmed;
mod world;
