//! Which connected socket had a tuple at a given time. A pure data structure: no clock, no IO.
//!
//! A tuple alone does not name a socket: it can be used again within a second, and the old entry of
//! the connection tracking table is destroyed only after the new socket sent its first packet. So
//! [`SocketTable::find`] joins by tuple and time, and says [`Found::Ambiguous`] rather than guess.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use flowlog_common::Owner;
use hashbrown::HashMap;

use crate::attribution::clocks::Moment;
use crate::attribution::lives::{Life, Limits, Lives};
use crate::record::{Holder, TcpStats};

/// By how much the times of the two sources may disagree beside the error with which their clocks can be compared:
/// an event and a flow are not stamped at the same instruction. What fits only within this is ambiguous. Too large, and
/// quick reuse of a port is never told apart; too small, and a wrong process is named.
pub(crate) const CLOCK_SLACK_NS: u64 = 2_000;

/// Both ends of a connected socket, seen from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// In few large pieces, which takes half the time of the fields one by one: each flow looks for two.
impl Hash for Ends {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { local_addr, remote_addr, local_port, remote_port } = self;
        state.write_u128(u128::from_ne_bytes(*local_addr));
        state.write_u128(u128::from_ne_bytes(*remote_addr));
        state.write_u32(u32::from(*local_port) << 16 | u32::from(*remote_port));
    }
}

impl Ends {
    /// The ends of a socket with the given addresses and ports.
    pub fn new(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Self {
        Self { local_addr: mapped(local), remote_addr: mapped(remote), local_port, remote_port }
    }

    /// The same, seen from the other socket.
    fn mirrored(self) -> Self {
        let Self { local_addr, remote_addr, local_port, remote_port } = self;
        Self {
            local_addr: remote_addr,
            remote_addr: local_addr,
            local_port: remote_port,
            remote_port: local_port,
        }
    }
}

/// An address as the programs tell it.
pub(crate) fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// Whether packets between these addresses never leave their network namespace.
pub(crate) fn is_loopback(addrs: [[u8; 16]; 2]) -> bool {
    addrs.into_iter().any(|addr| IpAddr::from(addr).to_canonical().is_loopback())
}

/// A TCP socket of this host.
#[derive(Clone, Debug)]
pub struct Socket {
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// Who owns it; for an accepted socket the owner of the listener.
    pub holder: Holder,
    /// Who closed its last descriptor, where it was accepted.
    pub closer: Option<Holder>,
    /// Accepted by a listener.
    pub passive: bool,
    /// From the socket when it closed.
    pub stats: Option<TcpStats>,
}

/// When a flow existed, by `CLOCK_MONOTONIC`, and which of its ends is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When its first packet was seen, if the kernel said so.
    pub start: Option<Moment>,
    /// When it ended; at the latest the time of receipt.
    pub end_ns: u64,
    /// When its entry was destroyed; `end_ns` may be an estimate of its last packet.
    pub destroyed_ns: u64,
    /// Packets went both ways.
    pub is_answered: bool,
    /// The end is the one that sent the first packet: somebody had it when the flow began.
    pub is_initiator: bool,
}

/// Result of [`SocketTable::find`].
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// No socket of this host.
    None,
    /// This one and no other.
    One(&'a Life<Socket>),
    /// More than one could be it, or the times do not tell.
    Ambiguous,
}

/// All connected sockets that were seen, until some time after they closed.
#[derive(Debug)]
pub struct SocketTable(pub Lives<Ends, Socket>);

