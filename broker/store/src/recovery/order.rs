//! Orders: a number in a file of its own. Written before the store is given up, carried out when its directory is opened next, and withdrawn when that is durable.

use super::{OpenError, disk_error, read};
use crate::flush_mark;
use sluice_env::Disk;
use std::{io, sync::Arc};

/// What may be ordered.
pub(crate) struct Order {
    pub(super) file: &'static str,
    what: &'static str,
}

/// To end the log there, earlier than it does.
pub(crate) const CUT: Order = Order { file: "cut", what: "the order to cut the log" };
/// To empty the directory for a log with segments of so many bytes.
pub(crate) const RESYNC: Order = Order { file: "resync", what: "the order to empty the store" };

impl Order {
    /// Gives it, durably.
    pub(crate) fn give(&self, disk: &Arc<dyn Disk>, number: u64) -> io::Result<()> {
        disk.replace(self.file, &flush_mark::encode(number))
    }

    /// Its number, if it was given.
    pub(crate) fn given(&self, disk: &Arc<dyn Disk>) -> Result<Option<u64>, OpenError> {
        let Self { file: name, what } = self;
        // An empty one: the end of a process between the two steps of `remove_anew`.
        let bytes = read(&**disk, name).map_err(disk_error(&format!("reading {what}")))?.filter(|bytes| !bytes.is_empty());
        let Some(bytes) = bytes else { return Ok(None) };
        let bytes = *bytes.first_chunk().ok_or_else(|| OpenError::Damaged(format!("the file {name} is too short")))?;
        let number = flush_mark::decode(bytes).ok_or_else(|| OpenError::Damaged(format!("the file {name} does not match its checksum")))?;
        Ok(Some(number))
    }

    /// It has been carried out: from now on the store may become what it was ordered not to be.
    pub(crate) fn withdraw(&self, disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
        disk.change_names("", || disk.remove(self.file)).map_err(disk_error(&format!("withdrawing {}", self.what)))
    }
}
