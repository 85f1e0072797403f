//! Whether an output directory is what flowlog wrote, and all of it.
//!
//! Holds the ledger against itself and against the files, and names each difference. Changes nothing,
//! judges without a clock, and takes bounded memory: it goes through the ledger once, and keeps what is
//! open (files that are there, runs that go on, rows as ranges).
//!
//! ```text
//! lines -> chain                       each line follows the one before
//!       -> runs                        start, stop, recovery; gaps and rows without holes
//!       -> published                   each file: size, hash, footer, rows    directory, parquet
//! ```
//!
//! Never panics, whatever the bytes are. A file whose hash is not that of the ledger is not decoded.

mod chain;
mod directory;
mod parquet;
mod published;
mod ranges;
mod report;
mod runs;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use flowlog_reader::directory::{DirectoryError, Published, exists, is_in_use, published};
use flowlog_reader::layout;
use flowlog_reader::ledger::{Deleted, Entry, Event, Hash, Line, Lines};
use uuid::Uuid;

pub use report::{Check, Finding, GapTotal, Level, Report};

use self::chain::Chain;
use self::report::Findings;
use self::runs::Runs;

/// How long a daemon may take from the name of a file to its line in the ledger. Only where it would
/// be a fault is it waited for.
const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// How often the ledger is read while a line is waited for.
const LINE_INTERVAL: Duration = Duration::from_millis(20);

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
) -> Result<Report, DirectoryError> {
    std::fs::read_dir(output).map_err(|source| DirectoryError { path: output.to_owned(), source })?;
    // The daemon may stop or start meanwhile.
    let was_in_use = is_in_use(output);
    let mut findings = Findings::default();
    // First the files, then the ledger: what is published in between has its line.
    let Published { files: unnamed, others } = published(output)?;
    for path in &others {
        let finding = Finding::fault(Check::Foreign, "is neither a file nor a directory");
        findings.add(finding.path(path).expected("Parquet files only"));
    }
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
    let path = output.join(layout::LEDGER);
    match File::open(&path) {
        Ok(file) => {
            verification
                .read(Lines::new(file), was_in_use)
                .map_err(|source| DirectoryError { path, source })?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(DirectoryError { path, source }),
    }
    Ok(verification.finish(was_in_use || is_in_use(output)))
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
        let mut deadline = None;
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
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + LINE_DEADLINE);
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
            Event::Namespace(_) => {}
            Event::Unknown => {
                let found = "is an event of a later version of flowlog, and was not checked";
                findings.add(Finding::new(Level::Warning, Check::Line, found).line(number));
            }
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
            None if exists(self.output, &path) => {
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
        // Of a run that stopped, each file has its line.
        let unfinished: Vec<Uuid> = self.runs.unfinished().map(|(run_id, _)| run_id).collect();
        for path in self.unnamed.keys() {
            let finding = if unfinished.iter().any(|run_id| layout::is_of_run(Path::new(path), *run_id)) {
                let found = "is in no line of the ledger yet: its run was killed before it wrote that line, or is about to write it";
                Finding::new(Level::Information, Check::Foreign, found)
            } else {
                Finding::fault(Check::Foreign, "is in no line of the ledger")
                    .expected("only files that flowlog published")
            };
            self.findings.add(finding.path(path));
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
                        "the last run, {run_id}, was killed and not recovered yet, or the end of the ledger was cut; the \
                         next `flowlog run` recovers what a killed run left"
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
            findings.add(finding.path(layout::LEDGER).expected("a line for each run and each file"));
        }
    }
}

#[cfg(test)]
mod tests;
