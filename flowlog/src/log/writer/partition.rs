//! Which hour a row belongs to.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow_select::take::take_record_batch;
use flowlog_reader::layout::Hour;

use super::error::Fault;

/// The rows of a batch by their hour, in the order they had.
pub(super) fn by_hour(batch: &RecordBatch) -> Result<Vec<(Hour, RecordBatch)>, Fault> {
    let end_times = end_times(batch)?.values();
    let Some(first) = end_times.first().map(|&time| Hour::of(time)) else { return Ok(Vec::new()) };
    // The usual batch is of one hour, and stays whole.
    if end_times.iter().all(|&time| Hour::of(time) == first) {
        return Ok(vec![(first, batch.clone())]);
    }
    let mut hours: BTreeMap<Hour, Vec<u64>> = BTreeMap::new();
    for (row, &time) in (0..).zip(end_times) {
        hours.entry(Hour::of(time)).or_default().push(row);
    }
    let take = |(hour, rows)| Ok((hour, take_record_batch(batch, &UInt64Array::from(rows))?));
    hours.into_iter().map(take).collect()
}

/// The column `end_time`.
pub(super) fn end_times(batch: &RecordBatch) -> Result<&TimestampMicrosecondArray, Fault> {
    batch
        .column_by_name("end_time")
        .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
        .ok_or(Fault::Schema)
}

/// The column `seq` of a batch of flows.
///
/// # Errors
///
/// It is no batch of flows.
pub fn seqs(batch: &RecordBatch) -> Result<&Int64Array, Fault> {
    batch.column_by_name("seq").and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or(Fault::Schema)
}
