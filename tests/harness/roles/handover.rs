//! Sockets that one process makes and another uses. A child gets one as its standard input.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Stdio};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, connect, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{datagram, end_with_the_test, tell};
use crate::harness::program::Program;
use crate::harness::wait::LIMIT;

/// Makes a socket to serve at, and children that do.
pub(super) fn serve_with_workers(kind: &str, workers: usize, exe: &str, role: &str) {
    end_with_the_test();
    let socket = new_socket(kind);
    if kind.starts_with("tcp") {
        socket.listen(128).unwrap();
    }
    let role = format!("end-with-parent {role}");
    let start = || start_with(socket.try_clone().unwrap().into(), exe, &role, Stdio::inherit());
    let mut workers: Vec<Child> = (0..workers).map(|_| start()).collect();
    tell("listening");
    // Workers that serve one connection are replaced.
    loop {
        for worker in &mut workers {
            worker.wait().unwrap();
            *worker = start();
        }
    }
}

/// Accepts from the listener that it was started with, tells the client who it is, and waits for the
/// client to close. Then it closes too, or ends with the connection open.
pub(super) fn accept_lent(how: &str) {
    let listener = Socket::from(lent());
    // Where the test is killed no client comes any more.
    listener.set_read_timeout(Some(LIMIT)).unwrap();
    let listener = TcpListener::from(listener);
    tell("accepting");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        writeln!(stream, "{}", process::id()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        match how {
            "close" => drop(stream),
            "exit" => {
                mem::forget(stream);
                process::exit(0);
            }
            _ => panic!("no such way to end: {how}"),
        }
    }
}

/// Makes a socket, and a child that uses it.
pub(super) fn lend(kind: &str, exe: &str, role: &str) {
    let mut child = start_with(new_socket(kind).into(), exe, role, Stdio::inherit());
    tell(&format!("child {}", child.id()));
    assert!(child.wait().unwrap().success());
}

/// Makes a socket, and a child that keeps it open when this process is gone.
#[expect(clippy::zombie_processes, reason = "the child outlives this process, which does not wait")]
pub(super) fn leave(kind: &str, exe: &str) {
    // The test waits for the end of all that is told here.
    let child = start_with(new_socket(kind).into(), exe, "hold-lent", Stdio::null());
    tell(&format!("child {}", child.id()));
}

pub(super) fn connect_lent(to: SocketAddr) {
    let mut socket = Socket::from(lent());
    socket.connect(&to.into()).unwrap();
    socket.write_all(b"request").unwrap();
}

pub(super) fn send_lent(to: SocketAddr) {
    let socket = UdpSocket::from(lent());
    socket.send_to(b"request", to).unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().port()));
}

/// Makes a socket, and goes on as another program that has it.
pub(super) fn keep_and_execute(kind: &str, exe: &str, role: &str) {
    let socket = new_socket(kind);
    if kind.starts_with("tcp") {
        socket.listen(128).unwrap();
    }
    tell("listening");
    let error = Program::at(exe).command(0, role).stdin(Stdio::from(OwnedFd::from(socket))).exec();
    panic!("{error}");
}

/// Answers each datagram.
pub(super) fn answer_lent() {
    datagram::answer(&UdpSocket::from(lent()));
}

/// Receives one datagram and does not answer.
pub(super) fn receive_lent() {
    let (_, from) = UdpSocket::from(lent()).recv_from(&mut [0; 64]).unwrap();
    tell(&format!("received {}", from.port()));
}

/// Receives datagrams and answers none. Tells who it is by the port of the sender.
pub(super) fn receive_many_lent() {
    let socket = UdpSocket::from(lent());
    loop {
        let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
        tell(&format!("received-from-{} {}", from.port(), process::id()));
    }
}

/// Keeps the socket open and does nothing with it until the first datagram is there.
pub(super) fn hold_lent() {
    let socket = UdpSocket::from(lent());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.peek(&mut [0; 64]).unwrap();
}

/// Looks at the descriptors of a process again and again, as lsof(8) does.
pub(super) fn look_at(pid: &str) {
    end_with_the_test();
    tell("looking");
    let descriptors: Vec<_> = (3..8).map(|descriptor| format!("/proc/{pid}/fd/{descriptor}")).collect();
    loop {
        for descriptor in &descriptors {
            let _ = fs::read_link(descriptor);
        }
    }
}

/// Makes a socket and passes it to the program that connects to the path `at`.
pub(super) fn pass_on(kind: &str, at: &str) {
    let socket = new_socket(kind);
    let listener = UnixListener::bind(at).unwrap();
    tell("listening");
    let (mut taker, _) = listener.accept().unwrap();
    let descriptors = [socket.as_raw_fd()];
    let passed = [ControlMessage::ScmRights(&descriptors)];
    let payload = [IoSlice::new(b"x")];
    sendmsg::<()>(taker.as_raw_fd(), &payload, &passed, MsgFlags::empty(), None).unwrap();
    // Who passes it on keeps it, too, until the taker is done.
    taker.read_to_end(&mut Vec::new()).unwrap();
}

/// Takes a TCP socket from the program at the path `at`, connects it, and ends.
pub(super) fn take_and_connect(at: &str, to: SocketAddr) {
    let giver = UnixStream::connect(at).unwrap();
    let mut byte = [0; 1];
    let mut payload = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message =
        recvmsg::<()>(giver.as_raw_fd(), &mut payload, Some(&mut space), MsgFlags::empty()).unwrap();
    let taken = message.cmsgs().unwrap().find_map(|part| match part {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    connect(taken.unwrap(), &SockaddrStorage::from(to)).unwrap();
}

/// A child that has `socket` as its standard input and does not outlive this process.
fn start_with(socket: OwnedFd, exe: &str, role: &str, stderr: Stdio) -> Child {
    let mut command = Program::at(exe).command(0, role);
    command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

/// The socket that this program was started with.
pub(super) fn lent() -> OwnedFd {
    io::stdin().as_fd().try_clone_to_owned().unwrap()
}

/// A socket that is not connected: `tcp4`, `udp6`, or bound, such as `udp4=127.0.0.1:5000`; `raw4` sends TCP.
fn new_socket(kind: &str) -> Socket {
    if kind == "raw4" {
        return Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
    }
    let (kind, at) = kind.split_once('=').map_or((kind, None), |(kind, at)| (kind, Some(at)));
    let domain = if kind.ends_with('4') { Domain::IPV4 } else { Domain::IPV6 };
    let socket_type = if kind.starts_with("tcp") { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(domain, socket_type, None).unwrap();
    if let Some(at) = at {
        socket.bind(&at.parse::<SocketAddr>().unwrap().into()).unwrap();
    }
    socket
}
