//! What one row says of a flow, before it becomes columns. Plain values, which those who make records, those who take
//! them and those who write them share.

mod command_line;

use std::sync::Arc;

use flowlog_common::Owner;
use flowlog_reader::gaps::Gap;

pub use self::command_line::CommandLine;
pub(crate) use self::command_line::Kept;
use crate::flow::Flow;

/// Stands behind the path of a program that nobody has resolved: it may be relative, or a link.
pub(crate) const AS_GIVEN: &str = " (as given)";

/// One row of the flow log before it becomes columns.
#[derive(Clone, Copy, Debug)]
pub struct FlowRecord<'a> {
    /// What the kernel said.
    pub flow: &'a Flow,
    /// How that came to be known.
    pub sighting: Sighting,
    /// `CLOCK_REALTIME` in nanoseconds when the message was received.
    pub received_ns: u64,
    /// Whether the counters are all that there was: of the last message, and not set back meanwhile.
    pub counters_final: bool,
    /// Inode of the network namespace whose connection tracking table this is.
    pub observer_netns: u64,
    /// Its name in `ip netns`, or its path, as it is watched.
    pub observer_netns_name: Option<&'a Arc<str>>,
    /// When its last packet was, an estimate; `CLOCK_REALTIME` in nanoseconds.
    pub last_seen_ns: Option<u64>,
    /// Where it went, seen from the observer.
    pub direction: Option<Direction>,
    /// The local process at the initiating end.
    pub src: Option<Attribution<'a>>,
    /// The local process at the responding end.
    pub dst: Option<Attribution<'a>>,
}

/// Who takes what the receiving side makes of messages: the flow log, and whoever else wants it.
///
/// It is called for each flow, on the receiving thread, in the order in which flows become known. So it must not wait, and
/// takes what it keeps.
pub trait Sink {
    /// Takes a record.
    fn record(&mut self, record: &FlowRecord<'_>);

    /// Takes a loss.
    fn lose(&mut self, gap: Gap);
}

/// How what is said of a flow came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The kernel said that it destroyed the entry.
    Destroyed,
    /// The entry was in one dump and in later ones no more, and the kernel said nothing. The flow is what
    /// the last dump had.
    Vanished,
    /// The entry is in a dump: an interim record of a flow that goes on.
    Alive,
    /// A saved event said that the kernel destroyed it.
    ImportedEnd {
        /// The event said that a program had asked for that.
        by_program: bool,
    },
    /// It was in a saved list, and what became of it is not known.
    ImportedEntry {
        /// When the list was made, where its lines tell; `CLOCK_REALTIME` in nanoseconds.
        listed_ns: Option<u64>,
    },
}

impl Sighting {
    /// Whether it comes from text, which has a part of what the kernel says.
    pub fn is_imported(self) -> bool {
        matches!(self, Self::ImportedEnd { .. } | Self::ImportedEntry { .. })
    }
}

/// Where a flow went, seen from the observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A local process began it, with somebody elsewhere.
    Outbound,
    /// Somebody elsewhere began it, with a local process.
    Inbound,
    /// Both ends are local.
    Local,
    /// Neither is.
    Forwarded,
}

/// How the process at one end of a flow is known, and which it is.
#[derive(Clone, Copy, Debug)]
pub struct Attribution<'a> {
    /// How.
    pub method: Method,
    /// Which; `None` where it is ambiguous. If only the program is known, any of its processes.
    pub end: Option<End<'a>>,
}

/// How the process at one end of a flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// This connected socket, which its owner connected.
    Socket,
    /// The local port of a socket without a connection.
    Endpoint,
    /// This accepted socket, with the owner of the listener.
    Inherited,
    /// This accepted socket, with the process that closed it.
    Closer,
    /// A socket that is older than the programs, with the process that had it when the daemon started.
    Seed,
    /// No socket has the flow, and this process sent its packets with a raw socket.
    Raw,
    /// Several processes could be it, all of this program, user and cgroup.
    Program,
    /// Several processes could be it.
    Ambiguous,
}

/// The process and socket at one end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The process.
    pub holder: &'a Holder,
    /// `SO_COOKIE`, where it is one socket.
    pub cookie: Option<u64>,
    /// Of a TCP socket that has closed.
    pub stats: Option<TcpStats>,
    /// When the socket closed; `CLOCK_MONOTONIC` in nanoseconds.
    pub closed_ns: Option<u64>,
}

impl<'a> Attribution<'a> {
    /// Several processes could be it.
    pub const AMBIGUOUS: Self = Self { method: Method::Ambiguous, end: None };
}

