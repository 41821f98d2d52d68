//! One module for each group of checks.

mod content;
mod delay;
mod doubts;
mod epochs;
mod liveness;
mod locks;
mod loss;
mod offsets;
mod order;
mod pop;
mod producers;
mod redelivery;
mod replicas;
mod retries;
mod transactions;

use crate::{
    Report,
    world::{Match, Seen, World},
};

/// A group of checks. What a rule needs of the past it remembers itself, or `World` does for all of them.
pub(crate) trait Rule {
    /// The next line.
    fn see(&mut self, seen: &Seen<'_>, world: &mut World, report: &mut Report);

    /// A delivery and the send it belongs to, once both are known.
    fn matched(&mut self, _found: &Match<'_>, _world: &mut World, _report: &mut Report) {}

    /// Nothing more comes.
    fn finish(&mut self, _world: &World, _report: &mut Report) {}
}

/// All of them.
pub(crate) fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::<loss::Loss>::default(),
        Box::<content::Content>::default(),
        Box::<redelivery::Redelivery>::default(),
        Box::<producers::Producers>::default(),
        Box::<order::Order>::default(),
        Box::<locks::Locks>::default(),
        Box::<offsets::Offsets>::default(),
        Box::<transactions::Transactions>::default(),
        Box::<delay::Delay>::default(),
        Box::<pop::Pop>::default(),
        Box::<epochs::Epochs>::default(),
        Box::<replicas::Replicas>::default(),
        Box::<liveness::Liveness>::default(),
        Box::<retries::Retries>::default(),
    ]
}
