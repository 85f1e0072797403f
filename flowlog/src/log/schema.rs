//! The flow record as columns: the one table of the schema, and the only place where Arrow arrays
//! of flows are built.
//!
//! Owns the names, types and order of the columns ([`columns()`]), what `flowlog schema` prints
//! ([`render`]), and how a [`FlowRecord`](crate::record::FlowRecord) becomes a row
//! ([`FlowBatch`]). Knows nothing of files.
//!
//! Invariants: columns are append-only, never renamed, retyped or reused. A value that is not known
//! is NULL, never 0 or the empty text. Times become microseconds here and nowhere else.

mod batch;
mod columns;
mod end;
mod losses;
pub mod render;
mod row;
mod sparse;
mod text;
mod values;

pub use batch::{FlowBatch, RunContext, RunFacts};
pub use columns::{Column, ColumnType, VERSION, batch_schema, columns, file_schema};
pub use losses::{gap_batch, gap_schema};
pub use values::attribution as attribution_name;

#[cfg(test)]
mod tests;
