//! Whether the kernel tracks an IP version in a network namespace: it is asked for its hooks, and where it does not
//! list them, one packet tries it that leaves nothing behind.
//!
//! The packet is a TCP segment with the flag RST alone, from port 0 to port 0 of the loopback interface. Connection
//! tracking, where it is on, finds that it belongs to no connection and counts it as invalid
//! (`nf_conntrack_tcp_packet`): no entry is made, no event is sent, nobody answers a RST, and no socket has the port
//! 0. It is handed to the interface as a frame (`AF_PACKET`), so no socket of this host has sent it either.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, recv, sendto, socket};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::connections::ctnetlink::Requests;
use crate::connections::ctnetlink::socket_filter::op;
use crate::host::namespace::Namespace;

/// Whether IPv6 is off on the loopback interface. /proc shows the value of the namespace of the thread that opens it.
const DISABLE_IPV6: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/// How many packets are sent: others may send packets that belong to no connection in the same moment, and of the
/// other IP version.
const PACKETS: u32 = 3;

/// How long the packets may take to arrive. Older kernels leave them to a thread (`ksoftirqd`) where that is busy with
/// others, and the counter of invalid packets tells of them only then.
const ARRIVE_WITHIN: Duration = Duration::from_millis(200);

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// A TCP segment with the flag RST alone, from port 0 to port 0, with its sequence number and checksum yet to be filled
/// in.
const RST: [u8; 20] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, 4, 0, 0, 0, 0, 0, 0];
const RST_NUMBER: usize = 4;
const RST_CHECKSUM: usize = 16;
const IPPROTO_TCP: u8 = 6;
const TTL: u8 = 64;

/// Finds out whether the kernel tracks, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Probe {
    namespace: Option<Namespace>,
    /// A socket for frames, and the loopback interface; `None` where there is none, as without `CAP_NET_RAW`.
    frames: Option<(OwnedFd, LinkAddr)>,
    disable_ipv6: Option<File>,
    /// The kernel does not list its hooks.
    is_unlisted: bool,
}

impl Probe {
    /// In the namespace of the calling thread.
    pub fn open() -> Self {
        Self {
            namespace: Namespace::own().ok(),
            frames: frames().ok(),
            disable_ipv6: File::open(DISABLE_IPV6).ok(),
            is_unlisted: false,
        }
    }

    /// Whether the kernel tracks the IP version; `None` where that cannot be found out: where it does not list its
    /// hooks, and the loopback interface is down, IPv6 is off, or `CAP_NET_RAW` is missing.
    pub fn is_tracked(&mut self, is_ipv6: bool, requests: &mut Requests) -> Option<bool> {
        // Nothing is lost of what is not there.
        if is_ipv6 && !self.has_ipv6() {
            return None;
        }
        if !self.is_unlisted {
            match requests.is_hooked(is_ipv6) {
                Ok(Some(is_hooked)) => return Some(is_hooked),
                // Hooks changed meanwhile: the next look tells.
                Err(error) if error.is_interrupted() => return None,
                Ok(None) | Err(_) => self.is_unlisted = true,
            }
        }
        let (socket, loopback) = self.frames.as_ref()?;
        let (frame, protocol) =
            if is_ipv6 { (frame_of_ipv6(), ETH_P_IPV6) } else { (frame_of_ipv4(), ETH_P_IP) };
        let namespace = self.namespace.as_ref()?;
        let arrivals = namespace.run(|| Arrivals::open(&frame, protocol, loopback)).ok()?.ok()?;
        let before = requests.invalid().ok()?;
        for _ in 0..PACKETS {
            sendto(socket.as_raw_fd(), &frame, loopback, MsgFlags::MSG_DONTWAIT).ok()?;
        }
        if !arrivals.have_come() {
            return None;
        }
        let counted = requests.invalid().ok()?.wrapping_sub(before);
        Some(counted >= PACKETS)
    }

    fn has_ipv6(&self) -> bool {
        let mut value = [0; 1];
        let read = self.disable_ipv6.as_ref().map(|file| file.read_exact_at(&mut value, 0));
        matches!(read, Some(Ok(()))) && value == *b"0"
    }
}

/// What arrives on the loopback interface of what was sent.
struct Arrivals(Socket);

