//! Sockets without a connection. Their flows outlive them, their ports are shared, and no handshake
//! tells who is at the other end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;
use crate::harness::program::{Program, Running, Told};
use crate::harness::wait::wait_for;
use crate::processes::assert_process;

/// An observed client and a server, one link apart; programs run in both.
struct Case {
    client: Namespace,
    server: Namespace,
    output: tempfile::TempDir,
    programs: tempfile::TempDir,
    daemon: Daemon,
}

/// The cases share addresses, and a daemon sees the sockets of all namespaces: of a twin it says that it is
/// ambiguous.
static ALONE: Mutex<()> = Mutex::new(());

/// The first thing that a case takes, and so the last that it gives back: its programs are gone by then.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SERVERS: [&str; 2] = ["10.79.0.2", "fd79::2"];

impl Case {
    #[track_caller]
    fn new() -> Self {
        let client = Namespace::tracked();
        let server = Namespace::tracked();
        client.link(
            &[("10.79.0.1", 24), ("fd79::1", 64)],
            &server,
            &[("10.79.0.2", 24), ("10.79.0.3", 24), ("fd79::3", 64), ("fd79::2", 64)],
        );
        let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let daemon = Daemon::start(output.path(), &[&client, &server], &[]);
        Self { client, server, output, programs, daemon }
    }

    #[track_caller]
    fn program(&self, name: &str) -> Program {
        Program::new(self.programs.path(), name)
    }

    #[track_caller]
    fn serve(&self, program: &Program, role: &str) -> Running {
        let running = program.start(&self.server, role);
        running.wait_for("listening");
        running
    }

    /// Waits until the server's namespace tracks so many entries with this text: a program may be gone
    /// before its packet has found its way.
    #[track_caller]
    fn wait_for_tracked(&self, text: &str, count: usize) {
        wait_for("entries at the server", || {
            let entries = conntrack::list(&self.server);
            (entries.lines().filter(|line| line.contains(text)).count() == count).then_some(())
        });
    }

    #[track_caller]
    fn stop(self) -> Rows {
        for namespace in [&self.client, &self.server] {
            conntrack::flush(namespace);
        }
        self.daemon.stop();
        Rows {
            client: self.client.inode(),
            server: self.server.inode(),
            dataset: Dataset::read(self.output.path()),
        }
    }
}

/// What both namespaces saw.
struct Rows {
    client: i64,
    server: i64,
    dataset: Dataset,
}

impl Rows {
    /// What was seen of the flow from this port: by the client's namespace and by the server's.
    #[track_caller]
    fn from(&self, told: &Told) -> [&Row; 2] {
        let port = told.number("port");
        self.both(|row| row.int("src_port") == Some(port))
    }

    #[track_caller]
    fn both(&self, wanted: impl Fn(&Row) -> bool) -> [&Row; 2] {
        [self.client, self.server].map(|netns| {
            let mut rows = self.dataset.rows();
            rows.retain(|row| row.int("observer_netns") == Some(netns) && wanted(row));
            assert_eq!(rows.len(), 1, "{rows:#?}");
            rows[0]
        })
    }
}

/// A client asks a server on all addresses: connected as a resolver, and not connected.
#[test]
fn both_ends_of_udp_are_named() {
    let _alone = alone();
    let case = Case::new();
    let [server, connects, sends] = ["fl-server", "fl-connect", "fl-send"].map(|name| case.program(name));
    let running = case.serve(&server, "udp-serve [::]:53");
    let mut told = Vec::new();
    for at in SERVERS.map(|ip| SocketAddr::new(ip.parse().unwrap(), 53)) {
        told.push((connects.clone(), connects.run(&case.client, &format!("udp-connect {at}"))));
        told.push((sends.clone(), sends.run(&case.client, &format!("udp-send {at}"))));
    }
    for (_, told) in &told {
        running.wait_for(&format!("answered {}\n", told.number("port")));
    }
    let pid = running.pid();
    let rows = case.stop();
    for (program, told) in &told {
        let [at_client, at_server] = rows.from(told);
        for row in [at_client, at_server] {
            assert_process(row, "src", "endpoint", program, told.pid, 0);
            assert_process(row, "dst", "endpoint", &server, pid, 0);
        }
    }
}

/// One server on all addresses, and one on a single address of the same port: the kernel prefers the
/// latter.
#[test]
fn the_server_that_gets_the_datagrams_is_named() {
    let _alone = alone();
    let case = Case::new();
    let [wildcard, specific, client] =
        ["fl-wildcard", "fl-specific", "fl-client"].map(|name| case.program(name));
    let of_wildcard = case.serve(&wildcard, "udp-serve-shared 0.0.0.0:53");
    let of_specific = case.serve(&specific, "udp-serve-shared 10.79.0.3:53");
    let mut clients = Vec::new();
    for port in 4000..4010 {
        for (at, program, running, port) in [
            ("10.79.0.2:53", &wildcard, &of_wildcard, port),
            ("10.79.0.3:53", &specific, &of_specific, port + 1000),
        ] {
            let told = client.run(&case.client, &format!("udp-send-from {port} {at} 1"));
            running.wait_for(&format!("answered {}\n", told.number("port")));
            clients.push((told, program, running.pid()));
        }
    }
    let rows = case.stop();
    for (told, program, pid) in &clients {
        for row in rows.from(told) {
            assert_process(row, "src", "endpoint", &client, told.pid, 0);
            assert_process(row, "dst", "endpoint", program, *pid, 0);
        }
    }
}

