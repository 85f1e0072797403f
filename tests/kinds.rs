//! Each kind of socket, whether it is older than the daemon or newer: who is named at each end, and how.
//!
//! What is found is the table of `flowlog/docs/schema.md`.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts};
use crate::harness::dataset::Dataset;
use crate::harness::kernel::{OLDER_SOCKETS, WHO_CLOSED, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running};

/// What a kernel answers that lacks a kind of socket.
const IMPOSSIBLE: &str = "impossible";

/// A kind of socket.
struct Kind {
    /// Its name in the table.
    name: &'static str,
    /// What the programs make.
    client: &'static str,
    server: &'static str,
}

const KINDS: [Kind; 9] = [
    Kind { name: "TCP", client: "tcp", server: "tcp" },
    Kind { name: "TCP, the listener was never bound", client: "tcp", server: "unbound" },
    Kind { name: "TCP, from a service manager", client: "tcp", server: "activated" },
    Kind { name: "TCP, the process moved to another network namespace", client: "moved", server: "moved" },
    Kind { name: "TCP, the process is stopped when flowlog starts", client: "stopped", server: "stopped" },
    Kind { name: "TCP, accepted after flowlog started", client: "tcp", server: "waiting" },
    Kind { name: "MPTCP", client: "mptcp", server: "mptcp" },
    Kind { name: "MPTCP listener, TCP client", client: "tcp", server: "mptcp" },
    Kind { name: "UDP", client: "udp", server: "udp" },
];

/// What is older than the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Older {
    Nothing,
    Listener,
    Connection,
}

#[test]
fn each_kind_of_socket_has_its_process_whether_it_is_older_or_newer() {
    let mut table = String::new();
    for kind in &KINDS {
        let cells = [Older::Nothing, Older::Listener, Older::Connection].map(|older| ends(kind, older));
        let [newer, listener, connection] = &cells;
        let cells = [&newer[0], &connection[0], &newer[1], &listener[1], &connection[1]].map(String::as_str);
        table.push_str(&format!("| {} | {} |\n", kind.name, cells.join(" | ")));
    }
    println!("{table}");
    if lacks(OLDER_SOCKETS) || lacks(WHO_CLOSED) || table.contains(IMPOSSIBLE) {
        return;
    }
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../flowlog/docs/schema.md");
    if let Ok(document) = fs::read_to_string(document) {
        assert!(document.contains(&table), "found:\n{table}");
    }
}

/// How the processes at both ends are known. Each that is named is the right one.
// Long, since what both ends do depends on the kind at each step.
#[track_caller]
fn ends(kind: &Kind, older: Older) -> [String; 2] {
    let Kind { name, client, server } = kind;
    // It is accepted later than it was made only if it was made before.
    if *server == "waiting" && older != Older::Connection {
        return [(); 2].map(|()| "-".to_owned());
    }
    let namespace = Namespace::tracked();
    // Else an entry that is made while nobody listens ends unseen.
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [clients, servers] = ["fl-client", "fl-server"].map(|name| Program::new(programs.path(), name));
    let start_server = || {
        let role = match *server {
            "activated" => format!("activate 127.0.0.1:5000 {}", servers.exe()),
            kind => format!("serve-kind {kind} 127.0.0.1:5000"),
        };
        let running = servers.start(&namespace, &role);
        running.wait_for("made");
        (!running.told().has(IMPOSSIBLE)).then_some(running)
    };
    let serve = |server: &mut Running| {
        server.go_on();
        server.wait_for("serving");
    };
    let connect = |server: &Running| {
        let running =
            clients.start(&namespace, &format!("connect-kind {client} {}", server.told().number("port")));
        running.wait_for("connected");
        running
    };

    let mut server_before = None;
    if older >= Older::Listener {
        let Some(running) = start_server() else { return [(); 2].map(|()| IMPOSSIBLE.to_owned()) };
        server_before = Some(running);
    }
    let mut client_before = None;
    if older == Older::Connection
        && let Some(running) = &mut server_before
    {
        client_before = Some(connect(running));
        if *server != "waiting" {
            serve(running);
            // It has accepted the connection when it waits for what comes.
            if *client != "udp" {
                running.wait_for("accepted");
            }
        }
    }
    let signal = |signal: Signal| {
        for running in server_before.iter().chain(&client_before) {
            if *server == "stopped" {
                kill(Pid::from_raw(running.pid()), signal).unwrap();
            }
        }
    };
    signal(Signal::SIGSTOP);
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    signal(Signal::SIGCONT);
    let Some(mut running_server) = server_before.or_else(start_server) else {
        daemon.stop();
        return [(); 2].map(|()| IMPOSSIBLE.to_owned());
    };
    let closing = no_starts();
    if older != Older::Connection || *server == "waiting" {
        serve(&mut running_server);
    }
    let mut running_client = client_before.unwrap_or_else(|| connect(&running_server));
    running_client.go_on();
    let told = running_client.finish();
    let server_told = running_server.told();
    conntrack::flush_closed(&namespace);
    drop(closing);
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let port = u16::try_from(server_told.number("port")).unwrap();
    let rows = dataset.rows_to(port);
    assert_eq!(rows.len(), 1, "{name}: {rows:?}, {log}");
    let server_pids: Vec<i64> =
        server_told.numbers("child").into_iter().chain([server_told.pid.into()]).collect();
    [("src", vec![i64::from(told.pid)]), ("dst", server_pids)].map(|(end, pids)| {
        let pid = rows[0].int(&format!("{end}_pid"));
        assert!(pid.is_none_or(|pid| pids.contains(&pid)), "{name}: {pids:?}, {:?}", rows[0]);
        rows[0].text(&format!("{end}_attribution")).unwrap_or("NULL").to_owned()
    })
}
