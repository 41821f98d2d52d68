//! The kinds of work that clients do in a run. A new one is a file and a line here.

mod delayed;
mod ends;
mod orderly;
mod plain;
mod rebalance;
mod replicas;
mod retries;
mod transactions;

use crate::load::Crew;
pub use retries::RETRIES_MAX;

/// How long after all is well, and producers have ended, something may still have to come.
const SETTLE_NANOS: u64 = 60_000_000_000;

/// A kind of work.
#[derive(Debug)]
pub struct Work {
    /// Its name.
    pub name: &'static str,
    /// Hires those who do it.
    pub hire: fn(&mut Crew<'_>),
}

const fn work(name: &'static str, hire: fn(&mut Crew<'_>)) -> Work {
    Work { name, hire }
}

/// All of them, in the order in which they are hired. A run that names none has them all.
pub const ALL: &[Work] = &[
    work("plain", plain::hire),
    work("ends", ends::hire),
    work("delayed", delayed::hire),
    work("replicas", replicas::hire),
    work("retries", retries::hire),
    work("transactions", transactions::hire),
    work("orderly", orderly::hire),
    work("rebalance", rebalance::hire),
];

/// The one with that name.
pub fn named(name: &str) -> Result<&'static Work, String> {
    let names = || ALL.iter().map(|work| work.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|work| work.name == name).ok_or_else(|| format!("no work is called {name}; there are {}", names()))
}
