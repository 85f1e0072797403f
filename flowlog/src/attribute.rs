//! Joins a flow with the local sockets at its ends. Pure: the tables are arguments.

use crate::flow::{Flow, L4, Protocol, Tuple};
use crate::sockets::{Ends, Found, Socket, SocketTable, Span};

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
    let span = Span {
        start_ns: flow.start_ns,
        end_ns: flow.stop_ns.or(flow.event_ns).unwrap_or(received_ns),
    };
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
