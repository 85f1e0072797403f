//! What is known of the sockets and processes of this host: the tables, fed from the ring buffer.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use caps::{CapSet, Capability};
use flowlog_common::{COMM_LEN, PathLayout, TaskLayout};
use flowlog_reader::gaps::{Cause, Gap, Pending, Stage};
use nix::time::ClockId;
use tracing::{debug, warn};

use super::clock::{self, now_ns, now_us};
use super::pace::Room;
use super::said::Doubling;
use super::watched::Watched;
use crate::attribution::clocks::Set;
use crate::attribution::clocks::read::boot_ns;
use crate::attribution::cmdline::Mode;
use crate::attribution::ebpf::{
    Ebpf, HANDFUL, HOST_CGROUPS, KERNEL_TYPES, Layouts, ON_BRANCH, ONLY_RELATIVES, RingEvent, Untold, layouts,
};
use crate::attribution::join::Tables;
use crate::attribution::origins::Origins;
use crate::attribution::processes::walk;
use crate::causes::one_line;
use crate::time::to_us;

/// No process has this number.
const NOBODY: u32 = 0;

/// What is known of this host, and where it comes from.
pub(super) struct Local {
    pub(super) ebpf: Option<Ebpf>,
    pub(super) tables: Tables,
    pub(super) clock: clock::Watch,
    pub(super) origins: Origins,
    /// What is recorded of arguments.
    cmdline: Mode,
    /// The events that are taken in now.
    events: Vec<RingEvent>,
    /// How many were taken in since [`Local::take_read`].
    read: usize,
    /// The name of this program's tasks, and of those of another flowlog. At its start it takes a copy of each
    /// socket for a moment (`seed`). Where the owner closes the socket just then, that copy is the last one,
    /// and its end would make flowlog the one who closed.
    own_comm: [u8; COMM_LEN],
    /// `CLOCK_MONOTONIC` until which every loss of events is known: all that was there has been read since.
    complete_ns: u64,
    /// Events that did not fit into the ring buffer.
    pub(super) lost: u64,
    /// The time of the events that were lost and are not declared yet.
    blind: Option<Blind>,
    /// An event has been waited for in vain, and still hides all later ones.
    is_stuck: bool,
    /// Events of sockets were lost: those that are open are looked for again.
    again: Again,
    /// Sockets.
    evicted: Forgotten,
    /// Tuples of packets made by hand.
    forgotten: Forgotten,
    /// Command lines that were said to be left out.
    said_refused_cmdlines: Doubling,
}

/// A time of which events are missing; microseconds since 1970.
struct Blind {
    from_us: i64,
    to_us: i64,
    events: u64,
}

/// Events that a call of [`Local::drain`] should have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Missed {
    /// They did not fit into the ring buffer.
    lost: u64,
    /// The kernel did not run the programs that would have told of them.
    skipped: u64,
    /// One that a program has begun and not finished hides all later ones, after it was waited for in vain.
    is_stuck: bool,
    /// It did so before, too.
    was_stuck: bool,
}

/// What was forgotten of one kind, because there was too much of it.
#[derive(Debug, Default)]
struct Forgotten {
    declared: u64,
    said: Doubling,
}

impl Forgotten {
    /// Declares how many more than before there are of `what`, and says it each time when they are twice as many: they
    /// come in thousands.
    fn declare(&mut self, forgotten: u64, what: &str, gaps: &mut Pending) {
        if forgotten > self.declared {
            let now_us = now_us();
            let gap = Gap::new(Cause::TableFull, Stage::Attribute, now_us, now_us);
            let detail = format!("forgot {} {what}", forgotten - self.declared);
            gaps.add(Gap { detail: Some(detail), ..gap });
            self.declared = forgotten;
        }
        if self.said.is_due(forgotten) {
            warn!("forgot {forgotten} {what}: their flows have no process");
        }
    }
}

