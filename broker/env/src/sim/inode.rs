//! One simulated file: what is on stable storage, what a reader sees, and the changes between the two.

use smallvec::SmallVec;
use std::{collections::BTreeMap, sync::Arc};

use super::{
    content::{Content, SECTOR, Sector, pieces, sector, sectors_for},
    outcome::Outcome,
};

/// Versions of one sector that are remembered between two syncs. The oldest go first: that removes outcomes of a power cut and adds none.
const MAX_VERSIONS: usize = 32;
/// The same for lengths.
const MAX_SIZES: usize = 256;

/// A sector as it was after a change.
#[derive(Clone, Debug)]
struct Version {
    change: u64,
    /// A truncation reaches all of its sectors or none; a write may be torn.
    atomic: bool,
    sector: Option<Sector>,
}

/// A length, and the space reserved, after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    len: u64,
    reserved: u64,
}

/// Changes that are not, or not surely, on stable storage.
#[derive(Clone, Debug, Default)]
struct Unsynced {
    /// Mostly a sector has one.
    sectors: BTreeMap<u64, SmallVec<[Version; 1]>>,
    sizes: Vec<(u64, Size)>,
    /// The furthest end of a write.
    end: u64,
}

impl Unsynced {
    fn oldest(&self) -> Option<u64> {
        let sectors = self.sectors.values().filter_map(|versions| versions.first()).map(|version| version.change);
        sectors.chain(self.sizes.first().map(|&(change, _)| change)).min()
    }

    fn push_version(&mut self, index: u64, version: Version) {
        let versions = self.sectors.entry(index).or_default();
        if versions.len() == MAX_VERSIONS {
            versions.remove(0);
        }
        versions.push(version);
    }

    fn push_size(&mut self, change: u64, size: Size) {
        if self.sizes.len() == MAX_SIZES {
            self.sizes.remove(0);
        }
        self.sizes.push((change, size));
    }
}

/// A file, by whatever names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    live: Content,
    reserved: u64,
    synced: Content,
    synced_reserved: u64,
    /// What the next sync will write.
    dirty: Unsynced,
    /// What a failed sync left: the system takes it for clean and writes it no more, whether it reached the medium is unknown.
    doubtful: Unsynced,
    /// Open handles.
    pub(crate) handles: usize,
    /// Whether a name leads to it, for a reader.
    pub(crate) linked: bool,
}

impl Inode {
    /// An empty file that has a name.
    pub(crate) fn new() -> Self {
        Self { linked: true, ..Self::default() }
    }

    pub(crate) fn live(&self) -> &Content {
        &self.live
    }

    /// Sectors of the disk that the file holds: the reserved, and the written ones beyond.
    pub(crate) fn usage(&self) -> u64 {
        let reserved = sectors_for(self.reserved);
        reserved + self.live.held(reserved..)
    }

    /// Sectors that a write there takes which the file does not hold yet, as far as `room` allows, and how many bytes then fit.
    pub(crate) fn fit(&self, offset: u64, len: usize, room: u64) -> (u64, usize) {
        let reserved = sectors_for(self.reserved);
        let (mut taken, mut fits) = (0, 0);
        for piece in pieces(offset, len) {
            if piece.sector >= reserved && self.live.sector(piece.sector).is_none() {
                if taken == room {
                    break;
                }
                taken += 1;
            }
            fits += piece.len;
        }
        (taken, fits)
    }

    pub(crate) fn write(&mut self, change: u64, bytes: &[u8], offset: u64) {
        let mut rest = bytes;
        for piece in pieces(offset, bytes.len()) {
            let (part, after) = rest.split_at(piece.len);
            let sector = Some(match part.first_chunk() {
                Some(whole) => sector(whole),
                None => {
                    let mut bytes = self.live.sector(piece.sector).map_or([0; SECTOR], |sector| **sector);
                    bytes[piece.at..piece.at + piece.len].copy_from_slice(part);
                    Arc::new(bytes)
                }
            });
            self.live.put(piece.sector, sector.clone());
            self.dirty.push_version(piece.sector, Version { change, atomic: false, sector });
            rest = after;
        }
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() {
            return;
        }
        self.dirty.end = self.dirty.end.max(end);
        if end > self.live.len() {
            self.live.set_len(end);
            self.note_size(change);
        }
    }

