//! Readers, writers and other listeners that cannot keep up: each flow is a row or declared lost.

use std::process::Command;
use std::thread;
use std::time::Duration;

use flowlog::connections::ctnetlink::{Buffers, Delivery, Listener, Received, Requests};
use flowlog::connections::filter::FlowFilter;
use nix::sys::signal::Signal;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::entries::{AT_ONCE, count, make_and_flush, table_max};
use crate::harness::kernel::is_virtual_machine;
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;
use crate::harness::tally::Tally;
use crate::harness::traffic::Ends;
use crate::harness::volume::Volume;
use crate::harness::wait::wait_for;

/// A daemon without processes: these cases are about flows, and many of them.
fn command(output: &std::path::Path, namespace: &Namespace, env: &[(&str, &str)]) -> Command {
    let mut command = run_command(output, &[namespace]);
    command.arg("--no-ebpf").envs(env.iter().copied());
    command
}

#[test]
fn a_slow_reader_with_a_small_buffer_loses_nothing() {
    // On an emulated processor the daemon reads little in the time that it gets.
    let flows: u32 = if is_virtual_machine() { 60_000 } else { 300_000 };
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let settings = [("FLOWLOG__HOLD__RECEIVE_BUFFER", "1MiB"), ("FLOWLOG__HOLD__TABLE_SHARE", "100")];
    let daemon = Daemon::spawn(command(output.path(), &namespace, &settings));
    for first in (0..flows).step_by(usize::try_from(AT_ONCE).unwrap()) {
        daemon.signal(Signal::SIGSTOP);
        make_and_flush(&namespace, first..first + AT_ONCE);
        // The kernel holds them: the buffer has room for some hundreds.
        assert!(count(&namespace) > AT_ONCE / 2, "the case is not what it should be");
        // It may read a little now and then.
        wait_for("the kernel to hold nothing", || {
            daemon.signal(Signal::SIGCONT);
            thread::sleep(Duration::from_millis(20));
            daemon.signal(Signal::SIGSTOP);
            (count(&namespace) == 0).then_some(())
        });
        daemon.signal(Signal::SIGCONT);
    }
    let log = daemon.stop();
    let tally = Tally::read(output.path());
    assert_eq!(tally.check_exact(flows), 0, "{log}");
    assert!(!log.contains("overruns=0 "), "the buffer never was full: {log}");
}

#[test]
fn another_listener_that_makes_the_kernel_repeat_events_gives_no_duplicates() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(command(output.path(), &namespace, &[]));
    let mut other =
        namespace.inside(|| Listener::open(64 << 10, Delivery::Reliable, &FlowFilter::default())).unwrap();
    make_and_flush(&namespace, 0..AT_ONCE);
    read_all(&mut other, &namespace);
    let log = daemon.stop();
    assert!(!log.contains("duplicates=0 "), "the kernel repeated nothing: {log}");
    assert_eq!(Tally::read(output.path()).check_exact(AT_ONCE), 0, "{log}");
}

/// What a daemon has taken, the kernel may send to the next one, too.
#[test]
fn a_listener_that_lags_gives_no_duplicates_after_a_restart() {
    const FLOWS: u32 = 2000;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(command(output.path(), &namespace, &[]));
    let mut other =
        namespace.inside(|| Listener::open(4 << 10, Delivery::Reliable, &FlowFilter::default())).unwrap();
    make_and_flush(&namespace, 0..FLOWS);
    daemon.stop();
    assert!(count(&namespace) > FLOWS / 2, "the case is not what it should be");

    let daemon = Daemon::spawn(command(output.path(), &namespace, &[]));
    read_all(&mut other, &namespace);
    let log = daemon.stop();
    assert!(!log.contains("duplicates=0 "), "the kernel repeated nothing: {log}");
    let tally = Tally::read(output.path());
    tally.check_each_once();
    assert_eq!(tally.rows.len(), usize::try_from(FLOWS).unwrap());
}

#[test]
fn without_reliable_delivery_the_number_of_lost_flows_is_declared() {
    const FLOWS: u32 = 50_000;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut command = command(output.path(), &namespace, &[("FLOWLOG__HOLD__RECEIVE_BUFFER", "128KiB")]);
    command.args(["--delivery", "best-effort"]);
    let daemon = Daemon::spawn(command);
    daemon.signal(Signal::SIGSTOP);
    make_and_flush(&namespace, 0..FLOWS);
    assert_eq!(count(&namespace), 0, "nothing is held");
    daemon.signal(Signal::SIGCONT);
    let log = daemon.stop();
    let tally = Tally::read(output.path());
    let lost = tally.check_exact(FLOWS);
    assert!(lost > 0, "the case is not what it should be: {log}");
    assert!(tally.causes().iter().all(|cause| *cause == "overrun"), "{:?}", tally.gaps);
}

/// The disk hangs, flows go on: the kernel holds some, the rest is counted, and nobody else notices.
#[test]
fn a_disk_that_hangs_stops_neither_connections_nor_the_count() {
    /// More than what waits in the daemon.
    const FLOWS: u32 = 300_000;
    let namespace = Namespace::tracked();
    let limit = table_max(&namespace) / 100;
    // Each is more than the kernel may hold, however large the table is.
    let burst = (2 * limit).max(20_000);
    let bursts = FLOWS.div_ceil(burst);
    let disk = Volume::disk(64);
    let output = disk.path().join("log");
    let settings = [("FLOWLOG__HOLD__TABLE_SHARE", "1")];
    let mut command = command(&output, &namespace, &settings);
    command.args(["--rotate-rows", "20000"]);
    let daemon = Daemon::spawn(command);
    let before = daemon.memory_bytes();

    let hanging = disk.hang();
    for number in 0..bursts {
        make_and_flush(&namespace, number * burst..(number + 1) * burst);
        wait_for("the kernel to hold less than the limit", || (count(&namespace) <= limit).then_some(()));
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], 5000 + u16::try_from(number).unwrap()));
        Ends { client: &namespace, server: &namespace }.tcp_closed(at, at);
    }
    let grown = daemon.memory_bytes().saturating_sub(before);
    assert!(grown < 150 << 20, "the daemon took {grown} bytes more");
    drop(hanging);

    conntrack::flush_closed(&namespace);
    wait_for("all connections to be forgotten", || {
        namespace.inside(Requests::open).unwrap().flush().unwrap();
        (count(&namespace) == 0).then_some(())
    });
    conntrack::wait_until_read(&namespace);
    let log = daemon.stop();
    let tally = Tally::read(&output);
    let lost = tally.check_exact(bursts * burst + bursts);
    assert!(lost > 0, "the case is not what it should be: {log}");
    assert!(tally.causes().iter().all(|cause| *cause == "overload"), "{:?}", tally.gaps);
}

/// Reads until the kernel holds nothing more for this listener.
#[track_caller]
fn read_all(listener: &mut Listener, namespace: &Namespace) {
    let mut buffers = Buffers::default();
    wait_for("the other listener to have all events", || {
        while !matches!(listener.recv(&mut buffers).unwrap(), Received::WouldBlock) {}
        (count(namespace) == 0).then_some(())
    });
}

#[test]
fn a_second_daemon_on_one_directory_refuses() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(command(output.path(), &namespace, &[]));
    let second = Process::spawn(command(output.path(), &namespace, &[])).finish();
    assert_eq!(second.status.code(), Some(1), "{second}");
    let line = format!("the output directory `{}` is in use by another flowlog", output.path().display());
    assert!(second.stderr.contains(&line), "{second}");
    daemon.stop();
}
