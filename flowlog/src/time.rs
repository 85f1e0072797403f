//! Units of time: the kernel's nanoseconds, the microseconds of columns and gaps, and `SystemTime`.
//!
//! Names of values carry their unit (`_ns`, `_us`, `_s`), and what is made of what is here alone. Times of the wall clock
//! count from 1970. A time that does not fit becomes the last or the first one that does, where it can be seen.

use std::time::{Duration, SystemTime};

/// Nanoseconds of a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds as microseconds.
pub fn to_us(ns: u64) -> i64 {
    i64::try_from(ns / 1000).unwrap_or(i64::MAX)
}

/// A time as nanoseconds since 1970.
pub fn ns_since_1970(time: SystemTime) -> u64 {
    u64::try_from(since_1970(time).as_nanos()).unwrap_or(u64::MAX)
}

/// A time as microseconds since 1970.
pub fn us_since_1970(time: SystemTime) -> i64 {
    i64::try_from(since_1970(time).as_micros()).unwrap_or(i64::MAX)
}

/// How long 1970 is ago. Before it is as good as then.
pub fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_stays_at_the_end() {
        assert_eq!([to_us(0), to_us(1999), to_us(u64::MAX)], [0, 1, 18_446_744_073_709_551]);
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let after = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_999);
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
        assert_eq!([before, after, late].map(ns_since_1970), [0, 1_999, u64::MAX]);
        assert_eq!([before, after, late].map(us_since_1970), [0, 1, i64::MAX]);
    }
}
