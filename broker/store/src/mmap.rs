//! Memory maps of segments: the only unsafe code of the project.
//!
//! The contract that makes it sound: a mapped file is never made shorter and never given other content below the published tail while a slice of its map lives
//! (a segment is recycled only when [`bytes::Bytes::is_unique`] says that nobody holds it; else its file is unlinked, which leaves maps intact), and readers
//! look only below the published tail (`Watermarks::appended`, stored with release by the writer after its write returned, loaded with acquire by readers).

use bytes::Bytes;
use std::{fs::File, io};

/// Maps a whole file for reading. Slices of the result keep the map alive.
#[allow(unsafe_code)]
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the file belongs to this store, which holds the directory's lock; by the contract above, mapped bytes below the tail do not change.
    let map = unsafe { memmap2::MmapOptions::new().map(file)? };
    Ok(Bytes::from_owner(map))
}
