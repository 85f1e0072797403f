//! A daemon that cannot read for a while: what it has missed is NULL, never wrong, and is counted.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::{Dataset, Row, files_below};
use crate::harness::kernel::{ENDS, OLDER_SOCKETS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running, Told};
use crate::harness::wait::wait_for;
use crate::processes::assert_process;

/// What the daemon says when it has missed something.
const LOST: &str = "events of sockets and processes were lost";

/// How often each of two programs connects, which is 1.1 MiB of events.
const CONNECTIONS: usize = 2500;

/// What was logged of two programs that connected while the daemon was stopped.
struct Outcome {
    rows: usize,
    /// How many of the initiators were named.
    named: usize,
    log: String,
}

/// The default ring buffer holds what happens in such a stall, unless the rest of the host is busy, too.
#[test]
fn a_stall_within_the_ring_buffer_costs_nothing() {
    let Some(Outcome { rows, named, log }) = stall("8MiB") else { return };
    assert_eq!(rows, 2 * CONNECTIONS, "{log}");
    let is_complete = log.contains("lost_events=0 ");
    assert_eq!(named == rows, is_complete, "{named} of {rows} are named: {log}");
    assert_ne!(is_complete, log.contains(LOST), "{log}");
}

/// More than a small ring buffer holds.
#[test]
fn a_stall_beyond_the_ring_buffer_loses_names_and_says_so() {
    let Some(Outcome { rows, named, log }) = stall("256KiB") else { return };
    assert_eq!(rows, 2 * CONNECTIONS, "{log}");
    assert!(named < rows, "the case is too small: {log}");
    assert!(log.contains(LOST), "{log}");
    assert!(!log.contains("lost_events=0 "), "{log}");
}

/// Sockets without a connection, and listeners of MPTCP that are older than the daemon, are told of once only: after a
/// loss they are looked for again.
#[test]
fn who_listened_before_a_stall_is_named_after_it() {
    if lacks(ENDS) || lacks(OLDER_SOCKETS) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [answers, accepts, client] =
        ["fl-answers", "fl-accepts", "fl-client"].map(|name| Program::new(programs.path(), name));
    let mut accepting = accepts.start(&namespace, "serve-kind mptcp 127.0.0.1:5003");
    accepting.wait_for("made");
    let has_mptcp = !accepting.told().has("impossible");
    let mut command = run_command(output.path(), &[&namespace]);
    command.env("FLOWLOG__ATTRIBUTION__RING_BUFFER", "256KiB");
    let mut daemon = Daemon::spawn(command);
    let answering = answers.start(&namespace, "udp-serve 127.0.0.1:5004");
    answering.wait_for("listening");
    if has_mptcp {
        accepting.go_on();
        accepting.wait_for("serving");
    }

    let pids = |port| -> Vec<i64> {
        let dataset = Dataset::read(output.path());
        dataset.rows_to(port).into_iter().filter_map(|row| row.int("dst_pid")).collect()
    };
    let ask = |daemon: &mut Daemon| {
        client.run(&namespace, "udp-send 127.0.0.1:5004");
        conntrack::flush(&namespace);
        daemon.rotate();
    };
    // What is used is told of now, and not again.
    ask(&mut daemon);
    wait_for("a row", || (pids(5004).len() == 1).then_some(()));

    daemon.signal(Signal::SIGSTOP);
    let storm = SocketAddr::from(([127, 0, 0, 1], 5005));
    let _storm = accepts.serve(&namespace, 0, storm);
    client.start(&namespace, &format!("connect-many {storm} {CONNECTIONS}")).finish();
    daemon.signal(Signal::SIGCONT);
    wait_for("a loss", || daemon.log().contains(LOST).then_some(()));

    let pid_of = |running: &Running| vec![i64::from(running.pid())];
    wait_for("the sockets to be known again", || {
        ask(&mut daemon);
        (pids(5004).len() > 1).then_some(())
    });
    if has_mptcp {
        client.run(&namespace, "connect 127.0.0.1:5003");
        conntrack::flush_closed(&namespace);
    }
    daemon.stop();
    let answered = pids(5004);
    assert!(answered.iter().all(|pid| [*pid] == pid_of(&answering)[..]), "{answered:?}");
    if has_mptcp {
        assert_eq!(pids(5003), pid_of(&accepting));
    }
}

/// A daemon sees the sockets of the whole host: two storms at once would fill its ring buffer.
static ALONE: Mutex<()> = Mutex::new(());

/// Stops the daemon while two programs connect side by side, each to a server of its own. `None` where the
/// rows cannot be told apart by their end.
#[track_caller]
fn stall(ring_buffer: &str) -> Option<Outcome> {
    if lacks(ENDS) {
        return None;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut command = run_command(output.path(), &[&namespace]);
    command.env("FLOWLOG__ATTRIBUTION__RING_BUFFER", ring_buffer);
    let mut daemon = Daemon::spawn(command);
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
        .map(|(at, _, _, client)| client.start(&namespace, &format!("connect-many {at} {CONNECTIONS}")))
        .map(|running| running.finish());
    daemon.signal(Signal::SIGCONT);
    conntrack::flush(&namespace);
    wait_for("the daemon to catch up", || {
        daemon.rotate();
        (!files_below(&output.path().join("flows")).is_empty()).then_some(())
    });
    // After the stall everything is as before.
    let late = pairs.each_ref().map(|(at, _, _, client)| client.connect(&namespace, 0, *at));
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let mut outcome = Outcome { rows: 0, named: 0, log };
    for (((at, server, serving, client), Told { pid, .. }), (late_pid, late_port)) in
        pairs.iter().zip(clients).zip(late)
    {
        // The late one is the only one that sent something. Its port may have been used before.
        let (late_rows, rows): (Vec<&Row>, Vec<&Row>) =
            dataset.rows_to(at.port()).into_iter().partition(|row| row.text("end_reason") == Some("closed"));
        assert_eq!(late_rows.len(), 1, "{late_rows:?}");
        assert_eq!(late_rows[0].int("src_port"), Some(late_port.into()));
        assert_process(late_rows[0], "src", "socket", client, late_pid, 0);
        for row in &rows {
            let is = |column: &str, expected: i64| row.int(column).is_none_or(|found| found == expected);
            assert!(is("src_pid", pid.into()) && is("dst_pid", serving.pid().into()), "{row:?}");
            assert!(row.text("src_exe").is_none_or(|exe| exe == client.exe()), "{row:?}");
            assert!(row.text("dst_exe").is_none_or(|exe| exe == server.exe()), "{row:?}");
        }
        outcome.rows += rows.len();
        outcome.named += rows.iter().filter(|row| row.int("src_pid").is_some()).count();
    }
    Some(outcome)
}
