//! Servers whose parent listens and whose children accept.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts};
use crate::harness::dataset::Dataset;
use crate::harness::kernel::{WHO_CLOSED, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running};
use crate::harness::wait::{LIMIT, wait_for};
use crate::processes::assert_process;

const WORKERS: usize = 4;
/// How often all of them have a connection at the same time.
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

    let closing = no_starts();
    let mut served = Vec::new();
    for _ in 0..ROUNDS {
        let clients: Vec<_> = (0..WORKERS).map(|_| connect(&namespace, at)).collect();
        served.extend(clients.iter().map(|client| (client.port, client.served_by)));
    }
    conntrack::flush_closed(&namespace);
    drop(closing);
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

/// Whoever lists the descriptors of a process has each socket for a moment, and may be the last who has it.
#[test]
fn who_looks_at_descriptors_is_never_named() {
    const CONNECTIONS: usize = 10_000;
    let at: SocketAddr = V4.parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [server, lister, client] =
        ["fl-server", "fl-lister", "fl-client"].map(|name| Program::new(programs.path(), name));
    let serving = server.serve(&namespace, 0, at);
    let looking = [(); 2].map(|()| lister.start(&namespace, &format!("look-at {}", serving.pid())));
    looking.iter().for_each(|looking| looking.wait_for("looking"));
    client.run(&namespace, &format!("connect-and-wait {at} {CONNECTIONS}"));
    drop(looking);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), CONNECTIONS);
    for row in rows {
        assert_eq!(row.int("dst_pid"), Some(serving.pid().into()), "{row:?}");
    }
}

/// Who gets a datagram is not known before it is received, and its flow may be one packet long.
#[test]
fn of_workers_that_receive_in_turn_the_wrong_one_is_never_named() {
    let at: SocketAddr = V4.parse().unwrap();
    let namespace = Namespace::tracked();
    namespace.sysctl("net/netfilter/nf_conntrack_udp_timeout", "1");
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [parent, worker, client] =
        ["fl-parent", "fl-worker", "fl-client"].map(|name| Program::new(programs.path(), name));
    let role = format!("serve-with-workers udp4={at} {WORKERS} {} receive-many-lent", worker.exe());
    let running = parent.start(&namespace, &role);
    running.wait_for("listening");
    let clients: Vec<_> =
        (4000..4020).map(|port| client.run(&namespace, &format!("udp-send-from {port} {at} 1"))).collect();
    for told in &clients {
        running.wait_for(&format!("received-from-{} ", told.number("port")));
    }
    wait_for("entries to expire", || (!conntrack::list(&namespace).contains("udp ")).then_some(()));
    let told = running.told();
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), clients.len());
    for row in rows {
        let received_by = told.number(&format!("received-from-{}", row.int("src_port").unwrap()));
        match row.text("dst_attribution") {
            Some("ambiguous") => assert_eq!(row.of_process("dst"), ["dst_attribution"], "{row:?}"),
            _ => {
                let pid = i32::try_from(received_by).unwrap();
                assert_process(row, "dst", "endpoint", &worker, pid, 0);
            }
        }
    }
}

/// The kernel chooses a port when such a socket begins to listen, and nothing tells the programs who did it.
#[test]
fn a_listener_that_was_never_bound_has_the_process_that_closes_its_connections() {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let program = Program::new(programs.path(), "fl-unbound");
    let closing = no_starts();
    let told = program.run(&namespace, "listen-unbound");
    conntrack::flush_closed(&namespace);
    drop(closing);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(u16::try_from(told.number("port")).unwrap());
    assert_process(row, "src", "socket", &program, told.pid, 0);
    if lacks(WHO_CLOSED) {
        assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
    } else {
        assert_process(row, "dst", "closer", &program, told.pid, 0);
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
    let kind = if at.is_ipv4() { "tcp4" } else { "tcp6" };
    let role = format!("serve-with-workers {kind}={at} {WORKERS} {} accept-lent {how}", worker.exe());
    let running = parent.start(namespace, &role);
    running.wait_for("listening");
    running
}

/// The program that listened is gone when the connection comes.
#[test]
fn who_accepts_is_the_program_after_the_bind() {
    let at: SocketAddr = V4.parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [binder, server] = ["fl-binder", "fl-server"].map(|name| Program::new(programs.path(), name));
    let role = format!("keep-and-execute tcp4={at} {} accept-lent close", server.exe());
    let running = binder.start(&namespace, &role);
    running.wait_for("listening");
    // The kernel shows the other program before it tells that it runs.
    running.wait_for("accepting");

    let _client = connect(&namespace, at);
    conntrack::flush(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert_eq!(row.text("dst_attribution"), Some("inherited"), "{row:?}");
    assert_eq!(row.int("dst_pid"), Some(running.pid().into()), "{row:?}");
    assert_eq!(row.text("dst_exe"), Some(server.exe()), "{row:?}");
    assert_eq!((row.int("dst_uid"), row.text("dst_comm")), (None, None), "{row:?}");
}