impl Local {
    /// Loads eBPF where that is wanted. Where it cannot be, flows are logged without processes.
    ///
    /// # Errors
    ///
    /// If nothing tells when somebody sets the clock.
    pub(super) fn start(
        wanted: bool,
        ring_buffer_bytes: u32,
        memory_bytes: usize,
        cmdline: Mode,
    ) -> Result<Self> {
        let clock = clock::Watch::start()?;
        let mut tables = Tables::new(memory_bytes, cmdline);
        let mut ebpf = if wanted {
            Ebpf::load(ring_buffer_bytes, &known_layouts(cmdline))
                .inspect_err(|error| {
                    debug!("{error:?}");
                    let advice = error.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
                    warn!("flows are logged without processes: {}{advice}", one_line(error));
                })
                .inspect(|ebpf| {
                    if ebpf.is_on_branch() {
                        warn!("{ON_BRANCH}; {HOST_CGROUPS}");
                    }
                    if !ebpf.tells_syscalls() {
                        warn!("{ONLY_RELATIVES}");
                    }
                })
                .ok()
        } else {
            warn!("flows are logged without processes: eBPF is turned off");
            None
        };
        if let Some(raw_sent) = ebpf.as_mut().and_then(Ebpf::take_raw_sent) {
            tables.raw.watch(Box::new(raw_sent), now_ns(ClockId::CLOCK_MONOTONIC));
        }
        Ok(Self {
            ebpf,
            tables,
            clock,
            cmdline,
            // After the programs: what is made meanwhile is told by them.
            origins: Origins::open(wanted),
            events: Vec::new(),
            read: 0,
            own_comm: own_comm(),
            complete_ns: now_ns(ClockId::CLOCK_MONOTONIC),
            lost: 0,
            blind: None,
            is_stuck: false,
            again: Again::default(),
            evicted: Forgotten::default(),
            forgotten: Forgotten::default(),
            said_refused_cmdlines: Doubling::default(),
        })
    }

