//! Others on the same host: programs at the root cgroup, listeners and tools of connection tracking, and a
//! second flowlog. Nobody takes anything away from anybody.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use flowlog::connections::ctnetlink::Requests;
use flowlog::flow::{Flow, L4, ProtoState, TcpState};
use nix::sys::signal::Signal;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command, starting};
use crate::harness::dataset::Dataset;
use crate::harness::ebpf::{Guard, Parts};
use crate::harness::entries::{make, make_and_flush, number_of};
use crate::harness::host::mounted_for_ebpf;
use crate::harness::kernel::{ENDS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::process::{Process, run};
use crate::harness::tally::Tally;
use crate::harness::traffic::{Ends, reset_on_close};
use crate::harness::wait::wait_for;
use crate::processes::Pair;

const AT: &str = "127.0.0.1:5000";

/// Protocols that nobody uses.
const PROTOCOLS: [i32; 2] = [246, 247];

#[test]
fn programs_of_others_stay_attached_and_run() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let [older, newer] = PROTOCOLS;
    let older = Guard::attach(older);
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let newer = Guard::attach(newer);
    assert!(older.runs() && newer.runs());
    let pair = Pair::connect(&namespace, AT.parse().unwrap());
    daemon.stop();
    assert!(older.runs() && newer.runs(), "flowlog took programs of others with it");
    pair.assert_named(Dataset::read(output.path()).row_to(5000));
}

/// The programs of both have the same names.
#[test]
fn two_daemons_name_the_processes_of_their_namespaces() {
    let [first, second] = [(); 2].map(|()| (Namespace::tracked(), tempfile::tempdir().unwrap()));
    let start = |(namespace, output): &(Namespace, tempfile::TempDir)| {
        Daemon::start(output.path(), &[namespace], &[])
    };
    let [daemon, daemon_2] = [start(&first), start(&second)];
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let pair = Pair::connect(&first.0, at(5000));
    let pair_2 = Pair::connect(&second.0, at(5000));
    daemon_2.stop();
    let alone = Pair::connect(&first.0, at(5001));
    daemon.stop();

    let dataset = Dataset::read(first.1.path());
    pair.assert_named(dataset.row_to(5000));
    alone.assert_named(dataset.row_to(5001));
    assert_eq!(dataset.rows().len(), 2);
    let dataset = Dataset::read(second.1.path());
    pair_2.assert_named(dataset.row_to(5000));
    assert_eq!(dataset.rows().len(), 1);
}

#[test]
fn nothing_is_left_after_a_stop() {
    nothing_is_left(|daemon| {
        daemon.stop();
    });
}

#[test]
fn nothing_is_left_after_sigkill() {
    nothing_is_left(Daemon::kill);
}

#[track_caller]
fn nothing_is_left(end: impl FnOnce(Daemon)) {
    // What programs are attached by, are pinned in, and are described in.
    let before = mounted_for_ebpf("self");
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let parts = Parts::of(daemon.pid());
    assert!(parts.has_links(), "{parts:?}");
    assert_eq!(parts.left(), parts, "the kernel has what the daemon has");
    Pair::connect(&namespace, AT.parse().unwrap());
    assert_eq!(mounted_for_ebpf("self"), before, "while it runs");
    end(daemon);
    // The kernel takes them down some time after the last descriptor is closed.
    wait_for("programs, links and maps to be gone", || parts.left().is_empty().then_some(()));
    assert_eq!(mounted_for_ebpf("self"), before);
}

/// One that is killed in the middle of its start has attached some of its programs only.
#[test]
fn nothing_is_left_of_a_start_that_is_killed() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let starting = starting();
    let mut process = Process::spawn(run_command(output.path(), &[&namespace]));
    let parts = wait_for("a part to be attached", || {
        assert!(process.is_running(), "{}", process.stderr());
        let parts = Parts::of(process.pid());
        parts.has_links().then_some(parts)
    });
    process.signal(Signal::SIGKILL);
    process.finish();
    drop(starting);
    wait_for("programs, links and maps to be gone", || parts.left().is_empty().then_some(()));
}

