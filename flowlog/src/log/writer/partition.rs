//! Which hour a row belongs to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow_select::take::take_record_batch;

use super::error::Fault;

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// An hour of `end_time`: hours since the epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hour(i64);

impl Hour {
    fn of(end_time_us: i64) -> Self {
        Self(end_time_us.div_euclid(MICROS_PER_HOUR))
    }

    /// The directory of the hour, below the one of the table.
    pub(super) fn directory(self) -> Result<PathBuf, Fault> {
        let start = jiff::Timestamp::from_second(self.0.saturating_mul(3600))?;
        Ok(PathBuf::from(start.strftime("date=%Y-%m-%d/hour=%H").to_string()))
    }

    /// Whether the hour has passed.
    pub(super) fn is_over(self, now: SystemTime) -> bool {
        let Ok(end_s) = u64::try_from(self.0.saturating_add(1).saturating_mul(3600)) else { return true };
        UNIX_EPOCH.checked_add(Duration::from_secs(end_s)).is_some_and(|end| end <= now)
    }
}

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
