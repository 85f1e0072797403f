//! Processes that are gone before anybody could ask /proc for them.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;
use crate::processes::assert_process;

/// How many processes are started, each of which connects and ends at once.
const PROCESSES: usize = 1000;

#[test]
fn a_thousand_short_processes_are_all_named() {
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [server, starter, client] =
        ["fl-server", "fl-starter", "fl-short"].map(|name| Program::new(programs.path(), name));
    let serving = server.serve(&namespace, 0, at);
    let told = starter.run(&namespace, &format!("start-many {PROCESSES} {} connect {at}", client.exe()));
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), PROCESSES);
    let mut pids = HashMap::new();
    for row in rows {
        let port = row.int("src_port").unwrap();
        let pid = i32::try_from(told.number(&format!("pid-of-{port}"))).unwrap();
        assert_process(row, "src", "socket", &client, pid, 0);
        assert_process(row, "dst", "closer", &server, serving.pid(), 0);
        assert_eq!(pids.insert(pid, port), None, "each process has its own row");
    }
}