    pub(crate) fn set_len(&mut self, change: u64, len: u64) {
        let old = self.live.len();
        self.live.set_len(len);
        self.dirty.end = self.dirty.end.min(len);
        self.reserved = self.reserved.min(len);
        for index in self.cut_sectors(len, old) {
            let sector = self.live.sector(index).cloned();
            self.dirty.push_version(index, Version { change, atomic: true, sector });
        }
        self.note_size(change);
    }

    /// Sectors that a cut from `old` to `len` changes on the medium or in a version that may get there.
    fn cut_sectors(&self, len: u64, old: u64) -> Vec<u64> {
        if len >= old {
            return Vec::new();
        }
        let range = len / SECTOR as u64..sectors_for(old.max(self.synced.len()));
        let mut touched = self.synced.held_in(range.clone());
        touched.extend(self.dirty.sectors.range(range.clone()).map(|(&index, _)| index));
        touched.extend(self.doubtful.sectors.range(range).map(|(&index, _)| index));
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    pub(crate) fn allocate(&mut self, change: u64, len: u64) {
        self.reserved = self.reserved.max(len);
        if len > self.live.len() {
            self.live.set_len(len);
        }
        self.note_size(change);
    }

    fn note_size(&mut self, change: u64) {
        self.dirty.push_size(change, Size { len: self.live.len(), reserved: self.reserved });
    }

    /// A sync that worked: every dirty sector is on the medium as a reader sees it. What an earlier failure left in doubt stays so, unless written anew.
    pub(crate) fn sync(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        for index in dirty.sectors.into_keys() {
            self.synced.put(index, self.live.sector(index).cloned());
            self.doubtful.sectors.remove(&index);
        }
        if dirty.sizes.is_empty() {
            // A length that a failed sync left in doubt: what was written since is nevertheless covered.
            let len = self.synced.len().max(dirty.end);
            self.synced.set_len(len);
            self.doubtful.sizes.retain(|(_, size)| size.len >= dirty.end);
        } else {
            self.synced.set_len(self.live.len());
            self.synced_reserved = self.reserved;
            self.doubtful.sizes.clear();
            self.doubtful.sectors.split_off(&sectors_for(self.live.len()));
        }
        self.synced.trim();
    }

    /// A sync that failed.
    pub(crate) fn fail_sync(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        for (index, versions) in dirty.sectors {
            for version in versions {
                self.doubtful.push_version(index, version);
            }
        }
        for (change, size) in dirty.sizes {
            self.doubtful.push_size(change, size);
        }
    }

    /// The oldest change that a power cut could undo.
    pub(crate) fn oldest_change(&self) -> Option<u64> {
        self.doubtful.oldest().into_iter().chain(self.dirty.oldest()).min()
    }

    /// The file after a power cut.
    pub(crate) fn after_crash(&self, outcome: Outcome) -> Self {
        let mut content = self.synced.clone();
        let mut size = Size { len: self.synced.len(), reserved: self.synced_reserved };
        // Doubtful changes are all older than dirty ones, so that the last one kept is the last one on the medium.
        for unsynced in [&self.doubtful, &self.dirty] {
            for (&index, versions) in &unsynced.sectors {
                let kept = |version: &&Version| if version.atomic { outcome.keeps(version.change) } else { outcome.keeps_sector(version.change, index) };
                if let Some(version) = versions.iter().rev().find(kept) {
                    content.put(index, version.sector.clone());
                }
            }
            if let Some(&(_, kept)) = unsynced.sizes.iter().rev().find(|(change, _)| outcome.keeps(*change)) {
                size = kept;
            }
        }
        content.set_len(size.len);
        content.trim();
        Self { live: content.clone(), reserved: size.reserved, synced: content, synced_reserved: size.reserved, ..Self::new() }
    }

    /// Rot: the byte reads differently from now on, synced or not.
    pub(crate) fn flip(&mut self, offset: u64, mask: u8) {
        self.live.flip(offset, mask);
        self.synced.flip(offset, mask);
        let (index, at) = (offset / SECTOR as u64, (offset % SECTOR as u64) as usize);
        for unsynced in [&mut self.doubtful, &mut self.dirty] {
            for version in unsynced.sectors.get_mut(&index).into_iter().flatten() {
                if let Some(sector) = &mut version.sector {
                    Arc::make_mut(sector)[at] ^= mask;
                }
            }
        }
    }
}
