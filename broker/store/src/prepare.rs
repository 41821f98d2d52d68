//! The next segment's file, made ready in step with the segment that fills.
//!
//! It is written once before it is used, because overwriting written blocks syncs in about half the time of writing fresh ones. Written all at once, its zeros keep the
//! disk busy for as long as they take, and the log's own syncs wait behind them; so they go a little at a time.

use crate::segment;
use sluice_env::{Disk, File};
use std::{io, sync::Arc};

/// Zeros that are written and synced at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// The least that is written ahead, whatever of the segment before is filled.
const LEAD_BYTES: u64 = 8 << 20;

/// The segment that comes next while it is not ready.
pub(crate) struct Preparing {
    file: Arc<dyn File>,
    /// How much of it is written.
    done: u64,
}

/// How far the next segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The writer may take it.
    Ready,
    /// Not as far as it should be by now. With it: whether the segment before may be full first.
    Behind { by_much: bool },
    /// As far as it need be until more of the segment before is filled.
    Ahead,
}

/// Takes the preparation a piece further; the segment before is filled to `filled` bytes of `bytes`. After an error the next call begins anew.
pub(crate) fn step(preparing: &mut Option<Preparing>, disk: &dyn Disk, bytes: u64, prewrite: bool, filled: u64) -> io::Result<Progress> {
    // A recycled one may have come meanwhile.
    if segment::is_prepared(disk, bytes) {
        *preparing = None;
        return Ok(Progress::Ready);
    }
    let mut current = match preparing.take() {
        Some(current) => current,
        None => Preparing::begin(disk, bytes)?,
    };
    let wanted = if prewrite { wanted(filled, bytes) } else { 0 };
    current.go_on(wanted).or_else(|error| segment::give_up(disk, segment::PREPARING, error))?;
    if !prewrite || current.done == bytes {
        disk.rename(segment::PREPARING, segment::PREPARED).or_else(|error| segment::give_up(disk, segment::PREPARING, error))?;
        return Ok(Progress::Ready);
    }
    let progress = match current.done < wanted {
        true => Progress::Behind { by_much: current.done < filled },
        false => Progress::Ahead,
    };
    *preparing = Some(current);
    Ok(progress)
}

/// How much of the next segment is to be written when so much of one is filled: all of it when the one before is half full.
fn wanted(filled: u64, bytes: u64) -> u64 {
    filled.saturating_mul(2).saturating_add(LEAD_BYTES).min(bytes)
}

impl Preparing {
    fn begin(disk: &dyn Disk, bytes: u64) -> io::Result<Self> {
        let file = segment::reserve(disk, segment::PREPARING, bytes)?;
        Ok(Self { file, done: 0 })
    }

    /// One piece further towards `wanted`, durably.
    fn go_on(&mut self, wanted: u64) -> io::Result<()> {
        let to = wanted.min(self.done + PIECE_BYTES);
        if self.done < to || self.done == 0 {
            segment::zero(&*self.file, self.done, to)?;
            self.file.sync_data()?;
            self.done = to.max(self.done);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_env::{
        OpenMode,
        sim::{self, HookedDisk, Op},
    };
    use std::sync::atomic::{AtomicU64, Ordering};

    const BYTES: u64 = 32 << 20;

    fn world() -> Arc<dyn Disk> {
        let (env, _, _) = sim::env(1);
        env.disk.create_dir(segment::DIRECTORY).expect("made");
        env.disk
    }

    /// Steps until no more is to be done; how many pieces that took.
    fn steps(preparing: &mut Option<Preparing>, disk: &dyn Disk, filled: u64) -> (u64, Progress) {
        for n in 1.. {
            match step(preparing, disk, BYTES, true, filled).expect("no fault") {
                Progress::Behind { .. } => {}
                progress => return (n, progress),
            }
        }
        unreachable!()
    }

    #[test]
    fn the_next_segment_is_written_in_step_with_the_one_that_fills_and_a_piece_at_a_time() {
        let (disk, mut preparing) = (world(), None);
        assert_eq!(steps(&mut preparing, &*disk, 0), (8, Progress::Ahead));
        assert_eq!(steps(&mut preparing, &*disk, 0), (1, Progress::Ahead), "nothing was filled meanwhile");
        assert_eq!(steps(&mut preparing, &*disk, 4 << 20), (8, Progress::Ahead));
        assert!(disk.open(segment::PREPARED, OpenMode::Read).is_err(), "the writer would meet a file that is still being written");
        assert_eq!(steps(&mut preparing, &*disk, BYTES / 2), (16, Progress::Ready));
        assert_eq!(disk.open(segment::PREPARED, OpenMode::Read).and_then(|file| file.len()).expect("there"), BYTES);
    }

    #[test]
    fn a_segment_that_fills_before_the_next_is_ready_is_told_apart() {
        let (disk, mut preparing) = (world(), None);
        assert_eq!(step(&mut preparing, &*disk, BYTES, true, 0).expect("no fault"), Progress::Behind { by_much: false });
        assert_eq!(step(&mut preparing, &*disk, BYTES, true, 3 << 20).expect("no fault"), Progress::Behind { by_much: true });
    }

    #[test]
    fn what_need_not_be_written_is_ready_at_once() {
        let (disk, mut preparing) = (world(), None);
        assert_eq!(step(&mut preparing, &*disk, BYTES, false, 0).expect("no fault"), Progress::Ready);
    }

    #[test]
    fn a_recycled_segment_is_taken_in_place_of_one_that_is_half_made() {
        let (disk, mut preparing) = (world(), None);
        assert_eq!(steps(&mut preparing, &*disk, 0).1, Progress::Ahead);
        segment::create(&*disk, 0, BYTES, 0).expect("made");
        segment::recycle(&*disk, 0).expect("renamed");
        assert_eq!(step(&mut preparing, &*disk, BYTES, true, 0).expect("no fault"), Progress::Ready);
        assert!(preparing.is_none());
    }

    #[test]
    fn after_an_error_nothing_is_left_and_it_begins_anew() {
        for (fails, nth) in [(Op::SetLen, 1), (Op::Allocate, 1), (Op::Write, 3), (Op::Sync, 3), (Op::Rename, 1)] {
            let left = AtomicU64::new(nth);
            let disk = HookedDisk::new(world(), move |op, _| match op == fails && left.fetch_sub(1, Ordering::SeqCst) == 1 {
                true => Err(io::Error::from(io::ErrorKind::StorageFull)),
                false => Ok(()),
            });
            let mut preparing = None;
            let failed = (0..).find_map(|_| step(&mut preparing, &disk, BYTES, true, BYTES).err());
            assert_eq!(failed.map(|error| error.kind()), Some(io::ErrorKind::StorageFull), "{fails:?}");
            assert!(preparing.is_none() && disk.open(segment::PREPARING, OpenMode::Read).is_err(), "{fails:?}: a half-made file is left");
            assert_eq!(steps(&mut preparing, &disk, BYTES), (32, Progress::Ready), "{fails:?}");
        }
    }
}
