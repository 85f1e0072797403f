//! What can go wrong with the store as a whole.

use std::io;
use std::path::PathBuf;

use flowlog_reader::gaps::Cause;
use flowlog_reader::segments::HeaderError;

use crate::log::wal::WalError;
use crate::log::writer;

/// The flow log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The output directory cannot be used.
    #[error(transparent)]
    Directory(#[from] writer::OutputError),
    /// The write-ahead log cannot be used.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The ledger, or what an earlier run left, cannot be read.
    #[error("cannot use `{}`, make it readable and writable or choose another directory with --output", path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A newer flowlog left rows that this one cannot publish. Nothing was changed.
    #[error(
        "`{}` is of a newer flowlog; start that one with this directory once, which publishes its rows, or choose another \
         directory with --output", path.display()
    )]
    Newer {
        /// A segment of the write-ahead log.
        path: PathBuf,
        /// What is newer.
        source: HeaderError,
    },
}

/// The write-ahead log did not take rows. They can be given again.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Refused(pub(super) WalError);

impl Refused {
    /// What flows are lost by, where they cannot wait.
    pub fn cause(&self) -> Cause {
        if self.0.is_disk_full() { Cause::DiskFull } else { Cause::WalError }
    }
}
