//! Sockets that are older than the daemon, and their children.

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::{OLDER_SOCKETS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

#[test]
fn a_server_that_listened_before_is_named() {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let server = Program::new(programs.path(), "fl-server");
    let client = Program::new(programs.path(), "fl-client");
    let at = "127.0.0.1:5000".parse().unwrap();
    let running = server.serve(&namespace, 0, at);

    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let closing = no_starts();
    let (client_pid, _) = client.connect(&namespace, 0, at);
    conntrack::flush_closed(&namespace);
    drop(closing);
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
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let program = Program::new(programs.path(), "fl-older");
    let mut running = program.start(&namespace, "talk-to-itself 127.0.0.1:5000 127.0.0.1:5001");
    running.wait_for("waiting");

    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    running.go_on();
    let pid = i64::from(running.finish().pid);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let assert_own = |row: &Row, end: &str, attribution: &str| {
        assert_eq!(row.text(&format!("{end}_attribution")), Some(attribution), "{row:?}");
        assert_eq!(row.int(&format!("{end}_pid")), Some(pid), "{row:?}");
    };
    let connection = dataset.row_to(5000);
    assert_own(connection, "src", "seed");
    assert_own(connection, "dst", "seed");
    let question = dataset.row_to(5001);
    assert_own(question, "src", "endpoint");
    assert_own(question, "dst", "seed");
}
