//! How the files are encoded, and what their footers say about themselves.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use super::row_group::MAX_ROWS;
use crate::schema::{self, ColumnType, RunContext};

/// Columns that are delta encoded besides all times: their values grow or are nearly all distinct,
/// so that a dictionary would hold each of them.
const DELTA_ENCODED: [&str; 5] = ["seq", "duration_us", "src_port", "nat_src_port", "ct_id"];

/// Columns that people look up single values of: the filter spares the row groups without it.
const BLOOM_FILTERED: [&str; 6] =
    ["src_ip", "dst_ip", "nat_src_ip", "nat_dst_ip", "src_container_id", "dst_container_id"];

/// What all files of a run have in common.
#[derive(Debug)]
pub(super) struct Properties {
    schema: SchemaRef,
    writer: WriterProperties,
    metadata: Vec<KeyValue>,
}

impl Properties {
    pub(super) fn new(run: &RunContext, kernel: &str, acct: Option<bool>, timestamp: Option<bool>) -> Self {
        let RunContext { run_id, host_id, host_name: _, boot_id } = run;
        let known = |key, value: Option<String>| value.map(|value| pair(key, value));
        let metadata = [
            Some(pair("schema_version", schema::VERSION)),
            Some(pair("version", env!("CARGO_PKG_VERSION"))),
            Some(pair("host_id", host_id)),
            Some(pair("run_id", run_id)),
            known("boot_id", boot_id.clone()),
            Some(pair("kernel", kernel)),
            known("acct", acct.map(|on| on.to_string())),
            known("timestamp", timestamp.map(|on| on.to_string())),
        ];
        Self {
            schema: schema::file_schema(),
            writer: writer_properties(),
            metadata: metadata.into_iter().flatten().collect(),
        }
    }

    /// The schema of the files.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The settings of the encoder.
    pub(super) fn options(&self) -> ArrowWriterOptions {
        ArrowWriterOptions::new().with_properties(self.writer.clone())
    }

    /// Key-value metadata of a file with these rows.
    pub(super) fn metadata(&self, rows: u64, seq_first: i64, seq_last: i64) -> Vec<KeyValue> {
        let mut metadata = self.metadata.clone();
        metadata.push(pair("seq_first", seq_first));
        metadata.push(pair("seq_last", seq_last));
        metadata.push(pair("rows", rows));
        metadata
    }
}

fn pair(key: &str, value: impl ToString) -> KeyValue {
    KeyValue::new(format!("flowlog.{key}"), value.to_string())
}

/// Each setting is one that DuckDB, Polars, ClickHouse, Spark and DataFusion all read: pages of
/// version 1, and no encoding besides PLAIN, dictionaries and DELTA_BINARY_PACKED.
fn writer_properties() -> WriterProperties {
    let columns = schema::columns();
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("flowlog ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        // Level 1 takes the same time and makes larger files.
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Page)
        // Also what bloom filters are sized for, before they are folded to what the values need: those
        // of a small file stay small.
        .set_max_row_group_row_count(Some(MAX_ROWS))
        .set_sorting_columns(Some(sorting_columns(&columns)));
    for column in &columns {
        let path = || ColumnPath::from(column.name.clone());
        if column.kind == ColumnType::TimestampUs || DELTA_ENCODED.contains(&column.name.as_str()) {
            builder = builder
                .set_column_dictionary_enabled(path(), false)
                .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
        }
        if BLOOM_FILTERED.contains(&column.name.as_str()) {
            builder = builder.set_column_bloom_filter_enabled(path(), true);
        }
    }
    builder.build()
}

fn sorting_columns(columns: &[schema::Column]) -> Vec<SortingColumn> {
    (0..)
        .zip(columns)
        .filter(|(_, column)| column.name == "end_time")
        .map(|(column_idx, _)| SortingColumn { column_idx, descending: false, nulls_first: false })
        .collect()
}