/// The kernel deals the datagrams out among the sockets of the group by a hash.
#[test]
fn of_programs_that_share_a_port_the_wrong_one_is_never_named() {
    let _alone = alone();
    let case = Case::new();
    let client = case.program("fl-client");
    let servers: HashMap<i64, (Program, Running)> = ["fl-one", "fl-two"]
        .into_iter()
        .map(|name| {
            let program = case.program(name);
            let running = case.serve(&program, "udp-serve-shared 10.79.0.2:53");
            (i64::from(running.pid()), (program, running))
        })
        .collect();
    let client_from = |port| client.run(&case.client, &format!("udp-send-from {port} 10.79.0.2:53 1"));
    let clients: Vec<Told> = (4000..4016).map(client_from).collect();
    let answered_by = |port: i64| {
        let word = format!("answered {port}\n");
        crate::harness::wait::wait_for("a server to answer", || {
            let answered = |running: &Running| running.told().numbers("answered").contains(&port);
            servers.iter().find(|(_, (_, running))| answered(running)).map(|(pid, _)| *pid)
        });
        let by = servers.iter().find(|(_, (_, running))| running.told().numbers("answered").contains(&port));
        *by.unwrap_or_else(|| panic!("nobody told {word}")).0
    };
    let expected: Vec<i64> = clients.iter().map(|told| answered_by(told.number("port"))).collect();
    let rows = case.stop();
    for (told, pid) in clients.iter().zip(expected) {
        for row in rows.from(told) {
            assert_process(row, "src", "endpoint", &client, told.pid, 0);
            match row.text("dst_attribution") {
                Some("ambiguous") => {
                    assert_eq!(row.of_process("dst"), ["dst_attribution"], "{row:?}");
                }
                _ => assert_process(row, "dst", "endpoint", &servers[&pid].0, i32::try_from(pid).unwrap(), 0),
            }
        }
    }
}

/// One program binds the port after the other has gone, and sends to the same server: for connection
/// tracking it is the same flow.
#[test]
fn a_flow_that_two_programs_made_in_turn_names_neither() {
    let _alone = alone();
    let case = Case::new();
    let [server, maker, first, second] =
        ["fl-server", "fl-maker", "fl-first", "fl-second"].map(|name| case.program(name));
    let running = case.serve(&server, "udp-serve 0.0.0.0:53");
    for (count, program) in [&first, &second].into_iter().enumerate() {
        let role = format!("lend udp4=10.79.0.1:4000 {} send-lent 10.79.0.2:53", program.exe());
        maker.run(&case.client, &role);
        crate::harness::wait::wait_for("the server to answer", || {
            (running.told().numbers("answered").len() == count + 1).then_some(())
        });
    }
    let rows = case.stop();
    for row in rows.both(|row| row.int("src_port") == Some(4000)) {
        assert_eq!(row.of_process("src"), ["src_attribution"], "{row:?}");
        assert_eq!(row.text("src_attribution"), Some("ambiguous"), "{row:?}");
    }
}

/// Several sockets could have sent its packets, but not several programs.
#[test]
fn a_flow_of_several_sockets_of_one_process_or_program_names_it() {
    let _alone = alone();
    let case = Case::new();
    let [server, again, once] = ["fl-server", "fl-again", "fl-once"].map(|name| case.program(name));
    let running = case.serve(&server, "udp-serve 0.0.0.0:53");
    let again_pid = again.run(&case.client, "udp-send-from 4000 10.79.0.2:53 3").pid;
    for _ in 0..3 {
        once.run(&case.client, "udp-send-from 4001 10.79.0.2:53 1");
    }
    crate::harness::wait::wait_for("the server to answer", || {
        (running.told().numbers("answered").len() == 6).then_some(())
    });
    let rows = case.stop();
    for row in rows.both(|row| row.int("src_port") == Some(4000)) {
        assert_process(row, "src", "endpoint", &again, again_pid, 0);
    }
    for row in rows.both(|row| row.int("src_port") == Some(4001)) {
        assert_eq!(row.text("src_attribution"), Some("program"), "{row:?}");
        assert_eq!(row.text("src_exe"), Some(once.exe()), "{row:?}");
        assert_eq!(row.int("src_pid"), None, "{row:?}");
    }
}

#[test]
fn ping_is_named() {
    let _alone = alone();
    let case = Case::new();
    let pids = SERVERS.map(|to| ping(&case.client, to));
    // Unprivileged users have a kind of socket of their own for it.
    case.client.sysctl("net/ipv4/ping_group_range", "0 2147483647");
    let pids_of_users = SERVERS.map(|to| ping(&case.client, to));
    let rows = case.stop();
    for pid in pids.into_iter().chain(pids_of_users) {
        for row in rows.both(|row| row.int("src_pid") == Some(pid.into())) {
            assert_eq!(row.text("src_attribution"), Some("endpoint"), "{row:?}");
            assert_eq!(row.text("src_comm"), Some("ping"), "{row:?}");
            assert!(row.text("src_exe").is_some_and(|exe| exe.ends_with("/ping")), "{row:?}");
            // The kernel answers, no process.
            assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
        }
    }
}

