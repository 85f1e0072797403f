//! Packets that a process makes by hand, for which there is no socket: scanners, and answers.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::{OLDER_SOCKETS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;
use crate::harness::program::{Program, Running};
use crate::harness::wait::wait_for;
use crate::processes::assert_process;

/// The cases share addresses, see `datagrams`.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const CLIENT: &str = "10.83.0.1";
const CLIENT_V6: &str = "fd83::1";
const SERVER: &str = "10.83.0.2";
const SERVER_V6: &str = "fd83::2";

/// A client and a server, one link apart, both observed.
struct Case {
    client: Namespace,
    server: Namespace,
    device: String,
    programs: tempfile::TempDir,
    output: tempfile::TempDir,
    daemon: Option<Daemon>,
}

impl Case {
    #[track_caller]
    fn new() -> Self {
        let case = Self::without_daemon();
        let daemon = Daemon::start(case.output.path(), &[&case.client, &case.server], &[]);
        Self { daemon: Some(daemon), ..case }
    }

    #[track_caller]
    fn without_daemon() -> Self {
        let client = Namespace::tracked();
        let server = Namespace::tracked();
        let own = [(CLIENT, 24), (CLIENT_V6, 64)];
        let device = client.link(&own, &server, &[(SERVER, 24), (SERVER_V6, 64)]);
        let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        Self { client, server, device, programs, output, daemon: None }
    }

    /// Where the kernel resets a connection at once, its entry is gone at once, too: so it does not.
    #[track_caller]
    fn silent() -> Self {
        let mut case = Self::without_daemon();
        case.start();
        case
    }

    #[track_caller]
    fn start(&mut self) {
        self.server.nft(
            "table inet silent {
                chain out { type filter hook output priority raw; tcp flags rst drop; }
            }",
        );
        self.daemon = Some(Daemon::start(self.output.path(), &[&self.client, &self.server], &[]));
    }

    fn program(&self, name: &str) -> Program {
        Program::new(self.programs.path(), name)
    }

    #[track_caller]
    fn serve(&self, program: &Program, at: &str) -> Running {
        let running = program.start(&self.server, &format!("serve {at}"));
        running.wait_for("listening");
        running
    }

    /// Waits until the server's namespace tracks so many entries with this text: a program may be gone before
    /// its packet has found its way.
    #[track_caller]
    fn wait_for_tracked(&self, text: &str, count: usize) {
        wait_for("entries at the server", || {
            let entries = conntrack::list(&self.server);
            (entries.lines().filter(|line| line.contains(text)).count() == count).then_some(())
        });
    }

    #[track_caller]
    fn stop(mut self) -> Rows {
        for namespace in [&self.client, &self.server] {
            conntrack::flush(namespace);
        }
        let log = self.daemon.take().unwrap().stop();
        let dataset = Dataset::read(self.output.path());
        Rows { client: self.client.inode(), server: self.server.inode(), dataset, log }
    }
}

/// What both namespaces saw.
struct Rows {
    client: i64,
    server: i64,
    dataset: Dataset,
    log: String,
}

impl Rows {
    /// What was seen of the flow with these ports: by the client's namespace and by the server's.
    #[track_caller]
    fn of(&self, src_port: u16, dst_port: u16) -> [&Row; 2] {
        [self.client, self.server].map(|netns| {
            let mut rows = self.dataset.rows_to(dst_port);
            rows.retain(|row| {
                row.int("observer_netns") == Some(netns) && row.int("src_port") == Some(src_port.into())
            });
            assert_eq!(rows.len(), 1, "{:#?}", self.dataset.rows());
            rows[0]
        })
    }

    /// A flow that this program began by hand, and nobody answered.
    #[track_caller]
    fn assert_raw(&self, src_port: u16, dst_port: u16, program: &Program, pid: i32) {
        let rows = self.of(src_port, dst_port);
        for (row, direction) in rows.into_iter().zip(["outbound", "inbound"]) {
            assert_process(row, "src", "raw", program, pid, 0);
            assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
            // The server's namespace knows the process, too: both ends are of this host.
            let direction = if direction == "inbound" { "local" } else { direction };
            assert_eq!(row.text("direction"), Some(direction), "{row:?}");
        }
    }

    #[track_caller]
    fn assert_ambiguous(&self, src_port: u16, dst_port: u16) {
        for row in self.of(src_port, dst_port) {
            assert_eq!(row.text("src_attribution"), Some("ambiguous"), "{row:?}");
            assert_eq!(row.of_process("src"), ["src_attribution"], "{row:?}");
        }
    }
}

