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
    /// Key of another socket with the same ends.
    next: Option<u64>,
}

/// Set in the key of a socket's former life: the socket connected again since, and its cookie stands
/// for the new one. Cookies count up from 1 and never get here.
const FORMER_LIFE: u64 = 1 << 63;

/// All sockets that were seen, until ten minutes after they closed.
#[derive(Debug, Default)]
pub struct SocketTable {
    /// By cookie; former lives by numbers with [`FORMER_LIFE`].
    entries: HashMap<u64, Entry, foldhash::fast::RandomState>,
    /// Key of the first socket with these ends; others hang below it.
    by_ends: HashMap<Ends, u64, foldhash::fast::RandomState>,
    /// Times of close and keys of closed sockets, longest closed first.
    closed: VecDeque<(u64, u64)>,
    former_lives: u64,
    evicted: u64,
}

impl SocketTable {
    /// The socket has its tuple.
    pub fn open(&mut self, socket: Socket) {
        if self.entries.len() >= MAX_SOCKETS {
            self.evicted += 1;
            // Without a closed one the table is full of open connections; the newcomer is left out.
            let Some((closed_ns, key)) = self.closed.pop_front() else { return };
            self.remove_if_closed_at(key, closed_ns);
        }
        // A socket connects again after a failed attempt, or after AF_UNSPEC.
        if let Some(mut former) = self.remove(socket.cookie) {
            let closed_ns = *former.closed_ns.get_or_insert(socket.opened_ns);
            self.former_lives += 1;
            let key = FORMER_LIFE | self.former_lives;
            self.insert(key, former);
            self.closed.push_back((closed_ns, key));
        }
        self.insert(socket.cookie, socket);
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

    /// Events were lost since `since_ns`: a socket that was open then may have closed, and its tuple may
    /// belong to another that was not seen. So it counts for flows that started before, no more for
    /// later ones.
    pub fn lost_events(&mut self, since_ns: u64) {
        for (&key, Entry { socket, .. }) in &mut self.entries {
            if socket.closed_ns.is_none() {
                let closed_ns = socket.opened_ns.max(since_ns);
                socket.closed_ns = Some(closed_ns);
                self.closed.push_back((closed_ns, key));
            }
        }
    }

    /// Forgets what closed long before `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while let Some(&(closed_ns, key)) = self.closed.front()
            && closed_ns + LINGER_NS < now_ns
        {
            self.closed.pop_front();
            self.remove_if_closed_at(key, closed_ns);
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

    /// Sockets with these ends, in no order.
    fn chain(&self, ends: &Ends) -> impl Iterator<Item = &Socket> {
        let mut next = self.by_ends.get(ends).copied();
        std::iter::from_fn(move || {
            let entry = self.entries.get(&next?)?;
            next = entry.next;
            Some(&entry.socket)
        })
    }

    fn insert(&mut self, key: u64, socket: Socket) {
        let next = self.by_ends.insert(socket.ends, key);
        self.entries.insert(key, Entry { socket, next });
    }

    /// The socket may have opened again since this close was noted.
    fn remove_if_closed_at(&mut self, key: u64, closed_ns: u64) {
        if self.entries.get(&key).is_some_and(|entry| entry.socket.closed_ns == Some(closed_ns)) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: u64) -> Option<Socket> {
        let Entry { socket, next } = self.entries.remove(&key)?;
        let first = self.by_ends.get_mut(&socket.ends)?;
        if *first == key {
            match next {
                Some(next) => *first = next,
                None => drop(self.by_ends.remove(&socket.ends)),
            }
            return Some(socket);
        }
        let mut at = *first;
        while let Some(entry) = self.entries.get_mut(&at) {
            match entry.next {
                Some(other) if other != key => at = other,
                _ => {
                    entry.next = next;
                    break;
                }
            }
        }
        Some(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const HOST: u64 = 1;
    const CONTAINER: u64 = 2;

    fn ends() -> Ends {
        Ends::new("10.0.0.1".parse().unwrap(), 40_000, "10.0.0.2".parse().unwrap(), 80)
    }

    fn socket(cookie: u64, netns_cookie: u64, opened_ms: u64) -> Socket {
        Socket {
            cookie,
            ends: ends(),
            owner: Owner { netns_cookie, time_ns: 1, ..Owner::UNKNOWN },
            process: None,
            passive: false,
            opened_ns: opened_ms * MS,
            closed_ns: None,
        }
    }

    /// The cookie that is found, 0 where it is ambiguous.
    fn find(table: &SocketTable, start_ms: Option<u64>, end_ms: u64) -> Option<u64> {
        let span = Span { start_ns: start_ms.map(|ms| ms * MS), end_ns: end_ms * MS };
        match table.find(&ends(), Some(HOST), span) {
            Found::None => None,
            Found::One(socket) => Some(socket.cookie),
            Found::Ambiguous => Some(0),
        }
    }

    /// The new socket opens before the DESTROY of the old flow is read: each keeps its own.
    #[test]
    fn a_port_that_is_used_again_is_told_apart_by_time() {
        let mut table = SocketTable::default();
        table.open(socket(1, HOST, 100));
        table.close(1, 150 * MS);
        table.open(socket(2, HOST, 200));
        assert_eq!(find(&table, Some(100), 200), Some(1));
        assert_eq!(find(&table, Some(200), 300), Some(2));
        assert_eq!(find(&table, Some(50), 90), None, "before either");
        assert_eq!(find(&table, Some(170), 190), None, "between both");
    }

    #[test]
    fn a_server_finishes_the_handshake_after_the_flow_started() {
        let mut table = SocketTable::default();
        let passive = |cookie, opened_ms| Socket { passive: true, ..socket(cookie, HOST, opened_ms) };
        table.open(passive(1, 101));
        table.close(1, 150 * MS);
        table.open(passive(2, 201));
        assert_eq!(find(&table, Some(100), 200), Some(1));
        assert_eq!(find(&table, Some(200), 300), Some(2));
        assert_eq!(find(&table, Some(100), 300), Some(0), "one flow over two connections");
    }

    #[test]
    fn without_a_start_only_a_single_finished_life_is_proof() {
        let mut table = SocketTable::default();
        table.open(socket(1, HOST, 100));
        assert_eq!(find(&table, None, 200), Some(0), "may be the socket that displaced the flow's own");
        table.close(1, 150 * MS);
        assert_eq!(find(&table, None, 200), Some(1));
        table.open(socket(2, HOST, 190));
        assert_eq!(find(&table, None, 200), Some(0));
    }

    #[test]
    fn the_own_namespace_comes_first_and_another_must_be_alone() {
        let mut table = SocketTable::default();
        table.open(socket(1, CONTAINER, 100));
        assert_eq!(find(&table, Some(101), 200), Some(1), "behind the host's NAT");
        table.open(socket(2, 3, 100));
        assert_eq!(find(&table, Some(101), 200), Some(0), "two containers");
        table.open(socket(3, HOST, 100));
        assert_eq!(find(&table, Some(101), 200), Some(3));
    }

    #[test]
    fn loopback_does_not_cross_namespaces() {
        let ends = Ends::new("::1".parse().unwrap(), 1, "::1".parse().unwrap(), 2);
        let mut table = SocketTable::default();
        table.open(Socket { ends, ..socket(1, CONTAINER, 100) });
        let span = Span { start_ns: Some(101 * MS), end_ns: 200 * MS };
        assert!(matches!(table.find(&ends, Some(HOST), span), Found::None));
        assert!(matches!(table.find(&ends, Some(CONTAINER), span), Found::One(_)));
    }

    #[test]
    fn after_a_loss_an_open_socket_counts_for_older_flows_only() {
        let mut table = SocketTable::default();
        table.open(socket(1, HOST, 100));
        table.lost_events(200 * MS);
        assert_eq!(find(&table, Some(101), 300), Some(1));
        assert_eq!(find(&table, Some(250), 300), None);
    }

    #[test]
    fn closed_sockets_expire_and_leave_nothing_behind() {
        let mut table = SocketTable::default();
        for cookie in 1..=3 {
            table.open(socket(cookie, HOST, cookie * 100));
            table.close(cookie, (cookie * 100 + 50) * MS);
        }
        table.expire(260 * MS + LINGER_NS);
        assert_eq!(find(&table, Some(100), 120), None);
        assert_eq!(find(&table, Some(200), 220), None);
        assert_eq!(find(&table, Some(300), 320), Some(3));
        table.expire(1000 * MS + LINGER_NS);
        assert!(table.entries.is_empty() && table.by_ends.is_empty() && table.closed.is_empty());
    }

    #[test]
    fn a_socket_that_connects_again_has_two_lives() {
        let mut table = SocketTable::default();
        table.open(socket(1, HOST, 100));
        table.close(1, 150 * MS);
        table.open(Socket { owner: Owner { tgid: 7, ..socket(1, HOST, 0).owner }, ..socket(1, HOST, 200) });
        let tgid = |table: &SocketTable, start_ms: u64| {
            let span = Span { start_ns: Some(start_ms * MS), end_ns: 300 * MS };
            match table.find(&ends(), Some(HOST), span) {
                Found::One(socket) => Some(socket.owner.tgid),
                _ => None,
            }
        };
        assert_eq!(tgid(&table, 100), Some(0));
        assert_eq!(tgid(&table, 200), Some(7));
        table.expire(160 * MS + LINGER_NS);
        assert_eq!(tgid(&table, 100), None);
        assert_eq!(tgid(&table, 200), Some(7), "its first close does not end its second life");
    }

    #[test]
    fn a_full_table_forgets_the_longest_closed() {
        let mut table = SocketTable::default();
        let with_port = |cookie: u64| {
            let port = u16::try_from(cookie % 65_536).unwrap();
            let addr = std::net::Ipv4Addr::from(u32::try_from(cookie / 65_536).unwrap());
            Socket { ends: Ends::new(addr.into(), port, addr.into(), 80), ..socket(cookie, HOST, 100) }
        };
        let full = u64::try_from(MAX_SOCKETS).unwrap();
        for cookie in 1..=full {
            table.open(with_port(cookie));
        }
        table.close(5, 110 * MS);
        table.close(3, 120 * MS);
        table.open(with_port(full + 1));
        assert_eq!((table.entries.len(), table.evicted()), (MAX_SOCKETS, 1));
        assert!(!table.entries.contains_key(&5) && table.entries.contains_key(&3));
    }
}
