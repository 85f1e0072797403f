//! Flows as a busy host sees them: the same ones in each run, for all measurements.
//!
//! The host is a gateway of 20 000 clients that also serves. Of 100 flows,
//!
//! | flows | what | translated |
//! |---|---|---|
//! | 42 | clients call a web service at one of 4 public addresses | to one of 24 servers (DNAT) |
//! | 25 | servers call 60 services: databases, caches, queues, RPC | no |
//! | 16 | clients ask one of 2 resolvers over UDP | no |
//! | 16 | clients call one of 50 000 hosts outside, over TCP, QUIC and NTP | to one address and another port (SNAT) |
//! | 1 | clients ping hosts outside | no |
//!
//! One in ten is IPv6, then without NAT. Clients, services and hosts outside follow Zipf's law: the nth is
//! called 1/n as often as the first. Source ports are ephemeral ones. Of TCP, 82 % ended in order, 8 % by a
//! reset, 6 % are still open, 4 % got no answer. Most flows carry some kilobytes, few many megabytes; they take
//! from a millisecond to minutes, and end at 20 000 a second.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowlog::flow::{Counters, Flow, L4, ProtoState, Protocol, Status, TcpState, Tuple};
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;

/// Any number will do, as long as it stays the same.
const SEED: u64 = 20_240_229;

const CLIENTS: u32 = 20_000;
pub(crate) const WEB_SERVERS: u32 = 24;
const WEB_ADDRESSES: u32 = 4;
const SERVICES: u32 = 60;
const OUTSIDE: u32 = 50_000;

/// Of the services.
const SERVICE_PORTS: [u16; 8] = [5432, 6379, 9092, 8080, 3306, 50_051, 9200, 11_211];

/// What a client calls outside: protocol, port, and how many of 100.
const OUTSIDE_PORTS: [(Protocol, u16, u32); 5] = [
    (Protocol::TCP, 443, 70),
    (Protocol::UDP, 443, 15),
    (Protocol::TCP, 80, 8),
    (Protocol::UDP, 123, 5),
    (Protocol::TCP, 22, 2),
];

/// When the first flow ends: a round time in 2026.
const FIRST_STOP_NS: u64 = 1_790_000_000_000_000_000;
const BETWEEN_STOPS_NS: u64 = 50_000;

/// The timeout of an open connection of TCP.
const ESTABLISHED_S: u32 = 432_000;

/// What TCP carries each way: at most so many bytes, as a power of two, and how many flows of 100.
const VOLUMES: [(u32, u32); 5] = [(10, 40), (12, 30), (14, 20), (17, 8), (24, 2)];

/// What a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// From a client to a web server.
    Web,
    /// From a server to a service.
    Service,
    /// From a client to a resolver.
    Dns,
    /// From a client to a host outside.
    Outside,
    /// A ping of a host outside.
    Ping,
}

/// Makes the flows, one after the other, with no tuple twice.
pub(crate) struct Mix {
    rng: XorShiftRng,
    kind: WeightedIndex<u32>,
    client: WeightedIndex<f64>,
    service: WeightedIndex<f64>,
    outside: WeightedIndex<f64>,
    outside_port: WeightedIndex<u32>,
    volume: WeightedIndex<u32>,
    /// Tuples that are taken, of both directions: the kernel has each once.
    taken: HashSet<Tuple>,
    made: u64,
}

