//! The simulated disk and its open files.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{
    content::{SECTOR, sectors_for},
    fault::{Fault, FaultKind, Op, error, failure},
    state::State,
};
use crate::{
    Disk, File, Names, OpenMode,
    disk::{check_dir, check_name},
};

/// A disk in memory that keeps apart what is on stable storage and what only the system's cache holds. Clones share one disk.
///
/// Stable are: bytes and length of a file after `sync_data`, names after `sync_dir`, directories at once. [`crash`](Self::crash) keeps those and, by a seed,
/// some of the rest: each write is there, missing, or torn where sectors of 512 bytes meet, independently of the others, so that a later write can be
/// there without an earlier one; names and lengths are there or not.
///
/// A sync that fails behaves as on Linux: the system takes the bytes for clean afterwards. Readers still see them, a later sync succeeds without writing
/// them, and only what is written anew becomes stable.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    names: Arc<Names>,
}

impl SimDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::over(State::new())
    }

    fn over(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), names: Arc::default() }
    }

    /// A new disk as a power cut at this moment would leave it. This one stays as it is: one moment can be cut with many seeds.
    ///
    /// The new disk has no locks, no faults and counts from zero; its limit is the same.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        Self::over(self.state.lock().after_crash(seed))
    }

    /// A new disk as a killed process would leave it: every byte written is there to read, and what was not synced can still be lost in a later crash.
    #[must_use]
    pub fn kill(&self) -> Self {
        Self::over(self.state.lock().after_kill())
    }

    /// Plants a fault.
    ///
    /// # Panics
    /// When the kind cannot happen to the call, as in a lying read.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.plant(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Calls of that kind so far, failed ones included: the number of points at which a sweep can strike.
    #[must_use]
    pub fn calls(&self, op: Op) -> u64 {
        self.state.lock().faults.calls(op)
    }

    /// Calls that a planted fault struck, so that a test can tell that its fault happened at all.
    #[must_use]
    pub fn faults_struck(&self) -> u64 {
        self.state.lock().faults.struck()
    }

    /// Sets the size in bytes, counted in whole sectors; `None` is no limit. Files keep what they hold also when it is more.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Rot on the medium: turns over the bits of `mask` in one byte. Does nothing beyond the end of the file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn flip_byte(&self, name: &str, offset: u64, mask: u8) {
        let mut state = self.state.lock();
        let inode = state.find(name).unwrap_or_else(|error| panic!("cannot flip a byte: {error}"));
        state.inode_mut(inode).flip(offset, mask);
    }

    /// All bytes of a file as a reader sees them; `None` when there is no such file.
    #[must_use]
    pub fn file_bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.find(name).ok().map(|inode| state.inode(inode).live().to_vec())
    }

    /// Names of all files with their directories, sorted.
    #[must_use]
    pub fn file_names(&self) -> Vec<String> {
        self.state.lock().names().cloned().collect()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("files", &self.file_names()).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        check_name(name)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::Open, &[name])?;
        let inode = match (state.find(name), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(error(Errno::EXIST, format!("the simulated file {name:?} is there already"))),
            (Ok(inode), _) => inode,
            (Err(missing), OpenMode::Create | OpenMode::CreateNew) if missing.kind() == ErrorKind::NotFound => state.create(name)?,
            (Err(error), _) => return Err(error),
        };
        state.inode_mut(inode).handles += 1;
        drop(state);
        Ok(Arc::new(SimFile { state: self.state.clone(), name: name.to_owned(), inode, writable: mode != OpenMode::Read }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        check_dir(dir)?;
        self.state.lock().list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::CreateDir, &[dir])?;
        state.create_dir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::Rename, &[from, to])?;
        state.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::Remove, &[name])?;
        state.remove(name)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        let mut state = self.state.lock();
        state.check_dir_exists(dir)?;
        match state.faults.call(Op::SyncDir, &[dir]) {
            None => state.sync_dir(dir),
            Some(FaultKind::LyingSync) => {}
            Some(kind) => {
                state.fail_sync_dir(dir);
                return Err(failure(kind, Op::SyncDir, dir));
            }
        }
        Ok(())
    }

    fn names(&self) -> &Names {
        &self.names
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let state = self.state.lock();
        Ok((state.room() * SECTOR as u64, state.total() * SECTOR as u64))
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        check_name(name)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::Open, &[name])?;
        match state.find(name) {
            Ok(_) => {}
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                state.create(name)?;
            }
            Err(error) => return Err(error),
        }
        if !state.locks.insert(name.to_owned()) {
            return Err(io::Error::new(ErrorKind::WouldBlock, format!("simulated {name:?} is locked: another process uses this store; stop it first")));
        }
        drop(state);
        Ok(Box::new(Lock { state: self.state.clone(), name: name.to_owned() }))
    }

    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }
}

