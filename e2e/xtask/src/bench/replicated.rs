//! What replication costs, and what a replica that comes back does to the others.

use super::{
    Arguments, Contender, Pages, Place, Setting, generate, loads, one_by_one,
    report::{Measured, times, word},
};
use crate::{
    generator::{self, median},
    group::{Group, POLL, in_sync},
    peer::Peer,
    places,
    process::Background,
};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The first is what the goals are about.
const SETTINGS: [Setting; 2] = [one_by_one("64 in flight, 1 KiB", true, 1, 64), one_by_one("1 in flight, 1 KiB", true, 1, 1)];
const NAMES: [&str; 3] = ["one Sluice", "Sluice group", "RocketMQ, master and slave"];
const PART_OF_ALONE_MIN: f64 = 0.7;
const TIMES_PEER_MIN: f64 = 5.0;
const PART_BESIDE_CATCH_UP_MIN: f64 = 0.9;

/// Body of the messages that a replica misses.
const MISSED_BODY_BYTES: u32 = 16 * 1024;
/// Longest time to write them, and to catch up.
const CATCH_UP: Duration = Duration::from_secs(30 * 60);
/// Before a load that has begun counts.
const SETTLE: Duration = Duration::from_secs(2);

/// All runs: by contender, then by setting.
type Runs = [[Vec<Measured>; SETTINGS.len()]; NAMES.len()];

/// How a replica that had missed much came back.
struct CatchUp {
    bytes: u64,
    took: Duration,
    /// Bytes of log a second that the load made before it.
    before: f64,
    /// The same while it went on.
    beside: f64,
}

impl CatchUp {
    fn part(&self) -> f64 {
        self.beside / self.before.max(1.0)
    }
}

pub(super) fn run(arguments: &Arguments, replicas: u32, binary: &Path, folder: &Path) -> Result<()> {
    let (mut runs, mut pages) = (Runs::default(), Pages::new(folder.to_owned()));
    for round in 1..=arguments.rounds {
        for (side, name) in NAMES.into_iter().enumerate() {
            pages.fill()?;
            let place = Place::new(folder, &format!("{round}-{side}"))?;
            let contender = match side {
                0 => Contender::sluice(binary, &place.0, true)?,
                1 => Contender::Group(Box::new(Group::start(binary, &place.0, replicas + 1)?)),
                _ => Contender::Peer(Peer::start_replicated(&place.0)?),
            };
            loads(arguments, binary, &contender, name, SETTINGS.iter().enumerate(), |index, measured| runs[side][index].push(measured))?;
        }
    }
    let medians = medians(&runs).context("no round was measured: --rounds 0")?;
    pages.fill()?;
    let place = Place::new(folder, "catch-up")?;
    let caught_up = catch_up(arguments, replicas, binary, &place.0, medians[0][1].rate / 2.0)?;
    write(&places::root().join("docs/benchmark-replicated.md"), &markdown(arguments, replicas, &medians, &caught_up)?)
}

/// By setting, then by contender.
fn medians(runs: &Runs) -> Option<[[Measured; NAMES.len()]; SETTINGS.len()]> {
    let row = |setting: usize| {
        let [alone, group, peer] = runs.each_ref().map(|side| median(&side[setting], |run| run.rate));
        Some([alone?, group?, peer?])
    };
    Some([row(0)?, row(1)?])
}

