//! `cargo xtask fuzz`: the decoders under libFuzzer, each for so many seconds. It is told what each input reaches (LLVM's coverage counters, which the stable compiler
//! puts in too) and keeps the inputs that reach more, from run to run.

use crate::{places, process, process::Background, test};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

/// The decoders' programs, a workspace of its own.
pub(crate) const MANIFEST: &str = "broker/protocol/fuzz/Cargo.toml";

/// What makes the compiler count which code is reached, and tell what is compared with what.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
/// Any decoder has more places to reach than this; fewer show that nothing was counted.
const EDGES_MIN: u64 = 20;
const BUILD: Duration = Duration::from_secs(600);
/// For reading what was kept before, and for ending.
const BESIDES: Duration = Duration::from_secs(60);
/// One test for each decoder.
const DECODERS: usize = 10;

/// How long.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds for each decoder
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if places::has_tool("c++", "g++")? {
        return by_coverage(arguments.seconds);
    }
    println!("fuzz: without a C++ compiler there is no libFuzzer: golden bytes are mutated blindly");
    let mut command = test::cargo();
    command.args(["test", "--release", "--locked", "-p", "sluice-protocol", "-p", "sluice-replication", "--test", "fuzz", "--", "--nocapture"]);
    command.env("SLUICE_FUZZ_SECONDS", arguments.seconds.to_string());
    test::run_picked(&mut command, DECODERS, Duration::from_secs(arguments.seconds.saturating_mul(DECODERS as u64)) + BUILD)
}

fn by_coverage(seconds: u64) -> Result<()> {
    let binary = build()?;
    let names = process::output(Command::new(&binary).env_remove("SLUICE_FUZZ_TARGET"), BESIDES)?;
    let names: Vec<&str> = names.lines().collect();
    ensure!(names.len() >= DECODERS, "there are only {} decoders to try: {names:?}", names.len());
    let folder = places::cache()?.join("fuzz");
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut failed = Vec::new();
    for some in names.chunks(at_once) {
        let running = some.iter().map(|name| Fuzzing::start(&binary, &folder.join(name), name, seconds)).collect::<Result<Vec<_>>>()?;
        for fuzzing in running {
            match fuzzing.end(Duration::from_secs(seconds) + BESIDES) {
                Ok(told) => println!("fuzz: {told}"),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn build() -> Result<PathBuf> {
    let version = process::output(Command::new("rustc").current_dir(places::root()).arg("-vV"), BESIDES)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let folder = places::target().join("fuzz");
    let mut command = test::cargo();
    command.args(["build", "--release", "--locked", "--manifest-path", MANIFEST]);
    // With a target named, build scripts and macros are compiled without the counters, for which they have no runtime.
    command.args(["--target", host]).env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &folder);
    process::run(&mut command, BUILD)?;
    Ok(folder.join(host).join("release/sluice-protocol-fuzz"))
}

/// A decoder being tried.
struct Fuzzing {
    name: String,
    process: Background,
    log: PathBuf,
}

impl Fuzzing {
    fn start(binary: &Path, folder: &Path, name: &str, seconds: u64) -> Result<Self> {
        let (corpus, crashes, log) = (folder.join("corpus"), folder.join("crashes"), folder.join("output"));
        for folder in [&corpus, &crashes] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        // The output is appended to.
        fs::write(&log, "").with_context(|| format!("emptying {}", log.display()))?;
        let mut command = Command::new(binary);
        command.env("SLUICE_FUZZ_TARGET", name).env("SLUICE_FUZZ_SEEDS", &corpus).arg(&corpus);
        command.args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={}/", crashes.display())]);
        command.args(["-max_len=65536", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        Ok(Self { name: name.to_owned(), process: Background::start(&mut command, &log)?, log })
    }

    /// Waits for the end, and tells how much was tried and reached.
    fn end(mut self, deadline: Duration) -> Result<String> {
        let status = self.process.wait(deadline)?;
        let output = String::from_utf8_lossy(&fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?).into_owned();
        if !status.success() {
            bail!(
                "{}: {}\nSLUICE_FUZZ_TARGET={} and the file as the binary's argument repeat it; all output is in {}",
                self.name,
                reason(&output),
                self.name,
                self.log.display()
            );
        }
        let (inputs, edges) = (inputs(&output), edges(&output));
        ensure!(inputs > 0 && edges >= EDGES_MIN, "{}: {inputs} inputs reached {edges} places; see {}", self.name, self.log.display());
        Ok(format!("{}: {inputs} inputs, {edges} places reached", self.name))
    }
}

/// What libFuzzer and the panic said.
fn reason(output: &str) -> String {
    let telling = |line: &&str| ["panicked at", "SUMMARY:", "ERROR:", "Test unit written to"].iter().any(|word| line.contains(word));
    let lines: Vec<&str> = output.lines().collect();
    let mut told: Vec<&str> = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| telling(line)) {
        told.push(line);
        // A panic's own words stand below its place.
        told.extend(lines.get(at + 1).filter(|_| line.contains("panicked at")));
    }
    told.join("\n")
}

/// How many inputs were tried, by the statistics at the end.
fn inputs(output: &str) -> u64 {
    output.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()).unwrap_or(0)
}

/// How many places were reached, by the last line that tells it: `#4075065 DONE   cov: 731 ft: 2518 …`.
fn edges(output: &str) -> u64 {
    output.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_and_reached_is_read_from_the_output() {
        let output = "#2\tINITED cov: 90 ft: 91 corp: 1/1b\n#512\tDONE   cov: 731 ft: 2518 corp: 9/2Kb\nDone 512 runs in 2 second(s)\nstat::number_of_executed_units: 512\n";
        assert_eq!((inputs(output), edges(output)), (512, 731));
        assert_eq!((inputs(""), edges("")), (0, 0));
    }

    #[test]
    fn a_failure_is_told_with_the_panic_and_the_file() {
        let output = "thread '<unnamed>' (7) panicked at src/frame.rs:3:4:\nattempt to add with overflow\nnote: …\n==7== ERROR: libFuzzer: deadly signal\nTest unit written to /c/crash-1\n";
        assert!(reason(output).contains("attempt to add") && reason(output).contains("/c/crash-1") && !reason(output).contains("note"));
    }
}
