//! Joins a flow with the local sockets at its ends. Pure: tables, times and offsets are arguments.

use flowlog_common::{ProcessExec, TcpOpen};

use crate::ebpf::Event;
use crate::flow::{Flow, L4, Protocol, Tuple};
use crate::processes::ProcessTable;
use crate::sockets::{Ends, Found, Socket, SocketTable, Span};

/// What is known of the sockets and processes of this host.
#[derive(Debug, Default)]
pub struct Tables {
    /// Which socket had a tuple; in `CLOCK_REALTIME`, as the flows are.
    pub sockets: SocketTable,
    /// Which program a process ran; in `CLOCK_MONOTONIC`, as events are.
    pub processes: ProcessTable,
}

impl Tables {
    /// Takes in an event. `realtime_offset_ns` is `CLOCK_REALTIME` less `CLOCK_MONOTONIC` at about
    /// the time of the event.
    pub fn apply(&mut self, event: &Event, realtime_offset_ns: u64) {
        match event {
            Event::TcpOpen(open) => {
                let TcpOpen { header, socket_cookie, owner, .. } = *open;
                self.sockets.open(Socket {
                    cookie: socket_cookie,
                    ends: Ends {
                        local_addr: open.local_addr,
                        remote_addr: open.remote_addr,
                        local_port: open.local_port,
                        remote_port: open.remote_port,
                    },
                    owner,
                    process: self.processes.at(owner.tgid, owner.time_ns).cloned(),
                    passive: open.passive != 0,
                    opened_ns: header.time_ns + realtime_offset_ns,
                    closed_ns: None,
                });
            }
            Event::TcpClose(close) => {
                self.sockets.close(close.socket_cookie, close.header.time_ns + realtime_offset_ns);
            }
            Event::ProcessFork(fork) => {
                self.processes.fork(fork.tgid, fork.parent_tgid, fork.header.time_ns);
            }
            Event::ProcessExec(exec) => {
                self.processes.exec(exec.tgid, executed_path(exec).as_deref(), exec.header.time_ns);
            }
            Event::ProcessExit(exit) => self.processes.exit(exit.tgid, exit.header.time_ns),
        }
    }

    /// Events were lost between `since_ns` (`CLOCK_MONOTONIC`) and now: what was known is of use for
    /// what happened before. The caller seeds the processes again.
    pub fn lost_events(&mut self, since_ns: u64, realtime_offset_ns: u64) {
        let Self { sockets, processes } = self;
        sockets.lost_events(since_ns + realtime_offset_ns);
        processes.lost_events(since_ns);
    }
}

/// The path of an exec event; `None` where it could not be read or did not fit.
fn executed_path(exec: &ProcessExec) -> Option<std::borrow::Cow<'_, str>> {
    let len = usize::try_from(exec.filename_len).ok()?;
    // One byte less than the array: the kernel side ends it with a zero byte.
    let path = exec.filename.get(..len).filter(|path| !path.is_empty() && len < exec.filename.len())?;
    Some(String::from_utf8_lossy(path))
}

/// One row of the flow log before it becomes columns.
#[derive(Clone, Copy, Debug)]
pub struct FlowRecord<'a> {
    /// What the kernel said.
    pub flow: &'a Flow,
    /// `CLOCK_REALTIME` in nanoseconds when the message was received.
    pub received_ns: u64,
    /// Inode of the network namespace whose connection tracking table this is.
    pub observer_netns: u64,
    /// The local process at the initiating end.
    pub src: Option<Attribution<'a>>,
    /// The local process at the responding end.
    pub dst: Option<Attribution<'a>>,
}

/// How the process at one end of a flow is known, and which it is.
#[derive(Clone, Copy, Debug)]
pub enum Attribution<'a> {
    /// This connected socket, which its owner connected.
    Socket(&'a Socket),
    /// This accepted socket, with the owner of the listener.
    Inherited(&'a Socket),
    /// Several sockets could be it.
    Ambiguous,
}

impl<'a> Attribution<'a> {
    /// The text of the column `attribution`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket(_) => "socket",
            Self::Inherited(_) => "inherited",
            Self::Ambiguous => "ambiguous",
        }
    }

    /// The socket, where there is exactly one.
    pub fn socket(self) -> Option<&'a Socket> {
        match self {
            Self::Socket(socket) | Self::Inherited(socket) => Some(socket),
            Self::Ambiguous => None,
        }
    }
}

/// Who tracked a flow.
#[derive(Clone, Copy, Debug)]
pub struct Observer {
    /// Inode of the network namespace.
    pub netns: u64,
    /// Its cookie, as sockets have it; `None` on kernels without `SO_NETNS_COOKIE` (before 5.14).
    pub netns_cookie: Option<u64>,
}

/// Makes the record of a flow whose message was received at `received_ns`.
pub fn attribute<'a>(
    flow: &'a Flow,
    received_ns: u64,
    observer: Observer,
    sockets: &'a SocketTable,
) -> FlowRecord<'a> {
    let span =
        Span { start_ns: flow.start_ns, end_ns: flow.stop_ns.or(flow.event_ns).unwrap_or(received_ns) };
    let end = |tuple: &Tuple| -> Option<Attribution<'a>> {
        match sockets.find(&sender(tuple)?, observer.netns_cookie, span) {
            Found::None => None,
            Found::Ambiguous => Some(Attribution::Ambiguous),
            // An owner that was not seen: the socket is older than the daemon.
            Found::One(socket) if socket.owner.time_ns == 0 => None,
            Found::One(socket) if socket.passive => Some(Attribution::Inherited(socket)),
            Found::One(socket) => Some(Attribution::Socket(socket)),
        }
    };
    FlowRecord {
        flow,
        received_ns,
        observer_netns: observer.netns,
        // Each end sees its own tuple: the initiator the one before NAT, the responder the one after.
        src: end(&flow.orig),
        dst: end(&flow.reply),
    }
}

/// The ends of the socket that sends packets with this tuple.
fn sender(tuple: &Tuple) -> Option<Ends> {
    match (tuple.proto, tuple.l4) {
        (Protocol::TCP, L4::Ports { src, dst }) => Some(Ends::new(tuple.src, src, tuple.dst, dst)),
        _ => None,
    }
}
