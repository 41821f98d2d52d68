//! `cargo xtask apiserver`: builds Kubernetes' API server from its published Go modules, once, for the tests that need a real one.

use crate::{places, process};
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Kubernetes' version, and that of its libraries, which are modules of their own.
const VERSION: &str = "v1.34.4";
const LIBRARIES: &str = "v0.34.4";
/// The oldest Go that it can be built with, and the one that is fetched where an older one is installed.
const GO_LEAST: (u32, u32) = (1, 24);
const GO_FETCHED: &str = "golang.org/toolchain@v0.0.1-go1.24.9.linux";

const MINUTES_2: Duration = Duration::from_secs(120);
const MINUTES_10: Duration = Duration::from_secs(600);
/// It takes some ten minutes of one processor.
const BUILD: Duration = Duration::from_secs(60 * 60);

/// Makes `tools/bin/kube-apiserver` in the cache, where the tests look for it.
pub(crate) fn run() -> Result<()> {
    let built = places::cache()?.join("tools/bin/kube-apiserver");
    if is_built(&built) {
        println!("{} is there", built.display());
        return Ok(());
    }
    places::need_tool("go", "golang-go")?;
    let folder = places::cache()?.join("go");
    let module = folder.join("module");
    fs::create_dir_all(&module).with_context(|| format!("making {}", module.display()))?;
    let go = Go { program: PathBuf::from("go"), folder }.new_enough()?;
    write_module(&go, &module)?;
    let version = "k8s.io/component-base/version";
    let flags = format!("-s -w -X {version}.gitVersion={VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=34");
    let mut build = go.command(&module);
    build.args(["build", "-mod=mod", "-trimpath", "-ldflags", &flags, "-o"]).arg(&built).arg("k8s.io/kubernetes/cmd/kube-apiserver");
    process::run(&mut build, BUILD)?;
    ensure!(is_built(&built), "{} was built and does not say that it is {VERSION}", built.display());
    Ok(())
}

fn is_built(program: &Path) -> bool {
    process::output(Command::new(program).arg("--version"), MINUTES_2).is_ok_and(|said| said.trim() == format!("Kubernetes {VERSION}"))
}

/// The libraries lie beside Kubernetes in its repository, and its module names them by that place: they are replaced by what is published.
fn write_module(go: &Go, module: &Path) -> Result<()> {
    let file = module.join("go.mod");
    let head = format!("module apiserver\ngo {}.{}\nrequire k8s.io/kubernetes {VERSION}\n", GO_LEAST.0, GO_LEAST.1);
    fs::write(&file, &head).with_context(|| format!("writing {}", file.display()))?;
    let theirs = go.downloaded(module, &format!("k8s.io/kubernetes@{VERSION}"), "GoMod")?;
    let theirs = fs::read_to_string(&theirs).with_context(|| format!("reading {}", theirs.display()))?;
    let replaced: String = libraries(&theirs).map(|library| format!("replace {library} => {library} {LIBRARIES}\n")).collect();
    fs::write(&file, head + &replaced).with_context(|| format!("writing {}", file.display()))
}

fn libraries(module: &str) -> impl Iterator<Item = &str> {
    module.lines().filter_map(|line| line.trim().split_once(" => ./staging/")).map(|(name, _)| name)
}

/// Go, with all that it keeps in the cache.
struct Go {
    program: PathBuf,
    folder: PathBuf,
}

impl Go {
    fn command(&self, place: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(place).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        command.env("GOMODCACHE", self.folder.join("mod")).env("GOCACHE", self.folder.join("build"));
        command
    }

    /// A field of what Go says about a module that it has fetched, and checked by its checksum data base.
    fn downloaded(&self, place: &Path, module: &str, field: &str) -> Result<PathBuf> {
        let told = process::output(self.command(place).args(["mod", "download", "-json", module]), MINUTES_10)?;
        let told: serde_json::Value = serde_json::from_str(&told).with_context(|| format!("reading what go says about {module}"))?;
        told[field].as_str().map(PathBuf::from).with_context(|| format!("go says no {field} for {module}: {told}"))
    }

    /// This one, or a newer one: it is published as a module too, which any Go can fetch.
    fn new_enough(self) -> Result<Self> {
        let said = process::output(self.command(&self.folder).arg("version"), MINUTES_2)?;
        if version(&said).is_some_and(|version| version >= GO_LEAST) {
            return Ok(self);
        }
        let processor = if env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let root = self.downloaded(&self.folder, &format!("{GO_FETCHED}-{processor}"), "Dir")?;
        // Modules have no executable files.
        process::run(Command::new("chmod").args(["-R", "u+x"]).args([root.join("bin"), root.join("pkg/tool")]), MINUTES_2)?;
        Ok(Self { program: root.join("bin/go"), ..self })
    }
}

/// Of `go version go1.24.9 linux/amd64`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_version_is_read_also_of_candidates() {
        assert_eq!(version("go version go1.24.9 linux/amd64\n"), Some((1, 24)));
        assert_eq!(version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(version("go version devel"), None);
        assert!((1, 19) < GO_LEAST && (1, 26) > GO_LEAST && (2, 0) > GO_LEAST);
    }

    #[test]
    fn libraries_are_those_that_the_module_has_beside_it() {
        let module = "replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tk8s.io/kms => ./staging/src/k8s.io/kms\n)\nreplace x.y/z => x.y/w v1\n";
        assert_eq!(libraries(module).collect::<Vec<_>>(), ["k8s.io/api", "k8s.io/kms"]);
    }
}