/// Scans of TCP with the kernel's IP header and with one of their own, and a datagram.
#[test]
fn who_makes_packets_by_hand_is_named() {
    let _alone = alone();
    let case = Case::silent();
    let [syn, own_syn, udp] = ["fl-syn", "fl-own", "fl-udp"].map(|name| case.program(name));
    let mut sent = Vec::new();
    for (from, to) in [(CLIENT, SERVER), (&format!("[{CLIENT_V6}]"), &format!("[{SERVER_V6}]"))] {
        for (program, kind, src_port, dst_port, count) in [
            (&syn, "syn", 40_000, 1000, 10),
            (&own_syn, "own-syn", 40_001, 1100, 10),
            (&udp, "udp", 40_002, 1200, 1),
        ] {
            let (src_port, dst_port) =
                if from == CLIENT { (src_port, dst_port) } else { (src_port + 10, dst_port) };
            let role = format!("raw-send {kind} {from}:{src_port} {to}:{dst_port} {count}");
            let pid = program.run(&case.client, &role).pid;
            sent.extend((dst_port..dst_port + count).map(|dst_port| (src_port, dst_port, program, pid)));
        }
    }
    assert_eq!(sent.len(), 2 * 21);
    case.wait_for_tracked("sport=40", 2 * 21);
    let rows = case.stop();
    for (src_port, dst_port, program, pid) in sent {
        rows.assert_raw(src_port, dst_port, program, pid);
    }
}

/// Scanners, and a program that does the same with sockets, at the same time and to the same addresses.
#[test]
fn a_scanner_and_a_program_with_sockets_are_told_apart() {
    let _alone = alone();
    let case = Case::silent();
    let [server, scanner, both, client] =
        ["fl-server", "fl-scan", "fl-both", "fl-client"].map(|name| case.program(name));
    let running = case.serve(&server, &format!("{SERVER}:80"));
    let mut scanning =
        scanner.start(&case.client, &format!("raw-send-when-told syn {CLIENT}:40000 {SERVER}:80"));
    scanning.wait_for("ready");
    let before = client.connect(&case.client, 0, format!("{SERVER}:80").parse().unwrap());
    scanning.go_on();
    scanning.wait_for("sent");
    let after = client.connect(&case.client, 0, format!("{SERVER}:80").parse().unwrap());
    let of_both =
        both.run(&case.client, &format!("raw-send-and-connect syn {CLIENT}:40001 {SERVER}:1000 {SERVER}:80"));
    case.wait_for_tracked("sport=40001", 2);
    let scanner_pid = scanning.pid();
    scanning.go_on();
    scanning.finish();
    let server_pid = running.pid();
    let rows = case.stop();
    for (pid, port) in [before, after] {
        for row in rows.of(port, 80) {
            assert_process(row, "src", "socket", &client, pid, 0);
        }
    }
    let port = u16::try_from(of_both.number("port")).unwrap();
    for row in rows.of(port, 80) {
        assert_process(row, "src", "socket", &both, of_both.pid, 0);
    }
    rows.assert_raw(40_001, 1000, &both, of_both.pid);
    rows.assert_raw(40_001, 1001, &both, of_both.pid);
    // The kernel answered with SYN and ACK, and never made a socket.
    for row in rows.of(40_000, 80) {
        assert_process(row, "src", "raw", &scanner, scanner_pid, 0);
        assert_ne!(row.int("dst_pid"), Some(scanner_pid.into()), "{row:?}");
        assert!(row.int("dst_pid").is_none_or(|pid| pid == i64::from(server_pid)), "{row:?}");
    }
}

