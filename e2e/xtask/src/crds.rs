//! `cargo xtask crds`: the custom resources of Kubernetes as files, made from the code. A test of `operator/crd` compares them.

use crate::places;
use anyhow::{Context, Result};
use std::fs;

pub(crate) fn run() -> Result<()> {
    let folder = places::root().join("crds");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, yaml) in sluice_crd::files().context("writing custom resources as YAML")? {
        let file = folder.join(name);
        fs::write(&file, yaml).with_context(|| format!("writing {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}
