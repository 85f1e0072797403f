//! What is in the output directory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::VerifyError;
use super::report::{Check, Finding, Findings, Level};
use crate::log::layout;
use crate::log::ledger::{PublishedFile, Table};

/// What is left of a run that did not stop, and what becomes of it.
const LEFTOVERS: [(&str, &str); 2] = [
    (layout::STAGING, "unfinished files, which the next run removes"),
    (
        layout::WAL,
        "files of the write-ahead log, whose rows the next run publishes as far as it can read them",
    ),
];

/// Whether a daemon has the directory. The lock is taken for a moment to see that.
pub(super) fn is_in_use(output: &Path) -> bool {
    let Ok(lock) = File::open(output.join(layout::LOCK)) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// The published files, by their paths below the output directory, with their sizes. What is neither a
/// directory nor a file goes to the findings.
pub(super) fn published(
    output: &Path,
    findings: &mut Findings,
) -> Result<BTreeMap<String, u64>, VerifyError> {
    let mut files = BTreeMap::new();
    let mut directories = layout::TABLES.map(PathBuf::from).to_vec();
    while let Some(directory) = directories.pop() {
        let path = output.join(&directory);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Retention removes directories, and there may be no gaps.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(VerifyError { path, source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| VerifyError { path: path.clone(), source })?;
            if entry.file_name().as_encoded_bytes().starts_with(b"_") {
                continue;
            }
            let relative = directory.join(entry.file_name());
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(VerifyError { path: entry.path(), source }),
            };
            let shown = relative.to_string_lossy();
            if metadata.is_dir() {
                directories.push(relative);
            } else if !metadata.is_file() {
                let finding = Finding::fault(Check::Foreign, "is neither a file nor a directory");
                findings.add(finding.path(&shown).expected("Parquet files only"));
            } else {
                // A name that is not text is in no line of the ledger, and neither is its replacement.
                files.insert(shown.into_owned(), metadata.len());
            }
        }
    }
    Ok(files)
}

/// Says what an unfinished run left.
pub(super) fn leftovers(output: &Path, findings: &mut Findings) {
    for (directory, what) in LEFTOVERS {
        let Ok(entries) = fs::read_dir(output.join(directory)) else { continue };
        let sizes =
            entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len());
        let (files, bytes) = sizes.fold((0_u64, 0_u64), |(files, bytes), size| (files + 1, bytes + size));
        if files > 0 {
            let found = format!("{what}: {files}, with {bytes} bytes");
            findings.add(Finding::new(Level::Information, Check::Leftover, found).path(directory));
        }
    }
}

/// A file that the ledger names.
pub(super) enum Named {
    /// It is there, with this size.
    There(File, u64),
    /// There is nothing of this name.
    Missing,
    /// There is something else.
    Other(Finding),
}

/// Opens a file that the ledger names, wherever a changed ledger points to.
pub(super) fn open(output: &Path, file: &PublishedFile) -> Named {
    let [flows, gaps] = layout::TABLES;
    let table = match file.table {
        Table::Flows => flows,
        Table::Gaps => gaps,
    };
    let is_below = layout::is_below(&file.path) && Path::new(&file.path).starts_with(table);
    if !is_below {
        let finding = Finding::fault(Check::File, "is not a path of a published file");
        return Named::Other(finding.expected(format!("one below {table}/")));
    }
    let path = output.join(&file.path);
    // Neither a link nor a pipe: opening one would wait for a writer.
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Named::Other(Finding::fault(Check::File, "is not a file")),
        Err(error) if is_nothing(&error) => return Named::Missing,
        Err(error) => return Named::Other(unreadable(&error)),
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((bytes, file)) => Named::There(file, bytes),
        Err(error) if is_nothing(&error) => Named::Missing,
        Err(error) => Named::Other(unreadable(&error)),
    }
}

/// Whether there is something of this name.
pub(super) fn exists(output: &Path, path: &str) -> bool {
    layout::is_below(path) && fs::symlink_metadata(output.join(path)).is_ok()
}

/// A file that cannot be read.
pub(super) fn unreadable(error: &io::Error) -> Finding {
    Finding::fault(Check::File, format!("cannot be read: {error}")).expected("a file that was published")
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
