//! Whether an output directory is what flowlog wrote, and all of it.
//!
//! Holds the ledger against itself and against the files, and names each difference. Changes nothing,
//! judges without a clock, and takes bounded memory: it goes through the ledger once, and keeps what is
//! open (files that are there, runs that go on, rows as ranges).
//!
//! ```text
//! lines -> chain                       each line follows the one before
//!       -> runs                        start, stop, recovery; gaps and rows without holes
//!       -> directory -> parquet        each file: size, hash, footer, rows
//! ```
//!
//! Never panics, whatever the bytes are. A file whose hash is not that of the ledger is not decoded.

mod chain;
mod directory;
mod parquet;
mod ranges;
mod report;
mod runs;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::parquet::errors::ParquetError;
use uuid::Uuid;

pub use report::{Check, Finding, GapTotal, Level, Report};

use self::chain::Chain;
use self::directory::Named;
use self::parquet::Parquet;
use self::ranges::Ranges;
use self::report::Findings;
use self::runs::Runs;
use crate::gaps::Gap;
use crate::ledger::{self, Deleted, Entry, Event, Hash, Line, Lines, PublishedFile, Table};

/// How long a daemon may take from the name of a file to its line in the ledger. Only where it would
/// be a fault is it waited for.
const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// How often the ledger is read while a line is waited for.
const LINE_INTERVAL: Duration = Duration::from_millis(20);

/// The directory could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`, expected the output directory of `flowlog run`", path.display())]
pub struct VerifyError {
    /// File or directory.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files that were read.
    pub done_bytes: u64,
    /// Bytes of all files when it began.
    pub total_bytes: u64,
}

