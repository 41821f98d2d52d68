//! Emptying the directory, for a log that another broker has written.

use super::{IDENTITY, OpenError, disk_error, new_identity, order, remove_anew, settle_names};
use crate::{checkpoint, flush_mark, key_index, queue_index, segment, unconfirmed};
use sluice_env::{Disk, Env, new_name};
use std::{io, sync::Arc};

/// Removes, durably, everything of the store but its lock and the order to do this, and makes the directory another store's. It may be interrupted, and begun again, as
/// often as one likes.
pub(crate) fn empty(env: &Env, segment_bytes: u64) -> Result<(), OpenError> {
    settle_names(&env.disk)?;
    remove_all(&env.disk).map_err(disk_error("emptying the store directory"))?;
    // It syncs the store directory, and with it what was removed there.
    new_identity(env, segment_bytes).map(drop)
}

fn remove_all(disk: &Arc<dyn Disk>) -> io::Result<()> {
    for directory in [segment::DIRECTORY, queue_index::DIR, key_index::DIR] {
        disk.create_dir(directory)?;
        for file in disk.list(directory)? {
            segment::discard(&**disk, &format!("{directory}/{file}"))?;
        }
        disk.change_names(directory, || Ok(()))?;
    }
    let names = checkpoint::FILES.into_iter().chain([flush_mark::FILE, unconfirmed::FILE, order::CUT.file]).map(str::to_owned);
    // What an interruption may have left of files that are written through another name.
    let unfinished = [IDENTITY, unconfirmed::FILE, order::CUT.file, order::RESYNC.file].map(new_name);
    for name in names.chain(unfinished) {
        remove_anew(disk, &name)?;
    }
    Ok(())
}
