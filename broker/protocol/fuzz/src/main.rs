//! The decoders under libFuzzer, which keeps the inputs that reach code no input has reached before, and goes on from there.
//!
//! `SLUICE_FUZZ_TARGET` names the decoder; without it the names of all are printed. Golden bytes are put into the directory `SLUICE_FUZZ_SEEDS`.
#![no_main]
#![forbid(unsafe_code)]

#[path = "../../../replication/tests/fuzz/target.rs"]
mod replication;
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use std::{env, fs, path::Path, process, sync::LazyLock};
use targets::{TARGETS, Target};

/// Where the bytes are that Java RocketMQ has written.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/golden");

/// What brokers of a group say to each other.
static REPLICATION: Target =
    Target { name: "replication", corpus: replication::corpus, allowed: replication::allowed, repair: replication::repair, decode: replication::decode };

fn all() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain([&REPLICATION])
}

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let Ok(wanted) = env::var("SLUICE_FUZZ_TARGET") else {
        all().for_each(|target| println!("{}", target.name));
        process::exit(0);
    };
    all().find(|target| target.name == wanted).unwrap_or_else(|| panic!("SLUICE_FUZZ_TARGET is {wanted}, which is no decoder's name"))
});

/// libFuzzer reads the directory afterwards.
fn prepare() {
    let seeds = (TARGET.corpus)();
    let Ok(directory) = env::var("SLUICE_FUZZ_SEEDS") else { return };
    for (number, seed) in seeds.iter().enumerate() {
        let file = Path::new(&directory).join(format!("golden-{number}"));
        fs::write(&file, seed).unwrap_or_else(|error| panic!("writing {}: {error}", file.display()));
    }
}

libfuzzer_sys::fuzz_target!(init: prepare(), |input: &[u8]| {
    TARGET.check(input);
    // Lengths and sums that libFuzzer can't guess are made right, so that what is behind them is reached too.
    let mut repaired = input.to_vec();
    (TARGET.repair)(&mut repaired);
    if repaired != input {
        TARGET.check(&repaired);
    }
});
