//! Directories as daemons leave them, and what somebody did to them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::metadata::KeyValue;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::layout;
use flowlog_reader::ledger::{DeclaredGap, DeleteReason, PublishedFile, Recovered, Stopped, Table};
use nix::sys::stat::Mode;
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::log::ledger::Ledger;
use crate::log::writer::Directory;
use crate::testing;

mod bytes;
mod files;
mod ledger_lines;

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
        let dir = testing::directory();
        fs::create_dir_all(dir.path().join("_flowlog")).unwrap();
        let (ledger, _) = Ledger::open(&dir.path().join(layout::LEDGER)).unwrap();
        let mut bench = Self { dir, ledger, run: run(1), files: 0 };
        bench.start(1);
        bench
    }

    fn append(&mut self, event: Event) {
        self.ledger.append(self.run, SystemTime::now(), event).unwrap();
    }

    fn start(&mut self, number: u128) {
        self.run = run(number);
        self.append(Event::Start(testing::started()));
    }

    fn stop(&mut self, last_seq: i64, rows: u64) {
        self.append(Event::Stop(Stopped { last_seq, rows, complete_until_us: 0 }));
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

    /// A file of gaps that no line names yet.
    fn gaps_unlisted(&mut self, gap: u64, gaps: &[Gap]) -> PublishedFile {
        let before = self.ledger_lines();
        self.gaps(gap, gap, gaps);
        let text = self.ledger_lines().pop().unwrap();
        let Event::File(file) = Line::decode(text.as_bytes()).unwrap().event else { unreachable!() };
        self.write_ledger(&before);
        self.ledger = Ledger::open(&self.path(layout::LEDGER)).unwrap().0;
        file
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
        let mut file = PublishedFile::new(Table::Flows, path, rows.num_rows() as u64);
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
        let text = fs::read_to_string(self.path(layout::LEDGER)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn write_ledger(&self, lines: &[String]) {
        fs::write(
            self.path(layout::LEDGER),
            lines.iter().map(|line| format!("{line}\n")).collect::<String>(),
        )
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
