//! Reads the clocks of this host.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{Clocks, Sample};

/// Samples at the start: together they take less than 20 ms even if a clock takes 100 us to be read.
const FIRST_SAMPLES: usize = 64;

/// From this error on, in nanoseconds, clocks are slow: a port that another process uses again within it is ambiguous.
pub const SLOW_NS: u64 = 100_000;

/// Where the kernel tells by how much the clocks of this time namespace differ from those of the host.
const TIME_NAMESPACE: &str = "/proc/self/timens_offsets";

/// The time in nanoseconds.
pub fn now_ns(clock: ClockId) -> u64 {
    // Cannot fail for these clocks; a time before 1970 counts as 1970.
    let now = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads the clocks once.
pub fn sample() -> Sample {
    sample_of(ClockId::CLOCK_MONOTONIC)
}

fn sample_of(clock: ClockId) -> Sample {
    let before_ns = now_ns(clock);
    let realtime_ns = now_ns(ClockId::CLOCK_REALTIME);
    Sample { before_ns, realtime_ns, after_ns: now_ns(clock) }
}

/// Compares the clocks as well as a few milliseconds allow. Also gives how long the quickest reading took, in
/// nanoseconds.
pub fn compare() -> (Clocks, u64) {
    let samples = [(); FIRST_SAMPLES].map(|()| sample());
    let took_ns = samples.iter().map(Sample::took_ns).min().unwrap_or(u64::MAX);
    let mut clocks = Clocks::new(samples[0]);
    for sample in samples {
        // If the clock was set just now, what comes next is compared with the new one.
        let _ = clocks.add(sample, false);
    }
    (clocks, took_ns)
}

/// When the host began to run, in `CLOCK_REALTIME` nanoseconds: for times that /proc tells in steps of 10 ms, which are
/// less exact than any sample.
pub fn boot_ns() -> u64 {
    let samples = (0..5).map(|_| sample_of(ClockId::CLOCK_BOOTTIME));
    samples.min_by_key(Sample::took_ns).map_or(0, |sample| Clocks::new(sample).realtime_ns(0))
}

/// Whether `CLOCK_MONOTONIC` of this process is another one than that of the eBPF programs, which is the host's.
pub fn is_in_time_namespace() -> bool {
    // Kernels without time namespaces have no such file.
    let offsets = fs::read_to_string(TIME_NAMESPACE).unwrap_or_default();
    offsets.lines().filter_map(|line| line.strip_prefix("monotonic")).any(is_offset)
}

/// Parses seconds and nanoseconds.
fn is_offset(numbers: &str) -> bool {
    numbers.split_whitespace().any(|number| number != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_of_this_host_can_be_compared() {
        let (clocks, took_ns) = compare();
        assert!(took_ns < 1_000_000_000, "{took_ns} ns");
        let now = sample();
        let realtime_ns = clocks.realtime_ns(now.before_ns);
        let error_ns = clocks.error_ns() + now.took_ns();
        assert!(realtime_ns.abs_diff(now.realtime_ns) <= error_ns, "{realtime_ns} {now:?}");
        assert!(boot_ns() < now.realtime_ns);
    }

    #[test]
    fn offsets_of_a_time_namespace_are_parsed() {
        assert!(!is_offset("           0         0"));
        assert!(is_offset("       86400         0"));
        assert!(is_offset("          -1         0"));
        assert!(!is_in_time_namespace());
    }
}
