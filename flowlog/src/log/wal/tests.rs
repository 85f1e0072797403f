//! Segments as recovery finds them: whole, cut, damaged, made up; and what is left when the disk fails.

mod damage;
mod disk;
mod rows;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{Int64Array, RecordBatch};
use flowlog_reader::segments::{HeaderError, Listing, ReadError, SegmentHeader, list as segments};
use tempfile::TempDir;
use uuid::Uuid;

use super::{EncodeError, Frame, Wal, WalError, WalSync, read, remove};
use rows::Rows;

const RUN: Uuid = Uuid::from_u128(0x019a_a000_0000_7000_8000_0000_0000_0001);

fn header() -> SegmentHeader {
    SegmentHeader {
        run_id: RUN,
        host_id: "8f2c".into(),
        host_name: "web-1".into(),
        boot_id: None,
        kernel: "6.18.5".into(),
        acct: Some(true),
        timestamp: None,
        filter: None,
        started_us: 1_795_248_000_000_000,
        in_flight: None,
    }
}

/// A log in a directory of its own, which is not there yet.
struct Bench {
    dir: TempDir,
    wal: Wal,
    rows: Rows,
}

impl Bench {
    fn new(sync: WalSync) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::open(dir.path().join("wal"), &header(), sync).unwrap();
        Self { dir, wal, rows: Rows::new(0) }
    }

    fn directory(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    /// Appends so many rows, and returns what recovery has to find of them.
    fn append(&mut self, rows: usize, complete_until_us: i64) -> Frame {
        let batch = self.rows.batch(rows);
        self.wal.append(&batch, complete_until_us, 0).unwrap();
        Frame { batch: Some(batch), complete_until_us, round: 0 }
    }

    fn mark(&mut self, complete_until_us: i64) -> Frame {
        self.wal.mark(complete_until_us).unwrap();
        Frame { batch: None, complete_until_us, round: 0 }
    }

    fn names(&self) -> Vec<String> {
        let listing = segments(&self.directory()).unwrap();
        assert_eq!(listing.foreign, [""; 0].map(PathBuf::from));
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        listing.segments.iter().map(|segment| name(&segment.path)).collect()
    }
}

/// All frames of a segment that has no damage.
fn frames(path: &Path) -> Vec<Frame> {
    let (found, frames) = read(path).unwrap();
    assert_eq!(found, header());
    frames.map(Result::unwrap).collect()
}

#[test]
fn what_was_appended_is_read_again() {
    let mut bench = Bench::new(WalSync::Off);
    let expected = [
        bench.mark(1),
        bench.append(1, 2),
        bench.append(100, 3),
        bench.append(0, 4),
        bench.mark(-5),
        bench.append(3000, i64::MAX),
    ];
    let path = bench.wal.current().unwrap().path.clone();
    let found = frames(&path);
    // An empty batch makes no frame.
    let expected: Vec<Frame> = expected
        .into_iter()
        .filter(|frame| frame.batch.as_ref().is_none_or(|batch| batch.num_rows() > 0))
        .collect();
    assert_eq!(found, expected);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(
            found.batch.as_ref().map(RecordBatch::schema),
            expected.batch.as_ref().map(RecordBatch::schema)
        );
    }
}

#[test]
fn a_frame_takes_little_room() {
    let mut bench = Bench::new(WalSync::Off);
    let mut sizes = [1, 100, 8192].map(|rows| {
        let before = bench.wal.current().map_or(0, |segment| segment.bytes);
        bench.append(rows, 0);
        bench.wal.current().unwrap().bytes - before
    });
    assert!(sizes[0] < 2048 && sizes[1] < 100 * 150 && sizes[2] < 8192 * 80, "{sizes:?}");
    sizes[0] = bench.wal.current().unwrap().bytes;
    bench.mark(0);
    assert_eq!(bench.wal.current().unwrap().bytes - sizes[0], 40);
}

