//! The table and the plot.

use super::{
    Goal, Setting,
    alone::Figure,
    ceilings::{self, Ceilings},
};
use crate::generator::median;
use anyhow::{Context, Result};
use std::{fmt::Write as _, fs, path::Path};

/// One run of one load.
#[derive(Clone, Copy)]
pub(super) struct Measured {
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// All runs, by setting.
pub(super) struct Table {
    settings: &'static [Setting],
    sluice: Vec<Vec<Measured>>,
    peer: Vec<Vec<Measured>>,
    /// One of each round.
    pub(super) ceilings: Vec<Ceilings>,
}

/// A setting's medians.
struct Row {
    name: &'static str,
    goals: &'static [Goal],
    sluice: Measured,
    peer: Measured,
}

impl Table {
    pub(super) fn new(settings: &'static [Setting]) -> Self {
        Self { settings, sluice: vec![Vec::new(); settings.len()], peer: vec![Vec::new(); settings.len()], ceilings: Vec::new() }
    }

    pub(super) fn add(&mut self, setting: usize, is_peer: bool, measured: Measured) {
        let side = if is_peer { &mut self.peer } else { &mut self.sluice };
        side[setting].push(measured);
    }

    fn rows(&self) -> Vec<Row> {
        let middle = |runs: &[Measured]| median(runs, |run| run.rate);
        let row = |(index, setting): (usize, &Setting)| {
            Some(Row { name: setting.name, goals: setting.goals, sluice: middle(&self.sluice[index])?, peer: middle(&self.peer[index])? })
        };
        self.settings.iter().enumerate().filter_map(row).collect()
    }
}

impl Row {
    fn ratio(&self) -> f64 {
        self.sluice.rate / self.peer.rate.max(1.0)
    }

    /// Each goal, and what came of it.
    fn verdict(&self, ceilings: &Ceilings) -> String {
        let part = self.sluice.rate / ceilings.synced_round_trips_per_second.max(1.0);
        let verdicts = self.goals.iter().map(|goal| match *goal {
            Goal::TimesPeer(times) => word(self.ratio() >= times, &format!("{times} times")),
            Goal::PartOfCeiling(least) => word(part >= least, &format!("{:.0} % of the ceiling: {:.0} %", least * 100.0, part * 100.0)),
            Goal::Rate(rate) => word(self.sluice.rate >= rate, &format!("{rate:.0}/s")),
        });
        verdicts.collect::<Vec<_>>().join("; ")
    }
}

pub(super) fn word(met: bool, goal: &str) -> String {
    format!("{goal} ({})", if met { "met" } else { "missed" })
}

/// Writes `benchmark.md` and `benchmark.svg` into `folder`.
pub(super) fn write(folder: &Path, table: &Table, figures: &[Figure], rounds: u32, seconds: u32) -> Result<()> {
    let rows = table.rows();
    let text = markdown(&rows, &ceilings::medians(&table.ceilings), figures, rounds, seconds)?;
    for (name, content) in [("benchmark.md", text), ("benchmark.svg", plot(&rows)?)] {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        println!("bench: wrote {}", path.display());
    }
    Ok(())
}

fn markdown(rows: &[Row], ceilings: &Ceilings, figures: &[Figure], rounds: u32, seconds: u32) -> Result<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "# Benchmark\n\
         Made by `cargo xtask bench --rounds {rounds} --seconds {seconds}`; do not edit. Sluice and Apache RocketMQ 5.5.0 in turn on one machine with {processors}\n\
         processors, broker and load generator together, each broker freshly started while memory was full of older pages and warmed up for ten seconds; the median of {rounds} rounds. Both answer\n\
         the same generator (`sluice bench produce`), which speaks the official protocol.\n\n\
         ![messages per second](benchmark.svg)\n\n\
         | load | Sluice messages/s | p50 | p99 | RocketMQ messages/s | p50 | p99 | ratio | goal |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
    );
    for row in rows {
        let Row { name, sluice, peer, .. } = row;
        let (a, b) = (times(sluice), times(peer));
        writeln!(text, "| {name} | {:.0} | {a} | {:.0} | {b} | {:.1} | {} |", sluice.rate, peer.rate, row.ratio(), row.verdict(ceilings))?;
    }
    write!(
        text,
        "\nA ratio within 20 % of 1 is noise.\n\n\
         What no broker here can exceed, measured before each round without one: {:.0} syncs/s (4 KiB written over what is there, then flushed), {:.0} round\n\
         trips/s (a message of 1 KiB and its answer over loopback), and **{:.0} round trips/s with a write and a sync in each**, which is the ceiling of one message\n\
         at a time with synchronous flush.\n\n\
         ## Sluice alone\n\
         | figure | reached | goal |\n\
         | --- | --- | --- |\n",
        ceilings.syncs_per_second, ceilings.round_trips_per_second, ceilings.synced_round_trips_per_second
    )?;
    for Figure { what, goal, reached, met } in figures {
        writeln!(text, "| {what} | {reached} | {} |", word(*met, goal))?;
    }
    Ok(text)
}

