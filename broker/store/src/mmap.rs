//! Memory maps of segments: the only unsafe code of the project.
//!
//! The contract that makes it sound: a mapped file is never made shorter and never given other content below the published tail while a slice of its map lives
//! (a segment is recycled only when [`Map::into_unread`] says that nobody holds one; else its file is unlinked, which leaves maps intact), and readers look only
//! below the published tail (`Watermarks::appended`, stored with release by the writer after its write returned, loaded with acquire by readers).

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions, UncheckedAdvice};
use std::{fs::File, io, ops::Range, sync::Arc};

/// A whole file, mapped for reading.
pub(crate) struct Map(Arc<Mmap>);

/// What keeps the map while a slice of it lives.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Map {
    /// Maps a whole file.
    #[allow(unsafe_code)]
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the file belongs to this store, which holds the directory's lock; by the contract above, mapped bytes below the tail do not change.
        Ok(Self(Arc::new(unsafe { MmapOptions::new().map(file)? })))
    }

    /// All of it, borrowed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A part of it that keeps the map for as long as it lives.
    ///
    /// Each has an owner of its own: `Bytes` made from an owner can't tell whether it is the only one, but the map's count can.
    pub(crate) fn slice(&self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(Owner(self.0.clone())).slice(range)
    }

    /// Ends this map; whether no slice of it lives on.
    pub(crate) fn into_unread(self) -> bool {
        Arc::into_inner(self.0).is_some()
    }

    /// Gives the mapped pages back: they stay in the page cache, but no longer count as this process's memory. The next read maps them again.
    #[allow(unsafe_code)]
    pub(crate) fn release_pages(&self) {
        // SAFETY: the map is shared and read-only, so dropping its pages loses nothing: the file's bytes are faulted in again on the next access.
        if let Err(e) = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) } {
            tracing::debug!(error = %e, "mapped pages could not be given back");
        }
    }
}
