//! The checkpoint: what recovery need not derive again. See `FORMAT.md`.

use crate::{MetaTable, batch, recovery::read};
use sluice_env::{Disk, OpenMode};
use std::{collections::BTreeMap, io};

pub(crate) const FILES: [&str; 3] = [FILE, NEW, OLD];
/// Those that a checkpoint is read from.
pub(crate) const KEPT: [&str; 2] = [FILE, OLD];
const FILE: &str = "checkpoint";
const NEW: &str = "checkpoint.new";
const OLD: &str = "checkpoint.old";
const MAGIC: &[u8; 8] = b"SLUICEC1";
/// Of one whose indexes have to be rebuilt.
const MAGIC_REBUILD: &[u8; 8] = b"SLUICER1";
const CHECKSUM_BYTES: usize = 4;

/// Metadata by table and key.
pub(crate) type Meta = BTreeMap<(MetaTable, String), Vec<u8>>;

/// The state of everything derived from the log below `log_offset`, all of which is flushed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) min_offset: u64,
    pub(crate) log_offset: u64,
    pub(crate) newest_ms: i64,
    pub(crate) meta: Meta,
    pub(crate) queues: Vec<u8>,
    pub(crate) keys: Vec<u8>,
    /// Whether it is another store's, whose index files are not here: the indexes have to be built from the log. What `queues` says then is where queues go on, and `keys`
    /// is empty.
    pub(crate) rebuild: bool,
}

/// What reading found.
pub(crate) enum Loaded {
    /// There has never been one.
    None,
    /// The newest.
    Newest(Checkpoint),
    /// The newest is missing or damaged, this is the one before: its metadata is good, its queue index may have been overwritten since.
    Previous(Checkpoint),
    /// There are files, but none is whole.
    Damaged,
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = if self.rebuild { MAGIC_REBUILD } else { MAGIC }.to_vec();
        for n in [self.min_offset, self.log_offset, self.newest_ms.cast_unsigned()] {
            out.extend_from_slice(&n.to_be_bytes());
        }
        let mut meta = Vec::new();
        for ((table, key), value) in &self.meta {
            batch::put_change(&mut meta, *table, key, Some(value));
        }
        for part in [&meta, &self.queues, &self.keys] {
            out.extend_from_slice(&(part.len() as u64).to_be_bytes());
            out.extend_from_slice(part);
        }
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if crc32fast::hash(bytes).to_be_bytes() != checksum {
            return None;
        }
        let (magic, mut rest) = bytes.split_first_chunk::<8>()?;
        let rebuild = magic == MAGIC_REBUILD;
        if !rebuild && magic != MAGIC {
            return None;
        }
        let min_offset = take_u64(&mut rest)?;
        let log_offset = take_u64(&mut rest)?;
        let newest_ms = take_u64(&mut rest)?.cast_signed();
        let meta = batch::decode_changes(take_part(&mut rest)?)?;
        let meta = meta.into_iter().filter_map(|c| Some(((c.table, c.key), c.value?))).collect();
        let queues = take_part(&mut rest)?.to_vec();
        let keys = take_part(&mut rest)?.to_vec();
        Some(Self { min_offset, log_offset, newest_ms, meta, queues, keys, rebuild })
    }

    /// Writes it durably beside the one before.
    pub(crate) fn store(&self, disk: &dyn Disk) -> io::Result<()> {
        let bytes = self.encode();
        let file = disk.open(NEW, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        disk.change_names("", || {
            match disk.rename(FILE, OLD) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            disk.rename(NEW, FILE)
        })
    }

    /// Reads the newest that is whole.
    pub(crate) fn load(disk: &dyn Disk) -> io::Result<Loaded> {
        let newest = read(disk, FILE)?;
        let new = read(disk, NEW)?;
        let old = read(disk, OLD)?;
        let any = newest.is_some() || old.is_some();
        if let Some(found) = newest.as_deref().and_then(Self::decode) {
            return Ok(Loaded::Newest(found));
        }
        // Between the two renames the newest has the name `.new`.
        if newest.is_none()
            && let Some(found) = new.as_deref().and_then(Self::decode)
        {
            return Ok(Loaded::Newest(found));
        }
        Ok(match old.as_deref().and_then(Self::decode) {
            Some(found) => Loaded::Previous(found),
            None if any => Loaded::Damaged,
            None => Loaded::None,
        })
    }
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*head))
}

fn take_part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u64(bytes)?).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rebuild: bool) -> Checkpoint {
        let meta = [((MetaTable::Topics, "t".to_owned()), b"x".to_vec())].into_iter().collect();
        Checkpoint { min_offset: 1, log_offset: 2, newest_ms: -3, meta, queues: vec![4, 5], keys: vec![6], rebuild }
    }

    #[test]
    fn a_checkpoint_is_read_back_and_any_flipped_byte_is_found() {
        for sample in [sample(false), sample(true)] {
            let bytes = sample.encode();
            for i in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[i] ^= 1;
                assert_eq!(Checkpoint::decode(&bad), None, "byte {i}");
            }
            assert_eq!(Checkpoint::decode(&bytes), Some(sample));
        }
    }
}
