//! How many bytes a flow takes in a file, and which columns take them.
//!
//! Prints one line of JSON. The rows are those of `rows`, the files those that the daemon would write.

#![forbid(unsafe_code)]

mod mix;
mod rows;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use clap::Parser;
use flowlog::log::schema::FlowBatch;
use flowlog::log::writer::{Compatibility, Directory, Published, Rotation, Writer};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use crate::rows::Rows;

/// As the daemon hands them over.
const BATCH_ROWS: usize = 8192;

/// Size of rows.
#[derive(Parser)]
struct Arguments {
    /// How many flows
    #[arg(long)]
    count: usize,
    /// As `parquet.compatibility = "old"`
    #[arg(long)]
    old: bool,
}

fn main() -> Result<()> {
    let Arguments { count, old } = Arguments::parse();
    let compatibility = if old { Compatibility::Old } else { Compatibility::Current };
    let output = tempfile::tempdir()?;
    let facts = rows::facts();
    let directory = Arc::new(Directory::open(output.path())?);
    let mut writer = Writer::new(Arc::clone(&directory), Rotation::default(), compatibility, &facts);
    let mut batch = FlowBatch::new(&facts.run);
    let mut rows = Rows::new()?;
    let mut with_process = 0_u64;
    for number in 1..=count {
        let flow = rows.flow();
        let record = rows.record(&flow);
        let is_known = [record.src, record.dst].into_iter().flatten().any(|known| known.end.is_some());
        with_process += u64::from(is_known);
        batch.append(&record);
        if batch.len() == BATCH_ROWS || number == count {
            writer.append(&batch.finish(), Path::new("segment"), SystemTime::now())?;
        }
    }
    writer.rotate_all()?;
    let mut columns: BTreeMap<String, i64> = BTreeMap::new();
    let (mut bytes, mut file_rows) = (0, 0);
    for Published { path, rows, bytes: file_bytes, .. } in writer.take_published() {
        (bytes, file_rows) = (bytes + file_bytes, file_rows + rows);
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(output.path().join(path))?)?;
        for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            *columns.entry(column.column_path().string()).or_default() += column.compressed_size();
        }
    }
    println!(
        "{}",
        json!({ "rows": file_rows, "with_process": with_process, "bytes": bytes, "columns": columns })
    );
    Ok(())
}