/// Two daemons, conntrack(8), ulogd2 and conntrackd hear the same, and each delays it for the others.
#[test]
fn each_of_many_listeners_gets_each_flow_once() {
    const FLOWS: u32 = 30_000;
    let namespace = Namespace::tracked();
    let outputs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let files = tempfile::tempdir().unwrap();
    let daemons = outputs.each_ref().map(|output| Daemon::start(output.path(), &[&namespace], &[]));
    let others = listeners(&namespace, files.path());

    make_and_flush(&namespace, 0..FLOWS / 2);
    let ends = Ends { client: &namespace, server: &namespace };
    for port in 5000..5020 {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        ends.tcp_closed(at, at);
        ends.udp_answered(at, at);
    }
    make_and_flush(&namespace, FLOWS / 2..FLOWS);
    conntrack::flush_closed(&namespace);
    for (name, mut other) in others {
        assert!(other.is_running(), "{name} has ended: {}", other.stderr());
    }
    for (daemon, output) in daemons.into_iter().zip(&outputs) {
        let log = daemon.stop();
        let tally = Tally::read(output.path());
        assert_eq!(tally.check_exact(FLOWS + 40), 0, "{log}");
        assert_eq!(tally.gaps, [], "{log}");
    }
}

/// What people run beside flowlog, as far as this machine has it.
#[track_caller]
fn listeners(namespace: &Namespace, files: &Path) -> Vec<(&'static str, Process)> {
    let path = files.display();
    let ulogd = format!(
        "[global]\nlogfile=\"{path}/ulogd.log\"\nstack=ct1:NFCT,ip2str1:IP2STR,gp1:GPRINT\n\
         [ct1]\nreliable=1\n[gp1]\nfile=\"{path}/ulogd.flows\"\n"
    );
    let conntrackd = format!(
        "General {{\n  LogFile {path}/conntrackd.log\n  LockFile {path}/conntrackd.lock\n  \
         NetlinkEventsReliable On\n  UNIX {{\n    Path {path}/conntrackd.ctl\n  }}\n}}\n\
         Stats {{\n  LogFile {path}/conntrackd.flows\n}}\n"
    );
    let of_file = |name: &str, option: &str, text: &str| {
        let file = files.join(name).with_extension("conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(name);
        command.arg(option).arg(file);
        command
    };
    let mut conntrack = Command::new("conntrack");
    conntrack.args(["-E", "-e", "DESTROY"]);
    let commands = [
        ("conntrack", conntrack),
        ("ulogd", of_file("ulogd", "--configfile", &ulogd)),
        ("conntrackd", of_file("conntrackd", "-C", &conntrackd)),
    ];
    let mut running = Vec::new();
    for (name, command) in commands {
        let is_there = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .any(|directory| directory.join(name).exists());
        if !is_there {
            println!("{name} is not installed, and does not listen");
            continue;
        }
        let before = conntrack::listeners(namespace);
        let mut process = namespace.inside(|| Process::spawn(command));
        wait_for("another listener", || {
            assert!(process.is_running(), "{name} has ended: {}", process.stderr());
            (conntrack::listeners(namespace) > before).then_some(())
        });
        running.push((name, process));
    }
    running
}

/// `conntrack -F`: of what was open, the log says that somebody removed it, and what is sent later is another
/// flow.
#[test]
fn flows_that_somebody_flushes_are_rows_that_say_so() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let ends = Ends { client: &namespace, server: &namespace };
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    ends.tcp_closed(at(5001), at(5001));
    ends.udp_answered(at(5002), at(5002));
    let (mut client, server) = ends.tcp_open(at(5000), at(5000));
    client.write_all(b"before").unwrap();
    wait_for("the closed connection to be closed", || {
        conntrack::list(&namespace).contains("TIME_WAIT").then_some(())
    });
    conntrack::flush(&namespace);
    client.write_all(b"after").unwrap();
    reset_on_close(&client);
    drop((client, server));
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let reasons = |port| -> Vec<_> {
        dataset.rows_to(port).iter().map(|row| row.text("end_reason").map(str::to_owned)).collect()
    };
    let some = |reason: &str| Some(reason.to_owned());
    if !lacks(ENDS) {
        assert_eq!(reasons(5000), [some("deleted"), some("reset")]);
        assert_eq!(reasons(5001), [some("closed")]);
    }
    assert_eq!(dataset.rows_to(5000).len(), 2);
    assert_eq!(dataset.rows().len(), 4, "{:#?}", dataset.rows());
}

