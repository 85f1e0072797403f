//! With which tuples raw sockets have sent packets: what a slot of that table means, and how both sides find it.
//!
//! A packet that a process makes by hand has no socket with its tuple, so the egress hook notes the tuple
//! here, and user space looks for those of flows that no socket has. Nothing is sent for a packet: a scanner
//! makes 100 000 a second. The table has a fixed size; where it is full, the oldest tuple gives way, and what
//! is not found any more is not known, which is counted.
//!
//! The programs of all CPUs write without a lock, and user space reads meanwhile. Each slot is sealed: what was
//! read while it was written is of no tuple.

/// How many slots one tuple may be in.
pub const SLOTS: usize = 8;

/// How many buckets the table has: 262 144 slots, as many as a connection tracking table of the usual size
/// has entries, in 10 MiB.
pub const BUCKETS: usize = 32_768;

/// For how long a tuple should be known, in nanoseconds: the flow of a packet that nobody answers ends two minutes
/// later.
const WANTED_NS: u64 = 120_000_000_000;

/// Stands for a socket where it is not its owner that sends.
pub const SHARED: u64 = u64::MAX;

/// The packets of one tuple that raw sockets sent. Times are `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct RawSent {
    /// The tuple and all other fields in one number.
    pub seal: u64,
    /// Cookie of the socket that sent last, or [`SHARED`].
    pub socket_cookie: u64,
    /// When this socket sent first, since another one did.
    pub first_ns: u64,
    /// When it sent last.
    pub last_ns: u64,
    /// When another socket sent last. Zero: none did.
    pub others_ns: u64,
}

/// Slots that are found together.
pub type Bucket = [RawSent; SLOTS];

/// A tuple as it is on the way: after NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTuple {
    /// Cookie of the network namespace of the socket.
    pub netns_cookie: u64,
    /// Source address as words in network order; IPv4 as v4-mapped.
    pub src: [u32; 4],
    /// Destination address, in the same form.
    pub dst: [u32; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// Source port in the upper and destination port in the lower half. Of ICMP and ICMPv6 the id, and type
    /// and code. Zero for protocols without.
    pub ports: u32,
}

/// One step of a hash. Not for secrets: the seed keeps others from choosing tuples that collide.
#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

#[inline(always)]
fn mix_address(hash: u64, words: [u32; 4]) -> u64 {
    let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    mix(mix(hash, pair(words[0], words[1])), pair(words[2], words[3]))
}

impl RawTuple {
    /// A number that stands for the tuple.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        let hash = mix(mix(seed, self.netns_cookie), u64::from(self.protocol) << 32 | u64::from(self.ports));
        mix_address(mix_address(hash, self.src), self.dst)
    }
}

/// The bucket of a tuple.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "there are fewer buckets")]
pub fn bucket_of(hash: u64) -> u32 {
    (hash & (BUCKETS as u64 - 1)) as u32
}

impl RawSent {
    #[inline(always)]
    fn sealed(self, hash: u64) -> Self {
        let Self { seal: _, socket_cookie, first_ns, last_ns, others_ns } = self;
        let seal = mix(mix(mix(mix(hash, socket_cookie), first_ns), last_ns), others_ns);
        Self { seal, ..self }
    }

    #[inline(always)]
    fn is_of(self, hash: u64) -> bool {
        self.seal == self.sealed(hash).seal && self.socket_cookie != 0
    }
}

/// Notes that a socket sends a packet. Says whether a tuple had to give way whose flow may still be there.
///
/// # Safety
///
/// `bucket` points to the slots of the bucket of `hash`, which may be read and written. Others may do so at
/// the same time.
#[inline(always)]
pub unsafe fn note(bucket: *mut RawSent, hash: u64, socket_cookie: u64, now_ns: u64) -> bool {
    let mut oldest = 0;
    let mut oldest_ns = u64::MAX;
    let mut number = 0;
    let mut known = None;
    while number < SLOTS {
        // SAFETY: the caller vouches for all slots.
        let slot = unsafe { read(bucket.add(number)) };
        if slot.is_of(hash) {
            oldest = number;
            known = Some(slot);
            break;
        }
        if slot.last_ns < oldest_ns {
            (oldest, oldest_ns) = (number, slot.last_ns);
        }
        number += 1;
    }
    let begin =
        |others_ns: u64| RawSent { seal: 0, socket_cookie, first_ns: now_ns, last_ns: now_ns, others_ns };
    let slot = match known {
        Some(known) if known.socket_cookie == socket_cookie => RawSent { last_ns: now_ns, ..known },
        Some(known) => begin(known.last_ns),
        None => begin(0),
    };
    // SAFETY: as above. The mask tells the verifier what it cannot see.
    unsafe { write(bucket.add(oldest & (SLOTS - 1)), slot.sealed(hash)) };
    known.is_none() && oldest_ns != 0 && now_ns < oldest_ns.saturating_add(WANTED_NS)
}

