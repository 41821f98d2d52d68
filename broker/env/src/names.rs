//! Changing names of files so that it lasts.
//!
//! After a failed sync of a directory the system may take for written what it has dropped, as with a file's bytes: names that were changed before it need not outlive a
//! power cut, although later syncs of the directory succeed. So who has changed a name must be the one who is told that its sync has failed; and what an earlier process
//! has left cannot be relied on before it is named anew.

use crate::{Disk, OpenMode, sync::Mutex};
use std::io;

/// What the users of one [`Disk`] share about the names on it.
#[derive(Default)]
pub struct Names {
    /// Whether every name that is there is known to last.
    settled: Mutex<bool>,
}

/// By which name a file of the store directory is written before it replaces the one of that name.
#[must_use]
pub fn new_name(name: &str) -> String {
    format!("{name}.new")
}

impl dyn Disk + '_ {
    /// Replaces a file of the store directory, so that it lasts: whole or not at all, through another name.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = new_name(name);
        let file = self.open(&new, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.change_names("", || self.rename(&new, name))
    }

    /// Changes names in one directory and puts them on stable storage. No other sync of a directory, which might fail and take these names with it, comes in between.
    /// After an error the names may be the old ones or the new ones, and what they are now need not last: change them again, or give up what rests on them.
    #[allow(clippy::disallowed_methods, reason = "here it is meant")]
    pub fn change_names(&self, dir: &str, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut settled = self.names().settled.lock();
        let changed = change().and_then(|()| self.sync_dir(dir));
        *settled &= changed.is_ok();
        changed
    }

    /// Has names given anew (to the same files or to copies, by a change each), if one of them may be a name that does not last: in a process that has just
    /// begun, and after a change that has failed.
    pub fn settle_names(&self, anew: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if *self.names().settled.lock() {
            return Ok(());
        }
        *self.names().settled.lock() = true;
        anew().inspect_err(|_| *self.names().settled.lock() = false)
    }
}