/// The name goes at once, the namespace when flowlog stops: until then its flows are recorded.
#[test]
fn a_namespace_that_is_deleted_while_it_is_watched_keeps_its_flows() {
    let [deleted, other] = [(); 2].map(|()| Namespace::tracked());
    let inode = deleted.inode();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&deleted, &other], &[]);
    let mut requests = deleted.inside(Requests::open).unwrap();
    make(&deleted, 0..50);
    let (client, server) =
        Ends { client: &deleted, server: &deleted }.tcp_open(AT.parse().unwrap(), AT.parse().unwrap());
    drop(deleted);
    (&client).write_all(b"request").unwrap();
    reset_on_close(&client);
    drop((client, server));
    wait_for("the connection to be closed", || {
        let mut is_closed = false;
        requests.dump(|entry| is_closed |= is_closed_to_5000(&entry.unwrap().flow)).unwrap();
        is_closed.then_some(())
    });
    requests.flush().unwrap();
    drop(requests);
    make_and_flush(&other, 50..100);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), 101);
    for row in dataset.rows() {
        let number = number_of(row.text("src_ip").unwrap().parse().unwrap());
        let of_other = number.is_some_and(|number| number >= 50);
        assert_eq!(row.int("observer_netns") == Some(inode), !of_other, "{row:?}");
    }
    assert_eq!(dataset.row_to(5000).text("src_attribution"), Some("socket"));
}

fn is_closed_to_5000(flow: &Flow) -> bool {
    matches!(flow.orig.l4, L4::Ports { dst: 5000, .. })
        && flow.state == Some(ProtoState::Tcp(TcpState::CLOSE))
}

/// A router that forwards the packets of a connection past its rules, and past connection tracking.
#[test]
fn flows_of_a_flow_table_are_rows() {
    const PAYLOAD: usize = 100_000;
    let [client, router, server] = [Namespace::bare(), Namespace::tracked(), Namespace::bare()];
    let interfaces = [
        router.link(&[("10.1.0.1", 24)], &client, &[("10.1.0.2", 24)]),
        router.link(&[("10.2.0.1", 24)], &server, &[("10.2.0.2", 24)]),
    ];
    client.ip(&["route", "add", "default", "via", "10.1.0.1"]);
    server.ip(&["route", "add", "default", "via", "10.2.0.1"]);
    router.sysctl("net/ipv4/ip_forward", "1");
    let mut command = Command::new("nft");
    command.arg(format!(
        "table inet bypass {{
            flowtable fast {{ hook ingress priority 0; devices = {{ {} }}; counter; }}
            chain forwarding {{ type filter hook forward priority 0; ip protocol tcp flow add @fast; }}
        }}",
        interfaces.join(", ")
    ));
    let loaded = router.inside(|| run(command));
    if !loaded.status.success() {
        assert!(!loaded.stderr.contains("syntax"), "{loaded}");
        println!("this kernel lacks flow tables");
        return;
    }
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&router], &[]);
    let ends = Ends { client: &client, server: &server };
    let transfer = |port| {
        let at = SocketAddr::from(([10, 2, 0, 2], port));
        let (mut sender, mut receiver) = ends.tcp_open(at, at);
        wait_for("the flow table to have the connection", || {
            // The packet that it takes the connection over with comes after the handshake.
            sender.write_all(&[0]).unwrap();
            receiver.read_exact(&mut [0]).unwrap();
            let entries = conntrack::list(&router);
            let is_offloaded =
                |line: &str| line.contains(&format!("dport={port} ")) && line.contains("OFFLOAD");
            entries.lines().any(is_offloaded).then_some(())
        });
        sender.write_all(&[0; PAYLOAD]).unwrap();
        receiver.read_exact(&mut [0; PAYLOAD]).unwrap();
        (sender, receiver)
    };
    drop(transfer(5001));
    conntrack::flush_closed(&router);
    let connection = transfer(5000);
    conntrack::flush(&router);
    daemon.stop();
    drop(connection);

    let dataset = Dataset::read(output.path());
    // The kernel takes a connection that ends back from the flow table, and forgets that it was there.
    for (port, is_offloaded) in [(5000, true), (5001, false)] {
        let row = dataset.row_to(port);
        assert_eq!(row.bool("offloaded"), Some(is_offloaded), "{row:?}");
        let payload = i64::try_from(PAYLOAD).unwrap();
        assert!(row.int("orig_bytes").is_some_and(|bytes| bytes > payload), "{row:?}");
    }
}
