//! One end of a connection or of datagrams, of each kind of socket.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::{end_with_the_test, tell};
use crate::harness::program::{Program, wait_to_go_on};

/// `IPPROTO_MPTCP` of `linux/in.h`.
const MPTCP: i32 = 262;

fn socket(kind: &str) -> io::Result<Socket> {
    let (kind, protocol) = match kind {
        "udp" => (Type::DGRAM, None),
        "mptcp" => (Type::STREAM, Some(Protocol::from(MPTCP))),
        _ => (Type::STREAM, None),
    };
    Socket::new(Domain::IPV4, kind, protocol)
}

/// Makes a socket to serve at, and serves when it is told.
pub(super) fn serve(kind: &str, at: SocketAddr) {
    // Not every kernel has all of them.
    let Ok(socket) = socket(kind) else { return tell("impossible\nmade") };
    if kind != "unbound" {
        socket.bind(&at.into()).unwrap();
    }
    if kind != "udp" {
        socket.listen(16).unwrap();
    }
    if kind == "moved" {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
    }
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    tell(&format!("port {port}\nmade"));
    wait_to_go_on();
    end_with_the_test();
    tell("serving");
    serve_with(&socket, kind == "udp");
}

fn serve_with(socket: &Socket, is_datagram: bool) {
    loop {
        if is_datagram {
            let mut bytes = [std::mem::MaybeUninit::uninit(); 16];
            let (_, from) = socket.recv_from(&mut bytes).unwrap();
            socket.send_to(b"answer", &from).unwrap();
        } else {
            let (mut accepted, _) = socket.accept().unwrap();
            tell("accepted");
            let _ = accepted.read_to_end(&mut Vec::new());
        }
    }
}

/// Makes a listener, and a child that serves with it, as a service manager does.
pub(super) fn activate(at: SocketAddr, exe: &str) {
    let listener = socket("tcp").unwrap();
    listener.bind(&at.into()).unwrap();
    listener.listen(16).unwrap();
    let mut command = Program::at(exe).command(0, "end-with-parent serve-activated");
    let mut child: Child = command.stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap();
    tell(&format!("child {}\nport {}\nmade", child.id(), at.port()));
    wait_to_go_on();
    tell("serving");
    child.wait().unwrap();
}

pub(super) fn serve_activated() {
    serve_with(&Socket::from(super::handover::lent()), false);
}

/// Connects, sends when it is told, and ends.
pub(super) fn connect(kind: &str, to_port: u16) {
    let Ok(mut socket) = socket(kind) else { return tell("impossible") };
    socket.connect(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, to_port)).into()).unwrap();
    if kind == "udp" {
        // Only a packet makes a flow.
        socket.write_all(b"question").unwrap();
    }
    if kind == "moved" {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
    }
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    tell(&format!("port {port}\nconnected"));
    wait_to_go_on();
    socket.write_all(b"question").unwrap();
    if kind == "udp" {
        socket.read_exact(&mut [0; 6]).unwrap();
    }
}
