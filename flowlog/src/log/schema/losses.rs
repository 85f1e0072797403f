//! The table of gaps as columns.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{Schema, SchemaRef};
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::run::RunContext;

use super::column::ColumnType::{self, Int64, Text, TimestampUs};
use super::column::field;
use super::row::saturate;

/// Name, type, and whether every row has a value.
const COLUMNS: [(&str, ColumnType, bool); 10] = [
    ("run_id", Text, true),
    ("host_id", Text, true),
    ("from_time", TimestampUs, true),
    ("to_time", TimestampUs, true),
    ("cause", Text, true),
    ("stage", Text, true),
    ("lost_flows", Int64, false),
    ("lost_orig_bytes", Int64, false),
    ("lost_reply_bytes", Int64, false),
    ("detail", Text, false),
];

/// The schema of the files of gaps.
pub fn gap_schema() -> SchemaRef {
    let fields =
        (1..).zip(COLUMNS).map(|(id, (name, kind, is_required))| field(name, kind.arrow(), !is_required, id));
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
