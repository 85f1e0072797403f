//! The tuple of a connected socket.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// The first bytes of an IPv4 address as v4-mapped.
const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

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

impl Ends {
    /// The ends of a socket with the given addresses and ports.
    pub fn new(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Self {
        Self { local_addr: mapped(local), remote_addr: mapped(remote), local_port, remote_port }
    }

    /// The same, seen from the other socket.
    pub(super) fn mirrored(self) -> Self {
        let Self { local_addr, remote_addr, local_port, remote_port } = self;
        Self {
            local_addr: remote_addr,
            remote_addr: local_addr,
            local_port: remote_port,
            remote_port: local_port,
        }
    }

    pub(super) fn key(self) -> Key {
        let Self { local_addr, remote_addr, local_port, remote_port } = self;
        let ports = [local_port, remote_port];
        match (v4(local_addr), v4(remote_addr)) {
            (Some(local), Some(remote)) => Key::V4(EndsOf { addrs: [local, remote], ports }),
            _ => Key::V6(EndsOf { addrs: [local_addr, remote_addr], ports }),
        }
    }
}

/// An address that is v4-mapped, as IPv4.
pub(crate) fn v4(addr: [u8; 16]) -> Option<[u8; 4]> {
    addr.strip_prefix(&V4_MAPPED).and_then(|addr| addr.try_into().ok())
}

/// Ends with addresses of one size, without holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndsOf<const BYTES: usize> {
    addrs: [[u8; BYTES]; 2],
    ports: [u16; 2],
}

/// In few large pieces, which takes half the time of the fields one by one: each flow looks for two.
impl<const BYTES: usize> Hash for EndsOf<BYTES> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { addrs: [local, remote], ports: [local_port, remote_port] } = self;
        let ports = u32::from(*local_port) << 16 | u32::from(*remote_port);
        if let ([a, b, c, d], [e, f, g, h]) = (local.as_slice(), remote.as_slice()) {
            state.write_u64(u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
        } else {
            state.write(local);
            state.write(remote);
        }
        state.write_u32(ports);
    }
}

/// What sockets are found by.
pub(super) enum Key {
    V4(EndsOf<4>),
    V6(EndsOf<16>),
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