impl SocketTable {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self(Lives::new(limits))
    }

    /// The socket has its tuple.
    pub fn open(&mut self, ends: Ends, opened_ns: u64, socket: Socket) {
        // A socket that connects to itself opens twice, and is one.
        if self.0.is_open_with(socket.cookie, &ends) {
            let owner = socket.holder.owner;
            // Found in /proc before its event was read, which knows who had it first.
            if let Some(known) = self.0.get_mut(socket.cookie)
                && known.value.holder.is_seeded
                && owner.time_ns != 0
                && owner.time_ns < known.value.holder.owner.time_ns
            {
                (known.opened_ns, known.value) = (opened_ns, socket);
            }
            return;
        }
        let netns = socket.holder.owner.netns_cookie;
        // The kernel gives a tuple to one socket at a time: the end of the one before was not seen.
        self.0.close_with_key(&ends, opened_ns, |before| before.holder.owner.netns_cookie == netns);
        self.0.open(socket.cookie, ends, Life { opened_ns, closed_ns: None, value: socket });
    }

    /// The socket at one end of a flow: the one that had `ends` while the flow existed.
    ///
    /// `netns_cookie` is the network namespace of the connection tracking table. A socket there is
    /// preferred; one of another namespace counts where its packets can have come from there and it
    /// is the only one: a container behind the NAT of its host.
    pub fn find(&self, ends: &Ends, netns_cookie: Option<u64>, span: Span) -> Found<'_> {
        // Most flows of a router have no socket here.
        if self.0.with_key(ends).next().is_none() {
            return Found::None;
        }
        let netns = |life: &Life<Socket>| life.value.holder.owner.netns_cookie;
        let own = self.find_in(ends, span, |life| Some(netns(life)) == netns_cookie);
        if !matches!(own, Found::None) || is_loopback([ends.local_addr, ends.remote_addr]) {
            return own;
        }
        // Where both ends are in one other namespace their packets never left it.
        let mirrored = ends.mirrored();
        let is_inside = |cookie: u64| self.0.with_key(&mirrored).any(|(_, life)| netns(life) == cookie);
        let is_foreign = |cookie: &u64| Some(*cookie) != netns_cookie && !is_inside(*cookie);
        let mut namespaces = self.0.with_key(ends).map(|(_, life)| netns(life)).filter(is_foreign);
        match namespaces.next() {
            None => Found::None,
            Some(first) if namespaces.any(|other| other != first) => Found::Ambiguous,
            Some(first) => self.find_in(ends, span, |life| netns(life) == first),
        }
    }

    /// Looks among the sockets of one namespace, whose lives do not overlap.
    fn find_in(&self, ends: &Ends, span: Span, wanted: impl Fn(&Life<Socket>) -> bool) -> Found<'_> {
        let lives = || self.0.with_key(ends).map(|(_, life)| life).filter(|life| wanted(life));
        let Some(Moment { ns: start_ns, early_ns, late_ns }) = span.start else {
            // Nothing tells the flow from a later one with the same tuple, which may have no socket.
            return if lives().next().is_some() { Found::Ambiguous } else { Found::None };
        };
        let slack = |time_ns: u64| time_ns.saturating_add(early_ns).saturating_add(CLOCK_SLACK_NS);
        let ended_ns = |life: &Life<Socket>| life.closed_ns.unwrap_or(u64::MAX);

        // Who sends the first packet opens before the flow starts. Lives follow one another, so of those
        // that opened before, only the last can have been alive.
        let opened_before = || lives().filter(|life| life.opened_ns <= start_ns);
        let before = opened_before().max_by_key(|life| life.opened_ns);
        // Unless the clocks are so slow that the flow may have started before it opened, when another had the tuple.
        let is_alone = opened_before().all(|life| {
            before.is_some_and(|last| last.opened_ns == life.opened_ns)
                || ended_ns(life) < start_ns.saturating_sub(early_ns)
        });
        // An accepted socket opens after its flow started, unless connection tracking found that in the middle: then
        // there were answers. Without any, it is the one of the flow before, whose reset is not processed yet.
        let before = before.filter(|life| !life.value.passive || span.is_answered);
        let before_fits = before.filter(|life| start_ns <= ended_ns(life));
        let before_may_fit = before.is_some_and(|life| start_ns <= slack(ended_ns(life)));

        // Who answers has finished the handshake after the flow started. One that is older than the programs
        // opened before it was found: what was tracked then was its own. Who connects after the start
        // belongs to the successor of the flow.
        let latest_ns = |life: &Life<Socket>| match &life.value {
            Socket { holder, .. } if holder.is_seeded => Some(span.destroyed_ns),
            Socket { passive: true, .. } => Some(span.end_ns),
            Socket { .. } => None,
        };
        let late = || {
            let late = lives().filter(|life| life.opened_ns > start_ns);
            late.filter_map(|life| Some((life, latest_ns(life)?)))
        };
        let after: Vec<_> =
            late().filter(|(life, latest)| life.opened_ns <= *latest).map(|(life, _)| life).take(2).collect();
        let after_may_fit = late().any(|(life, latest)| life.opened_ns <= slack(latest));
        let mut connecting = lives().filter(|life| {
            latest_ns(life).is_none()
                && life.opened_ns > start_ns
                && life.opened_ns <= start_ns.saturating_add(late_ns).saturating_add(CLOCK_SLACK_NS)
        });
        let (connecting, is_alone) = (connecting.next(), is_alone && connecting.next().is_none());

        match (before_fits, after.as_slice()) {
            // Somebody sent the first packet. If only one socket can have done so, it has.
            (None, []) if span.is_initiator && !after_may_fit && is_alone => match (before, connecting) {
                (_, Some(life)) if !before_may_fit && life.opened_ns <= start_ns.saturating_add(late_ns) => {
                    Found::One(life)
                }
                (Some(life), None)
                    if !life.value.passive && start_ns <= ended_ns(life).saturating_add(early_ns) =>
                {
                    Found::One(life)
                }
                (_, None) if !before_may_fit => Found::None,
                _ => Found::Ambiguous,
            },
            _ if connecting.is_some() => Found::Ambiguous,
            (Some(life), []) if !after_may_fit && is_alone => Found::One(life),
            (None, [life]) => Found::One(life),
            (None, []) if !before_may_fit && !after_may_fit => Found::None,
            _ => Found::Ambiguous,
        }
    }
}

