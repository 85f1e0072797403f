//! Which socket without a connection had a local port (or echo id, or protocol) at a given time. A pure
//! data structure: no clock, no IO.
//!
//! Such a socket may be bound to an address or to none, connected or not, and may share its port with
//! others. [`EndpointTable::find`] takes the one that the kernel would give the packets to, and says
//! [`FoundEndpoint::Ambiguous`] where several processes could be it.

mod details_v4;
mod forgotten;

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};

use self::details_v4::EndpointLives;
use self::forgotten::Forgotten;

use crate::attribution::addresses::Presence;
use crate::attribution::clocks::Moment;
use crate::attribution::holders::{GroupId, HolderId, Holders};
use crate::attribution::lives::{Life, LifeValue, Number};
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

/// Of how many sockets more than one address is remembered.
const MAX_WITH_MORE: usize = 1 << 16;

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

/// A socket without a connection of TCP, as it is told, while one process had it.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// Protocol and port.
    pub port: Port,
    /// Who has it.
    pub holder: HolderId,
    /// Whether the holder was seen to send or receive with it, rather than only to bind it.
    pub is_used: bool,
    /// Several processes use it in turn: the holder is none of them.
    pub is_shared: bool,
    /// The address that it is bound to; one of the two zero addresses where it is bound to none.
    pub bound_addr: [u8; 16],
    /// An address that it has sent from, where it is bound to none.
    pub seen_addr: Option<[u8; 16]>,
    /// Address and port of the peer, where it is connected.
    pub peer: Option<([u8; 16], u16)>,
}

impl Endpoint {
    /// A socket that its holder was not seen to use, nor to send from any address.
    pub fn unused(
        cookie: u64,
        port: Port,
        holder: HolderId,
        bound_addr: [u8; 16],
        peer: Option<([u8; 16], u16)>,
    ) -> Self {
        Self { cookie, port, holder, is_used: false, is_shared: false, bound_addr, seen_addr: None, peer }
    }
}

/// What is kept of such a socket, beside its life.
#[derive(Clone, Copy, Debug)]
pub struct Details {
    /// The address that it is bound to; if it is bound to none, the first that it has sent from.
    addr: [u8; 16],
    peer_addr: [u8; 16],
    peer_port: u16,
    flags: u8,
}

impl Details {
    const USED: u8 = 1;
    const SHARED: u8 = 1 << 1;
    const CONNECTED: u8 = 1 << 2;
    const BOUND_TO_NONE_V4: u8 = 1 << 3;
    const BOUND_TO_NONE_V6: u8 = 1 << 4;
    /// It has sent from `addr`.
    const SEEN: u8 = 1 << 5;
    /// It has sent from others, too.
    const SEEN_MORE: u8 = 1 << 6;

