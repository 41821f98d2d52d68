//! The members' commit logs as they lie on the disks at the end: the same bytes up to the confirmed mark (C12).

use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

const PIECE: usize = 1 << 20;

/// A log's files by the offset that they begin at.
pub(super) struct Log(BTreeMap<u64, PathBuf>);

impl Log {
    /// Of that data directory.
    pub(super) fn open(data: &Path) -> Result<Self> {
        let folder = data.join("commitlog");
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
            // Others than segments lie there too.
            if let Some(base) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) {
                files.insert(base, path);
            }
        }
        ensure!(!files.is_empty(), "{} has no segments", folder.display());
        Ok(Self(files))
    }

    /// Where it begins.
    pub(super) fn begin(&self) -> u64 {
        self.0.keys().next().copied().unwrap_or_default()
    }

    /// The checksum of its bytes between the two offsets; an error if one is missing.
    pub(super) fn checksum(&self, from: u64, to: u64) -> Result<u64> {
        let mut sum = crc32fast::Hasher::new();
        let mut at = from;
        let mut piece = vec![0; PIECE];
        while at < to {
            let (base, path) = self.0.range(..=at).next_back().with_context(|| format!("no segment holds offset {at}"))?;
            let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            let end = (base + file.metadata().with_context(|| format!("looking at {}", path.display()))?.len()).min(to);
            ensure!(end > at, "{} ends before offset {at}", path.display());
            file.seek(SeekFrom::Start(at - base)).with_context(|| format!("reading {}", path.display()))?;
            while at < end {
                let wanted = PIECE.min(usize::try_from(end - at)?);
                file.read_exact(&mut piece[..wanted]).with_context(|| format!("reading {}", path.display()))?;
                sum.update(&piece[..wanted]);
                at += wanted as u64;
            }
        }
        Ok(sum.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, name: &str, segments: &[(u64, &[u8])]) -> Log {
        let commitlog = folder.join(name).join("commitlog");
        fs::create_dir_all(&commitlog).unwrap();
        fs::write(commitlog.join("next"), b"prepared").unwrap();
        for (base, bytes) in segments {
            fs::write(commitlog.join(format!("{base:020}")), bytes).unwrap();
        }
        Log::open(&folder.join(name)).unwrap()
    }

    #[test]
    fn logs_are_compared_by_offset_over_the_ends_of_segments_and_not_behind_the_mark() {
        let folder = tempfile::tempdir().unwrap();
        let one = log(folder.path(), "one", &[(0, b"abcd"), (4, b"efgh")]);
        let other = log(folder.path(), "other", &[(4, b"efgX")]);
        assert_eq!((one.begin(), other.begin()), (0, 4));
        assert_eq!(one.checksum(4, 7).unwrap(), other.checksum(4, 7).unwrap());
        assert_ne!(one.checksum(4, 8).unwrap(), other.checksum(4, 8).unwrap());
        assert_eq!(one.checksum(2, 6).unwrap(), u64::from(crc32fast::hash(b"cdef")));
    }

    #[test]
    fn a_log_that_ends_too_soon_is_an_error_that_names_the_offset() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), "one", &[(0, b"abcd")]);
        assert!(log.checksum(0, 5).unwrap_err().to_string().ends_with("ends before offset 4"));
    }
}
