//! `cargo xtask sim`: a whole group of brokers in a simulation, a run a seed, in as many processes at a time as there are processors.

use crate::{places, process, test};
use anyhow::{Result, ensure};
use clap::Args;
use parking_lot::Mutex;
use std::{
    fmt,
    ops::Range,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

const BUILD: Duration = Duration::from_secs(15 * 60);
/// Several times what it takes on two processors.
const BROKEN: Duration = Duration::from_secs(60 * 60);
/// Real time within which a run of so many virtual minutes has to end, with the others of its process before it.
const SECONDS_PER_MINUTE_MAX: u64 = 10;
/// Seeds that one process is given.
const BLOCK_MAX: u64 = 16;
/// How often it is told how far it is.
const SHOW_EVERY: Duration = Duration::from_secs(30);

/// Which runs.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, value_name = "N")]
    from: u64,
    /// Virtual minutes with faults, of each run
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,
    /// Go on with further seeds for so many hours
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    hours: Option<u64>,
    /// Only these faults, separated by commas
    #[arg(long, value_name = "LIST")]
    faults: Option<String>,
    /// Only this work of the clients, separated by commas
    #[arg(long, value_name = "LIST")]
    work: Option<String>,
    /// Break the rules one by one: each has to be found
    #[arg(long, conflicts_with_all = ["seeds", "from", "minutes", "hours", "faults", "work", "verbose"])]
    broken: bool,
    /// Tell what happens in a run, on standard error
    #[arg(long)]
    verbose: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.broken {
        let mut command = test::cargo();
        command.args(["test", "--profile", "sim", "--locked", "-p", "sluice-sim", "--test", "broken", "--", "--ignored", "--nocapture"]);
        return test::run_picked(&mut command, 1, BROKEN + BUILD);
    }
    process::run(test::cargo().args(["build", "--profile", "sim", "--locked", "-p", "sluice-sim"]), BUILD)?;
    let at_once = thread::available_parallelism().map_or(1, usize::from) as u64;
    let seeds = Mutex::new(Seeds::new(arguments, at_once));
    let told = Mutex::new(Told::new());
    thread::scope(|scope| {
        for _ in 0..at_once.min(arguments.seeds) {
            scope.spawn(|| {
                loop {
                    let next = seeds.lock().next();
                    let Some(block) = next else { break };
                    let (mut command, deadline) = command(arguments, &block);
                    let (text, status) = process::run_and_keep_all(&mut command, deadline, true);
                    told.lock().add(&block, &text, status, |seed| repeats(arguments, seed));
                }
            });
        }
    });
    let told = told.into_inner();
    println!("{told}");
    ensure!(told.bad.is_empty(), "seeds that went wrong, each with what repeats it:\n{}", told.bad.join("\n"));
    ensure!(arguments.hours.is_some() || told.runs.len() as u64 == arguments.seeds, "{} seeds have ended of {}", told.runs.len(), arguments.seeds);
    Ok(())
}

/// Seeds that no process has been given yet. They are given out in blocks, a process each: the processors are busy to the end whatever a seed takes, and what one
/// process may leave behind is gone with it.
struct Seeds {
    next: u64,
    /// Beyond the last; none is the last where time is what ends it.
    end: Option<u64>,
    until: Option<Instant>,
    at_once: u64,
}

impl Seeds {
    fn new(arguments: &Arguments, at_once: u64) -> Self {
        let until = arguments.hours.map(|hours| Instant::now() + Duration::from_secs(hours * 3600));
        let end = until.is_none().then(|| arguments.from + arguments.seeds);
        Self { next: arguments.from, end, until, at_once }
    }

    /// The next block: smaller ones towards the end, so that all processes end at about the same time.
    fn next(&mut self) -> Option<Range<u64>> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let left = self.end.map_or(u64::MAX, |end| end - self.next);
        let count = (left / (self.at_once * 4)).clamp(1, BLOCK_MAX).min(left);
        let block = self.next..self.next + count;
        self.next = block.end;
        (count > 0).then_some(block)
    }
}

/// What the runs' lines say.
struct Told {
    begun: Instant,
    shown: Instant,
    runs: Vec<Run>,
    /// Of each seed that went wrong, what repeats it.
    bad: Vec<String>,
}

/// One run that has ended.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    seed: u64,
    /// In virtual time.
    seconds: u64,
    faults: u64,
}

impl Told {
    fn new() -> Self {
        Self { begun: Instant::now(), shown: Instant::now(), runs: Vec::new(), bad: Vec::new() }
    }

