//! Delivery over a real store on a simulated disk.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

mod bench;
mod crashing;
mod delayed;
mod delayed_crashing;
mod durability;
mod ending;
mod groups;
mod locks;
mod offsets;
mod pulling;
mod reading;
mod resetting;
mod sending;
mod threads;
mod transactions;
mod transactions_crashing;
mod transactions_stalled;
