//! Connections that are older than flowlog, and those that go on.

use std::process::Command;

use flowlog::connections::ctnetlink::Requests;
use flowlog::flow::Protocol;

use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::entries::{make, number_of};
use crate::harness::kernel::is_virtual_machine;
use crate::harness::namespace::Namespace;
use crate::harness::wait::wait_for;
use crate::metrics::{address, scrape};

fn command(output: &std::path::Path, namespace: &Namespace) -> Command {
    let mut command = run_command(output, &[namespace]);
    command.arg("--no-ebpf").env("FLOWLOG__DUMP_INTERVAL", "100ms");
    command
}

fn number(row: &Row) -> u32 {
    number_of(row.text("src_ip").unwrap().parse().unwrap()).unwrap()
}

/// Publishes until there are so many rows.
#[track_caller]
fn wait_for_rows(daemon: &mut Daemon, output: &std::path::Path, rows: usize) {
    wait_for("rows", || {
        daemon.rotate();
        (Dataset::read(output).rows().len() >= rows).then_some(())
    });
}

/// The kernel sends no event of what was made while nobody on the host listened (`nf_conntrack_events` = 2,
/// its default). Here others may listen, so this is set for the namespace: never (0), or always (1).
#[test]
fn entries_that_are_older_than_the_daemon_give_one_row_each() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    namespace.sysctl("net/netfilter/nf_conntrack_events", "0");
    let silent = make(&namespace, 0..50);
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    let announced = make(&namespace, 50..100);

    let mut daemon = Daemon::spawn(command(output.path(), &namespace));
    make(&namespace, 100..150);
    let mut requests = namespace.inside(Requests::open).unwrap();
    for tuple in silent.iter().chain(&announced[..25]) {
        assert!(requests.delete(tuple, None).unwrap());
    }
    wait_for_rows(&mut daemon, output.path(), 75);
    requests.flush().unwrap();
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows();
    let mut numbers: Vec<u32> = rows.iter().map(|row| number(row)).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..150), "each entry is one row");
    for row in rows {
        let is_silent = number(row) < 50;
        let expected = if is_silent { "reconcile" } else { "destroy" };
        assert_eq!(row.text("end_source"), Some(expected), "{row:?}");
        assert_eq!(row.text("record_type"), Some("end"));
        assert_eq!(row.bool("counters_final"), Some(!is_silent), "{row:?}");
        assert_eq!(row.text("time_source"), Some(if is_silent { "dump" } else { "kernel" }), "{row:?}");
        assert!(row.time("start_time").is_some(), "{row:?}");
    }
}

/// One connection that is older than the daemon, and sends no event of its end, does not make the daemon list the whole
/// table again and again.
#[test]
fn few_old_connections_are_asked_for_by_their_tuples() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    namespace.sysctl("net/netfilter/nf_conntrack_events", "0");
    let silent = make(&namespace, 0..10);
    // Zones of both directions, and of one.
    namespace.nft(
        "table ip zones { chain out { type filter hook output priority -300; udp dport 5000 ct original zone set 5; \
         udp dport 5001 ct reply zone set 6; udp dport 5002 ct zone set 7; }; }",
    );
    let socket = namespace.inside(|| std::net::UdpSocket::bind("127.0.0.1:4000")).unwrap();
    for port in 5000..5003 {
        socket.send_to(b"old", ("127.0.0.1", port)).unwrap();
    }
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    let mut command = command(output.path(), &namespace);
    command.args(["--metrics", "127.0.0.1:0"]);
    let mut daemon = Daemon::spawn(command);
    let address = address(&daemon);
    let metric =
        |name: &str| scrape(&address)[&format!("flowlog_{name}_total{{netns=\"{}\"}}", namespace.name())];
    // So few entries are listed as quickly as they are asked for.
    assert_eq!(metric("conntrack_entries_asked"), 0.0);
    make(&namespace, 10..210);
    wait_for("each to be asked for", || (metric("conntrack_entries_asked") >= 26.0).then_some(()));
    let lists = metric("conntrack_lists");

    let mut requests = namespace.inside(Requests::open).unwrap();
    let mut zoned = Vec::new();
    requests
        .dump(|entry| zoned.extend(entry.ok().filter(|entry| entry.flow.orig.proto == Protocol::UDP)))
        .unwrap();
    assert_eq!(zoned.len(), 3, "{zoned:?}");
    for tuple in &silent[..6] {
        assert!(requests.delete(tuple, None).unwrap());
    }
    for entry in &zoned {
        assert!(requests.delete(&entry.flow.orig, entry.flow.zone).unwrap());
    }
    // Another one with the tuple of one that is gone.
    make(&namespace, 5..6);
    wait_for_rows(&mut daemon, output.path(), 9);
    assert_eq!(metric("conntrack_lists"), lists, "none was needed for those that are gone");
    requests.flush().unwrap();
    daemon.stop();

    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), 214);
    let ended = |source: &str| -> Vec<u32> {
        let rows = dataset.rows().into_iter().filter(|row| row.text("end_source") == Some(source));
        let mut numbers: Vec<_> = rows.filter(|row| row.int("dst_port") == Some(443)).map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    assert!(ended("reconcile").into_iter().eq(0..10));
    assert!(ended("destroy").into_iter().eq(std::iter::once(5).chain(10..210)));
    for port in 5000..5003 {
        assert_eq!(dataset.row_to(port).text("end_source"), Some("reconcile"));
    }
}

