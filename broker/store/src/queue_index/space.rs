//! Room in the shared index files. A file is cut into chunks; a chunk serves extents of one size until all of them are free again, so that long use
//! leaves no holes that nothing fits into.

use super::queue::ENTRY_BYTES;
use sluice_env::{Disk, File, OpenMode, sync::RwLock};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Directory of the index files.
pub(crate) const DIR: &str = "queueindex";
/// How many sizes of extent there are: 32, 256, 2048 and 16384 entries.
const CLASSES: u8 = 4;
const SMALLEST: usize = 32;
const CHUNK_ENTRIES: usize = SMALLEST << (3 * (CLASSES - 1));
const CHUNK_BYTES: u64 = (CHUNK_ENTRIES * ENTRY_BYTES) as u64;
/// What fits into 64 MiB.
pub(super) const CHUNKS_PER_FILE: u32 = ((64 << 20) / CHUNK_BYTES) as u32;
/// A file grows by so many chunks at a time: a small store shall not occupy 64 MiB.
const GROWTH_CHUNKS: u32 = 12;
/// File names have six digits.
const FILES_MAX: u32 = 1_000_000;

/// Where an extent lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Chunk number, counted through all files.
    pub(super) chunk: u32,
    /// Number of the extent within its chunk.
    pub(super) slot: u16,
    /// Which of the sizes.
    pub(super) class: u8,
}

impl Place {
    /// How many entries fit.
    pub(super) fn capacity(self) -> usize {
        SMALLEST << (3 * self.class)
    }

    /// The file.
    pub(super) fn file(self) -> u32 {
        self.chunk / CHUNKS_PER_FILE
    }

    /// Where in the file the entry numbered `index` of the extent begins.
    pub(super) fn position(self, index: usize) -> u64 {
        let entry = usize::from(self.slot) * self.capacity() + index;
        u64::from(self.chunk % CHUNKS_PER_FILE) * CHUNK_BYTES + (entry * ENTRY_BYTES) as u64
    }

    fn slots(class: u8) -> usize {
        CHUNK_ENTRIES / (SMALLEST << (3 * class))
    }

    fn is_possible(self) -> bool {
        self.class < CLASSES && self.file() < FILES_MAX && usize::from(self.slot) < Self::slots(self.class)
    }
}

/// The size of the next extent of a queue: the one after the last extent's, or larger when so much waits to be written.
pub(super) fn class_for(last: Option<u8>, waiting: usize) -> u8 {
    let grown = last.map_or(0, |class| class + 1);
    let fitting = (0..CLASSES).find(|class| SMALLEST << (3 * class) >= waiting).unwrap_or(CLASSES - 1);
    grown.max(fitting).min(CLASSES - 1)
}

/// An open index file.
pub(super) struct IndexFile {
    pub(super) file: Arc<dyn File>,
    /// Written since the last sync.
    pub(super) dirty: AtomicBool,
}

/// Which extents of a chunk are taken.
#[derive(Clone, Default)]
struct Chunk {
    class: u8,
    used: u16,
    /// One bit an extent; empty when the chunk is free.
    bits: Vec<u64>,
}

impl Chunk {
    fn cut(class: u8) -> Self {
        Self { class, used: 0, bits: vec![0; Place::slots(class).div_ceil(64)] }
    }

    fn take_first(&mut self) -> Option<u16> {
        let slots = Place::slots(self.class);
        let (word, bits) = self.bits.iter_mut().enumerate().find(|(_, bits)| **bits != u64::MAX)?;
        let slot = word * 64 + bits.trailing_ones() as usize;
        if slot >= slots {
            return None;
        }
        *bits |= 1 << (slot % 64);
        self.used += 1;
        Some(slot as u16)
    }

    fn take(&mut self, slot: u16) -> bool {
        let (word, bit) = (usize::from(slot) / 64, 1 << (slot % 64));
        let free = self.bits[word] & bit == 0;
        if free {
            self.bits[word] |= bit;
            self.used += 1;
        }
        free
    }