/// Both have raw sockets all the time. What one of them sent is its own, what both sent is of neither.
#[test]
fn of_several_scanners_the_right_one_is_named_or_none() {
    let _alone = alone();
    let case = Case::silent();
    let [one, two] = ["fl-one", "fl-two"].map(|name| case.program(name));
    let start = |program: &Program, from: u16, to: u16| {
        let role = format!("raw-send-when-told syn {CLIENT}:{from} {SERVER}:{to}");
        let running = program.start(&case.client, &role);
        running.wait_for("ready");
        running
    };
    let mut running = [
        (&one, 40_000, 1000, start(&one, 40_000, 1000)),
        (&two, 40_000, 1001, start(&two, 40_000, 1001)),
        (&one, 40_001, 1002, start(&one, 40_001, 1002)),
        (&two, 40_001, 1002, start(&two, 40_001, 1002)),
    ];
    for (.., running) in &mut running {
        running.go_on();
        running.wait_for("sent");
    }
    case.wait_for_tracked("sport=40", 3);
    let pids = running.each_ref().map(|(.., running)| running.pid());
    for (.., mut running) in running {
        running.go_on();
        running.finish();
    }
    let rows = case.stop();
    rows.assert_raw(40_000, 1000, &one, pids[0]);
    rows.assert_raw(40_000, 1001, &two, pids[1]);
    rows.assert_ambiguous(40_001, 1002);
}

/// Who made the socket need not be who sends.
#[test]
fn a_raw_socket_that_was_passed_on_names_nobody() {
    let _alone = alone();
    let case = Case::silent();
    let [maker, sender] = ["fl-maker", "fl-sender"].map(|name| case.program(name));
    for (how, port) in [("lend", 1000), ("keep-and-execute", 1001)] {
        let role = format!("{how} raw4 {} raw-send-lent syn {CLIENT}:40000 {SERVER}:{port}", sender.exe());
        maker.run(&case.client, &role);
    }
    case.wait_for_tracked("sport=40000", 2);
    let rows = case.stop();
    rows.assert_ambiguous(40_000, 1000);
    rows.assert_ambiguous(40_000, 1001);
}

#[test]
fn who_answers_by_hand_is_named() {
    let _alone = alone();
    let case = Case::silent();
    let [tcp, own_tcp, udp, client] =
        ["fl-tcp", "fl-own", "fl-udp", "fl-client"].map(|name| case.program(name));
    let answerers =
        [(&tcp, "syn", 80), (&own_tcp, "own-syn", 81), (&udp, "udp", 53)].map(|(program, kind, port)| {
            let running = program.start(&case.server, &format!("raw-answer {kind} {SERVER}:{port}"));
            running.wait_for("listening");
            (program, port, running)
        });
    let mut asked = Vec::new();
    for (program, port, running) in &answerers {
        let to = format!("{SERVER}:{port}");
        let (pid, src_port) = if *port == 53 {
            let told = client.run(&case.client, &format!("udp-send-from 4000 {to} 1"));
            (told.pid, 4000)
        } else {
            client.connect(&case.client, 0, to.parse().unwrap())
        };
        running.wait_for(&format!("answered {src_port}\n"));
        asked.push((*program, running.pid(), pid, src_port, *port));
    }
    let rows = case.stop();
    for (program, program_pid, pid, src_port, port) in asked {
        for row in rows.of(src_port, port) {
            let method = if port == 53 { "endpoint" } else { "socket" };
            assert_process(row, "src", method, &client, pid, 0);
            assert_process(row, "dst", "raw", program, program_pid, 0);
        }
    }
}

/// The kernel resets what nobody listens for, with a raw socket of its own. A program that has raw sockets, and
/// sends other packets with them, did not answer; nor did one that breaks connections of others.
#[test]
fn who_did_not_answer_by_hand_is_not_named() {
    let _alone = alone();
    let case = Case::new();
    let [scanner, breaker, server] = ["fl-scan", "fl-break", "fl-server"].map(|name| case.program(name));
    let mut scanning =
        scanner.start(&case.server, &format!("raw-send-when-told syn {SERVER}:80 {CLIENT}:1000"));
    scanning.wait_for("ready");
    scanning.go_on();
    scanning.wait_for("sent");
    let to: SocketAddr = format!("{SERVER}:80").parse().unwrap();
    case.client.inside(|| TcpStream::connect(to).unwrap_err());
    // Into a connection of the client: as the server, and as the client.
    let running = case.serve(&server, &format!("{SERVER}:81"));
    let to: SocketAddr = format!("{SERVER}:81").parse().unwrap();
    let connected = case.client.inside(|| TcpStream::connect(to).unwrap());
    let port = connected.local_addr().unwrap().port();
    for (namespace, from, to) in [
        (&case.client, to, format!("{CLIENT}:{port}")),
        (&case.server, SocketAddr::new(CLIENT.parse().unwrap(), port), to.to_string()),
    ] {
        for kind in ["own-data", "own-rst"] {
            breaker.run(namespace, &format!("raw-send {kind} {from} {to} 1"));
        }
    }
    drop(connected);
    scanning.go_on();
    scanning.finish();
    let server_pid = running.pid();
    drop(running);
    let rows = case.stop();
    let mut to_closed_port = rows.dataset.rows_to(80);
    to_closed_port.retain(|row| row.text("dst_ip") == Some(SERVER));
    assert_eq!(to_closed_port.len(), 2, "{to_closed_port:?}");
    for row in to_closed_port {
        assert_eq!(row.text("src_attribution"), Some("socket"), "{row:?}");
        assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
    }
    for row in rows.of(port, 81) {
        assert_eq!(row.text("src_attribution"), Some("socket"), "{row:?}");
        assert_eq!(row.int("src_pid"), Some(std::process::id().into()), "{row:?}");
        assert!(row.int("dst_pid").is_none_or(|pid| pid == i64::from(server_pid)), "{row:?}");
        assert_ne!(row.text("dst_attribution"), Some("raw"), "{row:?}");
    }
}

