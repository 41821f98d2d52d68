//! A value that outlives the process: a small file of JSON, replaced whole.
//!
//! The file is the JSON, a line feed, the CRC-32 of the JSON in eight hexadecimal digits and a line feed, so that a person can read it and damage is told from content.

use serde::{Serialize, de::DeserializeOwned};
use sluice_env::{Disk, OpenMode};
use std::{io, marker::PhantomData, sync::Arc};

/// Why a value is not there. Never taken for "there is none".
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The disk failed. After a failed write either value may be there.
    #[error("{what} {file} failed: {error}")]
    Disk {
        /// What was being done.
        what: &'static str,
        /// The file.
        file: String,
        /// The system's words.
        error: io::Error,
    },
    /// The bytes are not what was written.
    #[error("the file {file} is damaged ({why}); restore it from a copy")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A file with one value.
pub struct Kept<T> {
    disk: Arc<dyn Disk>,
    file: &'static str,
    of: PhantomData<fn() -> T>,
}

const CHECKSUM_BYTES: usize = 8 + 2;

impl<T: Serialize + DeserializeOwned> Kept<T> {
    /// The value in that file.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, file: &'static str) -> Self {
        Self { disk, file, of: PhantomData }
    }

    /// What was stored last; `None`: nothing ever was.
    pub fn load(&self) -> Result<Option<T>, KeptError> {
        let file = match self.disk.open(self.file, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("opening")(error)),
        };
        let length = file.len().map_err(self.failed("reading"))?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| self.damaged("it is too long"))?];
        file.read_exact_at(&mut bytes, 0).map_err(self.failed("reading"))?;
        self.decode(&bytes).map(Some)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, KeptError> {
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| self.damaged("it is too short"))?;
        let (json, checksum) = bytes.split_at(at);
        if format!("\n{:08x}\n", crc32fast::hash(json)).as_bytes() != checksum {
            return Err(self.damaged("it does not match its checksum"));
        }
        serde_json::from_slice(json).map_err(|error| self.damaged(&error.to_string()))
    }

    /// Replaces it, durably.
    pub fn store(&self, value: &T) -> Result<(), KeptError> {
        let json = serde_json::to_vec(value).map_err(|error| self.failed("encoding")(error.into()))?;
        let mut bytes = json;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("\n{checksum:08x}\n").as_bytes());
        self.disk.replace(self.file, &bytes).map_err(self.failed("writing"))
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> KeptError {
        let file = self.file.to_owned();
        move |error| KeptError::Disk { what, file: file.clone(), error }
    }

    fn damaged(&self, why: &str) -> KeptError {
        KeptError::Damaged { file: self.file.to_owned(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::sim::{self, Fault, FaultKind, Op};

    #[test]
    fn a_value_is_there_whole_or_the_one_before_wherever_power_is_cut() {
        for (seed, op) in (0..90).map(|seed| (seed, [Op::Write, Op::Sync, Op::Rename, Op::SyncDir, Op::Open, Op::SetLen][seed as usize % 6])) {
            let (env, disk, _) = sim::env(seed);
            let kept = Kept::<Vec<u64>>::new(env.disk.clone(), "value");
            assert_eq!(kept.load().unwrap(), None);
            kept.store(&vec![1]).unwrap();
            disk.inject(Fault::once(op, FaultKind::Eio));
            let stored = kept.store(&vec![2; 3]).is_ok();
            let after = Kept::<Vec<u64>>::new(Arc::new(disk.crash(seed)), "value").load().unwrap();
            let allowed: &[Vec<u64>] = if stored { &[vec![2; 3]] } else { &[vec![1], vec![2; 3]] };
            assert!(after.as_ref().is_some_and(|after| allowed.contains(after)), "seed {seed}, {op:?} failed: {after:?}");
        }
    }

    #[test]
    fn what_a_failed_write_has_left_is_no_part_of_the_next_value() {
        let (env, disk, _) = sim::env(1);
        let kept = Kept::<Vec<u64>>::new(env.disk.clone(), "value");
        disk.inject(Fault::once(Op::Rename, FaultKind::Eio));
        kept.store(&vec![7; 100]).unwrap_err();
        kept.store(&vec![1]).unwrap();
        assert_eq!(kept.load().unwrap(), Some(vec![1]));
    }

    #[test]
    fn any_flipped_bit_is_damage_and_not_another_value_or_none() {
        let (env, ..) = sim::env(1);
        let kept = Kept::<Vec<u64>>::new(env.disk.clone(), "value");
        kept.store(&vec![1, 22, 333]).unwrap();
        let file = env.disk.open("value", OpenMode::Write).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&bad, 0).unwrap();
            assert!(matches!(kept.load(), Err(KeptError::Damaged { .. })), "bit {bit}");
        }
        file.set_len(3).unwrap();
        assert!(kept.load().unwrap_err().to_string().contains("restore it from a copy"));
    }
}
