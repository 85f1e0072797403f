//! With the kernel's defaults there are no counters and no times: they are NULL, not zero.

use std::time::SystemTime;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::traffic::Ends;

#[test]
fn counters_and_times_that_the_kernel_does_not_tell_are_null() {
    let namespace = Namespace::tracked_without_accounting();
    let output = tempfile::tempdir().unwrap();
    let started = now_us();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let at = "127.0.0.1:5000".parse().unwrap();
    Ends { client: &namespace, server: &namespace }.tcp_closed(at, at);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    for counter in ["orig_packets", "orig_bytes", "reply_packets", "reply_bytes"] {
        assert_eq!(row.int(counter), None, "{counter}");
    }
    assert_eq!(row.time("start_time"), None);
    let source = row.text("time_source").unwrap();
    assert!(["event", "receive"].contains(&source), "{source}");
    let end = row.time("end_time").unwrap();
    assert!((started..=now_us()).contains(&end), "end_time {end} is not while the test ran");
    for file in &dataset.files {
        assert_eq!(file.metadata["flowlog.acct"], "false");
        assert_eq!(file.metadata["flowlog.timestamp"], "false");
    }
}

fn now_us() -> i64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since_1970.as_micros()).unwrap()
}
