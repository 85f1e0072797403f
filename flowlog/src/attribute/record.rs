//! What one row says of a flow, before it becomes columns.

use crate::flow::Flow;
use crate::lives::Life;
use crate::sockets::{Holder, Socket, TcpStats};

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
    /// When its last packet was, an estimate; `CLOCK_REALTIME` in nanoseconds.
    pub last_seen_ns: Option<u64>,
    /// Where it went, seen from the observer.
    pub direction: Option<Direction>,
    /// The local process at the initiating end.
    pub src: Option<Attribution<'a>>,
    /// The local process at the responding end.
    pub dst: Option<Attribution<'a>>,
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
    /// The text of the column `record_type`.
    pub fn record_type(self) -> &'static str {
        match self {
            Self::Destroyed | Self::Vanished | Self::ImportedEnd { .. } | Self::ImportedEntry { .. } => "end",
            Self::Alive => "active",
        }
    }

    /// The text of the column `end_source`.
    pub fn end_source(self) -> &'static str {
        match self {
            Self::Destroyed => "destroy",
            Self::Vanished => "reconcile",
            Self::Alive => "active",
            Self::ImportedEnd { .. } | Self::ImportedEntry { .. } => "import",
        }
    }

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

impl Direction {
    /// The text of the column `direction`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Local => "local",
            Self::Forwarded => "forwarded",
        }
    }
}

/// How the process at one end of a flow is known, and which it is.
#[derive(Clone, Copy, Debug)]
pub struct Attribution<'a> {
    /// How.
    pub method: Method,
    /// Which; `None` where it is ambiguous.
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
    /// Several processes could be it.
    Ambiguous,
}

impl Method {
    /// The text of the column `attribution`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Endpoint => "endpoint",
            Self::Inherited => "inherited",
            Self::Closer => "closer",
            Self::Seed => "seed",
            Self::Raw => "raw",
            Self::Ambiguous => "ambiguous",
        }
    }
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

    pub(super) fn of_socket(life: &'a Life<Socket>) -> Self {
        let Life { closed_ns, value: socket, .. } = life;
        let (method, holder) = match socket {
            Socket { holder, .. } if holder.is_seeded => (Method::Seed, holder),
            Socket { passive: false, holder, .. } => (Method::Socket, holder),
            Socket { closer: Some(closer), .. } => (Method::Closer, closer),
            Socket { holder, .. } => (Method::Inherited, holder),
        };
        Self {
            method,
            end: Some(End {
                holder,
                cookie: Some(socket.cookie),
                stats: socket.stats,
                // Its descriptor closed then; packets may have followed.
                closed_ns: closed_ns.filter(|_| !holder.is_seeded),
            }),
        }
    }
}

impl Attribution<'_> {
    /// Whether both are the same socket and process, known in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let holder = |known: &Self| known.end.map(|end| std::ptr::from_ref(end.holder));
        self.method == other.method && holder(self) == holder(other)
    }

    /// Whether it is ambiguous, or the owner was seen: else the socket is older than the daemon.
    pub(super) fn is_known(&self) -> bool {
        self.end.is_none_or(|end| end.holder.owner.time_ns != 0)
    }
}