/// A replica misses gigabytes, and comes back while a load of `rate` messages a second goes on.
fn catch_up(arguments: &Arguments, replicas: u32, binary: &Path, folder: &Path, rate: f64) -> Result<CatchUp> {
    let members = replicas as usize + 1;
    let mut group = Group::start(binary, folder, replicas + 1)?;
    let master = group.await_in_sync(members - 1)?;
    let replica = (master + 1) % members;
    group.stop_member(replica)?;
    group.await_in_sync(members - 2)?;
    let count = (arguments.catch_up_gib * f64::from(1 << 30) / f64::from(MISSED_BODY_BYTES)).ceil();
    println!("bench: writing {count} messages of {MISSED_BODY_BYTES} bytes that a replica misses");
    let words = format!("produce missed --count {count} --size {MISSED_BODY_BYTES} --batch 8 --connections 2 --in-flight 4");
    generate(binary, group.namesrv(), &words, CATCH_UP)?;
    let words = format!("produce beside --connections 1 --in-flight 64 --size 1024 --rate {rate:.0} --seconds {}", 2 * CATCH_UP.as_secs());
    let _load = Background::start(&mut generator::command(binary, group.namesrv(), &words), &folder.join("load.log"))?;
    thread::sleep(SETTLE);
    let begun = Mark::new(&group, master)?;
    thread::sleep(Duration::from_secs(arguments.seconds.into()));
    let before = begun.rate(&group, master)?;
    group.start_member(replica)?;
    let (bytes, took, beside) = watch(&group, master, replica)?;
    let caught_up = CatchUp { bytes, took, before, beside };
    println!("bench: {}", verdict(&caught_up));
    Ok(caught_up)
}

/// How long a broker's log was at a time.
struct Mark {
    appended: u64,
    at: Instant,
}

impl Mark {
    fn new(group: &Group, member: usize) -> Result<Self> {
        Ok(Self { appended: group.status(member)?.appended, at: Instant::now() })
    }

    /// Bytes a second since then.
    fn rate(&self, group: &Group, member: usize) -> Result<f64> {
        let now = Self::new(group, member)?;
        Ok(now.appended.saturating_sub(self.appended) as f64 / now.at.duration_since(self.at).as_secs_f64())
    }
}

/// From the first that the replica takes until it is in sync: its bytes, the time, and what the load made in it, in bytes a second.
fn watch(group: &Group, master: usize, replica: usize) -> Result<(u64, Duration, f64)> {
    let end = Instant::now() + CATCH_UP;
    let mut own = Mark::new(group, replica)?;
    let mut all = Mark::new(group, master)?;
    let mut has_begun = false;
    while Instant::now() < end {
        let status = group.status(master)?;
        // Numbers of members count from 1.
        if in_sync(&status).any(|other| other.member as usize == replica + 1) {
            let now = Mark::new(group, replica)?;
            return Ok((now.appended.saturating_sub(own.appended), now.at.duration_since(own.at), all.rate(group, master)?));
        }
        if !has_begun {
            let now = Mark::new(group, replica)?;
            has_begun = now.appended > own.appended;
            // What it has taken since the last look counts too.
            if !has_begun {
                (own, all) = (now, Mark::new(group, master)?);
            }
        }
        thread::sleep(POLL);
    }
    bail!("the replica is not in sync after {CATCH_UP:?}")
}

