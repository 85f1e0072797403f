//! A host on which system calls fail, and clocks are set: all flows are rows or declared lost, and what is
//! published is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::full_disk::logged_rows;
use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::dataset::files_below;
use crate::harness::entries::make_and_flush;
use crate::harness::fault::{Fault, with_fault};
use crate::harness::namespace::Namespace;
use crate::harness::tally::Tally;
use crate::harness::wait::wait_for;

/// Names of the threads of the daemon.
const READER: &str = "flowlog";
pub(crate) const WRITER: &str = "writer";

/// How many flows are made at once.
const BURST: u32 = 1000;

fn command(output: &Path, namespace: &Namespace) -> Command {
    let mut command = run_command(output, &[namespace]);
    command.arg("--no-ebpf").env("FLOWLOG__WAL__SYNC", "batch");
    command
}

#[track_caller]
fn start(output: &Path, namespace: &Namespace) -> Daemon {
    Daemon::spawn(command(output, namespace))
}

#[track_caller]
pub(crate) fn check_verified(output: &Path) {
    let verified = flowlog(&["verify", output.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified}");
}

/// One thread wakes another by a write of this, which no kernel fails. A daemon for which strace does ends.
const WAKE_UP: &str = r#""\1\0\0\0\0\0\0\0", 8)"#;

fn met_by_wake_up(traced: &str) -> bool {
    traced.lines().any(|call| call.contains(WAKE_UP) && call.contains("(INJECTED)"))
}

/// A daemon that meets a fault so many times while it logs and publishes goes on after it, and has lost
/// nothing. Gives its log.
#[track_caller]
fn check_goes_on(thread: &str, injection: &str, times: usize) -> String {
    println!("{injection}");
    loop {
        if let Some(log) = goes_on(thread, injection, times) {
            return log;
        }
        println!("again: it met a wake-up");
    }
}

/// `None` where a wake-up met the fault.
#[track_caller]
fn goes_on(thread: &str, injection: &str, times: usize) -> Option<String> {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut daemon = start(output.path(), &namespace);
    let mut made = 0;
    let mut burst = || {
        make_and_flush(&namespace, made..made + BURST);
        made += BURST;
    };
    burst();
    let fault = Fault::begin(&daemon, thread, injection);
    for bursts in 0..10 {
        if bursts > 0 && fault.met() >= times {
            break;
        }
        burst();
        if met_by_wake_up(&fault.traced()) {
            return None;
        }
        // Requests that come faster than they are met are one.
        let tried = |daemon: &Daemon| daemon.log().matches(" published ").count() + fault.met();
        let before = tried(&daemon);
        daemon.rotate();
        wait_for("a file, or the fault", || (tried(&daemon) > before).then_some(()));
    }
    // What failed is tried again.
    wait_for("the fault to be met", || {
        (fault.met() >= times || met_by_wake_up(&fault.traced())).then_some(())
    });
    let traced = fault.end();
    if met_by_wake_up(&traced) {
        return None;
    }
    burst();
    let log = daemon.stop();

    let tally = Tally::read(output.path());
    assert_eq!(tally.check_exact(made), 0, "{injection}: {log}\n{traced}");
    check_verified(output.path());
    Some(log)
}

#[test]
fn a_write_ahead_log_that_cannot_be_written_costs_nothing() {
    for fault in ["error=EIO", "error=ENOSPC", "error=EDQUOT", "retval=0"] {
        let log = check_goes_on(WRITER, &format!("pwrite64:{fault}"), 2);
        assert!(log.contains("cannot write flows: "), "{log}");
    }
    // What was written in part cannot be cut off either.
    check_goes_on(WRITER, "pwrite64,ftruncate:error=EIO:when=1+2", 2);
}

#[test]
fn a_disk_that_does_not_sync_costs_nothing() {
    for call in ["fsync", "fdatasync", "fsync,fdatasync"] {
        check_goes_on(WRITER, &format!("{call}:error=EIO"), 2);
        check_goes_on(WRITER, &format!("{call}:error=EIO:when=2+3"), 2);
    }
}

#[test]
fn files_that_cannot_be_written_cost_nothing() {
    for fault in ["write:error=EIO", "write:error=ENOSPC", "write:error=EIO:when=5+7", "write:retval=0"] {
        check_goes_on(WRITER, fault, 2);
    }
}

#[test]
fn files_that_cannot_be_published_cost_nothing() {
    for fault in ["rename:error=EIO", "rename:error=ENOSPC", "unlink:error=EIO", "openat:error=EMFILE"] {
        check_goes_on(WRITER, fault, 2);
    }
    check_goes_on(WRITER, "openat:error=EIO:when=1+3", 2);
    check_goes_on(WRITER, "read:error=EIO", 1);
}

#[test]
fn interrupted_calls_are_made_again() {
    let calls = "write,pwrite64,openat,fsync,fdatasync,ftruncate,read";
    let log = check_goes_on(WRITER, &format!("{calls}:error=EINTR:when=1+2"), 10);
    let (_, after_ready) = log.split_once(" ready: ").unwrap();
    let is_fault = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    // Where strace lets go in the middle of a call, that is one that the kernel does not have.
    let is_of_strace = |line: &&str| line.contains("Function not implemented");
    assert_eq!(after_ready.lines().filter(is_fault).find(|line| !is_of_strace(line)), None, "{log}");
}

/// strace must not let go in the middle of a call: the faults end before.
#[test]
fn a_socket_that_is_not_ready_costs_nothing() {
    for fault in
        ["recvmmsg:error=EINTR", "recvmmsg:error=EAGAIN", "recvmmsg:error=ENOBUFS", "epoll_wait:error=EINTR"]
    {
        check_goes_on(READER, &format!("{fault}:when=2..20+2"), 10);
    }
}

#[test]
fn an_interrupted_dump_goes_on() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--no-ebpf", "--active-interval", "1s"]);
    let fault = Fault::begin(&daemon, READER, "recvfrom:error=EINTR:when=1..5+2");
    wait_for("the fault to be met", || (fault.met() == 3).then_some(()));
    fault.end();
    make_and_flush(&namespace, 0..BURST);
    let log = daemon.stop();
    assert!(!log.contains("ERROR"), "{log}");
    assert_eq!(Tally::read(output.path()).check_exact(BURST), 0, "{log}");
}

