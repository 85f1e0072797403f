//! A user who opens sockets without end, far beyond what is remembered.

use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

/// Who floods.
const FLOODING_USER: u32 = 65_534;

#[test]
fn who_floods_makes_neither_others_nameless_nor_its_own_first_connection() {
    flood("1MiB", 2_000, 15);
}

#[test]
#[ignore = "takes two minutes: `cargo xtask test --long`"]
fn who_floods_for_long_makes_nobody_nameless_either() {
    flood("16MiB", 60_000, 50);
}

/// A user opens several times as many sockets as there is memory for, 40 a round and a process. So many clients of others
/// connect before, during and after that.
fn flood(memory: &str, rounds: u32, clients: usize) {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut command = run_command(output.path(), &[&namespace]);
    command.env("FLOWLOG__ATTRIBUTION__MEMORY", memory);
    // The rows of the flood would take gigabytes here.
    command.env("FLOWLOG__FILTER__EXCEPT__ADDRESS", "['127.0.0.2']");
    let daemon = Daemon::spawn(command);
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let [server, client, flooder] =
        ["fl-server", "fl-client", "fl-flooder"].map(|name| Program::new(programs.path(), name));
    let running = server.serve(&namespace, 0, at);

    let closing = no_starts();
    let connect = || (0..clients).map(|_| client.connect(&namespace, 0, at)).collect::<Vec<_>>();
    let first = client.connect(&namespace, FLOODING_USER, at);
    let mut connections = connect();
    let flood = flooder.command(FLOODING_USER, &format!("flood 127.0.0.2:5001 {rounds}"));
    let flood = Program::start_command(&namespace, flood);
    connections.extend(connect());
    flood.finish();
    connections.extend(connect());
    conntrack::flush_closed(&namespace);
    drop(closing);
    let log = daemon.stop();
    drop(running);

    assert!(log.contains("because all that is remembered takes more than `attribution.memory`"), "{log}");
    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), connections.len() + 1);
    for (pid, port) in connections.into_iter().chain([first]) {
        let row = rows.iter().find(|row| row.int("src_port") == Some(port.into())).unwrap();
        assert_eq!((row.int("src_pid"), row.text("src_exe")), (Some(pid.into()), Some(client.exe())));
        assert_eq!(row.text("dst_exe"), Some(server.exe()));
    }
}
