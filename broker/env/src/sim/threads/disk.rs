//! A machine's disk as its threads see it: each call takes time, in which others run.

use super::{current, scheduler::Scheduler, wait::Waits};
use crate::{
    Disk, File, Names, OpenMode,
    sim::{
        Op,
        entropy::{hash, hash_bytes},
    },
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

/// What a machine's disk and its open files share.
struct Medium {
    over: Arc<AtomicBool>,
    scheduler: Arc<Scheduler>,
    pace: Arc<DiskPace>,
}

/// How slow a machine's disk is.
pub(super) struct DiskPace {
    stalled_until: Mutex<Duration>,
    times: AtomicU32,
}

impl Default for DiskPace {
    fn default() -> Self {
        Self { stalled_until: Mutex::default(), times: AtomicU32::new(1) }
    }
}

impl DiskPace {
    pub(super) fn stall_until(&self, until: Duration) {
        *self.stalled_until.lock() = until;
    }

    pub(super) fn slow(&self, times: u32) {
        self.times.store(times, Ordering::SeqCst);
    }
}

/// Any disk, for one life of a machine.
pub(super) struct ThreadedDisk {
    disk: Arc<dyn Disk>,
    medium: Arc<Medium>,
}

struct ThreadedFile {
    file: Arc<dyn File>,
    name: String,
    medium: Arc<Medium>,
}

impl ThreadedDisk {
    pub(super) fn new(disk: Arc<dyn Disk>, over: Arc<AtomicBool>, scheduler: Arc<Scheduler>, pace: Arc<DiskPace>) -> Self {
        Self { disk, medium: Arc::new(Medium { over, scheduler, pace }) }
    }
}

impl Medium {
    /// A dead machine's disk takes nothing more, whatever the destructors of its threads try.
    fn check(&self) -> io::Result<()> {
        if self.over.load(Ordering::SeqCst) || current().is_some_and(|me| me.is_unwinding()) {
            return Err(io::Error::other("the simulated machine was killed"));
        }
        Ok(())
    }

    /// Lets a call happen some time after it began and come back some time after it happened. Calls from outside of simulated threads take no time.
    fn call<T>(&self, op: Op, name: &str, what: u64, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.check()?;
        let Some(me) = current() else { return act() };
        loop {
            let stall = self.pace.stalled_until.lock().saturating_sub(self.scheduler.now());
            if stall.is_zero() {
                break;
            }
            me.block(Waits::disk(), Some(stall));
        }
        let (before, after) = me.disk_time(op, self.pace.times.load(Ordering::SeqCst));
        me.block(Waits::disk(), Some(before));
        self.check()?;
        let out = act();
        me.note_disk(op, hash(&[hash_bytes(name.as_bytes()), what, out.is_ok().into()]));
        me.block(Waits::disk(), Some(after));
        out
    }
}

impl Disk for ThreadedDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.medium.call(Op::Open, name, mode as u64, || self.disk.open(name, mode))?;
        Ok(Arc::new(ThreadedFile { file, name: name.to_owned(), medium: self.medium.clone() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.medium.check()?;
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.medium.call(Op::CreateDir, dir, 0, || self.disk.create_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.medium.call(Op::Rename, from, hash_bytes(to.as_bytes()), || self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.medium.call(Op::Remove, name, 0, || self.disk.remove(name))
    }

    #[allow(clippy::disallowed_methods, reason = "hands the call on")]
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.medium.call(Op::SyncDir, dir, 0, || self.disk.sync_dir(dir))
    }

    fn names(&self) -> &Names {
        self.disk.names()
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        self.medium.check()?;
        self.disk.space()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.medium.call(Op::Open, name, u64::MAX, || self.disk.lock(name))
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl File for ThreadedFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.medium.call(Op::Read, &self.name, hash(&[offset, buf.len() as u64]), || self.file.read_exact_at(buf, offset))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let what = hash(&[offset, bytes.len() as u64, hash_bytes(bytes)]);
        self.medium.call(Op::Write, &self.name, what, || self.file.write_all_at(bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.medium.call(Op::Sync, &self.name, 0, || self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.medium.check()?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.call(Op::SetLen, &self.name, len, || self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.medium.call(Op::Allocate, &self.name, len, || self.file.allocate(len))
    }

    fn os_file(&self) -> Option<&std::fs::File> {
        self.file.os_file()
    }
}
