//! Delivery over a real store on a simulated disk.

mod bench;
mod crashing;
mod delayed;
mod groups;
mod pulling;
mod sending;
