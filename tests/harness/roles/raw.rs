//! Packets made by hand: what scanners send, and answers that no socket gave.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{end_with_the_test, tell};
use crate::harness::program::wait_to_go_on;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// `IPPROTO_RAW`: each packet has a header of its own.
const RAW: i32 = 255;

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 4;
const PUSH_ACK: u8 = 0x18;

/// What is sent by which kind of socket.
#[derive(Clone, Copy)]
struct Kind {
    protocol: u8,
    /// Flags of TCP.
    flags: u8,
    has_own_header: bool,
}

impl Kind {
    fn parse(word: &str) -> Self {
        let (word, has_own_header) = word.strip_prefix("own-").map_or((word, false), |word| (word, true));
        let (protocol, flags) = match word {
            "syn" => (TCP, SYN),
            "rst" => (TCP, RST),
            "data" => (TCP, PUSH_ACK),
            "udp" => (UDP, 0),
            _ => panic!("no such packet: {word}"),
        };
        Self { protocol, flags, has_own_header }
    }

    fn socket(self, like: SocketAddr) -> Socket {
        let protocol = if self.has_own_header { RAW } else { self.protocol.into() };
        Socket::new(Domain::for_address(like), Type::RAW, Some(Protocol::from(protocol))).unwrap()
    }

    fn packet(self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let body = if self.protocol == TCP { tcp(from, to, self.flags, 0) } else { udp(from, to) };
        if self.has_own_header { with_header(self.protocol, from.ip(), to.ip(), &body) } else { body }
    }

    fn send(self, socket: &Socket, from: SocketAddr, to: SocketAddr) {
        send(socket, &self.packet(from, to), to.ip());
    }
}

/// A raw socket has no port.
fn send(socket: &Socket, packet: &[u8], to: IpAddr) {
    loop {
        match socket.send_to(packet, &SocketAddr::new(to, 0).into()) {
            Ok(_) => return,
            // The queue of the interface is full.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends a packet to each of so many ports, from `to` on.
pub(super) fn send_to_ports(kind: &str, from: SocketAddr, to: SocketAddr, count: u16) {
    let kind = Kind::parse(kind);
    let socket = kind.socket(to);
    for port in to.port()..to.port() + count {
        kind.send(&socket, from, SocketAddr::new(to.ip(), port));
    }
}

/// Makes the socket, and sends when it is told to.
pub(super) fn send_when_told(kind: &str, from: SocketAddr, to: SocketAddr) {
    let kind = Kind::parse(kind);
    let socket = kind.socket(to);
    tell("ready");
    wait_to_go_on();
    kind.send(&socket, from, to);
    tell("sent");
    wait_to_go_on();
}

/// Sends from so many ports to one, again and again, as fast as it can.
pub(super) fn flood(kind: &str, from: SocketAddr, to: SocketAddr, ports: u16, times: u32) {
    let kind = Kind::parse(kind);
    let socket = kind.socket(to);
    for _ in 0..times {
        for port in 0..ports {
            kind.send(&socket, SocketAddr::new(from.ip(), from.port() + port), to);
        }
    }
}

/// Sends with the raw socket that it was started with.
pub(super) fn send_lent(kind: &str, from: SocketAddr, to: SocketAddr) {
    let socket = Socket::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    Kind::parse(kind).send(&socket, from, to);
}

/// Sends by hand and connects a socket, to the same address.
pub(super) fn send_and_connect(kind: &str, from: SocketAddr, to: SocketAddr, connect_to: SocketAddr) {
    let kind = Kind::parse(kind);
    let socket = kind.socket(to);
    kind.send(&socket, from, to);
    let stream = std::net::TcpStream::connect(connect_to).unwrap();
    tell(&format!("port {}", stream.local_addr().unwrap().port()));
    kind.send(&socket, from, SocketAddr::new(to.ip(), to.port() + 1));
}

/// Answers packets of IPv4 for an address and port at which no socket listens.
pub(super) fn answer(kind: &str, at: SocketAddr) {
    end_with_the_test();
    let kind = Kind::parse(kind);
    // One that has its own header receives nothing.
    let socket = Kind { has_own_header: false, ..kind }.socket(at);
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let answers = kind.socket(at);
    tell("listening");
    loop {
        let mut buffer = [0; 2048];
        let Ok(len) = (&socket).read(&mut buffer) else { continue };
        let packet = &buffer[..len];
        let header = usize::from(packet[0] & 0x0f) * 4;
        let [from_port, to_port] =
            [0, 2].map(|at| u16::from_be_bytes([packet[header + at], packet[header + at + 1]]));
        let is_for_me = to_port == at.port() && packet[16..20] == octets(at.ip());
        let is_request = kind.protocol == UDP || packet[header + 13] == SYN;
        if !is_for_me || !is_request {
            continue;
        }
        let from: [u8; 4] = packet[12..16].try_into().unwrap();
        let to = SocketAddr::new(from.into(), from_port);
        let body = if kind.protocol == UDP {
            udp(at, to)
        } else {
            let sequence = u32::from_be_bytes(packet[header + 4..header + 8].try_into().unwrap());
            tcp(at, to, SYN_ACK, sequence.wrapping_add(1))
        };
        let packet =
            if kind.has_own_header { with_header(kind.protocol, at.ip(), to.ip(), &body) } else { body };
        send(&answers, &packet, to.ip());
        tell(&format!("answered {from_port}"));
    }
}

fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, acknowledged: u32) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(1_000_u32.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([5 << 4, flags, 4, 0, 0, 0, 0, 0]);
    let sum = checksum(TCP, from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(16);
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(16_u16.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(b"by hand.");
    let sum = checksum(UDP, from.ip(), to.ip(), &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Of TCP and UDP, over the addresses, too.
fn checksum(protocol: u8, from: IpAddr, to: IpAddr, body: &[u8]) -> u16 {
    let len = u16::try_from(body.len()).unwrap();
    let bytes =
        [octets(from), octets(to), vec![0, protocol], len.to_be_bytes().to_vec(), body.to_vec()].concat();
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// The kernel fills in the checksum of IPv4.
fn with_header(protocol: u8, from: IpAddr, to: IpAddr, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap();
    let header = match from {
        IpAddr::V4(_) => {
            let [high, low] = (len + 20).to_be_bytes();
            vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0]
        }
        IpAddr::V6(_) => {
            let [high, low] = len.to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, protocol, 64]
        }
    };
    [header, octets(from), octets(to), body.to_vec()].concat()
}
