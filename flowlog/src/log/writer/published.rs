//! A file that is complete.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rangemap::RangeInclusiveSet;

use super::error::Fault;
use super::partition::{end_times, seqs};

/// A file that is complete and has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Below the output directory.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// The `seq` of its rows.
    pub seqs: RangeInclusiveSet<i64>,
    /// The first `end_time` of its rows.
    pub end_first_us: i64,
    /// The last `end_time` of its rows.
    pub end_last_us: i64,
}

impl Published {
    /// Reads a file of flows again.
    ///
    /// # Errors
    ///
    /// It is not one, or cannot be read.
    pub fn read(root: &Path, below: PathBuf) -> Result<Self, Fault> {
        let file = File::open(root.join(&below))?;
        let bytes = file.metadata()?.len();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["seq", "end_time"]);
        let mut published = Self {
            path: below,
            rows,
            bytes,
            seqs: RangeInclusiveSet::new(),
            end_first_us: i64::MAX,
            end_last_us: i64::MIN,
        };
        for batch in builder.with_projection(columns).build()? {
            let batch = batch?;
            let mut sorted = seqs(&batch)?.values().to_vec();
            // Rows stand by workload.
            sorted.sort_unstable();
            insert_all(&mut published.seqs, &sorted);
            for &end_us in end_times(&batch)?.values() {
                published.end_first_us = published.end_first_us.min(end_us);
                published.end_last_us = published.end_last_us.max(end_us);
            }
        }
        Ok(published)
    }

    /// The lowest and the highest `seq` of its rows.
    pub fn seq_range(&self) -> (i64, i64) {
        let (first, last) = (self.seqs.first(), self.seqs.last());
        first.zip(last).map_or((0, 0), |(first, last)| (*first.start(), *last.end()))
    }
}

/// Adds numbers that mostly come one after the other.
pub(super) fn insert_all(set: &mut RangeInclusiveSet<i64>, seqs: &[i64]) {
    for run in seqs.chunk_by(|&one, &next| one.checked_add(1) == Some(next)) {
        if let (Some(&first), Some(&last)) = (run.first(), run.last()) {
            set.insert(first..=last);
        }
    }
}