/// Connections that begin in an unusual way have sockets all the same, also beside a scanner.
#[test]
fn unusual_connections_are_of_their_sockets() {
    let _alone = alone();
    let case = Case::new();
    // As a client, also where no server has given a cookie.
    case.client.sysctl("net/ipv4/tcp_fastopen", "5");
    let [server, scanner, client] = ["fl-server", "fl-scan", "fl-client"].map(|name| case.program(name));
    let running = case.serve(&server, &format!("{SERVER}:80"));
    scanner.run(&case.client, &format!("raw-send syn {CLIENT}:40000 {SERVER}:1000 100"));
    let connect = |role: &str| {
        let told = client.run(&case.client, &format!("{role} {SERVER}:80"));
        (told.pid, u16::try_from(told.number("port")).unwrap())
    };
    let mut connected = vec![
        connect("connect-fast-open"),
        connect("connect-fast-open-later"),
        connect(&format!("connect-bound-to-device {}", case.device)),
    ];
    if case.client.inside(|| std::path::Path::new("/proc/sys/net/mptcp").exists()) {
        connected.push(connect("connect-mptcp"));
    }
    drop(running);
    let rows = case.stop();
    for (pid, port) in connected {
        for row in rows.of(port, 80) {
            assert_process(row, "src", "socket", &client, pid, 0);
        }
    }
}

/// More packets than the ring buffer has room for events, while nobody reads it.
#[test]
fn a_scanner_makes_no_event_for_each_packet() {
    const PORTS: usize = 20_000;
    let _alone = alone();
    let case = Case::new();
    // Nothing answers, so that a flow is one flow however often its packet comes.
    case.server.nft(
        "flush ruleset
        table inet silent {
            chain in { type filter hook prerouting priority raw; drop; }
        }",
    );
    let scanner = case.program("fl-scan");
    let daemon = case.daemon.as_ref().unwrap();
    daemon.signal(Signal::SIGSTOP);
    let told = scanner.run(&case.client, &format!("raw-flood syn {CLIENT}:2000 {SERVER}:2000 {PORTS} 6"));
    daemon.signal(Signal::SIGCONT);
    let rows = case.stop();
    let seen = rows.dataset.rows_to(2000);
    assert_eq!(seen.len(), PORTS);
    let named = seen.iter().filter(|row| row.text("src_attribution") == Some("raw")).count();
    assert!(seen.iter().all(|row| row.int("src_pid").is_none_or(|pid| pid == i64::from(told.pid))));
    // What finds no room in the table of tuples is not known: here that is next to nothing.
    assert!(named * 1000 >= PORTS * 999, "{named} of {PORTS}");
    assert!(rows.log.contains("lost_events=0"), "{}", rows.log);
}

