//! The clock of what is done many times a second.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use super::async_fd;

/// Ticks. The timers of tokio would wake this side twice for each: they keep what is further away than the rest of 64 ms
/// in slots, and look at a slot when it begins. The kernel wakes it once.
pub(super) struct Ticker {
    timer: TimerFd,
    /// The same timer.
    expired: AsyncFd<OwnedFd>,
    period: Duration,
}

impl Ticker {
    /// The first tick is at once.
    ///
    /// # Errors
    ///
    /// If the kernel gives no timer.
    pub(super) fn start(period: Duration) -> Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .context("cannot make a timer")?;
        let same = timer.as_fd().try_clone_to_owned().context("cannot copy a timer")?;
        let ticker = Self { timer, expired: async_fd(same)?, period };
        ticker.begin(Duration::from_nanos(1))?;
        Ok(ticker)
    }

    /// Waits for the next tick.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub(super) async fn tick(&self) -> Result<()> {
        // It is not read: it is ready again when it runs out again.
        self.expired.readable().await.context("cannot wait for a timer")?.clear_ready();
        Ok(())
    }

    /// The next tick is a period from now.
    ///
    /// # Errors
    ///
    /// If the timer cannot be set.
    pub(super) fn reset(&self) -> Result<()> {
        self.begin(self.period)
    }

    fn begin(&self, after: Duration) -> Result<()> {
        let after = Expiration::OneShot(TimeSpec::from_duration(after));
        self.timer.set(after, TimerSetTimeFlags::empty()).context("cannot set a timer")
    }
}
