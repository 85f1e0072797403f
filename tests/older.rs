//! Sockets that are older than the daemon, and their children.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::{OLDER_SOCKETS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;
use crate::harness::wait::{LIMIT, wait_for};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_server_that_listened_before_is_named() {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let server = Program::new(programs.path(), "fl-server");
    let client = Program::new(programs.path(), "fl-client");
    let at = "127.0.0.1:5000".parse().unwrap();
    let running = server.serve(&namespace, 0, at);

    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let (client_pid, _) = client.connect(&namespace, 0, at);
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert_eq!(row.int("src_pid"), Some(i64::from(client_pid)), "{row:?}");
    if lacks(OLDER_SOCKETS) {
        assert!(log.contains("sockets that are older than flowlog have no process"), "{log}");
        return;
    }
    assert_eq!(row.int("dst_pid"), Some(i64::from(running.pid())), "{row:?}");
    assert_eq!(row.text("dst_attribution"), Some("closer"), "{row:?}");
}

#[test]
fn connections_and_datagram_sockets_that_were_there_are_named() {
    if lacks(OLDER_SOCKETS) {
        return;
    }
    let namespace = Namespace::tracked();
    // Else an entry that is made while nobody listens ends unseen.
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    let output = tempfile::tempdir().unwrap();
    // Not of this process: sockets that forked children of it hold as well would be nobody's.
    let (client, accepted, asking, answering) = namespace.inside(|| {
        let listener = TcpListener::bind((HERE, 5000)).unwrap();
        let client = TcpStream::connect((HERE, 5000)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let answering = UdpSocket::bind((HERE, 5001)).unwrap();
        let asking = UdpSocket::bind((HERE, 5002)).unwrap();
        (client, accepted, asking, answering)
    });

    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    answering.set_read_timeout(Some(LIMIT)).unwrap();
    asking.connect((HERE, 5001)).unwrap();
    asking.send(b"question").unwrap();
    answering.recv(&mut [0; 16]).unwrap();
    drop((client, accepted));
    wait_for("the entry to close", || conntrack::list(&namespace).contains("TIME_WAIT").then_some(()));
    conntrack::flush(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let assert_own = |row: &Row, end: &str, attribution: &str| {
        assert_eq!(row.text(&format!("{end}_attribution")), Some(attribution), "{row:?}");
        assert_eq!(row.int(&format!("{end}_pid")), Some(i64::from(std::process::id())), "{row:?}");
    };
    let connection = dataset.row_to(5000);
    assert_own(connection, "src", "seed");
    assert_own(connection, "dst", "seed");
    let question = dataset.row_to(5001);
    assert_own(question, "src", "endpoint");
    assert_own(question, "dst", "seed");
}
