//! What everything that is kept on the disk has in common: rights, durability, and what a full disk is.

use std::fs::File;
use std::io;
use std::path::Path;

/// Files: the service writes, its group reads.
pub const FILE_MODE: u32 = 0o640;

/// Directories, likewise.
pub const DIRECTORY_MODE: u32 = 0o750;

/// Makes what was created, renamed or removed in a directory durable. An empty path is the current one.
///
/// # Errors
///
/// A power failure now may undo it.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

/// Whether there is no space, or no more of it for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