#[test]
fn a_raw_socket_that_is_older_than_flowlog_is_known() {
    let _alone = alone();
    let mut case = Case::without_daemon();
    let program = case.program("fl-older");
    let mut running: Vec<_> = ["syn", "own-udp"]
        .into_iter()
        .zip(1000..)
        .map(|(kind, port)| {
            let role = format!("raw-send-when-told {kind} {CLIENT}:40000 {SERVER}:{port}");
            let running = program.start(&case.client, &role);
            running.wait_for("ready");
            running
        })
        .collect();
    case.start();
    for running in &mut running {
        running.go_on();
        running.wait_for("sent");
    }
    case.wait_for_tracked("sport=40000", 2);
    let pids: Vec<i32> = running.iter().map(Running::pid).collect();
    for mut running in running {
        running.go_on();
        running.finish();
    }
    let rows = case.stop();
    for (pid, port) in pids.into_iter().zip(1000..) {
        for row in rows.of(40_000, port) {
            if lacks(OLDER_SOCKETS) {
                assert_eq!(row.of_process("src"), [""; 0], "{row:?}");
                continue;
            }
            assert_eq!(row.text("src_attribution"), Some("raw"), "{row:?}");
            assert_eq!(row.int("src_pid"), Some(pid.into()), "{row:?}");
            assert_eq!(row.text("src_comm"), Some(program.comm()), "{row:?}");
            assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
        }
    }
}

/// A source address that is of no interface: the flow begins here all the same.
#[test]
fn who_pretends_to_be_another_host_is_named() {
    let _alone = alone();
    let case = Case::new();
    let program = case.program("fl-spoof");
    let pid = program.run(&case.client, &format!("raw-send own-udp 203.0.113.9:40000 {SERVER}:1000 5")).pid;
    let rows = wait_for_rows(case, 5);
    let netns = rows.client;
    for port in 1000..1005 {
        let mut seen = rows.dataset.rows_to(port);
        seen.retain(|row| row.int("observer_netns") == Some(netns));
        assert_eq!(seen.len(), 1);
        // Where the process had to wait before its packet was noted, it is not known.
        if seen[0].of_process("src") != [""; 0] {
            assert_process(seen[0], "src", "raw", &program, pid, 0);
            assert_eq!(seen[0].text("direction"), Some("outbound"), "{:?}", seen[0]);
        }
    }
    assert!(rows.dataset.rows().iter().any(|row| row.text("src_attribution") == Some("raw")));
}

#[track_caller]
fn wait_for_rows(case: Case, count: usize) -> Rows {
    wait_for("entries at the client", || {
        let entries = conntrack::list(&case.client);
        (entries.lines().filter(|line| line.contains("sport=40000")).count() == count).then_some(())
    });
    case.stop()
}

/// The scanner that everybody uses, and a program that does the same with sockets.
#[test]
fn nmap_is_named_beside_a_program_with_sockets() {
    let _alone = alone();
    let case = Case::new();
    let [server, client] = ["fl-server", "fl-client"].map(|name| case.program(name));
    let running = case.serve(&server, &format!("{SERVER}:80"));
    let scan = |args: &[&str]| {
        let mut nmap = Command::new("nmap");
        nmap.args(["-n", "-Pn", "--send-ip", "-T4", "--max-retries", "1"]).args(args).arg(SERVER);
        case.client.inside(|| Process::spawn(nmap))
    };
    // The scans are told by their source ports.
    let scans = [
        (scan(&["-sS", "-g", "50001", "-p", "1-200"]), 50_001, "tcp"),
        (scan(&["-sU", "-g", "50002", "-p", "1001-1100"]), 50_002, "udp"),
    ];
    let clients: Vec<_> =
        (0..20).map(|_| client.connect(&case.client, 0, format!("{SERVER}:80").parse().unwrap())).collect();
    let mut pids = Vec::new();
    for (process, src_port, proto) in scans {
        pids.push((process.pid(), src_port, proto));
        process.finish().success();
    }
    drop(running);
    let rows = case.stop();
    let netns = [rows.client, rows.server];
    for (pid, src_port, proto) in pids {
        let mut of_scan = rows.dataset.rows();
        of_scan.retain(|row| row.text("proto_name") == Some(proto) && row.int("src_port") == Some(src_port));
        for netns in netns {
            let seen = of_scan.iter().filter(|row| row.int("observer_netns") == Some(netns)).count();
            assert!(seen >= if proto == "tcp" { 200 } else { 100 }, "{seen} flows of the scan");
        }
        for row in of_scan {
            assert_eq!(row.int("src_pid"), Some(pid.into()), "{row:?}");
            assert_eq!(row.text("src_attribution"), Some("raw"), "{row:?}");
            assert!(row.text("src_exe").is_some_and(|exe| exe.ends_with("/nmap")), "{row:?}");
            assert_ne!(row.int("dst_pid"), Some(pid.into()), "{row:?}");
        }
    }
    for (pid, port) in clients {
        for row in rows.of(port, 80) {
            assert_process(row, "src", "socket", &client, pid, 0);
        }
    }
}
