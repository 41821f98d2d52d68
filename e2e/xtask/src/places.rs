//! Where things are, and what this machine has.

use anyhow::{Context, Result, bail};
use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
};

/// The root of the checkout that cargo runs this in; a build that is kept between checkouts may have been made in another one.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().nth(2).unwrap_or(&manifest).to_path_buf()
}

/// What is made or fetched once and kept between runs, outside of the checkout: `$SLUICE_CACHE`, else `~/.cache/sluice`.
pub(crate) fn cache() -> Result<PathBuf> {
    let path = match (env::var_os("SLUICE_CACHE"), env::var_os("HOME")) {
        (Some(given), _) => PathBuf::from(given),
        (None, Some(home)) => Path::new(&home).join(".cache/sluice"),
        (None, None) => bail!("neither SLUICE_CACHE nor HOME is set: there is no place for what is kept between runs"),
    };
    std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Whether nobody watches: then a tool that is missing is an error and not a reason to leave a check out.
pub(crate) fn ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Whether the program is on the path. Under CI a missing one is an error that names its package.
pub(crate) fn has_tool(program: &str, package: &str) -> Result<bool> {
    let found = env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found && ci() {
        bail!("{program} is missing: install the package {package}");
    }
    if !found {
        eprintln!("skipped: {program} is missing (package {package})");
    }
    Ok(found)
}

/// The same for a check that cannot run at all without the program.
pub(crate) fn need_tool(program: &str, package: &str) -> Result<()> {
    if has_tool(program, package)? { Ok(()) } else { bail!("{program} is missing: install the package {package}") }
}

/// A port `p` that is free now, with `p - 2` and `p + 1` free too (the VIP listener and the peer's replication).
pub(crate) fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
        let port = first.local_addr().context("looking for a free port")?.port();
        let neighbours = [port.checked_sub(2), port.checked_add(1)];
        if neighbours.into_iter().all(|other| other.is_some_and(|other| TcpListener::bind(("127.0.0.1", other)).is_ok())) {
            return Ok(port);
        }
    }
    bail!("found no free port in 100 tries")
}