    /// Takes in all events that are there, and sees how the clocks stand: then flows can be joined that ended before
    /// the call.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.clock.check()?;
        let since_ns = self.complete_ns;
        let missed = self.read_events(since_ns)?;
        if missed != Missed::default() {
            self.note_missed(missed, since_ns);
        }
        Ok(())
    }

    /// Reads all events that are there, and says which are missing since `since_ns`.
    fn read_events(&mut self, since_ns: u64) -> Result<Missed> {
        let Self {
            ebpf: Some(ebpf),
            tables,
            clock,
            origins,
            events,
            read,
            own_comm,
            complete_ns,
            is_stuck,
            ..
        } = self
        else {
            return Ok(Missed::default());
        };
        let mut missed = Missed::default();
        // A storm of events cannot keep the caller here: these are more than the ring buffer holds, so all that was
        // there before the call.
        let mut unfinished =
            UnfinishedEvent { was_stuck: std::mem::take(is_stuck), ..UnfinishedEvent::default() };
        let mut handfuls = 0;
        while handfuls <= ebpf.capacity() / HANDFUL {
            let before_ns = now_ns(ClockId::CLOCK_MONOTONIC);
            let Untold { lost, skipped, is_all } = ebpf.read(events)?;
            if lost + skipped > 0 {
                missed.lost += lost;
                missed.skipped += skipped;
                tables.processes_are_unknown(since_ns, now_ns(ClockId::CLOCK_MONOTONIC));
            }
            tables.look_ahead(events);
            for event in &mut *events {
                if let RingEvent::SocketRelease(release) = event
                    && release.closer.comm == *own_comm
                {
                    release.closer.tgid = NOBODY;
                }
                match event {
                    RingEvent::CgroupMade(made, path) => origins.made(made.id, made.level, path),
                    RingEvent::CgroupRemoved(removed) => origins.removed(removed.id),
                    _ => {}
                }
                tables.apply(event, &clock.clocks, |owner| origins.resolve(owner));
            }
            *read += events.len();
            unfinished.was_stuck &= events.is_empty();
            if events.len() == HANDFUL {
                handfuls += 1;
                continue;
            }
            match unfinished.next(!events.is_empty(), ebpf.has_more()?, Instant::now()) {
                Next::Read => continue,
                Next::Wait => {
                    std::thread::sleep(UNFINISHED_NAP);
                    continue;
                }
                Next::Done => {}
                // What comes behind it is not known when flows are joined.
                Next::GiveUp => *is_stuck = true,
            }
            // Not before: what was lost while the ring buffer was full is known when all of it has been read.
            if is_all {
                *complete_ns = before_ns;
            }
            break;
        }
        missed.is_stuck = *is_stuck;
        // It counts once, however long it takes.
        missed.was_stuck = unfinished.was_stuck && *is_stuck;
        Ok(missed)
    }

    /// How many events were read since the last call, and how many the ring buffer has room for.
    pub(super) fn take_read(&mut self) -> Option<(Room, u32)> {
        let read = u32::try_from(std::mem::take(&mut self.read)).unwrap_or(u32::MAX);
        Some((Room::of_ring_buffer(self.ebpf.as_ref()?.capacity()), read))
    }

    /// Events are missing since `since_ns`.
    fn note_missed(&mut self, missed: Missed, since_ns: u64) {
        let Missed { lost, skipped, is_stuck, was_stuck } = missed;
        // Only programs of processes are skipped.
        if lost > 0 || is_stuck {
            self.tables.sockets_are_unknown(since_ns, now_ns(ClockId::CLOCK_MONOTONIC));
            self.again.want(Instant::now());
        }
        let events = lost + skipped + u64::from(is_stuck && !was_stuck);
        let from_us = to_us(self.clock.clocks.realtime_ns(since_ns));
        let blind = self.blind.get_or_insert(Blind { from_us, to_us: from_us, events: 0 });
        blind.to_us = now_us();
        blind.events += events;
        if events == 0 {
            return;
        }
        self.lost += events;
        warn!(
            "{events} events of sockets and processes were lost: flows of this time may have no process; if this \
             repeats, raise `attribution.ring_buffer`"
        );
        self.seed();
    }

    /// The same within work that takes long: where the last time was some time ago.
    pub(super) fn drain_now_and_then(&mut self, drained: &mut Instant) -> Result<()> {
        if drained.elapsed() < super::DRAIN_INTERVAL {
            return Ok(());
        }
        *drained = Instant::now();
        self.drain()
    }

    /// Forgets sockets that closed long ago.
    pub(super) fn expire(&mut self) {
        self.tables.expire(now_ns(ClockId::CLOCK_MONOTONIC));
    }

    /// Finds the sockets that are open, where what was known of them was lost some time ago.
    pub(super) fn look_again(&mut self, watched: &[Watched]) -> Result<()> {
        let now = Instant::now();
        if self.is_stuck || !self.again.is_due(now) {
            return Ok(());
        }
        self.seed_sockets(watched, true)?;
        self.again.has_looked(Instant::now());
        Ok(())
    }

    /// What was known of sockets is lost, and that is over: they are looked for again soon.
    pub(super) fn want_again_soon(&mut self) {
        self.again.want_soon(Instant::now());
    }

    /// Declares what was lost of sockets and processes since the last call.
    pub(super) fn declare_lost(&mut self, gaps: &mut Pending) {
        if let Some(Blind { from_us, to_us, events }) = self.blind.take() {
            let gap = Gap::new(Cause::RingbufFull, Stage::Attribute, from_us, to_us);
            gaps.add(Gap { detail: Some(format!("{events} events of sockets and processes")), ..gap });
        }
        self.declare_set_clock(gaps);
        self.say_refused_cmdlines();
        let (evicted, forgotten) = (self.tables.evicted(), self.tables.raw.forgotten());
        self.evicted.declare(
            evicted,
            "sockets, because all that is remembered takes more than `attribution.memory`",
            gaps,
        );
        self.forgotten.declare(
            forgotten,
            "addresses and ports of packets from raw sockets, because there are too many",
            gaps,
        );
    }

    /// Declares that somebody set the clock: times of flows jumped, and a flow of this moment may have been known by two
    /// times.
    fn declare_set_clock(&mut self, gaps: &mut Pending) {
        let Some(Set { by_ns, after_ns, before_ns }) = self.clock.take_set() else { return };
        let by_s = Duration::from_nanos(by_ns.unsigned_abs()).as_secs_f64();
        let direction = if by_ns < 0 { "back" } else { "forward" };
        warn!(
            "somebody set the clock {direction} by {by_s:.6} s: the times of flows jump, and flows of this moment may have \
             `ambiguous` processes"
        );
        // As it was before, and as it is now.
        let times_us = [after_ns, before_ns].map(|at_ns| to_us(self.clock.clocks.realtime_ns(at_ns)));
        let [from_us, to_us] = [times_us[0].min(times_us[1]), times_us[0].max(times_us[1])];
        let gap = Gap::new(Cause::ClockSet, Stage::Attribute, from_us, to_us);
        gaps.add(Gap { detail: Some(format!("the clock was set {direction} by {by_s:.6} s")), ..gap });
    }

    /// Says what could not be kept of processes.
    fn say_refused_cmdlines(&mut self) {
        let refused = self.tables.processes.refused_cmdlines();
        if self.said_refused_cmdlines.is_due(refused) {
            warn!(
                "left out {refused} command lines, because those of other processes take 64 MiB: rows of these \
                 processes have no `cmdline`"
            );
        }
    }

    /// Takes in the processes that /proc shows, where no event told of them.
    pub(super) fn seed(&mut self) {
        let Self { ebpf: Some(_), tables, origins, cmdline, .. } = self else { return };
        origins.walk();
        if !is_initial_pid_namespace() {
            warn!(
                "flowlog runs in a pid namespace of its own, so it does not know the programs of processes that are \
                 older than flowlog; run it in the host's pid namespace, as `docker run --pid=host` does"
            );
            return;
        }
        if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_PTRACE).unwrap_or(false) {
            warn!(
                "the sockets and programs of other users that are older than flowlog are not known: found no \
                 CAP_SYS_PTRACE; run it as root, or with that"
            );
        }
        let seeded = walk(boot_ns(), *cmdline, |process| {
            tables.processes.seed(process, now_ns(ClockId::CLOCK_MONOTONIC));
        });
        if let Err(error) = seeded {
            warn!(
                "the programs of processes that are older than flowlog are not known: cannot read /proc: {error}"
            );
        }
    }
}

