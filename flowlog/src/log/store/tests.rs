//! Crashes between any two steps, disks that fail, segments that are damaged: each row once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::RecordBatch;
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::layout;
use flowlog_reader::ledger::Event;
use tempfile::TempDir;
use uuid::Uuid;

use super::{Store, Summary};
use crate::flow::Flow;
use crate::log::schema::FlowBatch;
use crate::log::verify::verify;
use crate::log::writer::Published;
use crate::testing::{self, files};
use crate::time::us_since_1970;

/// 2026-11-21 08:00:00 UTC
const EIGHT: u64 = 1_795_248_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EIGHT + seconds)
}

fn micros(seconds: u64) -> i64 {
    us_since_1970(at(seconds))
}

/// By its id the run began at eight.
fn run_id(run: u128) -> Uuid {
    let began_ms = u128::from(EIGHT) * 1000;
    Uuid::from_u128((began_ms << 80) + 0x7000_8000_0000_0000_0000 + run)
}

/// A store of the run with this number, which starts at that second.
#[track_caller]
fn open(output: &Path, run: u128, second: u64) -> Store {
    open_watching(output, run, second, vec![1])
}

/// The same of a run that watches these namespaces.
#[track_caller]
fn open_watching(output: &Path, run: u128, second: u64, netns: Vec<u64>) -> Store {
    testing::store(output, testing::facts(run_id(run)), netns, at(second))
}

/// The rows of one run.
struct Rows(FlowBatch);

impl Rows {
    fn of(run: u128) -> Self {
        Self(FlowBatch::new(&testing::run(run_id(run))))
    }

    /// One row for each second at which a flow ends.
    fn ending(&mut self, seconds: impl IntoIterator<Item = u64>) -> RecordBatch {
        for second in seconds {
            let flow = Flow { stop_ns: Some((EIGHT + second) * 1_000_000_000), ..testing::flow(1) };
            self.0.append(&testing::record(&flow));
        }
        self.0.finish()
    }
}

/// Copies a part of an output directory.
fn copy(from: &Path, part: &str, to: &Path) {
    for path in files(&from.join(part)).into_iter().chain(from.join(part).is_file().then(|| from.join(part)))
    {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, target).unwrap();
    }
}

fn copy_all(parts: &[&str], from: &TempDir, to: &TempDir) {
    parts.iter().for_each(|part| copy(from.path(), part, to.path()));
}

/// The numbers of all published rows of a run, with repetitions.
fn seqs(output: &Path, run: u128) -> Vec<i64> {
    let in_name = format!("_{}_", run_id(run));
    let mut seqs: Vec<i64> = files(&output.join("flows"))
        .iter()
        .filter(|path| path.to_str().unwrap().contains(&in_name))
        .flat_map(|path| {
            let below = path.strip_prefix(output).unwrap().to_owned();
            Published::read(output, below).unwrap().seqs.into_iter().flatten()
        })
        .collect();
    seqs.sort_unstable();
    seqs
}

fn gaps(output: &Path) -> Vec<Gap> {
    let lines = flowlog_reader::ledger::lines(&output.join(layout::LEDGER)).unwrap();
    let events = lines.map(|line| line.unwrap().line.unwrap().event);
    events.filter_map(|event| if let Event::Gap(gap) = event { Some(gap.loss) } else { None }).collect()
}

#[track_caller]
fn check_verified(output: &Path) {
    let report = verify(output, None, &mut |_| {}).unwrap();
    assert!(report.ok, "{report:#?}");
}

/// Starts the next run, which recovers, and stops it. All rows of the first run are there once.
#[track_caller]
fn check_recovers(output: &Path, rows: i64) {
    let mut store = open(output, 2, 100);
    store.recover(at(101));
    let (_, is_complete) = store.finish(true, at(102));
    assert!(is_complete);
    assert_eq!(seqs(output, 1), (1..=rows).collect::<Vec<_>>());
    assert_eq!(files(&output.join("_flowlog/wal")), Vec::<PathBuf>::new());
    check_verified(output);
}

