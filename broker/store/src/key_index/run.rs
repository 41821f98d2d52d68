//! One sorted, immutable file of entries. It is made of pages with a checksum each, so that a lookup checks what it reads without reading everything.

use super::{KeyIndexError, Pair};
use sluice_env::{Disk, File, OpenMode};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Directory of the runs.
pub(crate) const DIR: &str = "keyindex";
pub(super) const META_BYTES: usize = 41;
const PAGE_BYTES: usize = 4096;
const PAIR_BYTES: usize = 16;
/// What fits beside the count, the page number and the checksum.
const PAGE_PAIRS: usize = (PAGE_BYTES - 16) / PAIR_BYTES;
const COUNT_AT: usize = PAGE_PAIRS * PAIR_BYTES;
const CRC_AT: usize = PAGE_BYTES - 4;
const MAGIC: [u8; 4] = *b"SLKR";
const VERSION: u16 = 1;
/// Pages read or written at once when a run is read or written from end to end.
const PAGES_AT_ONCE: usize = 16;

/// What is known of a run without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// How often its entries have been merged.
    pub(super) tier: u8,
    /// Entries.
    pub(super) count: u64,
    /// Lowest log offset.
    pub(super) first: u64,
    /// Highest log offset.
    pub(super) last: u64,
    /// Earliest store timestamp.
    pub(super) min_ms: i64,
    /// Latest store timestamp.
    pub(super) max_ms: i64,
}

impl Meta {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.tier);
        for word in [self.count, self.first, self.last, self.min_ms as u64, self.max_ms as u64] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tier, words) = bytes.split_first()?;
        let mut words = words.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
        let mut next = || words.next();
        let meta = Self { tier: *tier, count: next()?, first: next()?, last: next()?, min_ms: next()? as i64, max_ms: next()? as i64 };
        (meta.first <= meta.last).then_some(meta)
    }

    fn pages(&self) -> u64 {
        self.count.div_ceil(PAGE_PAIRS as u64)
    }
}

fn name(first: u64, last: u64, number: u64) -> String {
    format!("{DIR}/{first:020}-{last:020}-{number}")
}

/// A run on disk.
pub(super) struct Run {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) meta: Meta,
    file: Arc<dyn File>,
    dirty: AtomicBool,
}

impl Run {
    /// Opens a run; its length and its first page must be what `meta` says.
    pub(super) fn open(disk: &dyn Disk, number: u64, meta: Meta) -> Result<Self, KeyIndexError> {
        let name = name(meta.first, meta.last, number);
        let file = disk.open(&name, OpenMode::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyIndexError::damaged(&name, "the file is missing"),
            _ => error.into(),
        })?;
        let expected = meta.pages().checked_add(1).and_then(|pages| pages.checked_mul(PAGE_BYTES as u64));
        if Some(file.len()?) != expected {
            return Err(KeyIndexError::damaged(name, "its length is wrong"));
        }
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0)?;
        if page != header_page(&meta) {
            return Err(KeyIndexError::damaged(name, "its first page is not what was written"));
        }
        Ok(Self { name, number, meta, file, dirty: AtomicBool::new(false) })
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        if self.dirty.swap(false, Ordering::AcqRel) { self.file.sync_data() } else { Ok(()) }
    }

    /// Adds the newest log offsets under `hash`, at most `max`.
    pub(super) fn collect(&self, hash: u64, max: usize, found: &mut Vec<u64>) -> Result<(), KeyIndexError> {
        let mut bytes = vec![0; PAGE_BYTES];
        let mut pairs = Vec::with_capacity(PAGE_PAIRS);
        // The pages that begin at or below the last place the hash can have.
        let (mut low, mut high) = (0, self.meta.pages());
        while low < high {
            let middle = low + (high - low) / 2;
            self.read_pages(middle, &mut bytes, &mut pairs)?;
            if pairs.first().is_some_and(|pair| pair.0 <= hash) { low = middle + 1 } else { high = middle }
        }
        let mut left = max;
        while low > 0 && left > 0 {
            low -= 1;
            self.read_pages(low, &mut bytes, &mut pairs)?;
            let end = pairs.partition_point(|pair| pair.0 <= hash);
            let hits = pairs[..end].iter().rev().take_while(|pair| pair.0 == hash).take(left);
            let before = found.len();
            found.extend(hits.map(|pair| pair.1));
            let count = found.len() - before;
            left -= count;
            if count < end {
                break;
            }
        }
        Ok(())
    }

    /// Reads as many pages as `bytes` holds, from `page` on, and checks them.
    fn read_pages(&self, page: u64, bytes: &mut [u8], pairs: &mut Vec<Pair>) -> Result<(), KeyIndexError> {
        pairs.clear();
        self.file.read_exact_at(bytes, (page + 1) * PAGE_BYTES as u64)?;
        for (number, content) in (page..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
            let expected = (self.meta.count - number * PAGE_PAIRS as u64).min(PAGE_PAIRS as u64) as usize;
            if !page_is_sound(content, number, expected) {
                return Err(KeyIndexError::damaged(&self.name, format!("the checksum of page {number} is wrong")));
            }
            let words = |pair: &[u8; PAIR_BYTES]| (word(pair, 0), word(pair, 8));
            pairs.extend(content.as_chunks().0[..expected].iter().map(words));
        }
        Ok(())
    }

    /// Reads the run from its beginning to its end.
    pub(super) fn cursor(self: &Arc<Self>) -> Cursor {
        Cursor { run: self.clone(), next_page: 0, pairs: Vec::new(), at: 0 }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn seal_page(page: &mut [u8]) {
    let crc = crc32fast::hash(&page[..CRC_AT]);
    page[CRC_AT..PAGE_BYTES].copy_from_slice(&crc.to_be_bytes());
}

fn page_is_sound(page: &[u8; PAGE_BYTES], number: u64, expected: usize) -> bool {
    page[COUNT_AT..COUNT_AT + 4] == (expected as u32).to_be_bytes()
        && word(page, COUNT_AT + 4) == number
        && crc32fast::hash(&page[..CRC_AT]).to_be_bytes() == page[CRC_AT..]
}

fn header_page(meta: &Meta) -> [u8; PAGE_BYTES] {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_be_bytes());
    meta.encode(&mut head);
    let mut page = [0; PAGE_BYTES];
    page[..head.len()].copy_from_slice(&head);
    seal_page(&mut page);
    page
}

