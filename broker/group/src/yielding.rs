//! How a replica that catches up yields to those who keep up: what it is given takes disk, processors and network from the log's end, where clients wait.
//!
//! The master measures how long an append waits for its confirmation. Now and then a catching-up pauses for a moment, to see how long that is without it; in between it takes
//! as much as leaves the wait nearly the same, but always enough to catch up. With nobody writing it goes as fast as it can.

use std::time::Duration;

use sluice_types::CommitLogOffset;

/// Of the smoothed numbers, so much is the newest one's.
const NEWEST: f64 = 1.0 / 8.0;
/// Nothing was written for that long: nobody waits.
const IDLE: Duration = Duration::from_millis(250);
/// Over which the log's growth is measured.
const GROWTH_EVERY: Duration = Duration::from_millis(100);

/// How the log's end fares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// How long an append waits for its confirmation.
    pub wait: Duration,
    /// Bytes of log a second.
    pub growth: f64,
}

/// Measures it.
#[derive(Debug, Default)]
pub(crate) struct TailMeter {
    /// Where the log ended when, of the append that is being watched.
    watched: Option<(CommitLogOffset, Duration)>,
    wait: f64,
    /// When an append was confirmed last.
    confirmed: Option<Duration>,
    counted: Option<(CommitLogOffset, Duration)>,
    growth: f64,
}

impl TailMeter {
    /// The log ends there, and is confirmed so far.
    pub(crate) fn saw(&mut self, now: Duration, appended: CommitLogOffset, confirmed: CommitLogOffset) {
        if let Some((_, since)) = self.watched.filter(|(end, _)| *end <= confirmed) {
            let (wait, first) = ((now.saturating_sub(since)).as_secs_f64(), self.wait == 0.0);
            self.wait = if first { wait } else { self.wait + (wait - self.wait) * NEWEST };
            (self.confirmed, self.watched) = (Some(now), None);
        }
        if self.watched.is_none() && appended > confirmed {
            self.watched = Some((appended, now));
        }
        let (from, since) = *self.counted.get_or_insert((appended, now));
        let passed = now.saturating_sub(since);
        if passed >= GROWTH_EVERY {
            let growth = from.distance_to(appended) as f64 / passed.as_secs_f64();
            self.growth += (growth - self.growth) * NEWEST;
            self.counted = Some((appended, now));
        }
    }

    /// `None`: nobody waits.
    pub(crate) fn tail(&self, now: Duration) -> Option<Tail> {
        let stalled = self.watched.map(|(_, since)| now.saturating_sub(since));
        let is_idle = self.confirmed.is_none_or(|at| now.saturating_sub(at) > IDLE);
        if is_idle && stalled.is_none() {
            return None;
        }
        let wait = Duration::from_secs_f64(self.wait).max(stalled.unwrap_or_default());
        Some(Tail { wait, growth: self.growth })
    }
}

/// Bytes that a replica lacks, from which on it catches up; less is on its way under any load.
pub(crate) const BEHIND_BYTES: u64 = 4 << 20;
/// What it is given at once while others write: so much they may have to wait for.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Between two looks at the wait without the catching-up, and how long one takes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// The wait may be longer by so much of itself, and by so much in any case.
const LONGER: f64 = 0.1;
const LONGER_BY: Duration = Duration::from_micros(200);
/// Bytes a second that are always given, and what the rate is multiplied with after a piece that let others wait longer, and after one that did not.
const RATE_MIN: f64 = 4e6;
const SLOWER: f64 = 0.9;
const FASTER: f64 = 1.02;
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// One replica's catching-up.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// The wait without it, and when that was looked at.
    quiet: Option<(Duration, Duration)>,
    is_looking: bool,
    /// Bytes a second that it may be given, and that it was given lately.
    rate: f64,
    given: f64,
    paused: Duration,
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { quiet: None, is_looking: false, rate: f64::INFINITY, given: 0.0, paused: Duration::ZERO }
    }
}

