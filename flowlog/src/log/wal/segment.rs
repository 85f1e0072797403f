//! One segment while it takes frames.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::log::disk::sync_directory;

/// A segment, as far as it has good frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// Number of its last row; `None` where it has none.
    pub last_seq: Option<i64>,
}

/// A segment that takes frames.
///
/// Invariant: the file is `segment.bytes` long and ends with a good frame, or `is_broken`.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) segment: Segment,
    /// It has a torn frame at its end and must take no more.
    pub(super) is_broken: bool,
    /// Rows that a power failure now may lose.
    pub(super) unsynced_rows: u64,
    file: File,
    is_synced: bool,
    /// Whether the directory is known to have the file also after a power failure.
    is_entry_synced: bool,
}

impl OpenSegment {
    /// A new file, empty.
    pub(super) fn new(path: PathBuf, file: File) -> Self {
        Self {
            segment: Segment { path, bytes: 0, rows: 0, last_seq: None },
            is_broken: false,
            unsynced_rows: 0,
            file,
            is_synced: true,
            is_entry_synced: false,
        }
    }

    /// Appends all of the bytes, or none.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.segment.bytes;
        self.is_synced = false;
        match self.file.write_all_at(bytes, end) {
            Ok(()) => {
                self.segment.bytes = end.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                Ok(())
            }
            Err(error) => {
                // A good frame after a torn one would never be read.
                self.is_broken = self.file.set_len(end).is_err();
                Err(error)
            }
        }
    }

    /// Makes all that was appended durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_synced {
            return Ok(());
        }
        self.file.sync_data()?;
        if !self.is_entry_synced {
            self.segment.path.parent().map_or(Ok(()), sync_directory)?;
            self.is_entry_synced = true;
        }
        self.is_synced = true;
        self.unsynced_rows = 0;
        Ok(())
    }
}