#[test]
fn a_segment_tells_what_is_in_it() {
    let mut bench = Bench::new(WalSync::Off);
    assert_eq!(bench.wal.current(), None);
    bench.mark(1);
    assert_eq!(bench.wal.current().unwrap().last_seq, None);
    bench.append(3, 2);
    bench.append(4, 3);
    bench.wal.seal().unwrap();
    bench.wal.seal().unwrap();
    assert_eq!(bench.wal.current(), None);
    bench.append(1, 4);

    let sealed = bench.wal.take_sealed();
    let [first] = &sealed[..] else { panic!("{sealed:?}") };
    assert_eq!((first.rows, first.last_seq), (7, Some(7)));
    assert_eq!(first.bytes, fs::metadata(&first.path).unwrap().len());
    let current = bench.wal.current().unwrap();
    assert_eq!((current.rows, current.last_seq), (1, Some(8)));
    assert_eq!(bench.wal.take_sealed(), []);

    assert_eq!(bench.names(), [format!("{RUN}_00000001.wal"), format!("{RUN}_00000002.wal")]);
    remove(&first.path).unwrap();
    assert_eq!(bench.names(), [format!("{RUN}_00000002.wal")]);
}

#[test]
fn a_log_that_is_opened_again_goes_on_in_a_new_segment() {
    let mut bench = Bench::new(WalSync::Batch);
    let before = bench.append(2, 1);
    bench.wal = Wal::open(bench.directory(), &header(), WalSync::Batch).unwrap();
    let after = bench.append(2, 2);
    let listing = segments(&bench.directory()).unwrap();
    let found: Vec<Vec<Frame>> = listing.segments.iter().map(|segment| frames(&segment.path)).collect();
    assert_eq!(found, [[before], [after]]);
}

#[test]
fn segments_are_listed_in_order_and_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let older = Uuid::from_u128(RUN.as_u128() - (1 << 80));
    let segment = |run: Uuid, number: &str| format!("{run}_{number}.wal");
    let own = [
        segment(older, "00000002"),
        segment(RUN, "00000009"),
        segment(RUN, "00000010"),
        segment(RUN, "100000000"),
    ];
    let foreign = [
        format!("{}_00000001.wal", RUN.simple()),
        segment(RUN, "1"),
        segment(RUN, "+0000001"),
        "notes.txt".to_owned(),
    ];
    for name in own.iter().chain(&foreign) {
        fs::write(dir.path().join(name), "1234").unwrap();
    }
    let subdirectory = segment(RUN, "00000011");
    fs::create_dir(dir.path().join(&subdirectory)).unwrap();

    let listing = segments(dir.path()).unwrap();
    let paths: Vec<_> = listing.segments.iter().map(|segment| segment.path.clone()).collect();
    assert_eq!(paths, own.map(|name| dir.path().join(name)));
    assert!(listing.segments.iter().all(|segment| segment.bytes == 4));
    let mut expected: Vec<_> =
        foreign.into_iter().chain([subdirectory]).map(|name| dir.path().join(name)).collect();
    expected.sort();
    assert_eq!(listing.foreign, expected);

    assert_eq!(segments(&dir.path().join("missing")).unwrap(), Listing::default());
}

#[test]
fn a_batch_that_is_not_of_flows_is_refused_and_the_log_goes_on() {
    let mut bench = Bench::new(WalSync::Off);
    let before = bench.append(1, 1);
    let batch = bench.rows.batch(2);
    let refused = |wal: &mut Wal, batch: &RecordBatch| match wal.append(batch, 2, 0) {
        Err(WalError::Encode { source, .. }) => source,
        other => panic!("{other:?}"),
    };

    let fewer = batch.project(&[0, 1, 2]).unwrap();
    assert!(matches!(refused(&mut bench.wal, &fewer), EncodeError::Schema));
    let mut columns = batch.columns().to_vec();
    columns[2] = Arc::new(Int64Array::from(vec![7, 9]));
    let holes = RecordBatch::try_new(batch.schema(), columns).unwrap();
    assert!(matches!(refused(&mut bench.wal, &holes), EncodeError::Holes { first_seq: 7 }));

    let after = bench.append(1, 3);
    assert_eq!(frames(&bench.wal.current().unwrap().path), [before, after]);
}