    /// Takes in what a process has told of its block.
    fn add(&mut self, block: &Range<u64>, text: &str, status: Result<ExitStatus>, repeats: impl Fn(u64) -> String) {
        let mut ended: Vec<u64> = Vec::new();
        for line in text.lines() {
            if let Some(seed) = seed(line) {
                ended.push(seed);
                self.runs.extend(run_of(line));
            } else if line.starts_with("  VIOLATED") {
                self.bad.extend(ended.last().map(|seed| repeats(*seed)));
            }
        }
        // A process that did not live to tell of all its seeds died of the first that is missing.
        if let Some(missing) = block.clone().find(|seed| !ended.contains(seed)) {
            let why = status.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
            let line = format!("{}   # its process ended: {why}", repeats(missing));
            println!("seed {missing}: {line}");
            self.bad.push(line);
        }
        if self.shown.elapsed() >= SHOW_EVERY {
            self.shown = Instant::now();
            println!("{self}");
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (real, sum) = (self.begun.elapsed().as_secs_f64(), self.runs.iter().map(|run| run.seconds).sum::<u64>());
        let mut faults: Vec<u64> = self.runs.iter().map(|run| run.faults).collect();
        faults.sort_unstable();
        let (least, middle) = (faults.first().copied().unwrap_or_default(), faults.get(faults.len() / 2).copied().unwrap_or_default());
        write!(
            f,
            "sim: {} seeds have ended, {} went wrong; faults of a seed: at least {least}, half of them {middle} or more; ",
            self.runs.len(),
            self.bad.len()
        )?;
        write!(f, "{:.1} virtual hours in {real:.0} s: {:.0} times as fast as time", sum as f64 / 3600.0, sum as f64 / real.max(0.001))
    }
}

/// A process for some seeds, and when it has to have ended.
fn command(arguments: &Arguments, block: &Range<u64>) -> (Command, Duration) {
    let mut command = Command::new(places::target().join("sim/sluice-sim"));
    let count = block.end - block.start;
    // Memory that a run has freed stays with the process for the next one: a tenth of the time went into giving it back and getting it again.
    command.env("MIMALLOC_PURGE_DELAY", "-1");
    command.args(["--from", &block.start.to_string(), "--seeds", &count.to_string(), "--minutes", &arguments.minutes.to_string()]);
    for (name, list) in lists(arguments) {
        command.args([name, list]);
    }
    if arguments.verbose {
        command.arg("--verbose");
    }
    let each = Duration::from_secs((arguments.minutes + 5) * SECONDS_PER_MINUTE_MAX);
    (command, each * u32::try_from(count).unwrap_or(u32::MAX))
}

/// The command that runs a seed again.
fn repeats(arguments: &Arguments, seed: u64) -> String {
    let lists: String = lists(arguments).map(|(name, list)| format!(" {name} {list}")).collect();
    format!("cargo xtask sim --from {seed} --seeds 1 --minutes {}{lists}", arguments.minutes)
}

/// The options that decide a run beside seed and minutes.
fn lists(arguments: &Arguments) -> impl Iterator<Item = (&'static str, &str)> {
    let lists = [("--faults", &arguments.faults), ("--work", &arguments.work)];
    lists.into_iter().filter_map(|(name, list)| Some((name, list.as_deref()?)))
}

/// The seed that a line tells the end of.
fn seed(line: &str) -> Option<u64> {
    line.strip_prefix("seed ")?.split_once(": ")?.0.parse().ok()
}

/// A run by its line: `seed 7: 742 s, 33 faults, …`.
fn run_of(line: &str) -> Option<Run> {
    let mut parts = line.split_once(": ")?.1.split(", ");
    let mut number = |unit| parts.next()?.strip_suffix(unit)?.parse().ok();
    Some(Run { seed: seed(line)?, seconds: number(" s")?, faults: number(" faults")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn repeated(seed: u64) -> String {
        format!("again {seed}")
    }

    #[test]
    fn a_run_is_read_from_its_line() {
        assert_eq!(run_of("seed 7: 742 s, 33 faults, 8 epochs"), Some(Run { seed: 7, seconds: 742, faults: 33 }));
        assert_eq!(run_of("seed 7: it stands still"), None);
        assert_eq!(run_of("  C1 at lines [1]: value 1·2"), None);
    }

    #[test]
    fn every_seed_is_given_out_once() {
        for (count, at_once) in [(1, 2), (5, 2), (200, 2), (5000, 64)] {
            let mut seeds = Seeds { next: 17, end: Some(17 + count), until: None, at_once };
            let given: Vec<u64> = std::iter::from_fn(|| seeds.next()).flatten().collect();
            assert_eq!(given, (17..17 + count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_seed_is_given_out_when_the_time_is_over() {
        let mut seeds = Seeds { next: 1, end: None, until: Some(Instant::now() + Duration::from_secs(60)), at_once: 2 };
        assert_eq!(seeds.next(), Some(1..1 + BLOCK_MAX));
        seeds.until = Some(Instant::now());
        assert_eq!(seeds.next(), None);
    }

    #[test]
    fn a_violation_a_halt_and_a_dead_process_each_name_their_seed() {
        let mut told = Told::new();
        let text = "seed 3: 700 s, 40 faults, 8 epochs\nseed 4: 710 s, 30 faults, 8 epochs\n  VIOLATED; to repeat it: …\n  C1 at lines [1]\nseed 5: it stands still\n  VIOLATED; …\n";
        told.add(&(3..8), text, Ok(ExitStatus::from_raw(6)), repeated);
        assert_eq!(told.bad[..2], [repeated(4), repeated(5)]);
        assert!(told.bad[2].starts_with(&repeated(6)), "{}", told.bad[2]);
        let line = told.to_string();
        assert!(
            line.starts_with("sim: 2 seeds have ended, 3 went wrong; faults of a seed: at least 30, half of them 40 or more; 0.4 virtual hours in "),
            "{line}"
        );
    }
}
