//! Engines that know nothing of flowlog read its files as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, binary};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;
use crate::harness::process::run;
use crate::harness::traffic::Ends;
use crate::schema;

/// Prints what each engine sees.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/readers.py");

/// What the types of `flowlog schema` are called by DuckDB, Polars and pyarrow.
const TYPES: [(&str, [&str; 3]); 5] = [
    ("text", ["VARCHAR", "String", "string"]),
    ("int32", ["INTEGER", "Int32", "int32"]),
    ("int64", ["BIGINT", "Int64", "int64"]),
    ("bool", ["BOOLEAN", "Boolean", "bool"]),
    (
        "timestamp us UTC",
        ["TIMESTAMP WITH TIME ZONE", "Datetime(time_unit='us', time_zone='UTC')", "timestamp[us, tz=UTC]"],
    ),
];

#[test]
fn duckdb_polars_and_pyarrow_read_the_files() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--rotate-rows", "40"]);
    // Real traffic, too, so that more columns have values.
    let at = "[::1]:5000".parse().unwrap();
    Ends { client: &namespace, server: &namespace }.tcp_closed(at, at);
    make_and_flush(&namespace, 0..100);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    assert!(dataset.files.len() >= 3, "found {} files", dataset.files.len());
    let seen = read_with_engines(&output.path().join("flows/v1"));
    for (engine, number) in ["DuckDB", "Polars", "pyarrow"].iter().zip(0..) {
        check_types(engine, number, &seen[engine]["columns"]);
        let mut values = seen[engine].clone();
        values.as_object_mut().unwrap().remove("columns");
        assert_eq!(values, expected_values(&dataset), "left: what {engine} read");
    }
    let kernels = |row: &&&Row| row.text("time_source") == Some("kernel");
    let duration = |row: &&Row| row.time("end_time").unwrap() - row.time("start_time").unwrap();
    let durations: i64 = dataset.rows().iter().filter(kernels).map(duration).sum();
    assert!(durations > 0);
    assert_eq!(seen["durations"], durations, "left: what the view of `flowlog schema --format sql` says");
}

#[track_caller]
fn read_with_engines(flows: &Path) -> Value {
    let python = env::var_os("FLOWLOG_READERS_PYTHON").expect(
        "FLOWLOG_READERS_PYTHON is not set, expected a Python that has DuckDB, Polars and pyarrow; \
         run `cargo xtask test`, which makes one",
    );
    let mut command = Command::new(python);
    let mut schema = Command::new(binary());
    schema.args(["schema", "--format", "sql"]);
    command.arg(SCRIPT).arg(flows).arg(run(schema).success());
    serde_json::from_str(&run(command).success()).unwrap()
}

/// The values that the script prints, from the rows that the `parquet` crate read.
fn expected_values(dataset: &Dataset) -> Value {
    let rows = dataset.rows();
    let addresses: BTreeSet<_> = rows.iter().map(|row| row.text("src_ip")).collect();
    let partition = |path: &Path| {
        let directory = path.parent().unwrap().to_str().unwrap();
        directory.replace("date=", "").replace("/hour=", " ")
    };
    let partitions: BTreeSet<_> = dataset.files.iter().map(|file| partition(&file.path)).collect();
    json!({
        "rows": rows.len(),
        "sum_of_seq": rows.iter().filter_map(|row| row.int("seq")).sum::<i64>(),
        "addresses": addresses.len(),
        "last_end_us": rows.iter().filter_map(|row| row.time("end_time")).max(),
        "partitions": partitions,
    })
}

/// Each column of the schema has its type, and the directories give two more columns.
#[track_caller]
fn check_types(engine: &str, number: usize, columns: &Value) {
    let mut found: BTreeMap<String, String> = serde_json::from_value(columns.clone()).unwrap();
    for partition in ["date", "hour"] {
        assert!(found.remove(partition).is_some(), "{engine} has no partition column `{partition}`");
    }
    let names: BTreeMap<&str, [&str; 3]> = TYPES.into();
    let expected: BTreeMap<String, String> = schema::columns()
        .into_iter()
        .map(|column| (column.name, names[column.kind.as_str()][number].to_owned()))
        .collect();
    assert_eq!(found, expected, "left: the columns that {engine} found");
}