impl Mix {
    /// From the first flow on.
    ///
    /// # Errors
    ///
    /// Where a weight is wrong, which is a mistake here.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let zipf = |count: u32| WeightedIndex::new((1..=count).map(|rank| 1.0 / f64::from(rank)));
        Ok(Self {
            rng: XorShiftRng::seed_from_u64(SEED),
            kind: WeightedIndex::new(KINDS.map(|(_, weight)| weight))?,
            client: zipf(CLIENTS)?,
            service: zipf(SERVICES)?,
            outside: zipf(OUTSIDE)?,
            outside_port: WeightedIndex::new(OUTSIDE_PORTS.map(|(_, _, weight)| weight))?,
            volume: WeightedIndex::new(VOLUMES.map(|(_, weight)| weight))?,
            taken: HashSet::new(),
            made: 0,
        })
    }

    /// The next flow, as its DESTROY message describes it.
    pub(crate) fn flow(&mut self) -> Flow {
        loop {
            let (orig, reply) = self.tuples();
            if self.taken.contains(&orig) || self.taken.contains(&reply) {
                continue;
            }
            self.taken.extend([orig, reply]);
            self.made += 1;
            return self.describe(orig, reply);
        }
    }

    fn tuples(&mut self) -> (Tuple, Tuple) {
        let kind = KINDS.get(self.kind.sample(&mut self.rng)).map_or(Kind::Web, |(kind, _)| *kind);
        let is_v6 = self.rng.random_ratio(1, 10);
        let address = |network: Network, number: usize| network.address(number, is_v6);
        let client = address(Network::Clients, self.client.sample(&mut self.rng));
        let port = self.rng.random_range(32_768..61_000);
        let (proto, src, dst, dst_port, server) = match kind {
            Kind::Web => {
                let public = address(Network::Public, index(self.rng.random_range(0..WEB_ADDRESSES)));
                let server = address(Network::Servers, index(self.rng.random_range(0..WEB_SERVERS)));
                let dst_port = if self.rng.random_ratio(9, 10) { 443 } else { 80 };
                (Protocol::TCP, client, public, dst_port, Some((server, dst_port + 8000)))
            }
            Kind::Service => {
                let server = address(Network::Servers, index(self.rng.random_range(0..WEB_SERVERS)));
                let service = self.service.sample(&mut self.rng);
                let dst_port = SERVICE_PORTS.iter().cycle().nth(service).copied().unwrap_or_default();
                (Protocol::TCP, server, address(Network::Services, service), dst_port, None)
            }
            Kind::Dns => {
                let resolver = address(Network::Resolvers, index(self.rng.random_range(0..2)));
                (Protocol::UDP, client, resolver, 53, None)
            }
            Kind::Outside => {
                let (proto, dst_port, _) = OUTSIDE_PORTS
                    .get(self.outside_port.sample(&mut self.rng))
                    .copied()
                    .unwrap_or((Protocol::TCP, 443, 0));
                let outside = address(Network::Outside, self.outside.sample(&mut self.rng));
                (proto, client, outside, dst_port, None)
            }
            Kind::Ping => {
                let proto = if is_v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
                (proto, client, address(Network::Outside, self.outside.sample(&mut self.rng)), 0, None)
            }
        };
        if kind == Kind::Ping {
            let (ask, answer) = if is_v6 { (128, 129) } else { (8, 0) };
            let l4 = |icmp_type| L4::Icmp { icmp_type, code: 0, id: port };
            let orig = Tuple { src, dst, proto, l4: l4(ask), zone: None };
            return (orig, Tuple { src: dst, dst: src, l4: l4(answer), ..orig });
        }
        let ports = |src, dst| L4::Ports { src, dst };
        let orig = Tuple { src, dst, proto, l4: ports(port, dst_port), zone: None };
        let (server, server_port) = server.filter(|_| !is_v6).unwrap_or((dst, dst_port));
        let (client, client_port) = if kind == Kind::Outside && !is_v6 {
            (address(Network::Public, index(WEB_ADDRESSES)), self.rng.random_range(1024..65_535))
        } else {
            (src, port)
        };
        (orig, Tuple { src: server, dst: client, l4: ports(server_port, client_port), ..orig })
    }

    fn describe(&mut self, orig: Tuple, reply: Tuple) -> Flow {
        let rng = &mut self.rng;
        let state = (orig.proto == Protocol::TCP).then(|| match rng.random_range(0..100) {
            0..82 => TcpState::TIME_WAIT,
            82..90 => TcpState::CLOSE,
            90..96 => TcpState::ESTABLISHED,
            _ => TcpState::SYN_SENT,
        });
        let is_answered = state != Some(TcpState::SYN_SENT);
        let is_stream = matches!(orig.l4, L4::Ports { dst: 443, .. }) || state.is_some();
        let mut status = Status::CONFIRMED.0 | nat(&orig, &reply);
        if is_answered {
            status |= Status::SEEN_REPLY.0 | if is_stream { Status::ASSURED.0 } else { 0 };
        }
        // Who is removed while it is open has some of its five days left.
        let is_open = state == Some(TcpState::ESTABLISHED);
        let idle_s = match state {
            Some(TcpState::ESTABLISHED) => rng.random_range(0..600),
            Some(TcpState::CLOSE) => 10,
            Some(_) => 120,
            None if is_stream => 120,
            None => 30,
        };
        let high = VOLUMES.get(self.volume.sample(rng)).map_or(10, |(high, _)| *high);
        let high = if state.is_some() { high } else { 10 };
        // Of any magnitude alike: from half of a power of two to it.
        let mut of_magnitude = |high: u32, low: u32| {
            let limit = 1_u64 << rng.random_range(low..=high);
            rng.random_range(limit / 2..limit)
        };
        let [sent, got] = [of_magnitude(high, 7), of_magnitude(high, 7)]
            .map(|bytes| Counters { packets: bytes / 800 + 1, bytes });
        let active_ns = of_magnitude(36, 20);
        let no_answer = Counters { packets: 0, bytes: 0 };
        let stop_ns = FIRST_STOP_NS + self.made * BETWEEN_STOPS_NS + rng.random_range(0..BETWEEN_STOPS_NS);
        Flow {
            id: Some(rng.random()),
            status: Some(Status(status)),
            timeout_s: is_open.then_some(ESTABLISHED_S - idle_s),
            orig_counters: Some(sent),
            reply_counters: Some(if is_answered { got } else { no_answer }),
            start_ns: Some(stop_ns - u64::from(idle_s) * 1_000_000_000 - active_ns),
            stop_ns: Some(stop_ns),
            state: state.map(ProtoState::Tcp),
            ..Flow::new(orig, reply)
        }
    }
}

