//! Which socket without a connection had a local port (or echo id, or protocol) at a given time. A pure
//! data structure: no clock, no IO.
//!
//! Such a socket may be bound to an address or to none, connected or not, and may share its port with
//! others. [`EndpointTable::find`] takes the one that the kernel would give the packets to, and says
//! [`FoundEndpoint::Ambiguous`] where several processes could be it.

use std::net::IpAddr;

use flowlog_common::Owner;

use crate::attribution::addresses::Presence;
use crate::attribution::clocks::Moment;
use crate::attribution::lives::{Life, Limits, Lives};
use crate::attribution::sockets::{CLOCK_SLACK_NS, Span, is_loopback};
use crate::flow::Protocol;
use crate::record::Holder;

/// How long a packet may be on its way from a socket in one namespace to the connection tracking of
/// another: the socket may be closed by then. It waits while the address of a neighbour is resolved, for
/// which the kernel tries three times, a second apart.
const TRANSIT_NS: u64 = 4_000_000_000;

/// How many addresses are remembered of one socket that is bound to none. A host has few; more are those
/// of a server with many, which is found by being local.
const MAX_SEEN: usize = 8;

const V4_ANY: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
const V6_ANY: [u8; 16] = [0; 16];

/// What sockets share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The local port; the echo id of ICMP; zero for protocols without.
    pub number: u16,
}

/// A socket without a connection of TCP, while one process had it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// Protocol and port.
    pub port: Port,
    /// Who has it.
    pub holder: Holder,
    /// Whether the holder was seen to send or receive with it, rather than only to bind it.
    pub is_used: bool,
    /// Several processes use it in turn: the holder is none of them.
    pub is_shared: bool,
    /// The address that it is bound to; one of the two zero addresses where it is bound to none.
    pub bound_addr: [u8; 16],
    /// Addresses that it has sent from.
    pub seen_addrs: Vec<[u8; 16]>,
    /// Address and port of the peer, where it is connected.
    pub peer: Option<([u8; 16], u16)>,
}

impl Endpoint {
    /// A socket that its holder was not seen to use, nor to send from any address.
    pub fn unused(
        cookie: u64,
        port: Port,
        holder: Holder,
        bound_addr: [u8; 16],
        peer: Option<([u8; 16], u16)>,
    ) -> Self {
        let (is_used, is_shared, seen_addrs) = (false, false, Vec::new());
        Self { cookie, port, holder, is_used, is_shared, bound_addr, seen_addrs, peer }
    }

    fn see(&mut self, addr: [u8; 16]) {
        if self.seen_addrs.len() < MAX_SEEN && !self.seen_addrs.contains(&addr) {
            self.seen_addrs.push(addr);
        }
    }
}

/// Whether both are one process with one identity, whatever it did with the socket since.
fn is_same_owner(known: &Holder, other: &Holder) -> bool {
    let identity = |holder: &Holder| {
        let Owner { tgid, uid, cgroup_id, netns_cookie, .. } = holder.owner;
        (tgid, uid, cgroup_id, netns_cookie)
    };
    known.owner == other.owner || (identity(known) == identity(other) && known.is_same_process(other))
}

/// One end of a flow, and what is known of the namespace that tracked it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Protocol and port of this end.
    pub port: Port,
    /// Address of this end; IPv4 as v4-mapped.
    pub addr: [u8; 16],
    /// Address and port of the other end.
    pub peer: ([u8; 16], u16),
    /// Cookie of the network namespace that tracked the flow.
    pub netns_cookie: Option<u64>,
    /// Whether `addr` belonged to that namespace.
    pub presence: Presence,
    /// When the flow existed.
    pub span: Span,
}

/// Result of [`EndpointTable::find`].
#[derive(Clone, Copy, Debug)]
pub enum FoundEndpoint<'a> {
    /// No socket of this host.
    None,
    /// This process, with the cookie of its socket where it is only one.
    One(&'a Holder, Option<u64>),
    /// Several processes could be it.
    Ambiguous,
}

/// All sockets without a connection that were seen, until some time after they closed.
#[derive(Debug)]
pub struct EndpointTable(pub Lives<Port, Endpoint>);

