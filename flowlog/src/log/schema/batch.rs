//! Rows become columns: the builders of one record batch, appended in place.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use flowlog_reader::run::RunContext;

use super::column::batch_schema;
use super::columns::{EndColumns, FlowColumns};
use super::row::{EndRow, FlowRow, RunTexts};
use super::sparse::Unknown;
use crate::record::FlowRecord;

/// The rows of one record batch. It numbers the rows of the run: `seq` goes on from batch to batch.
///
/// There is no allocation per row: only builders and dictionaries grow.
#[derive(Debug)]
pub struct FlowBatch {
    schema: SchemaRef,
    run: RunTexts,
    rows: usize,
    flow: FlowColumns,
    src: EndColumns,
    dst: EndColumns,
}

impl FlowBatch {
    /// An empty batch. The first row of the run gets `seq` 1.
    pub fn new(run: &RunContext) -> Self {
        Self {
            schema: batch_schema(),
            run: RunTexts::new(run),
            rows: 0,
            flow: FlowColumns::default(),
            src: EndColumns::default(),
            dst: EndColumns::default(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends what is said of a flow as the next row of the run.
    pub fn append(&mut self, record: &FlowRecord<'_>) {
        self.flow.append(&FlowRow::new(record, &self.run));
        self.src.append(&EndRow::new(record.src));
        self.dst.append(&EndRow::new(record.dst));
        self.rows += 1;
    }

    /// The rows as a record batch with the schema [`batch_schema`]; the next row begins a new one.
    pub fn finish(&mut self) -> RecordBatch {
        let unknown = Unknown::new(std::mem::take(&mut self.rows));
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        self.flow.finish(&unknown, &mut arrays);
        self.src.finish(&unknown, &mut arrays);
        self.dst.finish(&unknown, &mut arrays);
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            .expect("the schema has the columns in this order, and each has one value per row")
    }
}