/// How long is waited for a program that has begun an event.
const UNFINISHED_WAIT: Duration = Duration::from_millis(100);

/// How long at once.
const UNFINISHED_NAP: Duration = Duration::from_micros(50);

/// How often what came meanwhile is read: on a busy host there is always something.
const MAX_PASSES: u32 = 3;

/// How long after they were looked for they are not looked for again: it reads all of /proc. Each time twice as long,
/// while losses go on.
const AGAIN_PAUSE: Duration = Duration::from_secs(5);

/// The longest of these pauses.
const AGAIN_PAUSE_MAX: Duration = Duration::from_secs(300);

/// When sockets are looked for again.
#[derive(Debug, Default)]
struct Again {
    /// When they were first not known.
    wanted: Option<Instant>,
    /// When they were looked for, and the pause after that.
    looked: Option<(Instant, Duration)>,
}

impl Again {
    fn want(&mut self, now: Instant) {
        self.wanted.get_or_insert(now);
    }

    /// However often they were looked for before.
    fn want_soon(&mut self, now: Instant) {
        if let Some((_, pause)) = &mut self.looked {
            *pause = AGAIN_PAUSE;
        }
        self.want(now);
    }

    /// They were looked for, which took until now.
    fn has_looked(&mut self, now: Instant) {
        if let Some((looked, _)) = &mut self.looked {
            *looked = now;
        }
    }

    /// Whether they are to be looked for now; then the pause begins.
    fn is_due(&mut self, now: Instant) -> bool {
        let Some(wanted) = self.wanted else { return false };
        if self.looked.is_some_and(|(looked, pause)| now < looked + pause) {
            return false;
        }
        let pause = match self.looked {
            // Soon after the last pause.
            Some((looked, pause)) if wanted < looked + pause * 2 => (pause * 2).min(AGAIN_PAUSE_MAX),
            _ => AGAIN_PAUSE,
        };
        self.looked = Some((now, pause));
        self.wanted = None;
        true
    }
}

/// An event that a program has begun and not finished hides all later ones.
#[derive(Debug, Default)]
struct UnfinishedEvent {
    /// It was waited for in an earlier call, in vain.
    was_stuck: bool,
    passes: u32,
    since: Option<Instant>,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing is left that was there before.
    Done,
    /// There is more.
    Read,
    /// There is more, which cannot be read yet.
    Wait,
    /// It cannot be read for so long that flows must not wait any more.
    GiveUp,
}