impl EndpointTable {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self(Lives::new(limits))
    }

    /// The socket has its port, or its holder uses it, or it was seen to send from one more address.
    pub fn open(&mut self, opened_ns: u64, mut endpoint: Endpoint) {
        // A packet may leave after its socket was closed: that begins no other life.
        if let Some(Life { value: known, .. }) = self.0.get_mut(endpoint.cookie)
            && known.port == endpoint.port
            && known.is_shared == endpoint.is_shared
            && is_same_owner(&known.holder, &endpoint.holder)
            && known.peer == endpoint.peer
        {
            known.is_used |= endpoint.is_used;
            for addr in endpoint.seen_addrs {
                known.see(addr);
            }
            return;
        }
        // Whoever uses it, its addresses are those of its namespace.
        if let Some(Life { value: known, .. }) = self.0.get_mut(endpoint.cookie)
            && known.port == endpoint.port
            && known.bound_addr == endpoint.bound_addr
        {
            for addr in &known.seen_addrs {
                endpoint.see(*addr);
            }
        }
        self.0.open(endpoint.cookie, endpoint.port, Life { opened_ns, closed_ns: None, value: endpoint });
    }

    /// The socket sends from this address, too, whoever uses it.
    pub fn see(&mut self, cookie: u64, port: Port, addr: [u8; 16]) {
        if let Some(Life { value: known, .. }) = self.0.get_mut(cookie)
            && known.port == port
        {
            known.see(addr);
        }
    }

    /// The process at one end of a flow: the one whose socket had the port while the flow existed.
    ///
    /// A socket in the namespace that tracked the flow is preferred. One of another namespace counts
    /// where it is known to have the address, and no other namespace has such a socket.
    pub fn find(&self, wanted: Wanted) -> FoundEndpoint<'_> {
        let netns = |endpoint: &Endpoint| endpoint.holder.owner.netns_cookie;
        let is_own = move |endpoint: &Endpoint| Some(netns(endpoint)) == wanted.netns_cookie;
        let own = self.find_in(wanted, 0, wanted.presence, is_own);
        if !matches!(own, FoundEndpoint::None) || is_loopback([wanted.addr, wanted.peer.0]) {
            return own;
        }
        let is_foreign = move |endpoint: &Endpoint| !is_own(endpoint);
        let mut namespaces =
            self.candidates(wanted, TRANSIT_NS, Presence::No, is_foreign).map(|(_, life)| netns(&life.value));
        match namespaces.next() {
            Some(first) if namespaces.any(|other| other != first) => FoundEndpoint::Ambiguous,
            _ => self.find_in(wanted, TRANSIT_NS, Presence::No, is_foreign),
        }
    }

    /// Looks among the sockets that `include` takes.
    fn find_in<'a>(
        &'a self,
        wanted: Wanted,
        transit_ns: u64,
        presence: Presence,
        include: impl Fn(&Endpoint) -> bool + Copy + 'a,
    ) -> FoundEndpoint<'a> {
        let candidates = || self.candidates(wanted, transit_ns, presence, include);
        let Some(best) = candidates().map(|(fit, _)| fit).max() else {
            return FoundEndpoint::None;
        };
        let fitting = || candidates().filter(move |(fit, _)| *fit == best).map(|(_, life)| life);
        // Who only bound a socket that another uses has handed it over.
        let handed_over = |one: &Endpoint| {
            let is_user = |other: &Endpoint| other.cookie == one.cookie && other.is_used;
            !one.is_used && fitting().any(|other| is_user(&other.value))
        };
        let mut found = FoundEndpoint::None;
        let mut is_certain = false;
        for life in fitting().filter(|life| !handed_over(&life.value)) {
            let endpoint = &life.value;
            found = match found {
                _ if endpoint.is_shared || !has_addr_for_sure(endpoint, &wanted, presence) => {
                    return FoundEndpoint::Ambiguous;
                }
                FoundEndpoint::None => FoundEndpoint::One(&endpoint.holder, Some(endpoint.cookie)),
                FoundEndpoint::One(holder, cookie) if holder.is_same_process(&endpoint.holder) => {
                    FoundEndpoint::One(holder, cookie.filter(|cookie| *cookie == endpoint.cookie))
                }
                _ => return FoundEndpoint::Ambiguous,
            };
            is_certain |= had_port(life, wanted.span, transit_ns);
        }
        match found {
            // Nobody else can have had the port, but it may have been nobody's.
            FoundEndpoint::One(..) if !is_certain => FoundEndpoint::Ambiguous,
            found => found,
        }
    }

    /// The sockets that may have had this end of the flow, each with how well it fits.
    fn candidates<'a>(
        &'a self,
        wanted: Wanted,
        transit_ns: u64,
        presence: Presence,
        include: impl Fn(&Endpoint) -> bool + 'a,
    ) -> impl Iterator<Item = (Fit, &'a Life<Endpoint>)> {
        let Wanted { port, span, .. } = wanted;
        let Moment { ns: start_ns, early_ns, .. } = span.start.unwrap_or(Moment::exact(0));
        let slack_ns = CLOCK_SLACK_NS.saturating_add(early_ns);
        let slack = move |time_ns: u64| time_ns.saturating_add(slack_ns);
        let transit = move |closed_ns: u64| closed_ns.saturating_add(transit_ns.max(slack_ns));
        self.0
            .with_key(&port)
            .map(|(_, life)| life)
            .filter(move |life| {
                life.opened_ns <= slack(span.end_ns)
                    && life.closed_ns.is_none_or(|closed| transit(closed) >= start_ns)
            })
            .filter(move |life| include(&life.value))
            .filter_map(move |life| Some((fit(&life.value, &wanted, presence)?, life)))
    }
}

