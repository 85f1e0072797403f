//! What a Parquet file says about itself, and its rows as far as the ledger speaks of them.

use std::fs::File;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use flowlog_reader::gaps::Gap;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::statistics::Statistics;
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

/// Rows that are sorted together: few ranges of numbers are left of them.
const PART_ROWS: usize = 1 << 18;

/// A file whose footer could be read.
pub(super) struct Parquet(ParquetRecordBatchReaderBuilder<File>);

impl Parquet {
    pub(super) fn open(file: File) -> Result<Self, ParquetError> {
        // The types of Parquet are enough; the schema of Arrow in the metadata is one more thing to fail.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map(Self)
    }

    pub(super) fn rows(&self) -> i64 {
        self.0.metadata().file_metadata().num_rows()
    }

    /// A value of the metadata, by its name without `flowlog.`.
    pub(super) fn metadata(&self, name: &str) -> Option<&str> {
        let pairs = self.0.metadata().file_metadata().key_value_metadata()?;
        let pair = pairs.iter().find(|pair| pair.key.strip_prefix("flowlog.") == Some(name))?;
        pair.value.as_deref()
    }

    /// Lowest and highest `end_time`, where the statistics have them.
    pub(super) fn end_times(&self) -> Option<(i64, i64)> {
        let mut times: Option<(i64, i64)> = None;
        for row_group in self.0.metadata().row_groups() {
            let column =
                row_group.columns().iter().find(|column| column.column_path().string() == "end_time")?;
            let Some(Statistics::Int64(statistics)) = column.statistics() else { return None };
            let (min, max) = (*statistics.min_opt()?, *statistics.max_opt()?);
            times = Some(times.map_or((min, max), |(lowest, highest)| (lowest.min(min), highest.max(max))));
        }
        times
    }

    /// Gives the numbers of the rows in parts, each sorted.
    pub(super) fn seqs(self, mut each: impl FnMut(&[i64])) -> Result<(), ParquetError> {
        let seq = ProjectionMask::columns(self.0.parquet_schema(), ["seq"]);
        let mut part: Vec<i64> = Vec::new();
        for batch in self.0.with_projection(seq).with_batch_size(8192).build()? {
            let batch = batch?;
            let column =
                batch.column_by_name("seq").and_then(|column| column.as_primitive_opt::<Int64Type>());
            let column = column.ok_or_else(|| no_column("seq"))?;
            part.extend(column.iter().flatten());
            if part.len() >= PART_ROWS {
                part.sort_unstable();
                each(&part);
                part.clear();
            }
        }
        part.sort_unstable();
        each(&part);
        Ok(())
    }

    /// The rows of a file of gaps, with the runs that they are of. More than `max_rows` are left out.
    pub(super) fn gaps(self, max_rows: usize) -> Result<Vec<(String, Gap)>, ParquetError> {
        let mut gaps = Vec::new();
        for batch in self.0.with_limit(max_rows).with_batch_size(1024).build()? {
            let batch = batch?;
            let columns = GapColumns { batch: &batch };
            for row in 0..batch.num_rows() {
                gaps.push(columns.row(row)?);
            }
        }
        Ok(gaps)
    }
}

struct GapColumns<'a> {
    batch: &'a RecordBatch,
}

impl GapColumns<'_> {
    fn row(&self, row: usize) -> Result<(String, Gap), ParquetError> {
        let required = |name: &str, value: Option<i64>| value.ok_or_else(|| no_column(name));
        let gap = Gap {
            from_us: required("from_time", self.time("from_time", row))?,
            to_us: required("to_time", self.time("to_time", row))?,
            cause: self.word("cause", row)?,
            stage: self.word("stage", row)?,
            lost_flows: self.number("lost_flows", row),
            lost_orig_bytes: self.number("lost_orig_bytes", row),
            lost_reply_bytes: self.number("lost_reply_bytes", row),
            detail: self.text("detail", row).map(str::to_owned),
        };
        let run_id = self.text("run_id", row).ok_or_else(|| no_column("run_id"))?;
        Ok((run_id.to_owned(), gap))
    }

    fn text(&self, name: &str, row: usize) -> Option<&str> {
        let column = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn number(&self, name: &str, row: usize) -> Option<u64> {
        let column = self.batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        column.is_valid(row).then(|| column.value(row))?.try_into().ok()
    }

    fn time(&self, name: &str, row: usize) -> Option<i64> {
        let column = self.batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn word<'de, T: Deserialize<'de>>(&'de self, name: &str, row: usize) -> Result<T, ParquetError> {
        let text = self.text(name, row).ok_or_else(|| no_column(name))?;
        T::deserialize(StrDeserializer::<ValueError>::new(text))
            .map_err(|error| ParquetError::General(format!("column `{name}`: {error}")))
    }
}

fn no_column(name: &str) -> ParquetError {
    ParquetError::General(format!("no value in column `{name}`"))
}
