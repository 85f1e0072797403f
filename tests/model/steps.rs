//! The steps of a schedule, and which comes next.

use rand::RngExt;
use rand_xorshift::XorShiftRng;

use super::world::World;

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Entries appear. `silent` ones send no event of their end.
    Make {
        entries: u32,
        expire: bool,
        silent: bool,
    },
    /// Somebody removes some entries, one by one.
    Remove(usize),
    /// Somebody removes all entries.
    Flush,
    /// Time passes until all entries that expire have expired. The kernel notices at once, or later.
    Expire {
        noticed: bool,
    },
    /// Somebody lists all entries and sets their counters back.
    Zero,
    /// SIGHUP.
    Rotate,
    /// SIGSTOP: the daemon reads and writes nothing until [`Step::Thaw`].
    Freeze,
    Thaw,
    /// Another listener asks for reliable delivery, and reads nothing: the kernel repeats events.
    Lag,
    /// It reads what there is.
    Read,
    /// It goes away.
    Leave,
    /// System calls of the writing thread fail.
    Fail(&'static str),
    /// They fail no more.
    Mend,
    FillDisk,
    FreeDisk,
    /// All that must be recorded is published.
    Settle,
    /// SIGKILL.
    Kill,
    /// SIGKILL at a call of the writing thread, which is one of those that publish.
    KillAt {
        call: &'static str,
        when: u32,
    },
    /// SIGTERM.
    Stop,
    Start(Start),
}

/// How a daemon starts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    /// It has a small receive buffer.
    pub(super) small_buffer: bool,
    /// It publishes often.
    pub(super) small_files: bool,
    /// So many entries are removed meanwhile.
    pub(super) removed_meanwhile: usize,
}

const FAULTS: [&str; 7] = [
    "pwrite64:error=EIO:when=1..2",
    "write:error=ENOSPC:when=1..2",
    "fdatasync:error=EIO:when=1..2",
    "fsync:error=EIO:when=1..2",
    "rename:error=EIO:when=1..2",
    "unlink:error=EIO:when=1..2",
    "openat:error=EMFILE:when=1..2",
];

const CALLS: [&str; 5] = ["pwrite64", "write", "fsync", "rename", "unlink"];

/// A step that is possible now.
pub(super) fn next(random: &mut XorShiftRng, world: &World) -> Step {
    if !world.is_up() && random.random_ratio(1, 3) {
        return start(random);
    }
    loop {
        let (step, is_possible) = any(random, world);
        if is_possible {
            return step;
        }
    }
}

/// A step, and whether it is possible now.
fn any(random: &mut XorShiftRng, world: &World) -> (Step, bool) {
    let is_up = world.is_up();
    let works = is_up && !world.is_frozen() && !world.has_fault();
    match random.random_range(0..100) {
        0..20 => {
            let (entries, expire) = (random.random_range(1..400), random.random_ratio(1, 4));
            // Of entries that are made while somebody listens, the kernel tells.
            let silent = !is_up && random.random_bool(0.5);
            (Step::Make { entries, expire, silent }, true)
        }
        20..32 => (Step::Remove(random.random_range(1..50)), world.has_entries()),
        32..42 => (Step::Flush, world.has_entries()),
        42..46 => (Step::Expire { noticed: random.random_bool(0.5) }, world.has_expiring()),
        46..48 => (Step::Zero, true),
        48..53 => (Step::Rotate, is_up),
        53..58 => (Step::Freeze, works),
        58..61 => (Step::Thaw, world.is_frozen()),
        61..65 => (Step::Lag, !world.has_other()),
        65..67 => (Step::Read, world.has_other()),
        67..69 => (Step::Leave, world.has_other()),
        69..74 => (Step::Fail(FAULTS[random.random_range(0..FAULTS.len())]), works),
        74..76 => (Step::Mend, world.has_fault()),
        76..78 => (Step::FillDisk, works && !world.is_full()),
        78..80 => (Step::FreeDisk, world.is_full()),
        80..83 => (Step::Settle, is_up),
        83..88 => (Step::Kill, is_up),
        88..91 => {
            let call = CALLS[random.random_range(0..CALLS.len())];
            (Step::KillAt { call, when: random.random_range(1..4) }, works)
        }
        91..96 => (Step::Stop, is_up),
        _ => (start(random), !is_up),
    }
}

fn start(random: &mut XorShiftRng) -> Step {
    Step::Start(Start {
        small_buffer: random.random_bool(0.5),
        small_files: random.random_bool(0.5),
        removed_meanwhile: if random.random_bool(0.5) { random.random_range(1..100) } else { 0 },
    })
}