/// Whether the socket had its port while the flow existed for sure, and not only within the error of the
/// clocks, or because the start of the flow is not known.
fn had_port(life: &Life<Endpoint>, span: Span, transit_ns: u64) -> bool {
    span.start.is_some_and(|Moment { ns: start_ns, early_ns, late_ns }| {
        // Somebody sent the first packet; nobody needs to have answered it.
        let is_open_at_start = |closed_ns: u64| match span.is_initiator {
            true => closed_ns.saturating_add(early_ns.max(transit_ns)) >= start_ns,
            false => closed_ns.saturating_add(transit_ns) >= start_ns.saturating_add(late_ns),
        };
        life.opened_ns <= span.end_ns.saturating_add(early_ns) && life.closed_ns.is_none_or(is_open_at_start)
    })
}

/// How the kernel ranks sockets that share a port (`udp4_lib_lookup2`, `compute_score`): the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// IPv6, bound to no address, for IPv4 packets.
    OtherFamily,
    /// Bound to no address.
    AnyAddress,
    /// Bound to the address.
    Address,
    /// Connected to the peer.
    Peer,
}

/// Whether the address is one of the socket for sure, rather than one that came to its namespace, or went, about when the
/// flow began.
fn has_addr_for_sure(endpoint: &Endpoint, wanted: &Wanted, presence: Presence) -> bool {
    let Endpoint { bound_addr, seen_addrs, .. } = endpoint;
    presence != Presence::Maybe || *bound_addr == wanted.addr || seen_addrs.contains(&wanted.addr)
}

