//! The simulated file system: names, directories, and the names that are durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rustix::io::Errno;

use super::{
    content::SECTOR,
    fault::{Faults, error},
    inode::Inode,
    outcome::Outcome,
};

/// A change to names that is not, or not surely, on stable storage.
#[derive(Clone, Debug)]
struct Entry {
    change: u64,
    /// A `sync_dir` failed after it: it will not be written again.
    doubtful: bool,
    kind: EntryKind,
}

#[derive(Clone, Debug)]
enum EntryKind {
    Link { name: String, inode: u64 },
    Rename { from: String, to: String, inode: u64 },
    Unlink { name: String },
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = &str> {
        let (one, two) = match &self.kind {
            EntryKind::Link { name, .. } | EntryKind::Unlink { name } => (name, None),
            EntryKind::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(one.as_str()).chain(two.map(String::as_str))
    }

    /// A rename between directories is one transaction: syncing either directory makes it durable.
    fn is_in(&self, dir: &str) -> bool {
        self.names().any(|name| parent(name) == dir)
    }

    fn touches_names_of(&self, other: &Self) -> bool {
        self.names().any(|name| other.names().any(|other| other == name))
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match &self.kind {
            EntryKind::Link { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            EntryKind::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            EntryKind::Unlink { name } => {
                names.remove(name);
            }
        }
    }
}

/// Everything that the clones of one disk and its open files share.
#[derive(Debug)]
pub(crate) struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    next_change: u64,
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<Entry>,
    dirs: BTreeSet<String>,
    pub(crate) locks: BTreeSet<String>,
    pub(crate) capacity: Option<u64>,
    /// Sectors held by files that have a name.
    used: u64,
    pub(crate) faults: Faults,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            inodes: BTreeMap::new(),
            next_inode: 0,
            next_change: 0,
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            dirs: BTreeSet::from([String::new()]),
            locks: BTreeSet::new(),
            capacity: None,
            used: 0,
            faults: Faults::default(),
        }
    }

    pub(crate) fn inode(&self, inode: u64) -> &Inode {
        self.inodes.get(&inode).expect("a file with a name or a handle is not collected")
    }

    pub(crate) fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("a file with a name or a handle is not collected")
    }

    pub(crate) fn change(&mut self) -> u64 {
        self.next_change += 1;
        self.next_change
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.live.keys()
    }

    /// The file of that name.
    pub(crate) fn find(&self, name: &str) -> io::Result<u64> {
        if self.dirs.contains(name) {
            return Err(error(Errno::ISDIR, format!("simulated {name:?} is a directory")));
        }
        self.live.get(name).copied().ok_or_else(|| error(Errno::NOENT, format!("no simulated file {name:?}")))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.live.contains_key(name)
    }

    pub(crate) fn check_dir_exists(&self, dir: &str) -> io::Result<()> {
        if self.dirs.contains(dir) {
            return Ok(());
        }
        let errno = if self.exists(dir) { Errno::NOTDIR } else { Errno::NOENT };
        Err(error(errno, format!("no simulated directory {dir:?}")))
    }

    pub(crate) fn create(&mut self, name: &str) -> io::Result<u64> {
        self.check_dir_exists(parent(name))?;
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::new());
        self.record(EntryKind::Link { name: name.to_owned(), inode });
        Ok(inode)
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.find(from)?;
        self.check_dir_exists(parent(to))?;
        if self.dirs.contains(to) {
            return Err(error(Errno::ISDIR, format!("cannot rename {from:?} over the simulated directory {to:?}")));
        }
        if from != to {
            if let Some(&replaced) = self.live.get(to) {
                self.unlink(replaced);
            }
            self.record(EntryKind::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) -> io::Result<()> {
        let inode = self.find(name)?;
        self.unlink(inode);
        self.record(EntryKind::Unlink { name: name.to_owned() });
        Ok(())
    }

    fn unlink(&mut self, inode: u64) {
        let file = self.inode_mut(inode);
        file.linked = false;
        let usage = file.usage();
        self.used = self.used.saturating_sub(usage);
    }

    fn record(&mut self, kind: EntryKind) {
        let entry = Entry { change: self.change(), doubtful: false, kind };
        entry.apply(&mut self.live);
        self.pending.push(entry);
    }

    /// Makes a directory and its parents, durably.
    pub(crate) fn create_dir(&mut self, dir: &str) -> io::Result<()> {
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for path in ends.map(|end| &dir[..end]) {
            if self.exists(path) {
                return Err(error(Errno::EXIST, format!("cannot make the simulated directory {dir:?}: {path:?} is a file")));
            }
            self.dirs.insert(path.to_owned());
        }
        Ok(())
    }

    /// Makes the changes in that directory durable.
    pub(crate) fn sync_dir(&mut self, dir: &str) {
        let mut rest: Vec<Entry> = Vec::new();
        for entry in std::mem::take(&mut self.pending) {
            if entry.doubtful || !entry.is_in(dir) {
                rest.push(entry);
                continue;
            }
            entry.apply(&mut self.durable);
            // An older change to the same name is overtaken and must not come back on top of this one.
            rest.retain(|older| !older.touches_names_of(&entry));
        }
        self.pending = rest;
        self.collect();
    }

    /// A failed `sync_dir`.
    pub(crate) fn fail_sync_dir(&mut self, dir: &str) {
        self.pending.iter_mut().filter(|entry| entry.is_in(dir)).for_each(|entry| entry.doubtful = true);
    }

    /// Names of the files directly in `dir`.
    pub(crate) fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.check_dir_exists(dir)?;
        let within = |name: &&String| parent(name) == dir;
        let start = if dir.is_empty() { 0 } else { dir.len() + 1 };
        Ok(self.live.keys().filter(within).map(|name| name[start..].to_owned()).collect())
    }

    /// Sectors that may still be taken; without a limit, more than any test takes.
    pub(crate) fn room(&self) -> u64 {
        self.total().saturating_sub(self.used)
    }

    pub(crate) fn total(&self) -> u64 {
        /// What a disk without a limit says its size is: 1 TiB.
        const UNLIMITED: u64 = 1 << 40;
        self.capacity.unwrap_or(UNLIMITED) / SECTOR as u64
    }

    /// Takes or gives back space for a file whose usage changed.
    pub(crate) fn charge(&mut self, inode: u64, before: u64) {
        let file = self.inode(inode);
        if file.linked {
            let after = file.usage();
            self.used = (self.used + after).saturating_sub(before);
        }
    }

    /// Takes space that is known to be free.
    pub(crate) fn take(&mut self, sectors: u64) {
        self.used += sectors;
    }

    /// Forgets files that no name and no handle leads to.
    fn collect(&mut self) {
        let mut reached: BTreeSet<u64> = self.live.values().chain(self.durable.values()).copied().collect();
        reached.extend(self.pending.iter().filter_map(|entry| match entry.kind {
            EntryKind::Link { inode, .. } | EntryKind::Rename { inode, .. } => Some(inode),
            EntryKind::Unlink { .. } => None,
        }));
        self.inodes.retain(|inode, file| file.handles > 0 || reached.contains(inode));
    }

    /// The file system after a power cut.
    pub(crate) fn after_crash(&self, seed: u64) -> Self {
        let oldest_entry = self.pending.first().map(|entry| entry.change);
        let oldest = self.inodes.values().filter_map(Inode::oldest_change).chain(oldest_entry).min();
        let next = self.next_change + 1;
        let outcome = Outcome::new(seed, oldest.unwrap_or(next), next);
        let mut names = self.durable.clone();
        self.pending.iter().filter(|entry| outcome.keeps(entry.change)).for_each(|entry| entry.apply(&mut names));
        let inodes = names.values().map(|&inode| (inode, self.inode(inode).after_crash(outcome))).collect();
        let mut state = Self { inodes, live: names.clone(), durable: names, ..self.rebooted() };
        state.used = state.inodes.values().map(Inode::usage).sum();
        state
    }

    /// The file system after the process was killed: what it wrote is in the system's cache, synced or not.
    pub(crate) fn after_kill(&self) -> Self {
        let mut state = Self {
            inodes: self.inodes.clone(),
            live: self.live.clone(),
            durable: self.durable.clone(),
            pending: self.pending.clone(),
            used: self.used,
            ..self.rebooted()
        };
        state.inodes.values_mut().for_each(|file| file.handles = 0);
        state.collect();
        state
    }

    /// What both ends have in common: no locks, no faults, the same size.
    fn rebooted(&self) -> Self {
        Self { next_inode: self.next_inode, next_change: self.next_change, dirs: self.dirs.clone(), capacity: self.capacity, ..Self::new() }
    }
}

/// The directory that a name lies in.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}