/// The stop looks once more: nothing tells later of what ended after the last dump.
#[test]
fn what_ends_right_before_the_stop_is_a_row() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    namespace.sysctl("net/netfilter/nf_conntrack_events", "0");
    make(&namespace, 0..20);
    // With the usual time between two dumps.
    let mut command = run_command(output.path(), &[&namespace]);
    command.arg("--no-ebpf");
    let daemon = Daemon::spawn(command);
    namespace.inside(Requests::open).unwrap().flush().unwrap();
    daemon.stop();
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), 20);
    assert!(dataset.rows().iter().all(|row| row.text("end_source") == Some("reconcile")));
}

/// The interval of lists is longer by default.
#[test]
fn what_goes_on_is_recorded_in_time_whatever_the_interval_of_lists() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut command = run_command(output.path(), &[&namespace]);
    command.args(["--no-ebpf", "--active-interval", "2s"]);
    let mut daemon = Daemon::spawn(command);
    make(&namespace, 0..10);
    wait_for_rows(&mut daemon, output.path(), 10);
    daemon.stop();
    let dataset = Dataset::read(output.path());
    for row in dataset.rows() {
        assert_eq!(row.text("record_type"), Some("active"));
        let age_us = row.time("end_time").unwrap() - row.time("start_time").unwrap();
        // Late by a tenth, and by what a slow machine takes; without these lists it is a minute.
        let latest_us = if is_virtual_machine() { 40_000_000 } else { 10_000_000 };
        assert!((2_000_000..latest_us).contains(&age_us), "{row:?}");
    }
}

#[test]
fn what_goes_on_is_recorded_each_interval() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut command = command(output.path(), &namespace);
    command.args(["--active-interval", "300ms"]);
    let mut daemon = Daemon::spawn(command);
    make(&namespace, 0..10);
    wait_for_rows(&mut daemon, output.path(), 30);
    namespace.inside(Requests::open).unwrap().flush().unwrap();
    daemon.stop();

    let dataset = Dataset::read(output.path());
    for entry in 0..10 {
        let mut of_entry: Vec<_> = dataset.rows().into_iter().filter(|row| number(row) == entry).collect();
        // A message may be read between a dump and its rows.
        of_entry.sort_by_key(|row| row.time("end_time"));
        let told: Vec<_> = of_entry
            .iter()
            .map(|row| (row.text("record_type"), row.time("end_time"), row.int("seq")))
            .collect();
        let (last, interim) = of_entry.split_last().unwrap();
        assert_eq!(last.text("record_type"), Some("end"), "{told:?}");
        assert_eq!(last.text("end_source"), Some("destroy"), "{last:?}");
        assert!(interim.len() >= 2, "{of_entry:?}");
        let mut before = last.time("start_time").unwrap();
        for row in interim {
            assert_eq!(row.text("record_type"), Some("active"), "{row:?}");
            assert_eq!(row.text("end_reason"), None, "{row:?}");
            assert_eq!(row.bool("counters_final"), Some(false), "{row:?}");
            let at = row.time("end_time").unwrap();
            assert!(at - before >= 300_000, "{row:?} comes {} us after the one before", at - before);
            before = at;
        }
    }
}

/// Somebody sets the counters of a connection back (`conntrack -L -z`): its last ones are not all.
#[test]
fn counters_that_were_set_back_are_not_final() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let at: std::net::SocketAddr = "127.0.0.1:5000".parse().unwrap();
    // So that the kernel sends an event of its end.
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    let socket = namespace.inside(|| std::net::UdpSocket::bind("127.0.0.1:5001")).unwrap();
    for _ in 0..5 {
        socket.send_to(b"before", at).unwrap();
    }
    let daemon = Daemon::spawn(command(output.path(), &namespace));
    let mut zero = Command::new("conntrack");
    zero.args(["-L", "-z"]);
    namespace.exec(zero);
    socket.send_to(b"after", at).unwrap();
    wait_for("the daemon to see it", || daemon.log().contains("counters of 1 connections").then_some(()));
    namespace.inside(Requests::open).unwrap().flush().unwrap();
    daemon.stop();
    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert_eq!(row.text("end_source"), Some("destroy"), "{row:?}");
    assert_eq!(row.bool("counters_final"), Some(false), "{row:?}");
}
