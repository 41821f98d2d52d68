//! Segments: the fixed-size files that the commit log consists of, named by their first byte's commit log offset (20 digits, as upstream names them).

use crate::{ReadError, mmap::Map};
use bytes::Bytes;
use sluice_env::{Disk, File, OpenMode};
use sluice_types::CommitLogOffset;
use std::{io, sync::Arc};

/// Directory of the segments.
pub(crate) const DIRECTORY: &str = "commitlog";
/// A segment made ready for the next roll.
pub(crate) const PREPARED: &str = "commitlog/next";
/// A segment being made ready. It gets the name above when it is whole: the writer, which takes whatever has that name, must never meet a file that is still
/// being zeroed.
pub(crate) const PREPARING: &str = "commitlog/next.new";
/// A segment being made by the writer itself, because none was ready.
const MAKING: &str = "commitlog/now.new";
/// How much is zeroed at a time.
const ZEROS_BYTES: usize = 1 << 20;
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];

/// A segment's file name.
pub(crate) fn name(base: u64) -> String {
    format!("{DIRECTORY}/{base:020}")
}

/// The readable side of a segment.
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    data: Data,
}

enum Data {
    Mapped(Map),
    /// A simulated disk has no maps: each read copies.
    File(Arc<dyn File>),
}

impl Segment {
    pub(crate) fn new(base: u64, bytes: u64, file: Arc<dyn File>) -> io::Result<Self> {
        let data = match file.os_file() {
            Some(os) => Data::Mapped(Map::new(os)?),
            None => Data::File(file),
        };
        Ok(Self { base, bytes, data })
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes
    }

    /// Whether the record that begins at a commit log offset lies here.
    pub(crate) fn holds(&self, offset: u64) -> bool {
        (self.base..self.end()).contains(&offset)
    }

    /// Where in the file the bytes begin. Out of the segment is `NotFound`.
    fn position(&self, offset: u64, len: usize) -> Result<usize, ReadError> {
        let inside = offset >= self.base && offset.checked_add(len as u64).is_some_and(|end| end <= self.end());
        if inside { Ok((offset - self.base) as usize) } else { Err(ReadError::NotFound(CommitLogOffset(offset))) }
    }

    /// The bytes at a commit log offset. Out of the segment is `NotFound`.
    pub(crate) fn slice(&self, offset: u64, len: usize) -> Result<Bytes, ReadError> {
        let from = self.position(offset, len)?;
        match &self.data {
            Data::Mapped(map) => Ok(map.slice(from..from + len)),
            Data::File(file) => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, from as u64).map_err(|e| ReadError::Disk(CommitLogOffset(offset), e.to_string()))?;
                Ok(bytes.into())
            }
        }
    }

    /// The same bytes where they are mapped, borrowed; `None` where each read copies, so that there is nothing to borrow.
    pub(crate) fn mapped(&self, offset: u64, len: usize) -> Result<Option<&[u8]>, ReadError> {
        let from = self.position(offset, len)?;
        match &self.data {
            Data::Mapped(map) => Ok(Some(&map.bytes()[from..from + len])),
            Data::File(_) => Ok(None),
        }
    }

    /// Stops counting the pages that readers have touched as this process's memory.
    pub(crate) fn release_pages(&self) {
        if let Data::Mapped(map) = &self.data {
            map.release_pages();
        }
    }

    /// Gives the segment up; whether no reader looks into it or holds a slice of it, so that its file may get other content.
    pub(crate) fn into_unread(self: Arc<Self>) -> bool {
        match Arc::into_inner(self).map(|segment| segment.data) {
            Some(Data::Mapped(map)) => map.into_unread(),
            Some(Data::File(_)) => true,
            None => false,
        }
    }
}

/// Whether a segment is ready for the next roll.
pub(crate) fn is_prepared(disk: &dyn Disk, bytes: u64) -> bool {
    disk.open(PREPARED, OpenMode::Read).and_then(|file| file.len()).is_ok_and(|len| len == bytes)
}

/// Makes a file of that size whose space is reserved, so that writing it can't fail for want of space.
pub(crate) fn reserve(disk: &dyn Disk, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = disk.open(name, OpenMode::Create)?;
    match file.set_len(0).and_then(|()| file.allocate(bytes)) {
        Ok(()) => Ok(file),
        Err(error) => give_up(disk, name, error),
    }
}

/// Leaves no half-made file in a full disk's way.
pub(crate) fn give_up<T>(disk: &dyn Disk, name: &str, error: io::Error) -> io::Result<T> {
    let _ = disk.remove(name);
    Err(error)
}

/// Makes a segment's file at once, of which the first `prewritten` bytes are written.
fn make(disk: &dyn Disk, bytes: u64, prewritten: u64) -> io::Result<()> {
    let file = reserve(disk, MAKING, bytes)?;
    zero(&*file, 0, prewritten).and_then(|()| file.sync_data()).or_else(|error| give_up(disk, MAKING, error))
}

/// Writes zeros from `from` to `to`.
pub(crate) fn zero(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let n = (to - at).min(ZEROS_BYTES as u64);
        file.write_all_at(&ZEROS[..n as usize], at)?;
        at += n;
    }
    Ok(())
}

/// Removes a segment's file that holds, or may hold, what shall never be read again. Emptied first: should its name come back after a power cut, because the sync of the
/// directory has failed, there is nothing in it, and recovery takes it for what it is.
pub(crate) fn discard(disk: &dyn Disk, file_name: &str) -> io::Result<()> {
    let file = disk.open(file_name, OpenMode::Write)?;
    file.set_len(0)?;
    file.sync_data()?;
    disk.remove(file_name)
}

/// Makes an old segment's file the prepared one: its blocks are allocated and written already. What it holds can't be taken for live records, because each
/// record carries its commit log offset under its checksum.
pub(crate) fn recycle(disk: &dyn Disk, base: u64) -> io::Result<()> {
    disk.rename(&name(base), PREPARED)
}

/// Opens the file for a new segment at `base`: the prepared one when there is one, else a fresh one of which `prewritten` bytes are written.
pub(crate) fn create(disk: &dyn Disk, base: u64, bytes: u64, prewritten: u64) -> io::Result<Arc<dyn File>> {
    let ready = is_prepared(disk, bytes);
    if !ready {
        make(disk, bytes, prewritten)?;
    }
    disk.change_names(DIRECTORY, || disk.rename(if ready { PREPARED } else { MAKING }, &name(base)))?;
    disk.open(&name(base), OpenMode::Write)
}

/// The bases of the segments on disk, ascending.
pub(crate) fn list(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut bases: Vec<u64> = disk.list(DIRECTORY)?.iter().filter(|n| n.len() == 20).filter_map(|n| n.parse().ok()).collect();
    bases.sort_unstable();
    Ok(bases)
}
