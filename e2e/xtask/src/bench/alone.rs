//! What Sluice promises of itself.

use super::{Place, generate};
use crate::{
    generator::{Report, median},
    memory::Memory,
    process::Background,
    sluice::Site,
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// One promise and what came of it.
pub(super) struct Figure {
    pub(super) what: &'static str,
    pub(super) goal: &'static str,
    pub(super) reached: String,
    pub(super) met: bool,
}

/// How often a start or a rate is measured; the median counts.
const TIMES: usize = 3;
const START_MAX: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(2);
const RESTART_LOG_BYTES: u64 = 10_000_000_000;
const RESIDENT_MAX: u64 = 100_000_000;
const RESIDENT_MESSAGES: u64 = 3_000_000;
const BACKLOG_MESSAGES: u64 = 2_000_000;
const BACKLOG_MIN: f64 = 1000.0;
const TOPICS: u32 = 10_000;
const TOPICS_PART_MIN: f64 = 0.9;
const OPEN_FILES_MAX: usize = 1000;
/// Longest time of one load.
const LOAD: Duration = Duration::from_secs(15 * 60);
const STOP: Duration = Duration::from_secs(60);

pub(super) fn measure(binary: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for figure in [empty_start, memory, backlog, restart, many_topics] {
        for figure in figure(binary, folder)? {
            println!("bench: {}: {} ({}: {})", figure.what, figure.reached, figure.goal, if figure.met { "met" } else { "missed" });
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// A broker on a directory of its own, removed with it.
struct Alone {
    site: Site,
    running: Background,
    binary: std::path::PathBuf,
    _place: Place,
}

impl Alone {
    fn start(binary: &Path, folder: &Path, name: &str) -> Result<Self> {
        let place = Place::new(folder, name)?;
        let site = Site::new(binary, &place.0.join("data"), &place.0.join("sluice.log"), &["--storage-flush", "async"])?;
        Ok(Self { running: site.start()?, site, binary: binary.to_path_buf(), _place: place })
    }

    fn load(&self, words: &str) -> Result<Report> {
        generate(&self.binary, &self.site.namesrv(), words, LOAD)
    }

    fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.running.id())).context("looking at the broker's open files")?.count())
    }
}

fn middle_time(times: &[Duration]) -> Duration {
    median(times, Duration::as_secs_f64).unwrap_or(Duration::MAX)
}

fn empty_start(binary: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let mut times = Vec::new();
    for turn in 0..TIMES {
        let begun = Instant::now();
        let alone = Alone::start(binary, folder, &format!("empty-{turn}"))?;
        times.push(begun.elapsed());
        drop(alone);
    }
    let time = middle_time(&times);
    let reached = format!("{:.0} ms", time.as_secs_f64() * 1e3);
    Ok(vec![Figure { what: "start on an empty directory, until both ports listen", goal: "at most 100 ms", reached, met: time <= START_MAX }])
}

fn memory(binary: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let alone = Alone::start(binary, folder, "memory")?;
    alone.load(&format!("produce memory --count {RESIDENT_MESSAGES} --size 128 --batch 32 --connections 4 --in-flight 8"))?;
    let memory = Memory::of(alone.running.id())?;
    let reached = format!("{:.0} MB, {:.0} MB of it its own", memory.resident as f64 / 1e6, memory.own as f64 / 1e6);
    let met = memory.resident <= RESIDENT_MAX;
    Ok(vec![Figure { what: "resident memory after 3,000,000 messages of 128 B", goal: "at most 100 MB", reached, met }])
}

fn backlog(binary: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let alone = Alone::start(binary, folder, "backlog")?;
    alone.load(&format!("produce backlog --count {BACKLOG_MESSAGES} --size 1000 --batch 16 --connections 2 --in-flight 8"))?;
    let mut rates = Vec::new();
    // The first read is the warm-up.
    for _ in 0..=TIMES {
        rates.push(alone.load("consume backlog --connections 2 --in-flight 4 --messages 1024")?.megabytes_per_second);
    }
    let rate = median(&rates[1..], |rate| *rate).unwrap_or(0.0);
    let reached = format!("{:.2} GB/s", rate / 1e3);
    Ok(vec![Figure { what: "reading a backlog of 2,000,000 messages of 1 KB, warm", goal: "at least 1 GB/s", reached, met: rate >= BACKLOG_MIN }])
}

fn restart(binary: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let mut alone = Alone::start(binary, folder, "restart")?;
    let body = 16 * 1024;
    alone.load(&format!("produce restart --count {} --size {body} --batch 8 --connections 2 --in-flight 4", RESTART_LOG_BYTES / body))?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        // Something new since the last start, which a recovery has to look at.
        alone.load("produce restart --seconds 2 --size 1024 --connections 1 --in-flight 64")?;
        alone.running.kill();
        let begun = Instant::now();
        alone.running = alone.site.start()?;
        times.push(begun.elapsed());
    }
    alone.running.stop(STOP)?;
    let time = middle_time(&times);
    let reached = format!("{:.2} s", time.as_secs_f64());
    Ok(vec![Figure {
        what: "restart on a log of 10 GB after SIGKILL under load, until both ports listen",
        goal: "at most 2 s",
        reached,
        met: time <= RESTART_MAX,
    }])
}

fn many_topics(binary: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let alone = Alone::start(binary, folder, "topics")?;
    let many = |seconds| format!("produce many --topics {TOPICS} --queues 8 --seconds {seconds} --size 1024 --connections 1 --in-flight 64");
    // Makes the topics; nothing of it is measured.
    alone.load(&many(20))?;
    let mut parts = Vec::new();
    for _ in 0..TIMES {
        let one = alone.load("produce one --queues 8 --seconds 5 --size 1024 --connections 1 --in-flight 64")?.messages_per_second;
        parts.push(alone.load(&many(5))?.messages_per_second / one);
    }
    let (part, files) = (median(&parts, |part| *part).unwrap_or(0.0), alone.open_files()?);
    Ok(vec![
        Figure {
            what: "rate over 10,000 topics of 8 queues, as a part of one topic's",
            goal: "at least 90 %",
            reached: format!("{:.0} %", part * 100.0),
            met: part >= TOPICS_PART_MIN,
        },
        Figure { what: "open files with 10,000 topics of 8 queues", goal: "fewer than 1,000", reached: files.to_string(), met: files < OPEN_FILES_MAX },
    ])
}
