//! The table and the plot.

use super::{Setting, ceilings::Ceilings};
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
    sluice: Vec<Vec<Measured>>,
    peer: Vec<Vec<Measured>>,
}

impl Table {
    pub(super) fn new(settings: usize) -> Self {
        Self { sluice: vec![Vec::new(); settings], peer: vec![Vec::new(); settings] }
    }

    pub(super) fn add(&mut self, setting: usize, is_peer: bool, measured: Measured) {
        let side = if is_peer { &mut self.peer } else { &mut self.sluice };
        side[setting].push(measured);
    }
}

/// The run in the middle by rate.
fn median(runs: &[Measured]) -> Option<Measured> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    sorted.get(sorted.len() / 2).copied()
}

/// Writes `benchmark.md` and `benchmark.svg` into `folder`.
pub(super) fn write(folder: &Path, settings: &[Setting], table: &Table, ceilings: &Ceilings, rounds: u32, seconds: u32) -> Result<()> {
    let rows: Vec<_> =
        settings.iter().enumerate().filter_map(|(index, setting)| Some((setting.name, median(&table.sluice[index])?, median(&table.peer[index])?))).collect();
    let text = markdown(&rows, ceilings, rounds, seconds)?;
    for (name, content) in [("benchmark.md", text), ("benchmark.svg", plot(&rows)?)] {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        println!("bench: wrote {}", path.display());
    }
    Ok(())
}

fn markdown(rows: &[(&str, Measured, Measured)], ceilings: &Ceilings, rounds: u32, seconds: u32) -> Result<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "# Benchmark\n\
         Made by `cargo xtask bench --rounds {rounds} --seconds {seconds}`; do not edit. Sluice and Apache RocketMQ 5.5.0 in turn on one machine with {processors}\n\
         processors, broker and load generator together, each broker freshly started and warmed up for ten seconds; the median of {rounds} rounds. Both answer\n\
         the same generator (`sluice bench produce`), which speaks the official protocol.\n\n\
         What this machine can do at best, with one thread and no broker: **{:.0} syncs/s** (4 KiB overwritten and flushed), **{:.0} round trips/s** (128 bytes\n\
         over loopback).\n\n\
         ![messages per second](benchmark.svg)\n\n\
         | load | Sluice messages/s | p50 | p99 | RocketMQ messages/s | p50 | p99 | ratio |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        ceilings.syncs_per_second, ceilings.round_trips_per_second
    );
    for (name, sluice, peer) in rows {
        writeln!(
            text,
            "| {name} | {:.0} | {} | {} | {:.0} | {} | {} | {:.1} |",
            sluice.rate,
            time(sluice.p50_us),
            time(sluice.p99_us),
            peer.rate,
            time(peer.p50_us),
            time(peer.p99_us),
            sluice.rate / peer.rate.max(1.0)
        )?;
    }
    text.push_str("\n\"8 x 32\" means 8 connections with 32 requests under way on each. A ratio within 20 % of 1 is noise.\n");
    Ok(text)
}

fn time(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} µs") } else { format!("{:.1} ms", us / 1000.0) }
}

/// Horizontal bars, two a load, on a logarithmic scale: the loads differ by orders of magnitude.
fn plot(rows: &[(&str, Measured, Measured)]) -> Result<String> {
    const LEFT: f64 = 290.0;
    const WIDTH: f64 = 420.0;
    let height = 60 + rows.len() * 46;
    let most = rows.iter().flat_map(|(_, a, b)| [a.rate, b.rate]).fold(10.0, f64::max);
    let scale = |rate: f64| WIDTH * rate.max(1.0).log10() / most.log10();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"820\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"14\">Messages per second (logarithmic)</text>\n\
         <rect x=\"560\" y=\"12\" width=\"12\" height=\"12\" fill=\"#1f6f8b\"/><text x=\"578\" y=\"22\">Sluice</text>\n\
         <rect x=\"650\" y=\"12\" width=\"12\" height=\"12\" fill=\"#b0b7bd\"/><text x=\"668\" y=\"22\">Apache RocketMQ</text>\n"
    );
    for (index, (name, sluice, peer)) in rows.iter().enumerate() {
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

    #[test]
    fn the_median_is_the_middle_run() {
        let runs = [measured(3.0), measured(1.0), measured(2.0)];
        assert_eq!(median(&runs).unwrap().rate, 2.0);
        assert!(median(&[]).is_none());
    }

    #[test]
    fn table_and_plot_have_a_row_for_each_load() {
        let rows = [("a", measured(1000.0), measured(500.0)), ("b", measured(10.0), measured(20.0))];
        let ceilings = Ceilings { syncs_per_second: 9000.0, round_trips_per_second: 50_000.0 };
        let text = markdown(&rows, &ceilings, 3, 5).unwrap();
        assert!(text.contains("| a | 1000 | 100 µs | 2.5 ms | 500 | 100 µs | 2.5 ms | 2.0 |"), "{text}");
        assert_eq!(plot(&rows).unwrap().matches("height=\"15\"").count(), 4);
    }
}