#[test]
fn a_run_that_stops_leaves_files_and_a_ledger() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    let mut rows = Rows::of(1);
    store.append(&rows.ending([1, 2, 3601]), micros(3), 0, at(3)).unwrap();
    store.declare(vec![Gap { lost_flows: Some(7), ..Gap::new(Cause::Overload, Stage::Write, 1, 2) }], at(4));
    let (Summary { files: published, rows, .. }, is_complete) = store.finish(true, at(5));
    assert_eq!((published, rows, is_complete), (2, 3, true));
    assert_eq!(seqs(output.path(), 1), [1, 2, 3]);
    assert_eq!(files(&output.path().join("gaps")).len(), 1);
    assert_eq!(files(&output.path().join("_flowlog/wal")), Vec::<PathBuf>::new());
    check_verified(output.path());
}

/// The moments of a crash: what was on the disk before and after a publication, in all orders in which a
/// crash can leave it.
#[test]
fn a_crash_between_any_two_steps_costs_nothing_and_doubles_nothing() {
    const LEDGER: &str = "_flowlog/ledger.jsonl";
    const WAL: &str = "_flowlog/wal";
    let [output, before, after] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut store = open(output.path(), 1, 0);
    let mut rows = Rows::of(1);
    store.append(&rows.ending(0..50), micros(50), 0, at(50)).unwrap();
    // Of two hours, so that one publication makes two files.
    store.append(&rows.ending([3599, 3600, 3601]), micros(50), 0, at(50)).unwrap();
    store.declare(vec![Gap { lost_flows: Some(7), ..Gap::new(Cause::Overload, Stage::Write, 1, 2) }], at(50));
    copy_all(&[LEDGER, WAL, "flows", "gaps"], &output, &before);
    store.rotate(at(51));
    copy_all(&[LEDGER, WAL, "flows", "gaps"], &output, &after);
    drop(store);
    assert_eq!(files(&before.path().join("flows")).len(), 0);
    assert_eq!(files(&after.path().join("flows")).len(), 2);

    let all: [(&str, &TempDir, &TempDir, &TempDir); 4] = [
        ("before the files", &before, &before, &before),
        ("before the ledger", &before, &before, &after),
        ("before the segments go", &after, &before, &after),
        ("after all of it", &after, &after, &after),
    ];
    for (moment, ledger, wal, flows) in all {
        println!("{moment}");
        let crashed = tempfile::tempdir().unwrap();
        copy(ledger.path(), LEDGER, crashed.path());
        copy(wal.path(), WAL, crashed.path());
        copy_all(&["flows", "gaps"], flows, &crashed);
        check_recovers(crashed.path(), 53);
        assert_eq!(files(&crashed.path().join("gaps")).len(), 2, "{moment}: each gap is in one file");
        let [_, down] = &gaps(crashed.path())[..] else { panic!("two gaps") };
        assert_eq!((down.cause, down.lost_flows, down.to_us), (Cause::DaemonDown, None, micros(100)));
        assert!(down.from_us <= micros(50), "{moment}: {down:?}");
    }

    // Of the two files only one had its name.
    for path in files(&after.path().join("flows")) {
        let crashed = tempfile::tempdir().unwrap();
        copy_all(&[LEDGER, WAL], &before, &crashed);
        copy(after.path(), path.strip_prefix(after.path()).unwrap().to_str().unwrap(), crashed.path());
        check_recovers(crashed.path(), 53);
    }
}

#[test]
fn a_crash_while_recovering_is_recovered_from() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    store.append(&Rows::of(1).ending(0..50), micros(50), 0, at(50)).unwrap();
    drop(store);
    let saved = tempfile::tempdir().unwrap();
    copy(output.path(), "_flowlog/wal", saved.path());
    let mut store = open(output.path(), 3, 60);
    store.recover(at(61));
    drop(store);
    // As if the second crash had come before the segments went.
    copy(saved.path(), "_flowlog/wal", output.path());
    check_recovers(output.path(), 50);
}

