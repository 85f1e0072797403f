//! Batches become published Parquet files; the only user of Parquet for writing.
//!
//! Owns the files of the flows: which rows go to which file, when a file ends, and how it becomes
//! visible. Does not make batches, does not read the clock, has no thread: the time is an
//! argument, and every call returns when its work is on the disk.
//!
//! ```text
//! append -> one open file per hour of end_time (staging/)      partition, open_file
//!               rows gather, are sorted, become a row group    row_group, order, properties
//!               column by column                               columns, numbered, chunk
//! rotate -> footer, fsync, check, rename, fsync directory      directory
//! ```
//!
//! Invariants: whatever has its name under `flows/` is complete and synced and never touched again.
//! No file is empty. Each row given to [`Writer::append`] is published, or counted in exactly one
//! [`WriteError`]. Nothing happens in `Drop`: what was not published stays in staging without a footer.

mod chunk;
mod columns;
mod directory;
mod error;
mod gap_file;
mod hybrid;
mod numbered;
mod open_file;
mod order;
mod partition;
mod properties;
mod published;
mod row_group;
mod value;

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use flowlog_reader::gaps::Gap;
use flowlog_reader::layout::Hour;
use flowlog_reader::run::RunFacts;

pub use directory::Directory;
pub use error::{Fault, OutputError, WriteError};
pub use gap_file::{GapWriter, read_gap_file};
pub use partition::seqs;
pub use published::Published;

use crate::log::schema;
use error::Failures;
use open_file::{FileNames, OpenFile};
use partition::by_hour;
use row_group::split_off;

/// How many hours have an open file: the current one and the one before, for the rows that come late
/// around the change of the hour. Each costs the memory of one row group.
const MAX_OPEN_HOURS: usize = 2;

/// How long a file waits for late rows after its hour has passed, counted from its last row. The
/// kernel's events are older than a few seconds only where the reader lags; too short makes more
/// files, too long keeps a finished hour from its readers.
const LATE_ROWS: Duration = Duration::from_secs(10);

/// What the size of rows is taken for before the first row group has shown it. Rows take 20 to 120
/// bytes; a high guess makes the first file of a small `bytes` bound too small, rather than too big.
const FIRST_BYTES_PER_ROW: u64 = 256;

/// What the footer, the page indexes and the bloom filters of a small file take.
const FOOTER_BYTES: u64 = 32 << 10;

/// How many rows a file takes at least before `bytes` ends it: a bound near the size of the footer
/// would else make a file of each row.
const MIN_ROWS_IN_BYTES: u64 = 1000;

/// Bounds of a file; it ends when it reaches any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Age since its first row. Bounds how late rows become visible.
    pub interval: Duration,
    /// Rows. Bounds the work of a reader that takes files as units.
    pub rows: u64,
    /// Size in bytes. Bounds what one upload or one lost file is. Rows that are not encoded yet count
    /// with the size that rows had so far, so a file can be somewhat smaller or larger.
    pub bytes: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { interval: Duration::from_secs(15 * 60), rows: 4_000_000, bytes: 128 << 20 }
    }
}

/// Which readers the files are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compatibility {
    /// Those that know DELTA_BINARY_PACKED, with which files are smaller.
    #[default]
    Current,
    /// Also those that only know PLAIN and dictionaries.
    Old,
}

/// Writes batches of flows to files.
///
/// Times are the caller's clock, `CLOCK_REALTIME`. After a [`WriteError`] the writer goes on: the
/// file of the error is gone with the rows that the error counts, the next rows begin a new one.
#[derive(Debug)]
pub struct Writer {
    directory: Arc<Directory>,
    rotation: Rotation,
    names: FileNames,
    properties: properties::Properties,
    batch_schema: SchemaRef,
    open: BTreeMap<Hour, OpenFile>,
    /// Bytes that a row took in the row group that was written last.
    bytes_per_row: u64,
    published: Vec<Published>,
}

impl Writer {
    /// A writer of the rows of one run.
    pub fn new(
        directory: Arc<Directory>,
        rotation: Rotation,
        compatibility: Compatibility,
        facts: &RunFacts,
    ) -> Self {
        Self {
            directory,
            rotation,
            names: FileNames::new(&facts.run),
            properties: properties::Properties::new(compatibility, facts),
            batch_schema: schema::batch_schema(),
            open: BTreeMap::new(),
            bytes_per_row: FIRST_BYTES_PER_ROW,
            published: Vec::new(),
        }
    }

    /// The hash of the ledger's last line, for the metadata of the next files: they vouch for it.
    pub fn set_ledger_tip(&mut self, tip: &str) {
        self.properties.set_ledger_tip(tip);
    }

    /// A loss that is declared, for the metadata of the next files.
    pub fn add_gap(&mut self, gap: Gap) {
        self.properties.add_gap(gap);
    }

    /// The files that were published since the last call.
    pub fn take_published(&mut self) -> Vec<Published> {
        mem::take(&mut self.published)
    }

    /// Whether rows of this segment of the write-ahead log are not published yet.
    pub fn needs(&self, segment: &Path) -> bool {
        self.open.values().any(|file| file.is_of(segment))
    }

