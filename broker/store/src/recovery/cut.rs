//! The order to end the log earlier than it does: written before the store is given up, carried out when its directory is opened next, and withdrawn when that is durable.

use super::{OpenError, disk_error, write_new};
use crate::flush_mark;
use sluice_env::{Disk, OpenMode};
use sluice_types::CommitLogOffset;
use std::{io, sync::Arc};

const FILE: &str = "cut";

/// Orders it, durably.
pub(crate) fn order(disk: &Arc<dyn Disk>, to: CommitLogOffset) -> io::Result<()> {
    write_new(disk, FILE, &flush_mark::encode(to.0))
}

/// Where the log has to end, if that was ordered.
pub(super) fn ordered(disk: &Arc<dyn Disk>) -> Result<Option<u64>, OpenError> {
    let file = match disk.open(FILE, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(disk_error("reading the order to cut the log")(e)),
    };
    let mut bytes = [0; flush_mark::BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(|_| OpenError::Damaged("the file cut is too short".to_owned()))?;
    let offset = flush_mark::decode(bytes).ok_or_else(|| OpenError::Damaged("the file cut does not match its checksum".to_owned()))?;
    Ok(Some(offset))
}

/// It has been carried out: from now on the log may grow beyond it again.
pub(super) fn done(disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
    disk.remove(FILE).and_then(|()| disk.sync_dir("")).map_err(disk_error("withdrawing the order to cut the log"))
}
