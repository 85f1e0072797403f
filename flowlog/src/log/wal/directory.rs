//! The files of the log: their names, and what makes them and their removal durable.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::log::disk::{DIRECTORY_MODE, FILE_MODE, sync_directory};
use crate::log::layout;

/// A segment on the disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    /// The run that wrote it.
    pub run_id: Uuid,
    /// Its number in the run, from 1.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What is in the directory of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The segments, in the order of their runs and numbers. Runs have UUIDv7, so that is the order in
    /// which they were written.
    pub segments: Vec<SegmentFile>,
    /// What else is there. Nothing of the log touches it.
    pub foreign: Vec<PathBuf>,
}

/// Lists a directory. One that does not exist is empty.
///
/// # Errors
///
/// The directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = entry.file_name();
        match name.to_str().and_then(layout::parse_segment_name).filter(|_| metadata.is_file()) {
            Some((run_id, number)) => {
                let segment = SegmentFile { run_id, number, path: entry.path(), bytes: metadata.len() };
                listing.segments.push(segment);
            }
            None => listing.foreign.push(entry.path()),
        }
    }
    listing.segments.sort();
    listing.foreign.sort();
    Ok(listing)
}

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
