//! The repository's own rules, which no lint knows.

use crate::{places, process, promises, test};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Which of the workspace's crates a crate may use; what is not named here is a new decision to make. ARCHITECTURE.md says why.
const ARROWS: &[(&str, &[&str])] = &[
    ("sluice-types", &[]),
    ("sluice-env", &["sluice-types"]),
    ("sluice-history", &["sluice-types"]),
    ("sluice-protocol", &["sluice-types"]),
    ("sluice-store", &["sluice-types", "sluice-env", "sluice-protocol"]),
    ("sluice-replication", &["sluice-types", "sluice-env"]),
    ("sluice-crd", &[]),
    ("sluice-apiserver", &["sluice-crd"]),
    ("sluice-group", &["sluice-types", "sluice-env", "sluice-protocol", "sluice-store", "sluice-replication", "sluice-crd"]),
    ("sluice-delivery", &["sluice-types", "sluice-env", "sluice-protocol", "sluice-store"]),
    (
        "sluice-sim",
        &["sluice-types", "sluice-env", "sluice-protocol", "sluice-store", "sluice-replication", "sluice-group", "sluice-delivery", "sluice-history"],
    ),
    ("sluice-naming", &["sluice-types", "sluice-env", "sluice-protocol"]),
    ("sluice-client", &["sluice-types", "sluice-env", "sluice-protocol"]),
    ("sluice-cli", &["sluice-types", "sluice-env", "sluice-protocol", "sluice-client"]),
    (
        "sluice",
        &[
            "sluice-types",
            "sluice-env",
            "sluice-protocol",
            "sluice-store",
            "sluice-replication",
            "sluice-group",
            "sluice-delivery",
            "sluice-naming",
            "sluice-client",
            "sluice-cli",
        ],
    ),
    ("xtask", &["sluice-types", "sluice-protocol", "sluice-client", "sluice-history", "sluice-crd"]),
];

/// What any crate's tests may use, and no product.
const FOR_TESTS: &[&str] = &["sluice-apiserver"];

const LINES_MAX: usize = 800;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Checks all rules and names every violation.
pub(crate) fn run() -> Result<()> {
    let text = process::output(test::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]), Duration::from_secs(60))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        check_arrows(package, &mut wrong);
        check_sources(package, &mut wrong)?;
    }
    let mut java = Vec::new();
    collect(&places::root().join("e2e/clients"), "java", &mut java)?;
    for file in java {
        check_length(&file, &read(&file)?, &mut wrong);
    }
    let mut sources = Vec::new();
    collect(&places::root().join("broker"), "rs", &mut sources)?;
    let sources = sources.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    promises::check(&places::root(), sources.iter().map(String::as_str), &mut wrong)?;
    if wrong.is_empty() {
        println!("tidy: {} crates keep the rules", metadata.packages.len());
        return Ok(());
    }
    bail!("tidy:\n{}", wrong.join("\n"))
}

/// Dependencies of tests count too, except on what a test may see but the product may not.
fn check_arrows(package: &Package, wrong: &mut Vec<String>) {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
        wrong.push(format!("{}: a new crate: say in e2e/xtask/src/tidy.rs and ARCHITECTURE.md what it may use", package.name));
        return;
    };
    for dependency in &package.dependencies {
        let ours = ARROWS.iter().any(|(name, _)| *name == dependency.name);
        let kind = dependency.kind.as_deref().unwrap_or("normal");
        let for_test = kind == "dev" && FOR_TESTS.contains(&dependency.name.as_str());
        // A test may use the simulated environment of its own crate or of one below; upward arrows stay forbidden.
        if ours && dependency.name != package.name && !for_test && !allowed.contains(&dependency.name.as_str()) {
            wrong.push(format!("{} may not use {} ({kind} dependency)", package.name, dependency.name));
        }
    }
}

fn check_sources(package: &Package, wrong: &mut Vec<String>) -> Result<()> {
    let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    collect(folder, "rs", &mut files)?;
    let may_be_unsafe = package.name == "sluice-store";
    for file in files {
        let text = read(&file)?;
        let shown = file.display();
        check_length(&file, &text, wrong);
        let is_root = file == folder.join("src/lib.rs") || file == folder.join("src/main.rs");
        if is_root && !may_be_unsafe && !text.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{shown}: #![forbid(unsafe_code)] is missing"));
        }
        let is_mmap = may_be_unsafe && file.starts_with(folder.join("src")) && file.file_stem().is_some_and(|stem| stem == "mmap");
        for (number, line) in text.lines().enumerate() {
            check_line(&format!("{shown}:{}", number + 1), line, is_mmap, wrong);
        }
    }
    Ok(())
}

fn check_line(place: &str, line: &str, is_mmap: bool, wrong: &mut Vec<String>) {
    let code = line.split("//").next().unwrap_or_default();
    // Put together so that this file does not find itself.
    for unfinished in [concat!("todo", "!("), concat!("unimplemented", "!(")] {
        if code.contains(unfinished) {
            wrong.push(format!("{place}: {unfinished}…) is unfinished code"));
        }
    }
    if !is_mmap && [concat!("unsafe", " {"), concat!("unsafe", " impl"), concat!("unsafe", " fn")].iter().any(|word| code.contains(word)) {
        wrong.push(format!("{place}: only store::mmap may contain unsafe code"));
    }
}

fn check_length(file: &Path, text: &str, wrong: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        wrong.push(format!("{}: {lines} lines; split it, {LINES_MAX} are the most", file.display()));
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// All files below `folder` with that ending, without what builds leave behind.
fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, extension, files)?;
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &str, kind: Option<&str>) -> Package {
        Package {
            name: name.into(),
            manifest_path: PathBuf::new(),
            dependencies: vec![Dependency { name: uses.into(), kind: kind.map(str::to_owned) }, Dependency { name: "bytes".into(), kind: None }],
        }
    }

    fn arrows(name: &str, uses: &str) -> Vec<String> {
        arrows_of(name, uses, None)
    }

    fn arrows_of(name: &str, uses: &str, kind: Option<&str>) -> Vec<String> {
        let mut wrong = Vec::new();
        check_arrows(&package(name, uses, kind), &mut wrong);
        wrong
    }

    #[test]
    fn what_is_there_for_tests_is_used_by_tests_alone() {
        assert!(arrows_of("sluice-group", "sluice-apiserver", Some("dev")).is_empty());
        assert_eq!(arrows_of("sluice-group", "sluice-apiserver", None).len(), 1);
        assert_eq!(arrows_of("sluice-group", "sluice-delivery", Some("dev")).len(), 1);
    }

    #[test]
    fn an_arrow_down_is_allowed_and_one_up_is_not() {
        assert!(arrows("sluice-store", "sluice-types").is_empty());
        assert_eq!(arrows("sluice-types", "sluice-store"), ["sluice-types may not use sluice-store (normal dependency)"]);
        assert_eq!(arrows("sluice-new", "bytes").len(), 1);
    }

    #[test]
    fn unfinished_and_unsafe_code_is_found_but_not_in_comments() {
        let mut wrong = Vec::new();
        check_line("a", concat!("    todo", "!()"), false, &mut wrong);
        check_line("b", concat!("    unsafe", " { x() }"), false, &mut wrong);
        assert_eq!(wrong.len(), 2);
        check_line("c", concat!("    // unsafe", " { x() }"), false, &mut wrong);
        check_line("d", concat!("    unsafe", " { x() }"), true, &mut wrong);
        assert_eq!(wrong.len(), 2);
    }
}
