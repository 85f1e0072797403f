//! Which addresses a network namespace had at a given time. A pure data structure: no clock, no IO.
//!
//! An address is local while an interface has it, or while a route of the type `local` covers it. A flow may end long
//! after its address has gone: a failover, a VPN or a lease took it away. So the lives of addresses are remembered, and
//! the join asks for the time of the flow.
//!
//! The kernel tells of a change without its time. It lies between two reads, a [`Window`]; what began in it may have
//! come before or after the change: [`Presence::Maybe`].

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};

use crate::attribution::clocks::Moment;
use crate::attribution::sockets::mapped;
use crate::time::NS_PER_S;

/// How many lives that have ended are remembered: a megabyte. Hosts with containers make some for each of them.
const MAX_ENDED: usize = 16_384;

/// How long a life is remembered after its end, in nanoseconds. A TCP connection without packets stays in the
/// connection tracking table for five days by default; others for minutes.
const LINGER_NS: u64 = 6 * 24 * 3600 * NS_PER_S;

/// Bits of an address, IPv4 as v4-mapped.
const ADDRESS_BITS: u8 = 128;

/// How much longer the prefix of an IPv4 address is when it is v4-mapped.
const MAPPED_BITS: u8 = 96;

/// Addresses that begin with the same bits; one address where these are all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    addr: [u8; 16],
    bits: u8,
}

impl Prefix {
    /// One address.
    pub fn of(addr: IpAddr) -> Self {
        Self { addr: mapped(addr), bits: ADDRESS_BITS }
    }

    /// The addresses that begin as this one, in so many bits of its own family. `None` where it has fewer, and for
    /// those that would be all addresses: that is a way to catch packets, not a property of a host.
    pub fn new(addr: IpAddr, bits: u8) -> Option<Self> {
        let (most, before) = if addr.is_ipv4() { (32, MAPPED_BITS) } else { (ADDRESS_BITS, 0) };
        if bits == 0 || bits > most {
            return None;
        }
        let bits = before + bits;
        Some(Self { addr: (u128::from_be_bytes(mapped(addr)) & mask(bits)).to_be_bytes(), bits })
    }

    fn contains(self, addr: [u8; 16]) -> bool {
        u128::from_be_bytes(addr) & mask(self.bits) == u128::from_be_bytes(self.addr)
    }
}

/// The first `bits` of an address.
fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(ADDRESS_BITS.saturating_sub(bits))).unwrap_or(0)
}

/// What makes addresses local. Several may do so at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An address of an interface, with the length of its prefix and the address at the other end: an interface may
    /// have one several times, with others of these.
    Interface {
        /// Its number.
        index: u32,
        /// As the kernel has it.
        prefix_bits: u8,
        /// The address at the other end of the link, or the same.
        peer: IpAddr,
    },
    /// A route.
    Route {
        /// The number of its interface.
        index: u32,
        /// Its metric.
        metric: u32,
    },
}

/// When something changed: after the one time, and not after the other; `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Nothing had changed yet.
    pub after_ns: u64,
    /// It had changed.
    pub by_ns: u64,
}

/// Whether an address was local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It was not.
    No,
    /// It came or went about then.
    Maybe,
    /// It was.
    Yes,
}

/// While a prefix was local.
#[derive(Clone, Copy, Debug)]
struct Life {
    began: Window,
    ended: Option<Window>,
}

impl Life {
    fn presence(&self, at_ns: u64) -> Presence {
        let Self { began, ended } = self;
        if at_ns < began.after_ns || ended.is_some_and(|ended| at_ns > ended.by_ns) {
            Presence::No
        } else if at_ns < began.by_ns || ended.is_some_and(|ended| at_ns > ended.after_ns) {
            Presence::Maybe
        } else {
            Presence::Yes
        }
    }
}

/// What is known of a prefix.
#[derive(Debug, Default)]
struct Known {
    /// What makes it local now.
    holders: Vec<Holder>,
    /// Apart from each other, oldest first. The last one goes on where there are holders.
    lives: VecDeque<Life>,
}