fn fit(endpoint: &Endpoint, wanted: &Wanted, presence: Presence) -> Option<Fit> {
    let Endpoint { bound_addr, seen_addrs, peer, .. } = endpoint;
    let is_v4 = matches!(IpAddr::from(wanted.addr).to_canonical(), IpAddr::V4(_));
    let has_addr = presence != Presence::No || seen_addrs.contains(&wanted.addr);
    let by_addr = match *bound_addr {
        bound if bound == wanted.addr => Fit::Address,
        V4_ANY if is_v4 && has_addr => Fit::AnyAddress,
        V6_ANY if is_v4 && has_addr => Fit::OtherFamily,
        V6_ANY if has_addr => Fit::AnyAddress,
        _ => return None,
    };
    match peer {
        Some(peer) if *peer == wanted.peer => Some(Fit::Peer),
        Some(_) => None,
        None => Some(by_addr),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flowlog_common::Owner;

    use super::*;
    use crate::attribution::sockets::mapped;
    use crate::record::{Origin, Process};
    const HOST: u64 = 1;
    const CONTAINER: u64 = 2;
    const DNS: Port = Port { protocol: Protocol::UDP, number: 53 };

    fn addr(text: &str) -> [u8; 16] {
        mapped(text.parse().unwrap())
    }

    fn endpoint(cookie: u64, tgid: u32, netns_cookie: u64, bound: &str) -> Endpoint {
        let owner = Owner { netns_cookie, tgid, time_ns: 1, ..Owner::UNKNOWN };
        let process = Some(Arc::new(Process { tgid, ..Process::default() }));
        Endpoint {
            cookie,
            port: DNS,
            holder: Holder { owner, process, origin: Origin::default(), is_seeded: false },
            is_used: true,
            is_shared: false,
            bound_addr: addr(bound),
            seen_addrs: Vec::new(),
            peer: None,
        }
    }

    fn wanted(local: &str) -> Wanted {
        Wanted {
            port: DNS,
            addr: addr(local),
            peer: (addr("192.0.2.7"), 4000),
            netns_cookie: Some(HOST),
            presence: Presence::Yes,
            span: Span {
                start: Some(Moment::exact(200_000_000)),
                end_ns: 300_000_000,
                destroyed_ns: 300_000_000,
                is_answered: true,
                is_initiator: false,
            },
        }
    }

    fn table(endpoints: impl IntoIterator<Item = Endpoint>) -> EndpointTable {
        let mut table = EndpointTable::new(Limits::default());
        for endpoint in endpoints {
            table.open(100_000_000, endpoint);
        }
        table
    }

    /// The process and socket that are found, -1 where it is ambiguous.
    fn find(table: &EndpointTable, wanted: &Wanted) -> Option<(i64, Option<u64>)> {
        match table.find(*wanted) {
            FoundEndpoint::None => None,
            FoundEndpoint::One(holder, cookie) => Some((i64::from(holder.owner.tgid), cookie)),
            FoundEndpoint::Ambiguous => Some((-1, None)),
        }
    }

    #[test]
    fn the_most_specific_socket_gets_the_packets() {
        let connected = Endpoint { peer: Some(wanted("10.0.0.1").peer), ..endpoint(4, 40, HOST, "10.0.0.1") };
        let mut all = vec![
            endpoint(1, 10, HOST, "::"),
            endpoint(2, 20, HOST, "0.0.0.0"),
            endpoint(3, 30, HOST, "10.0.0.1"),
            connected,
        ];
        for expected in [(40, Some(4)), (30, Some(3)), (20, Some(2)), (10, Some(1))] {
            assert_eq!(find(&table(all.clone()), &wanted("10.0.0.1")), Some(expected));
            all.pop();
        }
    }

    #[test]
    fn a_socket_that_is_connected_elsewhere_is_none() {
        let elsewhere =
            Endpoint { peer: Some((addr("192.0.2.8"), 4000)), ..endpoint(1, 10, HOST, "10.0.0.1") };
        assert_eq!(find(&table([elsewhere]), &wanted("10.0.0.1")), None);
    }

    /// A local server on all addresses is not the server that a local client asks elsewhere.
    #[test]
    fn any_address_is_any_local_address() {
        let table = table([endpoint(1, 10, HOST, "0.0.0.0")]);
        assert_eq!(find(&table, &Wanted { presence: Presence::No, ..wanted("8.8.8.8") }), None);
        assert_eq!(find(&table, &wanted("10.0.0.1")), Some((10, Some(1))));
    }

    #[test]
    fn of_another_namespace_the_address_must_have_been_seen() {
        let server = endpoint(1, 10, CONTAINER, "0.0.0.0");
        let seen = Endpoint { seen_addrs: vec![addr("172.17.0.2")], ..server.clone() };
        let wanted = Wanted { presence: Presence::No, ..wanted("172.17.0.2") };
        assert_eq!(find(&table([server]), &wanted), None);
        assert_eq!(find(&table([seen.clone()]), &wanted), Some((10, Some(1))));
        let mut twin = Endpoint { seen_addrs: seen.seen_addrs.clone(), ..endpoint(2, 20, 3, "0.0.0.0") };
        assert_eq!(find(&table([seen.clone(), twin.clone()]), &wanted), Some((-1, None)));
        twin.holder.owner.netns_cookie = HOST;
        assert_eq!(find(&table([seen, twin]), &wanted), Some((20, Some(2))), "the own namespace first");
    }

    #[test]
    fn a_packet_may_be_on_its_way_when_its_socket_is_closed() {
        let seen_addrs = vec![addr("172.17.0.2")];
        let mut table = table([Endpoint { seen_addrs, ..endpoint(1, 10, CONTAINER, "0.0.0.0") }]);
        table.0.close(1, 190_000_000);
        // Told late: not another life.
        table.open(100_000_000, Endpoint { is_used: true, ..endpoint(1, 10, CONTAINER, "0.0.0.0") });
        let there = Wanted { presence: Presence::No, ..wanted("172.17.0.2") };
        assert_eq!(find(&table, &there), Some((10, Some(1))));
        let here = Wanted { netns_cookie: Some(CONTAINER), ..there };
        assert_eq!(
            find(&table, &Wanted { presence: Presence::Yes, ..here }),
            None,
            "tracked where it was sent"
        );
        let later = Span { start: Some(Moment::exact(5_000_000_000)), ..wanted("10.0.0.1").span };
        assert_eq!(find(&table, &Wanted { span: later, ..there }), None);
    }

    #[test]
    fn without_a_start_nothing_is_proof() {
        let table = table([endpoint(1, 10, HOST, "0.0.0.0")]);
        let span = Span { start: None, ..wanted("10.0.0.1").span };
        assert_eq!(find(&table, &Wanted { span, ..wanted("10.0.0.1") }), Some((-1, None)));
    }

    #[test]
    fn a_group_of_sockets_is_named_where_it_is_one_process() {
        let first = endpoint(1, 10, HOST, "0.0.0.0");
        let second = Endpoint { cookie: 2, ..first.clone() };
        assert_eq!(find(&table([first.clone(), second]), &wanted("10.0.0.1")), Some((10, None)));
        let other = endpoint(3, 20, HOST, "0.0.0.0");
        assert_eq!(find(&table([first, other]), &wanted("10.0.0.1")), Some((-1, None)));
    }

    #[test]
    fn who_uses_a_socket_has_it_and_not_who_bound_it() {
        let parent = Endpoint { is_used: false, ..endpoint(1, 10, HOST, "0.0.0.0") };
        let child = endpoint(1, 20, HOST, "0.0.0.0");
        let mut table = table([parent]);
        assert_eq!(find(&table, &wanted("10.0.0.1")), Some((10, Some(1))));
        table.open(210_000_000, child);
        assert_eq!(find(&table, &wanted("10.0.0.1")), Some((20, Some(1))));
        table.open(220_000_000, endpoint(1, 30, HOST, "0.0.0.0"));
        assert_eq!(find(&table, &wanted("10.0.0.1")), Some((-1, None)), "two children used it");
    }

    #[test]
    fn of_a_socket_that_several_use_in_turn_none_is_named() {
        let seen = Endpoint { seen_addrs: vec![addr("10.0.0.1")], ..endpoint(1, 10, HOST, "0.0.0.0") };
        let mut table = table([seen]);
        let owner = Owner { netns_cookie: HOST, ..Owner::UNKNOWN };
        let holder = Holder { owner, process: None, origin: Origin::default(), is_seeded: false };
        table.open(150_000_000, Endpoint { holder, is_shared: true, ..endpoint(1, 0, HOST, "0.0.0.0") });
        assert_eq!(find(&table, &wanted("10.0.0.1")), Some((-1, None)));
        let elsewhere =
            Wanted { netns_cookie: Some(CONTAINER), presence: Presence::No, ..wanted("10.0.0.1") };
        assert_eq!(find(&table, &elsewhere), Some((-1, None)), "its address stays known");
    }

    /// A process that goes on as another user has another row; one that only uses what it bound has not.
    #[test]
    fn a_user_is_told_apart_from_who_bound_it() {
        let bound = Endpoint { is_used: false, ..endpoint(1, 10, HOST, "0.0.0.0") };
        let mut used = Endpoint { is_used: true, ..bound.clone() };
        used.holder.owner.time_ns = 2;
        let mut table = table([bound]);
        table.open(210_000_000, used.clone());
        assert_eq!(table.0.with_key(&DNS).count(), 1);
        used.holder.owner.uid = 65_534;
        table.open(220_000_000, used);
        let uids: Vec<_> = table.0.with_key(&DNS).map(|(_, life)| life.value.holder.owner.uid).collect();
        assert_eq!((uids.len(), uids.contains(&65_534)), (2, true));
    }

    #[test]
    fn an_address_that_came_about_then_is_of_the_socket_that_sent_from_it() {
        let about_then = Wanted { presence: Presence::Maybe, ..wanted("10.0.0.1") };
        let wildcard = endpoint(1, 10, HOST, "0.0.0.0");
        let seen = Endpoint { seen_addrs: vec![addr("10.0.0.1")], ..wildcard.clone() };
        assert_eq!(find(&table([wildcard]), &about_then), Some((-1, None)));
        assert_eq!(find(&table([seen]), &about_then), Some((10, Some(1))));
        assert_eq!(find(&table([endpoint(1, 10, HOST, "10.0.0.1")]), &about_then), Some((10, Some(1))));
    }

    #[test]
    fn a_port_that_is_used_again_is_told_apart_by_time() {
        let mut table = table([endpoint(1, 10, HOST, "0.0.0.0")]);
        table.0.close(1, 150_000_000);
        assert_eq!(find(&table, &wanted("10.0.0.1")), None);
        table.open(190_000_000, endpoint(2, 20, HOST, "0.0.0.0"));
        assert_eq!(find(&table, &wanted("10.0.0.1")), Some((20, Some(2))));
    }
}
