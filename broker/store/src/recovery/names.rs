//! The names in the store directory, made to last. In the directories of segments and indexes it is not needed: a segment is written to only when its own name lasts, one
//! that comes back has nothing in it, and without an index's file the index is built anew.

use super::{IDENTITY, OpenError, disk_error, order};
use crate::{checkpoint, unconfirmed};
use sluice_env::{Disk, OpenMode};
use std::{io, sync::Arc};

/// Removes a file also when it is not there: it may have been removed by a change that does not last. A process that ends here may leave an empty one.
pub(crate) fn remove_anew(disk: &Arc<dyn Disk>, name: &str) -> io::Result<()> {
    disk.open(name, OpenMode::Create)?;
    disk.remove(name)
}

/// Makes every name in the store directory last that something is going to rest on, before it does.
pub(crate) fn settle_names(disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
    let settled = disk.settle_names(|| {
        let removed = [unconfirmed::FILE, order::CUT.file, order::RESYNC.file];
        let there = disk.list("")?;
        let is_there = |name: &&str| there.binary_search_by(|found| found.as_str().cmp(name)).is_ok();
        for name in [IDENTITY].into_iter().chain(checkpoint::KEPT).chain(removed).filter(is_there) {
            // Who needs a file that can't be read says so.
            if let Ok(Some(bytes)) = read(&**disk, name) {
                disk.replace(name, &bytes)?;
            }
        }
        disk.change_names("", || removed.iter().filter(|name| !is_there(name)).try_for_each(|name| remove_anew(disk, name)))
    });
    settled.map_err(disk_error("making sure of the names in the store directory"))
}

/// All bytes of a file; `None` when there is none.
pub(crate) fn read(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}