    fn give_back(&mut self, slot: u16) {
        self.bits[usize::from(slot) / 64] &= !(1 << (slot % 64));
        self.used -= 1;
    }

    fn is_full(&self) -> bool {
        usize::from(self.used) == Place::slots(self.class)
    }
}

/// Who owns what in the index files. One thread at a time changes it.
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    chunks: BTreeMap<u32, Chunk>,
    /// Chunks of existing files that nobody uses.
    free: BTreeSet<u32>,
    /// Chunks with room for another extent, by class.
    partial: [BTreeSet<u32>; CLASSES as usize],
    /// Given up, but a snapshot on disk may still need them.
    quarantine: Vec<Place>,
    /// Given up before the snapshot that is being made durable.
    sealed: Vec<Place>,
    /// Files were created or removed since the directory was last synced.
    pub(super) dir_dirty: bool,
}

impl Space {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, chunks: BTreeMap::new(), free: BTreeSet::new(), partial: Default::default(), quarantine: Vec::new(), sealed: Vec::new(), dir_dirty: true }
    }

    /// Takes room for an extent, opening or growing a file when needed.
    pub(super) fn allocate(&mut self, class: u8, files: &FileTable) -> io::Result<Place> {
        let chunk = match self.partial[usize::from(class)].first() {
            Some(&chunk) => chunk,
            None => self.cut_chunk(class, files)?,
        };
        let state = self.chunks.get_mut(&chunk).expect("a chunk with room has been cut");
        let slot = state.take_first().expect("a partial chunk has a free slot");
        if state.is_full() {
            self.partial[usize::from(class)].remove(&chunk);
        }
        Ok(Place { chunk, slot, class })
    }

    fn cut_chunk(&mut self, class: u8, files: &FileTable) -> io::Result<u32> {
        let chunk = match self.free.first() {
            Some(&chunk) => chunk,
            None => self.add_file(files)?,
        };
        let file = files.get(chunk / CHUNKS_PER_FILE).expect("a free chunk lies in an open file");
        let within = chunk % CHUNKS_PER_FILE;
        if file.file.len()? < u64::from(within + 1) * CHUNK_BYTES {
            file.file.allocate(u64::from((within + GROWTH_CHUNKS).min(CHUNKS_PER_FILE)) * CHUNK_BYTES)?;
            file.dirty.store(true, Ordering::Release);
        }
        self.free.remove(&chunk);
        self.chunks.insert(chunk, Chunk::cut(class));
        self.partial[usize::from(class)].insert(chunk);
        Ok(chunk)
    }

    fn reopen_file(&mut self, number: u32, files: &FileTable) -> io::Result<Arc<IndexFile>> {
        let file = Arc::new(IndexFile { file: self.disk.open(&name(number), OpenMode::Write)?, dirty: AtomicBool::new(false) });
        files.insert(number, file.clone());
        self.free.extend(number * CHUNKS_PER_FILE..(number + 1) * CHUNKS_PER_FILE);
        Ok(file)
    }

    fn add_file(&mut self, files: &FileTable) -> io::Result<u32> {
        let number = files.first_missing();
        let file = self.disk.open(&name(number), OpenMode::Create)?;
        self.dir_dirty = true;
        files.insert(number, Arc::new(IndexFile { file, dirty: AtomicBool::new(true) }));
        let first = number * CHUNKS_PER_FILE;
        self.free.extend(first..first + CHUNKS_PER_FILE);
        Ok(first)
    }

    /// Takes the very place a snapshot names, with `len` entries written there. The error says what is wrong with the snapshot.
    pub(super) fn claim(&mut self, place: Place, len: usize, files: &FileTable) -> Result<(), String> {
        if !place.is_possible() || len == 0 || len > place.capacity() {
            return Err(format!("{place:?} is no place for {len} entries"));
        }
        let number = place.file();
        let file = match files.get(number) {
            Some(file) => file,
            None => self.reopen_file(number, files).map_err(|error| format!("index file {}: {error}", name(number)))?,
        };
        if file.file.len().map_err(|error| format!("index file {}: {error}", name(number)))? < place.position(len) {
            return Err(format!("index file {} is too short for {place:?}", name(number)));
        }
        self.free.remove(&place.chunk);
        let chunk = self.chunks.entry(place.chunk).or_insert_with(|| Chunk::cut(place.class));
        if chunk.class != place.class || !chunk.take(place.slot) {
            return Err(format!("two extents overlap at {place:?}"));
        }
        let partial = &mut self.partial[usize::from(place.class)];
        if chunk.is_full() {
            partial.remove(&place.chunk);
        } else {
            partial.insert(place.chunk);
        }
        Ok(())
    }

    /// Gives up an extent that the last durable snapshot may name; it is reused only after the next one is durable.
    pub(super) fn retire(&mut self, place: Place) {
        self.quarantine.push(place);
    }

    /// Gives back an extent that no snapshot has ever named.
    pub(super) fn free_at_once(&mut self, place: Place) {
        let Some(chunk) = self.chunks.get_mut(&place.chunk) else { return };
        chunk.give_back(place.slot);
        let partial = &mut self.partial[usize::from(place.class)];
        if chunk.used == 0 {
            self.chunks.remove(&place.chunk);
            partial.remove(&place.chunk);
            self.free.insert(place.chunk);
        } else {
            partial.insert(place.chunk);
        }
    }

    /// A snapshot without the extents retired so far has been taken.
    pub(super) fn seal(&mut self) {
        self.sealed.append(&mut self.quarantine);
    }

    /// That snapshot is durable: its extents may be reused, and files that are empty now, but for one, go.
    pub(super) fn release(&mut self, files: &FileTable) {
        for place in std::mem::take(&mut self.sealed) {
            self.free_at_once(place);
        }
        let empty: Vec<u32> = files.all().into_iter().map(|(number, _)| number).filter(|&number| self.is_empty(number)).collect();
        for &number in empty.iter().skip(1) {
            // A file that cannot be removed stays in use; nothing depends on its going.
            if let Err(error) = self.disk.remove(&name(number)) {
                tracing::warn!(file = name(number), %error, "an empty index file could not be removed");
                continue;
            }
            self.dir_dirty = true;
            files.remove(number);
            let first = number * CHUNKS_PER_FILE;
            (first..first + CHUNKS_PER_FILE).for_each(|chunk| _ = self.free.remove(&chunk));
        }
    }

    fn is_empty(&self, file: u32) -> bool {
        let first = file * CHUNKS_PER_FILE;
        self.chunks.range(first..first + CHUNKS_PER_FILE).next().is_none()
    }
}

/// The open files by number. Readers look files up while the allocator adds some: the lock is held for a look only.
#[derive(Default)]
pub(super) struct FileTable(RwLock<BTreeMap<u32, Arc<IndexFile>>>);

impl FileTable {
    pub(super) fn get(&self, number: u32) -> Option<Arc<IndexFile>> {
        self.0.read().get(&number).cloned()
    }

    pub(super) fn all(&self) -> Vec<(u32, Arc<IndexFile>)> {
        self.0.read().iter().map(|(number, file)| (*number, file.clone())).collect()
    }

    fn insert(&self, number: u32, file: Arc<IndexFile>) {
        self.0.write().insert(number, file);
    }

    fn remove(&self, number: u32) {
        self.0.write().remove(&number);
    }

    fn first_missing(&self) -> u32 {
        (0..).zip(self.0.read().keys()).take_while(|(expected, number)| expected == *number).count() as u32
    }
}

/// The name of an index file.
pub(super) fn name(number: u32) -> String {
    format!("{DIR}/{number:06}")
}