impl CatchUp {
    /// How long to pause after a piece of so many bytes that took so long.
    pub(crate) fn pause(&mut self, now: Duration, tail: Option<Tail>, bytes: usize, took: Duration) -> Duration {
        let Some(tail) = tail else {
            *self = Self::default();
            return Duration::ZERO;
        };
        if std::mem::take(&mut self.is_looking) {
            self.quiet = Some((tail.wait, now));
        } else {
            let given = bytes as f64 / (took + self.paused).as_secs_f64().max(1e-6);
            self.given += (given - self.given) * NEWEST;
        }
        let Some((quiet, _)) = self.quiet.filter(|(_, at)| now.saturating_sub(*at) < LOOK_EVERY) else {
            self.is_looking = true;
            return LOOK;
        };
        let is_longer = tail.wait > quiet.mul_f64(1.0 + LONGER) + LONGER_BY;
        self.rate = if is_longer { self.rate.min(self.given) * SLOWER } else { self.rate * FASTER };
        // Twice as fast as the log grows: else it would never be there.
        self.rate = self.rate.max(RATE_MIN).max(2.0 * tail.growth);
        self.paused = Duration::from_secs_f64(bytes as f64 / self.rate).saturating_sub(took).min(PAUSE_MAX);
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_millis(2);
    const QUIET: Duration = Duration::from_millis(1);

    /// A minute of catching up in which the wait is four times as long for as long as a piece is on its way. The share of the time that it took in the second half, and the
    /// mean wait as a multiple of the quiet one.
    fn minute(growth: f64, writes: bool) -> (f64, f64) {
        let (mut catch_up, mut now, mut wait) = (CatchUp::default(), Duration::ZERO, QUIET.as_secs_f64());
        let (mut sending, mut waits, mut all) = (0.0, 0.0, 0.0);
        let mut pass = |wait: &mut f64, time: Duration, is_sending: bool, counts: bool| {
            // As the meter smooths it, an append a millisecond.
            let target = QUIET.as_secs_f64() * if is_sending { 4.0 } else { 1.0 };
            *wait += (target - *wait) * (1.0 - (1.0 - NEWEST).powf(time.as_secs_f64() * 1000.0));
            if counts {
                (sending, all) = (sending + if is_sending { time.as_secs_f64() } else { 0.0 }, all + time.as_secs_f64());
                waits += *wait * time.as_secs_f64();
            }
        };
        while now < Duration::from_secs(60) {
            let counts = now > Duration::from_secs(30);
            pass(&mut wait, PIECE, true, counts);
            now += PIECE;
            let tail = Tail { wait: Duration::from_secs_f64(wait), growth };
            let pause = catch_up.pause(now, writes.then_some(tail), PIECE_BYTES, PIECE);
            pass(&mut wait, pause, false, counts);
            now += pause;
        }
        (sending / all, waits / all / QUIET.as_secs_f64())
    }

    #[test]
    fn catching_up_takes_what_lets_others_wait_hardly_longer_and_all_while_nobody_writes() {
        let (share, wait) = minute(1e6, true);
        assert!((0.03..0.25).contains(&share) && wait < 1.6, "{share} of the time, {wait} times the wait");
        assert_eq!(minute(1e6, false).0, 1.0);
    }

    #[test]
    fn catching_up_is_twice_as_fast_as_the_log_grows_whoever_waits() {
        // A piece in 2 ms is 131 MB/s: half of that is as fast as the log can grow.
        let (share, _) = minute(40e6, true);
        let rate = share * PIECE_BYTES as f64 / PIECE.as_secs_f64();
        assert!(rate >= 2.0 * 40e6 * 0.95, "{rate} bytes a second");
    }

    #[test]
    fn the_wait_of_the_logs_end_is_measured_and_a_stall_is_seen_while_it_lasts() {
        let (at, millis) = (CommitLogOffset, Duration::from_millis);
        let mut meter = TailMeter::default();
        assert_eq!(meter.tail(millis(0)), None);
        for turn in 0..200 {
            let (now, end) = (turn * 10, turn * 1000);
            meter.saw(millis(now), at(end + 1000), at(end));
            meter.saw(millis(now + 3), at(end + 1000), at(end + 1000));
        }
        let tail = meter.tail(millis(2000)).expect("it is written");
        assert!(tail.wait.abs_diff(millis(3)) < Duration::from_micros(10) && (tail.growth - 1e5).abs() < 1.5e4, "{tail:?}");
        meter.saw(millis(2001), at(300_000), at(200_000));
        assert_eq!(meter.tail(millis(2901)).map(|tail| tail.wait), Some(millis(900)));
        meter.saw(millis(2902), at(300_000), at(300_000));
        assert_eq!(meter.tail(millis(3200)), None, "nobody writes any more");
    }
}