/// How many sockets without a tuple a generation of [`Connecting`] has. A socket has its tuple within
/// microseconds; what stays are those that the kernel found no way for.
const MAX_CONNECTING: usize = 1024;

/// Owners of sockets that connect, until they have their tuple.
#[derive(Debug, Default)]
pub struct Connecting {
    young: HashMap<u64, Owner, foldhash::fast::RandomState>,
    /// The generation before; forgotten when the young one is full.
    old: HashMap<u64, Owner, foldhash::fast::RandomState>,
}

impl Connecting {
    /// The socket with this cookie begins to connect.
    pub fn insert(&mut self, cookie: u64, owner: Owner) {
        if self.young.len() >= MAX_CONNECTING {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        // Of a socket that tries again the last attempt counts, wherever it is looked for first.
        self.old.remove(&cookie);
        self.young.insert(cookie, owner);
    }

    /// The socket with this cookie has its tuple.
    pub fn remove(&mut self, cookie: u64) -> Option<Owner> {
        self.young.remove(&cookie).or_else(|| self.old.remove(&cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Origin;

    const MS: u64 = 1_000_000;
    const HOST: u64 = 1;
    const CONTAINER: u64 = 2;

    fn ends() -> Ends {
        Ends::new("10.0.0.1".parse().unwrap(), 40_000, "10.0.0.2".parse().unwrap(), 80)
    }

    fn socket(cookie: u64, netns_cookie: u64, passive: bool) -> Socket {
        let owner = Owner { netns_cookie, time_ns: 1, ..Owner::UNKNOWN };
        let holder = Holder { owner, process: None, origin: Origin::default(), is_seeded: false };
        Socket { cookie, holder, closer: None, passive, stats: None }
    }

    fn open(table: &mut SocketTable, socket: Socket, opened_ms: u64) {
        table.open(ends(), opened_ms * MS, socket);
    }

    /// The cookie that is found, 0 where it is ambiguous.
    fn find(table: &SocketTable, start_ms: Option<u64>, end_ms: u64) -> Option<u64> {
        let span = Span {
            start: start_ms.map(|ms| Moment::exact(ms * MS)),
            end_ns: end_ms * MS,
            destroyed_ns: end_ms * MS,
            is_answered: true,
            is_initiator: false,
        };
        match table.find(&ends(), Some(HOST), span) {
            Found::None => None,
            Found::One(life) => Some(life.value.cookie),
            Found::Ambiguous => Some(0),
        }
    }

    #[test]
    fn the_last_process_that_connects_counts_and_attempts_without_a_way_are_forgotten() {
        let by = |tgid: u32| Owner { tgid, time_ns: 1, ..Owner::UNKNOWN };
        let mut connecting = Connecting::default();
        connecting.insert(1, by(10));
        connecting.insert(1, by(11));
        for cookie in 2..1000 {
            connecting.insert(cookie, by(12));
        }
        assert_eq!(connecting.remove(1), Some(by(11)));
        assert_eq!(connecting.remove(1), None);
        for cookie in 1000..10_000 {
            connecting.insert(cookie, by(13));
        }
        assert_eq!(connecting.remove(2), None, "long ago");
        assert_eq!(connecting.remove(9999), Some(by(13)));
        assert!(connecting.young.len() + connecting.old.len() <= 2 * MAX_CONNECTING);
    }

    /// The new socket opens before the DESTROY of the old flow is read: each keeps its own.
    #[test]
    fn a_port_that_is_used_again_is_told_apart_by_time() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, HOST, false), 100);
        table.0.close(1, 150 * MS);
        open(&mut table, socket(2, HOST, false), 200);
        assert_eq!(find(&table, Some(100), 200), Some(1));
        assert_eq!(find(&table, Some(200), 300), Some(2));
        assert_eq!(find(&table, Some(50), 90), None, "before either");
        assert_eq!(find(&table, Some(170), 190), None, "between both");
    }

    #[test]
    fn a_server_finishes_the_handshake_after_the_flow_started() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, HOST, true), 101);
        table.0.close(1, 150 * MS);
        open(&mut table, socket(2, HOST, true), 201);
        assert_eq!(find(&table, Some(100), 200), Some(1));
        assert_eq!(find(&table, Some(200), 300), Some(2));
        assert_eq!(find(&table, Some(100), 300), Some(0), "one flow over two connections");
    }

    /// The reset of the connection before waits to be processed while the next one is refused.
    #[test]
    fn who_accepted_before_a_flow_began_is_only_named_where_it_was_answered() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, HOST, true), 100);
        table.0.close(1, 102 * MS);
        for (is_answered, cookie) in [(false, None), (true, Some(1))] {
            let span = Span {
                start: Some(Moment::exact(101 * MS)),
                end_ns: 101 * MS,
                destroyed_ns: 101 * MS,
                is_answered,
                is_initiator: false,
            };
            let found = match table.find(&ends(), Some(HOST), span) {
                Found::One(life) => Some(life.value.cookie),
                Found::None | Found::Ambiguous => None,
            };
            assert_eq!(found, cookie);
        }
    }

    /// A refused connection has no socket at its far end, and the one before it has just closed.
    #[test]
    fn what_fits_only_within_the_slack_of_the_clocks_is_ambiguous() {
        let find = |table: &SocketTable, start_us: u64| find_us(table, start_us, 0, false).0;
        let mut table = SocketTable::new(Limits::default());
        table.open(ends(), us(100), socket(1, HOST, true));
        table.0.close(1, us(500));
        assert_eq!(find(&table, 499), "one");
        assert_eq!(find(&table, 501), "ambiguous");
        assert_eq!(find(&table, 502), "ambiguous");
        assert_eq!(find(&table, 503), "none");
        table.open(ends(), us(530), socket(2, HOST, false));
        assert_eq!(find(&table, 528), "ambiguous", "the socket that opens now may have sent it");
        assert_eq!(find(&table, 531), "one");
    }

    fn us(us: u64) -> u64 {
        us * 1000
    }

    /// What is found for a flow of 5 us, and the cookie of the socket.
    fn find_us(table: &SocketTable, start_us: u64, error_us: u64, is_initiator: bool) -> (&'static str, u64) {
        let span = Span {
            start: Some(Moment::about(us(start_us), us(error_us))),
            end_ns: us(start_us + 5),
            destroyed_ns: us(start_us + 5),
            is_answered: true,
            is_initiator,
        };
        match table.find(&ends(), Some(HOST), span) {
            Found::None => ("none", 0),
            Found::One(life) => ("one", life.value.cookie),
            Found::Ambiguous => ("ambiguous", 0),
        }
    }

    /// Clocks that are slow to read cannot be compared better than this: the start of a flow may seem to be before its
    /// socket opened, or after it closed.
    #[test]
    fn slow_clocks_name_the_only_socket_that_can_have_sent_the_first_packet() {
        let mut table = SocketTable::new(Limits::default());
        table.open(ends(), us(1000), socket(1, HOST, false));
        assert_eq!(find_us(&table, 960, 50, true), ("one", 1));
        assert_eq!(
            find_us(&table, 960, 50, false).0,
            "ambiguous",
            "the end that was asked may have no socket"
        );
        assert_eq!(find_us(&table, 949, 50, true).0, "ambiguous", "not within the error of the clocks alone");
        assert_eq!(find_us(&table, 900, 50, true).0, "none");
        table.0.close(1, us(1100));
        assert_eq!(find_us(&table, 1140, 50, true), ("one", 1));
        assert_eq!(find_us(&table, 1140, 50, false).0, "ambiguous");
        assert_eq!(find_us(&table, 1300, 50, true).0, "none");
        // Another process uses the port again at once.
        table.open(ends(), us(1120), socket(2, HOST, false));
        assert_eq!(find_us(&table, 1090, 50, true).0, "ambiguous");
        assert_eq!(
            find_us(&table, 1130, 50, true).0,
            "ambiguous",
            "the flow may have started when 1 had the port"
        );
        assert_eq!(find_us(&table, 1130, 5, true), ("one", 2));
        assert_eq!(find_us(&table, 1160, 50, true), ("one", 2));
    }

    #[test]
    fn without_a_start_nothing_is_proof() {
        let mut table = SocketTable::new(Limits::default());
        assert_eq!(find(&table, None, 200), None);
        open(&mut table, socket(1, HOST, false), 100);
        assert_eq!(find(&table, None, 200), Some(0));
        table.0.close(1, 150 * MS);
        assert_eq!(find(&table, None, 200), Some(0), "the flow may be a later one without a socket");
    }

    #[test]
    fn the_end_of_a_life_that_was_not_seen_is_the_begin_of_the_next() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, HOST, false), 100);
        open(&mut table, socket(2, HOST, false), 200);
        assert_eq!(find(&table, Some(150), 200), Some(1));
        assert_eq!(find(&table, Some(201), 300), Some(2));
    }

    #[test]
    fn a_socket_that_connects_to_itself_is_one() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, HOST, false), 100);
        open(&mut table, socket(1, HOST, true), 100);
        assert_eq!(find(&table, Some(101), 300), Some(1));
    }

    /// Its event was still to be read when it was found.
    #[test]
    fn a_socket_that_is_found_before_its_event_is_read_is_of_who_opened_it() {
        let by = |time_ns: u64, is_seeded: bool| {
            let mut socket = socket(1, HOST, false);
            socket.holder.owner.time_ns = time_ns;
            socket.holder.is_seeded = is_seeded;
            socket
        };
        let known_after = |event_of_ns: u64| {
            let mut table = SocketTable::new(Limits::default());
            open(&mut table, by(200, true), 200);
            open(&mut table, by(event_of_ns, false), 100);
            let life = table.0.get_mut(1).unwrap();
            (life.value.holder.is_seeded, life.value.holder.owner.time_ns, life.opened_ns / MS)
        };
        assert_eq!(known_after(100), (false, 100, 100));
        assert_eq!(known_after(0), (true, 200, 200), "its listener is older, too");
    }

    /// A flow of the watched namespace has the tuple of a connection inside of another.
    #[test]
    fn a_connection_within_another_namespace_is_no_end_of_a_flow_here() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, CONTAINER, false), 100);
        table.open(ends().mirrored(), 101 * MS, socket(2, CONTAINER, true));
        assert_eq!(find(&table, Some(101), 200), None);
    }

    #[test]
    fn the_own_namespace_comes_first_and_another_must_be_alone() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, CONTAINER, false), 100);
        assert_eq!(find(&table, Some(101), 200), Some(1), "behind the host's NAT");
        open(&mut table, socket(2, 3, false), 100);
        assert_eq!(find(&table, Some(101), 200), Some(0), "two containers");
        open(&mut table, socket(3, HOST, false), 100);
        assert_eq!(find(&table, Some(101), 200), Some(3));
    }

    #[test]
    fn loopback_does_not_cross_namespaces() {
        let ends = Ends::new("::1".parse().unwrap(), 1, "::1".parse().unwrap(), 2);
        let mut table = SocketTable::new(Limits::default());
        table.open(ends, 100 * MS, socket(1, CONTAINER, false));
        let span = Span {
            start: Some(Moment::exact(101 * MS)),
            end_ns: 200 * MS,
            destroyed_ns: 200 * MS,
            is_answered: true,
            is_initiator: false,
        };
        assert!(matches!(table.find(&ends, Some(HOST), span), Found::None));
        assert!(matches!(table.find(&ends, Some(CONTAINER), span), Found::One(_)));
    }

    #[test]
    fn after_a_loss_an_open_socket_counts_for_older_flows_only() {
        let mut table = SocketTable::new(Limits::default());
        open(&mut table, socket(1, HOST, false), 100);
        table.0.lost_events(200 * MS);
        assert_eq!(find(&table, Some(101), 300), Some(1));
        assert_eq!(find(&table, Some(250), 300), None);
    }
}
