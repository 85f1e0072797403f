//! What flowlog says about itself over HTTP.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::{DataFile, Dataset};
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;
use crate::harness::process::run;
use crate::harness::wait::{LIMIT, wait_for};
use crate::processes::Pair;

const FLOWS: u32 = 1000;

#[test]
fn the_numbers_are_those_of_the_flows() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(output.path(), &[&namespace], &["--metrics", "127.0.0.1:0"]);
    let address = address(&daemon);
    Pair::connect(&namespace, "127.0.0.1:5000".parse().unwrap());
    make_and_flush(&namespace, 0..FLOWS);
    let flows = f64::from(FLOWS + 1);
    wait_for("all flows to be received", || {
        (scrape(&address)["flowlog_flows_received_total"] >= flows).then_some(())
    });
    daemon.rotate();
    let metrics = wait_for("all rows to be published, and nothing to wait", || {
        let metrics = scrape(&address);
        let is_done =
            metrics["flowlog_rows_published_total"] >= flows && metrics["flowlog_queue_messages"] == 0.0;
        is_done.then_some(metrics)
    });
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows();
    let check = |name: &str, expected: f64| assert_eq!(metrics[name], expected, "{name}: {metrics:#?}");
    for name in ["flows_received", "rows", "rows_published"] {
        check(&format!("flowlog_{name}_total"), flows);
    }
    for name in ["duplicates", "events_undecodable", "events_truncated", "receive_overruns"] {
        check(&format!("flowlog_{name}_total"), 0.0);
    }
    for direction in ["orig", "reply"] {
        let bytes = rows.iter().filter_map(|row| row.int(&format!("{direction}_bytes"))).sum::<i64>();
        assert!(bytes > 0, "no {direction} bytes");
        check(&format!("flowlog_flow_bytes_total{{direction=\"{direction}\"}}"), bytes as f64);
    }
    for (end, known) in [("src", "socket"), ("dst", "closer")] {
        let column = format!("{end}_attribution");
        let count = |method| rows.iter().filter(|row| row.text(&column) == method).count() as f64;
        assert_eq!(count(Some(known)), 1.0, "the case is not what it should be");
        for method in ["socket", "endpoint", "inherited", "closer", "seed", "raw", "ambiguous"] {
            let name = format!("flowlog_attributions_total{{end=\"{end}\",method=\"{method}\"}}");
            check(&name, count(Some(method)));
        }
        check(&format!("flowlog_attributions_total{{end=\"{end}\",method=\"none\"}}"), count(None));
    }
    let size = |file: &DataFile| fs::metadata(output.path().join("flows/v1").join(&file.path)).unwrap().len();
    check("flowlog_bytes_published_total", dataset.files.iter().map(size).sum::<u64>() as f64);
    check("flowlog_files_published_total", dataset.files.len() as f64);
    check(concat!("flowlog_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0);
    let netns = namespace.name();
    let max = metrics[&format!("flowlog_conntrack_entries_max{{netns=\"{netns}\"}}")];
    assert!(max > 0.0, "{metrics:#?}");
    for cause in ["overrun", "overload", "wal_error", "disk_full", "daemon_down", "decode_error"] {
        for name in ["gaps", "lost_flows"] {
            check(&format!("flowlog_{name}_total{{cause=\"{cause}\"}}"), 0.0);
        }
    }
}

#[test]
fn losses_are_counted_by_cause() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    Daemon::start(output.path(), &[&namespace], &[]).stop();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--metrics", "127.0.0.1:0"]);
    let address = address(&daemon);
    // Nobody watched between the two.
    let metrics = wait_for("a gap", || {
        let metrics = scrape(&address);
        (metrics.get("flowlog_gaps_total{cause=\"daemon_down\"}")? > &0.0).then_some(metrics)
    });
    assert_eq!(metrics["flowlog_gaps_total{cause=\"daemon_down\"}"], 1.0, "{metrics:#?}");
    assert_eq!(metrics["flowlog_gaps_total{cause=\"overrun\"}"], 0.0, "{metrics:#?}");
    assert_eq!(metrics["flowlog_lost_flows_total{cause=\"daemon_down\"}"], 0.0, "{metrics:#?}");
    daemon.stop();
}

/// More clients than are answered at a time, of which none says anything.
#[test]
fn a_silent_client_makes_nothing_wait() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let args = ["--metrics", "127.0.0.1:0", "--rotate-rows", &FLOWS.to_string()];
    let daemon = Daemon::start(output.path(), &[&namespace], &args);
    let address = address(&daemon);
    let silent: Vec<_> = (0..10).map(|_| TcpStream::connect(&address).unwrap()).collect();
    make_and_flush(&namespace, 0..FLOWS);
    wait_for("flows to be published beside silent clients", || {
        (!Dataset::read(output.path()).files.is_empty()).then_some(())
    });
    // Its turn comes when some of those before it had theirs.
    let metrics = scrape(&address);
    assert_eq!(metrics["flowlog_flows_received_total"], f64::from(FLOWS), "{metrics:#?}");
    drop(silent);
    daemon.stop();
}

#[test]
fn only_metrics_are_served() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--metrics", "[::1]:0"]);
    let address = address(&daemon);
    for (request, status) in [
        ("GET /metrics", "HTTP/1.1 200 "),
        ("GET /", "HTTP/1.1 404 "),
        ("POST /metrics", "HTTP/1.1 405 "),
        ("GET /metrics\0", "HTTP/1.1 400 "),
    ] {
        let response = exchange(&address, request);
        assert!(response.starts_with(status), "found {response}, expected {status}");
    }
    daemon.stop();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = run_command(output.path(), &[&namespace]);
    command.args(["--metrics", &address]).env("FLOWLOG_LOG", "off");
    let finished = run(command);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    assert!(finished.stderr.contains(&address) && finished.stderr.contains("--metrics"), "{finished}");
}

/// Where the daemon serves its metrics, as its log says.
#[track_caller]
pub(crate) fn address(daemon: &Daemon) -> String {
    let log = daemon.log();
    let (_, rest) = log.split_once("http://").unwrap();
    rest.split_once("/metrics").unwrap().0.to_owned()
}

/// The values by name and labels.
#[track_caller]
pub(crate) fn scrape(address: &str) -> HashMap<String, f64> {
    let response = exchange(address, "GET /metrics");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[track_caller]
fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: flowlog\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}