/// Verifies an output directory. `noted` is a hash of the ledger that was noted elsewhere; `progress` is
/// called while files are read.
///
/// # Errors
///
/// It cannot be read at all. What is wrong in it is in the report.
pub fn verify(
    output: &Path,
    noted: Option<Hash>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError> {
    std::fs::read_dir(output).map_err(|source| VerifyError { path: output.to_owned(), source })?;
    // The daemon may stop or start meanwhile.
    let was_in_use = directory::is_in_use(output);
    let mut findings = Findings::default();
    // First the files, then the ledger: what is published in between has its line.
    let unnamed = directory::published(output, &mut findings)?;
    let total_bytes = unnamed.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let mut verification = Verification {
        output,
        chain: Chain::new(noted),
        runs: Runs::default(),
        findings,
        unnamed,
        missing: HashMap::new(),
        counts: Counts::default(),
        total_bytes,
        progress,
    };
    let path = output.join(ledger::PATH);
    match File::open(&path) {
        Ok(file) => {
            verification.read(Lines::new(file), was_in_use).map_err(|source| VerifyError { path, source })?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(VerifyError { path, source }),
    }
    Ok(verification.finish(was_in_use || directory::is_in_use(output)))
}

/// A verification up to a line of the ledger.
struct Verification<'a> {
    output: &'a Path,
    chain: Chain,
    runs: Runs,
    findings: Findings,
    /// Files that are there and that no line has named yet.
    unnamed: BTreeMap<String, u64>,
    /// Files that are not there, and that no line has deleted yet.
    missing: HashMap<String, MissingFile>,
    counts: Counts,
    total_bytes: u64,
    progress: &'a mut dyn FnMut(Progress),
}

struct MissingFile {
    line: u64,
    sha256: Hash,
}

#[derive(Default)]
struct Counts {
    files: u64,
    deleted_files: u64,
    rows: u64,
    bytes: u64,
    done_bytes: u64,
}

impl Verification<'_> {
    /// Goes through the ledger.
    fn read(&mut self, mut lines: Lines<File>, is_in_use: bool) -> io::Result<()> {
        let deadline = Instant::now() + LINE_DEADLINE;
        loop {
            for entry in lines.by_ref() {
                let entry = entry?;
                if !entry.is_ended && is_in_use {
                    // The daemon is about to write the rest.
                    return Ok(());
                }
                self.take(entry);
            }
            // A file without a line may get one in this moment.
            if !is_in_use || self.unnamed.is_empty() || Instant::now() > deadline {
                return Ok(());
            }
            std::thread::sleep(LINE_INTERVAL);
        }
    }

    fn take(&mut self, entry: Entry) {
        self.chain.take(&entry, &mut self.findings);
        let number = entry.number;
        let Ok(Line { prev: _, time: _, run_id, event }) = entry.line else { return };
        let Self { runs, findings, .. } = self;
        if !matches!(event, Event::Start(_)) {
            runs.check_current(number, run_id, findings);
        }
        match event {
            Event::Start(started) => {
                runs.start(number, run_id, findings);
                if let Some(bytes) = started.torn_bytes {
                    let found = format!(
                        "run {run_id} found {bytes} bytes of a torn line before this one, and cut them off"
                    );
                    findings.add(Finding::new(Level::Information, Check::Line, found).line(number));
                }
            }
            Event::File(file) => self.file(number, run_id, &file),
            Event::Gap(gap) => runs.gap(number, run_id, &gap, findings),
            Event::Recover(recovered) => {
                if let Some(reason) = recovered.dropped_reason.as_deref() {
                    let found = format!(
                        "the last {} bytes of the write-ahead log of run {} could not be read: {reason}",
                        recovered.dropped_bytes, recovered.of_run
                    );
                    findings.add(Finding::new(Level::Warning, Check::Run, found).line(number));
                }
                runs.recover(number, run_id, &recovered, findings);
            }
            Event::Stop(stopped) => runs.stop(number, run_id, &stopped, findings),
            Event::Delete(deleted) => self.delete(number, deleted),
            Event::Unknown => {
                let found = "is an event of a later version of flowlog, and was not checked";
                findings.add(Finding::new(Level::Warning, Check::Line, found).line(number));
            }
        }
    }

    /// A file that was published.
    fn file(&mut self, line: u64, run_id: Uuid, file: &PublishedFile) {
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
        let finding = match directory::open(self.output, file) {
            Named::There(mut opened, bytes) if bytes == file.bytes => match self.hash(&mut opened) {
                Ok(hash) if hash == file.sha256 => return Some(opened),
                Ok(hash) => Finding::fault(Check::File, format!("was changed: its SHA-256 is {hash}"))
                    .expected(file.sha256.to_string()),
                Err(error) => directory::unreadable(&error),
            },
            Named::There(_, bytes) => Finding::fault(Check::File, format!("was changed: has {bytes} bytes"))
                .expected(file.bytes.to_string()),
            Named::Missing => {
                self.missing.insert(file.path.clone(), MissingFile { line, sha256: file.sha256 });
                return None;
            }
            Named::Other(finding) => finding,
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
                format!("has the rows {doubles} of run {of_run}, which a file had before"),
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
        let mut declared: Vec<&Gap> = declared.iter().collect();
        let run = of_run.to_string();
        let unknown = found.iter().filter(|(run_id, gap)| {
            let known = declared.iter().position(|declared| *run_id == run && is_same(declared, gap));
            known.map(|known| declared.swap_remove(known)).is_none()
        });
        let unknown = unknown.count();
        if unknown > 0 || !declared.is_empty() {
            let found =
                format!("{unknown} of its gaps are not in the ledger, and it lacks {}", declared.len());
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
                "was finished when the ledger ended with a line of the hash {tip}, which no line has: the ledger was cut or written anew"
            );
            self.fault_of(line, file, Finding::fault(Check::Tip, found).expected("a line with this hash"));
        }
    }

    /// A file is deleted.
    fn delete(&mut self, line: u64, deleted: Deleted) {
        let Deleted { path, sha256, bytes: _, reason: _ } = deleted;
        self.counts.deleted_files += 1;
        let finding = match self.missing.remove(&path) {
            Some(missing) if missing.sha256 == sha256 => return,
            Some(missing) => Finding::fault(Check::File, format!("is deleted with the SHA-256 {sha256}"))
                .expected(missing.sha256.to_string()),
            None if directory::exists(self.output, &path) => {
                Finding::new(Level::Warning, Check::File, "was to be deleted, and is still there")
            }
            None => Finding::fault(Check::File, "is deleted, and no line before names it")
                .expected("a published file"),
        };
        self.findings.add(finding.line(line).path(&path));
    }

    /// The ledger has ended.
    fn finish(mut self, in_use: bool) -> Report {
        self.chain.finish(&mut self.findings);
        self.finish_files();
        self.finish_runs(in_use);
        if !in_use {
            directory::leftovers(self.output, &mut self.findings);
        }
        let Self { chain, runs, findings, counts, .. } = self;
        let Counts { files, deleted_files, rows, bytes, done_bytes: _ } = counts;
        Report {
            ok: findings.faults == 0,
            in_use,
            lines: chain.lines(),
            runs: runs.count,
            files,
            deleted_files,
            rows,
            bytes,
            gaps: runs.gaps,
            findings: findings.kept,
            more_findings: findings.not_kept,
            faults: findings.faults,
            warnings: findings.warnings,
            tip: chain.tip(),
        }
    }

    fn finish_files(&mut self) {
        let mut missing: Vec<_> = self.missing.drain().map(|(path, missing)| (missing.line, path)).collect();
        missing.sort();
        for (line, path) in missing {
            let finding = Finding::fault(Check::File, "is missing").line(line).path(&path);
            self.findings.add(finding.expected("the file, or a line that says that it was deleted"));
        }
        for path in self.unnamed.keys() {
            let finding = Finding::fault(Check::Foreign, "is in no line of the ledger").path(path);
            self.findings.add(finding.expected("only files that flowlog published"));
        }
    }

    fn finish_runs(&mut self, in_use: bool) {
        let Self { chain, runs, findings, .. } = self;
        for (run_id, line) in runs.unfinished() {
            let is_current = runs.is_current(run_id);
            let (level, found) = match (in_use, is_current) {
                (true, true) => continue,
                (true, false) => (
                    Level::Information,
                    format!("run {run_id} did not stop; the run that goes on may recover it now"),
                ),
                (false, true) => (
                    Level::Fault,
                    format!(
                        "the last run, {run_id}, was killed and not recovered yet, or the end of the ledger was cut"
                    ),
                ),
                (false, false) => {
                    (Level::Fault, format!("run {run_id} neither stopped nor was recovered by a later run"))
                }
            };
            findings.add(Finding::new(level, Check::End, found).line(line).expected("a run that stops"));
        }
        if chain.lines() == 0 {
            let finding = Finding::fault(Check::End, "there is no ledger, or it is empty");
            findings.add(finding.path(ledger::PATH).expected("a line for each run and each file"));
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

#[cfg(test)]
mod tests;
