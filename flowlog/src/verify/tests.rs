//! Directories as daemons leave them, and what somebody did to them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::metadata::KeyValue;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use nix::sys::stat::Mode;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::gaps::{Cause, Stage};
use crate::ledger::{DeclaredGap, DeleteReason, Ledger, Recovered, Started, Stopped};

/// An output directory, and the run that writes to it.
struct Bench {
    dir: TempDir,
    ledger: Ledger,
    run: Uuid,
    files: u32,
}

fn run(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn loss(lost_flows: Option<u64>, stage: Stage) -> Gap {
    Gap { lost_flows, detail: Some("a test".into()), ..Gap::new(Cause::Overload, stage, 5, 9) }
}

impl Bench {
    /// With a run that has begun.
    fn new() -> Self {
        // In memory, where syncs cost nothing.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir_all(dir.path().join("_flowlog")).unwrap();
        let (ledger, _) = Ledger::open(&dir.path().join(ledger::PATH)).unwrap();
        let mut bench = Self { dir, ledger, run: run(1), files: 0 };
        bench.start(1);
        bench
    }

    fn append(&mut self, event: Event) {
        self.ledger.append(self.run, SystemTime::now(), event).unwrap();
    }

    fn start(&mut self, number: u128) {
        self.run = run(number);
        self.append(Event::Start(Started {
            version: "0.1.0".into(),
            host_id: "8f2c".into(),
            host_name: "web-1".into(),
            boot_id: None,
            kernel: "6.18.5".into(),
            delivery: "reliable".into(),
            netns: vec![1],
            wal_sync: "1s".into(),
            torn_bytes: None,
        }));
    }

    fn stop(&mut self, last_seq: i64, rows: u64) {
        self.append(Event::Stop(Stopped { last_seq, rows }));
    }

    /// Publishes a file with these rows, and gives its path below the directory.
    fn flows(&mut self, seqs: &[i64]) -> String {
        self.flows_of(None, seqs)
    }

    fn flows_of(&mut self, of_run: Option<Uuid>, seqs: &[i64]) -> String {
        let file = self.flows_file(of_run, seqs);
        let path = file.path.clone();
        self.append(Event::File(file));
        path
    }

    fn flows_file(&mut self, of_run: Option<Uuid>, seqs: &[i64]) -> PublishedFile {
        let end_times: Vec<i64> = seqs.iter().map(|seq| 1000 + seq).collect();
        let columns: [(&str, ArrayRef); 2] = [
            ("seq", Arc::new(Int64Array::from(seqs.to_vec()))),
            ("end_time", Arc::new(TimestampMicrosecondArray::from(end_times).with_timezone("UTC"))),
        ];
        let (first, last) = (*seqs.iter().min().unwrap(), *seqs.iter().max().unwrap());
        let metadata = [
            ("run_id", of_run.unwrap_or(self.run).to_string()),
            ("rows", seqs.len().to_string()),
            ("seq_first", first.to_string()),
            ("seq_last", last.to_string()),
            ("ledger_tip", self.ledger.tip().to_string()),
        ];
        let file = self.parquet(
            "flows/v1/date=2026-11-21/hour=08",
            RecordBatch::try_from_iter(columns).unwrap(),
            &metadata,
        );
        PublishedFile {
            of_run,
            seq_first: Some(first),
            seq_last: Some(last),
            end_time_min_us: Some(1000 + first),
            end_time_max_us: Some(1000 + last),
            ..file
        }
    }

    fn gap(&mut self, gap: u64, loss: Gap) {
        self.append(Event::Gap(DeclaredGap { gap, loss }));
    }

    /// Publishes a file with gaps.
    fn gaps(&mut self, gap_first: u64, gap_last: u64, gaps: &[Gap]) -> String {
        let text = |each: &dyn Fn(&Gap) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(gaps.iter().map(each)))
        };
        let number = |each: &dyn Fn(&Gap) -> Option<i64>| -> ArrayRef {
            Arc::new(Int64Array::from_iter(gaps.iter().map(each)))
        };
        let time = |each: &dyn Fn(&Gap) -> i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_iter_values(gaps.iter().map(each)).with_timezone("UTC"))
        };
        let run = self.run;
        let columns = [
            ("run_id", text(&|_| run.to_string())),
            ("from_time", time(&|gap| gap.from_us)),
            ("to_time", time(&|gap| gap.to_us)),
            ("cause", text(&|gap| gap.cause.name().to_owned())),
            ("stage", text(&|gap| gap.stage.name().to_owned())),
            ("lost_flows", number(&|gap| gap.lost_flows.map(|flows| i64::try_from(flows).unwrap()))),
            ("lost_orig_bytes", number(&|_| None)),
            ("lost_reply_bytes", number(&|_| None)),
            ("detail", text(&|gap| gap.detail.clone().unwrap())),
        ];
        let file = self.parquet("gaps/v1/date=2026-11-21", RecordBatch::try_from_iter(columns).unwrap(), &[]);
        let path = file.path.clone();
        self.append(Event::File(PublishedFile {
            table: Table::Gaps,
            gap_first: Some(gap_first),
            gap_last: Some(gap_last),
            ..file
        }));
        path
    }

    fn parquet(&mut self, directory: &str, rows: RecordBatch, metadata: &[(&str, String)]) -> PublishedFile {
        self.files += 1;
        let path = format!("{directory}/{}.parquet", self.files);
        fs::create_dir_all(self.path(directory)).unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(self.path(&path)).unwrap(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        for (name, value) in metadata {
            writer.append_key_value_metadata(KeyValue::new(format!("flowlog.{name}"), value.clone()));
        }
        writer.close().unwrap();
        let mut file = PublishedFile {
            table: Table::Flows,
            path,
            of_run: None,
            rows: rows.num_rows() as u64,
            seq_first: None,
            seq_last: None,
            gap_first: None,
            gap_last: None,
            end_time_min_us: None,
            end_time_max_us: None,
            bytes: 0,
            sha256: Hash::ZERO,
        };
        self.measure(&mut file);
        file
    }

    /// Says of a file what it is now.
    fn measure(&self, file: &mut PublishedFile) {
        (file.sha256, file.bytes) =
            Hash::of_reader(File::open(self.path(&file.path)).unwrap(), |_| ()).unwrap();
    }

    fn delete(&mut self, path: &str, unlink: bool) {
        let (sha256, bytes) = Hash::of_reader(File::open(self.path(path)).unwrap(), |_| ()).unwrap();
        self.append(Event::Delete(Deleted { path: path.into(), sha256, bytes, reason: DeleteReason::Age }));
        if unlink {
            fs::remove_file(self.path(path)).unwrap();
        }
    }

    fn recover(&mut self, of_run: Uuid, rows: u64, dropped_bytes: u64) {
        self.append(Event::Recover(Recovered {
            of_run,
            rows,
            already_published: 0,
            dropped_bytes,
            dropped_reason: (dropped_bytes > 0).then(|| "torn".into()),
        }));
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn ledger_lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path(ledger::PATH)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn write_ledger(&self, lines: &[String]) {
        fs::write(self.path(ledger::PATH), lines.iter().map(|line| format!("{line}\n")).collect::<String>())
            .unwrap();
    }

    fn verify(&self) -> Report {
        self.verify_with(None)
    }

    fn verify_with(&self, noted: Option<Hash>) -> Report {
        verify(self.dir.path(), noted, &mut |_| ()).unwrap()
    }

    #[track_caller]
    fn assert_clean(&self) -> Report {
        let report = self.verify();
        assert!(report.ok && report.findings.is_empty(), "{:#?}", report.findings);
        report
    }
}

/// What a daemon wrote in two runs: files of two hours at a time, gaps, and a deleted file.
fn two_runs() -> Bench {
    let mut bench = Bench::new();
    let old = bench.flows(&[1, 2, 4]);
    bench.flows(&[5, 3]);
    bench.gap(1, loss(Some(3), Stage::Receive));
    bench.gap(2, loss(None, Stage::Attribute));
    bench.gaps(1, 2, &[loss(Some(3), Stage::Receive), loss(None, Stage::Attribute)]);
    bench.stop(5, 5);
    bench.start(2);
    bench.delete(&old, true);
    bench.flows(&[1]);
    bench.stop(1, 1);
    bench
}

#[track_caller]
fn assert_fault(report: &Report, check: Check, line: Option<u64>, text: &str) {
    assert!(!report.ok);
    let found = report.findings.iter().any(|finding| {
        finding.level == Level::Fault
            && finding.check == check
            && (line.is_none() || finding.line == line)
            && format!("{finding:?}").contains(text)
    });
    assert!(found, "no {check:?} about `{text}` in {:#?}", report.findings);
}

#[test]
fn what_daemons_wrote_is_clean() {
    let bench = two_runs();
    let report = bench.assert_clean();
    let Report { lines, runs, files, deleted_files, rows, gaps, tip, in_use, .. } = &report;
    assert_eq!((lines, runs, files, deleted_files, rows, in_use), (&11, &2, &3, &1, &3, &false));
    assert_eq!(*tip, bench.ledger.tip());
    let total = GapTotal { cause: Cause::Overload, gaps: 2, lost_flows: 3, unknown: 1, from_us: 5, to_us: 9 };
    assert_eq!(gaps, &[total]);
}

#[test]
fn a_changed_file_is_named() {
    let mut bench = Bench::new();
    let path = bench.flows(&[1, 2]);
    bench.stop(2, 2);
    let whole = fs::read(bench.path(&path)).unwrap();
    for position in [0, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(bench.path(&path), changed).unwrap();
        let report = bench.verify();
        assert_fault(&report, Check::File, Some(2), &path);
        assert_eq!(report.faults, 1, "{report:#?}");
    }
    fs::write(bench.path(&path), &whole[1..]).unwrap();
    assert_fault(&bench.verify(), Check::File, Some(2), &format!("has {} bytes", whole.len() - 1));
    fs::write(bench.path(&path), whole).unwrap();
    bench.assert_clean();
}

#[test]
fn a_missing_file_is_named() {
    let mut bench = two_runs();
    bench.start(3);
    let path = bench.flows(&[1]);
    bench.stop(1, 1);
    fs::remove_file(bench.path(&path)).unwrap();
    let report = bench.verify();
    assert_fault(&report, Check::File, Some(13), &path);
    assert_eq!(report.faults, 1, "{report:#?}");
}

#[test]
fn what_the_ledger_does_not_name_is_foreign() {
    let bench = two_runs();
    let too_many = "flows/v1/date=2026-11-21/hour=08/more.parquet";
    fs::copy(bench.path("flows/v1/date=2026-11-21/hour=08/2.parquet"), bench.path(too_many)).unwrap();
    fs::write(bench.path("gaps/notes.txt"), "").unwrap();
    fs::write(bench.path("flows/_SUCCESS"), "").unwrap();
    std::os::unix::fs::symlink("/etc", bench.path("flows/link")).unwrap();
    nix::unistd::mkfifo(&bench.path("gaps/pipe"), Mode::S_IRWXU).unwrap();
    let report = bench.verify();
    for path in [too_many, "gaps/notes.txt", "flows/link", "gaps/pipe"] {
        assert_fault(&report, Check::Foreign, None, path);
    }
    assert_eq!(report.faults, 4, "{report:#?}");
}

#[test]
fn a_ledger_that_points_elsewhere_is_not_followed() {
    let bench = Bench::new();
    let outside = bench.path("outside");
    nix::unistd::mkfifo(&outside, Mode::S_IRWXU).unwrap();
    fs::create_dir_all(bench.path("flows")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path("flows/link")).unwrap();
    nix::unistd::mkfifo(&bench.path("flows/pipe"), Mode::S_IRWXU).unwrap();
    let mut bench = bench;
    let paths = [
        "../x",
        "/etc/passwd",
        "flows/../../x",
        "gaps/1",
        "",
        "flows",
        "flows/link",
        "flows/pipe",
        "flows\0",
    ];
    for path in paths {
        let file = bench.flows_file(None, &[1]);
        fs::remove_file(bench.path(&file.path)).unwrap();
        bench.append(Event::File(PublishedFile { path: path.into(), ..file }));
    }
    let report = bench.verify();
    let lines: HashSet<_> =
        report.findings.iter().filter(|finding| finding.check == Check::File).map(|f| f.line).collect();
    assert_eq!(lines.len(), paths.len(), "{:#?}", report.findings);
}

#[test]
fn a_cut_ledger_is_found_wherever_it_is_cut() {
    let bench = two_runs();
    let whole = fs::read(bench.path(ledger::PATH)).unwrap();
    for end in 0..whole.len() {
        fs::write(bench.path(ledger::PATH), &whole[..end]).unwrap();
        assert!(!bench.verify().ok, "cut at {end} of {}", whole.len());
    }
    let lines = bench.ledger_lines();
    bench.write_ledger(&lines[..10]);
    assert_fault(&bench.verify(), Check::End, Some(8), "the end of the ledger was cut");
    fs::remove_file(bench.path(ledger::PATH)).unwrap();
    assert_fault(&bench.verify(), Check::End, None, "there is no ledger");
}

#[test]
fn a_line_that_is_not_where_it_was_is_found() {
    let bench = two_runs();
    let lines = bench.ledger_lines();
    for one in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(one);
        bench.write_ledger(&removed);
        assert!(!bench.verify().ok, "without line {}", one + 1);
        for other in one + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(one, other);
            bench.write_ledger(&swapped);
            let report = bench.verify();
            assert_fault(&report, Check::Chain, Some(one as u64 + 1), "");
        }
        let mut doubled = lines.clone();
        doubled.insert(one, lines[one].clone());
        bench.write_ledger(&doubled);
        assert_fault(&bench.verify(), Check::Chain, Some(one as u64 + 2), "");
    }
    bench.write_ledger(&lines);
    bench.assert_clean();
}