impl UnfinishedEvent {
    /// After a reading that gave all that could be read, and whether it gave any.
    fn next(&mut self, has_read: bool, has_more: bool, now: Instant) -> Next {
        self.passes += 1;
        if !has_more || (has_read && self.passes >= MAX_PASSES) {
            return Next::Done;
        }
        if has_read {
            self.since = None;
            return Next::Read;
        }
        if self.was_stuck {
            return Next::GiveUp;
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < UNFINISHED_WAIT { Next::Wait } else { Next::GiveUp }
    }
}

/// Where the programs find what they read. Without the kernel's types that is left out.
fn known_layouts(cmdline: Mode) -> Layouts {
    let layouts = layouts().unwrap_or_else(|error| {
        warn!(
            "command lines and login users of new processes are not known, and their `exe` is what was given to \
             `execve`: cannot use `{KERNEL_TYPES}`: {error}; use a kernel with CONFIG_DEBUG_INFO_BTF"
        );
        Layouts::default()
    });
    if layouts.paths == PathLayout::default() && layouts.tasks != TaskLayout::default() {
        warn!(
            "the `exe` of new processes is what was given to `execve`: `{KERNEL_TYPES}` lacks the fields that lead to \
             the whole path"
        );
    }
    if cmdline == Mode::Off {
        // Arguments that nobody wants do not leave the kernel.
        return Layouts { tasks: TaskLayout { arg_start: 0, ..layouts.tasks }, ..layouts };
    }
    layouts
}

/// The name of the main thread, as the kernel has it.
fn own_comm() -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    // Where /proc cannot be read there are no copies of sockets either.
    let name = std::fs::read("/proc/self/comm").unwrap_or_default();
    comm.iter_mut()
        .zip(name.split(|byte| *byte == b'\n').next().unwrap_or_default())
        .for_each(|(to, from)| *to = *from);
    comm
}

/// Whether the numbers in /proc are those that the eBPF programs see: those of the initial pid namespace,
/// whose inode is `PROC_PID_INIT_INO` of `linux/proc_ns.h`.
pub(super) fn is_initial_pid_namespace() -> bool {
    const PROC_PID_INIT_INO: u64 = 0xEFFF_FFFC;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == PROC_PID_INIT_INO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_finished_is_waited_for() {
        let start = Instant::now();
        assert_eq!(UnfinishedEvent::default().next(true, false, start), Next::Done);
        assert_eq!(UnfinishedEvent::default().next(false, false, start), Next::Done);
        let mut unfinished = UnfinishedEvent::default();
        assert_eq!(unfinished.next(true, true, start), Next::Read);
        assert_eq!(unfinished.next(false, true, start), Next::Wait);
        assert_eq!(unfinished.next(false, true, start + UNFINISHED_WAIT / 2), Next::Wait);
        assert_eq!(unfinished.next(false, true, start + UNFINISHED_WAIT), Next::GiveUp);
    }

    #[test]
    fn an_event_that_was_waited_for_in_vain_is_not_waited_for_again() {
        let now = Instant::now();
        let mut unfinished = UnfinishedEvent { was_stuck: true, ..UnfinishedEvent::default() };
        assert_eq!(unfinished.next(false, true, now), Next::GiveUp);
        // Another one.
        unfinished.was_stuck = false;
        assert_eq!(unfinished.next(false, true, now), Next::Wait);
    }

    #[test]
    fn sockets_are_looked_for_soon_after_a_loss_and_rarely_while_losses_go_on() {
        let start = Instant::now();
        let mut again = Again::default();
        assert!(!again.is_due(start));
        let mut looks = Vec::new();
        for tenth in 0..3_000_u32 {
            let now = start + Duration::from_millis(100) * tenth;
            again.want(now);
            if again.is_due(now) {
                looks.push((now - start).as_secs());
            }
        }
        assert_eq!(looks, [0, 5, 15, 35, 75, 155]);
        let later = start + Duration::from_secs(3_600);
        assert!(again.is_due(later), "what was lost since the last look");
        let calm = later + Duration::from_secs(3_600);
        again.want(calm);
        assert!(again.is_due(calm));
        again.want(calm);
        assert!(!again.is_due(calm));
        assert!(again.is_due(calm + AGAIN_PAUSE));
    }

    #[test]
    fn a_busy_host_does_not_keep_the_reader() {
        let mut unfinished = UnfinishedEvent::default();
        let nexts = [(); 3].map(|()| unfinished.next(true, true, Instant::now()));
        assert_eq!(nexts, [Next::Read, Next::Read, Next::Done]);
    }
}
