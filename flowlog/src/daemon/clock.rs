//! The clocks: connection tracking speaks of `CLOCK_REALTIME`, eBPF of `CLOCK_MONOTONIC`, and /proc of
//! `CLOCK_BOOTTIME`.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long the two clocks may take to be read one after the other, for their difference to be of use:
/// well below what the join by time allows for.
const MAX_SAMPLE_NS: u64 = 5_000;

/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
pub(super) fn realtime_offset_ns() -> Option<u64> {
    realtime_less_ns(ClockId::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME` less another clock; `None` where this thread had to wait each time between reading the
/// one and the other.
pub(super) fn realtime_less_ns(clock: ClockId) -> Option<u64> {
    let attempt = || {
        let before_ns = now_ns(clock);
        let realtime_ns = now_ns(ClockId::CLOCK_REALTIME);
        let took_ns = now_ns(clock).saturating_sub(before_ns);
        (took_ns, realtime_ns.saturating_sub(before_ns + took_ns / 2))
    };
    let (took_ns, offset_ns) = (0..5).map(|_| attempt()).min()?;
    (took_ns <= MAX_SAMPLE_NS).then_some(offset_ns)
}

/// The time in nanoseconds.
pub(super) fn now_ns(clock: ClockId) -> u64 {
    // Cannot fail for these clocks; a time before 1970 counts as 1970.
    let now = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The wall clock in microseconds since 1970, as the flow log has it.
pub(super) fn now_us() -> i64 {
    micros(now_ns(ClockId::CLOCK_REALTIME))
}

/// Nanoseconds as the microseconds of the flow log.
pub(super) fn micros(ns: u64) -> i64 {
    i64::try_from(ns / 1000).unwrap_or(i64::MAX)
}