    /// Takes rows made by [`FlowBatch`](crate::log::schema::FlowBatch). `segment` is where the write-ahead log
    /// has them.
    ///
    /// # Errors
    ///
    /// Rows of this or of earlier batches have to be read from the write-ahead log; see [`WriteError`].
    pub fn append(&mut self, batch: &RecordBatch, segment: &Path, now: SystemTime) -> Result<(), WriteError> {
        let mut losses = Failures::default();
        let hours = check_schema(batch, &self.batch_schema).and_then(|()| by_hour(batch));
        match hours {
            Ok(hours) => {
                for (hour, rows) in hours {
                    self.append_to_hour(hour, rows, segment, now, &mut losses);
                }
            }
            Err(fault) => losses.add(batch.num_rows(), self.directory.staging(), fault),
        }
        losses.into_result()
    }

    /// Publishes the files that are old enough. To be called about once a second.
    ///
    /// # Errors
    ///
    /// The rows of a file have to be read from the write-ahead log; see [`WriteError`].
    pub fn tick(&mut self, now: SystemTime) -> Result<(), WriteError> {
        let interval = self.rotation.interval;
        let due = |hour: &Hour, file: &OpenFile| {
            // A clock that was set back makes a file due, too: its age is not known any more.
            let aged = now.duration_since(file.opened()).map_or(true, |age| age >= interval);
            let quiet = now.duration_since(file.last_append()).map_or(true, |age| age >= LATE_ROWS);
            aged || (hour.is_over(now) && quiet)
        };
        let due: Vec<Hour> =
            self.open.iter().filter(|(hour, file)| due(hour, file)).map(|(hour, _)| *hour).collect();
        self.publish_all(due)
    }

    /// Publishes all open files now.
    ///
    /// # Errors
    ///
    /// The rows of a file are not published, and only the write-ahead log has them; see [`WriteError`].
    pub fn rotate_all(&mut self) -> Result<(), WriteError> {
        let hours = self.open.keys().copied().collect();
        self.publish_all(hours)
    }

    /// Drops all rows that are not published, with their files.
    pub fn discard(&mut self) {
        mem::take(&mut self.open).into_values().for_each(OpenFile::discard);
    }

    fn append_to_hour(
        &mut self,
        hour: Hour,
        mut rows: RecordBatch,
        segment: &Path,
        now: SystemTime,
        losses: &mut Failures,
    ) {
        while rows.num_rows() > 0 {
            let mut file = match self.open.remove(&hour) {
                Some(file) => file,
                None => {
                    self.close_oldest(losses);
                    match OpenFile::create(&self.directory, &mut self.names, &self.properties, hour, now) {
                        Ok(file) => file,
                        Err(fault) => {
                            return losses.add(rows.num_rows(), self.directory.staging(), fault);
                        }
                    }
                }
            };
            // A bound below the size of one row still lets one row into each file.
            let room = self.room(&file).max(usize::from(file.rows() == 0));
            let count = room.min(rows.num_rows());
            match file.append(split_off(&mut rows, count), segment, now) {
                Ok(Some(bytes_per_row)) => self.bytes_per_row = bytes_per_row,
                Ok(None) => {}
                Err(fault) => {
                    losses.add_file(&file, fault);
                    file.discard();
                    continue;
                }
            }
            if self.room(&file) == 0 {
                self.publish(file, losses);
            } else {
                self.open.insert(hour, file);
            }
        }
    }

    /// How many rows fit until the file reaches a bound.
    fn room(&self, file: &OpenFile) -> usize {
        let rows = self.rotation.rows.saturating_sub(file.rows());
        let bytes = self.rotation.bytes.saturating_sub(file.bytes().saturating_add(FOOTER_BYTES));
        let rows_in_bytes = (bytes / self.bytes_per_row)
            .saturating_sub(file.buffered_rows())
            .max(MIN_ROWS_IN_BYTES.saturating_sub(file.rows()));
        usize::try_from(rows.min(rows_in_bytes)).unwrap_or(usize::MAX)
    }

    /// Makes room for the file of one more hour.
    fn close_oldest(&mut self, losses: &mut Failures) {
        while self.open.len() >= MAX_OPEN_HOURS
            && let Some((_, oldest)) = self.open.pop_first()
        {
            self.publish(oldest, losses);
        }
    }

    fn publish_all(&mut self, hours: Vec<Hour>) -> Result<(), WriteError> {
        let mut losses = Failures::default();
        for hour in hours {
            if let Some(file) = self.open.remove(&hour) {
                self.publish(file, &mut losses);
            }
        }
        losses.into_result()
    }

    fn publish(&mut self, mut file: OpenFile, losses: &mut Failures) {
        match file.publish(&self.directory, &self.properties) {
            Ok(published) => {
                let Published { path, rows, bytes, .. } = &published;
                tracing::info!(path = %path.display(), rows, bytes, "published");
                self.published.push(published);
            }
            Err(fault) => {
                losses.add_file(&file, fault);
                file.discard();
            }
        }
    }
}

/// The encoder takes columns by their position, so a batch of another schema must not get there.
fn check_schema(batch: &RecordBatch, expected: &SchemaRef) -> Result<(), Fault> {
    let same = batch
        .schema_ref()
        .fields()
        .iter()
        .map(|f| (f.name(), f.data_type()))
        .eq(expected.fields().iter().map(|f| (f.name(), f.data_type())));
    if same { Ok(()) } else { Err(Fault::Schema) }
}

#[cfg(test)]
mod tests;
