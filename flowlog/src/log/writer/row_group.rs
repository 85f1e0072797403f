//! The rows of one row group: gathered, put in order, encoded column by column.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_schema::{ArrowError, DataType, Schema};
use arrow_select::concat::{concat, concat_batches};
use arrow_select::take::take;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::writer::SerializedFileWriter;

use super::error::Fault;
use super::order::by_workload;
use super::text_column::TextColumn;

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

    /// Writes all rows as one row group and returns its size in bytes.
    pub(super) fn write(
        &mut self,
        writer: &mut SerializedFileWriter<File>,
        factory: &ArrowRowGroupWriterFactory,
        schema: &Schema,
    ) -> Result<usize, Fault> {
        let Self { mut batches, small, .. } = std::mem::take(self);
        batches.extend(small);
        let order = by_workload(&batches)?;

        let before = writer.bytes_written();
        let column_writers = factory.create_column_writers(writer.flushed_row_groups().len())?;
        let descriptors = writer.schema_descr().columns().to_vec();
        let properties = Arc::clone(writer.properties());
        let mut row_group = writer.next_row_group()?;
        let mut batches: Vec<_> = batches.into_iter().map(|batch| batch.into_parts().1.into_iter()).collect();
        // One column is sorted, encoded and freed before the next: the sorted copy of the rows never exists as
        // a whole, and the rows themselves make room for those that come meanwhile.
        for ((field, descriptor), mut column_writer) in
            schema.fields().iter().zip(descriptors).zip(column_writers)
        {
            let parts = batches.iter_mut().map(|columns| columns.next().ok_or(Fault::Schema));
            let parts = parts.collect::<Result<Vec<ArrayRef>, Fault>>()?;
            if is_text(&parts) {
                let max_dictionary_bytes = properties.column_dictionary_page_size_limit(descriptor.path());
                if let Some(column) = TextColumn::new(&parts, &order, max_dictionary_bytes)? {
                    column.write(&mut row_group, &descriptor, &properties)?;
                    continue;
                }
            }
            for leaf in compute_leaves(field, &sorted(parts, &order)?)? {
                column_writer.write(&leaf)?;
            }
            column_writer.close()?.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(writer.bytes_written() - before)
    }
}

/// Whether it is a column of texts, and has any.
fn is_text(parts: &[ArrayRef]) -> bool {
    parts.first().is_some_and(|part| matches!(part.data_type(), DataType::Dictionary(..)))
        && !parts.iter().all(is_null)
}

fn is_null(part: &ArrayRef) -> bool {
    part.null_count() == part.len()
}

/// One column of all batches, in this order.
fn sorted(parts: Vec<ArrayRef>, order: &UInt32Array) -> Result<ArrayRef, ArrowError> {
    match parts.first() {
        // Most columns of most files: not worth to gather what is NULL everywhere.
        Some(first) if parts.iter().all(is_null) => Ok(new_null_array(first.data_type(), order.len())),
        _ => {
            let references: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            let column = concat(&references)?;
            drop(parts);
            take(&column, order, None)
        }
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