#[test]
fn rows_wait_while_files_cannot_be_written() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    let mut rows = Rows::of(1);
    // The partition cannot be made, since a file has its name.
    let partition = output.path().join("flows/v1/date=2026-11-21");
    fs::write(&partition, "").unwrap();
    store.append(&rows.ending(0..50), micros(50), 0, at(50)).unwrap();
    store.rotate(at(51));
    store.append(&rows.ending(50..60), micros(60), 0, at(60)).unwrap();
    store.tick(micros(60), at(60));
    assert_eq!(seqs(output.path(), 1), Vec::<i64>::new());
    fs::remove_file(&partition).unwrap();
    // The second attempt came after nine seconds; each takes longer than the one before.
    store.tick(micros(69), at(69));
    assert_eq!(seqs(output.path(), 1), Vec::<i64>::new());
    store.tick(micros(70), at(70));
    assert_eq!(seqs(output.path(), 1), (1..=60).collect::<Vec<_>>());
    let (summary, is_complete) = store.finish(true, at(71));
    assert_eq!((summary.rows, is_complete), (60, true));
    check_verified(output.path());
}

#[test]
fn rows_that_cannot_be_published_until_the_stop_are_published_by_the_next_start() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    let partition = output.path().join("flows/v1/date=2026-11-21");
    fs::write(&partition, "").unwrap();
    store.append(&Rows::of(1).ending(0..50), micros(50), 0, at(50)).unwrap();
    let (summary, is_complete) = store.finish(true, at(51));
    assert_eq!((summary.rows, is_complete), (0, false));
    fs::remove_file(&partition).unwrap();
    check_recovers(output.path(), 50);
}

/// What was recovered of an earlier run is not written again with the rows of this one.
#[test]
fn rows_that_wait_are_those_of_this_run() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    store.append(&Rows::of(1).ending(1..=5), micros(6), 0, at(6)).unwrap();
    drop(store);

    let mut store = open(output.path(), 2, 10);
    store.recover(at(10));
    let staging = output.path().join("_flowlog/staging");
    fs::remove_dir_all(&staging).unwrap();
    fs::write(&staging, "in the way").unwrap();
    store.append(&Rows::of(2).ending(11..=13), micros(14), 0, at(14)).unwrap();
    store.rotate(at(14));
    fs::remove_file(&staging).unwrap();
    fs::create_dir(&staging).unwrap();
    store.finish(true, at(30));
    assert_eq!(seqs(output.path(), 1), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(output.path(), 2), [1, 2, 3]);
    assert!(files(&output.path().join("_flowlog/wal")).is_empty(), "nothing is kept");
    check_verified(output.path());
}

/// A run that was killed after three batches of ten rows; gives its only segment, too.
fn killed() -> (TempDir, PathBuf) {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    let mut rows = Rows::of(1);
    for first in [0, 10, 20] {
        store.append(&rows.ending(first..first + 10), micros(first + 10), 0, at(first + 10)).unwrap();
    }
    drop(store);
    let [segment] = &files(&output.path().join("_flowlog/wal"))[..] else { panic!("one segment") };
    let segment = segment.clone();
    (output, segment)
}

#[test]
fn a_damaged_segment_is_kept_and_declared() {
    let (output, segment) = killed();
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(segment, bytes).unwrap();

    let mut store = open(output.path(), 2, 100);
    store.recover(at(101));
    store.finish(true, at(102));
    assert_eq!(seqs(output.path(), 1), (1..=20).collect::<Vec<_>>());
    let kept = files(&output.path().join("_flowlog/wal"));
    let [damaged] = &kept[..] else { panic!("one segment is kept: {kept:?}") };
    assert!(damaged.to_str().unwrap().ends_with(".wal.damaged"), "{}", damaged.display());
    let causes: Vec<_> = gaps(output.path()).iter().map(|gap| (gap.cause, gap.from_us)).collect();
    assert_eq!(causes, [(Cause::DaemonDown, micros(0)), (Cause::WalError, micros(20))]);
}

