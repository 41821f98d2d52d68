//! Files. Names are relative to one root, the store directory; a name with `..` or a leading `/` is refused by every implementation.
//!
//! Errors are `std::io::Error`, so that a caller can tell `StorageFull` from `NotFound` the same way on a real and a simulated disk.

use crate::Names;
use std::{io, sync::Arc};

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reading only.
    Read,
    /// Must exist; reading and writing.
    Write,
    /// Created when missing, kept as it is when not; reading and writing.
    Create,
    /// Must not exist.
    CreateNew,
}

/// An open file. Writes are positioned; nothing has a cursor. Methods take `&self`: a file is shared between the writer, the flusher and readers.
pub trait File: Send + Sync {
    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. On an error any part of it, none included, may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Puts the file's bytes, and the length needed to read them, on stable storage. After an error nothing may be assumed of any write since the last success.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves disk space for the first `len` bytes and makes the file at least that long, so that later writes there cannot fail for want of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// The operating system's file, for a memory map; `None` in a simulation.
    fn os_file(&self) -> Option<&std::fs::File>;
}

/// A directory tree for one store.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Names of the plain files directly in `dir` (relative, `""` for the root), sorted. A missing directory is `NotFound`.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a directory and its parents; it is no error when it is there. Durable when it returns: directories are made too rarely to be worth a step more.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Renames a file over another, atomically. It lasts only in [`change_names`](trait.Disk.html#method.change_names).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. It lasts only in [`change_names`](trait.Disk.html#method.change_names).
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Puts creations, renames and removals in `dir` on stable storage: what [`change_names`](trait.Disk.html#method.change_names) ends with. After an error nothing may
    /// be assumed of any of them since the last success, whoever made it.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// What all users of this disk share about its names.
    fn names(&self) -> &Names;
    /// Bytes a non-privileged process may still write on this file system, and its size.
    fn space(&self) -> io::Result<(u64, u64)>;
    /// Takes the exclusive lock on the store, held until the returned guard is dropped or the process ends. `WouldBlock` when another process holds it.
    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>>;
    /// Where the root lies, for messages to people.
    fn describe(&self) -> String;
}

/// Refuses a file name that could leave the root or that has two spellings.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let sound = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if name.split('/').all(sound) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?} is no file name below the store directory: give a relative path without `.`, `..` and NUL"),
    ))
}

/// The same for a directory, where `""` is the root.
pub(crate) fn check_dir(dir: &str) -> io::Result<()> {
    if dir.is_empty() { Ok(()) } else { check_name(dir) }
}
