//! A user who opens sockets without end, far beyond what is remembered.

use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

/// Who floods.
const FLOODING_USER: u32 = 65_534;

/// How many clients of others connect before, during and after it.
const CLIENTS: usize = 15;

/// Several times what fits into the memory.
const SOCKETS: u32 = 60_000;

#[test]
fn who_floods_makes_neither_others_nameless_nor_its_own_first_connection() {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut command = run_command(output.path(), &[&namespace]);
    command.env("FLOWLOG__ATTRIBUTION__MEMORY", "1MiB");
    let daemon = Daemon::spawn(command);
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let [server, client, flooder] =
        ["fl-server", "fl-client", "fl-flooder"].map(|name| Program::new(programs.path(), name));
    let running = server.serve(&namespace, 0, at);

    let closing = no_starts();
    let connect = || (0..CLIENTS).map(|_| client.connect(&namespace, 0, at)).collect::<Vec<_>>();
    let first = client.connect(&namespace, FLOODING_USER, at);
    let mut clients = connect();
    let flood = flooder.command(FLOODING_USER, &format!("udp-flood 127.0.0.1:5001 {SOCKETS}"));
    let flood = Program::start_command(&namespace, flood);
    clients.extend(connect());
    flood.finish();
    clients.extend(connect());
    conntrack::flush_closed(&namespace);
    drop(closing);
    let log = daemon.stop();
    drop(running);

    assert!(log.contains("because all that is remembered takes more than `attribution.memory`"), "{log}");
    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), clients.len() + 1);
    for (pid, port) in clients.into_iter().chain([first]) {
        let row = rows.iter().find(|row| row.int("src_port") == Some(port.into())).unwrap();
        assert_eq!((row.int("src_pid"), row.text("src_exe")), (Some(pid.into()), Some(client.exe())));
        assert_eq!(row.text("dst_exe"), Some(server.exe()));
    }
}
