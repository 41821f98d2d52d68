//! Compressed message bodies. Clients compress and clients inflate; the broker looks inside only to check a batch, and never beyond a cap.

use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;
use ruzstd::decoding::StreamingDecoder;
use std::io::{self, Read, Write as _};
use thiserror::Error;

/// The `sysFlag` bits that name the algorithm.
const ALGORITHM_MASK: i32 = 0x300;
/// Largest window that a Zstandard body may ask for, in bytes: what the format's authors recommend, and more than the official client's levels use. The decoder
/// allocates it at once.
const ZSTD_WINDOW_MAX: u64 = 8 * 1024 * 1024;

/// How a body was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zlib, also what old clients mean when they name nothing.
    Zlib,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Reads a `sysFlag`: `None` when the body is not compressed.
    #[must_use]
    pub const fn of(sys_flag: i32) -> Option<Self> {
        if sys_flag & crate::record::sys_flag::COMPRESSED == 0 {
            return None;
        }
        match sys_flag & ALGORITHM_MASK {
            0x100 => Some(Self::Lz4),
            0x200 => Some(Self::Zstd),
            _ => Some(Self::Zlib),
        }
    }

    /// The `sysFlag` bits that say so.
    #[must_use]
    pub const fn sys_flag(self) -> i32 {
        let algorithm = match self {
            Self::Lz4 => 0x100,
            Self::Zstd => 0x200,
            Self::Zlib => 0x300,
        };
        crate::record::sys_flag::COMPRESSED | algorithm
    }
}

/// Why a body could not be inflated.
#[derive(Debug, Error)]
pub enum CompressError {
    /// There is more than allowed.
    #[error("the compressed body inflates to more than {0} bytes")]
    TooLarge(usize),
    /// The bytes are damaged, or of another algorithm.
    #[error("the compressed body is damaged: {0}")]
    Damaged(String),
}

/// Inflates a body to at most `max` bytes.
pub fn inflate(bytes: &[u8], compression: Compression, max: usize) -> Result<Vec<u8>, CompressError> {
    match compression {
        Compression::Zlib => read_capped(zlib_reader(bytes), max),
        Compression::Lz4 => read_capped(lz4_flex::frame::FrameDecoder::new(bytes), max),
        Compression::Zstd => inflate_zstd(bytes, max),
    }
}

/// Inflates zlib as it is read; the reader sets the cap.
pub(crate) fn zlib_reader(bytes: &[u8]) -> impl Read {
    ZlibDecoder::new(bytes)
}

fn inflate_zstd(bytes: &[u8], max: usize) -> Result<Vec<u8>, CompressError> {
    let decoder = StreamingDecoder::new_with_max_window_size(bytes, ZSTD_WINDOW_MAX.max(max as u64)).map_err(|e| CompressError::Damaged(e.to_string()))?;
    read_capped(decoder, max)
}

fn read_capped(reader: impl Read, max: usize) -> Result<Vec<u8>, CompressError> {
    let mut out = Vec::new();
    // One more than allowed tells "just as much" from "more".
    let limit = max.saturating_add(1) as u64;
    reader.take(limit).read_to_end(&mut out).map_err(|e| CompressError::Damaged(e.to_string()))?;
    if out.len() > max { Err(CompressError::TooLarge(max)) } else { Ok(out) }
}

/// Compresses a body with zlib, at the official client's default level.
#[must_use]
pub fn deflate_zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2 + 32), flate2::Compression::new(5));
    let written: io::Result<Vec<u8>> = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("a Vec takes every write")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).expect("a Vec takes every write");
        encoder.finish().expect("a Vec takes every write")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn each(bytes: &[u8]) -> [(Compression, Vec<u8>); 3] {
        [(Compression::Zlib, deflate_zlib(bytes)), (Compression::Lz4, lz4(bytes)), (Compression::Zstd, zstd(bytes))]
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        for (compression, bomb) in each(&vec![0; 50_000_000]) {
            assert!(bomb.len() < 1_000_000);
            assert!(matches!(inflate(&bomb, compression, 1_000_000), Err(CompressError::TooLarge(1_000_000))), "{compression:?}");
        }
    }

    #[test]
    fn a_cut_body_is_damaged() {
        for (compression, body) in each(b"some body, some body, some body") {
            assert!(matches!(inflate(&body[..body.len() - 9], compression, 1000), Err(CompressError::Damaged(_))), "{compression:?}");
        }
    }

    #[test]
    fn the_algorithm_is_read_from_the_flag() {
        for compression in [Compression::Zlib, Compression::Lz4, Compression::Zstd] {
            assert_eq!(Compression::of(compression.sys_flag()), Some(compression));
        }
        assert_eq!((Compression::of(1), Compression::of(0x300)), (Some(Compression::Zlib), None));
    }

    proptest! {
        #[test]
        fn what_was_compressed_is_inflated(body in proptest::collection::vec(0u8..4, 0..2000)) {
            for (compression, bytes) in each(&body) {
                prop_assert_eq!(inflate(&bytes, compression, body.len()).expect("fits"), &body[..]);
                if !body.is_empty() {
                    prop_assert!(matches!(inflate(&bytes, compression, body.len() - 1), Err(CompressError::TooLarge(_))));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for compression in [Compression::Zlib, Compression::Lz4, Compression::Zstd] {
                let _ = inflate(&bytes, compression, 1 << 16);
            }
        }
    }
}
