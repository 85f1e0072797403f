//! What the flow log has of a time: its files, its gaps, and whether that is all there was.
//!
//! Reads the directory of a daemon that works, or of one that does not: files may come and go meanwhile. The ledger is
//! what counts; the write-ahead log tells what of a run is not in it yet.
//!
//! ```text
//! segments -> until when each run is known        unpublished
//! ledger   -> files, gaps, runs                   gather
//!          -> Contents with Completeness
//! ```
//!
//! In this order: a row that is in no segment any more is in a file that the ledger names.

mod gather;
mod unpublished;

use std::fs::File;
use std::io::{self, Read as _, Take};
use std::path::Path;

use uuid::Uuid;

use crate::directory::{self, DirectoryError, Named};
use crate::gaps::Gap;
use crate::layout;
use crate::ledger::{Lines, PublishedFile};
use crate::segments;
use gather::Gather;

/// How often a directory is read that changes meanwhile. Then what was found is taken, which is on the safe side.
const ATTEMPTS: u32 = 5;

/// A time, by the `end_time` of flows in microseconds since 1970: from the first one until before the second one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// `None`: since the first run.
    pub from_us: Option<i64>,
    /// `None`: as far as it is known.
    pub until_us: Option<i64>,
}

impl Window {
    /// Whether some of the time from `first_us` to `last_us`, both included, is in it.
    pub fn overlaps(&self, first_us: i64, last_us: i64) -> bool {
        self.from_us.is_none_or(|from_us| last_us >= from_us)
            && self.until_us.is_none_or(|until_us| first_us < until_us)
    }
}

/// What the flow log has of a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The files with flows of the time, and those with its gaps, in the order in which they were published.
    pub files: Vec<LoggedFile>,
    /// Whether that is all there was.
    pub completeness: Completeness,
}

/// A file that the ledger names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedFile {
    /// The run whose rows it has.
    pub run_id: Uuid,
    /// The line.
    pub file: PublishedFile,
}

/// Whether the flow log has all flows of a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completeness {
    /// The time that was asked for, with what is known where nothing was said: from the first run that watched, until
    /// all is published. `None` where nobody ever watched.
    pub from_us: Option<i64>,
    /// Its end.
    pub until_us: Option<i64>,
    /// Runs that watched in it. Without any, nothing is known of it.
    pub runs: u64,
    /// Whether a run recorded only the flows that a filter lets through.
    pub is_filtered: bool,
    /// Declared losses, also such as are of no flow.
    pub gaps: Vec<LoggedGap>,
    /// From here on nobody watches, or what was seen is not published yet, if that is in the time.
    pub unpublished_since_us: Option<i64>,
    /// Nobody watched before, if that is in the time.
    pub unwatched_until_us: Option<i64>,
    /// Files with flows of the time that retention has deleted.
    pub deleted: Deletions,
    /// Files that are not there, though the ledger names them.
    pub missing: Vec<String>,
    /// Lines of the ledger that are damaged, or of a later version of flowlog.
    pub unread_lines: u64,
}

/// What retention has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    /// Files.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
}

/// A declared loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedGap {
    /// The run that declared it.
    pub run_id: Uuid,
    /// Its number in the run; `None` where the ledger does not have it yet, as that of the time before a run that has
    /// just begun.
    pub number: Option<u64>,
    /// What was lost.
    pub loss: Gap,
}

impl Completeness {
    /// Whether all flows of the time are there.
    pub fn is_complete(&self) -> bool {
        let Self {
            from_us,
            until_us,
            runs,
            is_filtered: _,
            gaps,
            unpublished_since_us,
            unwatched_until_us,
            deleted,
            missing,
            unread_lines,
        } = self;
        let is_a_time = from_us.zip(*until_us).is_some_and(|(from_us, until_us)| from_us < until_us);
        is_a_time
            && *runs > 0
            && !gaps.iter().any(|gap| gap.loss.misses_flows())
            && unpublished_since_us.is_none()
            && unwatched_until_us.is_none()
            && deleted.files == 0
            && missing.is_empty()
            && *unread_lines == 0
    }
}

/// Reads what the flow log in an output directory has of a time.
///
/// # Errors
///
/// The directory has no ledger, or something in it cannot be read.
pub fn read(output: &Path, window: Window) -> Result<Contents, DirectoryError> {
    let mut missing_before = None;
    let mut attempt = 1;
    loop {
        let (mut contents, has_changed) = read_once(output, window)?;
        let missing = missing(output, &contents.files)?;
        // Retention may have deleted them after their lines were read; then the next attempt finds the lines.
        let is_same = missing.is_empty() || missing_before.as_ref() == Some(&missing);
        if is_same && !has_changed || attempt == ATTEMPTS {
            contents.files.retain(|file| !missing.contains(&file.file.path));
            contents.completeness.missing = missing;
            return Ok(contents);
        }
        missing_before = Some(missing);
        attempt += 1;
    }
}

/// Says also whether segments went while they were read.
fn read_once(output: &Path, window: Window) -> Result<(Contents, bool), DirectoryError> {
    let path = output.join(layout::WAL);
    let listing = segments::list(&path).map_err(|source| DirectoryError { path, source })?;
    let (logs, has_changed) = unpublished::read(&listing.segments)?;

    let path = output.join(layout::LEDGER);
    let failed = |source| DirectoryError { path: path.clone(), source };
    let mut gather = Gather::new(window);
    for entry in Lines::new(open_ledger(&path).map_err(failed)?) {
        gather.take(entry.map_err(failed)?);
    }
    Ok((gather.finish(&logs), has_changed))
}

/// Opens the ledger, as far as it is written now.
fn open_ledger(path: &Path) -> io::Result<Take<File>> {
    let (file, bytes) = directory::open_file(path)?.ok_or_else(|| io::Error::other("it is not a file"))?;
    Ok(file.take(bytes))
}

/// The files that are not there, or are something else.
fn missing(output: &Path, files: &[LoggedFile]) -> Result<Vec<String>, DirectoryError> {
    let mut missing = Vec::new();
    for LoggedFile { file, .. } in files {
        match directory::open(output, file) {
            Named::There(_, bytes) if bytes == file.bytes => {}
            Named::Unreadable(source) => {
                return Err(DirectoryError { path: output.join(&file.path), source });
            }
            Named::There(..) | Named::Missing | Named::Elsewhere(_) | Named::NotAFile => {
                missing.push(file.path.clone());
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests;
