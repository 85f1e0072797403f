//! The flow record as columns: the one table of the schema, and the only place that makes columns
//! from records.
//!
//! Owns the names, ids, types and order of the columns ([`columns()`]), what `flowlog schema` prints
//! ([`render`]), and how a [`FlowRecord`](crate::record::FlowRecord) becomes a row
//! ([`FlowBatch`]). Knows nothing of files.
//!
//! To add a column, add a row to the table in `columns`, wherever files should have it, with the next free id, and the
//! same to `flowlog/docs/schema.md` and `flowlog-reader/schema/field_ids`; tests hold them together.
//!
//! Invariants: columns are added, never renamed or retyped, and ids are not used again. A value that is not known
//! is NULL, never 0 or the empty text.

mod batch;
mod column;
mod columns;
mod losses;
pub mod render;
mod row;
mod sparse;
mod text;
mod values;

pub use batch::FlowBatch;
pub use column::{Column, Form, batch_schema, columns, file_schema, retired};
pub use columns::VERSION;
pub use losses::{gap_batch, gap_schema};
pub use values::attribution as attribution_name;

#[cfg(test)]
mod tests;
