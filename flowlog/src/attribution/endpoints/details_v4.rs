//! Lives of sockets by family: those of IPv4 alone, as most are, take a quarter less.

use super::{Details, Port};
use crate::attribution::holders::{GroupId, Holders};
use crate::attribution::lives::{Life, LifeValue, Lives};

/// What is before an IPv4 address that is v4-mapped.
const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// [`Details`] of which all addresses are of IPv4, or of no use.
#[derive(Clone, Copy, Debug)]
struct DetailsV4 {
    addr: [u8; 4],
    peer_addr: [u8; 4],
    peer_port: u16,
    flags: u8,
}

impl LifeValue for DetailsV4 {}

// What the documentation says that a socket takes, with at most 8 bytes of the two indexes.
const _: () = {
    assert!(Lives::<Port, DetailsV4>::LIFE_BYTES == 64);
    assert!(Lives::<Port, Details>::LIFE_BYTES == 88);
};

impl DetailsV4 {
    /// `None` if it is of IPv6, or may come to be so.
    fn of(details: &Details) -> Option<Self> {
        let Details { addr, peer_addr, peer_port, flags } = *details;
        if details.has(Details::BOUND_TO_NONE_V6) {
            return None;
        }
        Some(Self { addr: narrow(addr)?, peer_addr: narrow(peer_addr)?, peer_port, flags })
    }

    fn widen(self) -> Details {
        let Self { addr, peer_addr, peer_port, flags } = self;
        Details { addr: widen(addr), peer_addr: widen(peer_addr), peer_port, flags }
    }
}

fn narrow(addr: [u8; 16]) -> Option<[u8; 4]> {
    match addr.split_first_chunk() {
        // No address at all.
        _ if addr == [0; 16] => Some([0; 4]),
        Some((&V4_MAPPED, v4)) => v4.try_into().ok(),
        _ => None,
    }
}

fn widen(v4: [u8; 4]) -> [u8; 16] {
    let mut addr = [0; 16];
    if v4 != [0; 4]
        && let Some((mapped, last)) = addr.split_first_chunk_mut()
    {
        *mapped = V4_MAPPED;
        last.copy_from_slice(&v4);
    }
    addr
}

fn with<T, U>(life: Life<T>, value: U) -> Life<U> {
    let Life { opened_ns, closed_ns, cookie, holder, value: _ } = life;
    Life { opened_ns, closed_ns, cookie, holder, value }
}

fn wide(life: Life<DetailsV4>) -> Life<Details> {
    with(life, life.value.widen())
}

/// Where a life is, as long as that does not change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    V4(u32),
    Any(u32),
}

/// As [`Lives`] of [`Details`].
#[derive(Debug, Default)]
pub(super) struct Families {
    v4: Lives<Port, DetailsV4>,
    any: Lives<Port, Details>,
}

impl Families {
    pub(super) fn open(&mut self, port: Port, life: Life<Details>, holders: &mut Holders) {
        match DetailsV4::of(&life.value) {
            Some(value) => {
                self.any.supersede(life.cookie, life.opened_ns, holders);
                self.v4.open(port, with(life, value), holders);
            }
            None => {
                self.v4.supersede(life.cookie, life.opened_ns, holders);
                self.any.open(port, life, holders);
            }
        }
    }

    pub(super) fn get_with_key(&self, cookie: u64) -> Option<(Port, Life<Details>)> {
        let v4 = self.v4.get_with_key(cookie).map(|(port, life)| (port, wide(life)));
        v4.or_else(|| self.any.get_with_key(cookie))
    }

    pub(super) fn replace(&mut self, life: Life<Details>, holders: &mut Holders) {
        match DetailsV4::of(&life.value) {
            Some(value) => self.v4.replace(with(life, value), holders),
            None => self.any.replace(life, holders),
        };
    }

    pub(super) fn close(&mut self, cookie: u64, at_ns: u64, holders: &Holders) {
        if !self.v4.close(cookie, at_ns, holders) {
            self.any.close(cookie, at_ns, holders);
        }
    }

    pub(super) fn lost_events(&mut self, since_ns: u64, holders: &Holders) {
        self.v4.lost_events(since_ns, holders);
        self.any.lost_events(since_ns, holders);
    }

    pub(super) fn expire(
        &mut self,
        now_ns: u64,
        shortest_ns: u64,
        linger_ns: impl Fn(&Port) -> u64,
        holders: &mut Holders,
    ) {
        self.v4.expire(now_ns, shortest_ns, &linger_ns, holders);
        self.any.expire(now_ns, shortest_ns, &linger_ns, holders);
    }

    pub(super) fn count(&self, port: &Port) -> Option<usize> {
        Some(self.v4.count(port)? + self.any.count(port)?)
    }

    pub(super) fn with_key(&self, port: Port) -> impl Iterator<Item = (Number, Life<Details>)> {
        let v4 = self.v4.with_key(port).map(|(number, life)| (Number::V4(number), wide(life)));
        v4.chain(self.any.with_key(port).map(|(number, life)| (Number::Any(number), life)))
    }

    pub(super) fn forget(&mut self, number: Number, holders: &mut Holders) {
        match number {
            Number::V4(number) => self.v4.forget(number, holders),
            Number::Any(number) => self.any.forget(number, holders),
        }
    }

    /// Of the family of which the group has more.
    pub(super) fn evict(&mut self, group: GroupId, holders: &mut Holders) -> Option<(Port, Life<Details>)> {
        if self.v4.len_of(group) >= self.any.len_of(group) {
            self.v4.evict(group, 0, holders).map(|(port, life)| (port, wide(life)))
        } else {
            self.any.evict(group, 0, holders)
        }
    }

    pub(super) fn len_of(&self, group: GroupId) -> usize {
        self.v4.len_of(group) + self.any.len_of(group)
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.any.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.v4.bytes() + self.any.bytes()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.v4.evicted() + self.any.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::endpoints::{Endpoint, V4_ANY, V6_ANY};
    use crate::attribution::holders::HolderId;
    use crate::flow::Protocol;

    #[test]
    fn what_is_of_ipv4_is_the_same_in_fewer_bytes() {
        let v4 = |last: u8| -> [u8; 16] { std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets() };
        let v6 = [0xfd; 16];
        let of = |bound_addr: [u8; 16], seen_addr: Option<[u8; 16]>, peer: Option<[u8; 16]>| {
            let (port, peer) = (Port { protocol: Protocol::UDP, number: 1 }, peer.map(|addr| (addr, 53)));
            let unused = Endpoint::unused(1, port, HolderId(0), bound_addr, peer);
            Details::new(&Endpoint { seen_addr, ..unused })
        };
        let cases = [
            (of(v4(1), None, Some(v4(2))), true),
            (of(v4(1), None, None), true),
            (of(V4_ANY, None, None), true),
            (of(V4_ANY, Some(v4(1)), None), true),
            (of(V6_ANY, None, None), false),
            (of(V6_ANY, Some(v4(1)), Some(v4(2))), false),
            (of(v6, None, Some(v6)), false),
            (of(v4(1), None, Some(v6)), false),
        ];
        for (details, is_v4) in cases {
            let narrow = DetailsV4::of(&details);
            assert_eq!(narrow.is_some(), is_v4, "{details:?}");
            if let Some(narrow) = narrow {
                let again = narrow.widen();
                assert_eq!((again.addr, again.flags), (details.addr, details.flags));
                assert_eq!((again.bound_addr(), again.peer()), (details.bound_addr(), details.peer()));
            }
        }
    }
}
