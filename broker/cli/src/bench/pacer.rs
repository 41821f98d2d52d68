//! Waiting for a point in time more exactly than the runtime's timer, which counts whole milliseconds: latency is measured from the intended send time, so a
//! late start would be counted as the server's fault.

use crate::error::CliError;
use std::time::Instant;

#[cfg(target_os = "linux")]
mod clock {
    use super::{CliError, Instant};
    use rustix::{
        fd::OwnedFd,
        time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
    };
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel.
    pub(crate) struct Pacer(AsyncFd<OwnedFd>);

    impl Pacer {
        pub(crate) fn new() -> Result<Self, CliError> {
            let failed = |e: std::io::Error| CliError::Failed(format!("no timer can be made: {e}; raise the limit of open files"));
            let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
            #[expect(deprecated, reason = "it is the constructor without unsafe, and an owned descriptor keeps the promise that it asks for")]
            AsyncFd::new(fd).map(Self).map_err(failed)
        }

        /// Waits until `at`, or a little less: the caller looks at the clock again.
        pub(crate) async fn until(&self, at: Instant) {
            let wait = at.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return tokio::task::yield_now().await;
            }
            let value = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            let armed = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).is_ok();
            match self.0.readable().await {
                Ok(mut ready) if armed => ready.clear_ready(),
                _ => tokio::time::sleep(wait).await,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod clock {
    use super::{CliError, Instant};

    /// The runtime's timer.
    pub(crate) struct Pacer;

    impl Pacer {
        pub(crate) fn new() -> Result<Self, CliError> {
            Ok(Self)
        }

        pub(crate) async fn until(&self, at: Instant) {
            tokio::time::sleep_until(at.into()).await;
        }
    }
}

pub(crate) use clock::Pacer;
