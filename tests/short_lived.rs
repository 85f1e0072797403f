//! Processes that are gone before anybody could ask /proc for them, and numbers that are used again.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Instant;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::ebpf::Lookups;
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running, Told};
use crate::harness::wait::LIMIT;
use crate::processes::assert_process;

/// How many processes are started, each of which connects and ends at once.
const PROCESSES: usize = 10_000;

/// They are shells, which live for about a millisecond.
#[test]
fn ten_thousand_short_processes_are_all_named() {
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [server, starter] = ["fl-server", "fl-starter"].map(|name| Program::new(programs.path(), name));
    let shell = Program::linked(programs.path(), "fl-short", "/bin/bash");
    let serving = server.serve(&namespace, 0, at);
    let told = starter.run(&namespace, &format!("start-shells {PROCESSES} {} {at}", shell.exe()));
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), PROCESSES);
    check_shells(&rows, &told, &shell);
    for row in rows {
        // A daemon that starts beside this test takes copies of sockets: the owner is then not the last to close.
        let closed = row.text("dst_attribution") == Some("closer");
        assert_process(row, "dst", if closed { "closer" } else { "inherited" }, &server, serving.pid(), 0);
        assert_eq!(row.int("src_ppid"), Some(told.pid.into()), "{row:?}");
        assert_eq!(row.text("src_parent_exe"), Some(starter.exe()), "{row:?}");
    }
}

/// Where the kernel preempts system calls of eBPF, it skips the programs that would tell of an exec.
#[test]
fn of_processes_that_the_kernel_skipped_none_is_named_wrongly() {
    const SHELLS: usize = 400;
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [server, starter] = ["fl-server", "fl-starter"].map(|name| Program::new(programs.path(), name));
    // The path by which it is started and that which /proc has after a loss are one.
    let shell = Program::at(std::fs::canonicalize("/bin/bash").unwrap().to_str().unwrap());
    let _serving = server.serve(&namespace, 0, at);
    let lookups = Lookups::start();
    let told = starter.run(&namespace, &format!("start-shells {SHELLS} {} {at}", shell.exe()));
    drop(lookups);
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), SHELLS);
    let named: Vec<_> = rows.into_iter().filter(|row| row.text("src_exe").is_some()).collect();
    check_shells(&named, &told, &shell);
    if named.len() < SHELLS {
        assert!(
            log.contains("events of sockets and processes were lost"),
            "{} are named: {log}",
            named.len()
        );
    } else {
        println!("this kernel lacks preemption of system calls of eBPF, or had no occasion");
    }
}

/// Each of these rows is of another shell that was started, and names it.
#[track_caller]
fn check_shells(rows: &[&Row], told: &Told, shell: &Program) {
    let pids: HashMap<i64, i64> = told.numbered("pid-of-").collect();
    let mut seen = HashSet::new();
    for row in rows {
        let (args, number) = row.text("src_cmdline").and_then(|cmdline| cmdline.rsplit_once(' ')).unwrap();
        assert_eq!(args, format!("{} -c exec 3<>/dev/tcp/127.0.0.1/5000 short", shell.exe()));
        let number: i64 = number.parse().unwrap();
        assert!(seen.insert(number), "each process has its own row");
        let pid = i32::try_from(pids[&number]).unwrap();
        assert_process(row, "src", "socket", shell, pid, 0);
    }
}

#[test]
fn a_number_that_is_used_again_never_names_the_old_program() {
    let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let udp: SocketAddr = "127.0.0.1:5001".parse().unwrap();
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let [server, old, new, holder] =
        ["fl-server", "fl-old", "fl-new", "fl-holder"].map(|name| Program::new(programs.path(), name));
    let _serving = server.serve(&namespace, 0, at);

    // The old program connects, ends, and leaves a socket behind.
    let role = format!("connect-when-told {at}");
    let (pid, first_port) = old.connect(&namespace, 0, at);
    let second_port = finish(start_with_pid(&new, pid, &namespace, &role));
    let lender = old.run(&namespace, &format!("leave udp4={udp} {}", holder.exe()));
    let lent_to = i32::try_from(lender.number("child")).unwrap();
    let new_running = start_with_pid(&new, lender.pid, &namespace, &role);
    new_running.wait_for("waiting");
    let sender = server.run(&namespace, &format!("udp-send {udp}"));
    let new_port = finish(new_running);
    conntrack::flush(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    let from = |port: u16| *rows.iter().find(|row| row.int("src_port") == Some(port.into())).unwrap();
    assert_process(from(first_port), "src", "socket", &old, pid, 0);
    assert_process(from(second_port), "src", "socket", &new, pid, 0);
    assert_process(from(new_port), "src", "socket", &new, lender.pid, 0);

    // Who only bound the socket is known by number; what runs under that number now is somebody else.
    let row = dataset.row_to(5001);
    assert_eq!(row.int("src_pid"), Some(sender.pid.into()), "{row:?}");
    let named = row.int("dst_pid").map(|pid| i32::try_from(pid).unwrap());
    assert!(named.is_none_or(|pid| [lender.pid, lent_to].contains(&pid)), "{row:?}");
    assert!(row.text("dst_exe").is_none_or(|exe| exe != new.exe()), "{row:?}");
}

/// Starts a program under a number that was used before. Others may take it first: then again.
#[track_caller]
fn start_with_pid(program: &Program, pid: i32, namespace: &Namespace, role: &str) -> Running {
    let deadline = Instant::now() + LIMIT;
    loop {
        let running = program.start_with_pid(pid, namespace, role);
        if running.pid() == pid {
            running.wait_for("waiting");
            return running;
        }
        assert!(Instant::now() < deadline, "the process id {pid} did not come again");
    }
}

/// Lets a client connect and end; gives its port.
fn finish(mut client: Running) -> u16 {
    client.go_on();
    u16::try_from(client.finish().number("port")).unwrap()
}