/// The bits of the status that tell of NAT.
fn nat(orig: &Tuple, reply: &Tuple) -> u32 {
    let when = |is_changed: bool, status: Status| if is_changed { status.0 } else { 0 };
    let done = Status::SRC_NAT_DONE.0 | Status::DST_NAT_DONE.0;
    when(orig.src != reply.dst, Status::SRC_NAT) | when(orig.dst != reply.src, Status::DST_NAT) | done
}

/// How many of 100 flows are of each.
const KINDS: [(Kind, u32); 5] =
    [(Kind::Web, 42), (Kind::Service, 25), (Kind::Dns, 16), (Kind::Outside, 16), (Kind::Ping, 1)];

/// Where an address belongs.
#[derive(Clone, Copy)]
pub(crate) enum Network {
    /// Who calls.
    Clients,
    /// The addresses of the host that everybody sees.
    Public,
    /// Web servers.
    Servers,
    /// Databases and the like.
    Services,
    /// For names.
    Resolvers,
    /// Everybody else.
    Outside,
}

impl Network {
    /// The address of its nth host.
    pub(crate) fn address(self, number: usize, is_v6: bool) -> IpAddr {
        let number = u32::try_from(number).unwrap_or_default();
        let (v4, prefix): (Ipv4Addr, u16) = match self {
            Self::Clients => (Ipv4Addr::new(10, 16, 0, 0), 0xfd00),
            Self::Public => (Ipv4Addr::new(203, 0, 113, 8), 0x2a01),
            Self::Servers => (Ipv4Addr::new(10, 200, 0, 10), 0xfd01),
            Self::Services => (Ipv4Addr::new(10, 201, 0, 10), 0xfd02),
            Self::Resolvers => (Ipv4Addr::new(10, 202, 0, 53), 0xfd03),
            // Spread over all networks, as the hosts of the world are.
            Self::Outside => {
                (Ipv4Addr::from_bits(0x2000_0000 | number.wrapping_mul(2_654_435_761) >> 2), 0x2a02)
            }
        };
        let spread = matches!(self, Self::Outside);
        if is_v6 {
            let [a, b] =
                [v4.to_bits() >> 16, v4.to_bits() & 0xffff].map(|part| u16::try_from(part).unwrap_or(0));
            let [c, d] = [number >> 16, number & 0xffff].map(|part| u16::try_from(part).unwrap_or(0));
            IpAddr::V6(Ipv6Addr::new(prefix, a, b, c, 0, 0, d, 1))
        } else if spread {
            IpAddr::V4(v4)
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() + number))
        }
    }
}

pub(crate) fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