/// What is lost by a damaged frame lies after what was before it, whatever later segments say.
#[test]
fn a_loss_begins_before_the_damage() {
    let (output, segment) = killed();
    let next = segment.with_file_name(layout::segment_name(run_id(1), 2));
    fs::copy(&segment, next).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let in_the_first_rows = bytes.len() / 2;
    bytes[in_the_first_rows] ^= 1;
    fs::write(segment, bytes).unwrap();

    let mut store = open(output.path(), 2, 100);
    store.recover(at(101));
    store.finish(true, at(102));
    assert_eq!(seqs(output.path(), 1), (1..=30).collect::<Vec<_>>());
    let lost = gaps(output.path()).into_iter().find(|gap| gap.cause == Cause::WalError).unwrap();
    assert!(lost.from_us < micros(20) && lost.to_us == micros(100), "{lost:?}");
}

/// Runs that were killed between making a segment and writing its header: one with rows, one with none.
#[test]
fn a_segment_without_a_header_at_the_end_is_no_damage() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    store.append(&Rows::of(1).ending(1..=5), micros(6), 0, at(6)).unwrap();
    drop(store);
    let segments = flowlog_reader::segments::list(&output.path().join("_flowlog/wal")).unwrap().segments;
    let next = |run: u128, number: u32| format!("{}_{number:08}.wal", run_id(run));
    for name in [next(1, 2), next(2, 1)] {
        fs::write(segments[0].path.with_file_name(name), b"flow").unwrap();
    }

    let mut store = open(output.path(), 3, 10);
    store.recover(at(10));
    store.finish(true, at(11));
    let gaps = gaps(output.path());
    assert_eq!(gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::DaemonDown], "{gaps:?}");
    assert_eq!(seqs(output.path(), 1), [1, 2, 3, 4, 5]);
    assert!(files(&output.path().join("_flowlog/wal")).is_empty(), "nothing is kept");
    check_verified(output.path());
}

#[test]
fn the_time_between_two_runs_is_a_gap() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    store.recover(at(1));
    store.tick(micros(20), at(21));
    store.finish(true, at(30));
    assert_eq!(gaps(output.path()), [], "nothing was before the first run");
    let mut store = open(output.path(), 2, 50);
    store.recover(at(51));
    store.tick(micros(370), at(371));
    // Killed: also of what had expired before, the kernel may have told nobody.
    drop(store);
    let mut store = open(output.path(), 3, 390);
    store.recover(at(391));
    store.finish(true, at(392));
    let found: Vec<_> = gaps(output.path()).iter().map(|gap| (gap.from_us, gap.to_us)).collect();
    assert_eq!(found, [(micros(20), micros(50)), (micros(220), micros(390))]);
    check_verified(output.path());
}

/// The ledger cannot be written, and the process is killed: what it did not take is in the time that the next run
/// declares.
#[test]
fn a_loss_that_the_ledger_never_took_is_declared_by_the_next_run() {
    let output = tempfile::tempdir().unwrap();
    let mut store = open(output.path(), 1, 0);
    store.recover(at(1));
    store.tick(micros(400), at(400));
    let lost = Gap::new(Cause::Overrun, Stage::Receive, micros(410), micros(420));
    // A line that is longer than a line may be.
    store.declare(vec![Gap { lost_flows: None, detail: Some("x".repeat(300 << 10)), ..lost }], at(421));
    store.append(&Rows::of(1).ending(700..=701), micros(800), 0, at(800)).unwrap();
    store.tick(micros(850), at(850));
    drop(store);
    let mut store = open(output.path(), 2, 900);
    store.recover(at(901));
    store.finish(true, at(902));
    let found: Vec<_> = gaps(output.path()).iter().map(|gap| (gap.from_us, gap.to_us)).collect();
    assert_eq!(found, [(micros(410 - 150), micros(900))], "and what had expired before");
    check_verified(output.path());
}

