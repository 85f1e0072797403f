//! The table of gaps as columns.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{Schema, SchemaRef};
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::run::RunContext;
use flowlog_reader::schema::{Column, GAP_COLUMNS, State};

use super::column::{field, in_files};
use super::row::saturate;

/// The schema of the files of gaps.
pub fn gap_schema() -> SchemaRef {
    let fields = GAP_COLUMNS.iter().map(|Column { id, name, kind, state }| {
        field(name, in_files(*kind), *state != State::Required, usize::from(*id))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The gaps of a run as rows.
pub fn gap_batch(run: &RunContext, gaps: &[Gap]) -> RecordBatch {
    let text = |each: &dyn Fn(&Gap) -> Option<String>| -> ArrayRef {
        Arc::new(StringArray::from_iter(gaps.iter().map(each)))
    };
    let time = |each: &dyn Fn(&Gap) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(gaps.iter().map(each)).with_timezone("UTC"))
    };
    let number = |each: &dyn Fn(&Gap) -> Option<u64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter(gaps.iter().map(|gap| each(gap).map(saturate))))
    };
    let columns = vec![
        text(&|_| Some(run.run_id.to_string())),
        text(&|_| Some(run.host_id.clone())),
        time(&|gap| gap.from_us),
        time(&|gap| gap.to_us),
        text(&|gap| Some(Cause::name(gap.cause).to_owned())),
        text(&|gap| Some(Stage::name(gap.stage).to_owned())),
        number(&|gap| gap.lost_flows),
        number(&|gap| gap.lost_orig_bytes),
        number(&|gap| gap.lost_reply_bytes),
        text(&|gap| gap.detail.clone()),
    ];
    RecordBatch::try_new(gap_schema(), columns)
        .expect("the columns are listed in the order of the schema and have one value per gap")
}