#[test]
fn a_changed_line_is_named_also_with_a_new_checksum() {
    let bench = two_runs();
    let mut lines = bench.ledger_lines();
    lines[3] = lines[3].replace(r#""lost_flows":3"#, r#""lost_flows":0"#);
    bench.write_ledger(&lines);
    assert_fault(&bench.verify(), Check::Line, Some(4), "it was changed");

    lines[3] = with_checksum(&lines[3]);
    bench.write_ledger(&lines);
    let report = bench.verify();
    assert_fault(&report, Check::Chain, Some(5), "line 4 was changed, or lines were removed");
    // The file of gaps has it as it was.
    assert_fault(&report, Check::Gaps, Some(6), "1 of its gaps are not in the ledger");
}

fn with_checksum(line: &str) -> String {
    let fields = &line[..line.len() - 21];
    format!(r#"{fields},"crc32c":"{:08x}"}}"#, crc32c::crc32c(fields.as_bytes()))
}

/// Somebody who may write all files makes a new chain; files that are there know the old one.
#[test]
fn a_ledger_that_was_written_anew_does_not_fit_its_files() {
    let mut bench = Bench::new();
    bench.gap(1, loss(None, Stage::Receive));
    let gaps = bench.gaps(1, 1, &[loss(None, Stage::Receive)]);
    let path = bench.flows(&[1]);
    bench.stop(1, 1);
    let lines = bench.ledger_lines();
    let noted = Hash::of(lines[4].as_bytes());
    let mut forged: Vec<String> = Vec::new();
    for line in [&lines[0], &lines[3], &lines[4]] {
        let prev = forged.last().map_or(Hash::ZERO, |line| Hash::of(line.as_bytes()));
        forged.push(with_checksum(&format!(r#"{{"prev":"{prev}"{}"#, &line[74..])));
    }
    assert!(bench.verify_with(Some(noted)).ok);
    bench.write_ledger(&forged);
    fs::remove_file(bench.path(&gaps)).unwrap();
    let report = bench.verify_with(Some(noted));
    assert_fault(&report, Check::Tip, Some(2), &path);
    assert_fault(&report, Check::Tip, None, &format!("no line has the noted hash {noted}"));
    assert_eq!(report.faults, 2, "{report:#?}");
}

#[test]
fn a_noted_tip_is_found_again() {
    let bench = two_runs();
    for line in bench.ledger_lines() {
        let report = bench.verify_with(Some(Hash::of(line.as_bytes())));
        assert!(
            report.ok && report.findings.iter().any(|finding| finding.check == Check::Tip),
            "{report:#?}"
        );
    }
}

#[test]
fn rows_are_there_each_once() {
    let mut bench = Bench::new();
    bench.flows(&[1, 2, 5]);
    bench.flows(&[5, 8]);
    bench.stop(9, 5);
    let report = bench.verify();
    assert_fault(&report, Check::Rows, Some(3), "has the rows 5 of run");
    assert_fault(&report, Check::Rows, Some(4), "no file has the rows 3-4, 6-7, 9 of run");
    assert_eq!(report.faults, 2, "{report:#?}");

    let mut bench = Bench::new();
    bench.flows(&[1, 2, 3]);
    bench.stop(2, 2);
    let report = bench.verify();
    assert_fault(&report, Check::Rows, Some(3), "files have the rows 3 of run");
    assert_fault(&report, Check::Rows, Some(3), "says that run");
}

#[test]
fn rows_that_are_declared_as_lost_are_no_fault() {
    for (lost, ok) in [(Some(1), false), (Some(2), true), (None, true)] {
        let mut bench = Bench::new();
        bench.flows(&[1, 2, 5]);
        bench.gap(1, loss(lost, Stage::Write));
        bench.gaps(1, 1, &[loss(lost, Stage::Write)]);
        bench.stop(5, 3);
        let report = bench.verify();
        assert_eq!((report.ok, report.faults + report.warnings), (ok, 1), "{report:#?}");
    }
}

#[test]
fn a_file_that_is_not_what_the_ledger_says_is_named() {
    let mut bench = Bench::new();
    let mut file = bench.flows_file(Some(run(7)), &[1, 2]);
    (file.rows, file.seq_last, file.of_run, file.end_time_max_us) = (3, Some(3), None, Some(1));
    bench.append(Event::File(file));
    bench.stop(2, 3);
    let report = bench.verify();
    for (check, text) in [
        (Check::File, "its footer says 2 rows"),
        (Check::File, "flowlog.run_id is 00000000-0000-0000-0000-000000000007"),
        (Check::File, "flowlog.rows is 2"),
        (Check::File, "flowlog.seq_last is 2"),
        (Check::File, "has end_time from 1001 to 1002 us"),
        (Check::Rows, "has 2 rows from 1 to 2"),
    ] {
        assert_fault(&report, check, Some(2), text);
    }
}

#[test]
fn gaps_and_their_files_agree() {
    let mut bench = Bench::new();
    bench.gap(1, loss(Some(1), Stage::Receive));
    bench.gap(3, loss(Some(2), Stage::Receive));
    bench.gaps(1, 1, &[loss(Some(7), Stage::Receive)]);
    bench.stop(0, 0);
    let report = bench.verify();
    assert_fault(&report, Check::Gaps, Some(3), "is gap 3 of run");
    assert_fault(&report, Check::Gaps, Some(3), "no file has gap 3");
    assert_fault(&report, Check::Gaps, Some(4), "1 of its gaps are not in the ledger, and it lacks 1");
    assert_eq!(report.faults, 3, "{report:#?}");
}

#[test]
fn a_killed_run_is_told_until_it_is_recovered() {
    let mut bench = Bench::new();
    bench.flows(&[1, 2]);
    bench.gap(1, loss(None, Stage::Receive));
    fs::create_dir_all(bench.path("_flowlog/wal")).unwrap();
    fs::write(bench.path("_flowlog/wal/1.wal"), "rows").unwrap();
    let report = bench.verify();
    assert_fault(&report, Check::End, Some(1), "was killed and not recovered yet, or the end");
    assert_eq!(report.faults, 1);
    let leftover = report.findings.last().unwrap();
    assert_eq!((leftover.level, leftover.path.as_deref()), (Level::Information, Some("_flowlog/wal")));
    fs::remove_file(bench.path("_flowlog/wal/1.wal")).unwrap();

    // The next run forgets it.
    bench.start(2);
    bench.stop(0, 0);
    assert_fault(&bench.verify(), Check::End, Some(1), "neither stopped nor was recovered");

    // The one after it does not.
    bench.start(3);
    bench.flows_of(Some(run(1)), &[3, 4]);
    let Gap { lost_flows, stage, .. } = loss(None, Stage::Receive);
    let path = {
        let of_run = bench.run;
        bench.run = run(1);
        let path = bench.gaps_unlisted(1, &[loss(lost_flows, stage)]);
        bench.run = of_run;
        path
    };
    bench.append(Event::File(PublishedFile { of_run: Some(run(1)), ..path }));
    bench.recover(run(1), 2, 0);
    bench.stop(0, 0);
    bench.assert_clean();
}

impl Bench {
    /// A file of gaps that no line names yet.
    fn gaps_unlisted(&mut self, gap: u64, gaps: &[Gap]) -> PublishedFile {
        let before = self.ledger_lines();
        self.gaps(gap, gap, gaps);
        let text = self.ledger_lines().pop().unwrap();
        let Event::File(file) = Line::decode(text.as_bytes()).unwrap().event else { unreachable!() };
        self.write_ledger(&before);
        self.ledger = Ledger::open(&self.path(ledger::PATH)).unwrap().0;
        file
    }
}

#[test]
fn a_recovery_says_what_it_could_not_read() {
    let mut bench = Bench::new();
    bench.flows(&[1, 2]);
    bench.start(2);
    bench.flows_of(Some(run(1)), &[5]);
    bench.recover(run(1), 1, 300);
    bench.stop(0, 0);
    let report = bench.verify();
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.warnings, 2, "what was dropped, and the rows 3-4: {report:#?}");

    let mut bench = Bench::new();
    bench.flows(&[1, 2]);
    bench.start(2);
    bench.flows_of(Some(run(1)), &[5]);
    bench.recover(run(1), 2, 0);
    bench.stop(0, 0);
    let report = bench.verify();
    assert_fault(&report, Check::Rows, Some(5), "no file has the rows 3-4 of run");
    assert_fault(&report, Check::Rows, Some(5), "says that 2 rows of run");
}

#[test]
fn lines_belong_to_the_run_that_goes_on() {
    let mut bench = Bench::new();
    bench.stop(0, 0);
    bench.flows(&[1]);
    bench.start(1);
    let report = bench.verify();
    assert_fault(&report, Check::Run, Some(3), "is a line of run");
    assert_fault(&report, Check::Run, Some(4), "for the second time");
}

#[test]
fn a_run_that_could_not_write_is_recovered_all_the_same() {
    let mut bench = Bench::new();
    bench.flows_of(Some(run(7)), &[1]);
    bench.recover(run(7), 1, 0);
    bench.stop(0, 0);
    let report = bench.verify();
    assert_eq!((report.faults, report.warnings), (0, 1), "{report:#?}");
    assert_eq!(report.findings[0].check, Check::Run);
}

#[test]
fn deletions_are_of_files_that_were_there() {
    let mut bench = Bench::new();
    let path = bench.flows(&[1]);
    bench.delete(&path, false);
    bench.append(Event::Delete(Deleted {
        path: "flows/other.parquet".into(),
        sha256: Hash::ZERO,
        bytes: 1,
        reason: DeleteReason::Bytes,
    }));
    bench.stop(1, 1);
    let report = bench.verify();
    assert_fault(&report, Check::File, Some(4), "no line before names it");
    assert_eq!((report.faults, report.warnings), (1, 1), "{report:#?}");
    fs::remove_file(bench.path(&path)).unwrap();
    assert_eq!(bench.verify().warnings, 0);
}

#[test]
fn a_daemon_that_runs_is_no_fault() {
    let mut bench = Bench::new();
    // The rows 2 and 3 are in the file of another hour, which is open yet.
    bench.flows(&[1, 4]);
    let lock = File::create(bench.path("_flowlog/lock")).unwrap();
    lock.lock().unwrap();
    fs::create_dir_all(bench.path("_flowlog/staging")).unwrap();
    fs::write(bench.path("_flowlog/staging/open.parquet"), "").unwrap();
    assert!(bench.assert_clean().in_use);

    // It publishes while it is verified.
    let file = bench.flows_file(None, &[2, 3]);
    let output = bench.dir.path().to_owned();
    let verifier = std::thread::spawn(move || verify(&output, None, &mut |_| ()).unwrap());
    bench.append(Event::File(file));
    let report = verifier.join().unwrap();
    assert!(report.ok, "{report:#?}");

    lock.unlock().unwrap();
    assert!(!bench.verify().ok);
    File::create(bench.path("_flowlog/lock")).unwrap().try_lock().unwrap();
}

#[test]
fn a_time_that_goes_back_is_a_warning() {
    let mut bench = Bench::new();
    let before = SystemTime::UNIX_EPOCH;
    bench.ledger.append(bench.run, before, Event::Stop(Stopped { last_seq: 0, rows: 0 })).unwrap();
    let report = bench.verify();
    assert!(report.ok);
    assert_eq!(report.findings[0].check, Check::Time);
}

#[test]
fn many_findings_are_counted() {
    let bench = Bench::new();
    bench.write_ledger(&vec!["x".repeat(10); 5000]);
    let report = bench.verify();
    assert_eq!((report.faults, report.findings.len(), report.more_findings), (5000, 1000, 4000));
}

#[test]
fn a_directory_that_is_none_is_an_error() {
    let error = verify(Path::new("/nonexistent"), None, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot read `/nonexistent`"), "{error}");
}

#[test]
fn any_changed_byte_of_the_ledger_is_found() {
    let bench = two_runs();
    let whole = fs::read(bench.path(ledger::PATH)).unwrap();
    proptest!(ProptestConfig::with_cases(2000), |(position: prop::sample::Index, change in 1..=255_u8)| {
        let mut changed = whole.clone();
        let position = position.index(changed.len());
        changed[position] ^= change;
        fs::write(bench.path(ledger::PATH), &changed).unwrap();
        prop_assert!(!bench.verify().ok, "byte {} became {}", position, changed[position]);
    });
}

#[test]
fn any_bytes_are_a_ledger() {
    let bench = two_runs();
    let whole = fs::read(bench.path(ledger::PATH)).unwrap();
    proptest!(|(bytes: Vec<u8>, from: prop::sample::Index, to: prop::sample::Index)| {
        let (from, to) = (from.index(whole.len()), to.index(whole.len()));
        let ledger = [&whole[..from], &bytes, &whole[to..]].concat();
        fs::write(bench.path(ledger::PATH), &ledger).unwrap();
        prop_assert!(!bench.verify().ok || ledger == whole);
    });
}

/// The ledger names the file as it is, so that it is decoded.
#[test]
fn any_bytes_are_a_file() {
    let mut bench = Bench::new();
    let flows = bench.flows_file(None, &(1..300).collect::<Vec<_>>());
    let gaps = bench.gaps_unlisted(1, &[loss(Some(1), Stage::Write)]);
    let wholes = [&flows, &gaps].map(|file| fs::read(bench.path(&file.path)).unwrap());
    let start = bench.ledger_lines();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
    proptest!(|(changes in changes, cut in prop::option::weighted(0.2, any::<prop::sample::Index>()))| {
        bench.write_ledger(&start);
        let (mut ledger, _) = Ledger::open(&bench.path(ledger::PATH)).unwrap();
        for (file, whole) in [&flows, &gaps].into_iter().zip(&wholes) {
            let mut bytes = whole.clone();
            for (position, byte) in &changes {
                let position = position.index(bytes.len());
                bytes[position] = *byte;
            }
            bytes.truncate(cut.map_or(whole.len(), |cut| cut.index(whole.len())));
            fs::write(bench.path(&file.path), bytes).unwrap();
            let mut file = file.clone();
            bench.measure(&mut file);
            ledger.append(bench.run, SystemTime::now(), Event::File(file)).unwrap();
        }
        bench.verify();
    });
}
