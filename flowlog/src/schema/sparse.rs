//! Columns of numbers that are NULL in most rows, or in all.

use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, PrimitiveBuilder};
use arrow_array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};

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
