//! One file that the ledger names: whether it is what the line says.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::errors::ParquetError;
use flowlog_reader::directory::{self as reader, Named};
use flowlog_reader::gaps::Gap;
use flowlog_reader::ledger::{Hash, PublishedFile, Table};
use uuid::Uuid;

use super::directory::unreadable;
use super::parquet::Parquet;
use super::ranges::Ranges;
use super::report::{Check, Finding};
use super::{MissingFile, Progress, Verification};

impl Verification<'_> {
    /// A file that was published.
    pub(super) fn file(&mut self, line: u64, run_id: Uuid, file: &PublishedFile) {
        self.unnamed.remove(&file.path);
        let of_run = file.of_run.unwrap_or(run_id);
        let gaps = match file.table {
            Table::Flows => {
                self.runs.flows(line, run_id, file, &mut self.findings);
                Vec::new()
            }
            Table::Gaps => self.runs.gaps_of(line, run_id, file, &mut self.findings),
        };
        let Some(opened) = self.open(line, file) else {
            return self.runs.excuse(of_run, file);
        };
        self.counts.files += 1;
        self.counts.bytes = self.counts.bytes.saturating_add(file.bytes);
        if file.table == Table::Flows {
            self.counts.rows = self.counts.rows.saturating_add(file.rows);
        }
        // The decoder is tested with wrong bytes, but is not ours: a panic in it is a fault of the file.
        let decoded = catch_unwind(AssertUnwindSafe(|| match file.table {
            Table::Flows => self.check_flows(line, of_run, file, opened),
            Table::Gaps => self.check_gaps(line, of_run, file, opened, &gaps),
        }));
        let error = match decoded {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_panic) => "the decoder failed".to_owned(),
        };
        self.fault_of(line, file, Finding::fault(Check::File, format!("cannot be decoded: {error}")));
        self.runs.excuse(of_run, file);
    }

    /// Opens a file whose bytes are those that were published.
    fn open(&mut self, line: u64, file: &PublishedFile) -> Option<File> {
        let finding = match reader::open(self.output, file) {
            Named::There(mut opened, bytes) if bytes == file.bytes => match self.hash(&mut opened) {
                Ok(hash) if hash == file.sha256 => return Some(opened),
                Ok(hash) => Finding::fault(Check::File, format!("was changed: its SHA-256 is {hash}"))
                    .expected(file.sha256.to_string()),
                Err(error) => unreadable(&error),
            },
            Named::There(_, bytes) => Finding::fault(Check::File, format!("was changed: has {bytes} bytes"))
                .expected(file.bytes.to_string()),
            Named::Missing => {
                self.missing.insert(file.path.clone(), MissingFile { line, sha256: file.sha256 });
                return None;
            }
            Named::Elsewhere(table) => Finding::fault(Check::File, "is not a path of a published file")
                .expected(format!("one below {table}/")),
            Named::NotAFile => Finding::fault(Check::File, "is not a file"),
            Named::Unreadable(error) => unreadable(&error),
        };
        self.fault_of(line, file, finding);
        None
    }

    fn hash(&mut self, file: &mut File) -> io::Result<Hash> {
        let Self { counts, total_bytes, progress, .. } = self;
        let (hash, _) = Hash::of_reader(&mut *file, |bytes| {
            counts.done_bytes = counts.done_bytes.saturating_add(bytes);
            progress(Progress { done_bytes: counts.done_bytes, total_bytes: *total_bytes });
        })?;
        file.rewind()?;
        Ok(hash)
    }

    /// A file of flows says the same as the ledger.
    fn check_flows(
        &mut self,
        line: u64,
        of_run: Uuid,
        file: &PublishedFile,
        opened: File,
    ) -> Result<(), ParquetError> {
        let parquet = Parquet::open(opened)?;
        self.check_rows(line, file, &parquet);
        self.check_metadata(line, of_run, file, &parquet);
        if let (Some(found), Some(min_us), Some(max_us)) =
            (parquet.end_times(), file.end_time_min_us, file.end_time_max_us)
            && found != (min_us, max_us)
        {
            let finding =
                Finding::fault(Check::File, format!("has end_time from {} to {} us", found.0, found.1));
            self.fault_of(
                line,
                file,
                finding.expected(format!("{min_us} to {max_us} us, as the ledger has it")),
            );
        }

        let (mut doubles, mut rows) = (Ranges::default(), 0_u64);
        let mut ends: Option<(i64, i64)> = None;
        parquet.seqs(|part| {
            self.runs.add_rows(of_run, part, &mut doubles);
            rows = rows.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
            if let (Some(&first), Some(&last)) = (part.first(), part.last()) {
                ends = Some(
                    ends.map_or((first, last), |(lowest, highest)| (lowest.min(first), highest.max(last))),
                );
            }
        })?;
        if !doubles.is_empty() {
            let finding = Finding::fault(
                Check::Rows,
                format!("repeats the rows {doubles} of run {of_run}, which an earlier file has"),
            );
            self.fault_of(line, file, finding.expected("each row once"));
        }
        let (found, expected) = ((ends, rows), (file.seq_first.zip(file.seq_last), file.rows));
        if found != expected {
            let text = |(ends, rows): (Option<(i64, i64)>, u64)| match ends {
                Some((first, last)) => format!("{rows} rows from {first} to {last}"),
                None => format!("{rows} rows"),
            };
            let finding = Finding::fault(Check::Rows, format!("has {}", text(found)));
            self.fault_of(line, file, finding.expected(format!("{}, as the ledger has it", text(expected))));
        }
        if !self.runs.is_followed(of_run) {
            let finding = Finding::fault(
                Check::Rows,
                format!("the rows of run {of_run} are scattered, and not all were checked"),
            );
            self.fault_of(line, file, finding.expected("rows in sequence"));
        }
        Ok(())
    }

    /// A file of gaps says the same as the ledger.
    fn check_gaps(
        &mut self,
        line: u64,
        of_run: Uuid,
        file: &PublishedFile,
        opened: File,
        declared: &[Gap],
    ) -> Result<(), ParquetError> {
        let parquet = Parquet::open(opened)?;
        self.check_rows(line, file, &parquet);
        let found = parquet.gaps(declared.len().saturating_add(1))?;
        // Both are in the order of their numbers where nobody changed them.
        let mut declared: VecDeque<&Gap> = declared.iter().collect();
        let run = of_run.to_string();
        let mut unknown = 0_u64;
        for (run_id, gap) in &found {
            match declared.iter().position(|declared| *run_id == run && is_same(declared, gap)) {
                Some(known) => drop(declared.remove(known)),
                None => unknown += 1,
            }
        }
        if unknown > 0 || !declared.is_empty() {
            let found = format!(
                "{unknown} of its gaps are not in the ledger, and {} of the ledger's are not in it",
                declared.len()
            );
            let gaps = |gap: Option<u64>| gap.map_or("?".to_owned(), |gap| gap.to_string());
            let expected =
                format!("the gaps {} to {} of run {of_run}", gaps(file.gap_first), gaps(file.gap_last));
            self.fault_of(line, file, Finding::fault(Check::Gaps, found).expected(expected));
        }
        Ok(())
    }

    fn check_rows(&mut self, line: u64, file: &PublishedFile, parquet: &Parquet) {
        if u64::try_from(parquet.rows()) != Ok(file.rows) {
            let finding = Finding::fault(Check::File, format!("its footer says {} rows", parquet.rows()));
            self.fault_of(line, file, finding.expected(file.rows.to_string()));
        }
    }

    fn check_metadata(&mut self, line: u64, of_run: Uuid, file: &PublishedFile, parquet: &Parquet) {
        let number = |number: Option<i64>| number.map(|number| number.to_string());
        for (name, expected) in [
            ("run_id", Some(of_run.to_string())),
            ("rows", Some(file.rows.to_string())),
            ("seq_first", number(file.seq_first)),
            ("seq_last", number(file.seq_last)),
        ] {
            let found = parquet.metadata(name);
            if found != expected.as_deref() {
                let finding = Finding::fault(
                    Check::File,
                    format!("its flowlog.{name} is {}", found.unwrap_or("missing")),
                );
                self.fault_of(line, file, finding.expected(expected.unwrap_or("nothing".to_owned())));
            }
        }
        if let Some(tip) = parquet.metadata("ledger_tip")
            && !tip.parse().is_ok_and(|tip| self.chain.has(tip))
        {
            let found = format!(
                "its flowlog.ledger_tip is {tip}, but no line has this hash: the ledger was cut or rewritten"
            );
            self.fault_of(line, file, Finding::fault(Check::Tip, found).expected("a line with this hash"));
        }
    }

    fn fault_of(&mut self, line: u64, file: &PublishedFile, finding: Finding) {
        self.findings.add(finding.line(line).path(&file.path));
    }
}

/// Whether a row is this gap. Columns have no numbers that large.
fn is_same(declared: &Gap, row: &Gap) -> bool {
    let limit = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    let limited = |number: Option<u64>| number.map(|number| number.min(limit));
    *row == Gap {
        lost_flows: limited(declared.lost_flows),
        lost_orig_bytes: limited(declared.lost_orig_bytes),
        lost_reply_bytes: limited(declared.lost_reply_bytes),
        ..declared.clone()
    }
}