impl Known {
    fn presence(&self, at_ns: u64) -> Presence {
        let later = self.lives.partition_point(|life| life.began.after_ns <= at_ns);
        let earlier = self.lives.iter().take(later).rev();
        // Windows of lives that follow each other may overlap, those before cannot.
        let near = earlier.take_while(|life| life.ended.is_none_or(|ended| ended.by_ns >= at_ns));
        near.map(|life| life.presence(at_ns)).max().unwrap_or(Presence::No)
    }
}

impl Known {
    /// The same, for a time between these.
    fn presence_between(&self, from_ns: u64, until_ns: u64) -> Presence {
        let earliest = self.presence(from_ns);
        if earliest == Presence::Maybe || from_ns == until_ns {
            return earliest;
        }
        if earliest == self.presence(until_ns) { earliest } else { Presence::Maybe }
    }
}

type Map = HashMap<Prefix, Known, foldhash::fast::RandomState>;

/// The addresses of a network namespace, also those that it had.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Single addresses, which are looked up.
    single: Map,
    /// Several at once, which are tried one by one: hosts have few.
    ranges: Map,
    /// When lives ended, oldest first, and whose they were.
    ended: VecDeque<(u64, Prefix)>,
    forgotten: u64,
}

impl Addresses {
    /// Those that were always there.
    pub fn always(addrs: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut addresses = Self::default();
        for addr in addrs {
            let holder = Holder::Interface { index: 0, prefix_bits: 0, peer: addr };
            addresses.add(Prefix::of(addr), holder, Window::default());
        }
        addresses
    }

    /// Whether the address was local at this time; loopback always is.
    pub fn presence(&self, addr: IpAddr, at: Moment) -> Presence {
        if addr.is_loopback() {
            return Presence::Yes;
        }
        let Moment { ns, early_ns, late_ns } = at;
        let (from_ns, until_ns) = (ns.saturating_sub(early_ns), ns.saturating_add(late_ns));
        let single = Prefix::of(addr);
        let own = self.single.get(&single).into_iter();
        let covering = self.ranges.iter().filter(|(range, _)| range.contains(single.addr));
        let known = own.chain(covering.map(|(_, known)| known));
        known.map(|known| known.presence_between(from_ns, until_ns)).max().unwrap_or(Presence::No)
    }

    /// The prefix is local because of this holder. What is known already stays as it is.
    pub fn add(&mut self, prefix: Prefix, holder: Holder, when: Window) {
        let known = self.known(prefix);
        if known.holders.contains(&holder) {
            return;
        }
        if known.holders.is_empty() {
            known.lives.push_back(Life { began: when, ended: None });
        }
        known.holders.push(holder);
    }

    /// The holder is gone.
    pub fn remove(&mut self, prefix: Prefix, holder: Holder, when: Window) {
        let known = self.known(prefix);
        let before = known.holders.len();
        known.holders.retain(|known| *known != holder);
        if known.holders.is_empty()
            && before > 0
            && let Some(life) = known.lives.back_mut()
        {
            life.ended = Some(when);
            self.ended.push_back((when.by_ns, prefix));
        }
        if self.ended.len() > MAX_ENDED {
            self.forgotten += 1;
            self.forget_first();
        } else if before == 0 {
            self.drop_if_unknown(prefix);
        }
    }

    /// These are all that there are: what is missing among them has gone, and what is new has come.
    pub fn replace(&mut self, all: &[(Prefix, Holder)], when: Window) {
        let there: HashSet<(Prefix, Holder), foldhash::fast::RandomState> = all.iter().copied().collect();
        let gone: Vec<(Prefix, Holder)> = self.holders().filter(|one| !there.contains(one)).collect();
        for (prefix, holder) in gone {
            self.remove(prefix, holder, when);
        }
        for (prefix, holder) in all {
            self.add(*prefix, *holder, when);
        }
    }

