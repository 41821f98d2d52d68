//! The machine's file system.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use rustix::io::{Errno, retry_on_intr};

use crate::{
    Disk, File, Names, OpenMode,
    disk::{check_dir, check_name},
};

/// Files below one directory of the real file system.
#[derive(Clone)]
pub struct RealDisk {
    root: PathBuf,
    names: Arc<Names>,
}

impl RealDisk {
    /// Files below `root`, which must exist by the time it is used.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), names: Arc::default() }
    }

    /// Like [`RealDisk::new`], but makes the directory, durably, when it is missing.
    pub fn create(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            fs::create_dir_all(root).map_err(|error| explain(error, "create", root))?;
            // An empty parent is how `Path` spells "the directory we are in".
            let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            sync_directory(parent)?;
        }
        Ok(Self::new(root))
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    fn dir_path(&self, dir: &str) -> io::Result<PathBuf> {
        check_dir(dir)?;
        Ok(self.root.join(dir))
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let path = self.path(name)?;
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::Write => options.write(true),
            OpenMode::Create => options.write(true).create(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        let file = options.open(&path).map_err(|error| explain(error, "open", &path))?;
        Ok(Arc::new(RealFile { path, file }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let path = self.dir_path(dir)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| explain(error, "list", &path))? {
            let entry = entry.map_err(|error| explain(error, "list", &path))?;
            if !entry.file_type().map_err(|error| explain(error, "look at", &entry.path()))?.is_file() {
                continue;
            }
            // A name that is not UTF-8 was not made through this trait and cannot be opened through it: not one of ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.dir_path(dir)?;
        fs::create_dir_all(&path).map_err(|error| explain(error, "create directory", &path))?;
        // Also when it was there: the process that made it may have been killed between making and syncing.
        let mut child = path.as_path();
        while child != self.root {
            let Some(parent) = child.parent() else { break };
            sync_directory(parent)?;
            child = parent;
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        fs::rename(&from, &to).map_err(|error| io::Error::new(error.kind(), format!("cannot rename {} to {}: {error}", from.display(), to.display())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name)?;
        fs::remove_file(&path).map_err(|error| explain(error, "remove", &path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_directory(&self.dir_path(dir)?)
    }

    fn names(&self) -> &Names {
        &self.names
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let stat = retry_on_intr(|| statvfs(&self.root)).map_err(|error| explain(error.into(), "ask for the free space of", &self.root))?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.path(name)?;
        let file =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(|error| explain(error, "open lock file", &path))?;
        match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            // The lock lives as long as the open file; the file itself stays, since removing it would let two processes lock two files of one name.
            Ok(()) => Ok(Box::new(file)),
            Err(Errno::WOULDBLOCK) => {
                Err(io::Error::new(ErrorKind::WouldBlock, format!("{} is locked: another process uses this store; stop it first", path.display())))
            }
            Err(error) => Err(explain(error.into(), "lock", &path)),
        }
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

/// An open file and, for messages, the path it was opened by.
#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    file: fs::File,
}

impl File for RealFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = buf.len();
        self.file.read_exact_at(buf, offset).map_err(|error| explain(error, &format!("read {wanted} bytes at {offset} of"), &self.path))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // Goes on after a short write and after an interruption; a write of nothing is an error.
        self.file.write_all_at(bytes, offset).map_err(|error| explain(error, &format!("write {} bytes at {offset} of", bytes.len()), &self.path))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| explain(error, "sync", &self.path))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata().map_err(|error| explain(error, "look at", &self.path))?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(|error| explain(error, &format!("set the length to {len} of"), &self.path))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(()),
            // A file system that cannot reserve: the length is still promised, a later write may then fail for want of space.
            Err(Errno::OPNOTSUPP) if self.len()? < len => self.set_len(len),
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(explain(error.into(), &format!("reserve {len} bytes for"), &self.path)),
        }
    }

    fn os_file(&self) -> Option<&fs::File> {
        Some(&self.file)
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| explain(error, "sync directory", path))
}

/// The same kind of error, now naming what was tried and on which path.
#[allow(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn explain(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path());
        (dir, disk)
    }

    #[test]
    fn a_name_that_leaves_the_root_is_refused() {
        let (_dir, disk) = disk();
        for name in ["../x", "/etc/passwd", "a/../../x", "a\0b", "", ".", "a//b", "a/"] {
            let error = disk.open(name, OpenMode::Create).err().unwrap_or_else(|| panic!("{name:?} was accepted"));
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        assert_eq!(disk.list("..").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn positioned_writes_are_read_back_and_a_hole_is_zero() {
        let (_dir, disk) = disk();
        let file = disk.open("a", OpenMode::CreateNew).unwrap();
        file.write_all_at(b"tail", 10).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        let mut all = [1; 14];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(&all, b"head\0\0\0\0\0\0tail");
        assert_eq!(file.read_exact_at(&mut all, 1).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        file.sync_data().unwrap();
        disk.sync_dir("").unwrap();
    }

    #[test]
    fn open_modes_differ_in_what_must_exist() {
        let (_dir, disk) = disk();
        assert_eq!(disk.open("a", OpenMode::Read).err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(disk.open("a", OpenMode::Write).err().unwrap().kind(), ErrorKind::NotFound);
        disk.open("a", OpenMode::Create).unwrap().write_all_at(b"x", 0).unwrap();
        assert_eq!(disk.open("a", OpenMode::Create).unwrap().len().unwrap(), 1);
        assert_eq!(disk.open("a", OpenMode::CreateNew).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert!(disk.open("a", OpenMode::Read).unwrap().write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn allocate_extends_and_never_cuts() {
        let (_dir, disk) = disk();
        let file = disk.open("a", OpenMode::Create).unwrap();
        file.allocate(0).unwrap();
        file.allocate(8192).unwrap();
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        file.set_len(3).unwrap();
        assert_eq!(file.len().unwrap(), 3);
    }

    #[test]
    fn the_list_is_sorted_and_has_plain_files_only() {
        let (_dir, disk) = disk();
        disk.create_dir("q/deep").unwrap();
        disk.create_dir("q/deep").unwrap();
        for name in ["q/b", "q/a", "q/c"] {
            disk.open(name, OpenMode::CreateNew).unwrap();
        }
        disk.rename("q/c", "q/0").unwrap();
        disk.remove("q/b").unwrap();
        assert_eq!(disk.list("q").unwrap(), ["0", "a"]);
        assert!(disk.list("").unwrap().is_empty());
        assert_eq!(disk.list("none").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_second_lock_would_block_until_the_first_is_dropped() {
        let (_dir, disk) = disk();
        let held = disk.lock("lock").unwrap();
        assert_eq!(disk.lock("lock").err().unwrap().kind(), ErrorKind::WouldBlock);
        drop(held);
        disk.lock("lock").unwrap();
    }

    #[test]
    fn free_space_is_at_most_the_size() {
        let (_dir, disk) = disk();
        let (free, size) = disk.space().unwrap();
        assert!(free <= size && size > 0);
    }

    #[test]
    fn an_error_names_the_path_and_keeps_its_kind() {
        let (dir, disk) = disk();
        let error = disk.open("missing", OpenMode::Read).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&dir.path().join("missing").display().to_string()), "{error}");
    }

    #[test]
    fn the_environment_makes_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let env = crate::real::env(&root).unwrap();
        assert!(root.is_dir());
        assert_ne!(env.rng.next_u128(), env.rng.next_u128());
        assert!(env.clock.monotonic() <= env.clock.monotonic());
    }
}