fn ping(namespace: &Namespace, to: &str) -> i32 {
    let mut command = Command::new("ping");
    command.args(["-c", "1", "-W", "10", to]);
    let process = namespace.inside(|| Process::spawn(command));
    let pid = process.pid();
    process.finish().success();
    pid
}

/// Two programs ping with raw sockets, which the kernel gives no id of their own.
#[test]
fn raw_echo_sockets_are_told_apart_by_their_ids() {
    let _alone = alone();
    let case = Case::new();
    let [one, two] = ["fl-one", "fl-two"].map(|name| case.program(name));
    let mut sent = Vec::new();
    for ip in SERVERS {
        for (program, id) in [(&one, 4711), (&two, 4712)] {
            sent.push((program, ip, id, program.run(&case.client, &format!("raw-echo {ip} {id}")).pid));
        }
    }
    for id in ["id=4711 ", "id=4712 "] {
        case.wait_for_tracked(id, SERVERS.len());
    }
    let rows = case.stop();
    for (program, ip, id, pid) in sent {
        for row in rows.both(|row| row.text("dst_ip") == Some(ip) && row.int("icmp_id") == Some(id)) {
            assert_process(row, "src", "endpoint", program, pid, 0);
            assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
        }
    }
}

#[test]
fn the_sender_of_a_protocol_without_ports_is_named() {
    let _alone = alone();
    let case = Case::new();
    let program = case.program("fl-raw");
    let mut sent = Vec::new();
    for ip in SERVERS {
        sent.push((ip, program.run(&case.client, &format!("raw {ip} 253")).pid));
    }
    case.wait_for_tracked(" 253 ", SERVERS.len());
    let rows = case.stop();
    for (ip, pid) in sent {
        for row in rows.both(|row| row.text("dst_ip") == Some(ip) && row.int("proto") == Some(253)) {
            assert_process(row, "src", "endpoint", &program, pid, 0);
            assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
        }
    }
}

/// A server that answers many clients from the address that they asked, not from the one that it would
/// choose.
#[test]
fn a_server_on_all_addresses_is_named_to_each_client() {
    let _alone = alone();
    let case = Case::new();
    let [server, client] = ["fl-server", "fl-client"].map(|name| case.program(name));
    let running = case.serve(&server, "udp-serve 0.0.0.0:53");
    let clients: Vec<(IpAddr, Told)> = ["10.79.0.2", "10.79.0.3"]
        .into_iter()
        .cycle()
        .zip(4000..4020)
        .map(|(ip, port)| {
            (ip.parse().unwrap(), client.run(&case.client, &format!("udp-send-from {port} {ip}:53 1")))
        })
        .collect();
    for (_, told) in &clients {
        running.wait_for(&format!("answered {}\n", told.number("port")));
    }
    let pid = running.pid();
    let rows = case.stop();
    for (ip, told) in &clients {
        let ip = ip.to_string();
        let port = told.number("port");
        let server_netns = rows.server;
        let mut seen = rows.dataset.rows_to(53);
        seen.retain(|row| {
            row.int("src_port") == Some(port)
                && row.text("dst_ip") == Some(&ip)
                && row.int("observer_netns") == Some(server_netns)
        });
        assert_eq!(seen.len(), 1, "{seen:#?}");
        assert_process(seen[0], "dst", "endpoint", &server, pid, 0);
        assert_process(seen[0], "src", "endpoint", &client, told.pid, 0);
    }
}

/// As a name server that may not stay root.
#[test]
fn who_serves_is_the_user_after_the_bind() {
    let _alone = alone();
    let case = Case::new();
    let [server, client] = ["fl-server", "fl-client"].map(|name| case.program(name));
    let running = case.serve(&server, "udp-serve-as 65534 0.0.0.0:53");
    let told = client.run(&case.client, "udp-send 10.79.0.2:53");
    running.wait_for(&format!("answered {}\n", told.number("port")));
    let pid = running.pid();
    let rows = case.stop();
    for row in rows.from(&told) {
        assert_process(row, "dst", "endpoint", &server, pid, 65_534);
    }
}

#[test]
fn who_serves_is_the_program_after_the_bind() {
    let _alone = alone();
    let case = Case::new();
    let [binder, server, client] = ["fl-binder", "fl-server", "fl-client"].map(|name| case.program(name));
    let role = format!("keep-and-execute udp4=0.0.0.0:53 {} answer-lent", server.exe());
    let running = case.serve(&binder, &role);
    let told = client.run(&case.client, "udp-send 10.79.0.2:53");
    running.wait_for(&format!("answered {}\n", told.number("port")));
    let pid = running.pid();
    let rows = case.stop();
    for row in rows.from(&told) {
        assert_process(row, "dst", "endpoint", &server, pid, 0);
    }
}
