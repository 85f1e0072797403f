//! What is published in an output directory, and whether a daemon has it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::layout;
use crate::ledger::{PublishedFile, Table};

/// The directory could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`, expected the output directory of `flowlog run`", path.display())]
pub struct DirectoryError {
    /// File or directory.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// Whether a daemon has the directory. The lock is taken for a moment, shared, to see that; a daemon that starts in
/// this moment tries again.
pub fn is_in_use(output: &Path) -> bool {
    let Ok(lock) = File::open(output.join(layout::LOCK)) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// What is there below the directories of published files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The files, by their paths below the output directory, with their sizes.
    pub files: BTreeMap<String, u64>,
    /// What is neither a directory nor a file.
    pub others: Vec<String>,
}

/// Lists what is published. What comes or goes meanwhile may be in it or not.
///
/// # Errors
///
/// A directory cannot be read.
pub fn published(output: &Path) -> Result<Published, DirectoryError> {
    let mut published = Published::default();
    let mut directories = layout::TABLES.map(PathBuf::from).to_vec();
    while let Some(directory) = directories.pop() {
        let path = output.join(&directory);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Retention removes directories, and there may be no gaps.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(DirectoryError { path, source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| DirectoryError { path: path.clone(), source })?;
            if entry.file_name().as_encoded_bytes().starts_with(b"_") {
                continue;
            }
            let below = directory.join(entry.file_name());
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(DirectoryError { path: entry.path(), source }),
            };
            // A name that is not text is in no line of the ledger, and neither is its replacement.
            let shown = below.to_string_lossy().into_owned();
            if metadata.is_dir() {
                directories.push(below);
            } else if metadata.is_file() {
                published.files.insert(shown, metadata.len());
            } else {
                published.others.push(shown);
            }
        }
    }
    Ok(published)
}

/// A file that the ledger names.
#[derive(Debug)]
pub enum Named {
    /// It is there, with this size.
    There(File, u64),
    /// There is nothing of this name.
    Missing,
    /// The path is not below the directory of its table, which is this one.
    Elsewhere(&'static str),
    /// There is something else of this name.
    NotAFile,
    /// It cannot be read.
    Unreadable(io::Error),
}

/// Opens a file that the ledger names, wherever a changed ledger points to.
pub fn open(output: &Path, file: &PublishedFile) -> Named {
    let [flows, gaps] = layout::TABLES;
    let table = match file.table {
        Table::Flows => flows,
        Table::Gaps => gaps,
    };
    if !layout::is_below(&file.path) || !Path::new(&file.path).starts_with(table) {
        return Named::Elsewhere(table);
    }
    match open_file(&output.join(&file.path)) {
        Ok(Some((file, bytes))) => Named::There(file, bytes),
        Ok(None) => Named::NotAFile,
        Err(error) if is_nothing(&error) => Named::Missing,
        Err(error) => Named::Unreadable(error),
    }
}

/// Opens a file, and gives its size. `None` for anything else: neither a link nor a pipe, which might never end.
pub(crate) fn open_file(path: &Path) -> io::Result<Option<(File, u64)>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    // It may have become one meanwhile.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata.len())))
}

/// Whether there is something of this name, which a ledger says.
pub fn exists(output: &Path, path: &str) -> bool {
    layout::is_below(path) && fs::symlink_metadata(output.join(path)).is_ok()
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
