//! Memory maps of segments: the only unsafe code of the project.
//!
//! The contract that makes it sound: a mapped file is never made shorter and never given other content below the published tail while a slice of its map lives
//! (a segment is recycled only when [`bytes::Bytes::is_unique`] says that nobody holds it; else its file is unlinked, which leaves maps intact), and readers
//! look only below the published tail (`Watermarks::appended`, stored with release by the writer after its write returned, loaded with acquire by readers).

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions, UncheckedAdvice};
use std::{fs::File, io, sync::Arc};

/// A whole file, mapped for reading.
pub(crate) struct Map {
    map: Arc<Mmap>,
    /// The same bytes; slices of it keep the map alive.
    pub(crate) bytes: Bytes,
}

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
        let map = Arc::new(unsafe { MmapOptions::new().map(file)? });
        Ok(Self { bytes: Bytes::from_owner(Owner(map.clone())), map })
    }

    /// Gives the mapped pages back: they stay in the page cache, but no longer count as this process's memory. The next read maps them again.
    #[allow(unsafe_code)]
    pub(crate) fn release_pages(&self) {
        // SAFETY: the map is shared and read-only, so dropping its pages loses nothing: the file's bytes are faulted in again on the next access.
        if let Err(e) = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) } {
            tracing::debug!(error = %e, "mapped pages could not be given back");
        }
    }
}
