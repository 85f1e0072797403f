//! Sockets without a connection: UDP, raw ICMP, and a protocol that no kernel knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::unistd::{Uid, setuid};
use socket2::{Domain, Protocol, Socket, Type};

use super::{end_with_the_test, tell};

/// As a resolver: connects, sends, and closes at once.
pub(super) fn connect(to: SocketAddr) {
    let socket = UdpSocket::bind((unspecified(to.ip()), 0)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"request").unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().port()));
}

/// The same, whether somebody listens or not.
pub(super) fn connect_and_send(to: SocketAddr) {
    let socket = UdpSocket::bind((unspecified(to.ip()), 0)).unwrap();
    socket.connect(to).unwrap();
    let _ = socket.send(b"request");
}

/// Sends from a socket that is bound by the send.
pub(super) fn send(to: SocketAddr) {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap();
    socket.send_to(b"request", &to.into()).unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().as_socket().unwrap().port()));
}

/// Sends from this port: of twenty clients two may get the same from the kernel, and are then one flow.
/// Each time with another socket.
pub(super) fn send_from(port: u16, to: SocketAddr, times: usize) {
    for _ in 0..times {
        let socket = UdpSocket::bind((unspecified(to.ip()), port)).unwrap();
        socket.send_to(b"request", to).unwrap();
    }
    tell(&format!("port {port}"));
}

/// Answers each datagram; `shared` lets other programs do so at the same port.
pub(super) fn serve(at: SocketAddr, shared: bool) {
    end_with_the_test();
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
    socket.set_reuse_port(shared).unwrap();
    socket.bind(&at.into()).unwrap();
    tell("listening");
    answer(&UdpSocket::from(socket));
}

/// Reads each datagram, and never answers.
pub(super) fn listen(at: SocketAddr) {
    end_with_the_test();
    let socket = UdpSocket::bind(at).unwrap();
    tell("listening");
    loop {
        let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
        tell(&format!("received {}", from.port()));
    }
}

/// Binds, goes on as another user, and answers each datagram.
pub(super) fn serve_as(uid: u32, at: SocketAddr) {
    end_with_the_test();
    let socket = UdpSocket::bind(at).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
    tell("listening");
    answer(&socket);
}

pub(super) fn answer(socket: &UdpSocket) {
    loop {
        // A client that is gone makes the next call fail.
        if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(b"answer", from);
            tell(&format!("answered {}", from.port()));
        }
    }
}

/// Sends an echo request from a raw socket.
pub(super) fn raw_echo(to: IpAddr, id: u16) {
    let [id_high, id_low] = id.to_be_bytes();
    let mut packet = [8, 0, 0, 0, id_high, id_low, 0, 1];
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    if to.is_ipv4() {
        let sum = u32::from(u16::from_be_bytes([8, 0])) + u32::from(id) + 1;
        let folded = (sum & 0xffff) + (sum >> 16);
        packet[2..4].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
    } else {
        // The kernel computes the checksum of ICMPv6.
        packet[0] = 128;
    }
    send_raw(to, protocol, &packet);
}

/// Sends a packet of an IP protocol.
pub(super) fn raw(to: IpAddr, protocol: i32) {
    send_raw(to, Protocol::from(protocol), b"experiment");
}

fn send_raw(to: IpAddr, protocol: Protocol, packet: &[u8]) {
    let to = SocketAddr::new(to, 0);
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(protocol)).unwrap();
    socket.send_to(packet, &to.into()).unwrap();
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
