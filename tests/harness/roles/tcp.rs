//! Connections: clients that end at once, that share a port, and that are many.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::{end_with_the_test, tell};
use crate::harness::program::{Program, wait_to_go_on};
use crate::harness::wait::LIMIT;

pub(super) fn serve(at: SocketAddr) {
    end_with_the_test();
    let listener = TcpListener::bind(at).unwrap();
    tell("listening");
    for stream in listener.incoming() {
        // A connection that was reset is an end, too.
        let _ = stream.and_then(|mut stream| stream.read_to_end(&mut Vec::new()));
    }
}

pub(super) fn connect_and_exit(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(b"request").unwrap();
    tell(&format!("port {}", stream.local_addr().unwrap().port()));
    process::exit(0);
}

pub(super) fn connect_when_told(to: SocketAddr) {
    tell("waiting");
    wait_to_go_on();
    connect_and_exit(to);
}

/// Has both ends of a connection and two datagram sockets, and uses them when it is told.
pub(super) fn talk_to_itself(listens_at: SocketAddr, answers_at: SocketAddr) {
    let listener = TcpListener::bind(listens_at).unwrap();
    let _client = TcpStream::connect(listens_at).unwrap();
    let _accepted = listener.accept().unwrap();
    let answering = UdpSocket::bind(answers_at).unwrap();
    answering.set_read_timeout(Some(LIMIT)).unwrap();
    let asking = UdpSocket::bind((answers_at.ip(), 0)).unwrap();
    tell("waiting");
    wait_to_go_on();
    asking.connect(answers_at).unwrap();
    asking.send(b"question").unwrap();
    answering.recv(&mut [0; 16]).unwrap();
}

/// Has both ends of a connection to a listener that was never bound.
pub(super) fn listen_unbound() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.listen(1).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    listener.accept().unwrap();
    tell(&format!("port {port}"));
}

/// Connects and resets again and again, as fast as it can.
pub(super) fn connect_many(to: SocketAddr, times: usize) {
    for _ in 0..times {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Connects and waits for the server to close, again and again.
pub(super) fn connect_and_wait(to: SocketAddr, times: usize) {
    for _ in 0..times {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

/// Connects from its port, sends its bytes and resets, each time that the other program has done so.
/// The programs tell each other over sockets at two paths, of which the first is the own one.
pub(super) fn take_turns(
    (from, to): (SocketAddr, SocketAddr),
    bytes: usize,
    rounds: usize,
    [own, other]: [&str; 2],
) {
    let turns = UnixDatagram::bind(own).unwrap();
    turns.set_read_timeout(Some(LIMIT)).unwrap();
    tell("waiting");
    let payload = vec![0; bytes];
    for round in 1..=rounds {
        turns.recv(&mut [0; 1]).unwrap();
        let mut socket = Socket::new(Domain::for_address(from), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.write_all(&payload).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);
        // In the last round the other may have ended.
        let told = turns.send_to(&[0], other);
        assert!(round == rounds || told.is_ok(), "{told:?}");
    }
}

/// Runs a program again and again, a few at a time. Tells the process id of each by its port.
pub(super) fn start_many(times: usize, exe: &str, role: &str) {
    const AT_A_TIME: usize = 4;
    let run = || {
        let mut command = Program::at(exe).command(0, role);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        let port = text.trim().strip_prefix("port ").unwrap();
        // In one write, since threads would mix their pieces.
        let line = format!("pid-of-{port} {pid}\n");
        io::stderr().write_all(line.as_bytes()).unwrap();
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| (0..times / AT_A_TIME).for_each(|_| run()));
        }
    });
}

/// Runs a shell again and again, a few at a time, that connects and ends. Tells the process id of each by a
/// number that is its last argument.
pub(super) fn start_shells(times: usize, shell: &str, to: SocketAddr) {
    const AT_A_TIME: usize = 4;
    let script = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
    let run = |number: usize| {
        let mut child =
            Command::new(shell).args(["-c", &script, "short", &number.to_string()]).spawn().unwrap();
        let pid = child.id();
        assert!(child.wait().unwrap().success());
        tell(&format!("pid-of-{number} {pid}"));
    };
    thread::scope(|scope| {
        for first in 0..AT_A_TIME {
            scope.spawn(move || (first..times).step_by(AT_A_TIME).for_each(run));
        }
    });
}

/// Sends with the first packet (TCP Fast Open).
pub(super) fn connect_fast_open(to: SocketAddr) {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.send_to_with_flags(b"request", &to.into(), nix::libc::MSG_FASTOPEN).unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().as_socket().unwrap().port()));
}

/// Connects, and sends the first packet only when there is something to send (`TCP_FASTOPEN_CONNECT`).
pub(super) fn connect_fast_open_later(to: SocketAddr) {
    let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    setsockopt(&socket, sockopt::TcpFastOpenConnect, &true).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.write_all(b"request").unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().as_socket().unwrap().port()));
}

pub(super) fn connect_mptcp(to: SocketAddr) {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)).unwrap();
    socket.connect(&to.into()).unwrap();
    (&socket).write_all(b"request").unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().as_socket().unwrap().port()));
}

/// `SO_BINDTODEVICE`
pub(super) fn connect_bound_to_device(device: &str, to: SocketAddr) {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind_device(Some(device.as_bytes())).unwrap();
    socket.connect(&to.into()).unwrap();
    (&socket).write_all(b"request").unwrap();
    tell(&format!("port {}", socket.local_addr().unwrap().as_socket().unwrap().port()));
}
