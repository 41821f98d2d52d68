//! Faults that a test plants in the simulated disk.

use std::io;

use rustix::io::Errno;

/// A call to the disk that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `File::read_exact_at`.
    Read,
    /// `File::write_all_at`.
    Write,
    /// `File::sync_data`.
    Sync,
    /// `File::set_len`.
    SetLen,
    /// `File::allocate`.
    Allocate,
    /// `Disk::open` and `Disk::lock`.
    Open,
    /// `Disk::rename`.
    Rename,
    /// `Disk::remove`.
    Remove,
    /// `Disk::create_dir`.
    CreateDir,
    /// `Disk::sync_dir`.
    SyncDir,
}

impl Op {
    /// All of them, for a sweep.
    pub const ALL: [Self; 10] =
        [Self::Read, Self::Write, Self::Sync, Self::SetLen, Self::Allocate, Self::Open, Self::Rename, Self::Remove, Self::CreateDir, Self::SyncDir];
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// With an input/output error. A sync that fails so loses its right to be tried again: see [`SimDisk`](super::SimDisk).
    Eio,
    /// With `StorageFull`.
    Enospc,
    /// Only for [`Op::Write`]: so many bytes are written, then the call fails with `WriteZero`.
    ShortWrite(usize),
    /// Only for [`Op::Sync`] and [`Op::SyncDir`]: the call says that it worked and nothing reaches stable storage.
    LyingSync,
}

/// A fault to plant, with [`SimDisk::inject`](super::SimDisk::inject).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which calls.
    pub op: Op,
    /// Only calls on a file or directory whose name contains this; for a rename either name.
    pub name_contains: Option<String>,
    /// How many matching calls pass first: 0 strikes the next one.
    pub after: u64,
    /// How many calls it then strikes; `None` is all.
    pub times: Option<u64>,
    /// What happens.
    pub kind: FaultKind,
}

impl Fault {
    /// Strikes the next call of that kind, once, whatever the file.
    #[must_use]
    pub fn once(op: Op, kind: FaultKind) -> Self {
        Self { op, name_contains: None, after: 0, times: Some(1), kind }
    }

    /// The same fault only for names that contain `part`.
    #[must_use]
    pub fn on(mut self, part: &str) -> Self {
        self.name_contains = Some(part.to_owned());
        self
    }

    /// The same fault after `calls` matching calls have passed.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// The same fault for every call from then on.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.times = None;
        self
    }

    /// Whether that kind can happen to that call.
    fn makes_sense(&self) -> bool {
        match self.kind {
            FaultKind::Eio | FaultKind::Enospc => true,
            FaultKind::ShortWrite(_) => self.op == Op::Write,
            FaultKind::LyingSync => matches!(self.op, Op::Sync | Op::SyncDir),
        }
    }
}

/// Planted faults and counted calls.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    planted: Vec<Fault>,
    calls: [u64; Op::ALL.len()],
    struck: u64,
}

impl Faults {
    pub(crate) fn plant(&mut self, fault: Fault) {
        assert!(fault.makes_sense(), "a {:?} cannot fail with {:?}: plant it on the call that the kind is for", fault.op, fault.kind);
        self.planted.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.planted.clear();
    }

    pub(crate) fn calls(&self, op: Op) -> u64 {
        self.calls[op as usize]
    }

    pub(crate) fn struck(&self) -> u64 {
        self.struck
    }

    /// Counts a call and tells what befalls it. Every fault that matches counts it as passed; the one planted first strikes.
    pub(crate) fn call(&mut self, op: Op, names: &[&str]) -> Option<FaultKind> {
        self.calls[op as usize] += 1;
        let mut verdict = None;
        for fault in &mut self.planted {
            let named = fault.name_contains.as_deref().is_none_or(|part| names.iter().any(|name| name.contains(part)));
            if fault.op != op || !named || fault.times == Some(0) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if verdict.is_none() {
                fault.times = fault.times.map(|times| times - 1);
                verdict = Some(fault.kind);
            }
        }
        self.struck += u64::from(verdict.is_some());
        verdict
    }

    /// Like [`Faults::call`] for calls that either fail or do not.
    pub(crate) fn pass(&mut self, op: Op, names: &[&str]) -> io::Result<()> {
        match self.call(op, names) {
            None => Ok(()),
            Some(kind) => Err(failure(kind, op, names.first().copied().unwrap_or_default())),
        }
    }
}

/// The error of a planted fault.
pub(crate) fn failure(kind: FaultKind, op: Op, name: &str) -> io::Error {
    let text = format!("planted fault: {op:?} of {name:?} fails with {kind:?}");
    match kind {
        FaultKind::Eio | FaultKind::LyingSync => error(Errno::IO, text),
        FaultKind::Enospc => error(Errno::NOSPC, text),
        FaultKind::ShortWrite(_) => io::Error::new(io::ErrorKind::WriteZero, text),
    }
}

/// An error of the kind that the operating system's number has, so that callers see the same kinds as on a real disk.
pub(crate) fn error(errno: Errno, text: String) -> io::Error {
    io::Error::new(io::Error::from(errno).kind(), text)
}
