//! Memory as a broker finds it that has run for a day: full of older pages, which give way to new ones.
//!
//! It matters where a virtual machine gives its free memory back to the host. Then the first touch of a page costs ten times what a copy into it does, until all memory has
//! been touched; whoever writes most would be measured with that and not with what he does.

use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    io::Read,
    path::PathBuf,
};

/// Memory that stays free.
const FREE_BYTES: u64 = 384 << 20;
const READ_BYTES: usize = 1 << 20;

/// Files without blocks whose pages fill the memory. Each is read once, so that its pages are the first to give way.
pub(super) struct Pages {
    folder: PathBuf,
    files: u32,
}

impl Pages {
    /// Files in that directory.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, files: 0 }
    }

    /// Fills what is free.
    pub(super) fn fill(&mut self) -> Result<()> {
        let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let free = free_bytes(&text).context("/proc/meminfo tells of no MemFree")?;
        self.add(free.saturating_sub(FREE_BYTES))
    }

    fn add(&mut self, bytes: u64) -> Result<()> {
        self.files += 1;
        let path = self.folder.join(format!("pages-{}", self.files));
        let file = File::create_new(&path).and_then(|file| file.set_len(bytes).map(|()| file));
        let (mut file, mut piece) = (file.with_context(|| format!("making {}", path.display()))?, vec![0; READ_BYTES]);
        while file.read(&mut piece).with_context(|| format!("reading {}", path.display()))? > 0 {}
        Ok(())
    }
}

fn free_bytes(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = meminfo.lines().find_map(|line| line.strip_prefix("MemFree:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_in_bytes() {
        assert_eq!(free_bytes("MemTotal:       24683640 kB\nMemFree:        21937000 kB\nMemAvailable:   23373000 kB\n"), Some(21_937_000 * 1024));
        assert_eq!(free_bytes("MemTotal:       24683640 kB\n"), None);
    }

    #[test]
    fn pages_of_files_without_blocks_fill_the_memory() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let mut pages = Pages::new(folder.path().to_owned());
        pages.add(8 << 20).unwrap();
        pages.add(1).unwrap();
        let sizes = ["pages-1", "pages-2"].map(|name| fs::metadata(folder.path().join(name)).map(|data| (data.len(), data.blocks())).unwrap());
        assert_eq!(sizes, [(8 << 20, 0), (1, 0)]);
    }
}
