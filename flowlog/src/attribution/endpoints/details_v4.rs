//! Lives of sockets without a connection: those of IPv4 alone, as most are, take a quarter less.

use std::net::IpAddr;

use super::{Details, Port};
use crate::attribution::holders::{GroupId, Holders};
use crate::attribution::lives::{Families, Life, LifeValue, Lives, Number};
use crate::attribution::sockets::{mapped, v4};

/// Those that are remembered; the table of IPv6 also has those that may send over it.
pub(super) type EndpointLives = Families<Port, DetailsV4, Port, Details>;

/// [`Details`] of which all addresses are of IPv4, or of no use.
#[derive(Clone, Copy, Debug)]
pub(super) struct DetailsV4 {
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

/// No address at all is one of zeros.
fn narrow(addr: [u8; 16]) -> Option<[u8; 4]> {
    if addr == [0; 16] { Some([0; 4]) } else { v4(addr) }
}

fn widen(addr: [u8; 4]) -> [u8; 16] {
    if addr == [0; 4] { [0; 16] } else { mapped(IpAddr::from(addr)) }
}

fn with<T, U>(life: Life<T>, value: U) -> Life<U> {
    let Life { opened_ns, closed_ns, cookie, holder, value: _ } = life;
    Life { opened_ns, closed_ns, cookie, holder, value }
}

fn wide(life: Life<DetailsV4>) -> Life<Details> {
    with(life, life.value.widen())
}

impl EndpointLives {
    pub(super) fn open(&mut self, port: Port, life: Life<Details>, holders: &mut Holders) {
        match DetailsV4::of(&life.value) {
            Some(value) => {
                self.v6.supersede(life.cookie, life.opened_ns, holders);
                self.v4.open(port, with(life, value), holders);
            }
            None => {
                self.v4.supersede(life.cookie, life.opened_ns, holders);
                self.v6.open(port, life, holders);
            }
        }
    }

    pub(super) fn get_with_key(&self, cookie: u64) -> Option<(Port, Life<Details>)> {
        let v4 = self.v4.get_with_key(cookie).map(|(port, life)| (port, wide(life)));
        v4.or_else(|| self.v6.get_with_key(cookie))
    }

    pub(super) fn replace(&mut self, life: Life<Details>, holders: &mut Holders) {
        match DetailsV4::of(&life.value) {
            Some(value) => self.v4.replace(with(life, value), holders),
            None => self.v6.replace(life, holders),
        };
    }

    pub(super) fn count(&self, port: &Port) -> Option<usize> {
        Some(self.v4.count(port)? + self.v6.count(port)?)
    }

    pub(super) fn with_key(&self, port: Port) -> impl Iterator<Item = (Number, Life<Details>)> {
        let v4 = self.v4.with_key(port).map(|(number, life)| (Number::V4(number), wide(life)));
        v4.chain(self.v6.with_key(port).map(|(number, life)| (Number::V6(number), life)))
    }

    pub(super) fn evict(&mut self, group: GroupId, holders: &mut Holders) -> Option<(Port, Life<Details>)> {
        if self.is_mostly_v4(group) {
            self.v4.evict(group, 0, holders).map(|(port, life)| (port, wide(life)))
        } else {
            self.v6.evict(group, 0, holders)
        }
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