#[test]
fn a_part_of_a_batch_is_a_batch() {
    let mut bench = Bench::new(WalSync::Off);
    let batch = bench.rows.batch(40);
    let part = batch.slice(13, 20);
    bench.wal.append(&part, 1, 0).unwrap();
    let found = frames(&bench.wal.current().unwrap().path);
    assert_eq!(found, [Frame { batch: Some(part), complete_until_us: 1, round: 0 }]);
}

#[test]
fn the_interval_of_syncing_counts_from_the_last_one() {
    let mut bench = Bench::new(WalSync::Interval(Duration::from_secs(1)));
    let start = Instant::now();
    let mut sync_at = |millis: u64, rows: usize| {
        bench.append(rows, 0);
        bench.wal.sync_if_due(start + Duration::from_millis(millis)).unwrap();
        bench.wal.unsynced_rows()
    };
    assert_eq!(sync_at(0, 2), 0);
    assert_eq!(sync_at(400, 3), 3);
    assert_eq!(sync_at(999, 4), 7);
    assert_eq!(sync_at(1000, 5), 0);
    assert_eq!(sync_at(1500, 6), 6);
    bench.wal.seal().unwrap();
    assert_eq!(bench.wal.unsynced_rows(), 0);
}

#[test]
fn rows_are_synced_as_configured() {
    let unsynced = |sync: WalSync| {
        let mut bench = Bench::new(sync);
        bench.append(5, 0);
        bench.wal.sync_if_due(Instant::now()).unwrap();
        bench.wal.unsynced_rows()
    };
    assert_eq!(unsynced(WalSync::Batch), 0);
    assert_eq!(unsynced(WalSync::Off), 5);
    assert_eq!(unsynced(WalSync::Interval(Duration::ZERO)), 0);
}

#[test]
fn a_header_is_for_making_files_of_its_run() {
    let run = header().facts().run;
    assert_eq!((run.run_id, &*run.host_id, &*run.host_name, run.boot_id), (RUN, "8f2c", "web-1", None));
}

/// A filter is as long as its lists.
#[test]
fn a_header_may_be_long() {
    let dir = tempfile::tempdir().unwrap();
    let filter = Some(serde_json::json!({"except": {"address": vec!["203.0.113.0/24"; 8000]}}));
    let header = SegmentHeader { filter, ..header() };
    let mut wal = Wal::open(dir.path().to_owned(), &header, WalSync::Off).unwrap();
    wal.mark(1).unwrap();
    let (found, frames) = read(&wal.current().unwrap().path).unwrap();
    assert_eq!(found, header);
    assert_eq!(frames.count(), 1);
}

#[test]
fn a_file_that_is_no_segment_yields_no_frames_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    let cause = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        match read(&path) {
            Err(ReadError::Header { bytes, cause }) => {
                assert_eq!(bytes, content.len() as u64);
                cause
            }
            other => panic!("{other:?}"),
        }
    };
    let good = header().to_bytes().unwrap();
    assert!(matches!(cause(b""), HeaderError::Torn));
    assert!(matches!(cause(b"PAR1 and so on"), HeaderError::Magic));
    assert!(matches!(cause(&good[..good.len() - 1]), HeaderError::Torn));

    let mut newer = good.clone();
    newer[8] = 3;
    let error = cause(&newer);
    assert_eq!(
        error.to_string(),
        "the format has version 3, expected at most 2: read it with the flowlog that wrote it"
    );
    let mut damaged = good;
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(cause(&damaged), HeaderError::Checksum));

    assert!(matches!(read(&dir.path().join("missing")), Err(ReadError::Io(_))));
}
