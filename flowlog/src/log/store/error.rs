//! What can go wrong with the store as a whole.

use std::io;
use std::path::PathBuf;

use flowlog_reader::gaps::Cause;

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