pub(super) fn times(measured: &Measured) -> String {
    format!("{} | {}", time(measured.p50_us), time(measured.p99_us))
}

fn time(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} µs") } else { format!("{:.1} ms", us / 1000.0) }
}

/// Horizontal bars, two a load, on a logarithmic scale: the loads differ by orders of magnitude.
fn plot(rows: &[Row]) -> Result<String> {
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 420.0;
    let height = 60 + rows.len() * 46;
    let most = rows.iter().flat_map(|row| [row.sluice.rate, row.peer.rate]).fold(10.0, f64::max);
    let scale = |rate: f64| WIDTH * rate.max(1.0).log10() / most.log10();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"820\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"14\">Messages per second (logarithmic)</text>\n\
         <rect x=\"560\" y=\"12\" width=\"12\" height=\"12\" fill=\"#1f6f8b\"/><text x=\"578\" y=\"22\">Sluice</text>\n\
         <rect x=\"650\" y=\"12\" width=\"12\" height=\"12\" fill=\"#b0b7bd\"/><text x=\"668\" y=\"22\">Apache RocketMQ</text>\n"
    );
    for (index, Row { name, sluice, peer, .. }) in rows.iter().enumerate() {
        let top = 44 + index * 46;
        writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", LEFT - 10.0, top + 20)?;
        for (offset, rate, colour) in [(0, sluice.rate, "#1f6f8b"), (18, peer.rate, "#b0b7bd")] {
            let (y, width) = (top + offset, scale(rate));
            writeln!(svg, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"15\" fill=\"{colour}\"/>")?;
            writeln!(svg, "<text x=\"{:.0}\" y=\"{}\">{rate:.0}</text>", LEFT + width + 6.0, y + 12)?;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: f64) -> Measured {
        Measured { rate, p50_us: 100.0, p99_us: 2500.0 }
    }

    const CEILINGS: Ceilings = Ceilings { syncs_per_second: 9000.0, round_trips_per_second: 50_000.0, synced_round_trips_per_second: 1200.0 };

    fn row(goals: &'static [Goal], sluice: f64, peer: f64) -> Row {
        Row { name: "a", goals, sluice: measured(sluice), peer: measured(peer) }
    }

    #[test]
    fn table_and_plot_have_a_row_for_each_load_and_each_figure() {
        let rows = [row(&[Goal::TimesPeer(2.0)], 1000.0, 500.0), row(&[], 10.0, 20.0)];
        let figures = [Figure { what: "start", goal: "at most 1 s", reached: "2 s".into(), met: false }];
        let text = markdown(&rows, &CEILINGS, &figures, 3, 5).unwrap();
        assert!(text.contains("| a | 1000 | 100 µs | 2.5 ms | 500 | 100 µs | 2.5 ms | 2.0 | 2 times (met) |"), "{text}");
        assert!(text.contains("| start | 2 s | at most 1 s (missed) |"), "{text}");
        assert_eq!(plot(&rows).unwrap().matches("height=\"15\"").count(), 4);
    }

    #[test]
    fn each_goal_is_met_at_its_limit_and_missed_below_it() {
        let goals: &[Goal] = &[Goal::TimesPeer(2.5), Goal::PartOfCeiling(0.8), Goal::Rate(960.0)];
        assert_eq!(row(goals, 960.0, 384.0).verdict(&CEILINGS), "2.5 times (met); 80 % of the ceiling: 80 % (met); 960/s (met)");
        assert_eq!(row(goals, 959.0, 384.0).verdict(&CEILINGS).matches("missed").count(), 3);
    }
}
