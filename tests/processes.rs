//! The programs at both ends of a connection, each taken from its own socket.

use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

/// A user that no one on the host is.
const OTHER_USER: u32 = 65_534;

/// How many clients connect one after another, each a process of its own that lives for milliseconds.
const CLIENTS: usize = 20;

#[test]
fn both_ends_of_ipv4_connections_are_named() {
    both_ends_are_named("127.0.0.1:5000".parse().unwrap());
}

#[test]
fn both_ends_of_ipv6_connections_are_named() {
    both_ends_are_named("[::1]:5000".parse().unwrap());
}

/// The initiator by the socket that it connected, the responder by the accepted one that it closed.
#[track_caller]
fn both_ends_are_named(at: SocketAddr) {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let server = Program::new(programs.path(), "fl-server");
    let client = Program::new(programs.path(), "fl-client");

    let running = server.serve(&namespace, OTHER_USER, at);
    let closing = no_starts();
    let clients: Vec<_> = (0..CLIENTS).map(|_| client.connect(&namespace, 0, at)).collect();
    conntrack::flush_closed(&namespace);
    drop(closing);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), CLIENTS);
    for (pid, port) in clients {
        let row = rows.iter().find(|row| row.int("src_port") == Some(port.into())).unwrap();
        assert_process(row, "src", "socket", &client, pid, 0);
        assert_process(row, "dst", "closer", &server, running.pid(), OTHER_USER);
    }
}

/// Two programs that had a connection.
pub(crate) struct Pair {
    client: Program,
    client_pid: i32,
    server: Program,
    server_pid: i32,
}

impl Pair {
    /// Lets the one connect to the other at this address, until the connection has become a flow.
    #[track_caller]
    pub(crate) fn connect(namespace: &Namespace, at: SocketAddr) -> Self {
        let programs = tempfile::tempdir().unwrap();
        let [server, client] = ["fl-server", "fl-client"].map(|name| Program::new(programs.path(), name));
        let running = server.serve(namespace, 0, at);
        let _closing = no_starts();
        let (client_pid, _) = client.connect(namespace, 0, at);
        conntrack::flush_closed(namespace);
        Self { client, client_pid, server, server_pid: running.pid() }
    }

    /// The row of the connection names both.
    #[track_caller]
    pub(crate) fn assert_named(&self, row: &Row) {
        assert_process(row, "src", "socket", &self.client, self.client_pid, 0);
        assert_process(row, "dst", "closer", &self.server, self.server_pid, 0);
    }

    /// The row of the connection names both, by the paths by which they were started.
    #[track_caller]
    pub(crate) fn assert_named_as_given(&self, row: &Row) {
        let as_given = |program: &Program| Program::at(&format!("{} (as given)", program.exe()));
        for (end, attribution, program, pid) in [
            ("src", "socket", &self.client, self.client_pid),
            ("dst", "closer", &self.server, self.server_pid),
        ] {
            assert_eq!(row.text(&format!("{end}_comm")), Some(program.comm()), "{row:?}");
            assert_runs(row, end, attribution, &as_given(program), pid, 0);
        }
    }
}

/// The process at one end is this one.
#[track_caller]
pub(crate) fn assert_process(
    row: &Row,
    end: &str,
    attribution: &str,
    program: &Program,
    pid: i32,
    user: u32,
) {
    assert_eq!(row.text(&format!("{end}_comm")), Some(program.comm()), "{row:?}");
    assert_runs(row, end, attribution, program, pid, user);
}

/// Likewise, but for its name.
#[track_caller]
fn assert_runs(row: &Row, end: &str, attribution: &str, program: &Program, pid: i32, user: u32) {
    let text = |column: &str| row.text(&format!("{end}_{column}"));
    let int = |column: &str| row.int(&format!("{end}_{column}"));
    assert_eq!(text("attribution"), Some(attribution), "{row:?}");
    assert_eq!(int("pid"), Some(pid.into()), "{row:?}");
    assert_eq!(text("exe"), Some(program.exe()), "{row:?}");
    assert_eq!(int("uid"), Some(user.into()), "{row:?}");
}
