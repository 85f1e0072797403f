//! A daemon that cannot read for a while: what it has missed is NULL, never wrong, and is counted.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Told};

/// What was logged of two programs that connected while the daemon was stopped.
struct Outcome {
    rows: usize,
    /// How many of the initiators were named.
    named: usize,
    log: String,
}

/// What happens in the usual stall is all there afterwards.
#[test]
fn a_short_stall_costs_nothing() {
    let Outcome { rows, named, log } = stall(2500);
    assert_eq!((rows, named), (5000, 5000), "{log}");
    assert!(log.contains("lost_events=0 "), "{log}");
}

/// More than the ring buffer holds.
#[test]
fn a_long_stall_loses_names_and_says_so() {
    let Outcome { rows, named, log } = stall(20_000);
    assert_eq!(rows, 40_000, "{log}");
    assert!(named < rows, "the case is too small: {log}");
    assert!(log.contains("events of sockets and processes were lost"), "{log}");
    assert!(!log.contains("lost_events=0 "), "{log}");
}

/// Stops the daemon while two programs connect side by side, each to a server of its own.
#[track_caller]
fn stall(connections: usize) -> Outcome {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let start = |(name, at): (&str, &str)| {
        let at: SocketAddr = at.parse().unwrap();
        let server = Program::new(programs.path(), &format!("fl-server-{name}"));
        let running = server.serve(&namespace, 0, at);
        (at, server, running, Program::new(programs.path(), &format!("fl-client-{name}")))
    };
    let pairs = [("one", "127.0.0.1:5001"), ("two", "[::1]:5002")].map(start);

    daemon.signal(Signal::SIGSTOP);
    let clients = pairs
        .each_ref()
        .map(|(at, _, _, client)| client.start(&namespace, &format!("connect-many {at} {connections}")))
        .map(|running| running.finish());
    daemon.signal(Signal::SIGCONT);
    // After the stall everything is as before.
    let late = pairs.each_ref().map(|(at, _, _, client)| client.connect(&namespace, 0, *at));
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let mut outcome = Outcome { rows: 0, named: 0, log };
    for (((at, server, serving, client), Told { pid, .. }), (late_pid, late_port)) in
        pairs.iter().zip(clients).zip(late)
    {
        let expected = |row: &crate::harness::dataset::Row| {
            let is_late = row.int("src_port") == Some(late_port.into()) && row.int("orig_bytes") > Some(300);
            i64::from(if is_late { late_pid } else { pid })
        };
        for row in dataset.rows_to(at.port()) {
            let found = row.int("src_pid");
            assert!([Some(pid.into()), Some(late_pid.into()), None].contains(&found), "{row:?}");
            let _ = expected;
            assert!(row.text("src_exe").is_none_or(|exe| exe == client.exe()), "{row:?}");
            assert!(row.text("dst_exe").is_none_or(|exe| exe == server.exe()), "{row:?}");
            let named = row.int("dst_pid");
            assert!(named.is_none_or(|named| named == i64::from(serving.pid())), "{row:?}");
            outcome.rows += 1;
            outcome.named += usize::from(row.text("src_exe").is_some());
        }
    }
    outcome.rows -= 2;
    outcome.named = outcome.named.saturating_sub(2);
    outcome
}
