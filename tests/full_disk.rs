//! Disks without room: what was published stays, the kernel holds flows, the rest is counted.

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::dataset::{Dataset, files_below};
use crate::harness::entries::{make_and_flush, table_max};
use crate::harness::namespace::Namespace;
use crate::harness::tally::Tally;
use crate::harness::volume::Volume;
use crate::harness::wait::wait_for;

const MIB: u64 = 1 << 20;

/// What the daemon says when there is no room, and when there is again.
const FULL: &str = "cannot write flows: ";
const AGAIN: &str = "flows are written again";

#[test]
fn a_full_disk_costs_only_what_is_declared() {
    let namespace = Namespace::tracked();
    // Ten are more than the channel and the kernel hold, however large the table is.
    let entries = (table_max(&namespace) / 500).max(10_000);
    let volume = Volume::small(3 * MIB);
    let output = volume.path().join("log");
    let mut command = run_command(&output, &[&namespace]);
    command.args(["--no-ebpf", "--rotate-rows", "20000"]).env("FLOWLOG__HOLD__TABLE_SHARE", "1");
    command.env("FLOWLOG__HOLD__RECEIVE_BUFFER", "1MiB");
    let daemon = Daemon::spawn(command);
    let mut made = 0;
    let mut burst = || {
        make_and_flush(&namespace, made..made + entries);
        made += entries;
    };
    wait_for("the disk to be full", || {
        burst();
        daemon.log().contains(FULL).then_some(())
    });
    for _ in 0..10 {
        burst();
    }
    for path in files_below(&output.join("flows/v1")) {
        let path = path.strip_prefix(&output).unwrap().to_owned();
        flowlog::log::writer::Published::read(&output, path).unwrap();
    }
    wait_for("flows to be lost", || daemon.log().contains("are being lost").then_some(()));
    volume.resize(100 * MIB);
    wait_for("the daemon to go on", || daemon.log().contains(AGAIN).then_some(()));
    burst();
    conntrack::wait_until_read(&namespace);
    let log = daemon.stop();

    assert_eq!(log.matches(FULL).count(), log.matches(AGAIN).count(), "said once each time: {log}");
    let tally = Tally::read(&output);
    assert!(tally.check_exact(made) > 0, "the case is not what it should be: {log}");
    // Also while the writer catches up afterwards.
    assert!(tally.causes().iter().all(|cause| ["disk_full", "overload"].contains(cause)), "{:?}", tally.gaps);
    assert!(tally.causes().contains(&"disk_full"), "{:?}", tally.gaps);
    let verified = flowlog(&["verify", output.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified}");
}

/// The rows of a killed daemon wait in the write-ahead log until there is room for their files.
#[test]
fn recovery_waits_for_room() {
    const FLOWS: u32 = 20_000;
    let namespace = Namespace::tracked();
    let volume = Volume::small(8 * MIB);
    let output = volume.path().join("log");
    let start = || {
        let mut command = run_command(&output, &[&namespace]);
        command.arg("--no-ebpf");
        Daemon::spawn(command)
    };
    let daemon = start();
    make_and_flush(&namespace, 0..FLOWS);
    wait_for("all rows to be in the write-ahead log", || (logged_rows(&output) == FLOWS).then_some(()));
    daemon.kill();

    let filler = volume.path().join("filler");
    let used: u64 = files_below(volume.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    std::fs::write(&filler, vec![1; usize::try_from(8 * MIB - used - MIB / 8).unwrap()]).unwrap();
    let daemon = start();
    wait_for("recovery to fail", || daemon.log().contains("cannot publish the rows").then_some(()));
    std::fs::remove_file(&filler).unwrap();
    wait_for("recovery to succeed", || daemon.log().contains("recovered the rows of a run").then_some(()));
    daemon.stop();

    let tally = Tally::read(&output);
    tally.check_each_once();
    assert_eq!(tally.rows.len(), usize::try_from(FLOWS).unwrap());
    let verified = flowlog(&["verify", output.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified}");
}

/// Rows in the write-ahead log.
pub(crate) fn logged_rows(output: &std::path::Path) -> u32 {
    let segments = flowlog_reader::segments::list(&output.join("_flowlog/wal")).unwrap().segments;
    let rows = segments.iter().filter_map(|segment| flowlog::log::wal::read(&segment.path).ok());
    let batches = rows.flat_map(|(_, frames)| frames.map_while(Result::ok).filter_map(|frame| frame.batch));
    batches.map(|batch| u32::try_from(batch.num_rows()).unwrap()).sum()
}

#[test]
fn old_files_are_deleted_when_there_are_too_many() {
    /// So many that files of losses, of the time between two runs, take less than half of a file.
    const ROWS: u32 = 3000;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let start = |limit: &str| {
        let mut command = run_command(output.path(), &[&namespace]);
        command.arg("--no-ebpf").env("FLOWLOG__RETENTION__BYTES", limit);
        Daemon::spawn(command)
    };
    let run = |limit: &str, number: u32| {
        let daemon = start(limit);
        make_and_flush(&namespace, number * ROWS..(number + 1) * ROWS);
        daemon.stop()
    };
    run("1GiB", 0);
    let files = files_below(&output.path().join("flows"));
    let bytes: u64 = files.iter().map(|path| path.metadata().unwrap().len()).sum();
    let room_for_two = format!("{}B", bytes * 5 / 2);
    for number in 1..4 {
        run("1GiB", number);
    }
    let daemon = start(&room_for_two);
    let files = || files_below(&output.path().join("flows")).len();
    wait_for("the oldest to be deleted", || (files() <= 2).then_some(()));
    daemon.stop();
    let rows = Dataset::read(output.path()).rows().len();
    assert_eq!(rows, 2 * ROWS as usize, "the youngest stay");
    let verified = flowlog(&["verify", output.path().to_str().unwrap()]);
    assert!(verified.status.success(), "what is deleted is in the ledger: {verified}");
}