    fn new(endpoint: &Endpoint) -> Self {
        let Endpoint { is_used, is_shared, bound_addr, seen_addr, peer, .. } = *endpoint;
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let is_bound = bound_addr != V4_ANY && bound_addr != V6_ANY;
        let seen_addr = seen_addr.filter(|_| !is_bound);
        let (peer_addr, peer_port) = peer.unwrap_or_default();
        Self {
            addr: if is_bound { bound_addr } else { seen_addr.unwrap_or_default() },
            peer_addr,
            peer_port,
            flags: flag(Self::USED, is_used)
                | flag(Self::SHARED, is_shared)
                | flag(Self::CONNECTED, peer.is_some())
                | flag(Self::BOUND_TO_NONE_V4, bound_addr == V4_ANY)
                | flag(Self::BOUND_TO_NONE_V6, bound_addr == V6_ANY)
                | flag(Self::SEEN, seen_addr.is_some()),
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn bound_addr(&self) -> [u8; 16] {
        match self.flags & (Self::BOUND_TO_NONE_V4 | Self::BOUND_TO_NONE_V6) {
            0 => self.addr,
            Self::BOUND_TO_NONE_V4 => V4_ANY,
            _ => V6_ANY,
        }
    }

    fn peer(&self) -> Option<([u8; 16], u16)> {
        self.has(Self::CONNECTED).then_some((self.peer_addr, self.peer_port))
    }
}

impl LifeValue for Details {}

/// Whether both are one process with one identity, whatever it did with the socket since.
fn is_same_owner(known: &Holder, other: &Holder) -> bool {
    known.owner == other.owner || known.is_same(other)
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
pub enum FoundEndpoint {
    /// No socket of this host.
    None,
    /// This process, with the cookie of its socket where it is only one.
    One(HolderId, Option<u64>),
    /// Several processes of one program, user and cgroup could be it, of which this is one.
    Program(HolderId),
    /// Several processes could be it.
    Ambiguous,
}

/// All sockets without a connection that were seen, until some time after they closed.
#[derive(Debug, Default)]
pub struct EndpointTable {
    lives: EndpointLives,
    /// More addresses that sockets have sent from, by their cookies.
    more: HashMap<u64, Vec<[u8; 16]>, foldhash::fast::RandomState>,
    forgotten: Forgotten,
    /// Those that are forgotten with a flow: the room is kept for the next.
    spent: Vec<Number>,
}

impl EndpointTable {
    /// The socket has its port, or its holder uses it, or it was seen to send from one more address. The holder is used by it
    /// from here on.
    pub fn open(&mut self, opened_ns: u64, endpoint: Endpoint, holders: &mut Holders) {
        let Endpoint { cookie, port, holder, seen_addr, is_used, .. } = endpoint;
        let known = self.get_with_port(cookie, port);
        if known.is_none() && self.forgotten.has(cookie) {
            holders.release(holder);
            return;
        }
        // A packet may leave after its socket was closed: that begins no other life.
        if let Some(known) = known
            && known.value.has(Details::SHARED) == endpoint.is_shared
            && is_same_owner(holders.get(known.holder), holders.get(holder))
            && known.value.peer() == endpoint.peer
        {
            let flags = known.value.flags | if is_used { Details::USED } else { 0 };
            self.lives.replace(Life { value: Details { flags, ..known.value }, ..known }, holders);
            holders.release(holder);
        } else {
            self.open_again(opened_ns, endpoint, holders);
        }
        if let Some(addr) = seen_addr {
            self.see(cookie, port, addr, holders);
        }
    }

    /// Another life of the socket begins, even if it goes on in the same way.
    pub fn open_again(&mut self, opened_ns: u64, endpoint: Endpoint, holders: &mut Holders) {
        let Endpoint { cookie, port, holder, bound_addr, .. } = endpoint;
        let mut value = Details::new(&endpoint);
        // Whoever uses it, its addresses are those of its namespace.
        if let Some(Life { value: known, .. }) = self.get_with_port(cookie, port)
            && known.bound_addr() == bound_addr
            && known.has(Details::SEEN)
        {
            let seen = known.flags & (Details::SEEN | Details::SEEN_MORE);
            value = Details { addr: known.addr, flags: value.flags | seen, ..value };
        }
        self.lives.open(port, Life { opened_ns, closed_ns: None, cookie, holder, value }, holders);
    }

    /// The socket sends from this address, too, whoever uses it.
    pub fn see(&mut self, cookie: u64, port: Port, addr: [u8; 16], holders: &mut Holders) {
        let Some(known) = self.get_with_port(cookie, port) else { return };
        let Details { addr: first, flags, .. } = known.value;
        let is_bound = flags & (Details::BOUND_TO_NONE_V4 | Details::BOUND_TO_NONE_V6) == 0;
        if is_bound || known.value.has(Details::SEEN) && first == addr {
            return;
        }
        let value = if known.value.has(Details::SEEN) {
            if self.more.len() >= MAX_WITH_MORE && !self.more.contains_key(&cookie) {
                return;
            }
            let more = self.more.entry(cookie).or_default();
            if more.len() + 1 < MAX_SEEN && !more.contains(&addr) {
                more.push(addr);
            }
            Details { flags: flags | Details::SEEN_MORE, ..known.value }
        } else {
            Details { addr, flags: flags | Details::SEEN, ..known.value }
        };
        self.lives.replace(Life { value, ..known }, holders);
    }

    /// The life that the socket has now, or had last.
    pub fn get(&self, cookie: u64) -> Option<Life<Details>> {
        self.lives.get_with_key(cookie).map(|(_, life)| life)
    }

    /// The port of that life.
    pub fn port(&self, cookie: u64) -> Option<Port> {
        self.lives.get_with_key(cookie).map(|(port, _)| port)
    }

    /// The life that the socket has now, or had last, if it has this port.
    fn get_with_port(&self, cookie: u64, port: Port) -> Option<Life<Details>> {
        self.lives.get_with_key(cookie).filter(|(known, _)| *known == port).map(|(_, life)| life)
    }

    /// Says who has the socket.
    pub fn replace(&mut self, life: Life<Details>, holders: &mut Holders) {
        self.lives.replace(life, holders);
    }

    /// The life of the socket ends, where it has not yet.
    pub fn close(&mut self, cookie: u64, at_ns: u64, holders: &Holders) {
        self.lives.close(cookie, at_ns, holders);
    }

    /// As [`crate::attribution::lives::Lives::lost_events`].
    pub fn lost_events(&mut self, since_ns: u64, holders: &Holders) {
        self.lives.lost_events(since_ns, holders);
    }

    /// As [`crate::attribution::lives::Lives::expire`].
    pub fn expire(&mut self, now_ns: u64, linger_ns: impl Fn(Protocol) -> u64, holders: &mut Holders) {
        let shortest_ns = linger_ns(Protocol::UDP);
        let of_port = |port: &Port| linger_ns(port.protocol);
        self.lives.v4.expire(now_ns, shortest_ns, of_port, holders);
        self.lives.v6.expire(now_ns, shortest_ns, of_port, holders);
        self.forgotten.expire(now_ns.saturating_sub(shortest_ns));
        if self.more.len() > 2 * MAX_SEEN {
            let Self { lives, more, .. } = self;
            more.retain(|cookie, _| lives.get_with_key(*cookie).is_some());
        }
    }

    /// Forgets the connected sockets for which only this flow asked.
    pub fn forget_spent(&mut self, wanted: &Wanted, holders: &mut Holders) {
        let netns = |holder| Some(holders.get(holder).owner.netns_cookie);
        let is_spent = |life: &Life<Details>| {
            life.value.peer() == Some(wanted.peer)
                && life.value.bound_addr() == wanted.addr
                && netns(life.holder) == wanted.netns_cookie
                && wanted.span.spends(life)
        };
        let spent = self.lives.with_key(wanted.port).filter(|(_, life)| is_spent(life));
        self.spent.extend(spent.map(|(number, _)| number));
        for number in self.spent.drain(..) {
            self.lives.forget(number, holders);
        }
    }

    /// As [`crate::attribution::lives::Lives::evict`].
    pub(crate) fn evict(&mut self, group: GroupId, holders: &mut Holders) -> bool {
        let Some((port, life)) = self.lives.evict(group, holders) else { return false };
        self.forgotten.add(port, &life);
        true
    }

    /// How many sockets this group has.
    pub(crate) fn len_of(&self, group: GroupId) -> usize {
        self.lives.len_of(group)
    }

    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.lives.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let more = self.more.capacity() * size_of::<(u64, Vec<[u8; 16]>)>();
        self.lives.bytes() + more + self.more.len() * MAX_SEEN * size_of::<[u8; 16]>()
    }

    /// How many were forgotten early, because there were too many.
    pub fn evicted(&self) -> u64 {
        self.lives.evicted()
    }

    /// When the lives of sockets with this port began and ended.
    #[cfg(test)]
    pub(crate) fn spans(&self, port: Port) -> Vec<(u64, Option<u64>)> {
        self.lives.with_key(port).map(|(_, life)| (life.opened_ns, life.closed_ns)).collect()
    }

    /// The process at one end of a flow: the one whose socket had the port while the flow existed.
    ///
    /// A socket in the namespace that tracked the flow is preferred. One of another namespace counts
    /// where it is known to have the address, and no other namespace has such a socket.
    pub fn find(&self, wanted: Wanted, holders: &Holders) -> FoundEndpoint {
        match self.lives.count(&wanted.port) {
            None => return FoundEndpoint::Ambiguous,
            Some(0) => return FoundEndpoint::None,
            Some(_) => {}
        }
        let netns = |life: &Life<Details>| holders.get(life.holder).owner.netns_cookie;
        let is_own = |life: &Life<Details>| Some(netns(life)) == wanted.netns_cookie;
        let own = self.find_in(wanted, 0, wanted.presence, holders, is_own);
        if !matches!(own, FoundEndpoint::None) || is_loopback([wanted.addr, wanted.peer.0]) {
            return own;
        }
        let is_foreign = |life: &Life<Details>| !is_own(life);
        let mut namespaces =
            self.candidates(wanted, TRANSIT_NS, Presence::No, is_foreign).map(|(_, life)| netns(&life));
        match namespaces.next() {
            Some(first) if namespaces.any(|other| other != first) => FoundEndpoint::Ambiguous,
            _ => self.find_in(wanted, TRANSIT_NS, Presence::No, holders, is_foreign),
        }
    }

    /// Looks among the sockets that `include` takes.
    fn find_in(
        &self,
        wanted: Wanted,
        transit_ns: u64,
        presence: Presence,
        holders: &Holders,
        include: impl Fn(&Life<Details>) -> bool + Copy,
    ) -> FoundEndpoint {
        let candidates = || self.candidates(wanted, transit_ns, presence, include);
        let Some(best) = candidates().map(|(fit, _)| fit).max() else {
            return FoundEndpoint::None;
        };
        let fitting = || candidates().filter(move |(fit, _)| *fit == best).map(|(_, life)| life);
        let is_used = |life: &Life<Details>| life.value.has(Details::USED);
        // Who only bound a socket that another uses has handed it over.
        let mut used = HashSet::<u64, foldhash::fast::RandomState>::default();
        if !fitting().all(|life| is_used(&life)) {
            used.extend(fitting().filter(is_used).map(|life| life.cookie));
        }
        let handed_over = |one: &Life<Details>| !is_used(one) && used.contains(&one.cookie);
        let mut found = FoundEndpoint::None;
        let mut is_certain = false;
        for life in fitting().filter(|life| !handed_over(life)) {
            let is_it = |known| holders.get(known).is_same(holders.get(life.holder));
            let is_its_program = |known| holders.get(known).is_same_program(holders.get(life.holder));
            found = match found {
                _ if life.value.has(Details::SHARED) || !self.has_addr_for_sure(&life, &wanted, presence) => {
                    return FoundEndpoint::Ambiguous;
                }
                FoundEndpoint::None => FoundEndpoint::One(life.holder, Some(life.cookie)),
                FoundEndpoint::One(holder, cookie) if holder == life.holder || is_it(holder) => {
                    FoundEndpoint::One(holder, cookie.filter(|cookie| *cookie == life.cookie))
                }
                FoundEndpoint::One(holder, _) | FoundEndpoint::Program(holder) if is_its_program(holder) => {
                    FoundEndpoint::Program(holder)
                }
                _ => return FoundEndpoint::Ambiguous,
            };
            is_certain |= had_port(&life, wanted.span, transit_ns);
        }
        // One that was connected to the peer would have been preferred.
        let is_hidden =
            || best < Fit::Peer && self.forgotten.may_be(wanted.port, wanted.peer, &wanted.span, transit_ns);
        match found {
            FoundEndpoint::One(..) | FoundEndpoint::Program(_) if is_hidden() => FoundEndpoint::Ambiguous,
            // Nobody else can have had the port, but it may have been nobody's.
            FoundEndpoint::One(..) | FoundEndpoint::Program(_) if !is_certain => FoundEndpoint::Ambiguous,
            found => found,
        }
    }

    /// The sockets that may have had this end of the flow, each with how well it fits.
    fn candidates(
        &self,
        wanted: Wanted,
        transit_ns: u64,
        presence: Presence,
        include: impl Fn(&Life<Details>) -> bool,
    ) -> impl Iterator<Item = (Fit, Life<Details>)> {
        let Wanted { port, span, .. } = wanted;
        let Moment { ns: start_ns, early_ns, .. } = span.start.unwrap_or(Moment::exact(0));
        let slack_ns = CLOCK_SLACK_NS.saturating_add(early_ns);
        let slack = move |time_ns: u64| time_ns.saturating_add(slack_ns);
        let transit = move |closed_ns: u64| closed_ns.saturating_add(transit_ns.max(slack_ns));
        self.lives
            .with_key(port)
            .map(|(_, life)| life)
            .filter(move |life| {
                life.opened_ns <= slack(span.end_ns)
                    && life.closed_ns.is_none_or(|closed| transit(closed) >= start_ns)
            })
            .filter(include)
            .filter_map(move |life| Some((self.fit(&life, &wanted, presence)?, life)))
    }

    /// Whether the socket has sent from this address, and is bound to none.
    fn has_seen(&self, life: &Life<Details>, addr: [u8; 16]) -> bool {
        let Life { cookie, value, .. } = life;
        value.has(Details::SEEN) && value.addr == addr
            || value.has(Details::SEEN_MORE) && self.more.get(cookie).is_some_and(|more| more.contains(&addr))
    }

    /// Whether the address is one of the socket for sure, rather than one that came to its namespace, or went, about when
    /// the flow began.
    fn has_addr_for_sure(&self, life: &Life<Details>, wanted: &Wanted, presence: Presence) -> bool {
        presence != Presence::Maybe
            || life.value.bound_addr() == wanted.addr
            || self.has_seen(life, wanted.addr)
    }

    fn fit(&self, life: &Life<Details>, wanted: &Wanted, presence: Presence) -> Option<Fit> {
        let peer = life.value.peer();
        // Most of a crowded port are connected to somebody else.
        if peer.is_some_and(|peer| peer != wanted.peer) {
            return None;
        }
        let is_v4 = matches!(IpAddr::from(wanted.addr).to_canonical(), IpAddr::V4(_));
        let has_addr = || presence != Presence::No || self.has_seen(life, wanted.addr);
        let by_addr = match life.value.bound_addr() {
            bound if bound == wanted.addr => Fit::Address,
            V4_ANY if is_v4 && has_addr() => Fit::AnyAddress,
            V6_ANY if is_v4 && has_addr() => Fit::OtherFamily,
            V6_ANY if has_addr() => Fit::AnyAddress,
            _ => return None,
        };
        Some(if peer.is_some() { Fit::Peer } else { by_addr })
    }
}

/// Whether the socket had its port while the flow existed for sure, and not only within the error of the
/// clocks, or because the start of the flow is not known.
fn had_port<T>(life: &Life<T>, span: Span, transit_ns: u64) -> bool {
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

#[cfg(test)]
mod tests;
