//! Rules that are broken on purpose, to see that the simulation finds what comes of it. Each name stands where the rule is kept, in `sluice_env::broken(..)`.

/// A rule to break.
#[derive(Debug)]
pub struct Broken {
    /// Its name.
    pub rule: &'static str,
    /// Seeds, from 1 on, within which it is found, each of [`MINUTES`].
    pub seeds: u64,
}

/// Virtual minutes of a run with a broken rule.
pub const MINUTES: u64 = 3;

const fn within(seeds: u64, rule: &'static str) -> Broken {
    Broken { rule, seeds }
}

/// All of them.
pub const ALL: &[Broken] = &[
    within(60, "an ack before the flush"),
    within(60, "an ack before the confirmation"),
    within(60, "records are shown before they are confirmed"),
    within(60, "a replica shows what is not confirmed"),
    // One seed in 22 finds it.
    within(200, "a failed sync is taken for a good one"),
    within(60, "a replica acknowledges what it has not flushed"),
    within(60, "a replica keeps what its master lacks"),
    within(60, "what was seen is not remembered"),
    within(60, "an epoch is begun twice"),
    within(60, "any life of a store counts"),
    within(60, "who is not in the set stands"),
    within(60, "shrink before the swap"),
    within(60, "growth without union"),
    within(60, "growth without catching up"),
    within(60, "growth without the inherited log"),
    within(60, "unknown is failed"),
    within(60, "clients are let in before the inherited log is confirmed"),
    within(60, "a master never fences itself"),
    within(60, "the coordinator swaps whatever the version"),
    within(60, "acknowledgements without confirmation have no bound"),
    within(60, "a committed offset is told before it is stored"),
    within(60, "a rolled back message is shown"),
    within(60, "a commit counts twice"),
    within(60, "open transactions are forgotten at a start"),
    within(60, "a message sent back is forgotten"),
    within(60, "a message that failed comes at once"),
    within(60, "a failure is not counted"),
    within(60, "a copy of the log comes without what deliveries note"),
];

/// The one with that name, or with a name that begins so.
pub fn named(rule: &str) -> Result<&'static Broken, String> {
    ALL.iter().find(|broken| broken.rule.starts_with(rule)).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|broken| broken.rule).collect();
        format!("no rule is called {rule}; there are: {}", names.join("; "))
    })
}
