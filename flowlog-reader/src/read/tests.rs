//! Directories as daemons leave them, and as they are while one works.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::gaps::{Cause, Stage};
use crate::ledger::{
    DeclaredGap, DeleteReason, Deleted, Event, Hash, Line, Recovered, Started, Stopped, Table,
};
use crate::run::{RunContext, RunFacts};
use crate::segments::{HEAD_BYTES, Head, MARK, ROWS, SegmentHeader};

const RUN: Uuid = Uuid::from_u128(1);
const NEXT: Uuid = Uuid::from_u128(2);

/// What the kernel may tell late: a run that goes on is known only until so long before it says that it is complete.
const LATE_US: i64 = 150_000_000;

/// An output directory.
struct Output {
    dir: TempDir,
    tip: Hash,
}

impl Output {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for directory in [layout::WAL, layout::FLOWS, layout::GAPS] {
            fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        let output = Self { dir, tip: Hash::ZERO };
        fs::write(output.ledger(), "").unwrap();
        output
    }

    fn ledger(&self) -> PathBuf {
        self.dir.path().join(layout::LEDGER)
    }

    fn path_of_segment(&self) -> PathBuf {
        self.dir.path().join(layout::WAL).join(layout::segment_name(RUN, 1))
    }

    /// A line of a run at this time, in microseconds since 1970.
    fn line(&mut self, run_id: Uuid, at_us: i64, event: Event) {
        let time = Timestamp::from_microsecond(at_us).unwrap();
        let mut bytes = Vec::new();
        Line { prev: self.tip, time, run_id, event }.encode(&mut bytes).unwrap();
        self.tip = Hash::of(&bytes);
        bytes.push(b'\n');
        self.append(&bytes);
    }

    fn append(&self, bytes: &[u8]) {
        File::options().append(true).open(self.ledger()).unwrap().write_all(bytes).unwrap();
    }

    fn start(&mut self, run_id: Uuid, at_us: i64, unwatched_since_us: Option<i64>) {
        let started = Started { unwatched_since_us, ..started(&[1]) };
        self.line(run_id, at_us, Event::Start(started));
    }

    fn stop(&mut self, run_id: Uuid, complete_until_us: i64) {
        let stopped = Stopped { last_seq: 0, rows: 0, complete_until_us };
        self.line(run_id, complete_until_us + 1, Event::Stop(stopped));
    }

    fn gap(&mut self, run_id: Uuid, gap: u64, loss: Gap) {
        self.line(run_id, loss.to_us, Event::Gap(DeclaredGap { gap, loss }));
    }

    /// A file with rows of these numbers and end times.
    fn file(&mut self, run_id: Uuid, seqs: (i64, i64), rows: u64, times: (i64, i64)) -> String {
        let path = format!("{}/{}-{}.parquet", layout::FLOWS, seqs.0, seqs.1);
        fs::write(self.dir.path().join(&path), "rows").unwrap();
        let file = PublishedFile {
            rows,
            seq_first: Some(seqs.0),
            seq_last: Some(seqs.1),
            end_time_min_us: Some(times.0),
            end_time_max_us: Some(times.1),
            ..published(Table::Flows, &path)
        };
        self.line(run_id, times.1, Event::File(file));
        path
    }

    fn delete(&mut self, path: &str, at_us: i64) {
        let reason = DeleteReason::Age;
        let deleted = Deleted { path: path.to_owned(), sha256: Hash::of(b"rows"), bytes: 4, reason };
        self.line(RUN, at_us, Event::Delete(deleted));
        fs::remove_file(self.dir.path().join(path)).unwrap();
    }

    /// A segment of the write-ahead log with frames of so many rows, by which all is known until then.
    fn segment(&self, run_id: Uuid, number: u64, frames: &[(u32, i64)], first_seq: i64) {
        let run = RunContext { run_id, host_id: "8f2c".into(), host_name: "web-1".into(), boot_id: None };
        let facts = RunFacts { run, kernel: "6.18.5".into(), acct: None, timestamp: None, filter: None };
        let mut bytes = SegmentHeader::of(&facts, 0, None).to_bytes().unwrap();
        let mut first_seq = first_seq;
        for &(rows, complete_until_us) in frames {
            let mut frame = vec![0; HEAD_BYTES];
            let kind = if rows > 0 { ROWS } else { MARK };
            let complete_until_us = complete_until_us + LATE_US;
            Head { kind, rows, first_seq, complete_until_us, round: 0 }.seal(&mut frame).unwrap();
            bytes.extend(frame);
            first_seq += i64::from(rows);
        }
        let path = self.dir.path().join(layout::WAL).join(layout::segment_name(run_id, number));
        fs::write(path, bytes).unwrap();
    }