#[test]
fn an_import_leaves_the_time_without_a_daemon_to_the_next_one() {
    let output = tempfile::tempdir().unwrap();
    let import = |run, second| {
        let mut store = open_watching(output.path(), run, second, Vec::new());
        store.recover(at(second));
        store.append(&Rows::of(run).ending(0..5), micros(second), 0, at(second)).unwrap();
        store
    };
    let (_, is_complete) = import(1, 5).finish(true, at(6));
    assert!(is_complete);
    let mut store = open(output.path(), 2, 10);
    store.recover(at(10));
    store.append(&Rows::of(2).ending(0..5), micros(20), 0, at(20)).unwrap();
    assert_eq!(gaps(output.path()), [], "nobody watched before the first daemon");
    // Killed: what tells until when it watched goes with the first import.
    drop(store);
    let (_, is_complete) = import(3, 30).finish(true, at(31));
    assert!(is_complete);
    assert_eq!(seqs(output.path(), 2), [1, 2, 3, 4, 5]);
    // Another one, which is killed.
    drop(import(4, 40));
    assert_eq!(gaps(output.path()), []);
    let mut store = open(output.path(), 5, 50);
    store.recover(at(50));
    let (_, is_complete) = store.finish(true, at(51));
    assert!(is_complete);
    assert_eq!(seqs(output.path(), 4), [1, 2, 3, 4, 5]);
    let found: Vec<_> = gaps(output.path()).iter().map(|gap| (gap.cause, gap.from_us, gap.to_us)).collect();
    assert_eq!(found, [(Cause::DaemonDown, micros(0), micros(50))]);
    check_verified(output.path());
}

/// What a flowlog left that was killed, by the version of the format of its write-ahead log (`flowlog/testdata/state`): three
/// rows each.
#[test]
fn what_earlier_versions_left_is_published() {
    for version in 1..=2 {
        let output = left_by(version);
        let mut store = testing::store(output.path(), testing::facts(run_id(9)), vec![1], SystemTime::now());
        store.recover(SystemTime::now());
        let (_, is_complete) = store.finish(true, SystemTime::now());
        assert!(is_complete);
        let flows = files(&output.path().join("flows"));
        let rows = flows.iter().map(|path| {
            let below = path.strip_prefix(output.path()).unwrap().to_owned();
            Published::read(output.path(), below).unwrap().rows
        });
        assert_eq!(rows.sum::<u64>(), 3, "version {version}");
        check_verified(output.path());
    }
}

#[test]
fn what_a_newer_version_left_is_refused_before_anything_is_changed() {
    let output = left_by(2);
    let segment = files(&output.path().join("_flowlog/wal")).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 3;
    fs::write(&segment, bytes).unwrap();
    let contents = |path: PathBuf| (fs::read(&path).unwrap(), path);
    let before: Vec<_> = files(output.path()).into_iter().map(contents).collect();
    let error = testing::try_store(output.path(), testing::facts(run_id(9)), vec![1], at(0)).err().unwrap();
    assert!(error.to_string().contains("is of a newer flowlog; start that one"), "{error}");
    let mut after: Vec<_> = files(output.path()).into_iter().map(contents).collect();
    after.retain(|(_, path)| !path.ends_with("lock"));
    assert_eq!(after, before);
}

/// A copy of what a version left.
#[track_caller]
fn left_by(version: u32) -> TempDir {
    let output = tempfile::tempdir().unwrap();
    let log = output.path().join("_flowlog");
    fs::create_dir_all(log.join("wal")).unwrap();
    let state = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/state/{version}"));
    for path in files(&state) {
        let name = path.file_name().unwrap();
        let place = if path.extension().is_some_and(|extension| extension == "wal") {
            log.join("wal")
        } else {
            log.clone()
        };
        fs::copy(&path, place.join(name)).unwrap();
    }
    output
}
