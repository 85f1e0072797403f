//! Others detach the eBPF programs.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::time::{Duration, Instant};

use super::{flush, verify, wait_for_log};
use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::ebpf;
use crate::harness::host::{NOBODY, as_nobody};
use crate::harness::kernel::{OLDER_SOCKETS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;
use crate::harness::tally::{gaps, now_us};
use crate::harness::traffic::Ends;
use crate::harness::wait::wait_for;
use crate::rights::all_but;

/// Programs of others may be detached by whoever has the right to: `bpftool link detach`.
// Long, since the two cases share each step but a few.
#[test]
fn programs_that_somebody_detaches_are_noticed() {
    // The last one is as the service runs, which has given up rights by then.
    for (keep, is_service) in [(false, false), (true, false), (true, true)] {
        let namespace = Namespace::tracked();
        let output = tempfile::tempdir().unwrap();
        let mut command = run_command(output.path(), &[&namespace]);
        if keep {
            command.env("FLOWLOG__HOST__KEEP", "true").env("FLOWLOG_LOG", "debug");
        }
        if is_service {
            chown(output.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            command = as_nobody(&command, &all_but(&[]));
        }
        let daemon = Daemon::spawn(command);
        let connect = |port| {
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            Ends { client: &namespace, server: &namespace }.tcp_closed(at, at);
        };
        let programs = tempfile::tempdir().unwrap();
        let [server, client] = ["fl-server", "fl-client"].map(|name| Program::new(programs.path(), name));
        let mut answering = server.start(&namespace, "serve-kind udp 127.0.0.1:6000");
        answering.wait_for("made");
        answering.go_on();
        answering.wait_for("serving");
        connect(5000);
        // What is not joined yet is no more known after the loss.
        conntrack::flush_closed(&namespace);
        conntrack::wait_until_read(&namespace);
        let detached = ebpf::detach_links(daemon.pid());
        assert!(detached >= 5, "flowlog has several programs at the root of all cgroups");
        let before_us = now_us();
        wait_for_log(&daemon, "somebody detached eBPF programs of flowlog");
        if keep {
            // On a slow machine flowlog may look before all are detached, and then once more.
            let is_mended = || (ebpf::attached_links(daemon.pid()).len() == detached).then_some(());
            wait_for("all programs to be attached again", is_mended);
            wait_for_log(&daemon, "attached the eBPF programs again");
            connect(5002);
            if !lacks(OLDER_SOCKETS) {
                wait_for("sockets to be looked for", || {
                    let log = daemon.log();
                    let last = |words| log.rfind(words);
                    let (attached, looked) =
                        (last("attached programs again"), last("sockets that are older than flowlog;"));
                    (looked > attached).then_some(())
                });
            }
            // Its server bound before, and tells nothing again.
            let mut asking = client.start(&namespace, "connect-kind udp 6000");
            asking.wait_for("connected");
            asking.go_on();
            asking.finish();
            flush(&namespace);
            conntrack::wait_until_read(&namespace);
            // Somebody goes on while flowlog attaches them again: none of them is forgotten.
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) {
                ebpf::detach_links(daemon.pid());
            }
            wait_for("all programs to be attached again", is_mended);
            connect(5003);
        } else {
            connect(5001);
        }
        let detached_us = now_us();
        conntrack::flush_closed(&namespace);
        let log = daemon.stop();
        let dataset = Dataset::read(output.path());
        let methods = |port| {
            let row = dataset.row_to(port);
            [row.text("src_attribution"), row.text("dst_attribution")].map(|text| text.map(str::to_owned))
        };
        let known = [Some("socket".to_owned()), Some("closer".to_owned())];
        assert_eq!(methods(5000), known);
        if keep {
            for port in [5002, 5003] {
                assert_eq!(methods(port), known, "{:?}\n{log}", dataset.row_to(port));
            }
            let row = dataset.row_to(6000);
            let expected = (!lacks(OLDER_SOCKETS)).then(|| i64::from(answering.pid()));
            assert_eq!(row.int("dst_pid"), expected, "{row:?}");
        } else {
            assert_eq!(methods(5001), [None, None]);
        }
        let gaps = gaps(output.path());
        let gaps: Vec<_> = gaps.iter().filter(|gap| gap.cause == "programs_detached").collect();
        assert!(!gaps.is_empty());
        assert!(gaps.iter().all(|gap| gap.stage == "attribute" && gap.lost_flows == Some(0)), "{gaps:#?}");
        if keep {
            assert!(gaps.iter().any(|gap| gap.detail.contains("resolved by flowlog after")), "{gaps:#?}");
        } else {
            let covers = |at_us: i64| gaps.iter().any(|gap| (gap.from_us..=gap.to_us).contains(&at_us));
            assert!(covers(before_us), "{gaps:#?}");
            assert!(covers(detached_us), "{gaps:#?}");
        }
        verify(output.path());
    }
}