fn verdict(caught_up: &CatchUp) -> String {
    let CatchUp { bytes, took, before, beside } = caught_up;
    let (bytes, took, part) = (*bytes as f64 / 1e6, took.as_secs_f64(), caught_up.part());
    let goal = word(part >= PART_BESIDE_CATCH_UP_MIN, &format!("at least {:.0} %", PART_BESIDE_CATCH_UP_MIN * 100.0));
    format!(
        "a replica took {bytes:.0} MB in {took:.1} s, {:.0} MB/s; the load beside it made {:.1} MB/s of log, {:.0} % of the {:.1} MB/s before: {goal}",
        bytes / took.max(1e-3),
        beside / 1e6,
        part * 100.0,
        before / 1e6
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("bench: wrote {}", path.display());
    Ok(())
}

fn markdown(arguments: &Arguments, replicas: u32, medians: &[[Measured; NAMES.len()]; SETTINGS.len()], caught_up: &CatchUp) -> Result<String> {
    let Arguments { rounds, seconds, catch_up_gib, .. } = arguments;
    let (processors, members) = (thread::available_parallelism().map_or(1, usize::from), replicas + 1);
    let mut text = format!(
        "# Benchmark of a replicating group\n\
         Made by `cargo xtask bench --replicas {replicas} --rounds {rounds} --seconds {seconds} --catch-up-gib {catch_up_gib}`; do not edit. In turn: one Sluice broker\n\
         alone, a Sluice group of {members} members that are all in sync, and Apache RocketMQ 5.5.0 as SYNC_MASTER with one SLAVE and inSyncReplicas=2 (with the\n\
         default of 1 its master waits for nobody). All flush synchronously, each was freshly started on a machine whose memory is full of older pages and warmed up for ten\n\
         seconds, and the median of {rounds} rounds counts. A member of the Sluice group has flushed a message before it is acknowledged; RocketMQ's slave has received it.\n\n\
         **All of it shares one machine with {processors} processors and one disk**: every broker, etcd, the name servers and the load generator. Replicas on machines of\n\
         their own do their work beside the master's; here they take turns with it, so the group's part of the single broker's rate is the least it comes to,\n\
         less the network.\n\n\
         | load | {} messages/s | p50 | p99 | group of {members} messages/s | p50 | p99 | {} messages/s | p50 | p99 | group / one | group / RocketMQ |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        NAMES[0], NAMES[2]
    );
    for (index, [alone, group, peer]) in medians.iter().enumerate() {
        let [part, ratio] = [alone, peer].map(|other| group.rate / other.rate.max(1.0));
        let (mut part_text, mut ratio_text) = (format!("{:.0} %", part * 100.0), format!("{ratio:.1}"));
        if index == 0 {
            part_text = format!("{part_text}; {}", word(part >= PART_OF_ALONE_MIN, &format!("at least {:.0} %", PART_OF_ALONE_MIN * 100.0)));
            ratio_text = format!("{ratio_text}; {}", word(ratio >= TIMES_PEER_MIN, &format!("{TIMES_PEER_MIN} times")));
        }
        let sides = [alone, group, peer].map(|side| format!("{:.0} | {}", side.rate, times(side))).join(" | ");
        writeln!(text, "| {} | {sides} | {part_text} | {ratio_text} |", SETTINGS[index].name)?;
    }
    write!(
        text,
        "\nA ratio within 20 % of 1 is noise.\n\n\
         ## A replica that comes back\n\
         One replica was stopped while {catch_up_gib} GiB were written, and started again under a load of half the group's rate with 64 in flight:\n\
         {}.\n",
        verdict(caught_up)
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: f64) -> Measured {
        Measured { rate, p50_us: 100.0, p99_us: 2500.0 }
    }

    fn arguments() -> Arguments {
        use clap::{Args as _, FromArgMatches as _};
        let matches = Arguments::augment_args(clap::Command::new("bench")).get_matches_from(["bench", "--replicas", "2", "--catch-up-gib", "0.5"]);
        Arguments::from_arg_matches(&matches).unwrap()
    }

    fn caught_up(beside: f64) -> CatchUp {
        CatchUp { bytes: 2_000_000_000, took: Duration::from_secs(4), before: 1e8, beside }
    }

    #[test]
    fn goals_of_replication_are_met_at_their_limits_and_missed_below_them() {
        let text = |group, beside| {
            let row = [measured(1000.0), measured(group), measured(140.0)];
            markdown(&arguments(), 2, &[row, row], &caught_up(beside)).unwrap()
        };
        let met = text(700.0, 0.9e8);
        assert!(met.contains("| 700 | 100 µs | 2.5 ms | 140 | 100 µs | 2.5 ms | 70 %; at least 70 % (met) | 5.0; 5 times (met) |"), "{met}");
        assert!(met.contains("2000 MB in 4.0 s, 500 MB/s") && met.contains("90 % of the 100.0 MB/s before: at least 90 % (met)"), "{met}");
        let missed = text(699.0, 0.89e8);
        assert_eq!((met.matches("(missed)").count(), missed.matches("(missed)").count()), (0, 3), "{missed}");
    }

    #[test]
    fn the_medians_of_a_setting_are_those_of_each_contender() {
        let runs: Runs = [1.0, 2.0, 3.0].map(|side| [10.0, 100.0].map(|setting| [3.0, 1.0, 2.0].map(|round| measured(side * setting * round)).to_vec()));
        assert_eq!(medians(&runs).unwrap().map(|row| row.map(|run| run.rate)), [[20.0, 40.0, 60.0], [200.0, 400.0, 600.0]]);
        assert!(medians(&Runs::default()).is_none());
    }
}
