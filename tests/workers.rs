//! Servers whose parent listens and whose children accept.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running};
use crate::harness::wait::LIMIT;
use crate::processes::assert_process;

const WORKERS: usize = 4;
/// How many connections are open at the same time: more than workers, so that all get some.
const AT_ONCE: usize = 8;
const ROUNDS: usize = 5;

const V4: &str = "127.0.0.1:5000";
const V6: &str = "[::1]:5000";

#[test]
fn the_worker_that_closed_a_connection_of_ipv4_is_named() {
    the_worker_is_named(V4, "close");
}

#[test]
fn the_worker_that_closed_a_connection_of_ipv6_is_named() {
    the_worker_is_named(V6, "close");
}

/// The kernel closes what a process leaves open, after it told of the end of the process.
#[test]
fn the_worker_that_ended_with_its_connection_open_is_named() {
    the_worker_is_named(V4, "exit");
}

#[track_caller]
fn the_worker_is_named(at: &str, how: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [parent, worker] = ["fl-parent", "fl-worker"].map(|name| Program::new(programs.path(), name));
    let _running = serve(&parent, &worker, &namespace, at, how);

    let mut served = Vec::new();
    for _ in 0..ROUNDS {
        let clients: Vec<_> = (0..AT_ONCE.min(WORKERS)).map(|_| connect(&namespace, at)).collect();
        served.extend(clients.iter().map(|client| (client.port, client.served_by)));
    }
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows_to(5000).len(), served.len());
    for (port, pid) in served {
        let rows = dataset.rows_to(5000);
        let row = rows.iter().find(|row| row.int("src_port") == Some(port.into())).unwrap();
        assert_process(row, "dst", "closer", &worker, pid, 0);
    }
}

#[test]
fn while_a_connection_is_open_the_owner_of_the_listener_is_named() {
    let at: SocketAddr = V4.parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [parent, worker] = ["fl-parent", "fl-worker"].map(|name| Program::new(programs.path(), name));
    let running = serve(&parent, &worker, &namespace, at, "close");

    let _clients: Vec<_> = (0..WORKERS).map(|_| connect(&namespace, at)).collect();
    conntrack::flush(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), WORKERS);
    for row in rows {
        assert_process(row, "dst", "inherited", &parent, running.pid(), 0);
    }
}

/// A connection whose server has told who it is.
struct Client {
    port: u16,
    served_by: i32,
    /// Open as long as this lives.
    _stream: TcpStream,
}

#[track_caller]
fn connect(namespace: &Namespace, to: SocketAddr) -> Client {
    let stream = namespace.inside(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let port = stream.local_addr().unwrap().port();
    Client { port, served_by: line.trim().parse().unwrap(), _stream: stream }
}

#[track_caller]
fn serve(parent: &Program, worker: &Program, namespace: &Namespace, at: SocketAddr, how: &str) -> Running {
    let role = format!("serve-with-workers {at} {WORKERS} {} accept-lent {how}", worker.exe());
    let running = parent.start(namespace, &role);
    running.wait_for("listening");
    running
}
