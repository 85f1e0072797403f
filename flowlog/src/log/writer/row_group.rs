//! The rows of one row group: gathered, put in order, written column by column.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::Schema;
use arrow_select::concat::concat_batches;
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::file::writer::SerializedFileWriter;

use super::columns::Columns;
use super::error::Fault;
use super::order::by_workload;

/// Rows of a row group. Bounds the unit that readers skip or take whole, and that they split work
/// by: far fewer make the footer and the dictionaries weigh, far more make statistics useless.
pub(super) const MAX_ROWS: usize = 262_144;

/// Bytes of arrays that wait for their row group. Bounds the memory of the daemon, and how long the writing side
/// takes nothing else while it encodes them: a quarter of [`MAX_ROWS`] fill it
/// where most flows have a process, and fewer with long texts.
const MAX_BYTES: usize = 32 << 20;

/// A batch with fewer rows is put together with others of its kind: 87 arrays take about 20 KB even
/// for one row, and an idle host makes a small batch each second.
const SMALL_ROWS: usize = 4096;

/// How many small batches wait to be put together.
const MAX_SMALL_BATCHES: usize = 32;

/// A file that has one row group with at most so many rows is written as a small one ([`ChunkWriter`]). Such a file
/// has some ten kilobytes, and is read in one piece.
///
/// [`ChunkWriter`]: super::chunk::ChunkWriter
const MAX_SMALL_ROWS: usize = 1024;

/// Rows that wait to become a row group.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    batches: Vec<RecordBatch>,
    small: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Buffer {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the rows must be written before more are taken.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= MAX_ROWS || self.bytes >= MAX_BYTES
    }

    /// How many rows it still takes.
    pub(super) fn room(&self) -> usize {
        MAX_ROWS.saturating_sub(self.rows)
    }

    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<(), Fault> {
        self.rows += batch.num_rows();
        if batch.num_rows() >= SMALL_ROWS {
            self.bytes += array_bytes(&batch);
            self.batches.push(batch);
            return Ok(());
        }
        self.small.push(batch);
        if self.small.len() >= MAX_SMALL_BATCHES
            && let Some(first) = self.small.first()
        {
            let merged = concat_batches(&first.schema(), &self.small)?;
            self.small.clear();
            if merged.num_rows() >= SMALL_ROWS {
                self.bytes += array_bytes(&merged);
                self.batches.push(merged);
            } else {
                self.small.push(merged);
            }
        }
        Ok(())
    }

    /// Writes all rows as one row group and returns its size in bytes. `is_only`: the file has no other.
    pub(super) fn write(
        &mut self,
        writer: &mut SerializedFileWriter<File>,
        factory: &ArrowRowGroupWriterFactory,
        schema: &Schema,
        is_only: bool,
    ) -> Result<usize, Fault> {
        let Self { mut batches, small, rows, .. } = std::mem::take(self);
        batches.extend(small);
        let order = by_workload(&batches)?;

        let before = writer.bytes_written();
        let descriptors = writer.schema_descr().columns().to_vec();
        let is_small = is_only && rows <= MAX_SMALL_ROWS;
        let mut columns = Columns::new(&order, Arc::clone(writer.properties()), factory, is_small)?;
        let mut row_group = writer.next_row_group()?;
        let mut batches: Vec<_> = batches.into_iter().map(|batch| batch.into_parts().1.into_iter()).collect();
        // One column is sorted, encoded and freed before the next: the sorted copy of the rows never exists as
        // a whole, and the rows themselves make room for those that come meanwhile.
        for (place, (field, descriptor)) in schema.fields().iter().zip(&descriptors).enumerate() {
            let parts = batches.iter_mut().map(|columns| columns.next().ok_or(Fault::Schema));
            let parts = parts.collect::<Result<Vec<ArrayRef>, Fault>>()?;
            columns.write(parts, place, field, &mut row_group, descriptor)?;
        }
        row_group.close()?;
        Ok(writer.bytes_written() - before)
    }
}

/// Takes the first rows off a batch. A batch that is taken whole keeps its arrays, so that
/// [`array_bytes`] sees which columns share one.
pub(super) fn split_off(batch: &mut RecordBatch, count: usize) -> RecordBatch {
    let rest = batch.slice(count, batch.num_rows() - count);
    let whole = std::mem::replace(batch, rest);
    if batch.num_rows() == 0 { whole } else { whole.slice(0, count) }
}

/// Bytes of the arrays. Those that several columns share, as all without any value do, count once.
fn array_bytes(batch: &RecordBatch) -> usize {
    let mut seen: Vec<*const u8> = Vec::new();
    let mut bytes = 0;
    for column in batch.columns() {
        let address = Arc::as_ptr(column).cast::<u8>();
        if !seen.contains(&address) {
            seen.push(address);
            bytes += column.get_array_memory_size();
        }
    }
    bytes
}
