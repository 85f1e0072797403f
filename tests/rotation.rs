//! When files are published, where they are, and what they say about themselves.
//!
//! Each bound is tested while all others are far away.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;

use crate::harness::daemon::Daemon;
use crate::harness::dataset::{DataFile, Dataset, files_below};
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;
use crate::harness::wait::wait_for;

#[test]
fn a_file_ends_when_it_has_so_many_rows() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--rotate-rows", "100"]);
    make_and_flush(&namespace, 0..250);
    wait_for_files(output.path(), 2);
    daemon.stop();

    let dataset = check_dataset(output.path(), 250);
    // The hour may have changed in between, so that there is one more.
    assert!(dataset.files.len() >= 3, "found {} files", dataset.files.len());
    for file in &dataset.files {
        assert!(file.rows.len() <= 100, "{} has {} rows", file.path.display(), file.rows.len());
    }
}

#[test]
fn a_file_ends_when_it_is_so_old() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--rotate-interval", "1s"]);
    for burst in 0..2 {
        make_and_flush(&namespace, burst * 10..(burst + 1) * 10);
        wait_for_files(output.path(), usize::try_from(burst).unwrap() + 1);
    }
    daemon.stop();
    check_dataset(output.path(), 20);
}

#[test]
fn a_file_ends_when_it_is_so_big() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--rotate-bytes", "100KB"]);
    make_and_flush(&namespace, 0..20_000);
    wait_for_files(output.path(), 2);
    daemon.stop();

    let dataset = check_dataset(output.path(), 20_000);
    for file in &dataset.files {
        let path = output.path().join("flows/v1").join(&file.path);
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(bytes < 200_000, "{} has {bytes} bytes", path.display());
    }
}

#[test]
fn sighup_publishes_now() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(output.path(), &[&namespace], &[]);
    make_and_flush(&namespace, 0..10);
    wait_for("a file to be published", || {
        // More than once: the first may come before the daemon has read the flows.
        daemon.rotate();
        (!files_below(&output.path().join("flows/v1")).is_empty()).then_some(())
    });
    make_and_flush(&namespace, 10..20);
    daemon.stop();
    let dataset = check_dataset(output.path(), 20);
    assert!(dataset.files.len() >= 2, "what comes after SIGHUP is in another file");
}

#[test]
fn sigterm_publishes_what_is_there() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    make_and_flush(&namespace, 0..10);
    daemon.stop();
    check_dataset(output.path(), 10);
}

#[test]
fn without_flows_there_are_no_files() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(output.path(), &[&namespace], &[]);
    daemon.rotate();
    daemon.stop();
    check_dataset(output.path(), 0);
}

#[test]
fn runs_with_the_same_output_add_files() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    for run in 0..2 {
        let daemon = Daemon::start(output.path(), &[&namespace], &[]);
        make_and_flush(&namespace, run * 10..(run + 1) * 10);
        daemon.stop();
    }
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), 20);
    let runs: BTreeSet<_> = dataset.rows().iter().map(|row| row.text("run_id").unwrap().to_owned()).collect();
    assert_eq!(runs.len(), 2, "each run has an id of its own");
}

/// Not all engines skip names that begin with `_`: `OUTPUT/**/*.parquet` must be complete files at any time.
#[test]
fn an_unfinished_file_does_not_end_with_parquet() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    // As an older version left it.
    let orphan = output.path().join("_flowlog/staging/older.parquet");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "PAR1").unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    assert!(!orphan.exists());
    make_and_flush(&namespace, 0..10);
    let staging = output.path().join("_flowlog/staging");
    let staged = wait_for("rows in a file", || files_below(&staging).first().cloned());
    assert_ne!(staged.extension(), Some("parquet".as_ref()), "{staged:?}");
    daemon.stop();
    check_dataset(output.path(), 10);
}

/// Waits until so many files are published by themselves.
#[track_caller]
fn wait_for_files(output: &Path, count: usize) {
    let flows = output.join("flows/v1");
    wait_for("files to be published", || (files_below(&flows).len() >= count).then_some(()));
}

/// What holds for the files of a daemon that has stopped, however they were rotated.
#[track_caller]
fn check_dataset(output: &Path, rows: i64) -> Dataset {
    let staged = files_below(&output.join("_flowlog/staging"));
    assert!(staged.is_empty(), "nothing stays in staging, found {staged:?}");
    let dataset = Dataset::read(output);
    let numbers = dataset.rows().into_iter().map(|row| row.int("seq").unwrap());
    assert!(numbers.eq(1..=rows), "the files have the rows 1 to {rows}, each once");
    for file in &dataset.files {
        check_path(file);
        check_metadata(file);
        let path = output.join("flows/v1").join(&file.path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(!file.rows.is_empty(), "no file is empty");
        assert!(
            file.rows.is_sorted_by_key(|row| row.time("end_time")),
            "{} is sorted by end_time",
            file.path.display()
        );
    }
    dataset
}

/// The directories say the UTC date and hour of every `end_time`.
#[track_caller]
fn check_path(file: &DataFile) {
    let directory = file.path.parent().unwrap().to_str().unwrap();
    for row in &file.rows {
        let end = Timestamp::from_microsecond(row.time("end_time").unwrap()).unwrap();
        assert_eq!(directory, end.strftime("date=%Y-%m-%d/hour=%H").to_string());
    }
    assert!(file.path.extension().is_some_and(|extension| extension == "parquet"));
}

#[track_caller]
fn check_metadata(file: &DataFile) {
    let row = &file.rows[0];
    let numbers = || file.rows.iter().map(|row| row.int("seq").unwrap());
    assert_eq!(file.number("flowlog.schema_version"), 2);
    assert_eq!(file.number("flowlog.rows"), i64::try_from(file.rows.len()).unwrap());
    assert_eq!(file.number("flowlog.seq_first"), numbers().min().unwrap());
    assert_eq!(file.number("flowlog.seq_last"), numbers().max().unwrap());
    for column in ["run_id", "host_id", "boot_id"] {
        assert_eq!(row.text(column), file.metadata.get(&format!("flowlog.{column}")).map(String::as_str));
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(file.metadata["flowlog.kernel"], kernel.trim());
    assert_eq!(file.metadata["flowlog.acct"], "true");
    assert_eq!(file.metadata["flowlog.timestamp"], "true");
    assert!(!file.metadata["flowlog.version"].is_empty());
}
