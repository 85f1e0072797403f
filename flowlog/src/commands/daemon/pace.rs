//! How long the receiving side sleeps when it has read what was there.
//!
//! To be woken, and to look at tables and clocks once per read, costs as much as some dozen messages do, and the sender
//! pays, too: after a nap there are many. A nap is as long as it takes until enough of them have come, at the rate of the
//! time before, but never so long that a buffer fills.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// The shortest nap. With it, a burst of a million messages a second is read a thousand at a time: what is done once per
/// read no longer counts, and what was read is still in the cache.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest nap, also at the lowest rate: the next message may be the first of a burst.
const LONGEST: Duration = Duration::from_millis(10);

/// So many messages, or events of the ring buffer, are enough: that many make what is done once per read cheap.
const ENOUGH: u32 = 512;

/// What comes during a nap may take this part of a buffer.
const PART: usize = 16;

/// What a message takes in a receive buffer at most: half a page, and what the kernel keeps of it.
const MESSAGE_BYTES: usize = 2304;

/// What an event of the ring buffer takes, as a multiple of the smallest.
const EVENT_SIZES: usize = 4;

/// No kernel makes more messages a second. At this rate a nap after a quiet time must leave half of the buffer.
const FASTEST_PER_S: usize = 2_000_000;

/// What one source may have brought when a nap is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    messages: u32,
    longest: Duration,
}

impl Room {
    /// Of a receive buffer, whose size is given as the kernel reports it.
    pub(super) fn of_receive_buffer(bytes: usize) -> Self {
        let messages = bytes / MESSAGE_BYTES;
        let until_half = Duration::from_secs(1) * clamped(messages / 2) / clamped(FASTEST_PER_S);
        Self { messages: enough(messages / PART), longest: until_half.clamp(SHORTEST, LONGEST) }
    }

    /// Of a ring buffer that holds so many of the smallest events.
    pub(super) fn of_ring_buffer(events: usize) -> Self {
        Self { messages: enough(events / EVENT_SIZES / PART), longest: LONGEST }
    }

    /// How long the next nap may be where so many messages came in this time.
    fn nap(self, messages: u32, elapsed: Duration) -> Duration {
        let Self { messages: wanted, longest } = self;
        // Nobody sleeps for longer, however long nothing came before.
        let elapsed = elapsed.min(Duration::from_secs(1));
        let nap = elapsed.saturating_mul(wanted) / messages.max(1);
        nap.clamp(SHORTEST, longest)
    }
}

fn enough(messages: usize) -> u32 {
    clamped(messages).clamp(1, ENOUGH)
}

fn clamped(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The rate at which messages come, and what must not wait for the end of a nap.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the last reading was over.
    read: Instant,
    /// When the ring buffer is read at the latest, and ticks are due.
    due: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { read: now, due: now }
    }

    /// Ticks are due then.
    pub(super) fn is_due_at(&mut self, due: Instant) {
        self.due = due;
    }

    /// How long the next nap is: all was read by now, and since the last time so many messages came from these.
    pub(super) fn next_nap(&mut self, now: Instant, came: impl Iterator<Item = (Room, u32)>) -> Duration {
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.read, now));
        let nap = came.map(|(room, messages)| room.nap(messages, elapsed)).min().unwrap_or(SHORTEST);
        nap.min(self.due.saturating_duration_since(now)).max(SHORTEST)
    }
}

/// Sleeps so long, but no longer than the shortest nap when a signal comes or this becomes readable.
pub(super) fn nap(length: Duration, until: BorrowedFd<'_>) {
    let begun = Instant::now();
    let timeout = Timespec { tv_sec: 0, tv_nsec: length.subsec_nanos().into() };
    // Whoever is woken early looks at what there is. It cannot fail for another reason than a signal.
    let _ = rustix::event::poll(&mut [PollFd::new(&until, PollFlags::IN)], Some(&timeout));
    std::thread::sleep(SHORTEST.saturating_sub(begun.elapsed()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LARGE: usize = 128 << 20;

    #[test]
    fn at_a_low_rate_naps_are_long_and_in_a_burst_short() {
        let room = Room::of_receive_buffer(LARGE);
        assert_eq!(room.nap(0, MS), LONGEST);
        assert_eq!(room.nap(1, Duration::from_secs(3600)), LONGEST);
        // 5 000, 100 000 and a million a second.
        assert_eq!(room.nap(5, MS), LONGEST);
        assert_eq!(room.nap(200, MS * 2), MS * 512 / 100);
        assert_eq!(room.nap(10_000, MS * 10), SHORTEST);
    }

    #[test]
    fn what_comes_in_a_nap_takes_a_small_part_of_a_small_buffer() {
        let room = Room::of_receive_buffer(16 << 20);
        // A sixteenth are 455 messages. The half, 3640, comes in 1.82 ms at two million a second.
        assert_eq!(room.nap(400, MS), MS * 455 / 400);
        assert_eq!(room.nap(1, MS * 50), Duration::from_micros(1820));
        assert_eq!(Room::of_receive_buffer(2 << 20).nap(1, MS * 50), SHORTEST);
        let room = Room::of_ring_buffer((256 << 10) / 32);
        assert_eq!(room.nap(64, MS), MS * 2);
        assert_eq!(room.nap(1, MS * 50), LONGEST);
    }

    #[test]
    fn the_fullest_source_decides_and_ticks_are_in_time() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.is_due_at(start + MS * 50);
        let room = Room::of_receive_buffer(LARGE);
        let naps = |pace: &mut Pace, at, came: &[u32]| {
            pace.next_nap(at, came.iter().map(|messages| (room, *messages)))
        };
        assert_eq!(naps(&mut pace, start + MS, &[3, 256, 1]), MS * 2);
        assert_eq!(naps(&mut pace, start + MS * 42, &[3]), MS * 8);
        assert_eq!(naps(&mut pace, start + MS * 60, &[3]), SHORTEST, "a tick is late");
    }
}
