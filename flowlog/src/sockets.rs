//! Which local socket had a tuple at a given time.
//!
//! A pure data structure: no clock, no IO. It learns of sockets in the order of the kernel's ring
//! buffer. Times are `CLOCK_REALTIME` nanoseconds, the clock of connection tracking.
//!
//! A tuple alone does not name a socket: it can be used again within a second, and the old entry of
//! the connection tracking table is destroyed only after the new socket sent its first packet. So
//! [`SocketTable::find`] joins by tuple and time, and says [`Found::Ambiguous`] rather than guess.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use flowlog_common::Owner;
use hashbrown::HashMap;

use crate::processes::Process;

/// By how much the times of the two sources may disagree: both are read from the same hardware
/// clock, but the offset between `CLOCK_MONOTONIC` and `CLOCK_REALTIME` is sampled. Too large, and
/// quick reuse of a port becomes ambiguous; too small, and a socket misses its own flow.
const CLOCK_SLACK_NS: u64 = 20_000;

/// How long a closed socket is remembered. A closed TCP connection stays in the connection tracking
/// table for 120 s (TIME_WAIT, by default up to 300 s in other states) before it is destroyed.
const LINGER_NS: u64 = 600 * 1_000_000_000;

/// How many sockets are remembered: two ends for each entry of a connection tracking table of the
/// usual size (262 144). One takes about 240 bytes.
pub const MAX_SOCKETS: usize = 524_288;

/// Both ends of a connected socket, seen from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Address of the socket; IPv4 as v4-mapped.
    pub local_addr: [u8; 16],
    /// Address of its peer; IPv4 as v4-mapped.
    pub remote_addr: [u8; 16],
    /// Port of the socket.
    pub local_port: u16,
    /// Port of its peer.
    pub remote_port: u16,
}

impl Ends {
    /// The ends of a socket with the given addresses and ports.
    pub fn new(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Self {
        Self { local_addr: mapped(local), remote_addr: mapped(remote), local_port, remote_port }
    }

    /// Whether packets of this socket can never leave its network namespace.
    fn is_loopback(&self) -> bool {
        [self.local_addr, self.remote_addr]
            .iter()
            .any(|addr| IpAddr::from(*addr).to_canonical().is_loopback())
    }
}

fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// A TCP socket of this host.
#[derive(Clone, Debug)]
pub struct Socket {
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// Tuple.
    pub ends: Ends,
    /// Who owns it, as the kernel side took it.
    pub owner: Owner,
    /// What ran in the owner at the time when it was taken, where that is known.
    pub process: Option<Arc<Process>>,
    /// Accepted by a listener, whose owner it inherits.
    pub passive: bool,
    /// When it sent the first SYN, or had finished the handshake as the server.
    pub opened_ns: u64,
    /// When it went to the state CLOSE.
    pub closed_ns: Option<u64>,
}

/// When a flow existed.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When its first packet was seen, where the kernel said so.
    pub start_ns: Option<u64>,
    /// When it ended; at the latest the time of receipt.
    pub end_ns: u64,
}

/// Result of [`SocketTable::find`].
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// No socket of this host.
    None,
    /// This one and no other.
    One(&'a Socket),
    /// More than one could be it, or the times do not tell.
    Ambiguous,
}

#[derive(Debug)]
struct Entry {
    socket: Socket,
    /// Cookie of the next older socket with the same ends.
    older: Option<u64>,
}

/// All sockets that were seen, until [`LINGER_NS`] after they closed.
#[derive(Debug, Default)]
pub struct SocketTable {
    entries: HashMap<u64, Entry, foldhash::fast::RandomState>,
    /// Cookie of the newest socket with these ends; older ones hang below it.
    newest: HashMap<Ends, u64, foldhash::fast::RandomState>,
    /// Closed sockets with the time of their close, longest closed first.
    closed: VecDeque<(u64, u64)>,
    evicted: u64,
}

impl SocketTable {
    /// The socket has its tuple.
    pub fn open(&mut self, socket: Socket) {
        if self.entries.len() >= MAX_SOCKETS {
            self.evicted += 1;
            // Without a closed one the table is full of open connections; the newcomer is left out.
            let Some((closed_ns, cookie)) = self.closed.pop_front() else { return };
            self.remove_if_closed_at(cookie, closed_ns);
        }
        let cookie = socket.cookie;
        // A socket that connects again (after a failed attempt, or with AF_UNSPEC) has its old tuple
        // no more; the cookie stays.
        self.remove(cookie);
        let older = self.newest.insert(socket.ends, cookie);
        self.entries.insert(cookie, Entry { socket, older });
    }

