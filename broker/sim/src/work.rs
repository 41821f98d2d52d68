//! The kinds of work that clients do in a run. A new one is a file and a line here.

mod ends;
mod plain;

use crate::load::Crew;

/// A kind of work.
#[derive(Debug)]
pub struct Work {
    /// Its name.
    pub name: &'static str,
    /// Hires those who do it.
    pub hire: fn(&mut Crew<'_>),
}

/// All of them, in the order in which they are hired.
pub const ALL: &[Work] = &[Work { name: "plain", hire: plain::hire }, Work { name: "ends", hire: ends::hire }];

/// The one with that name.
pub fn named(name: &str) -> Result<&'static Work, String> {
    let names = || ALL.iter().map(|work| work.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|work| work.name == name).ok_or_else(|| format!("no work is called {name}; there are {}", names()))
}