impl Arrivals {
    /// A socket for one protocol on one interface gets a packet after the protocol itself, and so after connection
    /// tracking has counted it (`__netif_receive_skb_core`). It takes frames with the numbers of this one only.
    fn open(frame: &[u8], protocol: u16, loopback: &LinkAddr) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(protocol.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        let ports = frame.len() - RST.len();
        let number = frame
            .iter()
            .skip(ports + RST_NUMBER)
            .take(4)
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        let place = |offset: usize| u32::try_from(offset).map_err(io::Error::other);
        // Frames with other ports or another number go to the end, which accepts nothing.
        socket.attach_filter(&[
            SockFilter::new(op::LOAD_AT, 0, 0, place(ports)?),
            SockFilter::new(op::JUMP_EQUAL, 0, 3, 0),
            SockFilter::new(op::LOAD_AT, 0, 0, place(ports + RST_NUMBER)?),
            SockFilter::new(op::JUMP_EQUAL, 0, 1, number),
            SockFilter::new(op::RETURN, 0, 0, u32::MAX),
            SockFilter::new(op::RETURN, 0, 0, 0),
        ])?;
        bind(socket.as_raw_fd(), loopback)?;
        Ok(Self(socket))
    }

    /// Waits until all packets have arrived.
    fn have_come(&self) -> bool {
        let start = Instant::now();
        let mut missing = PACKETS;
        while missing > 0 {
            if recv(self.0.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT).is_ok() {
                missing -= 1;
                continue;
            }
            let Some(left) = ARRIVE_WITHIN.checked_sub(start.elapsed()) else { return false };
            let mut readable = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut readable, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
        true
    }
}

/// A socket that sends frames and receives none: its protocol is 0.
fn frames() -> io::Result<(OwnedFd, LinkAddr)> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let mut interfaces = getifaddrs()?.filter(|interface| interface.interface_name == "lo");
    let address = interfaces.find_map(|interface| interface.address?.as_link_addr().copied());
    let loopback = address.ok_or_else(|| io::Error::other("found no interface `lo`"))?;
    Ok((socket, loopback))
}

/// From 0.0.0.0 to 255.255.255.255: for this host, and no address that is not to be seen on this interface, of which
/// the kernel may write to its log (`log_martians`).
fn frame_of_ipv4() -> Vec<u8> {
    const LEN: u8 = 40;
    let mut header = [0x45, 0, 0, LEN, 0, 0, 0, 0, TTL, IPPROTO_TCP, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    let checksum = checksum(&header);
    header[10..12].copy_from_slice(&checksum);
    let pseudo_header = [[0; 4], [255; 4], [0, IPPROTO_TCP, 0, 20]].concat();
    [&ethernet(ETH_P_IP)[..], &header, &segment(&pseudo_header)].concat()
}

/// From ::1 to ::1.
fn frame_of_ipv6() -> Vec<u8> {
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    let header = [0x60, 0, 0, 0, 0, 20, IPPROTO_TCP, TTL];
    let pseudo_header = [&loopback[..], &loopback, &[0, 0, 0, 20, 0, 0, 0, IPPROTO_TCP]].concat();
    [&ethernet(ETH_P_IPV6)[..], &header, &loopback, &loopback, &segment(&pseudo_header)].concat()
}

/// The header of a frame on the loopback interface, whose address is zero.
fn ethernet(protocol: u16) -> [u8; 14] {
    let [high, low] = protocol.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]
}

fn segment(pseudo_header: &[u8]) -> [u8; 20] {
    /// Tells the packets of one question from those of others.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().rotate_left(16) ^ NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut segment = RST;
    segment[RST_NUMBER..RST_NUMBER + 4].copy_from_slice(&number.to_be_bytes());
    let checksum = checksum(&[pseudo_header, &segment].concat());
    segment[RST_CHECKSUM..RST_CHECKSUM + 2].copy_from_slice(&checksum);
    segment
}

/// The checksum of the internet protocols over an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(!sum & 0xffff).unwrap_or_default().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        let [ipv4, ipv6] = [frame_of_ipv4(), frame_of_ipv6()];
        assert_eq!((ipv4.len(), ipv6.len()), (14 + 20 + 20, 14 + 40 + 20));
        assert_eq!(checksum(&ipv4[14..34]), [0, 0]);
        // Of RFC 1071.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), [0x22, 0x0d]);
        let pseudo_header = [&[0; 4][..], &[255; 4], &[0, IPPROTO_TCP, 0, 20]].concat();
        assert_eq!(checksum(&[&pseudo_header[..], &ipv4[34..]].concat()), [0, 0]);
    }
}
