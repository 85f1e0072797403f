//! What can go wrong with the files, and how many rows it costs.

use std::io;
use std::path::{Path, PathBuf};

use arrow_schema::ArrowError;
use parquet::errors::ParquetError;

use super::open_file::OpenFile;

/// The output directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A directory cannot be made or a file cannot be published in it.
    #[error(
        "cannot write to `{}` in the output directory, make it writable or choose another with --output",
        path.display()
    )]
    NotWritable {
        /// The directory or file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error(
        "the output directory `{}` is in use by another flowlog, stop it or choose another with --output",
        path.display()
    )]
    InUse {
        /// The output directory.
        path: PathBuf,
    },
}

/// Rows are in no file. What was published before is not touched, and the writer can go on.
#[derive(Debug, thiserror::Error)]
#[error("{rows} rows: cannot write `{}`", path.display())]
pub struct WriteError {
    /// How many rows, of this and of earlier batches.
    pub rows: u64,
    /// The file or directory that could not be written; where there are several, the first.
    pub path: PathBuf,
    /// The first cause.
    pub source: Fault,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The encoder failed.
    #[error(transparent)]
    Parquet(ParquetError),
    /// The columns could not be sorted.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// A time has no date.
    #[error("`end_time` is outside the range of dates")]
    Time(#[from] jiff::Error),
    /// The batch is not one of flows.
    #[error("the batch does not have the columns of the flow record, expected those of `flowlog schema`")]
    Schema,
    /// The finished file does not hold what was written.
    #[error("found {found} rows in the footer, expected {expected}")]
    RowCount {
        /// Rows that went in.
        expected: u64,
        /// Rows in the footer that was read back.
        found: i64,
    },
}

impl From<ParquetError> for Fault {
    /// Parquet wraps the errors of the file it writes to; a full disk is told as one.
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(error) => Self::Io(*error),
                Err(inner) => Self::Parquet(ParquetError::External(inner)),
            },
            other => Self::Parquet(other),
        }
    }
}

/// Gathers what one call loses in several files.
#[derive(Debug, Default)]
pub(super) struct Failures(Option<WriteError>);

impl Failures {
    pub(super) fn add(&mut self, rows: usize, path: &Path, fault: Fault) {
        self.add_rows(u64::try_from(rows).unwrap_or(u64::MAX), path, fault);
    }

    /// All rows of a file.
    pub(super) fn add_file(&mut self, file: &OpenFile, fault: Fault) {
        self.add_rows(file.rows(), file.path(), fault);
    }

    pub(super) fn into_result(self) -> Result<(), WriteError> {
        self.0.map_or(Ok(()), Err)
    }

    fn add_rows(&mut self, rows: u64, path: &Path, fault: Fault) {
        match &mut self.0 {
            Some(first) => first.rows += rows,
            None => self.0 = Some(WriteError { rows, path: path.to_owned(), source: fault }),
        }
    }
}
