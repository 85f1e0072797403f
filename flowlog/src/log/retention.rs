//! Which files may be deleted: pure; files, free space and time are arguments.
//!
//! Whole files go, the oldest first. A file that is younger than a bound asks for stays, but no bound
//! protects a file from another one.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use flowlog_reader::ledger::DeleteReason;

/// Bounds of the files that are kept; beyond any of them the oldest are deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Age of a file, counted from the end of the hour of its rows; of the day for gaps.
    pub age: Option<Duration>,
    /// Size of all files.
    pub bytes: Option<u64>,
    /// Free space of the file system.
    pub min_free_bytes: Option<u64>,
}

impl RetentionLimits {
    /// Whether there is no bound.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// End of the time of its rows.
    pub until: SystemTime,
    /// Below the output directory.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What has to go, oldest first, and why. `free_bytes` is the free space of the file system.
pub fn to_delete(
    mut files: Vec<Kept>,
    limits: RetentionLimits,
    free_bytes: u64,
    now: SystemTime,
) -> Vec<(Kept, DeleteReason)> {
    let RetentionLimits { age, bytes, min_free_bytes } = limits;
    files.sort();
    let mut kept_bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let mut free_bytes = free_bytes;
    let mut go = Vec::new();
    for file in files {
        // What is not over yet has no age.
        let is_old = age.is_some_and(|limit| now.duration_since(file.until).is_ok_and(|found| found > limit));
        let reason = if is_old {
            DeleteReason::Age
        } else if bytes.is_some_and(|limit| kept_bytes > limit) {
            DeleteReason::Bytes
        } else if min_free_bytes.is_some_and(|limit| free_bytes < limit) {
            DeleteReason::MinFree
        } else {
            break;
        };
        kept_bytes = kept_bytes.saturating_sub(file.bytes);
        free_bytes = free_bytes.saturating_add(file.bytes);
        go.push((file, reason));
    }
    go
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const OFF: RetentionLimits = RetentionLimits { age: None, bytes: None, min_free_bytes: None };

    /// Ten files of 100 bytes, one an hour, given in no order; it is the end of the tenth hour.
    #[track_caller]
    fn check(limits: RetentionLimits, free_bytes: u64, expected: &[(u32, DeleteReason)]) {
        let file = |hour: u32| Kept {
            until: UNIX_EPOCH + HOUR * hour,
            path: PathBuf::from(hour.to_string()),
            bytes: 100,
        };
        let files = [3, 1, 2, 10, 9, 8, 4, 5, 7, 6].map(file).to_vec();
        let gone = to_delete(files, limits, free_bytes, UNIX_EPOCH + HOUR * 10);
        let expected: Vec<_> = expected.iter().map(|&(hour, reason)| (file(hour), reason)).collect();
        assert_eq!(gone, expected);
    }

    #[test]
    fn each_bound_takes_the_oldest() {
        use DeleteReason::{Age, Bytes, MinFree};
        check(OFF, 0, &[]);
        check(RetentionLimits { age: Some(HOUR * 8), ..OFF }, 0, &[(1, Age)]);
        check(RetentionLimits { age: Some(HOUR * 7), ..OFF }, 0, &[(1, Age), (2, Age)]);
        check(RetentionLimits { bytes: Some(850), ..OFF }, 0, &[(1, Bytes), (2, Bytes)]);
        check(RetentionLimits { bytes: Some(1000), ..OFF }, 0, &[]);
        check(RetentionLimits { min_free_bytes: Some(250), ..OFF }, 100, &[(1, MinFree), (2, MinFree)]);
        let all = RetentionLimits { age: Some(HOUR * 8), bytes: Some(850), min_free_bytes: Some(350) };
        check(all, 50, &[(1, Age), (2, Bytes), (3, MinFree)]);
    }
}
