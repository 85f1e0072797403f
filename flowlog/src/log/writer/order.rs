//! In which order the rows of a row group stand: by minute of `end_time`; within it those of one workload side by
//! side; among them by `end_time`.
//!
//! A workload is what its flows have in common: the cgroups of both ends, the protocol and the state at the end. Its
//! rows agree in two dozen columns, which then take nearly nothing: a file with processes has three quarters of the
//! size that it has in the order of `end_time` alone. A reader who looks for a container, service or process finds
//! it in few pages. Who looks for a time reads a minute more: row groups still follow each other in time.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, RecordBatch, StringArray, UInt32Array};
use foldhash::fast::FixedState;

use super::error::Fault;
use super::partition::end_times;

const MICROS_PER_MINUTE: i64 = 60_000_000;

/// Text columns that tell workloads apart.
const TEXTS: [&str; 3] = ["src_cgroup", "dst_cgroup", "ct_state"];

/// Where the rows of the batches, counted through, stand.
pub(super) fn by_workload(batches: &[RecordBatch]) -> Result<UInt32Array, Fault> {
    let mut keyed: Vec<Key> = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    let mut workloads = Workloads::default();
    let mut row: u32 = 0;
    for batch in batches {
        let numbers = workloads.of_rows(batch)?;
        for (&time_us, workload) in end_times(batch)?.values().iter().zip(numbers) {
            // Times of hours that are no dates do not get here.
            let minute = i32::try_from(time_us.div_euclid(MICROS_PER_MINUTE)).unwrap_or(i32::MAX);
            keyed.push(Key { minute, workload, time_us, row });
            row += 1;
        }
    }
    // All are different, so that they may be sorted in place: as many again would not be worth their memory.
    keyed.sort_unstable();
    Ok(UInt32Array::from_iter_values(keyed.into_iter().map(|key| key.row)))
}

/// Where a row stands.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    minute: i32,
    workload: u32,
    time_us: i64,
    row: u32,
}

/// Workloads by number, in the order in which they were found.
#[derive(Default)]
struct Workloads(HashMap<u64, u32, FixedState>);

impl Workloads {
    /// The number of each row's workload.
    fn of_rows(&mut self, batch: &RecordBatch) -> Result<Vec<u32>, Fault> {
        let column = |name| batch.column_by_name(name).ok_or(Fault::Schema);
        let hasher = FixedState::default();
        let protocols = column("proto")?.as_primitive_opt::<Int32Type>().ok_or(Fault::Schema)?;
        let mut hashes: Vec<u64> = protocols.values().iter().map(|proto| hasher.hash_one(proto)).collect();
        for name in TEXTS {
            let texts = column(name)?.as_dictionary_opt::<Int32Type>().ok_or(Fault::Schema)?;
            if texts.null_count() == texts.len() {
                continue;
            }
            let values: &StringArray = texts.values().as_string_opt().ok_or(Fault::Schema)?;
            // A text is hashed once, however many rows have it.
            let of_texts: Vec<u64> = values.iter().map(|text| hasher.hash_one(text)).collect();
            for (hash, key) in hashes.iter_mut().zip(texts.keys()) {
                let text = key.and_then(|key| of_texts.get(usize::try_from(key).ok()?)).copied();
                *hash = hasher.hash_one((*hash, text));
            }
        }
        // Two workloads with one hash would stand among each other, and that is all.
        Ok(hashes.into_iter().map(|hash| self.number(hash)).collect())
    }

    fn number(&mut self, hash: u64) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(hash).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, DictionaryArray, Int32Array, TimestampMicrosecondArray};

    use super::*;

    /// A row: the second it ended in, its protocol, and the cgroup that answered.
    type Row = (i64, i32, Option<&'static str>);

    fn batch(rows: &[Row]) -> RecordBatch {
        let texts = |texts: Vec<Option<&str>>| -> ArrayRef {
            Arc::new(texts.into_iter().collect::<DictionaryArray<Int32Type>>())
        };
        let times = rows.iter().map(|(end_s, ..)| end_s * 1_000_000);
        RecordBatch::try_from_iter_with_nullable([
            ("end_time", Arc::new(TimestampMicrosecondArray::from_iter_values(times)) as ArrayRef, false),
            ("proto", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1))), false),
            ("src_cgroup", texts(vec![None; rows.len()]), true),
            ("dst_cgroup", texts(rows.iter().map(|row| row.2).collect()), true),
            ("ct_state", texts(vec![Some("time_wait"); rows.len()]), true),
        ])
        .unwrap()
    }

    /// The rows of all batches as they would be written.
    fn ordered(batches: &[&[Row]]) -> Vec<Row> {
        let order = by_workload(&batches.iter().map(|rows| batch(rows)).collect::<Vec<_>>()).unwrap();
        let rows = batches.concat();
        order.values().iter().map(|&row| rows[usize::try_from(row).unwrap()]).collect()
    }

    #[test]
    fn the_rows_of_a_workload_stand_side_by_side_within_a_minute() {
        let (a, b) = (Some("/a"), Some("/b"));
        // The dictionaries of the batches number the same texts differently.
        let found = ordered(&[
            &[(3, 6, b), (61, 6, a), (2, 6, a), (4, 17, a)],
            &[(1, 6, a), (60, 6, b), (5, 6, b), (5, 6, None), (0, 17, a), (62, 6, a)],
        ]);
        let expected = [
            [(3, 6, b), (5, 6, b)].as_slice(),
            &[(1, 6, a), (2, 6, a)],
            &[(0, 17, a), (4, 17, a)],
            &[(5, 6, None)],
            &[(60, 6, b)],
            &[(61, 6, a), (62, 6, a)],
        ]
        .concat();
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_of_one_workload_are_in_the_order_of_time() {
        let found = ordered(&[&[(9, 6, None), (7, 6, None)], &[(8, 6, None), (-1, 6, None)]]);
        let ends_s: Vec<i64> = found.iter().map(|row| row.0).collect();
        assert_eq!(ends_s, [-1, 7, 8, 9]);
    }
}
