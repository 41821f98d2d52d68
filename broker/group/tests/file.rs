//! The coordinator in a file does what every coordinator has to do.
#![allow(clippy::disallowed_methods, reason = "the contract's racers are threads of the system")]

mod contract;

use contract::Ways;
use sluice_env::sim;
use sluice_group::coordinator::FileCoordinator;
use std::sync::Arc;

contract::tests!(ways);

#[allow(clippy::unnecessary_wraps, reason = "others are not on every machine")]
fn ways() -> Option<Ways> {
    let (env, disk, _) = sim::env(1);
    let one = Arc::new(FileCoordinator::new(env.disk));
    Some(Ways([one.clone(), one], Box::new(disk)))
}