    fn read(&self, from_us: Option<i64>, until_us: Option<i64>) -> Contents {
        read(self.dir.path(), Window { from_us, until_us }).unwrap()
    }

    fn completeness(&self, from_us: i64, until_us: i64) -> Completeness {
        self.read(Some(from_us), Some(until_us)).completeness
    }

    fn is_complete(&self, from_us: i64, until_us: i64) -> bool {
        self.completeness(from_us, until_us).is_complete()
    }
}

fn started(netns: &[u64]) -> Started {
    Started {
        version: "0.1.0".into(),
        host_id: "8f2c".into(),
        host_name: "web-1".into(),
        boot_id: None,
        kernel: "6.18.5".into(),
        delivery: "reliable".into(),
        netns: netns.to_vec(),
        filter: None,
        wal_sync: "1s".into(),
        unwatched_since_us: None,
        restart: None,
        torn_bytes: None,
    }
}

fn published(table: Table, path: &str) -> PublishedFile {
    PublishedFile { bytes: 4, sha256: Hash::of(b"rows"), ..PublishedFile::new(table, path, 0) }
}

fn down(from_us: i64, to_us: i64) -> Gap {
    Gap { lost_flows: None, ..Gap::new(Cause::DaemonDown, Stage::Receive, from_us, to_us) }
}

#[test]
fn a_run_that_stopped_is_complete_between_its_ends() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    let early = output.file(RUN, (1, 10), 10, (110, 200));
    let late = output.file(RUN, (11, 20), 10, (201, 300));
    output.stop(RUN, 400);
    let paths = |from_us, until_us| -> Vec<String> {
        let files = output.read(from_us, until_us).files;
        files.into_iter().map(|file| file.file.path).collect()
    };
    assert_eq!(paths(None, None), [early.clone(), late.clone()]);
    assert_eq!(paths(Some(200), Some(201)), std::slice::from_ref(&early));
    assert_eq!(paths(Some(201), None), [late]);
    assert_eq!(paths(None, Some(110)), [""; 0]);
    assert!(output.is_complete(100, 400));
    assert_eq!(output.completeness(99, 400).unwatched_until_us, Some(100));
    assert_eq!(output.completeness(100, 401).unpublished_since_us, Some(400));
    let all = output.read(None, None).completeness;
    assert!(all.is_complete());
    assert_eq!((all.from_us, all.until_us, all.runs), (Some(100), Some(400), 1));

    output.delete(&early, 500);
    let all = output.read(None, None).completeness;
    assert_eq!((all.is_complete(), all.deleted), (false, Deletions { files: 1, rows: 10 }));
    assert!(output.is_complete(201, 400), "it has no rows of this time");
}

#[test]
fn a_run_that_works_is_complete_as_far_as_it_has_published() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    assert_eq!(output.completeness(100, 101).unpublished_since_us, Some(100));
    output.segment(RUN, 1, &[(0, 120), (10, 200), (10, 300), (0, 310)], 1);
    let until_us = |output: &Output| output.read(None, None).completeness.until_us;
    assert_eq!(until_us(&output), Some(120));
    // Two hours at once: the second file lacks a row that the third one has.
    output.file(RUN, (1, 10), 10, (110, 190));
    output.file(RUN, (11, 20), 9, (191, 290));
    assert_eq!(until_us(&output), Some(200));
    output.file(RUN, (15, 15), 1, (291, 291));
    assert_eq!(until_us(&output), Some(310));
    // Segments go when their rows are published, and a new one says how far that was.
    fs::remove_dir_all(output.dir.path().join(layout::WAL)).unwrap();
    fs::create_dir(output.dir.path().join(layout::WAL)).unwrap();
    output.segment(RUN, 2, &[(0, 310), (5, 400)], 21);
    assert_eq!(until_us(&output), Some(310));
    assert!(output.is_complete(100, 310) && !output.is_complete(100, 311));
}

#[test]
fn a_frame_that_is_being_written_says_nothing_yet() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.segment(RUN, 1, &[(0, 200), (0, 300)], 1);
    let path = output.path_of_segment();
    let bytes = fs::read(&path).unwrap();
    for cut in 1..=HEAD_BYTES {
        fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        assert_eq!(output.read(None, None).completeness.until_us, Some(200), "{cut}");
    }
    let begun = layout::segment_name(RUN, 2);
    fs::write(output.dir.path().join(layout::WAL).join(begun), "flow").unwrap();
    assert_eq!(output.read(None, None).completeness.until_us, Some(200));
}

