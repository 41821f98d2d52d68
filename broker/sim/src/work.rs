//! The kinds of work that clients do in a run. A new one is a file and a line here.

mod delayed;
mod ends;
mod orderly;
mod plain;
mod rebalance;
mod replicas;

use crate::load::Crew;

/// A kind of work.
#[derive(Debug)]
pub struct Work {
    /// Its name.
    pub name: &'static str,
    /// Hires those who do it.
    pub hire: fn(&mut Crew<'_>),
    /// Whether it is part of a run that names no work.
    pub is_usual: bool,
}

const fn usual(name: &'static str, hire: fn(&mut Crew<'_>)) -> Work {
    Work { name, hire, is_usual: true }
}

const fn only_named(name: &'static str, hire: fn(&mut Crew<'_>)) -> Work {
    Work { name, hire, is_usual: false }
}

/// All of them, in the order in which they are hired.
pub const ALL: &[Work] = &[
    usual("plain", plain::hire),
    usual("ends", ends::hire),
    usual("delayed", delayed::hire),
    usual("replicas", replicas::hire),
    only_named("orderly", orderly::hire),
    only_named("rebalance", rebalance::hire),
];

/// The one with that name.
pub fn named(name: &str) -> Result<&'static Work, String> {
    let names = || ALL.iter().map(|work| work.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|work| work.name == name).ok_or_else(|| format!("no work is called {name}; there are {}", names()))
}
