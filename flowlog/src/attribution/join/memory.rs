//! How much is remembered of sockets, how long, and what is forgotten first; and how memory is waited for.

use super::{Spent, Tables, ends};
use crate::attribution::ebpf::RingEvent;
use crate::attribution::holders::GroupId;
use crate::attribution::largest::{FORGOTTEN_PART, lower_largest};
use crate::attribution::sockets::Ends;
use crate::connections::timeouts::Timeouts;
use crate::flow::{Flow, L4, Protocol};
use crate::time::NS_PER_S;

/// How long after its timeout the kernel may notice that an entry has expired, in nanoseconds: it looks through a large
/// table now and then.
const NOTICED_WITHIN_NS: u64 = 150 * NS_PER_S;

/// How long a closed socket is remembered: as long as connection tracking may keep its flow, which it destroys only then.
/// In nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// Of TCP, in any state in which a socket leaves its flow.
    tcp_ns: u64,
    /// Of TCP, in the state in which nearly all do.
    time_wait_ns: u64,
    udp_ns: u64,
    icmp_ns: u64,
    others_ns: u64,
}

impl Default for Linger {
    /// For the timeouts that the kernel has if nobody sets them.
    fn default() -> Self {
        Self::of(&Timeouts::default())
    }
}

impl Linger {
    /// For the timeouts of a network namespace.
    pub fn of(timeouts: &Timeouts) -> Self {
        let ns = |seconds: u32| u64::from(seconds) * NS_PER_S + NOTICED_WITHIN_NS;
        Self {
            tcp_ns: ns(timeouts.of_closed_tcp()),
            time_wait_ns: ns(timeouts.of_time_wait()),
            udp_ns: ns(timeouts.of_udp()),
            icmp_ns: ns(timeouts.of_icmp()),
            others_ns: ns(timeouts.of_others()),
        }
    }

    /// The longer times of both.
    pub fn or(self, other: Self) -> Self {
        Self {
            tcp_ns: self.tcp_ns.max(other.tcp_ns),
            time_wait_ns: self.time_wait_ns.max(other.time_wait_ns),
            udp_ns: self.udp_ns.max(other.udp_ns),
            icmp_ns: self.icmp_ns.max(other.icmp_ns),
            others_ns: self.others_ns.max(other.others_ns),
        }
    }

    /// Of sockets without a connection.
    fn of_endpoint(&self, protocol: Protocol) -> u64 {
        match protocol {
            Protocol::UDP | Protocol::UDPLITE => self.udp_ns,
            Protocol::ICMP | Protocol::ICMPV6 => self.icmp_ns.max(self.udp_ns),
            _ => self.others_ns.max(self.udp_ns),
        }
    }
}

impl Tables {
    /// Reads what these events will ask for: all of them wait for memory together, rather than one after the other.
    pub fn look_ahead(&self, events: &[RingEvent]) {
        let read = events.iter().fold(0, |all, event| match event {
            RingEvent::TcpOpen(open) => all ^ self.sockets.look_ahead(&ends(open)),
            _ => all,
        });
        std::hint::black_box(read);
    }

    /// The same for flows of TCP that are joined next.
    pub fn look_ahead_flows(&self, flows: &[Flow]) {
        let tuples = flows.iter().flat_map(|flow| [&flow.orig, &flow.reply]);
        let read = tuples.fold(0, |all, tuple| match (tuple.proto, tuple.l4) {
            (Protocol::TCP, L4::Ports { src, dst }) => {
                all ^ self.sockets.look_ahead(&Ends::new(tuple.src, src, tuple.dst, dst))
            }
            _ => all,
        });
        std::hint::black_box(read);
    }

    /// Forgets the sockets for which only the flow asked that was joined just now.
    pub fn forget(&mut self, spent: [Option<Spent>; 2]) {
        for spent in spent.into_iter().flatten() {
            match spent {
                Spent::Socket(number) => self.sockets.forget(number, &mut self.holders),
                Spent::Endpoints(wanted) => self.endpoints.forget_spent(&wanted, &mut self.holders),
            }
        }
    }

    /// From now on closed sockets are remembered so long.
    pub fn set_linger(&mut self, linger: Linger) {
        self.linger = linger;
    }

    /// Forgets what ended long before `now_ns` (`CLOCK_MONOTONIC`).
    pub fn expire(&mut self, now_ns: u64) {
        let Self { sockets, endpoints, raw, holders, linger, .. } = self;
        sockets.expire(now_ns, linger.tcp_ns, holders);
        endpoints.expire(now_ns, |protocol| linger.of_endpoint(protocol), holders);
        raw.expire(now_ns, linger.others_ns.max(linger.tcp_ns), holders);
    }

    /// What is known of sockets and processes takes so many bytes.
    pub fn bytes(&self) -> usize {
        let Self { sockets, endpoints, raw, holders, processes, .. } = self;
        sockets.bytes() + endpoints.bytes() + raw.bytes() + holders.bytes() + processes.bytes()
    }

    /// How many sockets were forgotten early, because there were too many.
    pub fn evicted(&self) -> u64 {
        let Self { sockets, endpoints, raw, .. } = self;
        sockets.evicted() + endpoints.evicted() + raw.evicted()
    }

    /// Forgets sockets early, if all of them take too much: those of the cgroup and user that have most.
    pub(super) fn make_room(&mut self, now_ns: u64) {
        if self.bytes() <= self.memory_bytes {
            return;
        }
        let wanted = self.memory_bytes - self.memory_bytes / FORGOTTEN_PART;
        let groups = self.holders.groups().map(|group| (self.len_of(group), group));
        let groups: Vec<(usize, GroupId)> = groups.filter(|(len, _)| *len > 0).collect();
        lower_largest(groups, |largest, level| {
            while largest.iter().fold(false, |has_evicted, (_, group)| {
                let is_due = self.bytes() > wanted && self.len_of(*group) > level;
                is_due && self.evict(*group, now_ns) || has_evicted
            }) {}
            self.bytes() <= wanted
        });
    }

    fn len_of(&self, group: GroupId) -> usize {
        self.sockets.len_of(group) + self.endpoints.len_of(group) + self.raw.len_of(group)
    }

    /// Forgets a socket of this group: of the kind of which it has most.
    fn evict(&mut self, group: GroupId, now_ns: u64) -> bool {
        let Self { sockets, endpoints, raw, holders, linger, .. } = self;
        let lens = [sockets.len_of(group), endpoints.len_of(group), raw.len_of(group)];
        let most = lens.into_iter().max().unwrap_or(0);
        if sockets.len_of(group) == most {
            sockets.evict(group, now_ns.saturating_sub(linger.time_wait_ns), holders)
        } else if endpoints.len_of(group) == most {
            endpoints.evict(group, holders)
        } else {
            raw.evict(group, holders)
        }
    }
}