/// A place in a run that is read through.
pub(super) struct Cursor {
    run: Arc<Run>,
    next_page: u64,
    pairs: Vec<Pair>,
    at: usize,
}

impl Cursor {
    /// The next entry, in order.
    pub(super) fn next(&mut self) -> Result<Option<Pair>, KeyIndexError> {
        if self.at == self.pairs.len() {
            let pages = (self.run.meta.pages() - self.next_page).min(PAGES_AT_ONCE as u64);
            if pages == 0 {
                return Ok(None);
            }
            let mut bytes = vec![0; pages as usize * PAGE_BYTES];
            self.run.read_pages(self.next_page, &mut bytes, &mut self.pairs)?;
            self.next_page += pages;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.pairs.get(self.at - 1).copied())
    }
}

/// Writes a run from entries that come in order.
pub(super) struct RunWriter {
    name: String,
    number: u64,
    tier: u8,
    span: (u64, u64),
    file: Arc<dyn File>,
    /// Whole pages not written yet, and one that is being filled.
    buffer: Vec<u8>,
    in_page: usize,
    /// Pages begun.
    pages: u64,
    pages_written: u64,
    count: u64,
}

impl RunWriter {
    /// Begins a run with entries whose log offsets lie within `span`.
    pub(super) fn create(disk: &dyn Disk, tier: u8, span: (u64, u64), number: u64) -> io::Result<Self> {
        let name = name(span.0, span.1, number);
        let file = disk.open(&name, OpenMode::CreateNew)?;
        let buffer = Vec::with_capacity(PAGES_AT_ONCE * PAGE_BYTES);
        Ok(Self { name, number, tier, span, file, buffer, in_page: 0, pages: 0, pages_written: 0, count: 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn push(&mut self, pair: Pair) -> io::Result<()> {
        self.buffer.extend_from_slice(&pair.0.to_be_bytes());
        self.buffer.extend_from_slice(&pair.1.to_be_bytes());
        self.in_page += 1;
        self.count += 1;
        if self.in_page == PAGE_PAIRS {
            self.end_page();
            if self.buffer.len() == PAGES_AT_ONCE * PAGE_BYTES {
                self.write_buffer()?;
            }
        }
        Ok(())
    }

    fn end_page(&mut self) {
        let start = self.buffer.len() - self.in_page * PAIR_BYTES;
        self.buffer.resize(start + PAGE_BYTES, 0);
        let page = &mut self.buffer[start..];
        page[COUNT_AT..COUNT_AT + 4].copy_from_slice(&(self.in_page as u32).to_be_bytes());
        page[COUNT_AT + 4..CRC_AT].copy_from_slice(&self.pages.to_be_bytes());
        seal_page(page);
        self.pages += 1;
        self.in_page = 0;
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, (self.pages_written + 1) * PAGE_BYTES as u64)?;
        self.pages_written = self.pages;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the rest, and the first page last.
    pub(super) fn finish(&mut self, (min_ms, max_ms): (i64, i64)) -> io::Result<Run> {
        if self.in_page > 0 {
            self.end_page();
        }
        if !self.buffer.is_empty() {
            self.write_buffer()?;
        }
        let meta = Meta { tier: self.tier, count: self.count, first: self.span.0, last: self.span.1, min_ms, max_ms };
        self.file.write_all_at(&header_page(&meta), 0)?;
        Ok(Run { name: self.name.clone(), number: self.number, meta, file: self.file.clone(), dirty: AtomicBool::new(true) })
    }
}
