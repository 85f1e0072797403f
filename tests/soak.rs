//! Ten minutes of load: exact, and no memory that grows.

use std::thread;
use std::time::{Duration, Instant};

use flowlog::log::writer::Published;

use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::dataset::files_below;
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;
use crate::harness::tally;

const SECONDS: u32 = 600;
const FLOWS_PER_SECOND: u32 = 20_000;

/// What the allocator keeps varies; a leak of a byte for each flow would be 12 MB.
const MAX_GROWTH_BYTES: u64 = 8 << 20;

#[test]
#[ignore = "takes ten minutes and a release build: `cargo xtask test --long`"]
fn ten_minutes_at_twenty_thousand_flows_a_second_are_exact_and_memory_is_flat() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut command = run_command(output.path(), &[&namespace]);
    // So that many files are finished while it runs.
    command.args(["--rotate-interval", "20s"]);
    let daemon = Daemon::spawn(command);
    let begin = Instant::now();
    let mut after_warm_up = 0;
    for second in 0..SECONDS {
        // The numbers of entries come again: their connections ended long ago.
        let first = second % 100 * FLOWS_PER_SECOND;
        make_and_flush(&namespace, first..first + FLOWS_PER_SECOND);
        let next = begin + Duration::from_secs(u64::from(second) + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        if second == SECONDS / 3 {
            after_warm_up = daemon.peak_memory_bytes();
        }
    }
    let took = begin.elapsed();
    let peak = daemon.peak_memory_bytes();
    let log = daemon.stop();
    eprintln!(
        "{SECONDS} s of load took {took:?}; peak of memory {after_warm_up} bytes after a third, {peak} at the end"
    );

    let mut numbers: Vec<i64> = Vec::new();
    for path in files_below(&output.path().join("flows/v1")) {
        let below = path.strip_prefix(output.path()).unwrap().to_owned();
        numbers.extend(Published::read(output.path(), below).unwrap().seqs.into_iter().flatten());
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=i64::from(SECONDS * FLOWS_PER_SECOND)), "each flow is one row: {log}");
    assert_eq!(tally::gaps(output.path()), [], "nothing is lost");
    assert!(peak <= after_warm_up + MAX_GROWTH_BYTES, "memory grew from {after_warm_up} to {peak} bytes");
    let verified = flowlog(&["verify", output.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{verified}");
}