    /// The socket went to the state CLOSE.
    pub fn close(&mut self, cookie: u64, at_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&cookie)
            && entry.socket.closed_ns.is_none()
        {
            entry.socket.closed_ns = Some(at_ns);
            self.closed.push_back((at_ns, cookie));
        }
    }

    /// Forgets what closed long before `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while let Some(&(closed_ns, cookie)) = self.closed.front()
            && closed_ns + LINGER_NS < now_ns
        {
            self.closed.pop_front();
            self.remove_if_closed_at(cookie, closed_ns);
        }
    }

    /// How many sockets were forgotten early, because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The socket at one end of a flow: the one that had `ends` while the flow existed.
    ///
    /// `netns_cookie` is the network namespace of the connection tracking table. A socket there is
    /// preferred; one of another namespace counts where its packets can have come from there and it
    /// is the only one: a container behind the NAT of its host.
    pub fn find(&self, ends: &Ends, netns_cookie: Option<u64>, span: Span) -> Found<'_> {
        let own = self.find_in(ends, span, |socket| Some(socket.owner.netns_cookie) == netns_cookie);
        if !matches!(own, Found::None) || (ends.is_loopback() && netns_cookie.is_some()) {
            return own;
        }
        let mut namespaces = self.chain(ends).map(|socket| socket.owner.netns_cookie);
        match namespaces.next() {
            Some(first) if namespaces.any(|other| other != first) => Found::Ambiguous,
            _ => self.find_in(ends, span, |_| true),
        }
    }

    /// Looks among the sockets of one namespace. Their lives do not overlap, since the kernel gives a
    /// tuple to one socket at a time.
    fn find_in(&self, ends: &Ends, span: Span, wanted: impl Fn(&Socket) -> bool) -> Found<'_> {
        let mut sockets = self.chain(ends).filter(|socket| wanted(socket));
        let Some(start_ns) = span.start_ns else {
            // Without the start of the flow nothing tells it from a predecessor that was displaced
            // by the very socket that is found now. Only a life that is over by itself is proof.
            return match (sockets.next(), sockets.next()) {
                (None, _) => Found::None,
                (Some(only), None) if only.closed_ns.is_some_and(|closed| closed <= span.end_ns) => {
                    Found::One(only)
                }
                _ => Found::Ambiguous,
            };
        };

        // The socket that sends the first packet opens before the flow starts; the one that answers
        // has finished the handshake after it. The first ends a predecessor of the flow where it is
        // younger than the start, the second belongs to the flow.
        let mut found = Found::None;
        for socket in sockets {
            let opened_before = socket.opened_ns <= start_ns + CLOCK_SLACK_NS;
            let candidate = if opened_before {
                socket.closed_ns.is_none_or(|closed| closed + CLOCK_SLACK_NS >= start_ns)
            } else {
                socket.passive && socket.opened_ns <= span.end_ns + CLOCK_SLACK_NS
            };
            if !candidate {
                continue;
            }
            if matches!(found, Found::One(_)) {
                return Found::Ambiguous;
            }
            found = Found::One(socket);
        }
        found
    }

    /// Sockets with these ends, the newest first.
    fn chain(&self, ends: &Ends) -> impl Iterator<Item = &Socket> {
        let mut next = self.newest.get(ends).copied();
        std::iter::from_fn(move || {
            let entry = self.entries.get(&next?)?;
            next = entry.older;
            Some(&entry.socket)
        })
    }

    fn remove_if_closed_at(&mut self, cookie: u64, closed_ns: u64) {
        if self.entries.get(&cookie).is_some_and(|entry| entry.socket.closed_ns == Some(closed_ns)) {
            self.remove(cookie);
        }
    }

    fn remove(&mut self, cookie: u64) {
        let Some(Entry { socket, older }) = self.entries.remove(&cookie) else { return };
        let Some(newest) = self.newest.get_mut(&socket.ends) else { return };
        if *newest == cookie {
            match older {
                Some(older) => *newest = older,
                None => drop(self.newest.remove(&socket.ends)),
            }
            return;
        }
        let mut at = *newest;
        while let Some(entry) = self.entries.get_mut(&at) {
            match entry.older {
                Some(next) if next == cookie => {
                    entry.older = older;
                    return;
                }
                Some(next) => at = next,
                None => return,
            }
        }
    }
}
