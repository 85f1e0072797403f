//! Clocks that are slow to read, and clocks that somebody sets: the kernel stamps flows by one clock, and sockets by
//! another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts, run_command};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::{WHO_CLOSED, is_virtual_machine, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

const CONNECTIONS: usize = 100;

/// How long a clock stays as it was set: longer than the daemon needs on emulated processors to see that it was.
const PAUSE: Duration = Duration::from_millis(200);

/// Stands in for a clock that is read without the vDSO: of a clock source such as hpet or `acpi_pm`, of Xen, of a
/// sandbox.
const SLOW_CLOCK: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    struct timespec begin;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &begin);
    long took;
    do {
        struct timespec end;
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &end);
        took = (end.tv_sec - begin.tv_sec) * 1000000000L + end.tv_nsec - begin.tv_nsec;
    } while (took < TAKES_NS);
    return syscall(SYS_clock_gettime, clock, now);
}
";

#[test]
fn slow_clocks_of_3_us_name_all_processes() {
    slow_clocks_name_all_processes(3);
}

#[test]
fn slow_clocks_of_10_us_name_all_processes() {
    slow_clocks_name_all_processes(10);
}

#[test]
fn slow_clocks_of_50_us_name_all_processes() {
    slow_clocks_name_all_processes(50);
}

#[track_caller]
fn slow_clocks_name_all_processes(takes_us: u32) {
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let library = slow_clock(programs.path(), takes_us);
    let namespace = Namespace::tracked();
    let mut command = run_command(output.path(), &[&namespace]);
    command.env("LD_PRELOAD", library);
    let daemon = Daemon::spawn(command);
    let expected = Expected::connect_all(&namespace, programs.path());
    let log = daemon.stop();
    expected.check(&Dataset::read(output.path()), &log);
}

/// The clock of the whole machine: nothing but a machine of its own bears that.
#[test]
fn while_somebody_sets_the_clock_all_processes_are_named() {
    if !is_virtual_machine() {
        println!("skipped: sets the clock of the machine, which only one of its own bears");
        return;
    }
    for step in [Duration::from_hours(1), Duration::from_millis(50), Duration::from_micros(700)] {
        let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let namespace = Namespace::tracked();
        let daemon = Daemon::start(output.path(), &[&namespace], &[]);
        let is_over = AtomicBool::new(false);
        let (expected, sets) = thread::scope(|scope| {
            let setting = scope.spawn(|| set_back_and_forth(step, &is_over));
            let expected = Expected::connect_all(&namespace, programs.path());
            is_over.store(true, Ordering::Relaxed);
            (expected, setting.join().unwrap())
        });
        let log = daemon.stop();
        assert!(sets > 2, "the clock was set {sets} times");
        assert!(log.contains("somebody set the clock"), "{log}");
        expected.check(&Dataset::read(output.path()), &format!("by {step:?}: {log}"));
    }
}

/// Sets the clock forward and back again until it is over. Gives how often.
fn set_back_and_forth(step: Duration, is_over: &AtomicBool) -> usize {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_REALTIME).unwrap());
    let set = |to: Duration| clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(to)).unwrap();
    let mut sets = 0;
    while !is_over.load(Ordering::Relaxed) {
        set(now() + step);
        thread::sleep(PAUSE);
        set(now().checked_sub(step).unwrap());
        thread::sleep(PAUSE);
        sets += 2;
    }
    sets
}

/// Connections of two programs that take turns, by port.
struct Expected {
    clients: Vec<(u16, i32)>,
    server: i32,
}

impl Expected {
    /// Connects so often, and lets the entries end.
    #[track_caller]
    fn connect_all(namespace: &Namespace, programs: &Path) -> Self {
        let server = Program::new(programs, "fl-server");
        let clients = [Program::new(programs, "fl-one"), Program::new(programs, "fl-other")];
        let at = "127.0.0.1:5000".parse().unwrap();
        let running = server.serve(namespace, 0, at);
        let closing = no_starts();
        let connect = |program: &Program| {
            let (pid, port) = program.connect(namespace, 0, at);
            (port, pid)
        };
        let clients = clients.iter().cycle().take(CONNECTIONS).map(connect).collect();
        conntrack::flush_closed(namespace);
        drop(closing);
        Self { clients, server: running.pid() }
    }

    #[track_caller]
    fn check(&self, dataset: &Dataset, log: &str) {
        let rows = dataset.rows_to(5000);
        assert_eq!(rows.len(), CONNECTIONS, "{log}");
        let row_of =
            |port: u16| -> &Row { rows.iter().find(|row| row.int("src_port") == Some(port.into())).unwrap() };
        let named = |end: &str, expected: &[(u16, i32)]| -> (usize, usize) {
            let pids = expected.iter().map(|(port, pid)| (row_of(*port).int(&format!("{end}_pid")), *pid));
            pids.fold((0, 0), |(right, wrong), (found, expected)| match found {
                Some(found) if found == i64::from(expected) => (right + 1, wrong),
                Some(_) => (right, wrong + 1),
                None => (right, wrong),
            })
        };
        let servers: Vec<_> = self.clients.iter().map(|(port, _)| (*port, self.server)).collect();
        for row in rows.iter().filter(|row| row.int("src_pid").is_none() || row.int("dst_pid").is_none()) {
            let [start, end] = ["start_time", "end_time"].map(|name| row.time(name));
            let [src, dst] = ["src_attribution", "dst_attribution"].map(|name| row.text(name));
            println!("not named: from {start:?} to {end:?}, {src:?} and {dst:?}");
        }
        assert_eq!(named("src", &self.clients), (CONNECTIONS, 0), "right and wrong clients; {log}");
        assert_eq!(named("dst", &servers), (CONNECTIONS, 0), "right and wrong servers; {log}");
        if !lacks(WHO_CLOSED) {
            let closed = rows.iter().filter(|row| row.text("dst_attribution") == Some("closer")).count();
            assert_eq!(closed, CONNECTIONS, "{log}");
        }
    }
}

/// The library, built.
#[track_caller]
fn slow_clock(directory: &Path, takes_us: u32) -> PathBuf {
    let [source, library] = ["slow.c", "slow.so"].map(|name| directory.join(name));
    fs::write(&source, SLOW_CLOCK).unwrap();
    // The compiler that Rust links with.
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1"]).arg(format!("-DTAKES_NS={}L", takes_us * 1000));
    let built = command.arg("-o").arg(&library).arg(&source).status().unwrap();
    assert!(built.success(), "cc cannot build a library: {built}");
    library
}