/// Each of these was once called complete.
#[test]
fn what_is_not_known_is_not_complete() {
    let mut output = Output::new();
    output.start(RUN, 1000, None);
    assert!(!output.read(None, None).completeness.is_complete(), "a run has just begun");
    output.stop(RUN, 2000);
    for (from_us, until_us) in
        [(Some(2000), None), (Some(9000), None), (Some(1500), Some(1500)), (Some(1600), Some(1500))]
    {
        assert!(!output.read(from_us, until_us).completeness.is_complete(), "{from_us:?} {until_us:?}");
    }
    // The clock was set back: ids and times are not in the order of the runs.
    output.start(Uuid::from_u128(0), 500, Some(2000));
    output.stop(Uuid::from_u128(0), 600);
    assert!(!output.is_complete(1200, 1300), "nobody watches since 600");
    assert_eq!(output.completeness(700, 900).gaps.len(), 1, "the time in between is not declared yet");

    // What a damaged frame hides, a mark in the next segment does not tell.
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.segment(RUN, 1, &[(0, 200), (10, 300)], 1);
    let path = output.path_of_segment();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    output.segment(RUN, 2, &[(0, 400)], 1);
    assert_eq!(output.read(None, None).completeness.until_us, Some(200));

    // An import that works may bring rows of any time.
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.stop(RUN, 400);
    output.line(NEXT, 1000, Event::Start(started(&[])));
    for from_us in [None, Some(100)] {
        assert!(!output.read(from_us, None).completeness.is_complete());
    }
}

#[test]
fn what_was_lost_or_not_watched_is_not_complete() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.stop(RUN, 400);
    output.start(NEXT, 500, Some(400));
    // It has begun, and has not declared yet that nobody watched.
    output.segment(NEXT, 1, &[(0, 510)], 1);
    assert!(output.is_complete(100, 400));
    let completeness = output.completeness(100, 505);
    assert_eq!(completeness.gaps, [LoggedGap { run_id: NEXT, number: None, loss: down(400, 500) }]);
    assert!(!completeness.is_complete());
    output.gap(NEXT, 1, down(400, 499));
    let completeness = output.completeness(100, 505);
    assert_eq!(completeness.gaps, [LoggedGap { run_id: NEXT, number: Some(1), loss: down(400, 499) }]);
    assert!(output.is_complete(500, 510));

    // Processes that are not known are no flows that are missing.
    output.gap(NEXT, 2, Gap::new(Cause::RingbufFull, Stage::Attribute, 502, 503));
    output.gap(NEXT, 3, Gap::new(Cause::Overload, Stage::Write, 504, 504));
    let completeness = output.completeness(500, 510);
    assert_eq!((completeness.is_complete(), completeness.gaps.len()), (true, 2));
    output.gap(NEXT, 4, Gap { lost_flows: Some(1), ..Gap::new(Cause::Overload, Stage::Write, 505, 505) });
    assert!(!output.is_complete(500, 510) && output.is_complete(506, 510));
}

#[test]
fn files_of_gaps_come_with_the_time_of_their_gaps() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.gap(RUN, 1, down(200, 300));
    output.gap(RUN, 2, down(600, 700));
    for (number, name) in [(1, "one"), (2, "two")] {
        let path = format!("{}/{name}.parquet", layout::GAPS);
        fs::write(output.dir.path().join(&path), "rows").unwrap();
        let file = PublishedFile {
            gap_first: Some(number),
            gap_last: Some(number),
            ..published(Table::Gaps, &path)
        };
        output.line(RUN, 800, Event::File(file));
    }
    let files = output.read(Some(250), Some(260)).files;
    assert_eq!(files.len(), 1);
    assert!(files[0].file.path.ends_with("one.parquet"));
    assert_eq!(output.read(Some(400), Some(500)).files, []);
}

#[test]
fn a_run_that_was_killed_holds_back_what_comes_after_it_until_it_is_recovered() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.segment(RUN, 1, &[(10, 200)], 1);
    output.start(NEXT, 500, Some(200));
    output.gap(NEXT, 1, down(200, 500));
    output.segment(NEXT, 1, &[(0, 900)], 1);
    assert_eq!(output.read(None, None).completeness.until_us, Some(100));
    let path = format!("{}/recovered.parquet", layout::FLOWS);
    fs::write(output.dir.path().join(&path), "rows").unwrap();
    let file = PublishedFile {
        of_run: Some(RUN),
        rows: 10,
        seq_first: Some(1),
        seq_last: Some(10),
        end_time_min_us: Some(150),
        end_time_max_us: Some(160),
        ..published(Table::Flows, &path)
    };
    output.line(NEXT, 510, Event::File(file));
    let recovered =
        Recovered { of_run: RUN, rows: 10, already_published: 0, dropped_bytes: 0, dropped_reason: None };
    output.line(NEXT, 520, Event::Recover(recovered));
    assert_eq!(output.read(None, None).completeness.until_us, Some(900));
    assert!(output.is_complete(100, 200) && output.is_complete(501, 900) && !output.is_complete(100, 900));
    assert_eq!(output.read(None, Some(200)).files[0].run_id, RUN);
}

