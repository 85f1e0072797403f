//! How many bytes a flow takes in a file, and which columns take them.
//!
//! Prints one line of JSON. The rows are those of `rows`, the files those that the daemon would write.

#![forbid(unsafe_code)]

mod mix;
mod rows;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
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

/// Rows of the files of hosts where little happens.
const FEW_ROWS: [usize; 4] = [1, 10, 100, 1000];

/// Size of rows.
#[derive(Parser)]
struct Arguments {
    /// How many flows
    #[arg(long)]
    count: usize,
    /// As `parquet.compatibility = "old"`
    #[arg(long)]
    old: bool,
    /// Keep the files here
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What was written.
#[derive(Default)]
struct Written {
    rows: u64,
    with_process: u64,
    bytes: u64,
    columns: BTreeMap<String, i64>,
}

fn main() -> Result<()> {
    let Arguments { count, old, output } = Arguments::parse();
    let compatibility = if old { Compatibility::Old } else { Compatibility::Current };
    let temporary = tempfile::tempdir()?;
    let output = output.unwrap_or_else(|| temporary.path().to_owned());
    let Written { rows, with_process, bytes, columns } = write(count, compatibility, &output.join("all"))?;
    let mut few_rows = Vec::new();
    for count in FEW_ROWS {
        let Written { rows, bytes, .. } = write(count, compatibility, &output.join(count.to_string()))?;
        few_rows.push(json!({ "rows": rows, "bytes": bytes }));
    }
    println!(
        "{}",
        json!({
            "rows": rows, "with_process": with_process, "bytes": bytes, "columns": columns, "few_rows": few_rows,
        })
    );
    Ok(())
}

/// Writes so many flows, from the first one on.
fn write(count: usize, compatibility: Compatibility, output: &Path) -> Result<Written> {
    let facts = rows::facts();
    let directory = Arc::new(Directory::open(output)?);
    let mut writer = Writer::new(Arc::clone(&directory), Rotation::default(), compatibility, &facts);
    let mut batch = FlowBatch::new(&facts.run);
    let mut rows = Rows::new()?;
    let mut written = Written::default();
    for number in 1..=count {
        let flow = rows.flow();
        let record = rows.record(&flow);
        let is_known = [record.src, record.dst].into_iter().flatten().any(|known| known.end.is_some());
        written.with_process += u64::from(is_known);
        batch.append(&record);
        if batch.len() == BATCH_ROWS || number == count {
            writer.append(&batch.finish(), Path::new("segment"), SystemTime::now())?;
        }
    }
    writer.rotate_all()?;
    for Published { path, rows, bytes, .. } in writer.take_published() {
        (written.bytes, written.rows) = (written.bytes + bytes, written.rows + rows);
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(output.join(path))?)?;
        for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            *written.columns.entry(column.column_path().string()).or_default() += column.compressed_size();
        }
    }
    Ok(written)
}
