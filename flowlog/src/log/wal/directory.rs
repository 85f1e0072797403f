//! The files of the log: their names, and what makes them and their removal durable.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flowlog_reader::layout;
use uuid::Uuid;

use crate::log::disk::{DIRECTORY_MODE, FILE_MODE, sync_directory};

/// Removes a segment whose rows are safe elsewhere.
///
/// # Errors
///
/// The file is still there, or may be there again after a power failure.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Creates a segment, and the directory where it is missing.
pub(super) fn create(directory: &Path, run_id: Uuid, number: u64) -> io::Result<(PathBuf, File)> {
    let path = directory.join(layout::segment_name(run_id, number));
    // Never one that exists, and so never through a link.
    let create = || OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
    let file = match create() {
        // Also where somebody removed it meanwhile: that must not end the log.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
            directory.parent().map_or(Ok(()), sync_directory)?;
            create()?
        }
        file => file?,
    };
    // Whatever the umask of the process.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok((path, file))
}