#[test]
fn an_import_watches_nothing() {
    let mut output = Output::new();
    output.line(RUN, 100, Event::Start(started(&[])));
    output.file(RUN, (1, 10), 10, (10, 20));
    output.stop(RUN, 120);
    let contents = output.read(None, None);
    assert_eq!(contents.files.len(), 1);
    assert_eq!((contents.completeness.from_us, contents.completeness.is_complete()), (None, false));
    assert!(!output.is_complete(10, 20), "nor is what was asked for by name");
}

#[test]
fn a_filter_is_told() {
    let mut output = Output::new();
    let filter = Some(serde_json::json!({"proto": ["tcp"]}));
    output.line(RUN, 100, Event::Start(Started { filter, ..started(&[1]) }));
    output.stop(RUN, 200);
    let completeness = output.completeness(100, 200);
    assert!(completeness.is_complete() && completeness.is_filtered);
}

#[test]
fn a_damaged_ledger_proves_nothing() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.stop(RUN, 200);
    // The last line may be one that is being written.
    output.append(b"{\"prev\":\"00");
    assert!(output.is_complete(100, 200));
    output.append(b"\n");
    assert_eq!(output.completeness(100, 200).unread_lines, 1);
    output.start(NEXT, 300, None);
    assert_eq!(output.completeness(100, 200).unread_lines, 2, "and the chain after it");
}

#[test]
fn a_file_that_somebody_took_away_is_missing() {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    let path = output.file(RUN, (1, 10), 10, (110, 200));
    output.stop(RUN, 400);
    fs::remove_file(output.dir.path().join(&path)).unwrap();
    let completeness = output.completeness(100, 400);
    assert_eq!((completeness.is_complete(), completeness.missing), (false, vec![path]));
}

#[test]
fn a_directory_without_a_ledger_is_none_of_flowlogs() {
    let dir = tempfile::tempdir().unwrap();
    let error = read(dir.path(), Window::default()).unwrap_err();
    assert_eq!(error.path, dir.path().join(layout::LEDGER));
}

/// A directory with a run that works, and its ledger and segment as bytes.
fn working() -> (Output, Vec<u8>, Vec<u8>) {
    let mut output = Output::new();
    output.start(RUN, 100, None);
    output.file(RUN, (1, 10), 10, (110, 200));
    output.gap(RUN, 1, down(120, 130));
    output.segment(RUN, 1, &[(10, 200), (5, 300)], 1);
    let ledger = fs::read(output.ledger()).unwrap();
    let segment = fs::read(output.path_of_segment()).unwrap();
    (output, ledger, segment)
}

proptest! {
    #[test]
    fn any_bytes_are_read(ledger: Vec<u8>, segment: Vec<u8>) {
        let (output, ..) = working();
        fs::write(output.ledger(), ledger).unwrap();
        fs::write(output.path_of_segment(), segment).unwrap();
        output.read(None, Some(250));
    }

    /// Whatever is changed in a ledger, it proves no more than it did.
    #[test]
    fn a_changed_ledger_proves_no_more(at: prop::sample::Index, byte: u8, from_us in 90..400_i64, until_us in 90..400_i64) {
        let (output, ledger, _) = working();
        let was_complete = output.is_complete(from_us, until_us);
        let mut changed = ledger;
        // Without its newline the last line is one that is being written.
        let at = at.index(changed.len() - 1);
        changed[at] = byte;
        fs::write(output.ledger(), changed).unwrap();
        prop_assert!(was_complete || !output.is_complete(from_us, until_us));
    }

    /// A frame that is not as it was written ends what is known.
    #[test]
    fn a_changed_segment_proves_no_more(at: prop::sample::Index, byte: u8) {
        let (output, _, mut segment) = working();
        let until_us = output.read(None, None).completeness.until_us;
        let at = at.index(segment.len());
        segment[at] = byte;
        fs::write(output.path_of_segment(), segment).unwrap();
        prop_assert!(output.read(None, None).completeness.until_us <= until_us);
    }
}
