//! Without eBPF the host's flows are logged all the same, and the log says once what is missing.

use std::path::Path;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::seccomp::without_bpf;
use crate::harness::traffic::Ends;

#[test]
fn flows_are_logged_where_ebpf_is_switched_off() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--no-ebpf"]);
    check_flows_without_processes(daemon, &namespace, output.path());
}

#[test]
fn flows_are_logged_where_the_host_refuses_ebpf() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = without_bpf(|| Daemon::spawn(run_command(output.path(), &[&namespace])));
    check_flows_without_processes(daemon, &namespace, output.path());
}

#[track_caller]
fn check_flows_without_processes(daemon: Daemon, namespace: &Namespace, output: &Path) {
    let at = "127.0.0.1:5000".parse().unwrap();
    Ends { client: namespace, server: namespace }.tcp_closed(at, at);
    conntrack::flush_closed(namespace);
    let log = daemon.stop();
    let said = log.lines().filter(|line| line.contains("without processes")).count();
    assert_eq!(said, 1, "the log says once that there are no processes:\n{log}");

    let dataset = Dataset::read(output);
    let row = dataset.row_to(5000);
    assert!(row.int("orig_packets").is_some_and(|packets| packets > 0), "{row:?}");
    for end in ["src", "dst"] {
        assert_eq!(row.of_process(end), [""; 0], "columns of a process that cannot be known");
    }
}