impl Attribution<'_> {
    /// Whether both are the same process, known in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        let holder = |known: &Self| known.end.map(|end| std::ptr::from_ref(end.holder));
        self.method == other.method && holder(self) == holder(other)
    }

    /// The same process, without what is of one socket alone.
    pub fn without_socket(self) -> Self {
        let end = self.end.map(|end| End { cookie: None, stats: None, closed_ns: None, ..end });
        Self { end, ..self }
    }

    /// The same process, with what is of one socket alone if both are this one.
    pub fn or_other_socket(self, other: &Self) -> Self {
        let cookie = |known: &Self| known.end.and_then(|end| end.cookie);
        if cookie(&self) == cookie(other) { self } else { self.without_socket() }
    }

    /// Whether it is ambiguous, or the owner was seen: else the socket is older than the daemon.
    pub fn is_known(&self) -> bool {
        self.end.is_none_or(|end| end.holder.owner.time_ns != 0)
    }
}

/// Who held a socket, with all that is known of it at the time when it took the socket.
#[derive(Clone, Debug)]
pub struct Holder {
    /// As the kernel side took it.
    pub owner: Owner,
    /// What ran in it, where that is known.
    pub process: Option<Arc<Process>>,
    /// What the host says of its user and cgroup.
    pub origin: Origin,
    /// Found in /proc, since the socket is older than the programs.
    pub is_seeded: bool,
}

impl Holder {
    /// Whether both are the same process while it ran the same program, whatever user it was.
    pub fn is_same_process(&self, other: &Self) -> bool {
        match (&self.process, &other.process) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other) || own.is_same(other),
            _ => false,
        }
    }

    /// Whether both are the same process, program, user, cgroup and namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_same_process(other) && self.identity() == other.identity()
    }

    /// Whether both are processes of the same program, user, cgroup and namespace.
    pub fn is_same_program(&self, other: &Self) -> bool {
        self.program().is_some_and(|own| Some(own) == other.program())
            && self.owner.uid != u32::MAX
            && self.identity() == other.identity()
    }

    /// The path of its program, if it is one of the file system.
    fn program(&self) -> Option<&str> {
        let exe = self.process.as_ref()?.exe.as_deref()?;
        (!exe.ends_with(AS_GIVEN)).then_some(exe)
    }

    fn identity(&self) -> (u32, u64, u64) {
        (self.owner.uid, self.owner.cgroup_id, self.owner.netns_cookie)
    }
}

/// Names that the host has for numbers of an owner.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Name of the user.
    pub user: Option<Arc<str>>,
    /// The cgroup.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// A cgroup of v2, and what its path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Path below the root of the hierarchy, beginning with a slash.
    pub path: Option<Arc<str>>,
    /// The systemd unit or scope.
    pub unit: Option<Arc<str>>,
    /// Id of the container.
    pub container_id: Option<Arc<str>>,
    /// Uid of the Kubernetes pod.
    pub pod_uid: Option<Arc<str>>,
}

/// A process while it runs one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// When the process began, in `CLOCK_REALTIME` nanoseconds: with the number it names one process.
    pub start_ns: Option<u64>,
    /// Its parent when it began; for a process older than the daemon when that started.
    pub ppid: Option<u32>,
    /// Audit login uid, who logged in, when it began or began to run this program.
    pub login_uid: Option<u32>,
    /// Path of the program, as `/proc/PID/exe` tells it: see [`executed`](crate::attribution::processes::executed).
    pub exe: Option<Arc<str>>,
    /// The command line.
    pub cmdline: Option<CommandLine>,
    /// Program of the parent, at the time of `ppid`.
    pub parent_exe: Option<Arc<str>>,
    /// A thread of the kernel, which runs no program: what it does with sockets it does for somebody else.
    pub is_kernel: bool,
}

/// How far apart two tellings of the start of one process are: events have it in nanoseconds, /proc in hundredths of a
/// second. No number is used again within that time.
pub(crate) const START_NS: u64 = 20_000_000;

impl Process {
    /// Whether both are one process while it ran one program, of which /proc may have told one.
    fn is_same(&self, other: &Self) -> bool {
        let (Some(own_ns), Some(other_ns)) = (self.start_ns, other.start_ns) else { return false };
        self.tgid == other.tgid
            && own_ns.abs_diff(other_ns) < START_NS
            && self.exe.is_some()
            && (&self.exe, &self.cmdline) == (&other.exe, &other.cmdline)
    }
}

/// What a TCP socket measured in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpStats {
    /// Smoothed round trip time in microseconds, where one was measured.
    pub srtt_us: Option<u32>,
    /// Shortest round trip time in microseconds, where one was measured.
    pub min_rtt_us: Option<u32>,
    /// Segments that were sent again.
    pub retrans: u32,
    /// Bytes of payload that the peer acknowledged.
    pub bytes_sent: u64,
    /// Bytes of payload that were received.
    pub bytes_received: u64,
}
