//! Which events there may be too few of: those that found no room in the ring buffer, and those of programs that
//! the kernel skipped.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use flowlog_common::{ARGS_LEN, NAME_LEN, PATH_LEN, ProcessExec};

/// What the ring buffer takes for an event of this many bytes: eight in front of each, and whole words.
const fn room_bytes(event_bytes: usize) -> usize {
    8 + event_bytes.next_multiple_of(8)
}

/// The largest event.
const MAX_ROOM_BYTES: usize = room_bytes(size_of::<ProcessExec>() + PATH_LEN + NAME_LEN + ARGS_LEN);

/// How long the count may change after the ring buffer was full: a program that was interrupted counts later.
const LATE: Duration = Duration::from_secs(1);

/// How old the answer of /proc may be where no event has come since.
const SKIPS_EVERY: Duration = Duration::from_millis(100);

/// Tells whether the ring buffer may have been full, by what was read of it.
///
/// To ask the kernel for its count takes a BPF system call. Where the kernel preempts that, it skips the programs
/// of tracepoints on this processor until the call goes on, so a call for each read would lose what it looks for.
#[derive(Debug)]
pub(super) struct Fullness {
    /// An event may not fit where this much is not read yet.
    full_bytes: usize,
    /// What was read since the kernel was asked.
    read_bytes: usize,
    ask_until: Option<Instant>,
}

impl Fullness {
    /// Of a ring buffer of this size.
    pub(super) fn new(ring_buffer_bytes: usize) -> Self {
        Self { full_bytes: ring_buffer_bytes.saturating_sub(MAX_ROOM_BYTES), read_bytes: 0, ask_until: None }
    }

    /// An event was read.
    pub(super) fn read(&mut self, event_bytes: usize) {
        self.read_bytes += room_bytes(event_bytes);
    }

    /// Whether to ask the kernel now for what was lost before the events that were read. All that was in the
    /// ring buffer at one time since the last question has been read since.
    pub(super) fn must_ask(&mut self, now: Instant) -> bool {
        if self.read_bytes >= self.full_bytes {
            self.ask_until = Some(now + LATE);
        }
        let must_ask = self.ask_until.is_some_and(|until| now <= until);
        if must_ask {
            self.read_bytes = 0;
        }
        must_ask
    }
}

/// How often the kernel skipped programs, as /proc tells it (since Linux 6.7 of tracepoints): another way than by
/// BPF system calls, for the same reason.
#[derive(Debug)]
pub(super) struct Skipped {
    programs: Vec<File>,
    before: u64,
    asked: Option<Instant>,
}

impl Skipped {
    /// Of these programs.
    ///
    /// # Errors
    ///
    /// Where /proc does not have them.
    pub(super) fn of(programs: impl Iterator<Item = RawFd>) -> io::Result<Self> {
        let open = |program| File::open(format!("/proc/self/fdinfo/{program}"));
        Ok(Self { programs: programs.map(open).collect::<io::Result<_>>()?, before: 0, asked: None })
    }

    /// Whether to ask the kernel now. A program that was skipped makes what comes after it wrong, so each event needs
    /// the question. Without events it only tells since when the next loss may have been.
    pub(super) fn must_ask(&mut self, is_event: bool, now: Instant) -> bool {
        let must_ask = is_event || self.asked.is_none_or(|asked| now >= asked + SKIPS_EVERY);
        if must_ask {
            self.asked = Some(now);
        }
        must_ask
    }

    /// How often since the last call.
    ///
    /// # Errors
    ///
    /// Where /proc cannot be read.
    pub(super) fn new_ones(&mut self) -> io::Result<u64> {
        let mut total = 0;
        for program in &self.programs {
            let mut text = [0; 1024];
            let len = program.read_at(&mut text, 0)?;
            total += skips(text.get(..len).unwrap_or_default());
        }
        Ok(total.saturating_sub(std::mem::replace(&mut self.before, total)))
    }
}

/// Parses the line with `recursion_misses:` and the number; none where the kernel does not count.
fn skips(text: &[u8]) -> u64 {
    let lines = std::str::from_utf8(text).unwrap_or_default().lines();
    let count = lines.filter_map(|line| line.strip_prefix("recursion_misses:")).next();
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_where_the_ring_buffer_may_have_been_full_and_for_a_while_after() {
        let mut fullness = Fullness::new(MAX_ROOM_BYTES + 4000);
        let start = Instant::now();
        assert!(!fullness.must_ask(start));
        // Four kilobytes that are read leave no room for the largest event while they are not.
        for _ in 0..3 {
            fullness.read(1000);
            assert!(!fullness.must_ask(start));
        }
        fullness.read(1000);
        assert!(fullness.must_ask(start));
        assert!(fullness.must_ask(start + LATE));
        assert!(!fullness.must_ask(start + LATE * 2));
    }

    #[test]
    fn of_a_ring_buffer_that_is_hardly_larger_than_an_event_it_is_always_asked() {
        assert!(Fullness::new(4096).must_ask(Instant::now()));
    }

    #[test]
    fn skips_are_asked_for_with_each_event_and_now_and_then() {
        let mut skipped = Skipped::of(std::iter::empty()).unwrap();
        let start = Instant::now();
        assert!(skipped.must_ask(false, start));
        assert!(!skipped.must_ask(false, start + SKIPS_EVERY / 2));
        assert!(skipped.must_ask(true, start + SKIPS_EVERY / 2));
        assert!(!skipped.must_ask(false, start + SKIPS_EVERY));
        assert!(skipped.must_ask(false, start + SKIPS_EVERY * 3 / 2));
    }

    #[test]
    fn skips_are_parsed() {
        let told = "pos:\t0\nprog_type:\t5\nrun_cnt:\t0\nrecursion_misses:\t12\nverified_insns:\t90\n";
        assert_eq!(skips(told.as_bytes()), 12);
        assert_eq!(skips(b"pos:\t0\n"), 0);
    }
}