/// The daemon is told to stop while it cannot publish: the next one does.
#[test]
fn what_a_stop_could_not_publish_the_next_start_does() {
    for fault in ["rename:error=EIO", "fsync:error=EIO", "write:error=EIO", "fdatasync:error=EIO"] {
        println!("{fault}");
        let namespace = Namespace::tracked();
        let output = tempfile::tempdir().unwrap();
        let daemon = start(output.path(), &namespace);
        make_and_flush(&namespace, 0..BURST);
        let fault = Fault::begin(&daemon, WRITER, fault);
        let log = daemon.stop();
        let traced = fault.end();
        start(output.path(), &namespace).stop();
        check_each_is_a_row(output.path(), &format!("{log}\n{traced}"));
    }
}

/// All flows of a burst are rows, each once, and the ledger agrees.
#[track_caller]
fn check_each_is_a_row(output: &Path, told: &str) {
    let tally = Tally::read(output);
    tally.check_each_once();
    assert_eq!(tally.rows.len(), usize::try_from(BURST).unwrap(), "{told}");
    check_verified(output);
}

/// What a killed daemon left cannot be read at first.
#[test]
fn recovery_goes_on_after_faults() {
    for fault in [
        "read:error=EIO:when=1..3",
        "read:error=EIO:when=5",
        "openat:error=EMFILE:when=1..2",
        "unlink:error=EIO",
    ] {
        println!("{fault}");
        let namespace = Namespace::tracked();
        let output = tempfile::tempdir().unwrap();
        let daemon = start(output.path(), &namespace);
        make_and_flush(&namespace, 0..BURST);
        wait_for("the rows to be logged", || (logged_rows(output.path()) == BURST).then_some(()));
        daemon.kill();
        let log = files_below(&output.path().join("_flowlog/wal"));
        let [segment] = &log[..] else { panic!("one segment: {log:?}") };
        let daemon = Daemon::spawn(with_fault(&command(output.path(), &namespace), segment, fault));
        wait_for("recovery to succeed", || {
            daemon.log().contains("recovered the rows of a run").then_some(())
        });
        let log = daemon.stop();
        start(output.path(), &namespace).stop();
        check_each_is_a_row(output.path(), &log);
    }
}

/// The daemon is killed at each of the calls by which rows become files, or at those of its stop.
#[test]
fn a_crash_at_any_call_loses_nothing_that_was_logged() {
    for call in ["pwrite64", "fdatasync", "openat", "write", "fsync", "rename", "unlink"] {
        for when in 1..=4 {
            println!("{call} {when}");
            let namespace = Namespace::tracked();
            let output = tempfile::tempdir().unwrap();
            let daemon = start(output.path(), &namespace);
            make_and_flush(&namespace, 0..BURST);
            wait_for("the rows to be logged", || (logged_rows(output.path()) == BURST).then_some(()));
            let fault = Fault::begin(&daemon, WRITER, &format!("{call}:signal=SIGKILL:when={when}"));
            // It may have met the fault on its own.
            daemon.signal(Signal::SIGHUP);
            let log = daemon.end().stderr;
            let traced = fault.end();
            start(output.path(), &namespace).stop();
            check_each_is_a_row(output.path(), &format!("{log}\n{traced}"));
        }
    }
}

/// Somebody sets the clock of the host. Only the daemon sees it: the kernel's times stay what they are.
#[test]
fn a_clock_that_is_set_costs_nothing() {
    let namespace = Namespace::tracked();
    let [output, directory] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let clock = directory.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let mut command = run_command(output.path(), &[&namespace]);
    command.arg("--no-ebpf").env("LD_PRELOAD", fake_clock());
    command.env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    let mut daemon = Daemon::spawn(command);
    let mut made = 0;
    for step in ["+0", "-2h", "+3h", "-1d", "+40d", "+0"] {
        fs::write(directory.path().join("next"), step).unwrap();
        fs::rename(directory.path().join("next"), &clock).unwrap();
        make_and_flush(&namespace, made..made + BURST);
        made += BURST;
        let rows = usize::try_from(made).unwrap();
        wait_for("the rows to be published", || {
            daemon.rotate();
            (Tally::read(output.path()).rows.len() == rows).then_some(())
        });
    }
    let log = daemon.stop();
    let tally = Tally::read(output.path());
    assert_eq!(tally.check_exact(made), 0, "{log}");
    check_verified(output.path());
}

/// libfaketime answers in the place of the clock.
fn fake_clock() -> PathBuf {
    let libraries = PathBuf::from(format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH));
    let library = libraries.join("libfaketime.so.1");
    assert!(library.exists(), "no `{}`: run the tests with `cargo xtask test`", library.display());
    library
}
