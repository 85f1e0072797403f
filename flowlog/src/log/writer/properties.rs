//! How the files are encoded, and what their footers say about themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use flowlog_reader::gaps::Gap;
use flowlog_reader::run::{RunContext, RunFacts};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{
    DEFAULT_WRITE_BATCH_SIZE, DeltaBinaryPackedEncoderOptions, EnabledStatistics, WriterProperties,
    WriterPropertiesBuilder, WriterVersion,
};
use parquet::schema::types::ColumnPath;

use super::Compatibility;
use super::published::Published;
use super::row_group::MAX_ROWS;
use crate::log::schema;

/// How many gaps are remembered for the metadata of files. One a second at the most, and files take a
/// quarter of an hour by default.
const MAX_GAPS: usize = 4096;

/// What all files of a run have in common.
#[derive(Debug)]
pub(super) struct Properties {
    schema: SchemaRef,
    writer: WriterProperties,
    metadata: Vec<KeyValue>,
    /// Hash of the ledger's last line.
    ledger_tip: Option<String>,
    /// Losses that are declared, oldest first.
    gaps: VecDeque<Gap>,
}

impl Properties {
    pub(super) fn new(compatibility: Compatibility, facts: &RunFacts) -> Self {
        let RunFacts { run, kernel, acct, timestamp, filter } = facts;
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
            known("filter", filter.as_ref().map(ToString::to_string)),
        ];
        Self {
            schema: schema::file_schema(),
            writer: writer_properties(compatibility),
            metadata: metadata.into_iter().flatten().collect(),
            ledger_tip: None,
            gaps: VecDeque::new(),
        }
    }

    pub(super) fn set_ledger_tip(&mut self, tip: &str) {
        self.ledger_tip = Some(tip.to_owned());
    }

    pub(super) fn add_gap(&mut self, gap: Gap) {
        self.gaps.push_back(gap);
        if self.gaps.len() > MAX_GAPS {
            self.gaps.pop_front();
        }
    }

    /// The schema of the files.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The settings of the encoder.
    pub(super) fn options(&self) -> ArrowWriterOptions {
        arrow_options(self.writer.clone())
    }

    /// Key-value metadata of a file.
    pub(super) fn metadata(&self, file: &Published) -> Vec<KeyValue> {
        let mut metadata = self.metadata.clone();
        let (seq_first, seq_last) = file.seq_range();
        metadata.push(pair("seq_first", seq_first));
        metadata.push(pair("seq_last", seq_last));
        metadata.push(pair("rows", file.rows));
        metadata.extend(self.ledger_tip.as_ref().map(|tip| pair("ledger_tip", tip)));
        metadata.push(match self.lost_flows(file) {
            Some(lost) => pair("lost_flows", lost),
            None => pair("lost_flows", "unknown"),
        });
        metadata
    }

    /// How many flows are declared lost in the time of the file; `None` where that is not known.
    fn lost_flows(&self, file: &Published) -> Option<u64> {
        let of_file = |gap: &&Gap| gap.from_us <= file.end_last_us && gap.to_us >= file.end_first_us;
        self.gaps
            .iter()
            .filter(of_file)
            .try_fold(0, |sum: u64, gap| Some(sum.saturating_add(gap.lost_flows?)))
    }
}

pub(super) fn pair(key: &str, value: impl ToString) -> KeyValue {
    KeyValue::new(format!("flowlog.{key}"), value.to_string())
}

/// The settings of the encoder for files of gaps, which are small.
pub(super) fn gap_options() -> ArrowWriterOptions {
    arrow_options(base_properties().build())
}

/// Without the schema of Arrow: all types follow from those of Parquet, and it would take 13 KB of each file.
fn arrow_options(properties: WriterProperties) -> ArrowWriterOptions {
    ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true)
}

/// Each setting is one that DuckDB, Polars, ClickHouse, Spark and DataFusion all read: pages of
/// version 1, and no encoding besides PLAIN, dictionaries and DELTA_BINARY_PACKED, which is left out for older readers.
pub(super) fn writer_properties(compatibility: Compatibility) -> WriterProperties {
    let mut builder = base_properties()
        .set_statistics_enabled(EnabledStatistics::Page)
        // Also what the crate sizes bloom filters for, before they are folded to what the values need: those
        // of a small file stay small.
        .set_max_row_group_row_count(Some(MAX_ROWS))
        // The crate looks once for so many rows whether a page is full. So this is where pages end, but those of a
        // column whose dictionary is full.
        .set_data_page_row_count_limit(20 * DEFAULT_WRITE_BATCH_SIZE);
    // As parquet-java has it: 32 numbers share a width, not 64.
    if let Ok(blocks) = DeltaBinaryPackedEncoderOptions::try_new(128, 4) {
        builder = builder.set_delta_binary_packed_encoder_options(blocks);
    }
    for schema::Column { name, form, .. } in schema::columns() {
        let path = || ColumnPath::from(name.clone());
        if compatibility == Compatibility::Current && form.is_delta_encoded {
            builder = builder
                .set_column_dictionary_enabled(path(), false)
                .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
        }
        if form.is_looked_up {
            builder = builder.set_column_bloom_filter_enabled(path(), true);
        }
    }
    builder.build()
}

fn base_properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(concat!("flowlog ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        // Level 1 takes the same time and makes larger files.
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_dictionary_enabled(true)
}
