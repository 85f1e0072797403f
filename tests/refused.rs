//! Refused connections: all of their life is within microseconds, and there is no socket at their far
//! end, however recently there was one.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::traffic::reset_on_close;

/// How often it is tried; what goes wrong here does so once in a hundred times.
const ROUNDS: usize = 2_000;

/// How long it is tried: an emulated processor would take many minutes.
const TIME: Duration = Duration::from_secs(30);

/// A port for each try.
fn ports() -> impl Iterator<Item = u16> {
    let start = Instant::now();
    (10_000..).take(ROUNDS).take_while(move |_| start.elapsed() < TIME)
}

/// The kernel destroys the entry with the reset: the event of the socket is just as new as the message.
#[test]
fn who_is_refused_is_named() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let tried = namespace
        .inside(|| ports().inspect(|_| drop(TcpStream::connect("127.0.0.1:5000").unwrap_err())).count());
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), tried);
    for row in rows {
        assert_eq!(row.int("src_pid"), Some(i64::from(std::process::id())), "{row:?}");
        assert_eq!(row.text("dst_attribution"), None, "{row:?}");
        assert_eq!(row.text("direction"), Some("local"), "{row:?}");
    }
}

/// A connection, then at once a refused one with the same tuple: the server of the first had no part in
/// the second.
#[test]
fn the_server_of_the_connection_before_is_not_named() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let tried: Vec<bool> = namespace.inside(|| ports().map(is_refused_after).collect());
    let refused = tried.iter().filter(|refused| **refused).count();
    assert!(refused > tried.len() / 2, "{refused} of {}", tried.len());
    conntrack::flush(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.int("orig_packets") == Some(1)).collect();
    assert_eq!(rows.len(), refused);
    for row in rows {
        assert_eq!(row.int("dst_pid"), None, "{row:?}");
        assert!(row.int("src_pid").is_none_or(|pid| pid == i64::from(std::process::id())), "{row:?}");
    }
}

/// Makes a connection to this port, resets it, and tries another at once, to nobody. Whether that was
/// refused: on a busy machine the kernel may still know the tuple and not try.
fn is_refused_after(port: u16) -> bool {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let client = connect_from_one_port(port).unwrap();
    let _accepted = listener.accept().unwrap();
    drop(listener);
    reset_on_close(&client);
    drop(client);
    connect_from_one_port(port).is_err_and(|errno| errno == Errno::ECONNREFUSED)
}

fn connect_from_one_port(to: u16) -> nix::Result<TcpStream> {
    let [from, to] = [4000, to].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}