/// Holds a lock until dropped.
struct Lock {
    state: Arc<Mutex<State>>,
    name: String,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.state.lock().locks.remove(&self.name);
    }
}

/// An open file of a simulated disk. Faults know it by the name it was opened by.
struct SimFile {
    state: Arc<Mutex<State>>,
    name: String,
    inode: u64,
    writable: bool,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(error(Errno::BADF, format!("simulated {:?} was opened for reading only", self.name))) }
    }

    /// Refuses an end that no file can have.
    fn check_end(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).and_then(|end| i64::try_from(end).ok());
        end.map(drop).ok_or_else(|| error(Errno::INVAL, format!("{len} bytes at {offset} of simulated {:?} lie beyond any file", self.name)))
    }

    fn full(&self, what: &str) -> io::Error {
        error(Errno::NOSPC, format!("no space on the simulated disk to {what} {:?}", self.name))
    }
}

impl File for SimFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.faults.pass(Op::Read, &[&self.name])?;
        if state.inode(self.inode).live().read(buf, offset) {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, format!("simulated {:?} ends before {} bytes at {offset}", self.name, buf.len())))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.check_end(offset, bytes.len() as u64)?;
        let mut state = self.state.lock();
        let (allowed, fault) = match state.faults.call(Op::Write, &[&self.name]) {
            None => (bytes.len(), None),
            Some(kind @ FaultKind::ShortWrite(allowed)) => (allowed.min(bytes.len()), Some(kind)),
            Some(kind) => (0, Some(kind)),
        };
        // A file without a name holds no space that anybody asks for.
        let room = if state.inode(self.inode).linked { state.room() } else { u64::MAX };
        let (taken, fits) = state.inode(self.inode).fit(offset, allowed, room);
        let change = state.change();
        state.inode_mut(self.inode).write(change, &bytes[..fits], offset);
        if state.inode(self.inode).linked {
            state.take(taken);
        }
        match fault {
            Some(kind) => Err(failure(kind, Op::Write, &self.name)),
            None if fits < bytes.len() => Err(self.full("write")),
            None => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.faults.call(Op::Sync, &[&self.name]) {
            None => state.inode_mut(self.inode).sync(),
            Some(FaultKind::LyingSync) => {}
            Some(kind) => {
                state.inode_mut(self.inode).fail_sync();
                return Err(failure(kind, Op::Sync, &self.name));
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().inode(self.inode).live().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.check_end(0, len)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::SetLen, &[&self.name])?;
        let change = state.change();
        let before = state.inode(self.inode).usage();
        state.inode_mut(self.inode).set_len(change, len);
        state.charge(self.inode, before);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.check_end(0, len)?;
        let mut state = self.state.lock();
        state.faults.pass(Op::Allocate, &[&self.name])?;
        let file = state.inode(self.inode);
        let before = file.usage();
        let after = before.max(sectors_for(len) + file.live().held(sectors_for(len)..));
        if file.linked && after - before > state.room() {
            return Err(self.full("reserve bytes for"));
        }
        let change = state.change();
        state.inode_mut(self.inode).allocate(change, len);
        state.charge(self.inode, before);
        Ok(())
    }

    fn os_file(&self) -> Option<&fs::File> {
        None
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.state.lock().inode_mut(self.inode).handles -= 1;
    }
}
