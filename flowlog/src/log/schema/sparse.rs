//! Columns of numbers, most of which are NULL in most rows, or in all.

use std::sync::Arc;

use arrow_array::builder::BooleanBuilder;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, ArrowPrimitiveType, Int32Array, Int64Array, PrimitiveArray, new_null_array};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use flowlog_reader::schema::ColumnType;

use super::column::{Kind, in_files};
use super::text::dictionary;

const WORD_BITS: usize = 64;

/// Integers of 32 bits.
pub(super) type Int32 = Sparse<Int32Type>;

/// Integers of 64 bits.
pub(super) type Int64 = Sparse<Int64Type>;

/// Microseconds since 1970.
pub(super) type Time = Sparse<TimestampMicrosecondType>;

/// A builder to which a NULL costs a count: most columns of most batches have nothing else. Those that always have a
/// value cost no bits.
#[derive(Debug)]
pub(super) struct Sparse<T: ArrowPrimitiveType> {
    /// Of each row up to the last one with a value. A NULL is 0.
    values: Vec<T::Native>,
    /// A bit for each of them that is no NULL, from the lowest. Empty as long as there was no NULL.
    valid: Vec<u64>,
    /// NULLs after the last value.
    nulls: usize,
}

impl<T: ArrowPrimitiveType> Default for Sparse<T> {
    fn default() -> Self {
        Self { values: Vec::new(), valid: Vec::new(), nulls: 0 }
    }
}

impl<T: ArrowPrimitiveType> Sparse<T> {
    #[inline]
    pub(super) fn append(&mut self, value: Option<T::Native>) {
        let Some(value) = value else {
            self.nulls += 1;
            return;
        };
        if self.nulls > 0 {
            self.fill();
        }
        if !self.valid.is_empty() {
            let place = self.values.len() % WORD_BITS;
            match self.valid.last_mut().filter(|_| place > 0) {
                Some(word) => *word |= 1 << place,
                None => self.valid.push(1),
            }
        }
        self.values.push(value);
    }

    /// Appends the NULLs that wait.
    fn fill(&mut self) {
        let Self { values, valid, nulls } = self;
        let rows = values.len();
        if valid.is_empty() {
            valid.resize(rows.div_ceil(WORD_BITS), u64::MAX);
            if let Some(last) = valid.last_mut().filter(|_| !rows.is_multiple_of(WORD_BITS)) {
                *last = (1 << (rows % WORD_BITS)) - 1;
            }
        }
        let rows = rows + std::mem::take(nulls);
        values.resize(rows, T::Native::default());
        valid.resize(rows.div_ceil(WORD_BITS), 0);
    }

    /// The column, or `None` where it has no value at all.
    pub(super) fn finish_known(&mut self) -> Option<PrimitiveArray<T>> {
        if self.values.is_empty() {
            self.nulls = 0;
            return None;
        }
        if self.nulls > 0 {
            self.fill();
        }
        let rows = self.values.len();
        // The next batch has about as many. One that has few, as an idle host makes each second, does not carry room
        // for many.
        let mut values = std::mem::replace(&mut self.values, Vec::with_capacity(rows));
        if values.capacity() / 2 > rows {
            values.shrink_to_fit();
        }
        let valid = std::mem::take(&mut self.valid);
        let nulls = (!valid.is_empty()).then(|| {
            let words: Vec<u64> = valid.into_iter().map(u64::to_le).collect();
            NullBuffer::new(BooleanBuffer::new(words.into(), 0, rows))
        });
        Some(PrimitiveArray::new(values.into(), nulls))
    }
}

impl Kind for Int32 {
    const TYPE: ColumnType = ColumnType::Int32;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        self.finish_known().map_or_else(|| unknown.int32(), |array| Arc::new(array))
    }
}

impl Kind for Int64 {
    const TYPE: ColumnType = ColumnType::Int64;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        self.finish_known().map_or_else(|| unknown.int64(), |array| Arc::new(array))
    }
}

impl Kind for Time {
    const TYPE: ColumnType = ColumnType::TimestampUs;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        let times = self.finish_known().map(|times| times.with_timezone("UTC"));
        times.map_or_else(|| unknown.timestamp(), |times| Arc::new(times))
    }
}

/// Truths.
#[derive(Debug)]
pub(super) struct Bool(BooleanBuilder);

impl Default for Bool {
    fn default() -> Self {
        Self(BooleanBuilder::with_capacity(0))
    }
}

impl Bool {
    pub(super) fn append(&mut self, value: Option<bool>) {
        self.0.append_option(value);
    }
}

impl Kind for Bool {
    const TYPE: ColumnType = ColumnType::Bool;

    fn finish(&mut self, _: &Unknown) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// The number of the row in the run.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Of the first row of this batch.
    first: i64,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { first: 1 }
    }
}

impl Sequence {
    #[expect(clippy::unused_self, reason = "all kinds are appended to")]
    pub(super) fn append(&mut self, (): ()) {}
}

impl Kind for Sequence {
    const TYPE: ColumnType = ColumnType::Int64;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        let next = self.first.saturating_add(i64::try_from(unknown.rows()).unwrap_or(i64::MAX));
        let numbers = Int64Array::from_iter_values(self.first..next);
        self.first = next;
        Arc::new(numbers)
    }
}

/// What columns of one batch have in common: those without any value, and keys of those with one value in all rows.
/// Made once a batch, and shared by all that have its type.
pub(super) struct Unknown {
    first_keys: Int32Array,
    text: ArrayRef,
    int32: ArrayRef,
    int64: ArrayRef,
    timestamp: ArrayRef,
}

impl Unknown {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            first_keys: Int32Array::from_value(0, rows),
            text: dictionary(Int32Array::new_null(rows), new_null_array(&in_files(ColumnType::Text), 0)),
            int32: new_null_array(&in_files(ColumnType::Int32), rows),
            int64: new_null_array(&in_files(ColumnType::Int64), rows),
            timestamp: new_null_array(&in_files(ColumnType::TimestampUs), rows),
        }
    }

    /// How many rows the batch has.
    fn rows(&self) -> usize {
        self.text.len()
    }

    /// Keys of a column whose rows all have the first value of the dictionary.
    pub(super) fn first_keys(&self) -> Int32Array {
        self.first_keys.clone()
    }

    pub(super) fn text(&self) -> ArrayRef {
        Arc::clone(&self.text)
    }

    fn int32(&self) -> ArrayRef {
        Arc::clone(&self.int32)
    }

    fn int64(&self) -> ArrayRef {
        Arc::clone(&self.int64)
    }

    fn timestamp(&self) -> ArrayRef {
        Arc::clone(&self.timestamp)
    }
}
