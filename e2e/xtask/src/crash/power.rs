//! A file system in an image that can lose its power: ext4 is told to shut down without flushing its log, which drops what was not synced.

use super::skip;
use crate::{places, process};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Whether this machine and user can do it.
pub(super) fn possible() -> Result<bool> {
    for (program, package) in [("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("xfs_io", "xfsprogs")] {
        if !places::has_tool(program, package)? {
            return Ok(false);
        }
    }
    if !rustix::process::geteuid().is_root() {
        return skip("power cuts need root, to mount a file system");
    }
    Ok(true)
}

/// The mounted image; unmounted when this is dropped.
pub(crate) struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    mounted: bool,
    frozen: bool,
}

impl Disk {
    /// Makes and mounts a sparse image of so many MiB under that name.
    pub(crate) fn make(folder: &Path, name: &str, mebibytes: u64) -> Result<Self> {
        let image = folder.join(format!("{name}.ext4"));
        let mount_point = folder.join(name);
        fs::create_dir_all(&mount_point).with_context(|| format!("making {}", mount_point.display()))?;
        let file = File::create(&image).with_context(|| format!("making {}", image.display()))?;
        file.set_len(mebibytes << 20).with_context(|| format!("sizing {}", image.display()))?;
        process::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image), DEADLINE)?;
        let mut disk = Self { image, mount_point, mounted: false, frozen: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The power goes: from now on every write and sync fails, and what was not synced is gone.
    pub(crate) fn cut(&self) -> Result<()> {
        process::output(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount_point), DEADLINE).map(drop)
    }

    /// From now on every write and sync waits.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        process::output(Command::new("fsfreeze").arg("-f").arg(&self.mount_point), DEADLINE)?;
        self.frozen = true;
        Ok(())
    }

    /// They wait no longer.
    pub(crate) fn thaw(&mut self) -> Result<()> {
        if self.frozen {
            process::output(Command::new("fsfreeze").arg("-u").arg(&self.mount_point), DEADLINE)?;
            self.frozen = false;
        }
        Ok(())
    }

    /// The power is back: the file system is unmounted and mounted again from what the image holds.
    pub(crate) fn restore(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        process::output(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount_point), DEADLINE)?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        // The killed broker's files may still be on their way to being closed.
        for _ in 0..50 {
            if process::output(Command::new("umount").arg(&self.mount_point), DEADLINE).is_ok() {
                self.mounted = false;
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("{} can't be unmounted", self.mount_point.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = self.unmount()
        {
            eprintln!("{error:#}");
        }
    }
}
