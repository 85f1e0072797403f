//! Deletes what may be deleted, and says so in the ledger.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flowlog_reader::layout;
use flowlog_reader::ledger::{DeleteReason, Deleted, Event, Hash};
use tracing::{info, warn};

use super::queue::{LineQueue, Unlogged};
use super::recover::RunToRecover;
use crate::log::retention::{Kept, RetentionLimits, to_delete};
use crate::log::writer::Directory;

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// Which files are deleted, and when.
pub(super) struct Retention {
    limits: RetentionLimits,
    looked: SystemTime,
    /// Files that could not be deleted.
    undeletable: BTreeSet<PathBuf>,
}

impl Retention {
    pub(super) fn new(limits: RetentionLimits) -> Self {
        Self { limits, looked: SystemTime::UNIX_EPOCH, undeletable: BTreeSet::new() }
    }

    /// Deletes the files that are beyond a bound, but not those of `unfinished` runs: the rows of a run that is not
    /// recovered yet are compared with its files.
    pub(super) fn delete(
        &mut self,
        directory: &Directory,
        unfinished: &[RunToRecover],
        lines: &mut LineQueue,
        now: SystemTime,
    ) {
        let is_due = now.duration_since(self.looked).map_or(true, |waited| waited >= INTERVAL);
        if self.limits.is_off() || !is_due {
            return;
        }
        self.looked = now;
        let found = files(directory).and_then(|files| Ok((files, free_bytes(directory)?)));
        let (files, free_bytes) = match found {
            Ok(found) => found,
            Err(error) => {
                return warn!("cannot find out which old files to delete, so none is deleted: {error}");
            }
        };
        for (file, reason) in to_delete(files, self.limits, free_bytes, now) {
            let is_needed = unfinished.iter().any(|run| run.has(&file.path));
            // What could not be deleted has its line.
            if is_needed || self.undeletable.contains(&file.path) {
                continue;
            }
            if let Err(error) = delete(directory, &file, reason, lines, now) {
                warn!("cannot delete the old file `{}`, delete it yourself: {error}", file.path.display());
                self.undeletable.insert(file.path);
            }
        }
    }
}

fn delete(
    directory: &Directory,
    file: &Kept,
    reason: DeleteReason,
    lines: &mut LineQueue,
    now: SystemTime,
) -> io::Result<()> {
    let path = directory.root().join(&file.path);
    let (sha256, bytes) = Hash::of_reader(fs::File::open(&path)?, |_| {})?;
    let line = Deleted { path: file.path.display().to_string(), sha256, bytes, reason };
    // The line comes first, so that no file is missing without one; but a full disk may have no room
    // for it before the file is gone.
    lines.push(Unlogged::Event(Event::Delete(line)));
    lines.flush(now);
    fs::remove_file(&path)?;
    info!(path = %file.path.display(), bytes, ?reason, "deleted");
    // The partition, where this was its last file.
    let _ = path.parent().map(fs::remove_dir);
    lines.flush(now);
    Ok(())
}

fn free_bytes(directory: &Directory) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(directory.root())?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// The published files, with the end of the time of their partition.
fn files(directory: &Directory) -> io::Result<Vec<Kept>> {
    let mut found = Vec::new();
    for table in [layout::FLOWS, layout::GAPS] {
        match walk(directory.root(), Path::new(table), None, &mut found) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(found)
}

fn walk(root: &Path, below: &Path, until: Option<SystemTime>, found: &mut Vec<Kept>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path: PathBuf = below.join(entry.file_name());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            // What is no directory of flowlog's, and all below it, is of somebody else.
            if let Some(until) = layout::end_of_directory(&path) {
                walk(root, &path, Some(until), found)?;
            }
        } else if let Some(until) = until
            && entry.file_name().to_str().is_some_and(layout::is_file)
        {
            found.push(Kept { until, path, bytes: metadata.len() });
        }
    }
    Ok(())
}
