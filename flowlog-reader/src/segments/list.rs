//! Which segments are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::layout;

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
pub fn list(directory: &Path) -> io::Result<Listing> {
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
