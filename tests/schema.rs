//! `flowlog schema`: three views of the same columns, which are those of the files.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::daemon::{Daemon, flowlog};
use crate::harness::dataset::Dataset;
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;

/// A column as `flowlog schema` describes it.
pub(crate) struct Column {
    pub(crate) name: String,
    /// `text`, `int32`, `int64`, `bool` or `timestamp us UTC`.
    pub(crate) kind: String,
}

/// The columns of the flow log.
#[track_caller]
pub(crate) fn columns() -> Vec<Column> {
    let text = flowlog(&["schema", "--format", "json"]).success();
    let columns: Vec<Value> = serde_json::from_str(&text).unwrap();
    let ids: BTreeSet<_> = columns.iter().map(|column| column["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), columns.len(), "an id is there twice: {text}");
    let text = |column: &Value, key: &str| column[key].as_str().unwrap().to_owned();
    columns.iter().map(|column| Column { name: text(column, "name"), kind: text(column, "type") }).collect()
}

#[test]
fn all_formats_have_all_columns() {
    let columns = columns();
    assert!(columns.len() > 80, "found {}", columns.len());
    for format in ["table", "sql"] {
        let text = flowlog(&["schema", "--format", format]).success();
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for column in &columns {
            assert!(words.contains(column.name.as_str()), "{format} has no {}:\n{text}", column.name);
        }
    }
    assert_eq!(
        flowlog(&["schema"]).success(),
        flowlog(&["schema", "--format", "table"]).success(),
        "the table is the default"
    );
}

#[test]
fn files_have_the_columns_of_the_schema() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    make_and_flush(&namespace, 0..1);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let columns = columns();
    let described: BTreeSet<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(dataset.row_to(443).columns(), described);
}
