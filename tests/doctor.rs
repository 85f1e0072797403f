//! `flowlog doctor` finds what keeps flows, counters and times out of the log, and sets it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, binary};
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::process::{Finished, run};
use crate::harness::traffic::Ends;

/// Checks that fail in a namespace as the kernel makes it.
const MISSING: [&str; 4] =
    ["nf_conntrack_acct", "nf_conntrack_timestamp", "tracking of IPv4", "tracking of IPv6"];

#[test]
fn what_is_missing_is_found_and_fixed() {
    let namespace = Namespace::bare();
    let output = tempfile::tempdir().unwrap();

    let before = doctor(output.path(), &namespace, &[]);
    assert_eq!(before.status.code(), Some(1), "{before}");
    for check in MISSING {
        assert!(before.stdout.contains(check), "does not name `{check}`: {before}");
    }
    assert_eq!(levels(output.path(), &namespace), MISSING.map(|check| (check, "problem".to_owned())));
    assert_eq!(namespace.read_sysctl("net/netfilter/nf_conntrack_acct"), "0", "a check changes nothing");

    let fixed = doctor(output.path(), &namespace, &["--fix"]);
    assert_eq!(fixed.status.code(), Some(0), "{fixed}");
    for undo in [
        "sysctl -w net.netfilter.nf_conntrack_acct=0",
        "sysctl -w net.netfilter.nf_conntrack_timestamp=0",
        "nft delete table inet flowlog",
    ] {
        assert!(fixed.stdout.contains(undo), "does not say how to undo it with `{undo}`: {fixed}");
    }
    assert_eq!(namespace.read_sysctl("net/netfilter/nf_conntrack_acct"), "1");
    assert_eq!(namespace.read_sysctl("net/netfilter/nf_conntrack_timestamp"), "1");
    assert!(nft_table(&namespace).contains("ct state new"));

    let after = doctor(output.path(), &namespace, &[]);
    assert_eq!(after.status.code(), Some(0), "{after}");
    assert_eq!(levels(output.path(), &namespace), MISSING.map(|check| (check, "ok".to_owned())));
}

/// The table as nft(8) makes it: what it shows of both is the same, down to the instructions of the kernel.
#[test]
fn the_rules_are_those_that_nft_would_make() {
    const RULES: &str = "table inet flowlog {
        comment \"flowlog: connection tracking for all traffic\"
        chain prerouting {
            type filter hook prerouting priority -300; policy accept;
            ct state new counter
        }
        chain output {
            type filter hook output priority -300; policy accept;
            ct state new counter
        }
    }";
    let [of_flowlog, of_nft] = [(); 2].map(|()| Namespace::bare());
    let output = tempfile::tempdir().unwrap();
    doctor(output.path(), &of_flowlog, &["--fix"]).success();
    of_nft.nft(RULES);
    let shown = |namespace: &Namespace, options: &[&str]| {
        let mut command = Command::new("nft");
        command.arg("--stateless").args(options).args(["list", "ruleset"]);
        // Counters are no part of the rules, but of their instructions.
        let counts = |line: &str| line.trim_start().starts_with("[ counter");
        namespace.exec(command).lines().filter(|line| !counts(line)).collect::<Vec<_>>().join("\n")
    };
    for options in [&[][..], &["--debug=netlink"]] {
        assert_eq!(shown(&of_flowlog, options), shown(&of_nft, options));
    }
}

#[test]
fn a_second_fix_changes_nothing() {
    let namespace = Namespace::bare();
    let output = tempfile::tempdir().unwrap();
    doctor(output.path(), &namespace, &["--fix"]).success();
    let rules = nft_table(&namespace);
    let again = doctor(output.path(), &namespace, &["--fix", "--json"]).success();
    let report: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(report["fixes"], Value::Array(Vec::new()));
    assert_eq!(nft_table(&namespace), rules);
}

#[test]
fn run_with_fix_logs_flows_of_a_bare_namespace() {
    let namespace = Namespace::bare();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--fix"]);
    let at = "127.0.0.1:5000".parse().unwrap();
    Ends { client: &namespace, server: &namespace }.tcp_closed(at, at);
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();
    assert!(log.contains("nft delete table inet flowlog"), "says how to undo it:\n{log}");

    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert!(row.int("orig_packets").is_some_and(|packets| packets > 0), "{row:?}");
    assert!(row.time("start_time").is_some(), "{row:?}");
}

/// `flowlog doctor` about a namespace. The output directory is one that is well.
#[track_caller]
fn doctor(output: &Path, namespace: &Namespace, args: &[&str]) -> Finished {
    let mut command = Command::new(binary());
    command.args(["doctor", "--netns", namespace.name(), "--output"]).arg(output).args(args);
    run(command)
}

/// How bad each of [`MISSING`] is, from the report for machines.
#[track_caller]
fn levels(output: &Path, namespace: &Namespace) -> [(&'static str, String); 4] {
    let report = doctor(output, namespace, &["--json"]);
    let report: Value =
        serde_json::from_str(&report.stdout).unwrap_or_else(|err| panic!("not JSON: {err}: {report}"));
    let findings = report["findings"].as_array().unwrap();
    MISSING.map(|check| {
        let finding = findings.iter().find(|finding| finding["check"] == check);
        let finding = finding.unwrap_or_else(|| panic!("no finding `{check}` in {report:#}"));
        assert_eq!(finding["netns"], namespace.name());
        (check, finding["level"].as_str().unwrap().to_owned())
    })
}

/// The rules of flowlog's own table without their counters, which traffic changes.
#[track_caller]
fn nft_table(namespace: &Namespace) -> String {
    let mut command = Command::new("nft");
    command.args(["--stateless", "list", "table", "inet", "flowlog"]);
    namespace.exec(command)
}