/// Word by word, as on this target all else is done byte by byte.
///
/// # Safety
///
/// `from` may be read.
#[inline(always)]
unsafe fn read(from: *const RawSent) -> RawSent {
    // SAFETY: as for this function.
    unsafe {
        RawSent {
            seal: (&raw const (*from).seal).read_volatile(),
            socket_cookie: (&raw const (*from).socket_cookie).read_volatile(),
            first_ns: (&raw const (*from).first_ns).read_volatile(),
            last_ns: (&raw const (*from).last_ns).read_volatile(),
            others_ns: (&raw const (*from).others_ns).read_volatile(),
        }
    }
}

/// # Safety
///
/// `to` may be written.
#[inline(always)]
unsafe fn write(to: *mut RawSent, slot: RawSent) {
    // SAFETY: as for this function.
    unsafe {
        (&raw mut (*to).seal).write_volatile(slot.seal);
        (&raw mut (*to).socket_cookie).write_volatile(slot.socket_cookie);
        (&raw mut (*to).first_ns).write_volatile(slot.first_ns);
        (&raw mut (*to).last_ns).write_volatile(slot.last_ns);
        (&raw mut (*to).others_ns).write_volatile(slot.others_ns);
    }
}

const _: () = {
    assert!(size_of::<RawSent>() == 5 * 8);
    assert!(SLOTS.is_power_of_two() && BUCKETS.is_power_of_two());
};

/// What user space does with the table.
#[cfg(feature = "user")]
mod user {
    use core::fmt::Debug;
    use core::ptr::{self, NonNull};
    use std::boxed::Box;
    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::vec;

    use super::{BUCKETS, Bucket, RawSent, RawTuple, SLOTS, bucket_of, note, read};

    /// The table.
    pub trait Sent: Debug + Send {
        /// What is known of a tuple.
        fn find(&self, tuple: &RawTuple) -> Option<RawSent>;

        /// How many tuples were forgotten whose flows may still have been there.
        fn forgotten(&self) -> u64;
    }

    /// The table of the programs, as it is in memory: a system call for each look would cost more, and keep
    /// programs of tracepoints from running.
    #[derive(Debug)]
    pub struct Shared {
        slots: NonNull<RawSent>,
        seed: u64,
    }

    const BYTES: usize = (BUCKETS + 1) * size_of::<Bucket>();

    impl Shared {
        /// Maps the table of programs with this seed into memory, to be read.
        ///
        /// # Errors
        ///
        /// Where the kernel refuses it.
        pub fn map(table: BorrowedFd<'_>, seed: u64) -> io::Result<Self> {
            // SAFETY: a new mapping, whose place the kernel chooses.
            let start = unsafe {
                libc::mmap(ptr::null_mut(), BYTES, libc::PROT_READ, libc::MAP_SHARED, table.as_raw_fd(), 0)
            };
            match NonNull::new(start.cast()) {
                Some(slots) if start != libc::MAP_FAILED => Ok(Self { slots, seed }),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    // SAFETY: whoever has it may read the memory, on any thread.
    unsafe impl Send for Shared {}

    impl Sent for Shared {
        fn find(&self, tuple: &RawTuple) -> Option<RawSent> {
            let hash = tuple.hash(self.seed);
            let start = bucket_of(hash) as usize * SLOTS;
            // SAFETY: the mapping has all buckets and lives as long as this. The kernel writes meanwhile, which
            // the seal of a slot shows.
            let slot = |number: usize| unsafe { read(self.slots.as_ptr().add(start + number)) };
            (0..SLOTS).map(slot).find(|slot| slot.is_of(hash))
        }

        fn forgotten(&self) -> u64 {
            // SAFETY: as above; the last bucket is of the count, which is its first word.
            unsafe { self.slots.as_ptr().add(BUCKETS * SLOTS).cast::<u64>().read_volatile() }
        }
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            // SAFETY: the mapping of this, which nobody uses any more.
            unsafe { libc::munmap(self.slots.as_ptr().cast(), BYTES) };
        }
    }

    /// A table without programs.
    #[derive(Clone, Debug)]
    pub struct Noted {
        buckets: Box<[Bucket]>,
        forgotten: u64,
    }

    impl Default for Noted {
        fn default() -> Self {
            Self { buckets: vec![Bucket::default(); BUCKETS].into(), forgotten: 0 }
        }
    }

    impl Noted {
        /// Notes a packet, as the programs do.
        pub fn note(&mut self, tuple: &RawTuple, socket_cookie: u64, now_ns: u64) {
            let hash = tuple.hash(0);
            if let Some(bucket) = self.buckets.get_mut(bucket_of(hash) as usize) {
                // SAFETY: the slots of a bucket that nobody else has.
                let has_forgotten = unsafe { note(bucket.as_mut_ptr(), hash, socket_cookie, now_ns) };
                self.forgotten += u64::from(has_forgotten);
            }
        }
    }

    impl Sent for Noted {
        fn find(&self, tuple: &RawTuple) -> Option<RawSent> {
            let hash = tuple.hash(0);
            self.buckets.get(bucket_of(hash) as usize)?.iter().copied().find(|slot| slot.is_of(hash))
        }

        fn forgotten(&self) -> u64 {
            self.forgotten
        }
    }
}

#[cfg(feature = "user")]
pub use user::{Noted, Sent, Shared};
