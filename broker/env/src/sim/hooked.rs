//! A disk that tells a test what is about to happen.

use super::Op;
use crate::{Disk, File, Names, OpenMode};
use std::{io, sync::Arc};

/// Called before a call to the disk, with the file's name. It may wait, do something in between, or refuse.
pub type Hook = Arc<dyn Fn(Op, &str) -> io::Result<()> + Send + Sync>;

/// Any disk, with a hook before each call of an [`Op`]; for a rename with the new name. What a test wants to happen between two steps happens there, where a real race
/// would have to hit the moment.
pub struct HookedDisk {
    disk: Arc<dyn Disk>,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn File>,
    name: String,
    hook: Hook,
}

impl HookedDisk {
    /// The hook before calls to `disk`.
    pub fn new(disk: Arc<dyn Disk>, hook: impl Fn(Op, &str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { disk, hook: Arc::new(hook) }
    }
}

impl Disk for HookedDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        (self.hook)(Op::Open, name)?;
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(HookedFile { file, name: name.to_owned(), hook: self.hook.clone() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        (self.hook)(Op::CreateDir, dir)?;
        self.disk.create_dir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)(Op::Rename, to)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)(Op::Remove, name)?;
        self.disk.remove(name)
    }

    #[allow(clippy::disallowed_methods, reason = "hands the call on")]
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        (self.hook)(Op::SyncDir, dir)?;
        self.disk.sync_dir(dir)
    }

    fn names(&self) -> &Names {
        self.disk.names()
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        self.disk.space()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        (self.hook)(Op::Open, name)?;
        self.disk.lock(name)
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl File for HookedFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (self.hook)(Op::Read, &self.name)?;
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (self.hook)(Op::Write, &self.name)?;
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(Op::Sync, &self.name)?;
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (self.hook)(Op::SetLen, &self.name)?;
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        (self.hook)(Op::Allocate, &self.name)?;
        self.file.allocate(len)
    }

    fn os_file(&self) -> Option<&std::fs::File> {
        self.file.os_file()
    }
}