    /// Forgets what ended long before `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while self.ended.front().is_some_and(|(ended_ns, _)| ended_ns.saturating_add(LINGER_NS) < now_ns) {
            self.forget_first();
        }
    }

    /// How many lives were forgotten early, because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What makes addresses local now.
    fn holders(&self) -> impl Iterator<Item = (Prefix, Holder)> {
        let all = self.single.iter().chain(&self.ranges);
        all.flat_map(|(prefix, known)| known.holders.iter().map(move |holder| (*prefix, *holder)))
    }

    /// Where the prefix is kept.
    fn map(&mut self, prefix: Prefix) -> &mut Map {
        if prefix.bits == ADDRESS_BITS { &mut self.single } else { &mut self.ranges }
    }

    fn known(&mut self, prefix: Prefix) -> &mut Known {
        self.map(prefix).entry(prefix).or_default()
    }

    fn forget_first(&mut self) {
        let Some((_, prefix)) = self.ended.pop_front() else { return };
        self.known(prefix).lives.pop_front();
        self.drop_if_unknown(prefix);
    }

    fn drop_if_unknown(&mut self, prefix: Prefix) {
        if self.known(prefix).lives.is_empty() {
            self.map(prefix).remove(&prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: u32 = 2;
    const ETH1: u32 = 3;
    const SECOND_NS: u64 = 1_000_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn on(index: u32, addr: &str) -> Holder {
        Holder::Interface { index, prefix_bits: 24, peer: ip(addr) }
    }

    fn window(after_ns: u64, by_ns: u64) -> Window {
        Window { after_ns, by_ns }
    }

    fn at(addresses: &Addresses, addr: &str, times: &[u64]) -> Vec<Presence> {
        times.iter().map(|at_ns| addresses.presence(ip(addr), Moment::exact(*at_ns))).collect()
    }

    use Presence::{Maybe, No, Yes};

    #[test]
    fn an_address_is_local_while_it_is_there() {
        let mut addresses = Addresses::default();
        let (vip, holder) = (Prefix::of(ip("10.0.0.7")), on(ETH0, "10.0.0.7"));
        addresses.add(vip, holder, window(100, 110));
        assert_eq!(at(&addresses, "10.0.0.7", &[99, 105, 110, 500]), [No, Maybe, Yes, Yes]);
        // The kernel tells of an address again when its lifetime or its flags change.
        addresses.add(vip, holder, window(150, 160));
        addresses.remove(vip, holder, window(200, 210));
        assert_eq!(at(&addresses, "10.0.0.7", &[150, 200, 205, 210, 211]), [Yes, Yes, Maybe, Maybe, No]);
        addresses.add(vip, holder, window(300, 310));
        assert_eq!(at(&addresses, "10.0.0.7", &[150, 250, 310]), [Yes, No, Yes]);
        assert_eq!(at(&addresses, "10.0.0.8", &[150]), [No]);
        assert_eq!(at(&addresses, "127.3.2.1", &[150]), [Yes]);
        let about = |ns| addresses.presence(ip("10.0.0.7"), Moment::about(ns, 20));
        assert_eq!([70, 95, 115, 140, 195, 240].map(about), [No, Maybe, Maybe, Yes, Maybe, No]);
    }

    #[test]
    fn an_address_of_two_interfaces_is_local_until_both_are_without_it() {
        let mut addresses = Addresses::default();
        let vip = Prefix::of(ip("fd00::7"));
        addresses.add(vip, on(ETH0, "fd00::7"), window(100, 100));
        addresses.add(vip, on(ETH1, "fd00::7"), window(200, 200));
        addresses.remove(vip, on(ETH0, "fd00::7"), window(300, 300));
        assert_eq!(at(&addresses, "fd00::7", &[400]), [Yes]);
        addresses.remove(vip, on(ETH1, "fd00::7"), window(500, 500));
        assert_eq!(at(&addresses, "fd00::7", &[400, 501]), [Yes, No]);
    }

    /// Both messages are read at once: in between it was nowhere, or not yet there.
    #[test]
    fn an_address_that_moves_to_another_interface_may_have_been_there() {
        let mut addresses = Addresses::default();
        let vip = Prefix::of(ip("10.0.0.7"));
        addresses.add(vip, on(ETH0, "10.0.0.7"), window(100, 100));
        addresses.remove(vip, on(ETH0, "10.0.0.7"), window(300, 400));
        addresses.add(vip, on(ETH1, "10.0.0.7"), window(300, 400));
        assert_eq!(at(&addresses, "10.0.0.7", &[299, 350, 401]), [Yes, Maybe, Yes]);
    }

    #[test]
    fn a_local_route_covers_its_addresses() {
        let mut addresses = Addresses::default();
        let route = Holder::Route { index: 1, metric: 0 };
        let prefix = Prefix::new(ip("192.0.2.1"), 24).unwrap();
        addresses.add(prefix, route, window(100, 100));
        assert_eq!(at(&addresses, "192.0.2.200", &[99, 150]), [No, Yes]);
        assert_eq!(at(&addresses, "192.0.3.1", &[150]), [No]);
        addresses.remove(prefix, route, window(200, 200));
        assert_eq!(at(&addresses, "192.0.2.200", &[150, 201]), [Yes, No]);
        assert_eq!(Prefix::new(ip("192.0.2.7"), 32), Some(Prefix::of(ip("192.0.2.7"))));
        for (addr, bits) in [("0.0.0.0", 0), ("::", 0), ("10.0.0.0", 33)] {
            assert_eq!(Prefix::new(ip(addr), bits), None, "{addr}/{bits}");
        }
    }

    #[test]
    fn a_list_of_all_says_what_came_and_went() {
        let mut addresses = Addresses::default();
        let [stays, goes, comes] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|addr| (Prefix::of(ip(addr)), on(ETH0, addr)));
        addresses.replace(&[stays, goes], Window::default());
        assert_eq!(at(&addresses, "10.0.0.2", &[0, 100]), [Yes, Yes]);
        addresses.replace(&[stays, comes], window(100, 200));
        assert_eq!(at(&addresses, "10.0.0.1", &[50, 150, 250]), [Yes, Yes, Yes]);
        assert_eq!(at(&addresses, "10.0.0.2", &[50, 150, 250]), [Yes, Maybe, No]);
        assert_eq!(at(&addresses, "10.0.0.3", &[50, 150, 250]), [No, Maybe, Yes]);
    }

    #[test]
    fn what_has_gone_is_forgotten_some_time_later() {
        let mut addresses = Addresses::default();
        let (vip, holder) = (Prefix::of(ip("10.0.0.7")), on(ETH0, "10.0.0.7"));
        for second in [10, 20] {
            addresses.add(vip, holder, window(second * SECOND_NS, second * SECOND_NS));
            addresses.remove(vip, holder, window((second + 5) * SECOND_NS, (second + 5) * SECOND_NS));
        }
        addresses.expire(LINGER_NS + 18 * SECOND_NS);
        assert_eq!(at(&addresses, "10.0.0.7", &[12 * SECOND_NS, 22 * SECOND_NS]), [No, Yes]);
        addresses.expire(LINGER_NS + 30 * SECOND_NS);
        assert!(addresses.single.is_empty() && addresses.ended.is_empty());
        // What was never there leaves nothing behind either.
        addresses.remove(vip, holder, window(0, 0));
        assert!(addresses.single.is_empty() && addresses.ended.is_empty());
    }

    #[test]
    fn addresses_that_come_and_go_all_the_time_are_bounded() {
        let mut addresses = Addresses::default();
        for number in 0..2 * MAX_ENDED as u64 {
            let addr = IpAddr::from(u128::from(number % 100 + 2).to_be_bytes());
            let holder = Holder::Interface { index: ETH0, prefix_bits: 64, peer: addr };
            addresses.add(Prefix::of(addr), holder, window(number, number));
            addresses.remove(Prefix::of(addr), holder, window(number, number));
        }
        assert_eq!((addresses.ended.len(), addresses.forgotten()), (MAX_ENDED, MAX_ENDED as u64));
        let lives: usize = addresses.single.values().map(|known| known.lives.len()).sum();
        assert_eq!(lives, MAX_ENDED);
    }
}
