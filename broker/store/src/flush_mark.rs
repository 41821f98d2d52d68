//! The flushed mark: a lower bound of the flushed watermark, kept beside the log so that recovery can tell a torn tail (beyond it) from damage (below it).
//!
//! It is written after each sync and itself synced only with a checkpoint. A stale mark is a lower bound still; two slots in turn outlive a torn write.

use sluice_env::{Disk, File, OpenMode, sync::Mutex};
use std::{io, sync::Arc};

pub(crate) const FILE: &str = "flushed";
const SLOT_BYTES: u64 = 512;

pub(crate) struct FlushMark {
    file: Arc<dyn File>,
    turn: Mutex<u64>,
}

/// Bytes of a number with its checksum.
pub(crate) const BYTES: usize = 12;

/// Number 8 · CRC-32 of it 4.
pub(crate) fn encode(number: u64) -> [u8; BYTES] {
    let mut slot = [0; BYTES];
    slot[..8].copy_from_slice(&number.to_be_bytes());
    let checksum = crc32fast::hash(&slot[..8]);
    slot[8..].copy_from_slice(&checksum.to_be_bytes());
    slot
}

/// The number, if the checksum is its own.
pub(crate) fn decode(slot: [u8; BYTES]) -> Option<u64> {
    let (number, checksum) = slot.split_first_chunk::<8>()?;
    (crc32fast::hash(number).to_be_bytes() == checksum).then(|| u64::from_be_bytes(*number))
}

impl FlushMark {
    /// Opens it and reads the highest mark that is whole; 0 when there is none.
    pub(crate) fn open(disk: &dyn Disk) -> io::Result<(Self, u64)> {
        let file = disk.open(FILE, OpenMode::Create)?;
        if file.len()? < 2 * SLOT_BYTES {
            file.set_len(2 * SLOT_BYTES)?;
        }
        let mut highest = 0;
        for slot in 0..2 {
            let mut bytes = [0; BYTES];
            file.read_exact_at(&mut bytes, slot * SLOT_BYTES)?;
            highest = highest.max(decode(bytes).unwrap_or(0));
        }
        Ok((Self { file, turn: Mutex::new(0) }, highest))
    }

    /// Notes how far the log is flushed. Failing to is no harm: the old mark holds.
    pub(crate) fn note(&self, offset: u64) {
        let mut turn = self.turn.lock();
        *turn += 1;
        if let Err(e) = self.file.write_all_at(&encode(offset), *turn % 2 * SLOT_BYTES) {
            tracing::debug!(error = %e, "the flushed mark could not be written");
        }
    }

    /// Takes the mark back to `offset`, durably: the log ends there now.
    pub(crate) fn reset(&self, offset: u64) -> io::Result<()> {
        for slot in 0..2 {
            self.file.write_all_at(&encode(offset), slot * SLOT_BYTES)?;
        }
        self.sync()
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
