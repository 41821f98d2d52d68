//! The bytes of one file, by sector, with holes.

use std::{
    collections::BTreeMap,
    ops::{Range, RangeFrom},
    sync::{Arc, LazyLock},
};

/// What a power cut never splits.
pub(crate) const SECTOR: usize = 512;
const SECTOR_U64: u64 = SECTOR as u64;

/// The bytes of one sector, shared between the states of the file that have it in common.
pub(crate) type Sector = Arc<[u8; SECTOR]>;

/// A sector of these bytes. Those of zeros are all one.
pub(crate) fn sector(bytes: &[u8; SECTOR]) -> Sector {
    static ZEROS: LazyLock<Sector> = LazyLock::new(|| Arc::new([0; SECTOR]));
    if bytes == &**ZEROS { ZEROS.clone() } else { Arc::new(*bytes) }
}

/// A run of bytes that lies within one sector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Which sector.
    pub(crate) sector: u64,
    /// Where in the sector the run starts.
    pub(crate) at: usize,
    /// How many bytes.
    pub(crate) len: usize,
}

/// Cuts `len` bytes at `offset` where sectors meet.
pub(crate) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = offset + done as u64;
        let at = (position % SECTOR_U64) as usize;
        let piece = Piece { sector: position / SECTOR_U64, at, len: (SECTOR - at).min(len - done) };
        done += piece.len;
        Some(piece)
    })
}

/// How many sectors hold `len` bytes.
pub(crate) fn sectors_for(len: u64) -> u64 {
    len.div_ceil(SECTOR_U64)
}

/// A length and the sectors that were ever written. A missing sector is zero, and so is the last one beyond the length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    len: u64,
    sectors: BTreeMap<u64, Sector>,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn sector(&self, index: u64) -> Option<&Sector> {
        self.sectors.get(&index)
    }

    /// Puts a sector, `None` a hole. The length stays; the caller sees to it.
    pub(crate) fn put(&mut self, index: u64, sector: Option<Sector>) {
        match sector {
            Some(sector) => self.sectors.insert(index, sector),
            None => self.sectors.remove(&index),
        };
    }

    /// How many sectors in that range hold bytes.
    pub(crate) fn held(&self, range: RangeFrom<u64>) -> u64 {
        self.sectors.range(range).count() as u64
    }

    /// Cuts or extends with zeros.
    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            if self.sectors.last_key_value().is_some_and(|(last, _)| *last >= sectors_for(len)) {
                self.sectors.split_off(&sectors_for(len));
            }
            let keep = (len % SECTOR_U64) as usize;
            if keep > 0
                && let Some(last) = self.sectors.get_mut(&(len / SECTOR_U64))
            {
                Arc::make_mut(last)[keep..].fill(0);
            }
        }
        self.len = len;
    }

    /// Makes sure that nothing lies beyond the length, after sectors were put one by one.
    pub(crate) fn trim(&mut self) {
        let len = self.len;
        self.len = u64::MAX;
        self.set_len(len);
    }

    /// Copies bytes out; `false` when the file ends before.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let whole = u64::try_from(buf.len()).ok().and_then(|len| offset.checked_add(len)).is_some_and(|end| end <= self.len);
        if !whole {
            return buf.is_empty();
        }
        let mut rest = buf;
        let len = rest.len();
        for piece in pieces(offset, len) {
            let (target, after) = rest.split_at_mut(piece.len);
            match self.sectors.get(&piece.sector) {
                Some(sector) => target.copy_from_slice(&sector[piece.at..piece.at + piece.len]),
                None => target.fill(0),
            }
            rest = after;
        }
        true
    }

    /// Indexes of the sectors in `range` that hold bytes.
    pub(crate) fn held_in(&self, range: Range<u64>) -> Vec<u64> {
        self.sectors.range(range).map(|(&index, _)| index).collect()
    }

    /// Turns bits over in one byte; a hole becomes a sector.
    pub(crate) fn flip(&mut self, offset: u64, mask: u8) {
        if offset < self.len {
            let sector = self.sectors.entry(offset / SECTOR_U64).or_insert_with(|| Arc::new([0; SECTOR]));
            Arc::make_mut(sector)[(offset % SECTOR_U64) as usize] ^= mask;
        }
    }

    /// All bytes.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(self.len).expect("a file in memory is no longer than memory")];
        self.read(&mut all, 0);
        all
    }
}
