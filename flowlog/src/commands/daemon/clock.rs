//! The clocks: connection tracking speaks of `CLOCK_REALTIME`, eBPF of `CLOCK_MONOTONIC`, and /proc of
//! `CLOCK_BOOTTIME`.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::ClockId;
use tracing::warn;

pub(super) use crate::attribution::clocks::read::now_ns;
use crate::attribution::clocks::read::{self, SLOW_NS, compare, sample};
use crate::attribution::clocks::{Clocks, Sample, Set};
use crate::time::{NS_PER_S, to_us};

/// The clocks are fast where they are compared in less: then they are compared before each join, which tells of a
/// change before the kernel does.
const FAST_NS: u64 = 2_000;

/// How often slow clocks are compared: each time may bound their difference better.
const SAMPLE_EVERY_NS: u64 = 50_000_000;

/// Samples that are taken when the clock was set: the first ones of the new era.
const SAMPLES_AFTER: usize = 16;

/// Knows how the clocks of this host stand to each other.
pub(super) struct Watch {
    pub(super) clocks: Clocks,
    /// Ends with `ECANCELED` when somebody sets `CLOCK_REALTIME`.
    timer: TimerFd,
    is_fast: bool,
    /// `CLOCK_MONOTONIC` when they were compared last.
    sampled_ns: u64,
    /// What was not declared yet: when the clock was set.
    set: Option<Set>,
}

impl Watch {
    /// Compares the clocks, and begins to look whether somebody sets one.
    ///
    /// # Errors
    ///
    /// If the kernel gives no timer.
    pub(super) fn start() -> Result<Self> {
        let timer = TimerFd::new(
            timerfd::ClockId::CLOCK_REALTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )
        .context("cannot make a timer that notices when somebody sets the clock")?;
        arm(&timer)?;
        let (clocks, took_ns) = compare();
        let error_ns = clocks.error_ns();
        if error_ns > SLOW_NS {
            warn!(
                "the clocks of this host can be compared only to within {} us, expected at most {} us: connections that \
                 reuse a port within this time have `ambiguous` processes; choose a faster clock source, such as tsc",
                to_us(error_ns),
                to_us(SLOW_NS),
            );
        }
        Ok(Self { clocks, timer, is_fast: took_ns < FAST_NS, sampled_ns: 0, set: None })
    }

    /// Sees whether the clock was set, which is due before each join.
    ///
    /// # Errors
    ///
    /// If the timer fails.
    pub(super) fn check(&mut self) -> Result<()> {
        let before_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        let was_set = self.was_set()?;
        if was_set || self.is_fast || before_ns >= self.sampled_ns.saturating_add(SAMPLE_EVERY_NS) {
            self.sampled_ns = before_ns;
            self.add(sample(), was_set);
        } else {
            self.clocks.verified(before_ns);
        }
        Ok(())
    }

    /// What is to be declared: the clock was set so often since the last call, the last time like this.
    pub(super) fn take_set(&mut self) -> Option<Set> {
        self.set.take()
    }

    fn add(&mut self, sample: Sample, was_set: bool) {
        let Some(set) = self.clocks.add(sample, was_set) else { return };
        for _ in 0..SAMPLES_AFTER {
            let _ = self.clocks.add(read::sample(), false);
        }
        self.set = Some(match self.set {
            Some(before) => {
                Set { by_ns: before.by_ns.saturating_add(set.by_ns), after_ns: before.after_ns, ..set }
            }
            None => set,
        });
    }

    /// Whether the kernel says that the clock was set since the last call.
    fn was_set(&self) -> Result<bool> {
        match nix::unistd::read(&self.timer, &mut [0; 8]) {
            Err(Errno::ECANCELED) => {
                arm(&self.timer)?;
                Ok(true)
            }
            // It does not run out before the end of time.
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("cannot find out whether somebody set the clock"),
        }
    }
}

/// Lets the timer wait for the end of time: only a clock that is set ends it.
fn arm(timer: &TimerFd) -> Result<()> {
    let end_of_time = Expiration::OneShot(TimeSpec::seconds(i64::MAX / NS_PER_S.cast_signed() - 1));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(end_of_time, flags).context("cannot wait for the clock to be set")
}

/// The wall clock in microseconds since 1970, as the flow log has it.
pub(super) fn now_us() -> i64 {
    to_us(now_ns(ClockId::CLOCK_REALTIME))
}
