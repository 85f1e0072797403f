//! Columns that are NULL in most rows, or in all.

use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, PrimitiveBuilder};
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, ArrowPrimitiveType, Int32Array, PrimitiveArray, new_null_array};

use super::columns::ColumnType;
use super::text::dictionary;

/// A builder to which a NULL costs a count. Most columns of most batches have nothing else.
#[derive(Debug)]
pub(super) struct Sparse<T: ArrowPrimitiveType> {
    builder: PrimitiveBuilder<T>,
    /// NULLs after the last value, not in the builder yet.
    nulls: usize,
}

impl<T: ArrowPrimitiveType> Sparse<T> {
    pub(super) fn new() -> Self {
        // Without capacity: a batch of few rows, as an idle host makes each second, does not carry
        // buffers for many.
        Self { builder: PrimitiveBuilder::with_capacity(0), nulls: 0 }
    }

    pub(super) fn append(&mut self, value: Option<T::Native>) {
        match value {
            Some(value) => {
                if self.nulls > 0 {
                    self.builder.append_nulls(std::mem::take(&mut self.nulls));
                }
                self.builder.append_value(value);
            }
            None => self.nulls += 1,
        }
    }

    /// The column, or `None` where it has no value at all.
    pub(super) fn finish(&mut self) -> Option<PrimitiveArray<T>> {
        let nulls = std::mem::take(&mut self.nulls);
        if self.builder.is_empty() {
            return None;
        }
        self.builder.append_nulls(nulls);
        Some(self.builder.finish())
    }

    /// The column, which is `unknown` where it has no value at all.
    pub(super) fn finish_or(&mut self, unknown: ArrayRef) -> ArrayRef {
        self.finish().map_or(unknown, |array| Arc::new(array))
    }
}

/// A column of times as the schema has it.
pub(super) fn utc(times: PrimitiveArray<TimestampMicrosecondType>) -> ArrayRef {
    Arc::new(times.with_timezone("UTC"))
}

/// Columns without any value, made once a batch and shared by all that have its type.
pub(super) struct Unknown {
    text: ArrayRef,
    int32: ArrayRef,
    int64: ArrayRef,
    timestamp: ArrayRef,
}

impl Unknown {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            text: dictionary(Int32Array::new_null(rows), new_null_array(&ColumnType::Text.arrow(), 0)),
            int32: new_null_array(&ColumnType::Int32.arrow(), rows),
            int64: new_null_array(&ColumnType::Int64.arrow(), rows),
            timestamp: new_null_array(&ColumnType::TimestampUs.arrow(), rows),
        }
    }

    pub(super) fn text(&self) -> ArrayRef {
        Arc::clone(&self.text)
    }

    pub(super) fn int32(&self) -> ArrayRef {
        Arc::clone(&self.int32)
    }

    pub(super) fn int64(&self) -> ArrayRef {
        Arc::clone(&self.int64)
    }

    pub(super) fn timestamp(&self) -> ArrayRef {
        Arc::clone(&self.timestamp)
    }
}
